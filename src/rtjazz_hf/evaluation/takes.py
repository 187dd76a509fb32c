"""Held-out takes: read from a corpus, or composed and rendered here from seeds no corpus uses."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE, audio_info, read_audio
from rtjazz_hf.band.score import Score
from rtjazz_hf.music import GENRES, GROOVE_GENRES, LeadSheet, Section
from rtjazz_hf.music.metre import Metre
from rtjazz_hf.music.vocabulary import KITS

TEMPO_RANGE = (70.0, 220.0)  # of the charts that are judged
_HELD_OUT = 0x4A415A5A  # keeps these seeds apart from those of training corpora


@dataclass(frozen=True)
class HeldOutTake:
    """A composed performance that no model was trained on.

    Attributes:
        name: a short name for files and tables. lead_sheet: t = 0 is the start of the audio.
        caption: words for it. seconds: length. path: the file, or None where `samples` holds the audio.
        stems: each instrument alone, where they were rendered; their sum is the mix.
        score: what was played, where that is known.
    """

    name: str
    lead_sheet: LeadSheet
    caption: str
    seconds: float
    path: Path | None = None
    samples: np.ndarray | None = None
    stems: dict[str, np.ndarray] | None = None
    score: Score | None = None

    def audio(self, duration: float | None = None) -> np.ndarray:
        """The first `duration` seconds (all by default) as float32 `(2, samples)` at 48 kHz."""
        if self.samples is None:
            return read_audio(self.path, duration=None if duration is None else min(duration, self.seconds))
        return self.samples if duration is None else self.samples[:, : round(duration * SAMPLE_RATE)]


def from_record(record: Any) -> HeldOutTake:
    """A take of `corpus.dataset.load_takes`; raises as `read_audio` does for what the header of its file shows."""
    path = Path(record.path)
    path = path / "mix.flac" if path.is_dir() else path
    name = path.parent.name if path.stem == "mix" else path.stem
    score = getattr(record, "score", None)
    return HeldOutTake(name, record.lead_sheet, record.caption, audio_info(path).duration, path=path, score=score)


def records_of_test(folder: str | os.PathLike) -> list[Any]:
    """The takes of a corpus folder's test split; ValueError where it has none."""
    from rtjazz_hf.corpus.dataset import load_takes

    if records := load_takes(folder, split="test"):
        return records
    raise ValueError(
        f"'{folder}' has no takes of split 'test'; write some with training/prepare_corpus.py, or "
        "leave takes out to compose new ones."
    )


def load_held_out(
    takes: str | os.PathLike | Iterable[Any] | None, num: int, seed: int = 0
) -> list[HeldOutTake]:
    """Takes to judge by: the test split of a corpus folder, records of one, `HeldOutTake`s, or (None) new
    ones.

    Raises:
        ValueError: if the folder or the list holds no held-out take.
    """
    if takes is None:
        return held_out_takes(num, seed)
    if isinstance(takes, (str, os.PathLike)):
        takes = records_of_test(takes)
    found = [take if isinstance(take, HeldOutTake) else from_record(take) for take in takes]
    if not found:
        raise ValueError("takes is empty; give at least one held-out take, or None to compose new ones.")
    return found


def held_out_takes(
    num: int = 20, seed: int = 0, min_seconds: float = 30.0, stems: bool = False
) -> list[HeldOutTake]:
    """Compose and render `num` takes with fixed seeds, tempi from 70 to 220: every genre in turn but those that are
    a groove, so that figures stay comparable; these are held out with a corpus.

    With `stems`, each instrument alone too, which takes several times longer.

    Needs FluidSynth and a sound font; the renderer's error says how to install them.
    """
    from rtjazz_hf.band.band_leader import random_lead_sheet

    fonts, songs = sound_fonts(), GENRES[: -len(GROOVE_GENRES)]
    takes: list[HeldOutTake] = []
    attempt = 0
    while len(takes) < num:
        if attempt > 50 * num:
            raise RuntimeError(
                f"no {num} takes of {min_seconds} s between {TEMPO_RANGE} beats a minute were composed."
            )
        rng = np.random.default_rng([_HELD_OUT, seed, attempt])
        attempt += 1
        sheet = random_lead_sheet(rng, genre=songs[len(takes) % len(songs)])
        if not TEMPO_RANGE[0] <= sheet.tempo <= TEMPO_RANGE[1]:
            continue
        name, font = f"composed-{len(takes):02d}", fonts[len(takes) % len(fonts)]
        take = _rendered(name, sheet, rng, min_seconds, font, stems)
        if take is not None:
            takes.append(take)
    return takes


def composed_take(
    name: str, seed: Sequence[int], min_seconds: float, genre: str, metre: Metre | None = None
) -> HeldOutTake:
    """Compose and render a take of a genre, with a tempo from 70 to 220 where the genre has such.

    Args:
        metre: the genre's own by default.

    Needs FluidSynth and a sound font; the renderer's error says how to install them.
    """
    from rtjazz_hf.band.band_leader import random_lead_sheet

    fonts = sound_fonts()
    for attempt in range(200):
        rng = np.random.default_rng([_HELD_OUT, *seed, attempt])
        sheet = random_lead_sheet(rng, genre, metre)
        if attempt < 50 and not TEMPO_RANGE[0] <= sheet.tempo <= TEMPO_RANGE[1]:
            continue
        take = _rendered(name, sheet, rng, min_seconds, fonts[seed[-1] % len(fonts)])
        if take is not None:
            return take
    raise RuntimeError(f"no take of {genre} of {min_seconds} s was composed.")


def _rendered(
    name: str, sheet: LeadSheet, rng: np.random.Generator, min_seconds: float, font: str, stems: bool = False
) -> HeldOutTake | None:
    """A take of a sheet; None where it is shorter than `min_seconds`."""
    from rtjazz_hf.band.composer import compose
    from rtjazz_hf.corpus.captions import caption
    from rtjazz_hf.corpus.renderer import render

    take = compose(sheet, rng)
    if take.duration_s < min_seconds:
        return None
    rendering = render(take, font, rng, stems=stems)
    words, seconds = caption(take.lead_sheet, rng), rendering.mix.shape[1] / SAMPLE_RATE
    parts, score = rendering.stems if stems else None, Score.of_take(take)
    return HeldOutTake(name, take.lead_sheet, words, seconds, samples=rendering.mix, stems=parts, score=score)


def sound_fonts() -> list[str]:
    """Those of the renderer that are installed; `RendererUnavailable` where there is none."""
    from rtjazz_hf.corpus.renderer import SOUND_FONTS, RendererUnavailable, find_soundfont

    fonts = []
    for name in SOUND_FONTS:
        try:
            find_soundfont(name)
            fonts.append(name)
        except RendererUnavailable:
            if name == SOUND_FONTS[-1] and not fonts:
                raise
    return fonts


def composed_performance(
    lead_sheet: LeadSheet, seconds: float, seed: int = 0
) -> tuple[LeadSheet, np.ndarray]:
    """The composer's own rendering of a sheet, going round and round for `seconds`: `(2, samples)`, and the sheet it
    was played from (not looping; its t = 0 is that of the sound).

    Needs FluidSynth and a sound font; the renderer's error says how to install them.
    """
    from rtjazz_hf.band.composer import compose
    from rtjazz_hf.corpus.renderer import render

    font = sound_fonts()[0]
    rounds = math.ceil((seconds + 1.0) / lead_sheet.duration)
    sections = tuple(
        dataclasses.replace(section, start_beat=section.start_beat + turn * lead_sheet.num_beats)
        for turn in range(rounds)
        for section in lead_sheet.sections
    )
    if len(lead_sheet.sections) == 1:  # one long section: no joint is played where none is heard
        sections = (dataclasses.replace(sections[0], beats=rounds * lead_sheet.num_beats),)
    unrolled = dataclasses.replace(
        lead_sheet, spans=lead_sheet.spans * rounds, sections=sections, loops=False, beat_offset=0.0,
        metres=lead_sheet.metres * rounds,
    )
    rng = np.random.default_rng([_HELD_OUT, seed])
    take = compose(unrolled, rng)
    mix = render(take, font, rng, stems=False).mix
    return take.lead_sheet, mix[:, : round(seconds * SAMPLE_RATE)]


def render_score(score: Score, lead_sheet: LeadSheet, seconds: float, seed: int = 0) -> np.ndarray:
    """The composer's own instruments playing a score: `(2, samples)`.

    Needs FluidSynth and a sound font; the renderer's error says how to install them.
    """
    from rtjazz_hf.corpus.renderer import render

    take = score.to_take(lead_sheet, seconds)
    return render(take, sound_fonts()[0], np.random.default_rng([_HELD_OUT, seed]), stems=False).mix


def played_anew(lead_sheet: LeadSheet, seconds: float, seed: int) -> np.ndarray:
    """A chart as the corpus would have it again: other notes by the band, other sounds: `(2, samples)`.

    Needs FluidSynth and a sound font; the renderer's error says how to install them.
    """
    from rtjazz_hf.band.ensemble import Band
    from rtjazz_hf.corpus.renderer import render

    rng = np.random.default_rng([_HELD_OUT, seed])
    fonts = sound_fonts()
    score = Band(lead_sheet, seed).write(lead_sheet.beat_at(seconds))
    font = fonts[int(rng.integers(len(fonts)))]
    return render(score.to_take(lead_sheet, seconds), font, rng, stems=False).mix


def choose_takes(takes: Sequence[HeldOutTake], num: int, seconds: float) -> list[HeldOutTake]:
    """Up to `num` takes that differ: genres in turn, long enough and of 70 to 220 beats a minute where there
    are such."""

    def unfit(take: HeldOutTake) -> bool:
        return take.seconds < seconds or not TEMPO_RANGE[0] <= take.lead_sheet.tempo <= TEMPO_RANGE[1]

    ordered = sorted(takes, key=unfit)  # stable: the corpus's own order otherwise
    by_genre: dict[str, list[HeldOutTake]] = {}
    for take in ordered:
        by_genre.setdefault(take.lead_sheet.genre, []).append(take)
    chosen: list[HeldOutTake] = []
    rank = 0
    while len(chosen) < min(num, len(takes)):
        level = [group[rank] for group in by_genre.values() if rank < len(group)]
        chosen += sorted(level, key=unfit)
        rank += 1
    return chosen[:num]


def looping(lead_sheet: LeadSheet) -> LeadSheet:
    """The sheet, starting again after its end, so that a clip may be longer than the take it comes from."""
    return dataclasses.replace(lead_sheet, loops=True)


def steady(lead_sheet: LeadSheet) -> LeadSheet:
    """The same chords and tempo from the first beat on, endless, with the fullest section's band and lead
    throughout.

    What changes between two stretches of such a performance is drift and not arrangement.
    """
    fullest = max(
        lead_sheet.sections,
        key=lambda section: (section.lead not in KITS, len(section.instruments), section.role == "solo"),
    )
    section = Section("solo", 0.0, lead_sheet.num_beats, fullest.instruments, fullest.lead)
    return dataclasses.replace(lead_sheet, sections=(section,), loops=True, beat_offset=0.0)
