"""The load tool: good listeners hear, and rude ones leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from served import running

from rtjazz_hf.server import crowds, load


def test_listeners(server):
    rows = asyncio.run(load.load_test(load.Target(server.url), sessions=2, seconds=1.5))
    for row in rows:
        assert row["refused"] is None and row["blocks"] >= 1 and row["p50"] <= row["p95"] <= row["p99"]
        assert row["gaps"] >= 0 and row["first_sound"] > 0


def test_refused_ones_are_told(tiny_pipeline):
    with running(tiny_pipeline, max_sessions=1) as server:
        rows = asyncio.run(load.load_test(load.Target(server.url), sessions=2, seconds=2.0))
    assert rows[0]["refused"] is None and "1 sessions play" in rows[1]["refused"]


def test_rude_ones(tiny_pipeline):
    with running(tiny_pipeline, max_sessions=3) as server:
        result = asyncio.run(load.rude_test(load.Target(server.url), count=len(load.RUDE), pace=0.1))
    assert len(result["rude"]) == len(load.RUDE)
    assert result["good"]["refused"] is None and result["good"]["blocks"] > 0
    assert result["after"]["sessions"] == result["after"]["sockets"] == result["after"]["clips"] == 0
    assert result["after"]["tasks"] <= result["before"]["tasks"] + 2


SLOW = [pytest.param(crowd, marks=pytest.mark.slow) for crowd in crowds.CROWDS if crowd != "none"]


@pytest.mark.parametrize("crowd", ["none", *SLOW])
def test_beside_a_crowd(server, crowd):
    result = asyncio.run(crowds.beside(load.Target(server.url), crowd, sessions=2, seconds=5.0))
    assert all(row["blocks"] >= 1 for row in result["listeners"])
    assert all(row["refused"] is None for row in (*result["listeners"], result["late"]))
    assert result["growth_mb"] < 200 and len(result["memory_mb"]) >= 3


@pytest.mark.slow
def test_listeners_sit_before_a_crowd(tiny_pipeline):
    with running(tiny_pipeline, max_sessions=2) as server:
        result = asyncio.run(crowds.beside(load.Target(server.url), "busy", sessions=2, seconds=20.0))
    assert all(row["refused"] is None and row["blocks"] for row in result["listeners"])
    assert "2 sessions play" in result["late"]["refused"] and result["did"]["seconds"] >= 0


def test_a_crowd_tells_what_it_did(server, capsys):
    async def for_a_while():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(crowds.alone(load.Target(server.url), "slow"), 1.5)

    asyncio.run(for_a_while())
    first, *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"seconds": 0.0} and last["byte"] >= last["connection"] == 300


def test_no_server(capsys):
    for main, arguments in ((load.main, []), (crowds.main, ["none"])):
        assert main([*arguments, "--url", "http://127.0.0.1:9"]) == 1
        assert "rtjazz serve" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--sessions", "1", "--minutes", "0.01"], ["--rude", "1"]])
def test_command(server, capsys, options):
    assert load.main(["--url", server.url, "--json", *options]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(("[", "{")) and "P95" in err
