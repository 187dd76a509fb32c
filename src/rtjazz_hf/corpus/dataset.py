"""Reading a corpus back: as records with lead sheets, or as a `datasets` dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE, read_audio
from ..band.score import Score
from ..music.lead_sheet import LeadSheet


@dataclass(frozen=True)
class TakeRecord:
    """One take on disk.

    Attributes:
        path: its mix. lead_sheet: its exact label; t = 0 of the file is its `beat_offset`.
        caption, captions: phrases for it. tags: genre, mood, key, tempo, instruments, ...
        full_captions: where players of the band are silent (music minus one), phrases for the whole band; else none.
        soundfont: which font rendered it, or "mixed". split: "train" or "test". duration: seconds.
        sources: what played each player: a font, or "recorded/" and an instrument's name; none in older corpora.
    """

    path: Path
    lead_sheet: LeadSheet
    caption: str
    captions: tuple[str, ...]
    tags: dict[str, Any]
    soundfont: str
    split: str = "train"
    duration: float = 0.0
    full_captions: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def score(self) -> Score | None:
        """What its players play, where the corpus has it; takes rendered before scores were kept have none.

        Raises:
            ValueError: the file is damaged; it is named.
        """
        file = self.path.with_name("score.json")
        if not file.is_file():
            return None
        try:
            return Score.from_dict(json.loads(file.read_text()))
        except ValueError as error:
            raise ValueError(
                f"the score '{file}' cannot be read ({error}); delete its folder and prepare again"
            ) from error

    @property
    def pitch(self) -> tuple[float, dict[str, np.ndarray]]:
        """Frames a second, and for each player whose tones move the cents `(frames,)`, float32, by which the sounding
        note of the line stands beside its key: what the render was told, vibrato included. What a recorded instrument
        does of itself comes on top. Without movement, or in older corpora: no players.

        Raises:
            ValueError: the file is damaged; it is named.
        """
        file = self.path.with_name("pitch.json")
        if not file.is_file():
            return 75.0, {}
        try:
            told = json.loads(file.read_text())
            rows = {name: np.array(row, dtype=np.float32) for name, row in told["cents"].items()}
            return float(told["rate"]), rows
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"'{file}' cannot be read ({error}); delete its folder and prepare again"
            ) from error

    @property
    def stems(self) -> dict[str, Path]:
        """The files of single instruments, where the corpus was made with stems."""
        return {path.stem: path for path in sorted((self.path.parent / "stems").glob("*.flac"))}

    def audio(self, start: float = 0.0, duration: float | None = None) -> np.ndarray:
        """The mix, or a part of it in seconds: float32 `(2, samples)` at 48 kHz."""
        return read_audio(self.path, start, duration)


def load_takes(folder: str | os.PathLike, split: str | None = None) -> list[TakeRecord]:
    """The takes of a corpus made by `training/prepare_corpus.py`, in order; incomplete ones are passed over.

    Args:
        split: "train", "test", or None for both.

    Raises:
        FileNotFoundError: where `folder` holds no takes.
        ValueError: for an unknown split, or a label that cannot be read, by name.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"unknown split {split!r}: choose train, test or None")
    folder = Path(folder)
    labels = sorted((folder / "takes").glob("*/label.json"))
    if not labels:
        raise FileNotFoundError(
            f"'{folder}' holds no takes; make some: "
            f"python training/prepare_corpus.py --hours 1 --out {folder}"
        )
    records = []
    for file in labels:
        try:
            label = json.loads(file.read_text())
            if split is not None and label["split"] != split:
                continue
            records.append(
                TakeRecord(
                    path=file.with_name("mix.flac"),
                    lead_sheet=LeadSheet.from_dict(label["lead_sheet"]),
                    caption=label["caption"],
                    captions=tuple(label["captions"]),
                    tags=label["tags"],
                    soundfont=label["soundfont"],
                    split=label["split"],
                    duration=label.get("duration", 0.0),
                    full_captions=tuple(label.get("full_captions", ())),
                    sources=label.get("sources", {}),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the label '{file}' cannot be read ({error}); delete its folder and prepare again"
            ) from error
    return records


def as_dataset(folder: str | os.PathLike, split: str | None = None, decode: bool = False) -> Any:
    """The corpus as a `datasets.Dataset` with an `audio` column.

    Columns: audio, caption, captions, split, soundfont, sources (JSON), duration, genre, mood, key, tempo,
    beats_per_bar, swing, instruments, leads, roles, lead_sheet (JSON; `LeadSheet.from_dict(json.loads(...))`).

    Args:
        split: "train", "test", or None for both.
        decode: rows hold `{"path", "array" (2, samples) float32, "sampling_rate"}`, read by `rtjazz_hf.audio` when they
            are asked for: datasets' own decoder wants torchcodec, which not every torch has. Else they hold paths.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("datasets is not installed; run: pip install 'rtjazz-hf[corpus]'") from error
    folder = Path(folder)
    table = folder / "metadata.jsonl"
    if not table.is_file():
        raise FileNotFoundError(
            f"'{folder}' has no metadata.jsonl; run training/prepare_corpus.py on it to its end"
        )
    rows = [json.loads(line) for line in table.read_text().splitlines() if line]
    rows = [row for row in rows if split is None or row["split"] == split]
    for row in rows:
        row["audio"] = str(folder / row.pop("file_name"))
    data = datasets.Dataset.from_list(rows)
    return data.with_transform(_decoded) if decode else data


def _decoded(rows: dict[str, list]) -> dict[str, list]:
    if "audio" not in rows:
        return rows
    sounds = [{"path": path, "array": read_audio(path), "sampling_rate": SAMPLE_RATE} for path in rows["audio"]]
    return {**rows, "audio": sounds}
