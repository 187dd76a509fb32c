"""Live sessions over a WebSocket: the music is the session's own, controls are taken, nobody holds up the others."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save
from served import PATIENT, WAIT, go_on, hear, hear_block, hear_state, running, say, wait_for
from test_clips import KEY
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rtjazz_hf.server.access import KEY_PROTOCOL

WISH = {"prompt": "swing", "chords": "Dm7 | G7", "tempo": 120, "seed": 5}


def ending(socket, told=None):
    """Code and reason of the close frame that comes; the JSON messages before it are added to `told`."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            message = socket.recv(timeout=WAIT)
            if told is not None and isinstance(message, str):
                told.append(json.loads(message))
    return closed.value.rcvd.code, closed.value.rcvd.reason


@contextmanager
def read_only(folder):
    """A folder from which nothing can be removed, by root neither."""
    if os.geteuid() == 0:
        chattr = shutil.which("chattr")
        if chattr is None or subprocess.run([chattr, "+i", folder], capture_output=True).returncode:
            pytest.skip("runs as root, from whom no folder here can be kept")
        yield
        subprocess.run([chattr, "-i", folder], check=True)
    else:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)


NARROW = {"send_buffer": 8192, "queue": 0.5, "slow_limit": 0.3}  # a server at which one is soon too slow


def check_a_slow_listener_is_sent_away(server):
    slow = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with server.live(sock=slow, max_queue=1) as listener, server.live() as good:
        say(listener, "start", **WISH)
        say(good, "start", **WISH)
        while server.metric("dropped_blocks_total") == 0 or len(server.engine.seats) > 1:
            hear_block(good)  # who is not held up
        assert server.metric('sessions_ended_total{reason="slow"}') == 1
        hear_block(good)


class TestPlaying:
    @pytest.mark.parametrize(("encoding", "dtype", "step"), [("f32", "<f4", 0.0), ("s16", "<i2", 1 / 32_767)])
    def test_plays_what_a_session_plays(self, server, tiny_pipeline, encoding, dtype, step):
        with server.live() as listener:
            say(listener, "start", encoding=encoding, **WISH)
            started = hear(listener, "started")
            assert started["sampling_rate"] == 48_000 and started["channels"] == 2 and started["seed"] == 5
            assert started["tempo"] == 120 and started["encoding"] == encoding
            blocks = [hear_block(listener) for _ in range(5)]
            say(listener, "stop")
            assert ending(listener) == (1000, "stopped")
        alone = tiny_pipeline.live(**WISH, block_frames=PATIENT["block_frames"])
        for index, (described, data) in enumerate(blocks):
            want = next(alone)
            heard = np.frombuffer(data, dtype).reshape(-1, 2).T * (step or 1.0)
            np.testing.assert_allclose(heard, want.audio, rtol=0, atol=step + 1e-4)
            assert np.abs(heard).max() > 0.01
            assert described["index"] == index and described["samples"] == heard.shape[1]
            assert described["start"] == pytest.approx(want.start, abs=1e-5)
            assert (described["bar"], described["chord"]) == (want.bar, want.chord.symbol)
            assert described["beat"] == pytest.approx(want.beat, abs=1e-3)
            assert described["chords"][0] == [0.0, want.chord.symbol]
            assert all(start < want.duration for start, _ in described["chords"])
            assert {"p50", "p95", "p99", "under_runs"} <= set(described["stats"])

    def test_controls(self, server):
        with server.live() as listener:
            say(listener, "start", **WISH)
            hear_block(listener)
            asked = {"tempo": 200, "chords": "Am7 | D7", "prompt": {"swing": 0.5, "bossa nova": 0.5}}
            say(listener, "update", at="now", **asked)
            updated = hear(listener, "updated")
            assert updated["tempo"] == 200 and updated["starts"] is None
            say(listener, "update", tempo=1000)
            assert "tempo" in hear(listener, "error")["detail"]
            say(listener, "update", chords="H7")
            assert "H7" in hear(listener, "error")["detail"]
            say(listener, "update", adapter="nobody")
            assert "'nobody' is not loaded" in hear(listener, "error")["detail"]
            for _ in range(8):  # those that were on their way come first
                described, _ = hear_block(listener)
            assert described["tempo"] == 200 and described["chord"] in ("Am7", "D7")
            assert described["bar"] >= described["chart_bar"] >= 1 and described["chorus"] == 1
            say(listener, "update", chords="C6 | F9")  # waits for its bar line, unless that is the next block
            starts = hear(listener, "updated")["starts"]
            assert starts is None or described["start"] < starts < described["start"] + 4

    def test_those_that_wait_for_a_costly_one_are_one(self, server, monkeypatch):
        monkeypatch.setattr("rtjazz_hf.server.live_socket.UPDATE_SHARE", 0.002)
        with server.live() as listener:
            say(listener, "start", **WISH)
            hear_block(listener)
            (seat,) = server.engine.seats
            say(listener, "update", tempo=100)
            hear(listener, "updated")
            asked = [{"tempo": 101}, {"key": "nonsense"}, {"chords": "Am7 | D7"}, {"tempo": 103}]
            for fields in asked:
                say(listener, "update", **fields)
            answers = []
            while len(answers) < len(asked):
                message = listener.recv(timeout=WAIT)
                described = json.loads(message) if isinstance(message, str) else {}
                if described.get("type") in ("updated", "error"):
                    answers.append(described)
            assert [each["type"] for each in answers].count("error") == 1
            assert "nonsense" in next(each["detail"] for each in answers if each["type"] == "error")
            sheet = seat.session.coming[1] if seat.session.coming else seat.session.lead_sheet
            assert sheet.tempo == 103 and sheet.spans[0].chord.symbol == "Am7"

    def test_several_share_a_batch(self, server):
        with server.live() as one, server.live() as two:
            say(one, "start", prompt="swing", seed=1)
            say(two, "start", prompt="bossa nova", seed=2)
            heard = [b"".join(hear_block(listener)[1] for _ in range(4)) for listener in (one, two)]
            assert heard[0] != heard[1]
            wait_for(lambda: any(count == 2 for _, count, *_ in server.engine.times._steps))
        wait_for(lambda: server.metric("sessions ") == 0 and server.metric("sockets ") == 0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("{", "JSON"),
            ("[" * 5000, ""),
            ("7", ""),
            ('{"type": "update", "tempo": 100}', "type"),
            ('{"type": "start"}', "prompt is missing"),
            ('{"type": "start", "prompt": "swing", "tempo": NaN}', "tempo"),
            ('{"type": "start", "prompt": "swing", "tempo": 1e999}', "tempo"),
            ('{"type": "start", "prompt": "swing", "adapter": "../x"}', "adapter"),
            ('{"type": "start", "prompt": "swing", "adapter": "/etc"}', "adapter"),
            ('{"type": "start", "prompt": "swing", "chords": "%s"}' % ("C | " * 9000), "bars"),
            ('{"type": "start", "prompt": "swing", "instruments": ["kazoo"]}', "kazoo"),
            ('{"type": "start", "prompt": "swing", "session": "../x"}', "session"),
            ('{"type": "start", "resume": "../x"}', "resume"),
            ('{"type": "start", "resume": "nothing"}', "resume"),
            ('{"type": "start", "resume": "nothing", "tempo": 99}', "goes on as it was"),
            ('{"type": "start", "prompt": "swing", "num_inference_steps": 1000}', "num_inference_steps"),
        ],
    )
    def test_starts(self, server, text, says):
        with server.live() as listener:
            listener.send(text)
            assert says in hear(listener, "error")["detail"]
            assert ending(listener)[0] == 1008

    def test_rubbish_while_playing(self, server):
        with server.live() as listener:
            say(listener, "start", **WISH)
            hear_block(listener)
            listener.send(b"\x00\x01")
            assert "binary" in hear(listener, "error")["detail"]
            listener.send('{"type": "update", "tempo": NaN}')
            assert "tempo" in hear(listener, "error")["detail"]
            listener.send("no JSON")
            hear(listener, "error")
            hear_block(listener)  # it plays on
            for _ in range(20):
                listener.send(b"\x00")
            assert ending(listener)[0] == 1008

    def test_large_messages(self, server):
        with server.live() as listener:
            listener.send('{"type": "start", "prompt": "%s"}' % ("x" * 1_000_000))
            assert ending(listener)[0] == 1009

    def test_a_second_controller(self, server):
        with server.live() as one, server.live() as two:
            say(one, "start", session="stage", **WISH)
            hear_block(one)
            say(two, "start", session="stage", **WISH)
            assert "session 'stage' has a controller already" in hear(two, "error")["detail"]
            assert ending(two)[0] == 1008
            hear_block(one)
        wait_for(lambda: not server.engine.seats)
        with server.live() as three:  # the name is free again
            say(three, "start", session="stage", **WISH)
            hear_block(three)

    def test_one_that_would_break_real_time(self, tiny_pipeline):
        with running(tiny_pipeline, load=1e-9) as server, server.live() as one, server.live() as two:
            server.engine.times.alone = 1e-6  # the first keeps up, whatever this machine is busy with
            say(one, "start", **WISH)
            hear_block(one)
            say(two, "start", **WISH)
            problem = hear(two, "error")
            assert "no room for one session more beside 1" in problem["detail"] and problem["retry_after"] > 0
            assert ending(two)[0] == 1013
            hear_block(one)
            assert server.metric('refused_total{reason="busy"}') == 1

    def test_the_first_is_never_refused(self, tiny_pipeline):
        with running(tiny_pipeline, load=0.7) as server, server.live() as listener:
            server.engine.times.alone = 100.0  # seconds a block: hopeless
            say(listener, "start", **WISH)
            started = hear(listener, "started")
            assert (
                "takes 100.00 s to make; there may be gaps" in started["problem"] and started["buffer"] >= 3.0
            )
            hear_block(listener)

    def test_keys_and_pages(self, tiny_pipeline):
        with running(tiny_pipeline, api_keys=(KEY,)) as server:
            for options in ({}, {"subprotocols": ["rtjazz", f"{KEY_PROTOCOL}{KEY}x"]}):
                with pytest.raises(InvalidStatus) as refused:
                    server.live(**options)
                assert refused.value.response.status_code == 401
            for origin in ("http://[::1", "http://[", "null", "//", "x" * 500):
                with pytest.raises(InvalidStatus) as refused:
                    server.live(additional_headers={"Authorization": f"Bearer {KEY}"}, origin=origin)
                assert refused.value.response.status_code == 403
            with server.live(subprotocols=["rtjazz", KEY_PROTOCOL + KEY]) as listener:
                assert listener.subprotocol == "rtjazz"
            key = {"Authorization": f"Bearer {KEY}"}
            with pytest.raises(InvalidStatus) as refused:
                server.live(additional_headers=key, origin="https://example.org")
            assert refused.value.response.status_code == 403
            with server.live(additional_headers=key, origin=server.url) as listener:
                say(listener, "start", **WISH)
                hear_block(listener)

    def test_no_model(self):
        with running(OSError("there is no such model")) as server, pytest.raises(InvalidStatus) as refused:
            server.live()
        assert refused.value.response.status_code == 503
        assert "there is no such model" in json.loads(refused.value.response.body)["detail"]


class TestLimits:
    def test_silent_listeners(self, tiny_pipeline):
        with running(tiny_pipeline, start_limit=0.1) as server, server.live() as listener:
            assert ending(listener)[0] == 1008
        with running(tiny_pipeline, idle_limit=0.3) as server, server.live() as listener:
            say(listener, "start", **WISH)
            assert ending(listener)[0] == 1000
        with running(tiny_pipeline, length_limit=0.3) as server, server.live() as listener:
            say(listener, "start", **WISH)
            assert ending(listener) == (1000, "the longest session that this server plays is over")

    def test_a_listener_that_does_not_read(self, tiny_pipeline):
        with running(tiny_pipeline, **NARROW) as server:
            check_a_slow_listener_is_sent_away(server)

    def test_one_that_vanishes(self, server):
        listener = server.live()
        say(listener, "start", **WISH)
        hear_block(listener)
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        listener.socket.close()  # without a word
        wait_for(lambda: not server.engine.seats)


class TestStates:
    def test_goes_on_at_another_server(self, tiny_pipeline):
        heard = []
        with running(tiny_pipeline, name="one") as one, one.live() as listener:
            say(listener, "start", state_every=5, **WISH)
            assert hear(listener, "started")["server"] == "one"
            hear_state(listener, heard)  # the first comes at once
            if not heard:  # it comes in pieces between blocks, the first of which may be later than all of them
                heard.append(hear_block(listener))
            one.server.should_exit = True
            state = hear_state(listener, heard)  # the last, when the server stops
            assert hear(listener, "drained")["resume"] is None  # which keeps none itself
            assert ending(listener)[0] == 1012
        end = heard[-1][0]["start"] + heard[-1][0]["samples"] / 48_000
        alone = tiny_pipeline.resume_live(state)
        with running(tiny_pipeline, name="two") as two, two.live() as listener:
            go_on(listener, state)
            assert hear(listener, "started")["seed"] == WISH["seed"]
            for _ in range(3):
                described, data = hear_block(listener)
                want = next(alone)
                assert described["start"] == pytest.approx(want.start, abs=1e-5) and described["tempo"] == 120
                np.testing.assert_allclose(np.frombuffer(data, "<f4").reshape(-1, 2).T, want.audio, atol=1e-4)
                assert end == pytest.approx(want.start, abs=1e-5)  # and nothing was lost, or played twice
                end += want.duration
            say(listener, "update", tempo=150, prompt="bossa nova")
            assert hear(listener, "updated")["tempo"] == 150

    @pytest.mark.parametrize(
        ("fields", "pieces", "says"),
        [
            ({"state": 0}, [], "state"),
            ({"state": 2**40}, [], "state"),
            ({"state": 10}, ["{}"], "after 0 of 10 bytes"),
            ({"state": 10}, [b"12345", b""], "after 5 of 10 bytes"),
            ({"state": 10}, [b"12345", b"123456"], "after 5 of 10 bytes"),
            ({"state": 10}, [b"\x80\x04\x95.1234.6"], "does not load"),
            ({"state": 4, "tempo": 99}, [b"1234"], "goes on as it was"),
            ({"state": 4, "resume": "abc"}, [b"1234"], "goes on as it was"),
            ({"state_every": 1, "prompt": "swing"}, [], "state_every"),
        ],
    )
    def test_states_that_are_none(self, server, fields, pieces, says):
        with server.live() as listener:
            say(listener, "start", **fields)
            for piece in pieces:
                listener.send(piece)
            assert says in hear(listener, "error")["detail"]
            assert ending(listener)[0] == 1008

    @pytest.mark.parametrize(
        ("options", "change"),
        [
            ({"num_inference_steps": 500}, {}),
            ({"window_frames": 600}, {}),
            ({"guidance_scale": 4.5}, {}),
            ({"prompt": "x" * 3000}, {}),
            ({"prompt": (("swing", 0.5), (np.ones((2, 48_000), np.float32), 0.5))}, {}),
            ({}, {"model": "0" * 32}),
            ({}, {"frame": -5}),
        ],
    )
    def test_states_of_what_is_not_played_here(self, server, tiny_pipeline, tmp_path, options, change):
        tiny_pipeline.live(**{**WISH, **options}, block_frames=12).save(tmp_path / "a.safetensors")
        with safe_open(tmp_path / "a.safetensors", "pt") as file:
            header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header["session"] = json.dumps({**json.loads(header["session"]), **change})
        with server.live() as listener:
            go_on(listener, save(tensors, header))
            assert "does not load on this server's model" in hear(listener, "error")["detail"]
            assert ending(listener)[0] == 1008

    def test_no_room_for_it(self, tiny_pipeline):
        with running(tiny_pipeline, max_sessions=1) as server, server.live() as one, server.live() as two:
            say(one, "start", **WISH)
            hear_block(one)
            say(two, "start", state=1_000_000)  # refused before it is sent
            assert "1 sessions play" in hear(two, "error")["detail"]
            assert ending(two)[0] == 1013

    def test_one_that_cannot_be_played_ends_alone(self, tiny_pipeline):
        with running(tiny_pipeline) as server, server.live() as good, server.live() as broken:
            say(good, "start", **WISH)
            hear_block(good)
            say(broken, "start", session="broken", **WISH)
            hear_block(broken)
            session = next(seat for seat in server.engine.seats if seat.name == "broken").session
            with session._making:
                decoder = session.stream.decoder_state
                decoder["tail"] = decoder["tail"][..., :1]
            assert ending(broken) == (1011, "the music could not be made")
            hear_block(good), hear_block(good)
            assert server.metric('sessions_ended_total{reason="failed"}') == 1


class TestDraining:
    def test_a_session_goes_on_after_a_stop(self, tiny_pipeline, tmp_path):
        old, other = tmp_path / "rtjazz-session-old.safetensors", tmp_path / "model.safetensors"
        for file in (old, other):
            file.write_bytes(b"")
            os.utime(file, (0, 0))
        with running(tiny_pipeline, state=tmp_path) as server, server.live() as listener:
            say(listener, "start", **WISH)
            heard = [hear_block(listener) for _ in range(3)]
            server.server.should_exit = True
            token = None
            while token is None:  # blocks on their way come first
                message = listener.recv(timeout=WAIT)
                if isinstance(message, str) and (described := json.loads(message))["type"] == "block":
                    heard.append((described, listener.recv(timeout=WAIT)))
                elif isinstance(message, str) and described["type"] == "drained":
                    token = described["resume"]
            assert ending(listener)[0] == 1012
        end = heard[-1][0]["start"] + heard[-1][0]["samples"] / 48_000
        with running(tiny_pipeline, state=tmp_path) as server:
            with server.live() as listener:
                say(listener, "start", resume=token)
                described, _ = hear_block(listener)
                assert described["start"] == pytest.approx(end, abs=1e-4) and described["tempo"] == 120
            with server.live() as second:  # a token is good for one listener
                say(second, "start", resume=token)
                assert "resume" in hear(second, "error")["detail"]
        assert list(tmp_path.iterdir()) == [other]  # an old one is not kept for ever

    def test_a_full_disk_costs_nobody_the_end(self, tiny_pipeline, tmp_path):
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        with running(tiny_pipeline, state=tmp_path) as server:
            listeners = [
                server.live(max_queue=None) for _ in range(3)
            ]  # they read while the server is stopped
            for listener in listeners:
                say(listener, "start", state_every=600, **WISH)
                hear_block(listener)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            try:
                server.stop()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            for listener in listeners:
                told = []
                assert ending(listener, told)[0] == 1012
                assert any(m.get("type") == "drained" and m["resume"] is None for m in told)
                assert any(m.get("type") == "state" for m in told)  # handed over all the same
        assert list(tmp_path.iterdir()) == []

    def test_resuming_what_is_no_file(self, tiny_pipeline, tmp_path):
        (tmp_path / "rtjazz-session-folder.safetensors").mkdir()
        with running(tiny_pipeline, state=tmp_path) as server, server.live() as listener:
            say(listener, "start", resume="folder")
            assert "resume: the session does not load" in hear(listener, "error")["detail"]
            assert ending(listener)[0] == 1008

    def test_resuming_from_a_folder_that_cannot_be_written(self, tiny_pipeline, tmp_path):
        session = tiny_pipeline.live("swing", seed=1, block_frames=12)
        session.save(tmp_path / "rtjazz-session-token.safetensors")
        with running(tiny_pipeline, state=tmp_path) as server:
            with read_only(tmp_path), server.live() as listener:
                say(listener, "start", resume="token")
                assert "resume: this server cannot take the session" in hear(listener, "error")["detail"]
                assert ending(listener)[0] == 1008
            assert not server.engine.seats
            with server.live() as listener:
                say(listener, "start", resume="token")
                hear_block(listener)

    def test_a_clip_is_finished(self, tiny_pipeline):
        import httpx2

        with running(tiny_pipeline) as server:
            request = {"prompt": "swing", "duration": 20}
            with httpx2.stream("POST", f"{server.url}/v1/generate", json=request, timeout=WAIT) as answer:
                pieces = answer.iter_bytes()
                data = next(pieces)
                server.server.should_exit = True
                wait_for(lambda: server.engine.draining)
                data += b"".join(pieces)
            assert len(data) == 44 + 20 * 48_000 * 4
