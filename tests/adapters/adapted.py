"""What the tests of adapters listen with."""

from __future__ import annotations

import numpy as np
import torch
from tiny_models import adapter_style

OPTIONS = {"block_frames": 12, "window_frames": 48, "seed": 1, "tempo": 120, "chords": "Dm7 | G7"}
STYLE = adapter_style()


def flow(transformer):
    """Velocities of one fixed input, by the path of training and by that of generation."""
    config = transformer.config
    generator = torch.Generator().manual_seed(5)
    sample = torch.randn(1, config.num_channels, 12, generator=generator)
    sheet = torch.rand(1, 12, config.lead_sheet_dim, generator=generator)
    style = STYLE[None, : config.style_dim]
    with torch.no_grad():
        conditions = transformer.prepare_conditions([0.3], sheet, style)
        return (
            transformer(sample, 0.3, sheet, style).sample,
            transformer(sample, conditions=conditions, step=0).sample,
        )


def assert_close(got, want, atol=1e-5):
    for one, other in zip(got, want):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


def play(pipe, **options):
    return pipe("swing", duration=0.5, generator=torch.Generator().manual_seed(1), **options).audios


def blocks(session, count):
    return np.concatenate([next(session).audio for _ in range(count)], axis=1)
