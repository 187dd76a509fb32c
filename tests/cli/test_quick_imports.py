"""What is left out of a command's imports, and that it can be had afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
import types

import pytest

from rtjazz_hf.cli import quick_imports
from rtjazz_hf.cli.quick_imports import import_quickly, uncollected


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages that nobody has imported: one that is hidden, one that comes later."""
    for name in ("hidden_of_test", "later_of_test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("value = 3\ndef mark(function):\n    return None\n")
        (tmp_path / name / "part.py").write_text("value = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(quick_imports, "_HIDDEN", ("hidden_of_test",))
    monkeypatch.setattr(quick_imports, "_LATER", {"later_of_test": {"mark": quick_imports._unmarked}})
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("hidden_of_test", "later_of_test")]:
        del sys.modules[name]


def test_hidden_is_not_found_and_later_not_executed(packages):
    def load():
        with pytest.raises(ImportError):
            import hidden_of_test  # noqa: F401
        import later_of_test
        from later_of_test import mark
        from later_of_test.part import value

        assert mark(load) is load and mark()(load) is load and value == 4
        assert "value" not in vars(later_of_test)
        return later_of_test

    stand_in = import_quickly(load)
    assert not {"hidden_of_test", "later_of_test"} & set(sys.modules)
    assert stand_in.value == 3  # whoever kept it has the real one's

    import hidden_of_test
    import later_of_test

    assert hidden_of_test.value == later_of_test.value == 3 and later_of_test.mark(load) is None


@pytest.fixture
def collecting():
    """Whatever a test does to it, garbage is collected afterwards as it was before."""
    before = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("before", [True, False])
def test_no_garbage_is_looked_for_while_modules_are_made(collecting, before):
    (gc.enable if before else gc.disable)()
    with uncollected():
        assert import_quickly(gc.isenabled) is False  # one within the other
        assert gc.isenabled() is False
    assert gc.isenabled() is before and gc.get_freeze_count() > 0
    with pytest.raises(ValueError), uncollected():
        raise ValueError
    assert gc.isenabled() is before


def test_it_becomes_the_real_one_when_it_is_used(packages):
    def load():
        import later_of_test

        assert later_of_test.value == 3
        assert "value" in vars(sys.modules["later_of_test"])

    import_quickly(load)
    assert sys.modules["later_of_test"].value == 3  # and stays


def test_what_cannot_do_without_is_loaded_plainly(packages):
    calls = []

    def load():
        calls.append(1)
        import hidden_of_test

        return hidden_of_test.value

    assert import_quickly(load) == 3 and len(calls) == 2


def test_what_was_imported_stays(packages, monkeypatch):
    module = types.ModuleType("hidden_of_test")
    monkeypatch.setitem(sys.modules, "hidden_of_test", module)
    import torch

    def load():
        import hidden_of_test

        return hidden_of_test, torch.distributed.is_available()

    before = torch.distributed.is_available()
    assert import_quickly(load) == (module, False) and torch.distributed.is_available() is before


def test_a_class_that_is_asked_for_comes_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "lazy_of_test" / "large").mkdir(parents=True)
    (tmp_path / "lazy_of_test" / "__init__.py").write_text(
        "import importlib\n"
        "def __getattr__(name):\n"
        "    if name != 'Network':\n"
        "        raise AttributeError(name)\n"
        "    globals()[name] = importlib.import_module('.large.part', __name__).Network\n"
        "    return globals()[name]\n"
    )
    (tmp_path / "lazy_of_test" / "large" / "__init__.py").write_text("")
    (tmp_path / "lazy_of_test" / "large" / "part.py").write_text("class Network:\n    real = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(quick_imports, "_ASKED_FOR", ("lazy_of_test", "large.part", "Network"))

    def load():
        from lazy_of_test import Network

        return isinstance(load, Network), sorted(name for name in sys.modules if "lazy_of_test" in name)

    assert import_quickly(load) == (False, ["lazy_of_test", "lazy_of_test.large.part"])

    from lazy_of_test import Network

    assert Network.real


@pytest.mark.slow
def test_generate_leaves_the_compiler_alone(tiny_folder, tmp_path):
    """In a process of its own: here everything is imported already."""
    script = (
        "import sys\nfrom rtjazz_hf.cli import main\ncode = main(sys.argv[1:])\n"
        "names = 'torch._dynamo', 'torch.onnx', 'sympy', 'scipy', 'peft', 'bitsandbytes'\n"
        "print(code, *[name for name in names if name in sys.modules])\n"
    )
    asked = ["generate", "swing", "-o", str(tmp_path / "a.wav"), "--model", str(tiny_folder), "--duration", "0.3"]
    done = subprocess.run([sys.executable, "-c", script, *asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"], done.stderr


@pytest.mark.slow
def test_other_models_of_transformers_can_be_had_afterwards(tiny_folder):
    """Their names are listed when one is asked for; those of `auto` are there at once."""
    script = """
import importlib.metadata, sys
from rtjazz_hf.cli.quick_imports import import_quickly
def load():
    from rtjazz_hf import RealTimeJazzPipeline
    return RealTimeJazzPipeline.from_pretrained(sys.argv[1], engine="torch")
import_quickly(load)
import transformers
from transformers import AutoModel
assert "BertModel" not in transformers._class_to_module
assert not hasattr(transformers, "Nothing")
from transformers import BertModel, ClapConfig
from transformers.models import bert
assert BertModel is bert.BertModel and "ClapModel" in dir(transformers)
assert "numpy" in importlib.metadata.packages_distributions()
print("had")
"""
    done = subprocess.run([sys.executable, "-c", script, str(tiny_folder)], capture_output=True, text=True)
    assert done.stdout.split() == ["had"], done.stderr
