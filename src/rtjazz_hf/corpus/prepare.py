"""Making a corpus on disk: take by take, in any number of processes, resumable, the same for the same
seed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE, write_audio
from ..band.arrangement import weighted_choice
from ..band.band_leader import random_lead_sheet
from ..band.composer import MAX_LEAD_IN_S, compose
from ..band.score import Score
from ..music.lead_sheet import LeadSheet
from ..music.metre import Metre
from ..music.vocabulary import GROOVE_GENRES
from ..runtime.files import whole_or_not_at_all
from .captions import captions, tags
from .renderer import HELD_OUT_FONTS, SOUND_FONTS, RendererUnavailable, find_soundfont, shared_renderer
from .songs import compose_song

MEAN_TAKE_S = 31.0  # of many takes; hours are turned into a number of takes by it
TAKE_RANGE_S = (19.0, 42.0)
SETTINGS = "corpus.json"
METADATA = "metadata.jsonl"
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
    """

    seed: int = 0
    soundfont: str = "both"
    stems: bool = False
    test_fraction: float = 0.05
    minus_one: float = 0.0
    songs: float = 0.0
    grooves: float = 0.0
    metres: float = 0.0

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


def make_take(out: Path, index: int, settings: CorpusSettings) -> float:
    """Compose, render and write take `index` of a corpus; its length in seconds.

    The label is written last and at once: a take with a label is complete, one without is made again.
    """
    rng = np.random.default_rng([settings.seed, index])
    song = np.random.default_rng([settings.seed, index, 2]).random() < settings.songs
    sheet = draw_lead_sheet(rng, *draw_groove(settings, index))
    take = (compose_song if song else compose)(sheet, rng)
    texts = captions(take.lead_sheet, rng)
    silent = draw_silent_players(take.lead_sheet, settings, index)
    full_texts: list[str] = []
    if silent:
        take, full_texts = take.without(*silent), texts
        texts = captions(take.lead_sheet, _own_rng(settings, index))
    font = settings.fonts[int(rng.integers(len(settings.fonts)))]
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
        "soundfont": font,
        "split": split_of(index, settings.test_fraction),
        "loudness": round(rendering.loudness, 2),
        "low_share": round(rendering.low_share, 4),
        "duration": round(rendering.mix.shape[-1] / SAMPLE_RATE, 6),
        "stems": sorted(rendering.stems),
    }
    _write_json(folder / "score.json", Score.of_take(take).to_dict(), indent=None)
    _write_json(folder / "label.json", label)
    return label["duration"]


def prepare_corpus(
    out: str | os.PathLike, hours: float, settings: CorpusSettings, workers: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Make what is missing of a corpus of `hours`, then its table `metadata.jsonl`; a summary.

    Raises:
        RendererUnavailable: where FluidSynth or a font is missing: before anything is written.
        ValueError: where `out` holds a corpus of other settings.
    """
    from tqdm.auto import tqdm

    out = Path(out)
    count = takes_for(hours)
    for font in settings.fonts:
        find_soundfont(font)
    shared_renderer(settings.fonts[0])  # the library too, before processes start
    _check_settings(out, settings)
    todo = [index for index in range(count) if not (take_folder(out, index) / "label.json").exists()]
    with tqdm(total=count, initial=count - len(todo), unit="take", disable=not progress) as bar:
        for _ in _run(out, todo, settings, workers):
            bar.update(1)
    return write_metadata(out)


def _run(out: Path, todo: list[int], settings: CorpusSettings, workers: int) -> Iterator[float]:
    if workers <= 1:
        for index in todo:
            yield make_take(out, index, settings)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap_unordered(_job, [(out, index, settings) for index in todo], chunksize=1)


def _start_worker() -> None:
    """One thread each, and an interrupt is the parent's to handle."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(work: tuple[Path, int, CorpusSettings]) -> float:
    return make_take(*work)


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
                "duration": label["duration"],
                **label["tags"],
                "lead_sheet": json.dumps(label["lead_sheet"]),
            }
        )
    with whole_or_not_at_all(out / METADATA) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tests = sum(row["split"] == "test" for row in rows)
    return {"takes": len(rows), "hours": seconds / 3600, "train": len(rows) - tests, "test": tests}


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
    "RendererUnavailable",
    "clear_partial",
    "draw_groove",
    "draw_lead_sheet",
    "make_take",
    "prepare_corpus",
    "split_of",
    "takes_for",
    "write_metadata",
]
