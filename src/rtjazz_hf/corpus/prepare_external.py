"""Music from elsewhere made into latents: read, screened, analysed, encoded, in any number of processes.

Rows of `external.load_external` are dealt into parts of `recordings_per_shard`, in their order; a part becomes a shard
(`latent_store.write_shard`). Workers make parts; the parent then takes them in order and leaves out copies of what came
before, so which of two copies stays does not depend on who was first. A shard that is there is not made again. What
it holds depends on its rows and the settings alone: one process or many, killed and started again, the bytes are the
same (on one kind of machine: another processor rounds otherwise).

OUT/index.json                  what the shards were made with
OUT/shards/shard-00000.*        see `latent_store`; its label also says what became of every recording
OUT/real.jsonl                  the recordings used, with author, title and licence, for `train_codec.py --real OUT`
OUT/skipped.jsonl, report.json  the recordings left out, each with its reason, and how many of what
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..audio import SAMPLE_RATE
from ..music.key_finding import estimate_key
from ..music.vocabulary import GENRES, canonical_instruments
from ..runtime.files import is_disk_full, whole_or_not_at_all
from .engines import run_parts
from .external import Selection
from .latent_store import SHARDS, claim, read_shard, shard_tensors, write_shard
from .personal import TakeLabel, make_pieces
from .real_music import TABLE
from .screening import (
    KnownRecordings,
    Unusable,
    best_fingerprint,
    pack_prints,
    screen,
    unpack_prints,
)

PARTS = ".parts"  # shards whose copies are not left out yet
SKIPPED, REPORT = "skipped.jsonl", "report.json"
BAND = ("piano", "bass", "drums")  # who plays, where the words do not say


@dataclass(frozen=True)
class AudioSettings:
    """What shards are made with, beside their rows.

    Attributes:
        codec, style_encoder: folders, bundled names or Hub ids. codes: residual codes too.
        instruments: of the lead sheet where a row's words name none.
        recordings_per_shard: how many recordings are done, or lost by a kill, together.
        fingerprint: how copies are told ("chromaprint", "spectral"); None: the best that is installed.
        device: of codec and style encoder.
    """

    codec: str
    style_encoder: str
    codes: bool = False
    instruments: tuple[str, ...] = BAND
    recordings_per_shard: int = 64
    fingerprint: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.recordings_per_shard < 1:
            raise ValueError(f"recordings_per_shard {self.recordings_per_shard!r}: choose 1 or more")
        object.__setattr__(self, "instruments", tuple(canonical_instruments(self.instruments)))
        if self.fingerprint is None:
            object.__setattr__(self, "fingerprint", best_fingerprint())


@dataclass
class Speed:
    """What the parts made in this call took. cpu_seconds: of all workers; bytes: of the files read."""

    recordings: int = 0
    audio_seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: int = 0

    def add(self, part: Mapping[str, Any]) -> None:
        for name in ("recordings", "audio_seconds", "cpu_seconds", "bytes"):
            setattr(self, name, getattr(self, name) + part[name])

    def core_hours(self, size: float) -> float:
        """Of files of `size` bytes like those that were read."""
        return size / self.bytes * self.cpu_seconds / 3600

    def to_text(self, price: float) -> str:
        """Throughput of a core, and what 10 TB would take at `price` for an hour of one."""
        if not self.bytes or not self.cpu_seconds:
            return "nothing was made anew"
        hours = self.core_hours(10e12)
        return (
            f"a core does {self.audio_seconds / self.cpu_seconds:.1f} s of sound and "
            f"{self.bytes / self.cpu_seconds / 1e6:.3f} MB of files a second; 10 TB of such files take {hours:,.0f} "
            f"core-hours, {hours * price:,.0f} at {price:g} for one"
        )


def prepare_external(
    rows: Iterable[Mapping[str, Any]],
    out: str | os.PathLike,
    settings: AudioSettings,
    selection: Selection | None = None,
    engine: str = "local",
    workers: int = 1,
    progress: bool = True,
) -> tuple[dict[str, Any], Speed]:
    """Make what is missing of the shards of `rows` in `out`, then its tables; the report, and how fast it went.

    Args:
        rows: of `external.features()`, in an order that is the same each time.
        engine: "local" (processes of this machine) or "ray" (Ray Data; `out` must be a folder that all of a cluster's
            machines share, as the files of `rows` must).

    Raises:
        ValueError: `out` was made with other settings or rows. OSError: the disk is full; the same call goes on.
    """
    from tqdm.auto import tqdm

    out, selection = Path(out), selection or Selection()
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output '{out}' is a file; give a folder")
    maker = PartMaker(out, settings)
    claim(out / "index.json", "latents", **maker.index(), selection=asdict(selection))
    for folder in (SHARDS, PARTS):
        (out / folder).mkdir(exist_ok=True)
        for left in (out / folder).glob(".*.partial.*"):  # of a call that was killed while it wrote
            left.unlink()
    unwanted: Counter[str] = Counter()
    seen: dict[int, list[str]] = {}
    known, speed, made = KnownRecordings(), Speed(), set()
    following = 0  # the part whose turn it is

    def todo() -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
        for number, part in enumerate(_parts(rows, selection, settings.recordings_per_shard, unwanted)):
            seen[number] = [row["id"] for row in part]
            if _is_there(out / SHARDS, number, seen[number]) or _is_there(out / PARTS, number, seen[number]):
                made.add(number)
            else:
                yield number, part

    with tqdm(unit="recording", disable=not progress, desc="preparing") as bar:
        for result in itertools.chain(run_parts(engine, maker, todo(), workers), [None]):
            if result is not None:
                made.add(result["part"])
                speed.add(result)
                bar.update(result["recordings"])
            while following in made:
                _finish_part(out, following, known)
                following += 1
    surplus = sorted((out / SHARDS).glob("shard-*.json"))[len(seen) :]
    if surplus:
        raise ValueError(
            f"'{surplus[0]}' is of rows that are not there any more: the source or the selection has changed; give "
            "another folder."
        )
    return _write_tables(out, unwanted), speed


@dataclass
class PartMaker:
    """Makes parts, in whichever process it finds itself: codec and style encoder are loaded there, once."""

    out: Path
    settings: AudioSettings
    _models: tuple | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "settings": self.settings,
            "_models": None,
        }  # models are loaded where they work

    def index(self) -> dict[str, Any]:
        """What shards depend on beside their rows."""
        from .latent_store import encoder_fingerprint, fingerprint

        codec, style_encoder, _ = self.models()
        kept = asdict(self.settings)
        for name in ("codec", "style_encoder", "device"):
            del kept[name]
        return {"encoder": encoder_fingerprint(codec), "style": fingerprint(style_encoder), **kept}

    def models(self) -> tuple:
        if self._models is None:
            # Here: what reads a table only needs neither.
            from ..hub import load_codec, load_style_encoder

            style_encoder, tokenizer = load_style_encoder(self.settings.style_encoder)
            device = self.settings.device
            self._models = (
                load_codec(self.settings.codec).to(device).eval(), style_encoder.to(device).eval(), tokenizer
            )  # fmt: skip
        return self._models

    def __call__(self, part: tuple[int, list[Mapping[str, Any]]]) -> dict[str, Any]:
        """Write a part; its number and what it took.

        Raises OSError where the disk is full.
        """
        import torch

        number, rows = part
        started, threads = time.process_time(), torch.get_num_threads()
        takes, recordings, seconds, size = [], [], 0.0, 0
        torch.set_num_threads(1)  # sums of several threads round otherwise than those of one
        try:
            for row in rows:
                told, pieces, read = self._recording(row)
                recordings.append(told)
                takes += pieces
                seconds += told.get("duration", 0.0)
                size += read
        finally:
            torch.set_num_threads(threads)
        write_shard(_path(self.out / PARTS, number), takes, {"recordings": recordings})
        return {
            "part": number, "recordings": len(rows), "audio_seconds": seconds, "bytes": size,
            "cpu_seconds": time.process_time() - started,
        }  # fmt: skip

    def _recording(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list, int]:
        """What became of a row, its pieces as (label, tensors), and how many bytes its file has."""
        told = {
            name: row[name]
            for name in ("id", "source", "artist", "title", "split", "licence", "licence_text")
        }
        told["file"] = row["audio"]["path"]
        try:
            size = len(row["audio"]["bytes"] or b"") or Path(told["file"] or "").stat().st_size
        except OSError:
            size = 0
        try:
            screened = screen(row, self.settings.fingerprint)
            told |= {
                "duration": round(screened.seconds, 6), "loudness": screened.loudness,
                "cut": screened.cut, "mono": screened.mono,
                "content": screened.content, "prints": pack_prints(screened.prints),
            }  # fmt: skip
            return told, self._encode(row, screened.audio), size
        except Unusable as error:
            return {**told, "skipped": error.kind, "why": str(error)}, [], size
        except (
            Exception
        ) as error:  # one file of ten million that makes a library stumble does not end the run
            if is_disk_full(error) or isinstance(error, (ImportError, MemoryError)):
                raise
            return {**told, "skipped": "failed", "why": f"{type(error).__name__}: {error}"}, [], size

    def _encode(self, row: Mapping[str, Any], audio: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        import torch

        from .latent_filling import embed_audio, encode_audio

        codec, style_encoder, tokenizer = self.models()
        genre = row["style"] if row["style"] in GENRES else "swing"
        label = TakeLabel(row["tempo"], row["key"])
        band = tuple(row["instruments"]) or self.settings.instruments
        try:
            cut = make_pieces(audio, band, genre, row["mood"] or "relaxed", label)
        except ValueError as error:
            raise Unusable("no beat or pitch", str(error)) from error
        captions = list(row["captions"]) or [genre]
        pieces = []
        for number, (part, sheet) in enumerate(cut):
            sound = torch.from_numpy(part)
            tensors = encode_audio(codec, sound, self.settings.codes)
            tensors |= embed_audio(style_encoder, tokenizer, captions, sound)
            pieces.append(
                (
                    {
                        "name": f"{row['id']}-{number:03d}", "recording": row["id"], "lead_sheet": sheet.to_dict(),
                        "caption": captions[0], "captions": captions, "split": row["split"],
                        "num_frames": len(tensors["latents"]), "genres": list(row["genres"]),
                        "tags": {"tempo": sheet.tempo, "key": estimate_key(sheet.spans), "genre": genre,
                                 "mood": row["mood"], "instruments": list(band)},
                    },
                    tensors,
                )
            )  # fmt: skip
        return pieces


def _parts(
    rows: Iterable[Mapping[str, Any]], selection: Selection, size: int, unwanted: Counter[str]
) -> Iterator[list[Mapping[str, Any]]]:
    part: list[Mapping[str, Any]] = []
    for row in rows:
        if (reason := selection.why_not(row)) is not None:
            unwanted[reason] += 1
            continue
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"


def _is_there(folder: Path, number: int, names: list[str]) -> bool:
    """Whether a part is complete. Raises ValueError where it is of other rows, or damaged."""
    path = _path(folder, number)
    if not path.exists():
        return False
    found = [recording["id"] for recording in read_shard(path)["recordings"]]
    if found != names:
        raise ValueError(
            f"'{path}' is of other rows ({found[0]}, ..., now {names[0]}, ...): the source or the selection has "
            "changed; give another folder."
        )
    return True


def _finish_part(out: Path, number: int, known: KnownRecordings) -> None:
    """Leave out of a part what is a copy, and make it a shard; remember what it has."""
    shard, part = _path(out / SHARDS, number), _path(out / PARTS, number)
    if shard.exists():
        for told in read_shard(shard)["recordings"]:
            if "skipped" not in told:
                known.add(told["id"], told["content"], unpack_prints(told["prints"]))
    else:
        content = read_shard(part)
        recordings = [_without_copy(told, known) for told in content["recordings"]]
        used = {told["id"] for told in recordings if "skipped" not in told}
        takes = [
            (label, shard_tensors(part, label["name"]))
            for label in content["takes"]
            if label["recording"] in used
        ]
        write_shard(shard, takes, {"recordings": recordings})
    for suffix in (".json", ".safetensors"):
        part.with_suffix(suffix).unlink(missing_ok=True)


def _without_copy(told: dict[str, Any], known: KnownRecordings) -> dict[str, Any]:
    if "skipped" in told:
        return told
    prints = unpack_prints(told["prints"])
    if (copy := known.copy_of(told["content"], prints)) is None:
        known.add(told["id"], told["content"], prints)
        return told
    kind, other = copy
    return {
        **told,
        "skipped": kind,
        "why": f"the same {'samples' if kind == 'duplicate' else 'recording'} as {other}",
    }


def _write_tables(out: Path, unwanted: Counter[str]) -> dict[str, Any]:
    used, skipped, frames = [], [], Counter()
    for path in sorted((out / SHARDS).glob("shard-*.json")):
        content = read_shard(path)
        for told in content["recordings"]:
            if "skipped" in told:
                skipped.append({name: told[name] for name in ("id", "file", "skipped", "why")})
            else:
                row = {
                    name: told[name]
                    for name in ("id", "split", "duration", "title", "loudness", "mono", "cut", "file")
                }
                row |= {"package": told["source"], "author": told["artist"] or "",
                        "licence": told["licence_text"] or told["licence"]}  # fmt: skip
                used.append(row)
        for label in content["takes"]:
            frames[label["split"]] += label["num_frames"]
    for name, rows in ((TABLE, [row for row in used if row["file"] and not row["cut"]]), (SKIPPED, skipped)):
        with whole_or_not_at_all(out / name) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = {
        "recordings": len(used) + len(skipped), "used": len(used), "skipped": len(skipped),
        "reasons": dict(sorted(Counter(row["skipped"] for row in skipped).items())),
        "not_wanted": dict(sorted(unwanted.items())), "mono": sum(row["mono"] for row in used),
        "hours": round(sum(row["duration"] for row in used) / 3600, 4),
        "hours_encoded": {split: round(count * 640 / SAMPLE_RATE / 3600, 4) for split, count in sorted(frames.items())},
        "shards": len(list((out / SHARDS).glob("shard-*.json"))),
        "sha256": _digest(out / SHARDS),
    }  # fmt: skip
    with whole_or_not_at_all(out / REPORT) as partial:
        partial.write_text(json.dumps(report, indent=1))
    return report


def _digest(folder: Path) -> str:
    """One hash of all labels, which hold the checksums of what they speak of."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("shard-*.json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


__all__ = ["BAND", "REPORT", "SKIPPED", "AudioSettings", "PartMaker", "Speed", "prepare_external"]
