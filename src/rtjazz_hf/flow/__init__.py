"""The flow: a transformer that turns noise into latents, its cache, its scheduler and its losses."""

from __future__ import annotations

import importlib

_NAMES = {
    "FlowCache": "cache",
    "FlowConditions": "conditions",
    "RealTimeJazzFlowTransformerConfig": "configuration_realtime_jazz_flow",
    "FlowDiscriminator": "discriminator",
    "apply_guidance": "guidance",
    "codebook_loss": "losses",
    "corrupt_context": "losses",
    "drift_context": "losses",
    "drop_rows": "losses",
    "energy_score": "losses",
    "flow_matching_loss": "losses",
    "pairing_loss": "losses",
    "replace_blocks": "losses",
    "sample_timesteps": "losses",
    "velocity_target": "losses",
    "FlowTransformerOutput": "head",
    "RealTimeJazzFlowTransformer": "modeling_realtime_jazz_flow",
    "FlowMatchScheduler": "scheduling_flow_match",
    "FlowMatchSchedulerOutput": "scheduling_flow_match",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
