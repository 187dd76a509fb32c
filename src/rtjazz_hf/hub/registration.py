"""Making the package known to transformers' Auto classes and to diffusers.

`AutoModel.register(config_class, model_class)` wants the classes, and those need torch: two seconds that
a mere `import rtjazz_hf` must not cost. So the *names* are entered instead, in the tables that
transformers and diffusers fill lazily themselves, when those tables come to exist. The tables are
undocumented: setup.cfg holds both packages to the minor version that tests/hub/test_hub.py is green on.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

PACKAGE = "rtjazz_hf"
PIPELINE_CLASS = "RealTimeJazzPipeline"

# model_type -> (config class, model class)
MODELS = {
    "realtime_jazz_codec": ("RealTimeJazzCodecConfig", "RealTimeJazzCodec"),
    "realtime_jazz_flow": ("RealTimeJazzFlowTransformerConfig", "RealTimeJazzFlowTransformer"),
    "realtime_jazz_style": ("RealTimeJazzStyleEncoderConfig", "RealTimeJazzStyleEncoder"),
}
MODEL_TYPES = {model_class: model_type for model_type, (_, model_class) in MODELS.items()}
TOKENIZERS = {"realtime_jazz_style": "RealTimeJazzTokenizer"}
# component of the pipeline -> class
COMPONENTS = {
    "codec": "RealTimeJazzCodec",
    "transformer": "RealTimeJazzFlowTransformer",
    "style_encoder": "RealTimeJazzStyleEncoder",
    "tokenizer": "RealTimeJazzTokenizer",
    "scheduler": "FlowMatchScheduler",
}


def _register_configs(module: ModuleType) -> None:
    """`transformers.models.auto.configuration_auto`: AutoConfig finds the config class by its model type."""
    for model_type, (config_class, _) in MODELS.items():
        module.CONFIG_MAPPING_NAMES[model_type] = config_class
        # the tables look classes up in `transformers.models.<model type>`: that name leads back to this
        # package
        sys.modules[f"transformers.models.{model_type}"] = sys.modules[PACKAGE]


def _register_models(module: ModuleType) -> None:
    """`transformers.models.auto.modeling_auto`: AutoModel finds the model class by its config class."""
    for model_type, (config_class, model_class) in MODELS.items():
        module.MODEL_MAPPING_NAMES[model_type] = model_class
        module.MODEL_MAPPING._reverse_config_mapping[config_class] = model_type


def _register_tokenizers(module: ModuleType) -> None:
    """`transformers.models.auto.tokenization_auto`: AutoTokenizer finds the tokenizer by its class name."""
    for model_type, tokenizer_class in TOKENIZERS.items():
        module.TOKENIZER_MAPPING_NAMES[model_type] = tokenizer_class
        module.TOKENIZER_MAPPING._reverse_config_mapping[MODELS[model_type][0]] = model_type


def _register_components(module: ModuleType) -> None:
    """`diffusers.pipelines.pipeline_loading_utils`: a pipeline may be saved with, and loaded from, our
    classes.

    Without this, diffusers writes `rtjazz_hf.codec.modeling_...` as the library into `model_index.json`,
    uploads such a pipeline and then refuses to download it.
    """
    methods = {name: ["save_pretrained", "from_pretrained"] for name in COMPONENTS.values()}
    module.LOADABLE_CLASSES[PACKAGE] = methods
    module.ALL_IMPORTABLE_CLASSES.update(methods)


def _register_pipeline(module: ModuleType) -> None:
    """`diffusers`: `DiffusionPipeline.from_pretrained` looks our class up as an attribute of diffusers."""
    sys.modules[f"diffusers.{PACKAGE}"] = sys.modules[PACKAGE]
    module._class_to_module[PIPELINE_CLASS] = PACKAGE


_HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.tokenization_auto": _register_tokenizers,
    "diffusers.pipelines.pipeline_loading_utils": _register_components,
    "diffusers": _register_pipeline,
}


class _RegisterOnImport:
    """A meta path finder that finds nothing itself, and runs a hook after one of five modules was
    executed."""

    @staticmethod
    def find_spec(
        name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _HOOKS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is _RegisterOnImport or find is None:
                continue
            if (spec := find(name, path, target)) is not None:
                break
        else:
            return None
        if spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _HOOKS[name](sys.modules[name])  # diffusers puts another object into its own place

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Make the package known to transformers' Auto classes and to diffusers; cheap, and safe to repeat."""
    for name, hook in _HOOKS.items():
        if name in sys.modules:
            hook(sys.modules[name])
    if _RegisterOnImport not in sys.meta_path:
        sys.meta_path.insert(0, _RegisterOnImport)  # type: ignore[arg-type]
