"""A model beside a model, which shares every weight with it but those of a few layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .modeling_realtime_jazz_flow import RealTimeJazzFlowTransformer


def without_compiler(model: nn.Module) -> RealTimeJazzFlowTransformer:
    """The model inside what `torch.compile(model)` gave; any other as it is."""
    return getattr(model, "_orig_mod", model)


def shared_copy(
    model: RealTimeJazzFlowTransformer, names: Iterable[str]
) -> tuple[RealTimeJazzFlowTransformer, dict[str, nn.Module]]:
    """
    A copy of `model` and its own layers of these names; give them other weights and `model` never knows.

    Until then they hold the model's parameters, as everything else goes on doing. A layer that is multiplied in
    one packed product with others makes those the copy's own too: a product lives in the first of its layers.

    Raises:
        AttributeError: No layer has such a name.
    """
    names = set(names)
    own = {id(model.get_submodule(name)) for name in names}
    for group in model._step_linears():
        if any(id(layer) in own for layer in group):
            own.update(id(layer) for layer in group)
    copies = {"": _shallow(model)}
    copies[""]._engine = None  # its graph is of the model's own weights

    def copy_of(path: str) -> nn.Module:
        if path not in copies:
            parent, _, leaf = path.rpartition(".")
            copies[path] = copy_of(parent)._modules[leaf] = _shallow(model.get_submodule(path))
        return copies[path]

    for path, module in model.named_modules():
        if id(module) in own:
            copy_of(path)
    return copies[""], {name: copies[name] for name in names}


def _shallow(module: nn.Module) -> nn.Module:
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for table in ("_parameters", "_buffers", "_modules"):
        copy.__dict__[table] = dict(module.__dict__[table])
    copy.__dict__.pop("_packed", None)
    return copy


__all__ = ["shared_copy", "without_compiler"]
