"""What the libraries import for their own sake is left out while a command starts.

diffusers and transformers import torch's compiler and its parts for many machines, and SciPy, PEFT and bitsandbytes
where they are there, for models and trainings that a command which plays never meets: a third of the processor time
from the command to its sound, where all of them are there. Within `import_quickly` they are told that there is no
SciPy, no PEFT and one machine, and in the place of bitsandbytes and the compiler stand modules that become the real
ones when they are used, for more than to mark a function or to ask whether a model is compiled. Afterwards all can be
imported as ever.

For the process of a command that plays alone: what the libraries found missing they believe for good, and the functions
of theirs that torch.compile shall not look into are not marked.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
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
    except ImportError:  # of a library whose other versions want what is left out here
        return load()


@contextmanager
def _without() -> Iterator[None]:
    import torch.distributed

    put: dict[str, ModuleType | None] = {name: None for name in _HIDDEN if name not in sys.modules}  # None: not found
    for name in _LATER:
        if name not in sys.modules and (spec := importlib.util.find_spec(name)) is not None:
            put[name] = _Later(name, spec)
    sys.modules.update(put)
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False  # as in builds of torch without
    try:
        yield
    finally:
        torch.distributed.is_available = is_available
        for name, module in put.items():
            if sys.modules.get(name, ...) is module:
                del sys.modules[name]
