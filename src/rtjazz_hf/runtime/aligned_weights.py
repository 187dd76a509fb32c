"""Models as files: weights in aligned memory, so that a loaded model computes to the bit what the saved one did, and
folders that are written whole.

A safetensors file is mapped, not read, and its weights start at any multiple of 8 bytes; on a CPU the matrix
product then rounds differently, by about 1e-7.

The modeling files import this by its full name: transformers copies what they import relatively next to a
model that is saved with its code, and looks for it in their own folder alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtjazz_hf.runtime.files import atomic_folder

if TYPE_CHECKING:
    from torch import nn

ALIGNMENT = 64  # bytes: a cache line, and the widest vector of a CPU


def align_weights(model: nn.Module) -> None:
    """Move the weights and buffers of `model` that lie off a 64-byte boundary."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.is_floating_point() and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


class AlignedWeightsMixin:
    """For a `PreTrainedModel`, before it in the list of bases: `from_pretrained` aligns what it loaded, and
    `save_pretrained` writes all of its files or none, readable by whom the umask lets."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().from_pretrained(*args, **kwargs)
        align_weights(loaded[0] if isinstance(loaded, tuple) else loaded)  # with output_loading_info
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("push_to_hub"):  # which names the repository after the folder
            return super().save_pretrained(save_directory, *args, **kwargs)
        with atomic_folder(save_directory, replace=False) as partial:
            return super().save_pretrained(partial, *args, **kwargs)


__all__ = ["AlignedWeightsMixin", "align_weights"]
