"""Graphs of OpenVINO that stay on disk, and what becomes of files that are not as they should be."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rtjazz_hf.runtime import kept_graphs
from rtjazz_hf.runtime.graphs import ModuleEngine

pytest.importorskip("openvino")


class Net(nn.Module):
    """Large enough to be worth a file."""

    def __init__(self, width: int = 512):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return (torch.tanh(self.linear(x)),)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RTJAZZ_GRAPHS", str(tmp_path / "kept"))
    return tmp_path / "kept"


def net(seed: int = 0, width: int = 512) -> Net:
    torch.manual_seed(seed)
    return Net(width).eval()


def made_of(module: nn.Module, rows: int = 3, precision: str = "float32") -> tuple[bool, torch.Tensor]:
    """Whether its graph was read, and what it gives."""
    x = {"x": torch.randn(rows, module.linear.in_features, generator=torch.Generator().manual_seed(1))}
    engine = ModuleEngine(module, module, "openvino", x, {"x": (0,)}, precision)
    with torch.no_grad():
        wanted = module(x["x"])[0]
    with engine.run(x) as (given,):
        torch.testing.assert_close(torch.from_numpy(given), wanted, atol=1e-5, rtol=1e-4)
        return engine._graph.was_read, torch.from_numpy(given).clone()


def test_a_graph_is_made_once_and_then_read(folder):
    was_read, first = made_of(net())
    again, second = made_of(net())
    assert (was_read, again) == (False, True)
    assert torch.equal(first, second)
    assert len(list(folder.iterdir())) == 1


def test_other_weights_sizes_code_and_modules_are_other_graphs(folder, monkeypatch):
    made_of(net())
    one = net()
    with torch.no_grad():
        one.linear.bias[7] += 1e-3
    assert made_of(one)[0] is False
    assert made_of(net(), rows=4)[0] is False
    assert made_of(net(width=640))[0] is False
    monkeypatch.setattr(kept_graphs, "_code", lambda: b"another version of this package")
    assert made_of(net())[0] is False
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty", "no graph", "of another model"])
def test_a_damaged_file_is_made_anew(folder, damage):
    made_of(net())
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if damage == "of another model":
        made_of(net(seed=5))
        (other,) = set(folder.iterdir()) - {path}
        bad = other.read_bytes()
        other.unlink()
    else:
        strange = b"no graph at all" * 100
        bad = {
            "cut short": whole[:-1000],
            "a bit": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
            "empty": b"",
            "no graph": strange + hashlib.sha256(strange).digest(),
        }[damage]
    path.write_bytes(bad)
    assert made_of(net())[0] is False
    assert made_of(net())[0] is True  # it was mended


def test_where_nothing_can_be_written_it_is_made_every_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the folder's place")
    monkeypatch.setenv("RTJAZZ_GRAPHS", str(tmp_path / "file"))
    assert [made_of(net())[0] for _ in range(2)] == [False, False]


def test_nothing_is_kept_when_that_is_asked_for_or_not_worth_it(folder, monkeypatch):
    made_of(net(width=64))
    assert not folder.exists()
    monkeypatch.setenv("RTJAZZ_GRAPHS", "")
    made_of(net())
    assert kept_graphs.graphs_folder() is None
    monkeypatch.delenv("RTJAZZ_GRAPHS")
    assert kept_graphs.graphs_folder().name == "rtjazz-graphs"


def test_only_the_last_few_stay(folder, monkeypatch):
    monkeypatch.setattr(kept_graphs, "_MOST", 2)
    for seed in range(3):
        made_of(net(seed))
    assert len(list(folder.iterdir())) == 2
    assert made_of(net(2))[0] is True


def test_a_graph_in_bfloat16_holds_its_weights_in_bfloat16(folder):
    module, x = net(), {"x": torch.randn(3, 512)}
    given, sizes = {}, {}
    for precision in ("float32", "bfloat16", "bfloat16"):
        engine = ModuleEngine(module, module, "openvino", x, {}, precision)
        with engine.run(x) as (result,):
            given.setdefault(precision, []).append(torch.from_numpy(result).clone())
        sizes.setdefault(precision, sum(path.stat().st_size for path in folder.iterdir()))
    whole, both = sizes.values()
    assert 0.45 < (both - whole) / whole < 0.55
    made, read = given["bfloat16"]
    assert engine._graph.was_read
    assert torch.equal(made, read)
    assert 1e-5 < float((made - given["float32"][0]).abs().max()) < 0.02


@pytest.mark.parametrize("then", ["deleted", "made anew"])
def test_a_graph_that_was_read_plays_on_whatever_becomes_of_its_file(folder, then):
    made_of(net())
    module, x = net(), {"x": torch.randn(3, 512)}
    engine = ModuleEngine(module, module, "openvino", x, {"x": (0,)})
    assert engine._graph.was_read
    (path,) = folder.iterdir()
    path.unlink()
    if then == "made anew":
        made_of(net())
        assert path.exists()
    gc.collect()  # nothing but the engine holds what was mapped
    with torch.no_grad(), engine.run(x) as (given,):
        torch.testing.assert_close(torch.from_numpy(given), module(x["x"])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pages", [3, 100, 250])
def test_a_full_disk_keeps_no_half_a_graph(disk, monkeypatch, pages):
    monkeypatch.setenv("RTJAZZ_GRAPHS", str(disk.path))
    disk.leave(pages)  # of 262 and some that the file takes
    assert made_of(net())[0] is False
    assert disk.files() == {}
    disk.make_room()
    assert [made_of(net())[0] for _ in range(2)] == [False, True]
    disk.put({})


def test_signals_are_heard_when_graphs_have_gone(tmp_path):
    """In a process of its own, which a signal on a stack that is gone would end."""
    program = """
import gc, signal, torch
from test_kept_graphs import ModuleEngine, net
module, x = net(), {"x": torch.randn(3, 512)}
for _ in range(2):
    engine = ModuleEngine(module, module, "openvino", x, {})  # the one before goes once this is there
del engine
gc.collect()
heard = []
signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
signal.raise_signal(signal.SIGINT)
assert heard == [signal.SIGINT]
"""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"RTJAZZ_GRAPHS": str(tmp_path), "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
