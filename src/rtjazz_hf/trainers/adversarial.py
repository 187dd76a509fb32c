"""
A student of few steps, finished: what it plays in its own steps, on its own past, is taken beside what takes are like.

A distilled student goes where its teacher goes, and a teacher of few guided steps spreads less than music does. Here a
discriminator (`flow.discriminator`: a copy of the teacher that hears both ways) says of what the student has played
and of the takes that have the same conditions which is which, at a random share of noise, place by place; the student
learns to be taken for the take. Adversarial relativistic-contrastive post-training (arXiv:2505.08175) on roll-outs
(self forcing, arXiv:2506.08009):

- relativistic: a take and what was made under its chart are a pair, and only their difference counts;
- contrastive: the discriminator learns too that a take fits its own conditions better than those of another, or it
  would not mind wrong notes;
- kept near: the mean over a few frames of what is made stays near that of the student as it was, from the same noise
  after the same past (`keep_weight`): notes are there, the texture in them is free.

What pays is decided by what a transcriber and a classifier say (`rtjazz evaluate --only notes judge`), not by these
losses. The loop is in `training/finish_flow.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from ..codec import RealTimeJazzCodec
from ..corpus.latent_store import flow_state
from ..flow import FlowDiscriminator, FlowMatchScheduler, RealTimeJazzFlowTransformer
from ..flow.losses import drop_rows, flow_matching_loss, pairing_loss
from ..live.engine import BlockStream
from ..runtime.precision import training_precision
from .distillation import DTYPES, StudentConfig, path_end, play_blocks
from .dropping import drop_conditions
from .flow import VALIDATION_BLOCK, FlowBatches
from .run import TrainingRun

Rolled = dict[str, torch.Tensor]  # what `Finisher.roll_out` gives


@dataclass
class FlowFinishConfig(StudentConfig):
    """Settings of an adversarial finish beside those of a flow's training. The student is `init_from`, or the teacher
    itself, whose copy the discriminator begins as. Two streams at least: the conditions of one are the wrong ones of
    another."""

    steps: int | None = None  # of the student, a block; by default those that it was distilled to
    adversarial_weight: float = 1.0
    contrastive_weight: float = 1.0  # of the discriminator's second loss
    keep_weight: float = 1.0
    keep_span: int = 6  # frames whose mean is kept
    judged_mean: float = (
        0.0  # of the times at which the discriminator hears, logit-normal: above 0 nearer to music
    )
    head_start: int = 20  # steps in which the discriminator learns alone
    discriminator: dict = field(default_factory=dict)  # arguments of FlowDiscriminator: layers, width
    discriminator_learning_rate: float = 1e-3  # of its heads, which are new
    body_learning_rate: float = 1e-4  # of the copy of the teacher under them

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size is {self.batch_size}; give 2 or more: conditions of others are the wrong ones."
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1.")
        for name in ("adversarial_weight", "contrastive_weight", "keep_weight", "head_start"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("discriminator_learning_rate", "body_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if not 1 <= self.keep_span <= self.crop_frames:
            raise ValueError(
                f"keep_span is {self.keep_span}; choose 1 to {self.crop_frames}, the frames of a crop."
            )


class Finisher:
    """What a student plays while it learns, and the student as it was, to which it is kept near.

    Args:
        student: as it begins; two copies, in the type of `config.mixed_precision`, and never changed.
        codec: of the engine; nothing is decoded.

    Attributes: `steps`, `shift`, `block_sizes` and `window_frames` as settled.

    Raises:
        ValueError: a student that was not distilled and no steps, or block sizes that it does not play.
    """

    def __init__(
        self, student: RealTimeJazzFlowTransformer, codec: RealTimeJazzCodec, config: FlowFinishConfig
    ):
        own, name = student.config, config.init_from or config.teacher
        if own.distilled_steps is None and config.steps is None:
            raise ValueError(
                f"{name} was not distilled: give --init-from, a folder of distill_flow.py, or --steps."
            )
        self.shift = float(own.distilled_shift)
        self.steps = config.steps or own.distilled_steps
        self.steps_before = own.distilled_steps or self.steps  # of the student as it was
        self.block_sizes = tuple(config.block_sizes or own.block_sizes)
        if unknown := set(self.block_sizes) - set(own.block_sizes):
            raise ValueError(
                f"block_sizes has {', '.join(map(str, unknown))}; the student plays {own.block_sizes}."
            )
        self.window_frames = own.window_frames if config.window_frames is None else config.window_frames
        self.config, self.codec = config, codec
        self.scheduler = FlowMatchScheduler(shift=self.shift)
        dtype = DTYPES[training_precision(config.mixed_precision)]
        self.before = copy.deepcopy(student).to(dtype).eval().requires_grad_(False)
        self.player = copy.deepcopy(self.before)

    def to(self, device: torch.device | str) -> Finisher:
        self.before.to(device)
        self.player.to(device)
        return self

    @torch.no_grad()
    def roll_out(self, student: RealTimeJazzFlowTransformer, batch: dict, drop: bool = True) -> Rolled:
        """Let the student play a batch of `FlowBatches` from its first block on, hearing nothing but itself.

        Args:
            drop: whether some rows are told less, as in training.

        Returns:
            clean, noise, made: `(batch, channels, frames)`: the takes, and what the student made of the noise.
            style, lead_sheet, block_frames: of both.
        """
        config, clean = self.config, flow_state(batch)
        style, sheet = batch["style"], batch["lead_sheet"]
        if drop:
            style, sheet = drop_rows(style, config.style_dropout), drop_conditions(sheet, config)
        noise = torch.randn(clean.shape).to(clean)
        if config.least_noise < 1:
            noise = noise * torch.empty(len(clean), 1, 1).uniform_(config.least_noise, 1.0).to(clean)
        self.player.load_state_dict(student.state_dict())
        stream = BlockStream(self.player, self.codec, self.scheduler, generators=[torch.Generator()] * len(clean),
                             block_frames=int(batch["block_frames"]) or clean.shape[-1],
                             window_frames=self.window_frames, device=self.player.device)  # fmt: skip
        made = play_blocks(stream, noise, style, sheet, self.steps)
        return {"clean": clean, "noise": noise, "made": made, "style": style, "lead_sheet": sheet,
                "block_frames": batch["block_frames"]}  # fmt: skip

    def ends(self, model, rolled: Rolled, steps: int | None = None) -> torch.Tensor:
        """What `model`, bare or prepared, makes of the roll-out's noise where the past is what was played: with
        gradients, to rounding what was made, if it is the student."""
        how = {name: rolled[name] for name in ("style", "lead_sheet")}
        if (block := int(rolled["block_frames"])) and block < rolled["made"].shape[-1]:
            how |= {"context": rolled["made"], "block_frames": block, "window_frames": self.window_frames}
        return path_end(model, rolled["noise"], steps or self.steps, self.shift, **how)

    def keep_loss(self, ends: torch.Tensor, rolled: Rolled, weights: torch.Tensor) -> torch.Tensor:
        """Weighted squared error of the ends' means over `keep_span` frames, where the student as it was ends."""
        with torch.no_grad():
            before = self.ends(self.before, rolled, self.steps_before)
        span = self.config.keep_span
        return flow_matching_loss(*(F.avg_pool1d(end.float(), span) for end in (ends, before)), weights)

    @torch.no_grad()
    def validate(
        self,
        student: RealTimeJazzFlowTransformer,
        judge: Judge,
        batches: FlowBatches,
        weights: torch.Tensor,
        count: int = 2,
    ) -> dict[str, float]:
        """On held-out takes, everything told: how the student's roll-outs stand.

        Returns:
            val_apart: share of places where the discriminator takes the take for the take; 0.5 where it cannot tell.
            val_fitting: share where it finds the take's own conditions the better ones. val_keep: `keep_loss`.
            val_deviation: deviation of what is made over that of the data, mean over the channels.
        """
        totals: dict[str, float] = {}
        sizes = batches.block_sizes
        for index in range(count):
            batch = batches(np.random.default_rng([99, index]))
            batch["block_frames"] = torch.tensor(VALIDATION_BLOCK if VALIDATION_BLOCK in sizes else sizes[-1])
            batch = {name: value.to(self.player.device) for name, value in batch.items()}
            torch.manual_seed(index)
            rolled = self.roll_out(student, batch, drop=False)
            take, fake, wrong = judge.logits(rolled, rolled["made"])
            spread = rolled["made"].std((0, 2)) / rolled["clean"].std((0, 2))
            measures = {"apart": share_above(take, fake), "fitting": share_above(take, wrong),
                        "keep": self.keep_loss(self.ends(student, rolled), rolled, weights),
                        "deviation": spread.mean()}  # fmt: skip
            for name, value in measures.items():
                totals[name] = totals.get(name, 0.0) + value.item() / count
        return {f"val_{name}": value for name, value in totals.items()}


class Judge:
    """The discriminator, its optimizer, and what it says.

    Args:
        teacher: which it begins as a copy of.

    Raises:
        ValueError: arguments that the discriminator does not know.
    """

    def __init__(self, run: TrainingRun, teacher: RealTimeJazzFlowTransformer, config: FlowFinishConfig):
        self.run, self.config = run, config
        try:
            discriminator = FlowDiscriminator(teacher, **config.discriminator).to(run.device)
        except TypeError as error:
            raise ValueError(f"discriminator: {error}; see FlowDiscriminator.") from error
        self.layers = discriminator.layers
        groups = [{"params": list(discriminator.heads.parameters())},
                  {"params": list(discriminator.body.parameters()), "lr": config.body_learning_rate}]  # fmt: skip
        optimizer = torch.optim.AdamW(
            groups, lr=config.discriminator_learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        )
        self.discriminator, self.optimizer = run.prepare(discriminator, optimizer)

    def logits(self, rolled: Rolled, ends: torch.Tensor) -> Sequence[torch.Tensor]:
        """Logits `(batch, heads, tokens)` of the takes, of `ends` under the same conditions, and of the takes under the
        next row's: at one time a row and with one noise, so that partners differ in nothing else."""
        time, noised = self._noise(rolled["clean"])
        sheet, style = rolled["lead_sheet"], rolled["style"]
        samples = torch.cat([noised(rolled["clean"]), noised(ends), noised(rolled["clean"])])
        sheets, styles = (torch.cat([each, each, each.roll(1, 0)]) for each in (sheet, style))
        return self.discriminator(samples, time.repeat(3), sheets, styles).chunk(3)

    def _noise(self, clean: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Times `(batch,)`, and what noises samples to them, all with the same noise."""
        time = torch.sigmoid(self.config.judged_mean + torch.randn(len(clean))).to(clean)
        share = time[:, None, None]
        noise = (1 - share) * torch.randn(clean.shape).to(clean)
        return time, lambda sample: noise + share * sample

    def learn(self, rolled: Rolled, ends: torch.Tensor) -> None:
        """A step of the discriminator on takes and what was made."""
        take, fake, wrong = self.logits(rolled, ends.detach())
        pairing, contrast = pairing_loss(take, fake), pairing_loss(take, wrong)
        self.run.backward(pairing + self.config.contrastive_weight * contrast, self.discriminator,
                          self.optimizer, name="grad_norm_discriminator")  # fmt: skip
        self.run.log(pairing=pairing, contrast=contrast,
                     apart=share_above(take, fake), fitting=share_above(take, wrong))  # fmt: skip

    def loss(self, rolled: Rolled, ends: torch.Tensor) -> torch.Tensor:
        """How far what was made is from being taken for the take."""
        time, noised = self._noise(rolled["clean"])
        conditions = time, rolled["lead_sheet"], rolled["style"]
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            take = self.discriminator(noised(rolled["clean"]), *conditions)
        fake = self.discriminator(noised(ends), *conditions)
        self.discriminator.requires_grad_(True)
        return pairing_loss(fake, take)


def share_above(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """Share of the places where a logit lies above its partner's."""
    return (better > worse).float().mean()


__all__ = ["Finisher", "FlowFinishConfig", "Judge", "share_above"]
