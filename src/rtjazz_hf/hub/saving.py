"""The pipeline's methods that change how its weights are held, and that write them to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch

from ..runtime.files import atomic_folder
from ..runtime.precision import as_dtype
from ..runtime.quantization import quantize
from .cards import model_card

_PLACES = (str, int, torch.device)


class SavingMixin:
    """Moving, quantising and saving; before `DiffusionPipeline` in the list of bases."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the models, or have them compute in another type; as in `from_pretrained` the codec stays as it is.

        It carries phases from block to block, which 16 bits blur: `pipe.codec.to(dtype)` if you mean it.
        """
        dtypes = [value for value in (*args, kwargs.get("dtype")) if isinstance(value, torch.dtype)]
        if not dtypes:
            return super().to(*args, **kwargs)
        for dtype in dtypes:
            as_dtype(dtype)
        codec, devices = self.codec, [a for a in (*args, kwargs.get("device")) if isinstance(a, _PLACES)]
        self.__dict__["codec"] = None  # out of sight: what was rounded to 16 bits once does not come back
        try:
            super().to(*args, **kwargs)
        finally:
            self.__dict__["codec"] = codec
        for device in devices:
            codec.to(device)
        return self

    def quantize(self, precision: str = "int8") -> None:
        """Hold the transformer's weights in fewer bits: "int8" or "nf4" (4 bits). Saves memory, not time.

        Needs bitsandbytes (`rtjazz-hf[quant]`). While loading, diffusers' `quantization_config` does the same
        without the whole weights ever being in memory.

        Raises:
            ValueError: another precision, an adapter that is attached or fused, or quantised already.
            ImportError: bitsandbytes is not installed.
        """
        if self._adapters.fused:
            raise ValueError(
                "adapters are fused: unload_lora_weights, which leaves them in the weights for good, or unfuse_lora "
                "before the pipeline is quantised"
            )
        self.transformer = quantize(self.transformer, precision)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write a folder that `from_pretrained` reads, with a model card if it has none.

        Raises:
            ValueError: an adapter is loaded, and not fused, or attached: a folder saved so would lack it, or not load.
            OSError: it cannot be written; the folder is as it was.
        """
        if Path(save_directory).is_file():
            raise NotADirectoryError(f"{save_directory} is a file; give a folder for the pipeline")
        self._check_saveable()
        for name, component in self.components.items():
            if getattr(component, "_hf_peft_config_loaded", False) or hasattr(component, "peft_config"):
                raise ValueError(
                    f"an adapter is attached to {name!r}: fuse it or unload it before the pipeline is saved, "
                    f"and save the adapter on its own"
                )
        if kwargs.pop("push_to_hub", False):
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
            kwargs = {}
        with atomic_folder(save_directory, replace=False) as partial:
            super().save_pretrained(str(partial), **kwargs)
            self._add_card(Path(save_directory), partial / "README.md")

    def _add_card(self, save_directory: Path, card: Path) -> None:
        if not (save_directory / "README.md").exists():
            source = str(self.config.get("_name_or_path") or save_directory)
            name = Path(save_directory).name if Path(source).exists() or source.count("/") > 1 else source
            card.write_text(model_card(self.models, name), encoding="utf-8")
