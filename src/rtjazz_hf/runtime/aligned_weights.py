"""Models as files: weights in aligned memory, so that a loaded model computes to the bit what the saved one did, types
and bits in which a model plays as it should, and folders that are written whole.

A safetensors file is mapped, not read, and its weights start at any multiple of 8 bytes; on a CPU the matrix
product then rounds differently, by about 1e-7.

The modeling files import this by its full name: transformers copies what they import relatively next to a
model that is saved with its code, and looks for it in their own folder alone.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from rtjazz_hf.runtime.bundled import BundledMixin
from rtjazz_hf.runtime.files import atomic_folder
from rtjazz_hf.runtime.precision import as_dtype
from rtjazz_hf.runtime.quantization import with_kept_layers

if TYPE_CHECKING:
    from torch import nn

ALIGNMENT = 64  # bytes: a cache line, and the widest vector of a CPU


def align_weights(model: nn.Module) -> None:
    """Move the weights and buffers of `model` that lie off a 64-byte boundary, and its flags: one of them would keep
    the whole file in memory."""
    for weight in model.parameters():
        if _is_off(weight):
            weight.data = weight.data.clone()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            # a view of the file goes on holding it, whatever its `data` is
            if buffer is not None and (_is_off(buffer) or (buffer.dtype == torch.bool and buffer.device.type == "cpu")):
                module._buffers[name] = buffer.clone()


def _is_off(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_floating_point() and bool(tensor.data_ptr() % ALIGNMENT)


class AlignedWeightsMixin(BundledMixin):
    """For a `PreTrainedModel`, before it in the list of bases: `from_pretrained` aligns what it loaded, and
    `save_pretrained` writes all of its files or none, readable by whom the umask lets.

    Attributes:
        always_float32: loads as float32 whatever `dtype` says, by every door. Its own `.to(dtype)` is not asked.
        can_be_quantized: takes `quantization_config`, in which layers that must stay whole need not be named.
    """

    always_float32: ClassVar[bool] = False
    can_be_quantized: ClassVar[bool] = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        if cls.always_float32:
            _keep_float32(cls.__name__, kwargs)
        if (config := kwargs.get("quantization_config")) is not None:
            if not cls.can_be_quantized:
                del kwargs["quantization_config"]
                _tell(f"{cls.__name__} is not held in fewer bits: it loads whole")
            else:
                kwargs["quantization_config"] = with_kept_layers(
                    config, lambda: cls(_config_of(cls, pretrained_model_name_or_path, kwargs))
                )
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        align_weights(loaded[0] if isinstance(loaded, tuple) else loaded)  # with output_loading_info
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("push_to_hub"):  # which names the repository after the folder
            return super().save_pretrained(save_directory, *args, **kwargs)
        with atomic_folder(save_directory, replace=False) as partial:
            return super().save_pretrained(partial, *args, **kwargs)


def _keep_float32(name: str, kwargs: dict[str, Any]) -> None:
    asked = [kwargs.pop(key) for key in ("dtype", "torch_dtype") if kwargs.get(key) is not None]
    for dtype in asked:
        if dtype != "auto" and as_dtype(dtype) != torch.float32:
            _tell(
                f"{name} stays float32, as {dtype} blurs what it carries from block to block: use .to({dtype}) if "
                "you mean it"
            )
    kwargs["dtype"] = torch.float32


def _config_of(cls: Any, source: Any, kwargs: dict[str, Any]) -> Any:
    if kwargs.get("config") is not None:
        return kwargs["config"]
    places = ("subfolder", "revision", "token", "cache_dir", "local_files_only", "force_download", "proxies")
    return cls.config_class.from_pretrained(source, **{name: kwargs[name] for name in places if name in kwargs})


def _tell(what: str) -> None:
    warnings.warn(what, stacklevel=4)


__all__ = ["AlignedWeightsMixin", "align_weights"]
