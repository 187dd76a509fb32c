"""RealTimeJazz: 48 kHz stereo jazz from words, a clip or a chord chart, in whole clips or endless and live.

The public names load on first use, so that `import rtjazz_hf` stays cheap. The same import makes the models
known to `transformers.AutoModel` and `diffusers.DiffusionPipeline` (see `rtjazz_hf.hub`), and has torch's threads
sleep while they wait for each other (see `rtjazz_hf.runtime.threads`).
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rtjazz_hf.hub.registration import register
from rtjazz_hf.runtime.threads import let_threads_sleep

let_threads_sleep()  # before anything imports torch
__version__ = "0.1.0"

_HOME_OF = {
    "RealTimeJazzPipeline": "pipeline_realtime_jazz",
    "RealTimeJazzPipelineOutput": "pipeline_realtime_jazz",
    "RealTimeJazzCodec": "codec",
    "RealTimeJazzCodecConfig": "codec",
    "RealTimeJazzFlowTransformer": "flow",
    "RealTimeJazzFlowTransformerConfig": "flow",
    "FlowMatchScheduler": "flow",
    "RealTimeJazzStyleEncoder": "style",
    "RealTimeJazzStyleEncoderConfig": "style",
    "RealTimeJazzTokenizer": "style",
    "Chord": "music",
    "LeadSheet": "music",
    "random_lead_sheet": "band",
    "write_lead_sheet": "band",
    "LiveBlock": "live",
    "LiveSession": "live",
}

# Where modules lay before they had rooms: scripts and Spaces that import them by those names go on working.
_MOVED = {
    "aligned_weights": "runtime.aligned_weights",
    "cli_adapt": "cli.adapt",
    "cli_benchmark": "cli.benchmark",
    "cli_codec": "cli.codec",
    "cli_common": "cli.common",
    "cli_evaluate": "cli.evaluate",
    "cli_play": "cli.play",
    "cli_play_screen": "cli.play_screen",
    "cli_serve": "cli.serve",
    "codec_training": "trainers.codec",
    "flow_distillation": "trainers.distillation",
    "flow_training": "trainers.flow",
    "loops": "live.loops",
    "lora_training": "trainers.adapter",
    "precision": "runtime.precision",
    "publishing": "hub.publishing",
    "quantization": "runtime.quantization",
    "style_training": "trainers.style",
    "training_config": "trainers.config",
    "training_evaluation": "trainers.evaluation",
    "training_monitor": "trainers.monitor",
    "training_utils": "trainers.run",
    "adapters.folder": "hub.adapter_folder",
    "flow.packed_linear": "runtime.packed_linear",
    "evaluation.codec_measures": "evaluation.measures.codec",
    "evaluation.drift_measures": "evaluation.measures.drift",
}
for _place, _room, _names in (
    ("corpus", "band", "bass comping composer drums harmony melody score"),
    ("music", "band", "arrangement band_leader forms progressions"),
    ("evaluation", "evaluation.measures", "diversity embeddings frechet instrument_probe keys latent_probe live_checks "
     "metrics model_checks obedience opus presence rate_distortion stereo style_gain text_match"),
):  # fmt: skip
    _MOVED.update({f"{_place}.{_name}": f"{_room}.{_name}" for _name in _names.split()})

__all__ = [
    "Chord",
    "FlowMatchScheduler",
    "LeadSheet",
    "LiveBlock",
    "LiveSession",
    "RealTimeJazzCodec",
    "RealTimeJazzCodecConfig",
    "RealTimeJazzFlowTransformer",
    "RealTimeJazzFlowTransformerConfig",
    "RealTimeJazzPipeline",
    "RealTimeJazzPipelineOutput",
    "RealTimeJazzStyleEncoder",
    "RealTimeJazzStyleEncoderConfig",
    "RealTimeJazzTokenizer",
    "__version__",
]

if TYPE_CHECKING:
    from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig
    from rtjazz_hf.flow import (
        FlowMatchScheduler,
        RealTimeJazzFlowTransformer,
        RealTimeJazzFlowTransformerConfig,
    )
    from rtjazz_hf.live import LiveBlock, LiveSession
    from rtjazz_hf.music import Chord, LeadSheet
    from rtjazz_hf.pipeline_realtime_jazz import RealTimeJazzPipeline, RealTimeJazzPipelineOutput
    from rtjazz_hf.style import (
        RealTimeJazzStyleEncoder,
        RealTimeJazzStyleEncoderConfig,
        RealTimeJazzTokenizer,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _keep_old_name(old: str, new: str) -> None:
    module = ModuleType(f"{__name__}.{old}", f"Is `{__name__}.{new}` now.")

    def find(name: str) -> Any:
        if name.startswith(
            "__"
        ):  # whoever looks through sys.modules (inspect does) must not load all of them
            raise AttributeError(name)
        return getattr(importlib.import_module(f"{__name__}.{new}"), name)

    module.__getattr__ = find
    sys.modules[module.__name__] = module


for _old, _new in _MOVED.items():
    _keep_old_name(_old, _new)
register()
