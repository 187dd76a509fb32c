"""
Fewer steps: a student that takes in one step, at one row, what a guided teacher takes several steps of two rows for.

The teacher plays takes block by block as the live engine does, with guidance. Its path from noise to music is cut at
the student's grid, and the student's velocity at each cut is taught the straight line to the next one:
`(x_end - x_start) / (t_end - t_start)`. With one sub-step a step that folds guidance in (Meng et al. 2023,
arXiv:2210.03142); with several it is progressive distillation (Salimans and Ho 2022, arXiv:2202.00512), its
velocity form, along whole paths. Two corrections against errors that add up at play:

- a share of the paths goes on from where the student's own steps lead, and the teacher shows the way from there
  (Ross et al. 2011, arXiv:1011.0686);
- a share of the streams hears what was just made in place of the take (self forcing, Huang et al. 2025,
  arXiv:2506.08009).

The teacher's own few guided steps spread less than music does. So the student may learn from the takes too: the
energy score of its ends (`score_weight`; De Bortoli et al. 2025, arXiv:2502.02483).

The loop is in `training/distill_flow.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..codec import RealTimeJazzCodec
from ..corpus.latent_store import flow_state
from ..flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
from ..flow.losses import corrupt_context, drop_rows, energy_score, flow_matching_loss
from ..hub import load_part, part_folder
from ..live.engine import BlockStream
from ..runtime.precision import training_precision
from .dropping import drop_conditions
from .flow import VALIDATION_BLOCK, FlowBatches, FlowTrainConfig, batch_conditions

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class StudentConfig(FlowTrainConfig):
    """What every training of a student has beside the settings of a flow's own. `batch_size` counts streams."""

    teacher: str = ""  # train_flow.py's folder, distill_flow.py's, or a pipeline
    block_sizes: list = field(
        default_factory=list
    )  # drawn from, repeats count; none: all that the flow knows
    least_noise: float = 1.0  # deviation of the noise that a stream begins blocks with: drawn from here to 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher:
            raise ValueError(
                "teacher is missing: give --teacher, the folder of a trained flow, or a pipeline."
            )
        if self.model:
            raise ValueError("model is given; a student has its teacher's sizes: leave the setting out.")
        if not 0 < self.least_noise <= 1:
            raise ValueError(f"least_noise is {self.least_noise}; it must be above 0 and at most 1.")


@dataclass
class FlowDistillConfig(StudentConfig):
    """Settings of a flow's distillation beside those of its training; the student starts from the teacher and sees each
    stream at all of its steps. Where a teacher's setting is None, it is the teacher's own (`sampling_defaults`)."""

    steps: int = 4  # of the student, a block
    teacher_steps: int | None = None  # a multiple of steps
    guidance_scale: float | None = None  # of the teacher
    shift: float | None = None  # of the grid of both
    student_path_rate: float = 0.5  # share of streams whose paths follow the student's own steps
    rollout_rate: float = 0.5  # share of streams whose context is what was made, not the take
    score_weight: float = 0.0  # of the energy score of the student's ends against the takes

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("student_path_rate", "rollout_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1.")
        for name in ("steps", "teacher_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if not self.score_weight >= 0:
            raise ValueError(f"score_weight is {self.score_weight}; it must not be negative.")
        if self.shift is not None and not self.shift > 0:
            raise ValueError(f"shift is {self.shift}; it must be positive.")
        if self.guidance_scale is not None and self.guidance_scale < 0:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be 0 or more; 1 is none.")


def load_flow(source: str, channels: int) -> RealTimeJazzFlowTransformer:
    """A trained flow in float32: of train_flow.py's or distill_flow.py's folder, or of a pipeline.

    Raises:
        OSError: missing, not reachable or cut short.
        ValueError: another kind of model, or one of a state of other than `channels` channels.
    """
    model = load_part(part_folder(source, "transformer"), "transformer")
    if model.config.num_channels != channels:
        raise ValueError(
            f"the flow {source} makes {model.config.num_channels} channels, the store holds {channels}; give the "
            "flow that was trained on these latents."
        )
    return model


class Distiller:
    """What the student learns from, and how near it has come.

    Args:
        teacher: plays, and is never changed; a copy plays, in the type of `config.mixed_precision`.
        codec: of the engine; nothing is decoded.

    Attributes: `grid`, the student's times `(steps + 1,)`; `teacher_steps`, `guidance_scale`, `shift`,
    `block_sizes` and `window_frames` as settled.

    Raises:
        ValueError: steps, shift or block sizes that do not fit the teacher.
    """

    def __init__(
        self, teacher: RealTimeJazzFlowTransformer, codec: RealTimeJazzCodec, config: FlowDistillConfig
    ):
        own = teacher.config.sampling_defaults
        self.teacher_steps = config.teacher_steps or own["num_inference_steps"]
        given = config.guidance_scale
        self.guidance_scale = own["guidance_scale"] if given is None else given
        self.shift = own["shift"] if config.shift is None else config.shift
        if teacher.config.distilled_steps is not None:
            taught = (teacher.config.distilled_steps, float(teacher.config.distilled_shift))
            if (self.teacher_steps, float(self.shift)) != taught:
                raise ValueError(
                    f"teacher_steps is {self.teacher_steps} and shift {self.shift}; {config.teacher} was distilled "
                    f"to {taught[0]} steps of shift {taught[1]} and knows no others: leave both out."
                )
        if self.teacher_steps % config.steps:
            raise ValueError(
                f"steps is {config.steps}; it must divide the teacher's {self.teacher_steps} (teacher_steps)."
            )
        self.block_sizes = tuple(config.block_sizes or teacher.config.block_sizes)
        if unknown := set(self.block_sizes) - set(teacher.config.block_sizes):
            raise ValueError(
                f"block_sizes has {', '.join(map(str, unknown))}; the teacher plays {teacher.config.block_sizes}."
            )
        window = config.window_frames
        self.window_frames = teacher.config.window_frames if window is None else window
        self.config, self.codec = config, codec
        self.scheduler = FlowMatchScheduler(shift=self.shift)
        self.scheduler.set_timesteps(config.steps)
        self.grid = self.scheduler.grid.tolist()
        dtype = DTYPES[training_precision(config.mixed_precision)]
        self.teacher = copy.deepcopy(teacher).to(dtype).eval().requires_grad_(False)
        # the student as it plays: a copy, in the type that is fast
        self.player = copy.deepcopy(self.teacher)
        self._marks: dict[int, torch.Tensor] = {}  # the teacher's ends on validation batches

    def to(self, device: torch.device | str) -> Distiller:
        self.teacher.to(device)
        self.player.to(device)
        return self

    # --- what is learnt -----------------------------------------------------------------------------

    @torch.no_grad()
    def make_pairs(self, student: RealTimeJazzFlowTransformer, batch: dict) -> dict[str, torch.Tensor]:
        """Let the teacher play a batch of `FlowBatches`: the student's inputs, and velocities to learn.

        Args:
            student: whose steps some paths follow: the weights that will ship, an average where there is one.

        Returns:
            sample, target: `(steps * batch, channels, frames)`. timestep: `(steps * batch,)`. context, style,
            lead_sheet, block_frames, window_frames: as the flow is called in training.
        """
        config, clean = self.config, flow_state(batch)
        rows, _, frames = clean.shape
        block = int(batch["block_frames"]) or frames
        style = drop_rows(batch["style"], config.style_dropout)
        sheet = drop_conditions(batch["lead_sheet"], config)
        rates = (config.student_path_rate, config.rollout_rate)
        follows, rolls_out = ((torch.rand(rows, 1, 1) < rate).to(clean.device) for rate in rates)
        noise = torch.randn(clean.shape).to(clean)
        if config.least_noise < 1:
            noise = noise * torch.empty(rows, 1, 1).uniform_(config.least_noise, 1.0).to(clean)
        self.player.load_state_dict(student.state_dict())

        streams = self._stream(self.teacher, rows, block), self._stream(self.player, rows, block)
        context, starts, velocities = torch.zeros_like(clean), [], []
        for first in range(0, frames, block):
            part = slice(first, first + block)
            cuts, lines, end = self._walk(*streams, noise[..., part], style, sheet[:, part], follows)
            starts.append(cuts)
            velocities.append(lines)
            if block < frames:
                heard = torch.where(rolls_out, end, clean[..., part])
                context[..., part] = corrupt_context(heard, config.context_noise)
                for stream in streams:
                    stream.append(context[..., part])
        times = torch.tensor(self.grid[:-1], device=clean.device)
        return {
            "sample": torch.cat(starts, -1).flatten(0, 1),
            "target": torch.cat(velocities, -1).flatten(0, 1),
            "timestep": times.repeat_interleave(rows),
            "context": context.repeat(config.steps, 1, 1),
            "style": style.repeat(config.steps, 1),
            "lead_sheet": sheet.repeat(config.steps, 1, 1),
            "block_frames": batch["block_frames"],
            "window_frames": torch.tensor(self.window_frames),
        }

    def _walk(self, teacher, student, noise, style, sheet, follows):
        """One block from noise to its end: the states `(steps, batch, channels, frames)` where the student's steps
        start, the velocities along which the teacher leaves them, and the end."""
        starts, velocities = [noise], []
        substeps = self.teacher_steps // self.config.steps

        def cut(index: int, _t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
            if (index + 1) % substeps:
                return None
            step, start = len(velocities), starts[-1]
            size = self.grid[step + 1] - self.grid[step]
            velocities.append((latents - start) / size)
            if follows.any():
                dtype = self.player.dtype
                own = self.player(start.to(dtype), self.grid[step], lead_sheet=sheet.to(dtype),
                                  style=style.to(dtype), cache=student.cache).sample  # fmt: skip
                latents = torch.where(follows, start + size * own.float(), latents)
            starts.append(latents)
            return latents

        end = teacher.denoise(noise, style, sheet, num_inference_steps=self.teacher_steps,
                              guidance_scale=self.guidance_scale, on_step_end=cut)  # fmt: skip
        return torch.stack(starts[:-1]), torch.stack(velocities), end

    def _stream(self, model: RealTimeJazzFlowTransformer, rows: int, block: int) -> BlockStream:
        return BlockStream(model, self.codec, self.scheduler, generators=[torch.Generator()] * rows,
                           block_frames=block, window_frames=self.window_frames,
                           device=model.device)  # fmt: skip

    # --- how near it is -----------------------------------------------------------------------------

    @torch.no_grad()
    def play_in_context(
        self,
        model: RealTimeJazzFlowTransformer,
        batch: dict,
        noise: torch.Tensor,
        steps: int,
        guidance_scale: float,
    ) -> torch.Tensor:
        """Every block of a batch played after the take's own blocks: `(batch, channels, frames)`."""
        clean, block = flow_state(batch), int(batch["block_frames"])
        stream = self._stream(model, len(clean), block)
        return play_blocks(stream, noise, batch["style"], batch["lead_sheet"], steps, guidance_scale, clean)

    def validate(
        self,
        student: RealTimeJazzFlowTransformer,
        batches: FlowBatches,
        weights: torch.Tensor,
        count: int = 2,
    ) -> dict[str, float]:
        """The student's ends beside those of the teacher, from the same noise after the same held-out blocks.

        Returns:
            val_end: weighted squared error, where data has variance 1. val_deviation: deviation of the student's
            ends over that of the data, mean over the channels; too few steps lose it. val_teacher_end,
            val_teacher_deviation: the same of the teacher in as many guided steps as the student takes.
        """
        self.player.load_state_dict(student.state_dict())
        totals: dict[str, float] = {}
        sizes, steps = batches.block_sizes, self.config.steps
        for index in range(count):
            batch = batches(np.random.default_rng([99, index]))
            batch["block_frames"] = torch.tensor(VALIDATION_BLOCK if VALIDATION_BLOCK in sizes else sizes[-1])
            batch = {name: value.to(self.teacher.device) for name, value in batch.items()}
            clean = flow_state(batch)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index)).to(clean)
            if index not in self._marks:
                played = [self.play_in_context(self.teacher, batch, noise, count, self.guidance_scale)
                          for count in (self.teacher_steps, steps)]  # fmt: skip
                self._marks[index] = torch.stack(played)
            mark, hasty = self._marks[index]
            ends = {"": self.play_in_context(self.player, batch, noise, steps, 1.0), "teacher_": hasty}
            for name, end in ends.items():
                spread = end.std((0, 2)) / clean.std((0, 2))
                error = flow_matching_loss(end, mark, weights)
                for key, value in ((f"val_{name}end", error), (f"val_{name}deviation", spread.mean())):
                    totals[key] = totals.get(key, 0.0) + value.item() / count
        return totals


def play_blocks(
    stream: BlockStream,
    noise: torch.Tensor,
    style: torch.Tensor,
    lead_sheet: torch.Tensor,
    steps: int,
    guidance_scale: float = 1.0,
    heard: torch.Tensor | None = None,
) -> torch.Tensor:
    """What a stream makes of `noise` `(batch, channels, frames)`, block by block, as the engine plays.

    Args:
        style: `(batch, style_dim)`. lead_sheet: `(batch, frames, feature_dim)`.
        heard: what joins the past in place of what was made, of the noise's shape.
    """
    ends = []
    for first in range(0, noise.shape[-1], stream.block_frames):
        part = slice(first, first + stream.block_frames)
        ends.append(
            stream.denoise(noise[..., part], style, lead_sheet[:, part],
                           num_inference_steps=steps, guidance_scale=guidance_scale)
        )  # fmt: skip
        stream.append(ends[-1] if heard is None else heard[..., part])
    return torch.cat(ends, -1)


def student_path(
    model, noise: torch.Tensor, steps: int, shift: float, **how
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """A student's own steps from `noise` `(batch, channels, frames)` on: the sample, its time `(batch,)` and the
    velocity there, of each. `how`: as the flow is called in training."""
    scheduler = FlowMatchScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    sample = noise
    for time in scheduler.timesteps:
        times = time.expand(len(noise)).to(noise)
        velocity = model(sample, times, **how).sample
        yield sample, times, velocity
        sample = scheduler.step(velocity, time, sample).prev_sample


def path_end(model, noise: torch.Tensor, steps: int, shift: float, **how) -> torch.Tensor:
    """Where `student_path` leads, with gradients: `(batch, channels, frames)`."""
    for sample, times, velocity in student_path(model, noise, steps, shift, **how):
        end = sample + (1 - times[:, None, None]) * velocity  # of the last step, which leads to t = 1
    return end


def student_ends(
    model, clean: torch.Tensor, steps: int, shift: float, makings: int = 2, **how
) -> torch.Tensor:
    """What a student makes in its own steps from fresh noise, with gradients: `(makings, batch, channels, frames)`.

    Args:
        model: the student, bare or prepared. clean: `(batch, channels, frames)`, what its ends may be compared with.
        how: as the flow is called in training: lead_sheet, style, and context, block_frames, window_frames.
    """
    rows = makings * len(clean)

    def repeated(value):
        is_batch = torch.is_tensor(value) and value.ndim > 0
        return value.repeat(makings, *[1] * (value.ndim - 1)) if is_batch else value

    how = {name: repeated(value) for name, value in how.items()}
    noise = torch.randn(rows, *clean.shape[1:]).to(clean)
    return path_end(model, noise, steps, shift, **how).unflatten(0, (makings, len(clean)))


def score_loss(
    model, batch: dict, weights: torch.Tensor, steps: int, shift: float, context_noise: float = 0.0
) -> torch.Tensor:
    """Energy score of what a student makes of a batch in its own steps, every block after the takes' own blocks."""
    clean = flow_state(batch)
    ends = student_ends(model, clean, steps, shift, **batch_conditions(batch, context_noise))
    return energy_score(*ends, clean, weights)


def distill_losses(model, pairs: dict[str, torch.Tensor], weights: torch.Tensor, steps: int) -> torch.Tensor:
    """Squared error of the student's velocity at each of its steps, `(steps,)`, from `Distiller.make_pairs`."""
    conditions = {name: pairs[name] for name in ("style", "lead_sheet")}
    if block := int(pairs["block_frames"]):
        conditions |= {"context": pairs["context"], "block_frames": block,
                       "window_frames": int(pairs["window_frames"])}  # fmt: skip
    velocity = model(pairs["sample"], pairs["timestep"], **conditions).sample
    errors = flow_matching_loss(velocity, pairs["target"], weights, reduction="none")
    return errors.unflatten(0, (steps, -1)).mean((1, 2))


__all__ = [
    "DTYPES",
    "Distiller",
    "FlowDistillConfig",
    "StudentConfig",
    "distill_losses",
    "load_flow",
    "path_end",
    "play_blocks",
    "score_loss",
    "student_ends",
    "student_path",
]
