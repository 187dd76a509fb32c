"""
What everything that trains a flow transformer on a latent store shares: settings, batches, loss, validation, a
listen on the way. The loops are in `training/train_flow.py` and `training/probe_latents.py`.

The sequence is [clean | noisy] in blocks of a random size: a noisy block hears a random length of clean past, none
included, and style and lead sheet are dropped at random for guidance. A share of the batches has full attention
and no past.

Live, the past is the model's own, and what is wrong with it adds up (exposure bias). So the past carries a little
noise in training, and in a share of the batches (`own_context_rate`) blocks of it are made by the model: see
`own_context`. The target is the true music always, so the model learns to bring its own faults back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..audio import FRAME_RATE, SAMPLE_RATE
from ..codec import RealTimeJazzCodec
from ..corpus.latent_store import LatentStore, StoredTake, flow_state
from ..flow import FlowMatchScheduler, RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig
from ..flow.growth import with_latent_channels
from ..flow.losses import (
    codebook_loss,
    corrupt_context,
    drift_context,
    drop_rows,
    flow_matching_loss,
    replace_blocks,
    velocity_target,
)
from ..live.engine import BlockStream
from ..music import LEAD_SHEET_DIM, rotated_chords
from ..music.score_features import SCORE_DIM, without_chords_and_notes, without_notes
from .config import EvaluatedTrainConfig
from .dropping import draw_times, drop_conditions
from .run import EpochOrder, TrainingRun, build_config, parameter_groups

VALIDATION_BLOCK = 36  # frames
NOISY_TIME = 0.1  # where notes are decided: the loss there tells what the mean over all times hides
# Times from which the model makes context of its own in one step. Of the first bundled model (128 latents), the made
# latents deviate by 0.88 at t = 0.2, 0.92 at 0.5 and 0.98 at 0.9 of the true ones, and 8 steps live by 0.93.
OWN_CONTEXT_TIMES = (0.2, 1.0)


@dataclass
class FlowTrainConfig(EvaluatedTrainConfig):
    """Settings of a flow's training beside the shared ones."""

    data: str = ""  # the latent store
    takes: str | None = None  # a corpus to encode into it first
    codec: str = ""
    style_encoder: str = ""
    styles: str = "styles"  # name of the style embeddings in the store
    model: dict = field(default_factory=dict)
    batch_size: int = 8
    order: str = "random"  # of takes: drawn anew for each row, or "epoch", each once before any comes again
    crop_frames: int = 432  # 5.76 s, whole blocks of every size
    full_attention_rate: float = 0.5  # share of batches without blocks
    style_dropout: float = 0.2
    lead_sheet_dropout: float = 0.1
    chord_dropout: float = 0.1  # share of rows that keep beat and band and lose the chords
    score: bool = True  # the flow is told notes (layout 2)
    notes_dropout: float = 0.3  # share of rows that are told no notes
    roles_dropout: float = 0.3  # share of rows that are told the notes of some roles, each with probability 1/2
    score_learning_rate: float | None = None  # of the layers that read notes; default: learning_rate
    audio_style_rate: float = 0.4  # share of rows whose style comes from the audio tower
    window_frames: int | None = None  # the longest context; by default the model's window when it plays
    no_context_rate: float = 0.15
    context_noise: float = 0.2
    own_context_rate: float = 0.0  # share of batches whose context is partly the model's own
    context_drift: float = 0.0  # in these: largest deviation of gains and offsets of a row's channels
    channel_weight_power: float = (
        1.0  # loss weight of a channel: its deviation before normalisation, to this power
    )
    deviation_weight: float = (
        1.0  # the same of the channels of deviations, times this: bends are rare
    )
    cue_weight: float = (
        1.0  # loss weight of a cue channel, where the store has cues; a latent's mean weight is 1
    )
    time_distribution: str = "logit_normal"
    time_mean: float = -0.4  # under zero: more noise, where the chart decides
    noisy_rate: float = 0.0  # share of blocks whose times are nearer to noise, where notes are decided:
    noisy_mean: float = -2.0  # their time_mean
    gradient_checkpointing: bool = False  # less memory, a third more work
    validate_every: int = 250
    evaluate_seconds: float = 12.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data is missing: give --data, the folder of latents (made from --takes).")
        if not self.codec:
            raise ValueError(
                "codec is missing: give --codec, the folder of the codec that makes the latents."
            )
        for name in ("full_attention_rate", "style_dropout", "lead_sheet_dropout", "chord_dropout", "audio_style_rate",
                     "no_context_rate", "context_noise", "own_context_rate", "notes_dropout", "roles_dropout",
                     "noisy_rate"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        if self.notes_dropout + self.roles_dropout > 1:
            raise ValueError(
                f"notes_dropout {self.notes_dropout} and roles_dropout {self.roles_dropout} are shares of the same "
                "rows: together at most 1."
            )
        if self.order not in ("random", "epoch"):
            raise ValueError(f"order must be random or epoch, got {self.order!r}.")
        for name in ("context_drift", "deviation_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.evaluate_every and not (self.takes and self.style_encoder):
            raise ValueError(
                "evaluate_every plays held-out takes by their captions: give --takes and --style-encoder."
            )
        if self.window_frames is not None and self.window_frames < 0:
            raise ValueError(f"window_frames must not be negative, got {self.window_frames}.")
        if self.takes and not self.style_encoder:
            raise ValueError(
                "style_encoder is missing: --takes are encoded with --codec and --style-encoder."
            )


# --- what is trained on ---------------------------------------------------------------------------


class FlowBatches:
    """Random crops of a store with their conditions, and how they attend: `batches(rng)`.

    A batch has `latents`, `codes`, `cues` (where the store has them), `lead_sheet` and `style`, and
    `block_frames`: the size of its blocks, one of `block_sizes` that divide `crop_frames`; 0 is full attention.
    `window_frames` `(batch,)`: how much context each row may hear, whole blocks up to the longest window, or none.
    `own_context`: whether context of the model's own is asked for; only where `own_context_rate` is not 0.

    Args:
        window_frames: The longest window; `config.window_frames` goes before it.
        score_dim: Of the flow: where it is not 0, the score's features follow the lead sheet's in `lead_sheet`.
    """

    def __init__(
        self,
        store: LatentStore,
        config: FlowTrainConfig,
        block_sizes: tuple[int, ...],
        window_frames: int = 300,
        score_dim: int = 0,
    ):
        self.store, self.config = store, config
        self.told = score_dim > 0
        self.window_frames = window_frames if config.window_frames is None else config.window_frames
        self.block_sizes = [size for size in block_sizes if config.crop_frames % size == 0]
        self.usable = np.array([i for i in range(len(store)) if store[i].num_frames >= config.crop_frames])
        if len(self.usable) == 0:
            raise ValueError(f"no take in {store.folder} is as long as crop_frames={config.crop_frames}.")
        self.epochs = EpochOrder(len(self.usable), config.seed)
        if not self.block_sizes:
            raise ValueError(f"crop_frames={config.crop_frames} is no multiple of any of {block_sizes}.")

    def numbered(self, number: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The batch of that number in a run; `order: epoch` needs it."""
        if self.config.order == "random":
            return self(rng)
        first = number * self.config.batch_size
        return self._crops(
            [self.usable[self.epochs[first + row]] for row in range(self.config.batch_size)], rng
        )

    def __call__(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return self._crops(rng.choice(self.usable, self.config.batch_size), rng)

    def _crops(self, takes: Sequence[int], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        config, rows = self.config, []
        for index in takes:
            take = self.store[index]
            row = take.crop(int(rng.integers(take.num_frames - config.crop_frames + 1)), config.crop_frames)
            styles = take.audio if rng.random() < config.audio_style_rate else take.text
            row["style"] = styles[rng.integers(len(styles))]
            score = row.pop("score")
            if self.told:
                row["lead_sheet"] = torch.cat([row["lead_sheet"], score], dim=-1)
            rows.append(row)
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        size = int(rng.choice(self.block_sizes))
        full = rng.random() < config.full_attention_rate
        context = rng.integers(0, 1 + self.window_frames // size, config.batch_size) * size
        context[rng.random(config.batch_size) < config.no_context_rate] = 0
        batch["window_frames"] = torch.from_numpy(context)
        batch["block_frames"] = torch.tensor(0 if full else size)
        if config.own_context_rate:  # drawn last: without it all else is as it was
            batch["own_context"] = torch.tensor(rng.random() < config.own_context_rate)
        return batch


# --- the model and its losses ---------------------------------------------------------------------


def build_model(
    config: FlowTrainConfig, codec: RealTimeJazzCodec, take: StoredTake
) -> RealTimeJazzFlowTransformer:
    """The flow of `config.model` with the channels, widths and loss weights of `codec` and of a take of the store.

    With `init_from`, its weights: all of them where it was trained on latents of this size, or on those of this codec
    that tell nothing of deviations, whose channels are then added without a change to the others. Else all but those
    that read and write latents, which start anew. So a flow is re-fitted to another codec and keeps what it knows of
    charts.
    """
    if codec.config.latents_std is None:
        raise ValueError(
            f"the codec {config.codec} does not normalise its latents, its training did not get that far; finish it."
        )
    cues = 0 if take.cues is None else take.cues.shape[-1]
    sizes = {"latent_dim": codec.config.latent_dim, "cue_channels": cues, "lead_sheet_dim": LEAD_SHEET_DIM,
             "style_dim": take.text.shape[-1], "codebook_size": codec.config.codebook_size,
             "num_codebooks": codec.config.num_codebooks,
             "score_dim": SCORE_DIM if config.score else 0,
             "distilled_steps": None, "distilled_shift": 1.0}  # fmt: skip
    weights = torch.tensor(codec.config.latents_std) ** config.channel_weight_power
    weights[codec.config.energy_dim :] *= config.deviation_weight
    weights = torch.cat([weights / weights.mean(), torch.full((cues,), config.cue_weight)])
    sizes["channel_weights"] = tuple(weights.tolist())
    if config.init_from:
        had = RealTimeJazzFlowTransformerConfig.from_pretrained(config.init_from)
        grows = not cues and had.latent_dim == codec.config.energy_dim < codec.config.latent_dim
        own = {key: sizes.pop(key) for key in ("latent_dim", "channel_weights")} if grows else {}
        model = RealTimeJazzFlowTransformer.from_pretrained(
            config.init_from, dtype=torch.float32, ignore_mismatched_sizes=True, **sizes
        )
        if grows:
            model = with_latent_channels(model, own["latent_dim"])
            model.config.channel_weights = own["channel_weights"]
        return model
    model = RealTimeJazzFlowTransformer(build_config(RealTimeJazzFlowTransformerConfig, sizes | config.model))
    if model.config.prediction_type == "codebook":
        model.set_codebooks(codec.codebooks, codec.latents_offset, codec.config.prediction_levels)
    return model


def channel_weights(model: RealTimeJazzFlowTransformer) -> torch.Tensor:
    """Loss weights of the model's channels, `(channels,)` on its device."""
    weights = torch.tensor(model.config.channel_weights or 1.0, device=model.device)
    return weights.expand(model.config.num_channels)


def flow_groups(model: RealTimeJazzFlowTransformer, config: FlowTrainConfig) -> list[dict]:
    """AdamW groups of a flow: the layers that read notes, which start at zero, at a rate of their own."""
    groups = parameter_groups(model, config.weight_decay)
    if model.score_embedding is None or config.score_learning_rate is None:
        return groups
    ears = list(model.score_embedding.parameters())
    known = {id(parameter) for parameter in ears}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in known]} for group in groups]
    return [*rest, {"params": ears, "weight_decay": 0.0, "lr": config.score_learning_rate}]


def flow_loss(
    model,
    batch: dict,
    config: FlowTrainConfig,
    weights: torch.Tensor,
    train: bool = True,
    denoiser: Callable | None = None,
    time: float | None = None,
) -> torch.Tensor:
    """Loss of one batch at freshly drawn noise and times, or at one `time`; with `train`, conditions are dropped and
    the context made worse.

    Args:
        denoiser: What makes context of its own, called as `model` is: the averaged weights. Default: the model.
    """
    clean, block = flow_state(batch), int(batch["block_frames"])
    rows, _, frames = clean.shape
    blocks = frames // block if block else 1
    timestep = draw_times((rows, blocks), config).to(clean)
    if time is not None:
        timestep = torch.full_like(timestep, time)
    style, lead_sheet = batch["style"], batch["lead_sheet"]
    if train:
        style = drop_rows(style, config.style_dropout)
        lead_sheet = drop_conditions(lead_sheet, config)
    # The cues' noise is drawn after the latents', which so have the same with cues and without.
    parts = [batch[name] for name in ("latents", "cues") if name in batch]
    noise = torch.cat([torch.randn(part.shape).to(part) for part in parts], dim=1)
    sample = noisy_blocks(clean, noise, timestep)
    conditions = {"lead_sheet": lead_sheet, "style": style, "return_sample": "cues" in batch}
    if block:
        context = clean
        if train:
            context = corrupt_context(clean, config.context_noise)
            if batch.get("own_context", False):
                context = own_context(denoiser or model, batch, context, config.context_drift)
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


def batch_conditions(batch: dict, context_noise: float = 0.0) -> dict:
    """How a flow is called on a batch beside sample and time: its conditions, and the clean blocks, made worse by up
    to that share of noise, as context."""
    how = {"lead_sheet": batch["lead_sheet"], "style": batch["style"]}
    if block := int(batch["block_frames"]):
        how |= {"context": corrupt_context(flow_state(batch), context_noise), "block_frames": block,
                "window_frames": batch["window_frames"]}  # fmt: skip
    return how


def noisy_blocks(clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """`x_t` of every block: `(batch, channels, frames)` at the times `(batch, blocks)`."""
    time = timestep.repeat_interleave(clean.shape[-1] // timestep.shape[1], dim=1)[:, None]
    return (1 - time) * noise + time * clean


@torch.no_grad()
def own_context(
    denoiser: Callable, batch: dict, context: torch.Tensor, max_drift: float = 0.0
) -> torch.Tensor:
    """The context `(batch, channels, frames)` with some of its blocks as the model would have made them.

    Every block is noised to a time of its own and denoised in one step, with the conditions and the context that it
    would have live: `x_1 = x_t + (1 - t) v`. That is one more pass without gradient, about a third of a training step.
    Like what is played, it lacks contrast and energy; the slow drift that adds up over many blocks comes from
    `drift_context`. Scheduled sampling (arXiv:1506.03099), for blocks of frames.
    """
    clean, block = flow_state(batch), int(batch["block_frames"])
    low, high = OWN_CONTEXT_TIMES
    timestep = (low + (high - low) * torch.rand(len(clean), clean.shape[-1] // block)).to(clean)
    sample = noisy_blocks(clean, torch.randn(clean.shape).to(clean), timestep)
    velocity = denoiser(sample, timestep, context=context, block_frames=block, window_frames=batch["window_frames"],
                        lead_sheet=batch["lead_sheet"], style=batch["style"], return_sample=True).sample  # fmt: skip
    left = 1 - timestep.repeat_interleave(block, dim=1)[:, None]
    made = sample + left * velocity.to(sample)
    return drift_context(replace_blocks(context, made, block), max_drift)


@torch.no_grad()
def validate(
    model,
    batches: FlowBatches,
    config: FlowTrainConfig,
    weights: torch.Tensor,
    device,
    count: int = 6,
    loss_of=flow_loss,
    noisy: bool = True,
) -> dict[str, float]:
    """Held-out loss with the true chart (`true`), the same a tritone away (`rotated`), no chords and notes (`none`) and
    chords alone (`untold`), of a flow that is told notes; `true` and `untold` also at t = 0.1 (`_noisy`). Same noise
    for all.

    Args:
        loss_of: The loss, called as `flow_loss` is. noisy: Whether it takes a time.
    """
    totals: dict[str, float] = {}
    sizes = batches.block_sizes
    for index in range(count):
        batch = batches(np.random.default_rng([99, index]))
        batch["block_frames"] = torch.tensor(VALIDATION_BLOCK if VALIDATION_BLOCK in sizes else sizes[-1])
        batch["window_frames"] = torch.full((config.batch_size,), 144)
        batch = {name: value.to(device) for name, value in batch.items()}
        sheet = batch["lead_sheet"]
        sheets = {"true": sheet, "rotated": rotated_chords(sheet, 6), "none": without_chords_and_notes(sheet)}
        if sheet.shape[-1] > LEAD_SHEET_DIM:
            notes = without_notes(sheet[..., LEAD_SHEET_DIM:])
            sheets["untold"] = torch.cat([sheet[..., :LEAD_SHEET_DIM], notes], dim=-1)
        wanted = [(name, None) for name in sheets]
        wanted += [(name, NOISY_TIME) for name in ("true", "untold") if noisy and "untold" in sheets]
        for name, time in wanted:
            torch.manual_seed(index)
            at = {} if time is None else {"time": time}
            loss = loss_of(model, {**batch, "lead_sheet": sheets[name]}, config, weights, train=False, **at)
            name += "" if time is None else "_noisy"
            totals[name] = totals.get(name, 0.0) + loss.item() / count
    return {f"val_{name}": value for name, value in totals.items()}


def take_conditions(take: StoredTake, start: int, frames: int, score_dim: int) -> np.ndarray:
    """What a flow is told of a take: `(frames, LEAD_SHEET_DIM [+ score_dim])`."""
    sheet = take.lead_sheet.features(start, frames)
    return np.concatenate([sheet, take.score_features(start, frames)], axis=-1) if score_dim else sheet


# --- listening ------------------------------------------------------------------------------------
SAMPLE_SECONDS = 12.0


@torch.no_grad()
def play_takes(
    model: RealTimeJazzFlowTransformer,
    codec: RealTimeJazzCodec,
    takes: Sequence[StoredTake],
    seconds: float | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    block_frames: int = 36,
    shift: float | None = None,
) -> list[np.ndarray]:
    """Play the lead sheets of takes as live sessions would, in one batch: a clip `(2, samples)` of each, of
    `SAMPLE_SECONDS` unless `seconds` are given.

    Row i has the noise of seed i, so that models of as many channels begin with the same. Steps, guidance and
    shift are the model's own (`config.sampling_defaults`) unless given.
    """
    seconds = SAMPLE_SECONDS if seconds is None else seconds
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
        sheets = np.stack([take_conditions(take, start, block_frames, model.config.score_dim) for take in takes])
        latents = stream.denoise(stream.prepare_latents(), style, torch.from_numpy(sheets).to(model.device),
                                 num_inference_steps=steps, guidance_scale=guidance_scale)  # fmt: skip
        stream.append(latents)
        audio.append(stream.decode(stream.without_cues(latents)))
    return list(torch.cat(audio, -1)[..., : round(seconds * SAMPLE_RATE)].cpu().numpy())


def save_samples(run: TrainingRun, prepared, codec: RealTimeJazzCodec, takes: Sequence[StoredTake]) -> None:
    """Have the flow in training play the charts of some takes, and keep the clips with the run."""
    clips = play_takes(run.weights(prepared).eval(), codec, takes)
    for index, (take, audio) in enumerate(zip(takes, clips)):
        run.save_sample(f"sample_{index}", audio, take.lead_sheet)
    prepared.train()


__all__ = [
    "FlowBatches",
    "FlowTrainConfig",
    "batch_conditions",
    "build_model",
    "channel_weights",
    "flow_groups",
    "flow_loss",
    "noisy_blocks",
    "own_context",
    "play_takes",
    "save_samples",
    "take_conditions",
    "validate",
]
