"""Takes encoded once: latents, codes and style embeddings in safetensors, one file a take, checksummed, resumable.

DIR/takes/{name}.safetensors    latents (frames, latent_dim) float16; on request codes (levels, frames) int16
                                and cues (frames, cue_channels) float16; of takes whose score is known what is played:
                                notes (notes, 6) and controls (controls, 4) float32, told (roles,) uint8
DIR/takes/{name}.json           the take's label
DIR/index.json                  fingerprint of the codec's encoder
DIR/styles/{name}.safetensors   text (captions, style_dim), audio (clips, style_dim) float32
DIR/styles.json                 fingerprint of the style encoder; embeddings of another lie beside it under
                                another name, DIR/{styles}/ and DIR/{styles}.json

`corpus.latent_filling` writes them. Or in shards of many takes each, as `corpus.prepare_external` makes them:

DIR/shards/shard-00000.safetensors  "{name}/latents" and so on, embeddings too, of each of its takes
DIR/shards/shard-00000.json         their labels ("takes"), beside what became of every recording

Every .safetensors file has the SHA-256 of its tensors in its header (`sha256`), every label that of its entries.
An hour takes 75 * 3600 frames * latent_dim * 2 bytes: 69 MB with 128 channels, 3.5 GB for 50 hours. Files are mapped
into memory and read crop by crop: what stays in a process is labels, and several processes share the system's cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..audio import HOP_LENGTH, SAMPLE_RATE
from ..band.score import features_of
from ..music import LeadSheet
from ..music.score_features import NOTE_ROLES
from ..runtime.files import whole_or_not_at_all

if TYPE_CHECKING:
    from ..codec import RealTimeJazzCodec

STYLE_CLIP_SECONDS = 5.0
SHARDS = "shards"


def fingerprint(*models: nn.Module) -> str:
    """A short hash of weights and configs: two stores with the same one can be mixed."""
    digest = hashlib.sha256()
    for model in models:
        digest.update(json.dumps(model.config.to_diff_dict(), sort_keys=True, default=str).encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def checksum(content: dict) -> str:
    """SHA-256 of the tensors of a file (names, types, shapes, values), or of a label, which do not hold it yet."""
    digest = hashlib.sha256()
    for name, value in sorted(content.items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy())
        else:
            digest.update(f"{name} {json.dumps(value, sort_keys=True)}".encode())
    return digest.hexdigest()


def claim(path: Path, what: str, **index) -> None:
    """Write an index file, or check that the one there says the same.

    Raises:
        ValueError: where it does not; names what differs. `what` says what the folder of the file holds.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_not_at_all(path) as partial:
            partial.write_text(json.dumps(index))
        return
    known, now = _read_index(path), json.loads(json.dumps(index))
    differs = sorted(key for key in known.keys() | now.keys() if known.get(key) != now.get(key))
    if differs:
        told = "; ".join(f"{key} {known.get(key)!r}, now {now.get(key)!r}" for key in differs)
        raise ValueError(
            f"{path.parent} holds {what} made otherwise ({told}); give another folder or delete it."
        )


def _read_index(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it, and fill again with what the folder was made with."
        ) from error


def styles_folder(folder: Path, styles: str) -> Path:
    """Where the embeddings of that name lie in a store."""
    if not re.fullmatch(r"[a-zA-Z0-9][\w.-]*", styles) or styles in ("takes", "index"):
        raise ValueError(
            f"{styles!r} is no name for style embeddings; use letters, digits, '-', '_' and '.', and neither "
            "'takes' nor 'index'."
        )
    return folder / styles


def encoder_fingerprint(codec) -> str:
    """A short hash of a codec's encoder and statistics: latents with the same one can be mixed."""
    digest = hashlib.sha256(str((codec.config.latents_mean, codec.config.latents_std)).encode())
    for name, tensor in sorted(codec.encoder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{path} is damaged ({why}): delete it, and fill the store again.")


def _read_tensors(path: Path, check: bool, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a file, or of a shard those that begin with `prefix`, which their names lose: mapped into memory;
    on request compared with their checksum, if they have one."""
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
            known = (file.metadata() or {}).get("sha256")
            if known is not None and prefix:
                known = json.loads(known).get(prefix)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: fill the store again.") from error
    except SafetensorError as error:
        raise _damaged(path, error) from error
    if check and known is not None and checksum(tensors) != known:
        raise _damaged(path, "its tensors do not match their checksum")
    return tensors


def read_label(path: Path) -> dict:
    """lead_sheet, caption and split of a take, compared with their checksum, if they have one."""
    try:
        label = json.loads(path.read_text())
        known = label.pop("sha256", None)
        matches = known is None or checksum(label) == known
        sheet = LeadSheet.from_dict(label["lead_sheet"])
        label = {"lead_sheet": sheet, "caption": label["caption"], "split": label["split"]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if not matches:
        raise _damaged(path, "it does not match its checksum")
    return label


def write_shard(
    path: Path, takes: Sequence[tuple[dict, dict[str, torch.Tensor]]], told: dict | None = None
) -> None:
    """Write `path`.safetensors and then `path`.json, each whole or not at all: a shard with a label is complete.

    Args:
        takes: (label, tensors) of each; a label has name, lead_sheet (a dict), caption, split and num_frames, and may
            have more. told: what else the label file holds.

    Raises:
        OSError: also where the disk is full.
    """
    tensors = {f"{label['name']}/{key}": value for label, parts in takes for key, value in parts.items()}
    # One entry: safetensors writes several in an order of chance. As bytes: a full disk is then an OSError.
    sums = {f"{label['name']}/": checksum(parts) for label, parts in takes}
    data = save(tensors, metadata={"sha256": json.dumps(sums)})
    with whole_or_not_at_all(path.with_suffix(".safetensors")) as partial:
        partial.write_bytes(data)
    content = {**(told or {}), "takes": [label for label, _ in takes], "bytes": len(data)}
    with whole_or_not_at_all(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(content | {"sha256": checksum(content)}, sort_keys=True))


def read_shard(label_path: Path) -> dict:
    """The labels of a shard, compared with their checksum; its tensors must be there at their full length.

    Raises:
        ValueError: it is damaged, by name.
    """
    try:
        content = dict(json.loads(label_path.read_text()))
        known = content.pop("sha256")
        matches = checksum(content) == known
        size = label_path.with_suffix(".safetensors").stat().st_size
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(label_path, error) from error
    if not matches:
        raise _damaged(label_path, "it does not match its checksum")
    if size != content["bytes"]:
        raise _damaged(label_path.with_suffix(".safetensors"), f"{size} bytes, of {content['bytes']}")
    return content


def shard_tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of one take of a shard, compared with their checksum."""
    return _read_tensors(path.with_suffix(".safetensors"), True, f"{name}/")


def _take_of_shard(path: Path, label: dict) -> StoredTake:
    try:
        sheet = LeadSheet.from_dict(label["lead_sheet"])
        return StoredTake(
            label["name"], path, path, label["num_frames"], sheet, label["caption"], label["split"],
            prefix=f"{label['name']}/",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path.with_suffix(".json"), error) from error


@dataclass
class StoredTake:
    """One take of a store, read when asked for; the first read of each file compares it with its checksum.

    Attributes:
        latents (frames, latent_dim) float16, codes (levels, frames) int16 or None, cues (frames, cue_channels)
        float16 or None: mapped, not copied. text (captions, style_dim), audio (clips, style_dim) float32: style
        embeddings (of a take with silent players, audio is text again). num_frames: of the latents.

    Raises:
        ValueError: on reading, for a damaged file, by name. FileNotFoundError: for one that was deleted.
    """

    name: str
    path: Path
    styles_path: Path
    num_frames: int
    lead_sheet: LeadSheet
    caption: str
    split: str
    prefix: str = ""  # of its tensors in a shard
    checked: set[Path] = field(default_factory=set, repr=False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """`latents` and, where the store has them, `codes` and `cues`."""
        return self._read(self.path)

    def _read(self, path: Path) -> dict[str, torch.Tensor]:
        tensors = _read_tensors(path, path not in self.checked, self.prefix)
        self.checked.add(path)
        return tensors

    @property
    def latents(self) -> torch.Tensor:
        return self.tensors()["latents"]

    @property
    def codes(self) -> torch.Tensor | None:
        return self.tensors().get("codes")

    @property
    def cues(self) -> torch.Tensor | None:
        return self.tensors().get("cues")

    @property
    def text(self) -> torch.Tensor:
        return self._read(self.styles_path)["text"]

    @property
    def audio(self) -> torch.Tensor:
        return self._read(self.styles_path)["audio"]

    def crop(self, start: int, frames: int) -> dict[str, torch.Tensor]:
        """latents (latent_dim, frames), codes (levels, frames), cues (cue_channels, frames), lead_sheet
        (frames, LEAD_SHEET_DIM), score (frames, SCORE_DIM), float32 but for the
        codes; codes and cues where the store has them."""
        if start < 0 or frames < 1 or start + frames > self.num_frames:
            raise ValueError(
                f"frames {start}..{start + frames} are outside take {self.name} (0..{self.num_frames})."
            )
        crop, tensors = {}, self.tensors()
        for name in ("latents", "cues"):
            if name in tensors:
                crop[name] = tensors[name][start : start + frames].T.float()
        if "codes" in tensors:
            crop["codes"] = tensors["codes"][:, start : start + frames].long()
        crop["lead_sheet"] = torch.from_numpy(self.lead_sheet.features(start, frames))
        crop["score"] = torch.from_numpy(self.score_features(start, frames))
        return crop

    def score_features(self, start: int, frames: int) -> np.ndarray:
        """(frames, SCORE_DIM) float32: metre, and notes where the store has them; see `music.score_features`."""
        tensors = self.tensors()
        if "notes" in tensors:
            rows = tensors["notes"].double().numpy(), tensors["controls"].double().numpy()
            told = [role for role, known in zip(NOTE_ROLES, tensors["told"].tolist()) if known]
        else:
            rows, told = (np.zeros((0, 6)), np.zeros((0, 4))), []
        return features_of(self.lead_sheet, *rows, told, start, frames)


class LatentStore:
    """All takes of a folder made by `fill_takes`, in the order of their names, or of one of shards, in theirs: a
    sequence of `StoredTake`.

    Args:
        split (`str`, *optional*): `"train"`, `"test"`, in shards also `"validation"`, or all.
        styles: Name of the style embeddings to use; a shard has those of one style encoder.

    Raises:
        FileNotFoundError: the folder is no store, or a file of a take is missing.
        ValueError: a label, or the header of a file, is damaged or cut short; it is named. Tensors are compared
            with their checksums when a take is first read, or all by `verify`.
    """

    def __init__(self, folder, split: str | None = None, styles: str = "styles"):
        self.folder = Path(folder)
        if not (self.folder / "index.json").is_file():
            raise FileNotFoundError(
                f"{folder} is no latent store: it has no index.json. Make one with fill_takes."
            )
        self.index = _read_index(self.folder / "index.json")
        styles_path = styles_folder(self.folder, styles)
        self.takes: list[StoredTake] = []
        for label_path in sorted((self.folder / SHARDS).glob("shard-*.json")):
            for label in read_shard(label_path)["takes"]:
                if split in (None, label["split"]):
                    self.takes.append(_take_of_shard(label_path.with_suffix(".safetensors"), label))
        for label_path in sorted((self.folder / "takes").glob("[!.]*.json")):
            label = read_label(label_path)
            if split is not None and label["split"] != split:
                continue
            name = f"{label_path.stem}.safetensors"
            paths = label_path.with_name(name), styles_path / name
            if not paths[1].exists():
                raise FileNotFoundError(
                    f"{paths[1]} is missing: fill the store to its end (fill_takes, or embed_takes for this alone)."
                )
            tensors, _ = (_read_tensors(path, check=False) for path in paths)
            self.takes.append(StoredTake(label_path.stem, *paths, len(tensors["latents"]), **label))

    def verify(self) -> int:
        """Read everything and compare it with its checksums: the number of files that have one.

        Raises:
            ValueError: names every file that does not match or cannot be read, and says what to do.
        """
        checked, damaged = 0, []
        for take in self.takes:
            for path in sorted({take.path, take.styles_path}):
                try:
                    with safe_open(path, framework="pt") as file:
                        checked += "sha256" in (file.metadata() or {})
                    _read_tensors(path, True, take.prefix)
                except (OSError, SafetensorError, ValueError):
                    damaged.append(f"{path} ({take.name})" if take.prefix else str(path))
        if damaged:
            raise ValueError(
                f"{len(damaged)} damaged files, delete them and fill the store again: {', '.join(damaged)}"
            )
        return checked

    def __len__(self) -> int:
        return len(self.takes)

    def __getitem__(self, index: int) -> StoredTake:
        return self.takes[index]

    def check_codec(self, codec) -> None:
        """Raise ValueError if these are latents of another codec's encoder."""
        if self.index["encoder"] != encoder_fingerprint(codec):
            raise ValueError(
                f"{self.folder} holds latents of another codec; give that one, or make another store."
            )

    @property
    def hours(self) -> float:
        frames = sum(take.num_frames for take in self.takes)
        return frames * HOP_LENGTH / SAMPLE_RATE / 3600


def open_stores(
    folder: str | Path, codec: RealTimeJazzCodec, codes: bool, styles: str = "styles"
) -> list[LatentStore]:
    """A store's training and test part, after a check that they are this codec's, and hold codes if asked for."""
    stores = [LatentStore(folder, split, styles) for split in ("train", "test")]
    stores[0].check_codec(codec)
    if len(stores[0]) == 0:
        raise ValueError(f"{folder} holds no take of the training part.")
    if codes and stores[0][0].codes is None:
        raise ValueError(f"{folder} holds no codes, which prediction_type codebook learns; make another.")
    return stores


def flow_state(crop: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the flow makes, `(..., channels, frames)`: the latents of a crop or batch, then its cues, if any."""
    return torch.cat([crop[name] for name in ("latents", "cues") if name in crop], dim=-2)


__all__ = [
    "SHARDS", "LatentStore", "StoredTake", "checksum", "claim", "encoder_fingerprint", "fingerprint", "flow_state",
    "open_stores", "read_label", "read_shard", "shard_tensors", "styles_folder", "write_shard",
]  # fmt: skip
