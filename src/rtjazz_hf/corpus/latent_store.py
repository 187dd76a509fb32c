"""Takes encoded once: latents, codes and style embeddings in safetensors, one file a take, checksummed, resumable.

DIR/takes/{name}.safetensors    latents (frames, latent_dim) float16; on request codes (levels, frames) int16
                                and cues (frames, cue_channels) float16
DIR/takes/{name}.json           the take's label
DIR/index.json                  fingerprint of the codec's encoder
DIR/styles/{name}.safetensors   text (captions, style_dim), audio (clips, style_dim) float32
DIR/styles.json                 fingerprint of the style encoder; embeddings of another lie beside it under
                                another name, DIR/{styles}/ and DIR/{styles}.json

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

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..audio import HOP_LENGTH, SAMPLE_RATE, read_audio, whole_or_not_at_all
from ..music import LeadSheet

STYLE_CLIP_SECONDS = 5.0


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


class _Encoding:
    """What `fill_takes` makes of a take with a codec, and where."""

    def __init__(self, codec, folder: Path, codes: bool, cues) -> None:
        self.codec, self.codes, self.cues = codec, codes, cues
        self.folder = folder / "takes"
        index = {"encoder": _encoder_fingerprint(codec), "codes": codes}
        if cues is not None:
            index["cues"] = cues.fingerprint()
        claim(folder / "index.json", "latents", **index)

    def done(self, name: str, take) -> bool:
        # Both, for a damaged one of them is deleted to have it made again; the label is written last.
        label_path = self.folder / f"{name}.json"
        if not (label_path.exists() and (self.folder / f"{name}.safetensors").exists()):
            return False
        label = _read_label(label_path)
        if (label["caption"], label["lead_sheet"]) != (take.caption, take.lead_sheet):
            raise ValueError(
                f"{self.folder.parent} holds another take of the name {name}, and would lose one of them: the takes of "
                "two corpora need folders of different names; rename those of one, or give another store."
            )
        return True

    def write(self, name: str, take, audio: torch.Tensor) -> None:
        audio = audio[None].to(self.codec.device)
        encoded = self.codec.encode(audio, return_codes=self.codes)
        tensors = {"latents": encoded.latents[0].T.half().cpu().contiguous()}
        if self.codes:
            tensors["codes"] = encoded.codes[0].to(torch.int16).cpu()
        if self.cues is not None:
            tensors["cues"] = self.cues(audio)[0].T.half().cpu().contiguous()
        with whole_or_not_at_all(self.folder / f"{name}.safetensors") as partial:
            save_file(tensors, partial, metadata={"sha256": checksum(tensors)})
        label = {"lead_sheet": take.lead_sheet.to_dict(), "caption": take.caption, "split": take.split}
        with whole_or_not_at_all(self.folder / f"{name}.json") as partial:
            partial.write_text(json.dumps(label | {"sha256": checksum(label)}))


class _Embedding:
    """What `fill_takes` makes of a take with a style encoder, and where."""

    def __init__(self, style_encoder, tokenizer, folder: Path, clips: int, styles: str) -> None:
        self.style_encoder, self.tokenizer, self.clips = style_encoder, tokenizer, clips
        self.folder = styles_folder(folder, styles)
        claim(folder / f"{styles}.json", "style embeddings", encoder=fingerprint(style_encoder))

    def done(self, name: str, take) -> bool:
        return (self.folder / f"{name}.safetensors").exists()

    def write(self, name: str, take, audio: torch.Tensor) -> None:
        device = self.style_encoder.device
        # Who asks for a quartet without its piano says "quartet" all the same. A flow that has only met words that
        # agree with the lead sheet believes the words, so where players are silent most captions speak of all.
        captions = [*take.full_captions, *take.captions[:1]] if take.full_captions else list(take.captions)
        tokens = self.tokenizer(captions, return_tensors="pt", padding=True, truncation=True).to(device)
        text = self.style_encoder.encode_text(tokens["input_ids"], tokens["attention_mask"])
        if take.full_captions:  # and a clip would tell who is silent: the words stand for it
            return self._save(name, text, text.clone())
        length = min(int(STYLE_CLIP_SECONDS * SAMPLE_RATE), audio.shape[-1])
        starts = np.linspace(0, audio.shape[-1] - length, self.clips).astype(int)
        pieces = torch.stack([audio[:, start : start + length] for start in starts])
        self._save(name, text, self.style_encoder.encode_audio(pieces.to(device)))

    def _save(self, name: str, text: torch.Tensor, audio: torch.Tensor) -> None:
        tensors = {"text": text.float().cpu(), "audio": audio.float().cpu()}
        with whole_or_not_at_all(self.folder / f"{name}.safetensors") as partial:
            save_file(tensors, partial, metadata={"sha256": checksum(tensors)})


@torch.no_grad()
def _fill(parts: Sequence[_Encoding | _Embedding], takes, progress: bool, verb: str) -> None:
    from tqdm.auto import tqdm

    for part in parts:
        part.folder.mkdir(parents=True, exist_ok=True)
    for take in tqdm(takes, desc=verb, unit="take", disable=not progress):
        name = Path(take.path).parent.name
        missing = [part for part in parts if not part.done(name, take)]
        if missing:
            audio = torch.from_numpy(read_audio(take.path))
            for part in missing:
                part.write(name, take, audio)


def fill_takes(
    codec,
    style_encoder,
    tokenizer,
    takes,
    out_dir,
    codes: bool = False,
    cues=None,
    clips: int = 3,
    styles: str = "styles",
    progress: bool = True,
) -> Path:
    """Encode and embed `takes` (records of `corpus.dataset`) into the store at `out_dir`, each read once.

    What is there already is kept, so a fill that was stopped goes on, and a store that only lacks embeddings is
    only embedded. Several processes may share the work, each with its part of the takes (`takes[k::n]`).

    Args:
        codes, cues: As in `encode_takes`.
        clips, styles: As in `embed_takes`.

    Raises:
        ValueError: the folder holds latents of another codec, other cues, or under this name embeddings of another
            style encoder; or a take's audio cannot be read, which names it.
    """
    out_dir = Path(out_dir)
    embedding = _Embedding(style_encoder, tokenizer, out_dir, clips, styles)
    _fill([_Encoding(codec, out_dir, codes, cues), embedding], takes, progress, "filling")
    return out_dir


def encode_takes(codec, takes, out_dir, codes: bool = False, progress: bool = True, cues=None) -> Path:
    """The half of `fill_takes` that needs the codec alone.

    Only what the encoder makes is stored, so the fingerprint is of the codec's encoder and statistics: a decoder
    may be trained further.

    Args:
        codes: store residual codes too, which a flow with `prediction_type="codebook"` learns.
        cues (`rtjazz_hf.codec.cues.SemitoneCues`, *optional*): store what it makes of the audio too: channels that
            a flow has beside the latents.

    Raises:
        ValueError: when the folder holds latents of another codec, or other cues.
    """
    _fill([_Encoding(codec, Path(out_dir), codes, cues)], takes, progress, "encoding")
    return Path(out_dir)


def embed_takes(
    style_encoder, tokenizer, takes, out_dir, clips: int = 3, progress: bool = True, styles: str = "styles"
) -> Path:
    """The other half: captions and `clips` pieces of 5 s of every take as style embeddings.

    Args:
        styles: Name of their folder in the store. Embeddings of another style encoder need another name, and no
            take is encoded again.

    Raises:
        ValueError: when that folder holds embeddings of another style encoder.
    """
    _fill([_Embedding(style_encoder, tokenizer, Path(out_dir), clips, styles)], takes, progress, "embedding")
    return Path(out_dir)


def styles_folder(folder: Path, styles: str) -> Path:
    """Where the embeddings of that name lie in a store."""
    if not re.fullmatch(r"[a-zA-Z0-9][\w.-]*", styles) or styles in ("takes", "index"):
        raise ValueError(
            f"{styles!r} is no name for style embeddings; use letters, digits, '-', '_' and '.', and neither "
            "'takes' nor 'index'."
        )
    return folder / styles


def _encoder_fingerprint(codec) -> str:
    digest = hashlib.sha256(str((codec.config.latents_mean, codec.config.latents_std)).encode())
    for name, tensor in sorted(codec.encoder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{path} is damaged ({why}): delete it, and fill the store again.")


def _read_tensors(path: Path, check: bool) -> dict[str, torch.Tensor]:
    """The tensors of a file, mapped into memory; on request compared with their checksum, if they have one."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            known = (file.metadata() or {}).get("sha256")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: fill the store again.") from error
    except SafetensorError as error:
        raise _damaged(path, error) from error
    if check and known is not None and checksum(tensors) != known:
        raise _damaged(path, "its tensors do not match their checksum")
    return tensors


def _read_label(path: Path) -> dict:
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
    checked: set[Path] = field(default_factory=set, repr=False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """`latents` and, where the store has them, `codes` and `cues`."""
        return self._read(self.path)

    def _read(self, path: Path) -> dict[str, torch.Tensor]:
        tensors = _read_tensors(path, check=path not in self.checked)
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
        """latents (latent_dim, frames), codes (levels, frames), cues (cue_channels, frames), lead_sheet (frames,
        LEAD_SHEET_DIM), float32 but for the codes; codes and cues where the store has them."""
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
        return crop


class LatentStore:
    """All takes of a folder made by `fill_takes`, in the order of their names: a sequence of `StoredTake`.

    Args:
        split (`str`, *optional*): `"train"`, `"test"`, or all.
        styles: Name of the style embeddings to use.

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
        for label_path in sorted((self.folder / "takes").glob("[!.]*.json")):
            label = _read_label(label_path)
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
            for path in (take.path, take.styles_path):
                try:
                    with safe_open(path, framework="pt") as file:
                        checked += "sha256" in (file.metadata() or {})
                    _read_tensors(path, check=True)
                except (OSError, SafetensorError, ValueError):
                    damaged.append(str(path))
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
        if self.index["encoder"] != _encoder_fingerprint(codec):
            raise ValueError(
                f"{self.folder} holds latents of another codec; give that one, or make another store."
            )

    @property
    def hours(self) -> float:
        frames = sum(take.num_frames for take in self.takes)
        return frames * HOP_LENGTH / SAMPLE_RATE / 3600


__all__ = ["LatentStore", "StoredTake", "claim", "embed_takes", "encode_takes", "fill_takes", "fingerprint"]
