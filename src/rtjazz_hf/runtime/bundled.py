"""Checkpoints that are installed with the package, and their names, such as "rtjazz-mini", at every door of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

PACKAGE = "rtjazz_hf"
BUNDLED_MODELS = ("rtjazz-mini",)


def bundled_folder(name: str) -> Path:
    """Folder of a checkpoint that is installed with the package, such as "rtjazz-mini".

    Raises:
        OSError: the installation does not hold it.
    """
    import importlib.resources  # here: `rtjazz --help` comes through this module

    folder = Path(str(importlib.resources.files(PACKAGE) / "checkpoints" / name))
    if not (folder / "model_index.json").is_file():
        raise OSError(
            f"the bundled model {name!r} is missing from this installation (looked in {folder}); "
            f"reinstall the package, or give a folder or a Hub id instead"
        )
    return folder


class BundledMixin:
    """For a part of the pipeline, before diffusers' or transformers' own classes in the list of bases: a bundled
    name opens its `from_pretrained` too.

    Attributes:
        bundled_part: the part's folder in a pipeline, which need not be given as `subfolder` then.
    """

    bundled_part: ClassVar[str]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        if pretrained_model_name_or_path in BUNDLED_MODELS:
            pretrained_model_name_or_path = str(bundled_folder(pretrained_model_name_or_path))
            kwargs.setdefault("subfolder", cls.bundled_part)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


__all__ = ["BUNDLED_MODELS", "BundledMixin", "bundled_folder"]
