"""Configs, from which others are made."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

_OF_THE_FILE = {"dtype", "architectures", "transformers_version", "model_type"}


class PlainConfig(PreTrainedConfig):
    """A config whose layers are all alike, which is read as any object is: transformers' own look-up, for models whose
    layers differ, takes 2 us, some hundred times a block."""

    __getattribute__ = object.__getattribute__


def settings_of(config: PreTrainedConfig) -> dict[str, Any]:
    """What a config was made with, without what belongs to the file that it came from.

    `type(config)(**(settings_of(config) | changes))` is the same config with other sizes. What a class derives of
    other settings where nothing is given is among them only if it is not what an empty config has.
    """
    own = vars(type(config)()).keys() - _OF_THE_FILE
    return {key: value for key, value in config.to_diff_dict().items() if key in own}
