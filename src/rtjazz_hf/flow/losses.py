"""
What the flow is trained on: times, targets, losses, and the corruptions that make it robust.

The path is `x_t = (1 - t) x_0 + t x_1` with noise at t = 0 (`FlowMatchScheduler.scale_noise`), so the
velocity is `x_1 - x_0` (flow matching, arXiv:2210.02747; logit-normal times, arXiv:2403.03206).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def sample_timesteps(
    shape: Sequence[int],
    distribution: str = "logit_normal",
    *,
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """
    Times in [0, 1) to train at, float32 of `shape`: `(batch,)`, or `(batch, blocks)`.

    Args:
        distribution: `"uniform"`, or `"logit_normal"`, the sigmoid of a normal of `mean` and `std`.
        shift: More than 1 moves the times towards noise, as in `FlowMatchScheduler`.
        generator: Drawn from on its own device, so that a seed gives the same times anywhere.
    """
    source = generator.device if generator is not None else device
    if distribution == "uniform":
        timesteps = torch.rand(tuple(shape), generator=generator, device=source)
    elif distribution == "logit_normal":
        timesteps = torch.sigmoid(mean + std * torch.randn(tuple(shape), generator=generator, device=source))
    else:
        raise ValueError(f"distribution is {distribution!r}; allowed are 'uniform' and 'logit_normal'.")
    if shift <= 0:
        raise ValueError(f"shift is {shift}; it must be positive.")
    timesteps = timesteps / (timesteps + shift * (1 - timesteps))
    return timesteps.to(device) if device is not None else timesteps


def velocity_target(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The velocity that carries `noise` to `clean`."""
    return clean - noise


def flow_matching_loss(
    velocity: torch.Tensor,
    target: torch.Tensor,
    channel_weights: Sequence[float] | torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """
    Squared error of the velocity (L_CFM), in float32.

    Args:
        velocity, target: `(batch, channels, frames)`.
        channel_weights: One a channel; only their ratios matter.
        mask: `(batch, frames)`, true where the frame counts.
        reduction: `"mean"`: a scalar; `"none"`: the channel mean of every frame, `(batch, frames)`.
    """
    error = (velocity.float() - target.float()).square()
    if channel_weights is None:
        frames = error.mean(1)  # (batch, frames)
    else:
        weights = torch.as_tensor(channel_weights, dtype=error.dtype, device=error.device)
        if weights.shape != (error.shape[1],):
            raise ValueError(
                f"{weights.numel()} channel_weights were given; the velocity has {error.shape[1]} channels."
            )
        # Not a matrix product, which autocast would take to 16 bit.
        frames = (error * (weights / weights.sum())[:, None]).sum(1)
    return _reduce(frames, mask, reduction)


def energy_score(
    one: torch.Tensor,
    other: torch.Tensor,
    target: torch.Tensor,
    channel_weights: Sequence[float] | torch.Tensor | None = None,
    span: int = 3,
) -> torch.Tensor:
    """
    How far what is made lies from the data, less half of how far two makings lie apart: float32, a scalar.

    The energy score (Gneiting and Raftery 2007), in expectation least where the makings are distributed as the data:
    so a model that makes its ends in one step or two learns to spread as they do, where the squared error would teach
    it their mean (as in arXiv:2502.02483).

    Args:
        one, other, target: `(batch, channels, frames)`: two ends from independent noise under the same conditions,
            and the data.
        channel_weights: One a channel; only their ratios matter.
        span: Frames that are judged together, as one vector; a rest is left out.
    """
    weights = torch.ones(target.shape[1]) if channel_weights is None else channel_weights
    weights = torch.as_tensor(weights, dtype=torch.float32, device=target.device)
    scale = (weights / weights.sum() / span).sqrt()[:, None]

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        apart = ((a.float() - b.float()) * scale).unfold(-1, span, span)  # (batch, channels, spans, span)
        return (apart.square().sum((1, 3)) + 1e-8).sqrt().mean()  # 1e-8: a root has no slope at 0

    return (distance(one, target) + distance(other, target) - distance(one, other)) / 2


def pairing_loss(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """
    How far logits `better` are from lying above those of their partners `worse`: float32, a scalar, log 2 where
    neither is.

    The relativistic loss (arXiv:1807.00734, paired as in arXiv:2501.05441): a discriminator learns with takes as
    `better` and what was made under the same conditions as `worse`, and a generator the other way round; with takes
    under conditions of others as `worse` it is the contrastive loss of arXiv:2505.08175.
    """
    return F.softplus(worse.float() - better.float()).mean()


def codebook_loss(
    logits: torch.Tensor,
    codes: torch.Tensor,
    level_weights: Sequence[float] | torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """
    Cross-entropy of the codes in nats, mean over levels.

    Args:
        logits: `(batch, levels, frames, codebook_size)`.
        codes: `(batch, levels, frames)` int64.
        level_weights: One a level; only their ratios matter.
        mask, reduction: As in `flow_matching_loss`.
    """
    if codes.shape != logits.shape[:3]:
        raise ValueError(
            f"codes has shape {tuple(codes.shape)}; the logits ask for {tuple(logits.shape[:3])}."
        )
    entropy = F.cross_entropy(logits.float().flatten(0, 2), codes.flatten().long(), reduction="none")
    entropy = entropy.view(codes.shape)
    if level_weights is None:
        frames = entropy.mean(1)
    else:
        weights = torch.as_tensor(level_weights, dtype=entropy.dtype, device=entropy.device)
        frames = (entropy * (weights / weights.sum())[:, None]).sum(1)
    return _reduce(frames, mask, reduction)


def labelled_loss(
    velocity: torch.Tensor | None, logits: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """
    The loss of a model's output for labels, as `transformers.Trainer` asks for it.

    Args:
        velocity, logits: Of the output; `logits` is `None` for a velocity model.
        labels: Of a velocity model the velocity to learn, `(batch, channels, frames)`: `velocity_target`. Of a codebook
            model the codes, `(batch, levels, frames)`; cue channels have no part in it.

    Raises:
        ValueError: Labels of another shape.
    """
    if logits is not None:
        return codebook_loss(logits, labels)
    if velocity.shape != labels.shape:
        raise ValueError(f"labels has shape {tuple(labels.shape)}; the velocity has {tuple(velocity.shape)}.")
    return flow_matching_loss(velocity, labels)


def _reduce(frames: torch.Tensor, mask: torch.Tensor | None, reduction: str) -> torch.Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}; allowed are 'mean' and 'none'.")
    if mask is not None:
        frames = frames * mask
    if reduction == "none":
        return frames
    return frames.mean() if mask is None else frames.sum() / mask.sum().clamp_min(1)


def drop_rows(
    condition: torch.Tensor, probability: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Zero whole rows (axis 0) of a style or lead sheet, which the transformer reads as "none"."""
    device = generator.device if generator is not None else condition.device
    keep = torch.rand(condition.shape[0], generator=generator, device=device) >= probability
    return condition * keep.to(condition).view(-1, *[1] * (condition.ndim - 1))


def corrupt_context(
    clean: torch.Tensor, max_noise: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """
    A little noise on the context, against exposure bias: live, the context is the model's own.

    Every row of `clean` `(batch, channels, frames)` is mixed with a share of noise drawn from [0, max_noise).
    """
    device = generator.device if generator is not None else clean.device
    share = max_noise * torch.rand(clean.shape[0], 1, 1, generator=generator, device=device).to(clean)
    noise = torch.randn(clean.shape, generator=generator, device=device).to(clean)
    return (1 - share) * clean + share * noise


def drift_context(
    context: torch.Tensor, max_drift: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """
    A gain and an offset on every channel of the context, constant in time: what adds up, live, over a minute.

    Every row of `context` `(batch, channels, frames)`, normalised, has a share s drawn from [0, max_drift), and
    every channel of it a gain of 1 + s n and an offset of s n, n normal.
    """
    device = generator.device if generator is not None else context.device
    rows, channels, _ = context.shape
    share = max_drift * torch.rand(rows, 1, 1, generator=generator, device=device)
    gain, offset = share * torch.randn(2, rows, channels, 1, generator=generator, device=device)
    return context * (1 + gain).to(context) + offset.to(context)


def replace_blocks(
    context: torch.Tensor, other: torch.Tensor, block_frames: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """
    Blocks of `context` `(batch, channels, frames)` replaced by those of `other`: of every row a share drawn from
    [0, 1), its blocks at random.
    """
    device = generator.device if generator is not None else context.device
    rows, _, frames = context.shape
    share = torch.rand(rows, 1, generator=generator, device=device)
    replaced = torch.rand(rows, frames // block_frames, generator=generator, device=device) < share
    replaced = replaced.repeat_interleave(block_frames, dim=1)[:, None].to(context.device)
    return torch.where(replaced, other, context)


__all__ = [
    "codebook_loss",
    "corrupt_context",
    "drift_context",
    "drop_rows",
    "energy_score",
    "flow_matching_loss",
    "labelled_loss",
    "pairing_loss",
    "replace_blocks",
    "sample_timesteps",
    "velocity_target",
]
