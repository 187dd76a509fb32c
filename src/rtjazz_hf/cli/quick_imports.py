"""What the libraries import for their own sake is left out while a command starts.

diffusers and transformers import torch's compiler and its parts for many machines, and SciPy, PEFT and bitsandbytes
where they are there, for models and trainings that a command which plays never meets: a third of the processor time
from the command to its sound, where all of them are there. Within `import_quickly` they are told that there is no
SciPy, no PEFT and one machine, and in the place of bitsandbytes and the compiler stand modules that become the real
ones when they are used, for more than to mark a function or to ask whether a model is compiled. diffusers imports all
of its networks to ask whether a pipeline has a certain one; a class that nothing is an instance of stands for that.
Afterwards all can be imported as ever.

For the process of a command that plays alone: what the libraries found missing they believe for good, and the functions
of theirs that torch.compile shall not look into are not marked.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

_T = TypeVar("_T")
_HIDDEN = ("peft", "scipy")  # imported name by name, so that they cannot come later


def _unmarked(marked: Any = None, *_: Any, **__: Any) -> Any:
    return _unmarked if marked is None else marked  # `@disable` and `@disable(...)`


class OptimizedModule:
    """Of a compiled model: none is, before there is a compiler."""


_LATER: dict[str, dict[str, Any]] = {  # and what of it need not be there: what only marks, what only asks
    "torch._dynamo": {
        **dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _unmarked),
        "eval_frame": SimpleNamespace(OptimizedModule=OptimizedModule),
    },
    "bitsandbytes": {},
}


# Module in a package of lazy attributes, and its class: found by its full name, its package is not imported.
_ASKED_FOR = ("diffusers.models", "autoencoders.autoencoder_kl", "AutoencoderKL")


class _Later(ModuleType):
    """Stands for a module until somebody uses it; its sub-modules can be had without it."""

    def __init__(self, name: str, spec: ModuleSpec):
        super().__init__(name)
        self.__spec__, self.__path__ = spec, spec.submodule_search_locations
        self.__dict__.update(_LATER[name])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module, by who looks through all of them
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_quickly(load: Callable[[], _T]) -> _T:
    """What `load` gives, which imports what it needs and not the rest. What was imported before stays as it is."""
    try:
        with _without():
            return load()
    except (ImportError, AttributeError, RuntimeError):  # of a library whose other versions want what is left out here
        return load()  # the two last are what lazy packages make of the first


@contextmanager
def _without() -> Iterator[None]:
    import torch.distributed

    put: dict[str, ModuleType | None] = {name: None for name in _HIDDEN if name not in sys.modules}  # None: not found
    for later in _LATER:
        if later not in sys.modules and (spec := importlib.util.find_spec(later)) is not None:
            put[later] = _Later(later, spec)
    package, module, name = _ASKED_FOR
    asked_for = type(name, (), {"__doc__": "Of a pipeline that has one."})
    if package not in sys.modules:
        put[f"{package}.{module}"] = ModuleType(f"{package}.{module}")
        setattr(put[f"{package}.{module}"], name, asked_for)
    sys.modules.update(put)
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False  # as in builds of torch without
    try:
        yield
    finally:
        torch.distributed.is_available = is_available
        for full_name, stand_in in put.items():
            if sys.modules.get(full_name, ...) is stand_in:
                del sys.modules[full_name]
        if vars(sys.modules.get(package, types)).get(name) is asked_for:  # where the package remembers it
            delattr(sys.modules[package], name)
