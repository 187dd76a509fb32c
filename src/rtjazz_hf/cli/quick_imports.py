"""What the libraries import for their own sake is left out while a command starts.

diffusers and transformers import torch's compiler and its parts for many machines, and SciPy, PEFT and bitsandbytes
where they are there, for models and trainings that a command which plays never meets: a third of the processor time
from the command to its sound, where all of them are there. Within `import_quickly` they are told that there is no
SciPy, no PEFT and one machine, and in the place of bitsandbytes and the compiler stand modules that become the real
ones when they are used, for more than to mark a function or to ask whether a model is compiled. diffusers imports all
of its networks to ask whether a pipeline has a certain one; a class that nothing is an instance of stands for that.
transformers reads the files of all of its models, twice, for the names that it offers; here it reads those of `auto`,
and the others when somebody asks for a name that is not there. Both read the lists of files of everything that is
installed, to tell packages whose name is another one's (Pillow is `PIL`): here they are told of none.
Afterwards all can be imported as ever. And while modules are made, Python looks through all of those before for what
may go, again and again: a quarter of the time that all of this takes. `uncollected` lets it do so afterwards alone.

For the process of a command that plays alone: what the libraries found missing they believe for good, and the functions
of theirs that torch.compile shall not look into are not marked.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

from ..hub.registration import _HOOKS

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


_LISTS = "transformers.utils.import_utils"  # where it reads them
_READ_AT_ONCE = "auto"  # of its models


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
        with uncollected(), _without():
            return load()
    except (ImportError, AttributeError, RuntimeError):  # of a library whose other versions want what is left out here
        return load()  # the two last are what lazy packages make of the first


@contextmanager
def uncollected() -> Iterator[None]:
    """Within it Python looks for no garbage in cycles; afterwards it does as before, and what there is by then
    (modules, a model) is taken for what stays, so that no collection while music plays has to go through it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


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
    _HOOKS[_LISTS] = _read_models_later
    is_available, distributions = torch.distributed.is_available, importlib.metadata.packages_distributions
    torch.distributed.is_available = lambda: False  # as in builds of torch without
    importlib.metadata.packages_distributions = dict
    try:
        yield
    finally:
        torch.distributed.is_available, importlib.metadata.packages_distributions = is_available, distributions
        _HOOKS.pop(_LISTS, None)
        for full_name, stand_in in put.items():
            if sys.modules.get(full_name, ...) is stand_in:
                del sys.modules[full_name]
        if vars(sys.modules.get(package, types)).get(name) is asked_for:  # where the package remembers it
            delattr(sys.modules[package], name)


def _read_models_later(module: ModuleType) -> None:
    """`transformers.utils.import_utils`, once it is executed: what it lists of the models is first a part."""
    read, find = module.create_import_structure_from_path, module._LazyModule.__getattr__
    package = Path(module.__file__).parents[1]
    prefixes, whole = {"transformers": "models", "transformers.models": None}, set()

    def create(path: str) -> dict:
        folder = Path(path).parent if Path(path).is_file() else Path(path)
        if folder != package / "models" or whole:
            return read(path)
        return {_READ_AT_ONCE: read(str(folder / _READ_AT_ONCE))}

    def get(self: Any, name: str) -> Any:
        try:
            return find(self, name)
        except AttributeError:
            # a module of the package is about to be imported, whatever is listed
            if name.startswith("__") or self.__name__ not in prefixes or self in whole or _is_inside(self, name):
                raise
        whole.add(self)
        listed = module.define_import_structure(str(package / "models"), prefix=prefixes[self.__name__])
        every = type(self)(self.__name__, self.__file__, listed, module_spec=self.__spec__)
        for kept in ("_modules", "_class_to_module", "_object_missing_backend", "_import_structure"):
            getattr(self, kept).update(getattr(every, kept))
        self.__all__ = list(dict.fromkeys([*self.__all__, *every.__all__]))
        return find(self, name)

    module.create_import_structure_from_path, module._LazyModule.__getattr__ = create, get


def _is_inside(package: ModuleType, name: str) -> bool:
    folders = [Path(folder) for folder in package.__path__]
    return any((folder / f"{name}.py").exists() or (folder / name).is_dir() for folder in folders)
