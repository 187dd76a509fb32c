from __future__ import annotations

import pytest
import torch

from rtjazz_hf.flow import RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig


@pytest.mark.parametrize(
    "name, low, high, layers, width, heads", [("base", 127, 140, 12, 768, 12), ("mini", 15, 19, 8, 384, 6)]
)
def test_published_sizes(name, low, high, layers, width, heads):
    config = getattr(RealTimeJazzFlowTransformerConfig, name)()
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (
        layers,
        width,
        heads,
    )
    with torch.device("meta"):
        model = RealTimeJazzFlowTransformer(config)
    assert low < model.num_parameters() / 1e6 < high


def test_sizes_can_be_overridden():
    config = RealTimeJazzFlowTransformerConfig.mini(
        patch_size=2, cue_channels=32, hidden_size=448, num_attention_heads=7
    )
    assert (config.patch_size, config.num_channels, config.hidden_size, config.head_dim) == (2, 160, 448, 64)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_size": "x"}, "hidden_size"),
        ({"hidden_size": 100}, "100; it must be a multiple of 64"),
        ({"intermediate_size": 100}, "100; it must be a multiple of 64"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"patch_size": 4}, "patch_size is 4; allowed are 1, 2, 3 and 6"),
        ({"block_frames": 37}, "block_frames is 37"),
        ({"block_sizes": (7,), "block_frames": 7, "patch_size": 2}, "multiples of patch_size 2"),
        ({"window_frames": 800}, "window_frames is 800"),
        ({"prediction_type": "noise"}, "'noise'; allowed are 'velocity' and 'codebook'"),
        ({"channel_weights": (1.0,)}, "1 entries; the state has 128"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(Exception, match=message):
        RealTimeJazzFlowTransformerConfig(**change)
