"""Making a corpus on disk: take by take, in any number of processes, resumable, the same for the same
seed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE, write_audio
from ..band.arrangement import weighted_choice
from ..band.band_leader import random_lead_sheet
from ..band.composer import MAX_LEAD_IN_S, compose
from ..band.expression import expressive
from ..band.performance import Take
from ..band.score import Score
from ..music.lead_sheet import LeadSheet
from ..music.metre import Metre
from ..music.vocabulary import GROOVE_GENRES
from ..runtime.files import whole_or_not_at_all
from .captions import captions, tags
from .instruments import Instrument, InstrumentsError, load_instruments
from .lanes import pitch_of
from .renderer import (
    FONT_TERMS,
    HELD_OUT_FONTS,
    SOUND_FONTS,
    RendererUnavailable,
    find_soundfont,
    shared_renderer,
)
from .songs import compose_song
from .sources import RECORDED, draw_sources, match_levels, render_mixed

MEAN_TAKE_S = 31.0  # of many takes; hours are turned into a number of takes by it
TAKE_RANGE_S = (19.0, 42.0)
SETTINGS = "corpus.json"
METADATA = "metadata.jsonl"
SOURCES = "SOURCES.md"
PITCH_RATE = 75  # of pitch.json, frames a second
# Which genres other metres have, and which metres the grooves.
_METRES = {
    "5/4": "modal 3, cool 3, swing 2, waltz 1",
    "6/8": "modal 3, blues 2, ballad 1",
    "7/4": "modal 3, hard_bop 2, swing 1",
    "2/4": "bossa 3, swing 2, samba 2",
    "12/8": "blues 3, ballad 3, shuffle 1",
    "6/4": "modal 2, ballad 1, cool 1",
    "9/8": "modal 2, blues 1",
    "5/4(2+3)": "modal 1, cool 1",
}
_GROOVES_IN = {"afro": "12/8 5, 6/8 3, 3/4 2", "samba": "4/4 7, 2/4 3"}


@dataclass(frozen=True)
class CorpusSettings:
    """What a corpus is made from. Two corpora of the same settings are the same, take by take.

    Attributes:
        seed: with a take's index the only source of chance.
        soundfont: "both" (alternating by chance), "musescore", "fluid", or "timgm6mb", which is held out: all of
            its takes are the test part.
        stems: also write every instrument alone.
        test_fraction: share of takes held out, chosen by a hash of their index alone.
        minus_one: share of takes in which one or two players of the band are silent (music minus one), and the lead
            sheet says so. Without such takes a flow learns that a band always has its bass, whatever it is asked.
        songs: share of takes whose lead plays a plain song, as somebody's own melody is played (`songs.py`). The
            composer's lines hardly hold a note, and what a flow has not heard it plays unsteadily.
        grooves: share of takes in the genres of `GROOVE_GENRES`. metres: share in other metres than the genre's own.
            The other takes are what they are without.
        expression: tones move (`band.expression`): scoops, falls, bends, slides, late vibrato, dynamics inside a line.
        instruments: recorded instruments beside the fonts: names and fingerprints. Each player of a take then has a
            source of their own.
        recorded_share: chance that a player who has a recorded instrument plays it.
    """

    seed: int = 0
    soundfont: str = "both"
    stems: bool = False
    test_fraction: float = 0.05
    minus_one: float = 0.0
    songs: float = 0.0
    grooves: float = 0.0
    metres: float = 0.0
    expression: bool = False
    instruments: dict[str, str] = field(default_factory=dict)
    recorded_share: float = 0.6

    def __post_init__(self) -> None:
        fonts = ("both", *SOUND_FONTS, *HELD_OUT_FONTS)
        if self.soundfont not in fonts:
            raise ValueError(f"unknown sound font {self.soundfont!r}: choose {', '.join(fonts)}")
        if not 0.0 <= self.test_fraction <= 1.0:
            raise ValueError(f"test fraction {self.test_fraction!r}: choose 0 to 1")
        for name in ("minus_one", "songs", "grooves", "metres"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name.replace('_', ' ')} {getattr(self, name)!r}: choose 0 to 1")
        if self.grooves + self.metres > 1.0:
            raise ValueError(f"grooves {self.grooves:g} and metres {self.metres:g}: choose at most 1 together")
        if not 0.0 <= self.recorded_share <= 1.0:
            raise ValueError(f"recorded share {self.recorded_share!r}: choose 0 to 1")
        if self.soundfont in HELD_OUT_FONTS and self.test_fraction != 1.0:
            raise ValueError(
                f"test fraction {self.test_fraction!r} with the sound font {self.soundfont!r}, which is held out: "
                "choose 1"
            )
        if self.seed < 0:
            raise ValueError(f"seed {self.seed!r}: choose 0 or more")

    @property
    def fonts(self) -> tuple[str, ...]:
        return SOUND_FONTS if self.soundfont == "both" else (self.soundfont,)


def takes_for(hours: float) -> int:
    """How many takes make about `hours` of music."""
    if not 0 < hours < 10_000:
        raise ValueError(f"hours {hours!r}: choose more than 0 and less than 10000")
    return max(1, round(hours * 3600 / MEAN_TAKE_S))


def split_of(index: int, test_fraction: float) -> str:
    """ "train" or "test" of a take: the same for its index whatever the size of the corpus."""
    digest = hashlib.sha256(f"rtjazz take {index}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") / 2**64 < test_fraction else "train"


def draw_lead_sheet(
    rng: np.random.Generator, genre: str | None = None, metre: Metre | None = None
) -> LeadSheet:
    """A random lead sheet of a take's length; see `random_lead_sheet`."""
    low, high = TAKE_RANGE_S
    for _ in range(50):
        sheet = random_lead_sheet(rng, genre, metre)
        if low <= sheet.duration <= high - MAX_LEAD_IN_S:
            return sheet
    return sheet


def take_folder(out: Path, index: int) -> Path:
    return out / "takes" / f"{index:06d}"


def _own_rng(settings: CorpusSettings, index: int) -> np.random.Generator:
    """Chance of what was added to the recipe later: what was drawn before stays as it was."""
    return np.random.default_rng([settings.seed, index, 1])


def draw_groove(settings: CorpusSettings, index: int) -> tuple[str | None, Metre | None]:
    """Genre and metre of take `index`, where it is one of the share of grooves or of other metres."""
    rng = np.random.default_rng([settings.seed, index, 3])
    draw = rng.random()
    if draw < settings.grooves:
        genre = GROOVE_GENRES[int(rng.integers(len(GROOVE_GENRES)))]
        metre = weighted_choice(_GROOVES_IN[genre], rng) if genre in _GROOVES_IN else None
    elif draw < settings.grooves + settings.metres:
        metre = list(_METRES)[int(rng.integers(len(_METRES)))]
        genre = weighted_choice(_METRES[metre], rng)
    else:
        return None, None
    return genre, Metre.parse(metre) if metre else None


def draw_silent_players(sheet: LeadSheet, settings: CorpusSettings, index: int) -> tuple[str, ...]:
    """Who is silent in take `index`: nobody, or one or two of a band of which somebody is left."""
    rng = _own_rng(settings, index)
    band = sorted({name for section in sheet.sections for name in section.instruments})
    if rng.random() >= settings.minus_one or len(band) < 2:
        return ()
    count = 1 if len(band) == 2 or rng.random() < 0.7 else 2
    return tuple(str(name) for name in rng.choice(band, count, replace=False))


def make_take(
    out: Path, index: int, settings: CorpusSettings, instruments: Sequence[Instrument] = ()
) -> float:
    """Compose, render and write take `index` of a corpus; its length in seconds.

    The label is written last and at once: a take with a label is complete, one without is made again.

    Args:
        instruments: those that `settings` names, matched in level.
    """
    rng = np.random.default_rng([settings.seed, index])
    song = np.random.default_rng([settings.seed, index, 2]).random() < settings.songs
    sheet = draw_lead_sheet(rng, *draw_groove(settings, index))
    take = (compose_song if song else compose)(sheet, rng)
    texts = captions(take.lead_sheet, rng)
    silent = draw_silent_players(take.lead_sheet, settings, index)
    full_texts: list[str] = []
    if settings.expression and not song:  # a song is played as somebody's file of notes is
        take = expressive(take, int(np.random.default_rng([settings.seed, index, 4]).integers(2**31)))
    if silent:
        take, full_texts = take.without(*silent), texts
        texts = captions(take.lead_sheet, _own_rng(settings, index))
    font = settings.fonts[int(rng.integers(len(settings.fonts)))]
    if settings.instruments:
        dice = np.random.default_rng([settings.seed, index, 5])
        sources = draw_sources(take, settings.fonts, instruments, settings.recorded_share, dice)
        rendering = render_mixed(take, sources, instruments, rng, stems=settings.stems)
    else:
        sources = dict.fromkeys(take.notes, font)
        rendering = shared_renderer(font).render(take, rng, stems=settings.stems)
    folder = take_folder(out, index)
    folder.mkdir(parents=True, exist_ok=True)
    write_audio(folder / "mix.flac", rendering.mix, overwrite=True)
    for name, stem in rendering.stems.items():
        (folder / "stems").mkdir(exist_ok=True)
        write_audio(folder / "stems" / f"{name}.flac", stem, overwrite=True)
    label = {
        "lead_sheet": take.lead_sheet.to_dict(),
        "caption": texts[0],
        "captions": texts,
        "full_captions": full_texts,
        "tags": tags(take.lead_sheet),
        "seed": [settings.seed, index],
        "soundfont": font if set(sources.values()) <= {font} else "mixed",
        "sources": sources,
        "split": split_of(index, settings.test_fraction),
        "loudness": round(rendering.loudness, 2),
        "low_share": round(rendering.low_share, 4),
        "duration": round(rendering.mix.shape[-1] / SAMPLE_RATE, 6),
        "stems": sorted(rendering.stems),
    }
    _write_json(folder / "score.json", Score.of_take(take).to_dict(), indent=None)
    if take.touches:
        _write_json(folder / "pitch.json", _pitches(take), indent=None)
    _write_json(folder / "label.json", label)
    return label["duration"]


def _pitches(take: Take) -> dict[str, Any]:
    """What moves the tones of each line, vibrato included: cents beside the key of the note that sounds, by frame."""
    cents = {name: np.rint(pitch_of(take, name, PITCH_RATE)).astype(int).tolist() for name in take.touches}
    return {"rate": PITCH_RATE, "cents": {name: row for name, row in cents.items() if any(row)}}


def prepare_corpus(
    out: str | os.PathLike,
    hours: float,
    settings: CorpusSettings,
    workers: int = 1,
    progress: bool = True,
    instruments: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Make what is missing of a corpus of `hours`, then its table `metadata.jsonl`, and `SOURCES.md`: who was played by
    what, and the terms of it; a summary.

    Args:
        instruments: a folder of recorded instruments (`corpus.instruments`), to be used beside the fonts.

    Raises:
        RendererUnavailable: where FluidSynth, a font or pysfizz is missing: before anything is written.
        InstrumentsError: where a recorded instrument cannot be used: before anything is written, too.
        ValueError: where `out` holds a corpus of other settings.
    """
    from tqdm.auto import tqdm

    def say(text: str) -> None:
        if progress:
            print(text, file=sys.stderr)

    out = Path(out)
    count = takes_for(hours)
    for font in settings.fonts:
        find_soundfont(font)
    renderer = shared_renderer(settings.fonts[0])  # the library too, before processes start
    found: tuple[Instrument, ...] = ()
    if instruments is not None:
        found = load_instruments(instruments, say)
        settings = replace(settings, instruments={each.name: each.fingerprint for each in found})
    _check_settings(out, settings)
    found = match_levels(found, renderer)
    todo = [index for index in range(count) if not (take_folder(out, index) / "label.json").exists()]
    spent = 0.0
    with tqdm(total=count, initial=count - len(todo), unit="take", disable=not progress) as bar:
        for seconds in _run(out, todo, settings, workers, found):
            spent += seconds
            bar.update(1)
    summary = write_metadata(out)
    if todo:
        summary["takes_per_core_hour"] = round(len(todo) * 3600 / max(spent, 1e-3))
    table = sources_table(out, found)
    with whole_or_not_at_all(out / SOURCES) as partial:
        partial.write_text(table)
    say(table)
    return summary


def _run(
    out: Path, todo: list[int], settings: CorpusSettings, workers: int, instruments: tuple[Instrument, ...]
) -> Iterator[float]:
    """Make takes; yields the CPU seconds of each."""
    jobs = [(out, index, settings, instruments) for index in todo]
    if workers <= 1:
        yield from map(_job, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap_unordered(_job, jobs, chunksize=1)


def _start_worker() -> None:
    """One thread each, and an interrupt is the parent's to handle."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(work: tuple[Path, int, CorpusSettings, tuple[Instrument, ...]]) -> float:
    before = time.process_time()
    make_take(*work)
    return time.process_time() - before


def _check_settings(out: Path, settings: CorpusSettings) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output '{out}' is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)
    file = out / SETTINGS
    if not file.exists():
        _write_json(file, asdict(settings))
        return
    before = asdict(CorpusSettings()) | json.loads(file.read_text())  # older ones lack what came later
    if before != asdict(settings):
        raise ValueError(
            f"'{out}' holds a corpus of other settings ({before}); asked: {asdict(settings)}. "
            "Use the same settings to resume it, or another folder."
        )


def write_metadata(out: str | os.PathLike) -> dict[str, Any]:
    """Write `metadata.jsonl` (one row a take, for `datasets`) from the labels; a summary of the corpus."""
    out = Path(out)
    rows, seconds = [], 0.0
    for file in sorted((out / "takes").glob("*/label.json")):
        label = json.loads(file.read_text())
        seconds += label["duration"]
        rows.append(
            {
                "file_name": f"takes/{file.parent.name}/mix.flac",
                "caption": label["caption"],
                "captions": label["captions"],
                "split": label["split"],
                "soundfont": label["soundfont"],
                "sources": json.dumps(label.get("sources", {})),
                "duration": label["duration"],
                **label["tags"],
                "lead_sheet": json.dumps(label["lead_sheet"]),
            }
        )
    with whole_or_not_at_all(out / METADATA) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tests = sum(row["split"] == "test" for row in rows)
    return {"takes": len(rows), "hours": seconds / 3600, "train": len(rows) - tests, "test": tests}


def sources_table(out: str | os.PathLike, instruments: Sequence[Instrument] = ()) -> str:
    """Markdown: each source with its terms and its share of the players' takes, and the sources of each player."""
    by_player: dict[str, Counter] = {}
    for file in sorted((Path(out) / "takes").glob("*/label.json")):
        label = json.loads(file.read_text())
        known = label.get("sources") or dict.fromkeys(label["tags"]["instruments"], label["soundfont"])
        for player, source in known.items():
            by_player.setdefault(player, Counter())[source] += 1
    total = sum(by_player.values(), Counter())
    terms = {name: ("sound font", *row) for name, row in FONT_TERMS.items()}
    terms |= {RECORDED + each.name: (each.what or each.name, each.source, each.terms) for each in instruments}
    lines = ["# Sources", "", "| source | what | from | terms | share |", "|---|---|---|---|---|"]
    for source, number in total.most_common():
        row = " | ".join(terms.get(source, ("?", "?", "not told")))
        lines.append(f"| {source} | {row} | {number / total.total():.3f} |")
    lines += ["", "| player | takes | shares |", "|---|---|---|"]
    for player, counts in sorted(by_player.items()):
        shares = ", ".join(f"{source} {number / counts.total():.2f}" for source, number in counts.most_common())
        lines.append(f"| {player} | {counts.total()} | {shares} |")
    return "\n".join(lines) + "\n"


def clear_partial(out: str | os.PathLike) -> int:
    """Remove the folders of takes that have no label, as an interrupt leaves them; how many."""
    broken = [path for path in (Path(out) / "takes").glob("*") if not (path / "label.json").exists()]
    for path in broken:
        shutil.rmtree(path)
    return len(broken)


def _write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    with whole_or_not_at_all(path) as partial:
        partial.write_text(json.dumps(value, indent=indent))


__all__ = [
    "CorpusSettings",
    "InstrumentsError",
    "RendererUnavailable",
    "clear_partial",
    "draw_groove",
    "draw_lead_sheet",
    "make_take",
    "prepare_corpus",
    "sources_table",
    "split_of",
    "takes_for",
    "write_metadata",
]
