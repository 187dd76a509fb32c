"""Euler and Heun on the flow's time, which runs from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

from rtjazz_hf.runtime.bundled import BundledMixin

MAX_SHIFT = 1000.0  # beyond it all steps but the last stand at the noise


@dataclass
class FlowMatchSchedulerOutput(BaseOutput):
    """
    Args:
        prev_sample: `(batch, channels, frames)`, the input of the next model call (diffusers' name for it).
    """

    prev_sample: torch.Tensor


def check_scheduler(scheduler: object) -> None:
    """Refuse another scheduler by name: most run from data to noise, and what they make of this flow is loud noise."""
    if not isinstance(scheduler, FlowMatchScheduler):
        raise ValueError(
            f"scheduler {type(scheduler).__name__}: this flow's time runs from noise (0) to data (1), which only "
            "FlowMatchScheduler steps along: give FlowMatchScheduler(shift=..., method='euler' or 'heun')"
        )


class FlowMatchScheduler(BundledMixin, SchedulerMixin, ConfigMixin):
    """
    Every time and every step formula of the flow.

    Euler keeps no state between steps. Heun calls the model twice a step (once in the last) and keeps the
    first call's velocity: sessions that share a model need a scheduler each: `from_config(config)`.

    Args:
        shift (`float`, defaults to 1.0):
            `t' = t / (t + shift (1 - t))`. More than 1 spends more steps near the noise; this is the shift of
            Stable Diffusion 3 (arXiv:2403.03206), whose time runs the other way.
        method (`str`, defaults to `"euler"`): `"euler"` or `"heun"`.
        init_noise_sigma (`float`, defaults to 1.0):
            Deviation of the noise that a block begins with, above 0 and at most 2. Less than 1 plays what is likelier:
            held notes are steadier and the gaps between partials clearer, and clips differ less from each other.
    """

    _compatibles: ClassVar[list] = []
    bundled_part = "scheduler"

    @register_to_config
    def __init__(self, shift: float = 1.0, method: str = "euler", init_noise_sigma: float = 1.0):
        if not (isinstance(shift, (int, float)) and 0 < shift <= MAX_SHIFT):
            raise ValueError(f"shift is {shift}; it must be positive, and at most {MAX_SHIFT:g}.")
        if method not in ("euler", "heun"):
            raise ValueError(f"method is {method!r}; allowed are 'euler' and 'heun'.")
        if not 0 < init_noise_sigma <= 2:
            raise ValueError(f"init_noise_sigma is {init_noise_sigma}; it must be above 0 and at most 2.")
        self.init_noise_sigma = float(init_noise_sigma)
        self.set_timesteps(8)

    @property
    def order(self) -> int:
        """Model calls a step."""
        return 2 if self.config.method == "heun" else 1

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """
        Lay out the times: `timesteps` holds one a model call, from 0 up to, not including, 1.

        Args:
            num_inference_steps: Steps, at least 1; Heun calls the model `2 * steps - 1` times.
        """
        if isinstance(num_inference_steps, bool) or int(num_inference_steps) != num_inference_steps:
            raise ValueError(f"num_inference_steps is {num_inference_steps!r}; it must be a whole number.")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be at least 1.")
        self.num_inference_steps = int(num_inference_steps)
        grid = self.shift_time(torch.linspace(0, 1, self.num_inference_steps + 1, dtype=torch.float64))
        self.grid = grid.to(torch.float32).to(device)  # (steps + 1,)
        starts = self.grid[:-1]
        # Heun looks at the end of a step, the start of the next one; the last step, to t = 1, is Euler's.
        self.timesteps = (
            starts if self.order == 1 else torch.cat((starts[:1], starts[1:].repeat_interleave(2)))
        )
        self._call = 0
        self._start = None

    def shift_time(self, timestep: torch.Tensor) -> torch.Tensor:
        """The schedule's time of an even one in [0, 1]."""
        return timestep / (timestep + self.config.shift * (1 - timestep))

    def scale_model_input(
        self, sample: torch.Tensor, timestep: torch.Tensor | float | None = None
    ) -> torch.Tensor:
        """Flow matching needs no scaling: the sample as it is."""
        return sample

    def scale_noise(
        self, sample: torch.Tensor, timestep: torch.Tensor | float, noise: torch.Tensor
    ) -> torch.Tensor:
        """
        The point at `timestep` between noise and data, `(1 - t) noise + t sample`.

        Args:
            sample, noise: `(batch, channels, frames)`.
            timestep: A number, `(batch,)`, or `(batch, blocks)` for equal blocks of frames.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).to(sample.dtype)
        if timestep.ndim == 1:
            timestep = timestep[:, None, None]
        elif timestep.ndim == 2:
            frames, blocks = sample.shape[-1], timestep.shape[1]
            if frames % blocks:
                raise ValueError(
                    f"timestep has {blocks} blocks, which do not divide the sample's {frames} frames."
                )
            timestep = timestep.repeat_interleave(frames // blocks, dim=1)[:, None]
        return (1 - timestep) * noise + timestep * sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> FlowMatchSchedulerOutput | tuple[torch.Tensor]:
        """
        One step along the velocity.

        Args:
            model_output: Velocity at `sample`, `(batch, channels, frames)`.
            timestep: One of `timesteps`; Heun wants them in order.
            sample: The state the model was called with.
        """
        if self.order == 2:
            prev_sample = self._step_heun(model_output, sample.float())
        else:
            index = (self.grid[:-1] - torch.as_tensor(timestep, device=self.grid.device)).abs().argmin()
            step_size = (self.grid[index + 1] - self.grid[index]).to(sample.device)
            prev_sample = sample.float() + step_size * model_output.float()
        prev_sample = prev_sample.to(sample.dtype)
        return FlowMatchSchedulerOutput(prev_sample=prev_sample) if return_dict else (prev_sample,)

    def _step_heun(self, velocity: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        if self._call >= len(self.timesteps):
            raise ValueError(f"All {len(self.timesteps)} timesteps are used up; call set_timesteps first.")
        index, second = divmod(self._call, 2)
        step_size = (self.grid[index + 1] - self.grid[index]).to(sample.device)
        self._call += 1
        if not second:
            self._start = (sample, velocity.float())
            return sample + step_size * velocity.float()
        (start, first), self._start = self._start, None
        return start + step_size * 0.5 * (first + velocity.float())

    def __len__(self) -> int:
        return len(self.timesteps)


__all__ = ["FlowMatchScheduler", "FlowMatchSchedulerOutput", "check_scheduler"]
