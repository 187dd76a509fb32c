"""Takes into a store of latents: encoded, and their captions and clips embedded, each once; see `latent_store`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ..audio import SAMPLE_RATE, read_audio
from ..music.score_features import NOTE_ROLES
from ..runtime.files import whole_or_not_at_all
from .latent_store import (
    STYLE_CLIP_SECONDS,
    checksum,
    claim,
    encoder_fingerprint,
    fingerprint,
    read_label,
    styles_folder,
)


@torch.no_grad()
def encode_audio(codec, audio: torch.Tensor, codes: bool = False, cues=None) -> dict[str, torch.Tensor]:
    """What a store keeps of `audio` `(2, samples)`: latents, and codes and cues where they are asked for."""
    audio = audio[None].to(codec.device)
    encoded = codec.encode(audio, return_codes=codes)
    tensors = {"latents": encoded.latents[0].T.half().cpu().contiguous()}
    if codes:
        tensors["codes"] = encoded.codes[0].to(torch.int16).cpu()
    if cues is not None:
        tensors["cues"] = cues(audio)[0].T.half().cpu().contiguous()
    return tensors


def score_tensors(take) -> dict[str, torch.Tensor]:
    """What a store keeps of a take's score, in seconds: nothing where nobody wrote it down."""
    score = getattr(take, "score", None)
    if score is None:
        return {}
    notes, controls = (torch.from_numpy(rows).float() for rows in score.rows(take.lead_sheet))
    told = torch.tensor([role in score.told for role in NOTE_ROLES], dtype=torch.uint8)
    return {"notes": notes, "controls": controls, "told": told}


@torch.no_grad()
def embed_audio(
    style_encoder, tokenizer, captions: Sequence[str], audio: torch.Tensor | None, clips: int = 3
) -> dict[str, torch.Tensor]:
    """text (captions, style_dim), audio (clips, style_dim): embeddings of captions and of pieces of `audio`; without
    audio, text stands for it."""
    device = style_encoder.device
    tokens = tokenizer(list(captions), return_tensors="pt", padding=True, truncation=True).to(device)
    text = style_encoder.encode_text(tokens["input_ids"], tokens["attention_mask"]).float().cpu()
    if audio is None:
        return {"text": text, "audio": text.clone()}
    length = min(int(STYLE_CLIP_SECONDS * SAMPLE_RATE), audio.shape[-1])
    starts = np.linspace(0, audio.shape[-1] - length, clips).astype(int)
    pieces = torch.stack([audio[:, start : start + length] for start in starts])
    embedded = style_encoder.encode_audio(pieces.to(device))
    return {"text": text, "audio": embedded.float().cpu()}


class _Encoding:
    """What `fill_takes` makes of a take with a codec, and where."""

    def __init__(self, codec, folder: Path, codes: bool, cues) -> None:
        self.codec, self.codes, self.cues = codec, codes, cues
        self.folder = folder / "takes"
        index = {"encoder": encoder_fingerprint(codec), "codes": codes}
        if cues is not None:
            index["cues"] = cues.fingerprint()
        claim(folder / "index.json", "latents", **index)

    def done(self, name: str, take) -> bool:
        # Both, for a damaged one of them is deleted to have it made again; the label is written last.
        label_path = self.folder / f"{name}.json"
        if not (label_path.exists() and (self.folder / f"{name}.safetensors").exists()):
            return False
        label = read_label(label_path)
        if (label["caption"], label["lead_sheet"]) != (take.caption, take.lead_sheet):
            raise ValueError(
                f"{self.folder.parent} holds another take of the name {name}, and would lose one of them: the takes of "
                "two corpora need folders of different names; rename those of one, or give another store."
            )
        return True

    def write(self, name: str, take, audio: torch.Tensor) -> None:
        tensors = encode_audio(self.codec, audio, self.codes, self.cues) | score_tensors(take)
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
        # Who asks for a quartet without its piano says "quartet" all the same. A flow that has only met words that
        # agree with the lead sheet believes the words, so where players are silent most captions speak of all; and a
        # clip would tell who is silent: the words stand for it.
        silent = bool(take.full_captions)
        captions = [*take.full_captions, *take.captions[:1]] if silent else take.captions
        tensors = embed_audio(
            self.style_encoder, self.tokenizer, captions, None if silent else audio, self.clips
        )
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
