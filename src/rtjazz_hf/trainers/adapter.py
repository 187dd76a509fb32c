"""
Personal styles: a LoRA adapter and a style embedding learnt from a folder of recordings. One loop, two doors:
`training/train_lora.py` and `rtjazz adapt`.

Half of the time the style is called beside other words ("slow ballad in the style of <name>"), which an adapter that
has only heard the style alone would half forget.

Two terms are learnt together. The style term is flow matching on the player's takes. The prior term holds the
adapted velocity to that of the bare base under transposed charts, called by the new style or not: it needs no data
beside the takes, and keeps what the base knows of chords and beats (prior preservation, arXiv:2208.12242, as
distillation to the base itself). Both see copies of the takes at other tempi (`corpus.retiming`).

A distilled student knows its own few times only, and flow matching at them would teach it the mean of the takes. So
its style term is the energy score of what it makes in its own steps (`flow.losses.energy_score`), and its prior term
is drawn at the states of these steps. Or the adapter is learnt on the teacher that it was distilled from (`teacher`),
which has the same layers, and given to the student at the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..corpus.hearing import heard_phrases
from ..corpus.latent_filling import fill_takes
from ..corpus.latent_store import LatentStore, StoredTake, flow_state, open_stores
from ..corpus.personal import LATENTS, prepare_takes
from ..corpus.transcription import INSTALL, has_transcriber
from ..flow import RealTimeJazzFlowTransformer
from ..flow.losses import flow_matching_loss, sample_timesteps
from ..hub import load_codec, load_part, load_style_encoder, part_folder
from ..music import LeadSheet, rotated_chords
from ..music.vocabulary import GENRES, MOODS
from ..runtime.quantization import quantize
from .distillation import score_loss, student_path
from .flow import (
    FlowBatches,
    FlowTrainConfig,
    batch_conditions,
    channel_weights,
    flow_loss,
    noisy_blocks,
    play_takes,
    validate,
)
from .monitor import batch_sizes
from .run import TrainingRun

_TIMED = 5  # steps after which the time that is left is told


@dataclass
class LoraTrainConfig(FlowTrainConfig):
    """Settings of an adapter's training beside those of a flow's. Parts not named are those of `base`."""

    recordings: str = ""  # folder of recordings
    base: str = "rtjazz-mini"  # pipeline that is adapted
    teacher: str | None = None  # flow that a distilled base comes from: what the adapter is learnt on
    name: str = "me"  # "in the style of <name>"
    instruments: list = field(default_factory=lambda: ["piano", "bass", "drums"])  # who plays in the takes
    copies: int = 1  # of each piece of them, at other tempi
    transcribe: bool = True  # tell the lines that are heard, where the base reads notes and basic-pitch is installed
    rank: int = 8
    alpha: float = 16.0
    targets: list = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    dora: bool = False
    qlora: bool = False  # the base in 4 bits (nf4, double quantisation; arXiv:2305.14314)
    prior_weight: float = 0.1
    words_rate: float = 0.5  # how often the learnt style is called beside other words
    patience: int = 6  # validations without a gain before it stops; 0: never
    batch_size: int = 4
    crop_frames: int = 288  # 3.84 s
    ema_decay: float = 0.0
    validate_every: int = 50

    def __post_init__(self) -> None:
        self.data = self.data or str(Path(self.output_dir) / "takes" / LATENTS)
        self.codec, self.style_encoder = self.codec or self.base, self.style_encoder or self.base
        super().__post_init__()
        if not self.recordings:
            raise ValueError("recordings is missing: give --recordings, a folder of your own takes.")
        if self.ema_decay:
            raise ValueError("ema_decay must be 0: an adapter is saved where it validated best instead.")
        if self.evaluate_every:
            raise ValueError("evaluate_every must be 0: an adapter is judged by training/evaluate_lora.py.")
        if self.copies < 0:
            raise ValueError(f"copies must not be negative, got {self.copies}.")
        if not self.prior_weight >= 0:
            raise ValueError(f"prior_weight must not be negative, got {self.prior_weight}.")
        if not 0 <= self.words_rate <= 1:
            raise ValueError(f"words_rate must be from 0 to 1, got {self.words_rate}.")


class StyledFlow(nn.Module):
    """A flow with an adapter, and the style embedding `(style_dim,)` that is learnt beside it.

    `words`: `(words, style_dim)`, embeddings of what else may be said where the style is called, unit length.
    """

    def __init__(
        self, transformer: RealTimeJazzFlowTransformer, style: torch.Tensor, words: torch.Tensor | None = None
    ):
        super().__init__()
        self.transformer = transformer
        self.style = nn.Parameter(style.detach().clone().float())
        words = style.new_zeros(0, *style.shape) if words is None else words
        self.register_buffer("words", words.detach().clone().float(), persistent=False)

    def forward(self, *inputs, **named):
        return self.transformer(*inputs, **named)

    def embedding(self) -> torch.Tensor:
        """`(style_dim,)` of unit length, as all style embeddings are."""
        return F.normalize(self.style, dim=0)

    def called(self, rows: int, words_rate: float) -> torch.Tensor:
        """`(rows, style_dim)`: the style alone, or at `words_rate` half-way to some words, so that what `call_style`
        makes, which is nearer to the style, lies between what is learnt."""
        style = self.embedding().expand(rows, -1)
        if not len(self.words):
            return style
        device = style.device
        beside = F.normalize(style + self.words[torch.randint(len(self.words), (rows,)).to(device)], dim=-1)
        return torch.where(torch.rand(rows, 1).to(device) < words_rate, beside, style)


class BestSoFar:
    """What is kept of validations, in checkpoints too: the measures before training, the best since and its weights.

    The weights before training are no candidate: an adapter that does nothing is nothing to save.

    Attributes: `before`, `best`: losses by name, empty until measured. `weights`: trainable parameters of the best by
    name. `waited`: validations since.
    """

    def __init__(self) -> None:
        self.before: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.weights: dict[str, torch.Tensor] = {}
        self.waited = 0

    def take(self, losses: dict[str, float], model: nn.Module) -> bool:
        """Note one validation of `model`; whether it is the best so far."""
        self.waited += 1
        if self.best and losses["val_true"] >= self.best["val_true"]:
            return False
        self.best, self.waited = losses, 0
        self.weights = {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}
        return True

    @property
    def improved(self) -> bool:
        """Whether a validation was better than before training."""
        return bool(self.best) and self.best["val_true"] < self.before["val_true"]

    def put_back(self, model: nn.Module) -> None:
        """Give `model` the best weights, if there are any."""
        model.load_state_dict(self.weights, strict=False)

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def said_beside(encoder, tokenizer) -> torch.Tensor:
    """Embeddings `(words, style_dim)` of what is said before "in the style of <name>": genres, plain and in moods."""
    words = [f"{mood}{genre}".replace("_", " ") for genre in GENRES for mood in ("", *(f"{m} " for m in MOODS))]
    tokens = tokenizer(words, padding=True, truncation=True, return_tensors="pt").to(encoder.device)
    with torch.no_grad():
        return encoder.encode_text(tokens["input_ids"], tokens["attention_mask"]).float()


def mean_style(store: LatentStore) -> torch.Tensor:
    """Mean audio-tower embedding of a store's takes, unit length: where a learnt style begins."""
    return F.normalize(torch.cat([take.audio for take in store]).mean(0), dim=0)


def style_loss(
    model, batch: dict, config: LoraTrainConfig, weights: torch.Tensor, train: bool = True, time: float | None = None
) -> torch.Tensor:
    """How far a flow's music is from that of a batch: flow matching, or of a distilled student the energy score of its
    ends, which has no `time`. `model` is a flow or a `StyledFlow`, bare or prepared; it is given the batch's style."""
    flow = _flow_of(model)
    if flow.config.distilled_steps is None:
        return flow_loss(model, batch, config, weights, train=train, time=time)
    return score_loss(model, batch, weights, flow.config.distilled_steps, float(flow.config.distilled_shift),
                      config.context_noise if train else 0.0)  # fmt: skip


def _bare(model):
    """A model without what Accelerate lays around it."""
    return getattr(model, "module", model)


def _flow_of(model) -> RealTimeJazzFlowTransformer:
    bare = _bare(model)
    return bare.transformer if isinstance(bare, StyledFlow) else bare


def prior_loss(model, batch: dict, config: LoraTrainConfig, weights: torch.Tensor) -> torch.Tensor:
    """Squared distance of the adapted velocity to that of the bare base, under charts that the player did not play.

    A third of the rows has no style and a third that of its take. A third is called by the learnt one, which the base
    answers as it does the take's: what is learnt of sound must not be learnt against the chart. The states are those
    of a distilled base's own steps under that chart, from noise on; of another base, takes with noise.
    """
    flow, rows = _flow_of(model), len(batch["style"])
    how = batch_conditions(batch, config.context_noise)
    how["lead_sheet"] = rotated_chords(batch["lead_sheet"], int(torch.randint(12, ())))
    third = torch.randint(3, (rows, 1)).to(batch["style"].device)
    how["style"] = torch.where(third == 0, 0.0, batch["style"])
    flow.disable_adapters()
    try:
        with torch.no_grad():
            sample, times, target = _prior_states(model, flow_state(batch), config, how)
    finally:
        flow.enable_adapters()
    how["style"] = torch.where(third == 2, _bare(model).called(rows, config.words_rate), how["style"])
    return flow_matching_loss(model(sample, timestep=times, **how).sample, target, weights)


def _prior_states(
    model, clean: torch.Tensor, config: LoraTrainConfig, how: dict
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples like `clean` `(batch, channels, frames)`, which are the takes, their times, and `model`'s velocity."""
    flow, rows = _flow_of(model).config, len(clean)
    noise = torch.randn(clean.shape).to(clean)
    if flow.distilled_steps is None:
        block = how.get("block_frames")
        times = sample_timesteps(
            (rows, clean.shape[-1] // block if block else 1), config.time_distribution, mean=config.time_mean
        ).to(clean)
        sample = noisy_blocks(clean, noise, times)
        times = times if block else times[:, 0]
        return sample, times, model(sample, timestep=times, **how).sample
    path = list(student_path(model, noise, flow.distilled_steps, float(flow.distilled_shift), **how))
    step = torch.randint(len(path), (rows,)).to(clean.device)
    row = torch.arange(rows, device=clean.device)
    samples, times, velocities = (torch.stack(states) for states in zip(*path))
    return samples[step, row], times[step, row], velocities[step, row]


def lora_losses(
    model, batch: dict, config: LoraTrainConfig, weights: torch.Tensor
) -> dict[str, torch.Tensor]:
    """`style` and `prior` of one batch; `model` is a `StyledFlow`, bare or prepared."""
    losses = {}
    if config.prior_weight:
        losses["prior"] = prior_loss(model, batch, config, weights)
    style = _bare(model).called(len(batch["style"]), config.words_rate)
    losses["style"] = style_loss(model, {**batch, "style": style}, config, weights)
    return losses


def _transcribes(config: LoraTrainConfig) -> tuple[bool, str]:
    """Whether notes are listened for in the recordings, and what there is to say where they are not."""
    if not config.transcribe:
        return False, ""
    if not load_part(part_folder(config.base, "transformer"), "transformer").config.score_dim:
        return False, f"{config.base} is told no notes: none are listened for in the recordings"
    if not has_transcriber():
        return False, f"the notes of the recordings are not told: {INSTALL}"
    return True, ""


def train_lora(config: LoraTrainConfig) -> dict:
    """Prepare the recordings, learn the adapter, and write `output_dir/adapter`; measures before and after.

    Raises:
        FileNotFoundError, ValueError: no or too few usable recordings, or parts that do not fit together.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from ..adapters import adapter_parameters, attach_adapter, save_adapter

    codec = load_codec(config.codec)
    encoder, tokenizer = load_style_encoder(config.style_encoder)
    # As the Accelerator will ask for it: without the flag, each process on a CPU takes itself for the only one.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    transcribe, why = _transcribes(config)
    with state.main_process_first():  # the others find it done
        records, report = prepare_takes(
            config.recordings,
            Path(config.output_dir) / "takes",
            config.name,
            config.instruments,
            copies=config.copies,
            transcribe=transcribe,
        )
    run = TrainingRun(config)
    run.print(report.to_text())
    if why:
        run.print(why)
    phrases = heard_phrases(records)
    if transcribe and phrases is None:
        run.print("too few notes of a melody were heard to know the player's habits: the band's solos stay its own")
    share = records[run.accelerator.process_index :: run.accelerator.num_processes]
    fill_takes(
        codec.to(run.device), encoder.to(run.device), tokenizer, share, config.data, progress=run.is_main
    )
    run.accelerator.wait_for_everyone()
    train, test = open_stores(config.data, codec, codes=False, styles=config.styles)
    base = load_part(part_folder(config.base, "transformer"), "transformer")
    model = base
    if config.teacher:
        model = load_part(part_folder(config.teacher, "transformer"), "transformer")
    if config.qlora:
        model = quantize(model, "nf4")  # a copy: the base stays whole, and the adapter is saved for it
    attach_adapter(model, rank=config.rank, alpha=config.alpha, targets=config.targets, use_dora=config.dora)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    adapter_parameters(model, run.print)
    styled = StyledFlow(model, mean_style(train), said_beside(encoder, tokenizer)).to(run.device)
    sizes = model.config.block_sizes, model.config.window_frames, model.config.score_dim
    batches = FlowBatches(train, config, *sizes)
    held_out = FlowBatches(test if len(test) else train, config, *sizes)
    weights = channel_weights(model)
    parameters = [parameter for parameter in styled.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    prepared, optimizer = run.prepare(styled, optimizer)
    kept = BestSoFar()
    run.accelerator.register_for_checkpointing(kept)
    run.resume()

    def measure() -> dict[str, float]:
        bare = run.weights(prepared)
        bare.eval()
        losses = validate(bare.transformer, _Styled(held_out, bare), config, weights, run.device, count=3,
                          loss_of=style_loss, noisy=model.config.distilled_steps is None)  # fmt: skip
        bare.train()
        return losses

    def listen(name: str) -> None:
        """The charts of two held-out takes, in the learnt style, with the same seeds before and after."""
        bare = run.weights(prepared).eval()
        style = bare.embedding().detach().cpu()[None]
        takes = [_InStyle(take, style) for take in (test if len(test) else train).takes[:2]]
        for index, (take, audio) in enumerate(zip(takes, play_takes(bare.transformer, codec, takes))):
            run.save_sample(f"{name}_{index}", audio, take.lead_sheet)
        bare.train()

    if not kept.before:
        kept.before = measure()
        if config.sample_every:
            listen("before")
    folder = Path(config.output_dir) / "adapter"

    def save() -> None:
        bare = run.weights(prepared)
        learnt = bare.transformer
        if (
            learnt is not base
        ):  # learnt on the teacher or in 4 bits: given to the whole base, whose layers are the same
            weights = {name: value for name, value in learnt.state_dict().items() if "lora_" in name}
            if not hasattr(base, "peft_config"):
                attach_adapter(base, rank=config.rank, alpha=config.alpha, targets=config.targets,
                               use_dora=config.dora)  # fmt: skip
            base.load_state_dict(weights, strict=False)
        save_adapter(base, folder, base_name=config.base, style_embedding=bare.embedding().detach().cpu(),
                     style_name=config.name, band=config.instruments, phrases=phrases)  # fmt: skip

    per_batch = batch_sizes(config.batch_size, config.crop_frames, model.config.patch_size)
    first, began = run.step, time.monotonic()
    for batch in run.batches(batches, per_batch):
        if run.step == first + _TIMED and began is not None:
            run.print(waiting_time((time.monotonic() - began) / _TIMED, run.step, run.minutes, config))
            began = None
        with run.accelerator.accumulate(prepared):
            losses = lora_losses(prepared, batch, config, weights)
            run.backward(
                losses["style"] + config.prior_weight * losses.get("prior", 0.0), prepared, optimizer
            )
        run.log(**losses)
        if run.due(config.validate_every):
            now = measure()
            run.log_now(**now)
            run.print(f"step {run.step + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in now.items()))
            if kept.take(now, run.weights(prepared)) and run.is_main:
                save()
            if config.patience and kept.waited >= config.patience:
                run.print(f"no gain in {kept.waited} validations: stopped")
                run.stop()
    if not kept.best:  # too short a run for a validation
        kept.take(measure(), run.weights(prepared))
    kept.put_back(run.weights(prepared))
    if run.is_main:
        save()
    if not kept.improved:
        run.print(
            f"no validation was better than before training (held-out loss {kept.before['val_true']:.4f} before, "
            f"{kept.best['val_true']:.4f} at best): the best of them was saved, but listen before you use it; "
            "more recordings or a lower learning_rate may help"
        )
    if config.sample_every:
        listen("after")
    run.finish()
    return {"before": kept.before, "after": kept.best, "improved": kept.improved, "steps": run.step,
            "minutes": report.minutes, "minutes_held_out": report.minutes_held_out,
            "minutes_learnt": report.minutes - report.minutes_held_out, "adapter": str(folder)}  # fmt: skip


def waiting_time(seconds: float, step: int, minutes: float, config: LoraTrainConfig) -> str:
    """How long there is to wait, by the time that a step took so far, `minutes` after the beginning."""
    left = (config.max_steps - step) * seconds / 60.0
    limited = config.max_minutes is not None and config.max_minutes - minutes < left
    left = max(0.0, config.max_minutes - minutes) if limited else left
    what = f"max_minutes ({config.max_minutes:g})" if limited else f"max_steps ({config.max_steps})"
    early = ", sooner if validations gain nothing" if config.patience else ""
    return f"{seconds:.2f} s a step: about {left:.0f} minutes more, until {what}{early}"


@dataclass(frozen=True)
class _InStyle:
    """What `play_takes` asks of a take: its lead sheet and notes, and a style `(1, style_dim)`."""

    take: StoredTake
    text: torch.Tensor

    @property
    def lead_sheet(self) -> LeadSheet:
        return self.take.lead_sheet

    def score_features(self, start: int, frames: int) -> np.ndarray:
        return self.take.score_features(start, frames)


class _Styled:
    """Batches whose style is the one that is learnt."""

    def __init__(self, batches: FlowBatches, model: StyledFlow):
        self.batches, self.model, self.block_sizes = batches, model, batches.block_sizes

    def __call__(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        batch = self.batches(rng)
        style = self.model.embedding().detach().cpu()
        return {**batch, "style": style.expand(len(batch["style"]), -1)}


__all__ = [
    "BestSoFar",
    "LoraTrainConfig",
    "StyledFlow",
    "lora_losses",
    "mean_style",
    "style_loss",
    "train_lora",
    "waiting_time",
]
