"""More channels for a flow that is trained already."""

from __future__ import annotations

import torch

from ..runtime.configs import settings_of
from .modeling_realtime_jazz_flow import RealTimeJazzFlowTransformer


@torch.no_grad()
def with_latent_channels(old: RealTimeJazzFlowTransformer, latent_dim: int) -> RealTimeJazzFlowTransformer:
    """A flow of more latent channels, which plays those that `old` has as `old` does.

    The new channels follow the old ones. They are not heard at first, and their velocity begins at zero: columns that
    read them and rows that write them are zero.

    Args:
        latent_dim: at least that of `old`.

    Returns:
        A float32 copy in training mode; its `channel_weights` are 1 for the new channels, if `old` has any.

    Raises:
        ValueError: fewer channels, cue channels (they would not stay at the end), or a codebook model.
    """
    config = old.config
    new = latent_dim - config.latent_dim
    if new < 0:
        raise ValueError(
            f"latent_dim {latent_dim} is less than the {config.latent_dim} channels of this flow; give more"
        )
    if config.cue_channels or config.prediction_type != "velocity":
        raise ValueError(
            f"a flow with {config.cue_channels} cue channels and prediction_type {config.prediction_type!r} cannot be "
            "given more latent channels; one of velocity and without cues can"
        )
    settings = settings_of(config) | {"latent_dim": latent_dim}
    # What the class derives where nothing is given.
    settings |= {name: getattr(config, name) for name in ("num_style_heads", "adaln_rank")}
    if config.channel_weights is not None:
        settings["channel_weights"] = (*config.channel_weights, *[1.0] * new)
    model = RealTimeJazzFlowTransformer(type(config)(**settings)).float()
    weights = old.state_dict()
    reads, writes = "input_proj.weight", ("head.proj.weight", "head.proj.bias")
    for name, value in model.state_dict().items():
        if name == reads:  # (width, patch * channels)
            value.zero_()
            value.unflatten(1, (config.patch_size, -1))[..., : config.latent_dim] = weights[name].unflatten(
                1, (config.patch_size, -1)
            )
        elif name in writes:  # (patch * channels, ...)
            value.zero_()
            value.unflatten(0, (config.patch_size, -1))[:, : config.latent_dim] = weights[name].unflatten(
                0, (config.patch_size, -1)
            )
        else:
            value.copy_(weights[name])
    return model.train()


__all__ = ["with_latent_channels"]
