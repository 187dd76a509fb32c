"""`rtjazz serve`: what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest
from served import WAIT
from test_clips import KEY

from rtjazz_hf import cli


@pytest.fixture
def refused(capsys):
    def run(*arguments):
        assert cli.main(["serve", "--port", "0", *arguments]) == 2
        return capsys.readouterr().err

    return run


class TestRefusals:
    def test_port_taken(self, refused):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            error = refused("--port", str(port))
        assert f"port {port} of 127.0.0.1" in error and "in use" in error and "--port" in error

    def test_keys(self, refused, tmp_path):
        file = tmp_path / "keys.txt"
        assert "No such file" in refused("--api-key-file", str(file))
        file.write_text("# nobody\n\n")
        assert "holds no key" in refused("--api-key-file", str(file))
        file.write_text(f"{KEY}\nshort-key\n")
        error = refused("--api-key-file", str(file))
        assert "line 2" in error and "short-key" not in error and KEY not in error

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--port", "70000"), "--port 70000"),
            (("--host", "no.such.host.invalid"), "no.such.host.invalid"),
            (("--adapters", "nowhere"), "no folder 'nowhere'"),
            (("--state", "nowhere"), "no folder 'nowhere'"),
            (("--load", "1.5"), "--load 1.5"),
            (("--block-frames", "7"), "block_frames 7"),
            (("--max-sessions", "0"), "max_sessions 0"),
            (("--idle-limit", "nan"), "idle_limit"),
        ],
    )
    def test_options(self, refused, arguments, says):
        assert says in refused(*arguments)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_ends_well(tiny_folder):
    command = [sys.executable, "-m", "rtjazz_hf.cli", "serve", "--model", str(tiny_folder), "--port", "0", "--json",
               "--device", "cpu"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        url = json.loads(server.stdout.readline())["url"]
        with httpx2.Client(base_url=url, timeout=WAIT) as client:
            while client.get("/readyz").status_code == 503:
                assert server.poll() is None
                time.sleep(0.2)  # each question is a line in the log, and nobody reads that pipe yet
            request = {"prompt": "swing", "duration": 20}
            with client.stream("POST", "/v1/generate", json=request) as answer:
                pieces = answer.iter_bytes()
                data = next(pieces)
                server.send_signal(signal.SIGTERM)
                data += b"".join(pieces)
        _, log = server.communicate(timeout=WAIT)
    assert server.returncode == 0 and len(data) == 44 + 20 * 48_000 * 4
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert {"ready", "request", "draining"} <= set(events) and "Traceback" not in log
