"""Takes encoded once: latents, codes and style embeddings in safetensors, one file a take, resumable.

DIR/takes/{name}.safetensors    latents (frames, latent_dim) float16; on request codes (levels, frames) int16
                                and cues (frames, cue_channels) float16
DIR/takes/{name}.json           the take's label
DIR/index.json                  fingerprint of the codec's encoder
DIR/styles/{name}.safetensors   text (captions, style_dim), audio (clips, style_dim) float32
DIR/styles.json                 fingerprint of the style encoder; embeddings of another lie beside it under
                                another name, DIR/{styles}/ and DIR/{styles}.json
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
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
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
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
    known, now = json.loads(path.read_text()), json.loads(json.dumps(index))
    differs = sorted(key for key in known.keys() | now.keys() if known.get(key) != now.get(key))
    if differs:
        told = "; ".join(f"{key} {known.get(key)!r}, now {now.get(key)!r}" for key in differs)
        raise ValueError(
            f"{path.parent} holds {what} made otherwise ({told}); give another folder or delete it."
        )


class _Encoding:
    """What `fill_takes` makes of a take with a codec, and where."""

    def __init__(self, codec, folder: Path, codes: bool, cues) -> None:
        self.codec, self.codes, self.cues = codec, codes, cues
        self.folder = folder / "takes"
        index = {"encoder": _encoder_fingerprint(codec), "codes": codes}
        if cues is not None:
            index["cues"] = cues.fingerprint()
        claim(folder / "index.json", "latents", **index)

    def done(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()  # written last

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

    def done(self, name: str) -> bool:
        return (self.folder / f"{name}.safetensors").exists()

    def write(self, name: str, take, audio: torch.Tensor) -> None:
        device = self.style_encoder.device
        tokens = self.tokenizer(list(take.captions), return_tensors="pt", padding=True, truncation=True)
        tokens = tokens.to(device)
        text = self.style_encoder.encode_text(tokens["input_ids"], tokens["attention_mask"])
        length = min(int(STYLE_CLIP_SECONDS * SAMPLE_RATE), audio.shape[-1])
        starts = np.linspace(0, audio.shape[-1] - length, self.clips).astype(int)
        pieces = torch.stack([audio[:, start : start + length] for start in starts])
        embedded = self.style_encoder.encode_audio(pieces.to(device))
        tensors = {"text": text.float().cpu(), "audio": embedded.float().cpu()}
        with whole_or_not_at_all(self.folder / f"{name}.safetensors") as partial:
            save_file(tensors, partial, metadata={"sha256": checksum(tensors)})


@torch.no_grad()
def _fill(parts: Sequence[_Encoding | _Embedding], takes, progress: bool, verb: str) -> None:
    from tqdm.auto import tqdm

    for part in parts:
        part.folder.mkdir(parents=True, exist_ok=True)
    for take in tqdm(takes, desc=verb, unit="take", disable=not progress):
        name = Path(take.path).parent.name
        missing = [part for part in parts if not part.done(name)]
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


@dataclass
class StoredTake:
    """One take of a store: latents (frames, latent_dim) float16, codes (levels, frames) int16, cues (frames,
    cue_channels) float16, embeddings."""

    name: str
    latents: torch.Tensor
    text: torch.Tensor
    audio: torch.Tensor
    lead_sheet: LeadSheet
    caption: str
    split: str
    codes: torch.Tensor | None = None
    cues: torch.Tensor | None = None

    @property
    def num_frames(self) -> int:
        return self.latents.shape[0]

    def crop(self, start: int, frames: int) -> dict[str, torch.Tensor]:
        """latents (latent_dim, frames), codes (levels, frames), cues (cue_channels, frames), lead_sheet (frames,
        LEAD_SHEET_DIM), float32 but for the codes; codes and cues where the store has them."""
        if start < 0 or frames < 1 or start + frames > self.num_frames:
            raise ValueError(
                f"frames {start}..{start + frames} are outside take {self.name} (0..{self.num_frames})."
            )
        crop = {
            "latents": self.latents[start : start + frames].T.float(),
            "lead_sheet": torch.from_numpy(self.lead_sheet.features(start, frames)),
        }
        if self.codes is not None:
            crop["codes"] = self.codes[:, start : start + frames].long()
        if self.cues is not None:
            crop["cues"] = self.cues[start : start + frames].T.float()
        return crop


class LatentStore:
    """All takes of a folder made by `fill_takes`, held in memory (about 35 MB an hour).

    Args:
        split (`str`, *optional*): `"train"`, `"test"`, or all.
        styles: Name of the style embeddings to use.
    """

    def __init__(self, folder, split: str | None = None, styles: str = "styles"):
        self.folder = Path(folder)
        if not (self.folder / "index.json").is_file():
            raise FileNotFoundError(
                f"{folder} is no latent store: it has no index.json. Make one with fill_takes."
            )
        self.index = json.loads((self.folder / "index.json").read_text())
        self.takes: list[StoredTake] = []
        for label_path in sorted((self.folder / "takes").glob("[!.]*.json")):
            label = json.loads(label_path.read_text())
            if split is not None and label["split"] != split:
                continue
            tensors = {}
            for part in (self.folder / "takes", styles_folder(self.folder, styles)):
                path = part / f"{label_path.stem}.safetensors"
                if not path.exists():
                    raise FileNotFoundError(f"{path} is missing: run embed_takes on this store too.")
                with safe_open(path, framework="pt") as file:
                    tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sheet = LeadSheet.from_dict(label["lead_sheet"])
            self.takes.append(StoredTake(label_path.stem, **tensors, lead_sheet=sheet,
                                         caption=label["caption"], split=label["split"]))  # fmt: skip

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
