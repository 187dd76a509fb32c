"""
What everything that trains a flow transformer on a latent store shares: settings, batches, loss, validation, a
listen on the way. The loops are in `training/train_flow.py` and `training/probe_latents.py`.

The sequence is [clean | noisy] in blocks of a random size: a noisy block hears a random length of clean past, none
included, and style and lead sheet are dropped at random for guidance. A share of the batches has full attention
and no past.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .audio import FRAME_RATE, SAMPLE_RATE
from .codec import RealTimeJazzCodec
from .corpus.latent_store import LatentStore, StoredTake
from .flow import FlowMatchScheduler, RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig
from .flow.losses import (
    codebook_loss,
    corrupt_context,
    drop_rows,
    flow_matching_loss,
    sample_timesteps,
    velocity_target,
)
from .hub import load_part, part_folder
from .live.engine import BlockStream
from .music import LEAD_SHEET_DIM, rotated_chords, without_chords
from .style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer
from .training_utils import TrainConfig, build_config

VALIDATION_BLOCK = 36  # frames


@dataclass
class FlowTrainConfig(TrainConfig):
    """Settings of a flow's training beside the shared ones."""

    data: str = ""  # the latent store
    takes: str | None = None  # a corpus to encode into it first
    codec: str = ""
    style_encoder: str = ""
    model: dict = field(default_factory=dict)
    batch_size: int = 8
    crop_frames: int = 432  # 5.76 s, whole blocks of every size
    full_attention_rate: float = 0.5  # share of batches without blocks
    style_dropout: float = 0.2
    lead_sheet_dropout: float = 0.1
    chord_dropout: float = 0.1  # share of rows that keep beat and band and lose the chords
    audio_style_rate: float = 0.4  # share of rows whose style comes from the audio tower
    context_noise: float = 0.2
    no_context_rate: float = 0.15
    channel_weight_power: float = (
        1.0  # loss weight of a channel: its deviation before normalisation, to this power
    )
    cue_weight: float = (
        1.0  # loss weight of a cue channel, where the store has cues; a latent's mean weight is 1
    )
    time_distribution: str = "logit_normal"
    time_mean: float = -0.4  # under zero: more noise, where the chart decides
    validate_every: int = 250

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data is missing: give --data, the folder of latents (made from --takes).")
        if not self.codec:
            raise ValueError(
                "codec is missing: give --codec, the folder of the codec that makes the latents."
            )
        if self.takes and not self.style_encoder:
            raise ValueError(
                "style_encoder is missing: --takes are encoded with --codec and --style-encoder."
            )


# --- what is trained on ---------------------------------------------------------------------------


def load_style_encoder(
    source: str | Path,
) -> tuple[RealTimeJazzStyleEncoder, RealTimeJazzTokenizer]:
    """Style encoder (float32, eval mode) and tokenizer: of train_style.py's folder, which holds both, or of a
    pipeline (bundled name, folder, Hub id) or its `style_encoder` part, beside which lies `tokenizer`.

    Raises:
        OSError: one of them is missing, not reachable or cut short.
        ValueError: another kind of model, or a config that does not belong to its weights.
    """
    folder = part_folder(source, "style_encoder")
    places = (folder, folder.parent / "tokenizer")
    tokenizer = next((place for place in places if (place / "tokenizer.json").is_file()), None)
    if tokenizer is None:
        raise OSError(f"the style encoder {folder} has no tokenizer.json, in it or in ../tokenizer.")
    return load_part(folder, "style_encoder"), RealTimeJazzTokenizer.from_pretrained(tokenizer)


def open_stores(folder: str | Path, codec: RealTimeJazzCodec, codes: bool) -> list[LatentStore]:
    """A store's training and test part, after a check that they are this codec's, and hold codes if asked for."""
    stores = [LatentStore(folder, "train"), LatentStore(folder, "test")]
    stores[0].check_codec(codec)
    if len(stores[0]) == 0:
        raise ValueError(f"{folder} holds no take of the training part.")
    if codes and stores[0][0].codes is None:
        raise ValueError(f"{folder} holds no codes, which prediction_type codebook learns; make another.")
    return stores


def flow_state(crop: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the flow makes, `(..., channels, frames)`: the latents of a crop or batch, then its cues, if any."""
    return torch.cat([crop[name] for name in ("latents", "cues") if name in crop], dim=-2)


class FlowBatches:
    """Random crops of a store with their conditions: `batches(rng)`."""

    def __init__(self, store: LatentStore, config: FlowTrainConfig, block_sizes: tuple[int, ...]):
        self.store, self.config = store, config
        self.block_sizes = [size for size in block_sizes if config.crop_frames % size == 0]
        self.usable = np.array([i for i in range(len(store)) if store[i].num_frames >= config.crop_frames])
        if len(self.usable) == 0:
            raise ValueError(f"no take in {store.folder} is as long as crop_frames={config.crop_frames}.")
        if not self.block_sizes:
            raise ValueError(f"crop_frames={config.crop_frames} is no multiple of any of {block_sizes}.")

    def __call__(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        config, rows = self.config, []
        for index in rng.choice(self.usable, config.batch_size):
            take = self.store[index]
            row = take.crop(int(rng.integers(take.num_frames - config.crop_frames + 1)), config.crop_frames)
            styles = take.audio if rng.random() < config.audio_style_rate else take.text
            row["style"] = styles[rng.integers(len(styles))]
            rows.append(row)
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        size = int(rng.choice(self.block_sizes))
        full = rng.random() < config.full_attention_rate
        context = rng.integers(0, 1 + 300 // size, config.batch_size) * size
        context[rng.random(config.batch_size) < config.no_context_rate] = 0
        batch["window_frames"] = torch.from_numpy(context)
        batch["block_frames"] = torch.tensor(0 if full else size)
        return batch


# --- the model and its losses ---------------------------------------------------------------------


def build_model(
    config: FlowTrainConfig, codec: RealTimeJazzCodec, take: StoredTake
) -> RealTimeJazzFlowTransformer:
    """The flow of `config.model` with the channels, widths and loss weights of `codec` and of a take of the store.

    With `init_from`, its weights: all of them where it was trained on latents of this size, else all but those that
    read and write latents, which start anew. So a flow is re-fitted to another codec and keeps what it knows of charts.
    """
    if codec.config.latents_std is None:
        raise ValueError(
            f"the codec {config.codec} does not normalise its latents, its training did not get that far; finish it."
        )
    cues = 0 if take.cues is None else take.cues.shape[-1]
    sizes = {"latent_dim": codec.config.latent_dim, "cue_channels": cues, "lead_sheet_dim": LEAD_SHEET_DIM,
             "style_dim": take.text.shape[-1], "codebook_size": codec.config.codebook_size,
             "num_codebooks": codec.config.num_codebooks}  # fmt: skip
    weights = torch.tensor(codec.config.latents_std) ** config.channel_weight_power
    weights = torch.cat([weights / weights.mean(), torch.full((cues,), config.cue_weight)])
    sizes["channel_weights"] = tuple(weights.tolist())
    if config.init_from:
        return RealTimeJazzFlowTransformer.from_pretrained(
            config.init_from, dtype=torch.float32, ignore_mismatched_sizes=True, **sizes
        )
    model = RealTimeJazzFlowTransformer(build_config(RealTimeJazzFlowTransformerConfig, sizes | config.model))
    if model.config.prediction_type == "codebook":
        model.set_codebooks(codec.codebooks, codec.latents_offset, codec.config.prediction_levels)
    return model


def channel_weights(model: RealTimeJazzFlowTransformer) -> torch.Tensor:
    """Loss weights of the model's channels, `(channels,)` on its device."""
    weights = torch.tensor(model.config.channel_weights or 1.0, device=model.device)
    return weights.expand(model.config.num_channels)


def flow_loss(model, batch: dict, config: FlowTrainConfig, weights: torch.Tensor, train: bool = True):
    """Loss of one batch at freshly drawn noise and times."""
    clean, block = flow_state(batch), int(batch["block_frames"])
    rows, _, frames = clean.shape
    blocks = frames // block if block else 1
    timestep = sample_timesteps((rows, blocks), config.time_distribution, mean=config.time_mean).to(clean)
    style, lead_sheet = batch["style"], batch["lead_sheet"]
    if train:
        style = drop_rows(style, config.style_dropout)
        keep_chords = torch.rand(rows, 1, 1).to(lead_sheet) >= config.chord_dropout
        lead_sheet = torch.where(keep_chords, lead_sheet, without_chords(lead_sheet))
        lead_sheet = drop_rows(lead_sheet, config.lead_sheet_dropout)
    # The cues' noise is drawn after the latents', which so have the same with cues and without.
    parts = [batch[name] for name in ("latents", "cues") if name in batch]
    noise = torch.cat([torch.randn(part.shape).to(part) for part in parts], dim=1)
    per_frame = timestep.repeat_interleave(frames // blocks, dim=1)[:, None]
    sample = (1 - per_frame) * noise + per_frame * clean
    conditions = {"lead_sheet": lead_sheet, "style": style, "return_sample": "cues" in batch}
    if block:
        context = corrupt_context(clean, config.context_noise) if train else clean
        out = model(sample, timestep, context=context, block_frames=block,
                    window_frames=batch["window_frames"], **conditions)  # fmt: skip
    else:
        out = model(sample, timestep[:, 0], **conditions)
    target = velocity_target(clean, noise)
    if out.logits is None:
        return flow_matching_loss(out.sample, target, weights)
    loss = codebook_loss(out.logits, batch["codes"])
    if "cues" in batch:
        cues = slice(batch["latents"].shape[1], None)
        loss = loss + config.cue_weight * flow_matching_loss(out.sample[:, cues], target[:, cues])
    return loss


@torch.no_grad()
def validate(
    model, batches: FlowBatches, config: FlowTrainConfig, weights: torch.Tensor, device, count: int = 6
) -> dict[str, float]:
    """Held-out loss with the true chart, the same chart a tritone away, and no chart; same noise for all three."""
    totals = {"true": 0.0, "rotated": 0.0, "none": 0.0}
    sizes = batches.block_sizes
    for index in range(count):
        batch = batches(np.random.default_rng([99, index]))
        batch["block_frames"] = torch.tensor(VALIDATION_BLOCK if VALIDATION_BLOCK in sizes else sizes[-1])
        batch["window_frames"] = torch.full((config.batch_size,), 144)
        batch = {name: value.to(device) for name, value in batch.items()}
        sheet = batch["lead_sheet"]
        sheets = {"true": sheet, "rotated": rotated_chords(sheet, 6), "none": without_chords(sheet)}
        for name, sheet in sheets.items():
            torch.manual_seed(index)
            loss = flow_loss(model, {**batch, "lead_sheet": sheet}, config, weights, train=False)
            totals[name] += loss.item() / count
    return {f"val_{name}": value for name, value in totals.items()}


# --- listening ------------------------------------------------------------------------------------


@torch.no_grad()
def play_takes(
    model: RealTimeJazzFlowTransformer,
    codec: RealTimeJazzCodec,
    takes: Sequence[StoredTake],
    seconds: float = 12.0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    block_frames: int = 36,
    shift: float | None = None,
) -> list[np.ndarray]:
    """Play the lead sheets of takes as live sessions would, in one batch: a clip `(2, samples)` of each.

    Row i has the noise of seed i, so that models of as many channels begin with the same. Steps, guidance and
    shift are the model's own (`config.sampling_defaults`) unless given.
    """
    own = model.config.sampling_defaults
    steps = own["num_inference_steps"] if steps is None else steps
    guidance_scale = own["guidance_scale"] if guidance_scale is None else guidance_scale
    scheduler = FlowMatchScheduler(shift=own["shift"] if shift is None else shift)
    generators = [torch.Generator().manual_seed(row) for row in range(len(takes))]
    stream = BlockStream(model, codec, scheduler, generators=generators, block_frames=block_frames,
                         window_frames=model.config.window_frames, device=model.device)  # fmt: skip
    style = torch.cat([take.text[:1] for take in takes]).to(model.device)
    audio = []
    for start in range(0, math.ceil(seconds * FRAME_RATE), block_frames):
        sheets = np.stack([take.lead_sheet.features(start, block_frames) for take in takes])
        latents = stream.denoise(stream.prepare_latents(), style, torch.from_numpy(sheets).to(model.device),
                                 num_inference_steps=steps, guidance_scale=guidance_scale)  # fmt: skip
        stream.append(latents)
        audio.append(stream.decode(stream.without_cues(latents)))
    return list(torch.cat(audio, -1)[..., : round(seconds * SAMPLE_RATE)].cpu().numpy())


__all__ = [
    "FlowBatches",
    "FlowTrainConfig",
    "build_model",
    "channel_weights",
    "flow_loss",
    "flow_state",
    "load_style_encoder",
    "open_stores",
    "play_takes",
    "validate",
]
