"""The Hub: registration, loading and checking, model cards, and pushing (`rtjazz_hf.hub.publishing`).

The names load on first use, because `import rtjazz_hf` comes through here to `register()`.
"""

from __future__ import annotations

import importlib

_NAMES = {
    "CARD_KINDS": "cards",
    "NO_SAMPLE": "cards",
    "card_metadata": "cards",
    "fill_model_card": "cards",
    "model_card": "cards",
    "BUNDLED_MODELS": "loading",
    "bundled_folder": "loading",
    "check_loaded_weights": "loading",
    "check_pipeline_folder": "loading",
    "PLACES": "loading",
    "check_repo_id": "loading",
    "check_revision": "loading",
    "check_safetensors": "loading",
    "download_pipeline": "loading",
    "load_codec": "loading",
    "load_mapped_part": "loading",
    "load_part": "loading",
    "load_style_encoder": "loading",
    "part_folder": "loading",
    "quiet_libraries": "loading",
    "read_json": "loading",
    "resolve_pretrained": "loading",
    "weight_names": "loading",
    "COMPONENTS": "registration",
    "MODELS": "registration",
    "MODEL_TYPES": "registration",
    "PACKAGE": "registration",
    "PIPELINE_CLASS": "registration",
    "TOKENIZERS": "registration",
    "register": "registration",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
