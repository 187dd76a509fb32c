"""Clips over HTTP: what comes is what was asked for, and what cannot be asked for is refused by name."""

from __future__ import annotations

import io
import json
import logging

import httpx2
import numpy as np
import pytest
import soundfile
import torch
from served import PATIENT, WAIT, running, wait_for
from tiny_models import make_adapter

from rtjazz_hf.server.logs import JsonFormatter

KEY = "a-key-of-the-tests-0123456789"


class TestClips:
    @pytest.mark.parametrize(
        ("name", "media", "kind", "subtype"),
        [("wav", "audio/wav", "WAV", "PCM_16"), ("flac", "audio/flac", "FLAC", "PCM_16"),
         ("ogg", "audio/ogg", "OGG", "VORBIS"), ("opus", "audio/ogg", "OGG", "OPUS")],
    )  # fmt: skip
    def test_formats(self, server, name, media, kind, subtype):
        answer = server.post(json={"prompt": "swing", "duration": 0.7, "format": name, "seed": 3})
        assert answer.status_code == 200 and answer.headers["content-type"] == media
        with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
            assert (file.samplerate, file.channels, file.format, file.subtype) == (48_000, 2, kind, subtype)
            assert file.frames == 33_600
            assert np.abs(file.read()).max() > 0.01

    def test_plays_what_a_call_plays(self, server, tiny_pipeline):
        wish = {"chords": "Dm7 | G7", "tempo": 150, "instruments": ["piano", "bass"]}
        answer = server.post(
            json={"prompt": {"swing": 0.6, "bossa nova": 0.4}, "duration": 0.5, "seed": 7, **wish}
        )
        assert answer.headers["x-rtjazz-seed"] == "7" and answer.headers["x-rtjazz-tempo"] == "150"
        heard = soundfile.read(io.BytesIO(answer.content))[0].T
        called = tiny_pipeline(
            {"swing": 0.6, "bossa nova": 0.4}, duration=0.5, block_frames=PATIENT["block_frames"],
            generator=torch.Generator().manual_seed(7), **wish,
        ).audios[0]  # fmt: skip
        np.testing.assert_allclose(heard, called, rtol=0, atol=2 / 32_768)

    def test_length_is_told_before_the_end(self, server):
        request = {"prompt": "swing", "duration": 600}
        for name, place in (("wav", slice(40, 44)), ("flac", slice(18, 26))):
            with httpx2.stream(
                "POST", f"{server.url}/v1/generate", json={**request, "format": name}, timeout=WAIT
            ) as answer:
                head = next(answer.iter_bytes())[:44]
            told = int.from_bytes(head[place], "little" if name == "wav" else "big")
            assert (told // 4 if name == "wav" else told % 2**36) == 600 * 48_000
        wait_for(lambda: not server.engine.clips)  # nobody listens any more

    def test_too_many_at_a_time(self, tiny_pipeline):
        with running(tiny_pipeline, max_clips=1) as server:
            request = {"prompt": "swing", "duration": 600}
            with httpx2.stream("POST", f"{server.url}/v1/generate", json=request, timeout=WAIT) as answer:
                assert answer.status_code == 200
                other = server.post(json={"prompt": "swing", "duration": 0.2})
                assert other.status_code == 503 and int(other.headers["retry-after"]) > 0
                assert "clips" in other.json()["detail"]
            wait_for(lambda: not server.engine.clips)
            assert server.post(json={"prompt": "swing", "duration": 0.2}).status_code == 200


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"duration": 36_000}, "duration"),
            ({"duration": -1}, "duration"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": "  "}, "the prompt is empty"),
            ({"prompt": {}}, "prompt"),
            ({"prompt": {"swing": 0}}, "all weights"),
            ({"prompt": "x" * 3000}, "prompt"),
            ({"prompt": 7}, "prompt"),
            ({"chords": "C | " * 9_000}, "bars"),
            ({"chords": "|: C | D | E | F :| x2500"}, "2500 times"),
            ({"chords": "|: C | D | E | F :| x500"}, "bars"),
            ({"chords": "H7"}, "H7"),
            ({"tempo": 500}, "tempo"),
            ({"tempo": "fast"}, "tempo"),
            ({"instruments": ["kazoo"]}, "kazoo"),
            ({"key": "Q"}, "Q"),
            ({"adapter": "../styles"}, "adapter"),
            ({"adapter": "/etc/passwd"}, "adapter"),
            ({"adapter": {"..": 1.0}}, "adapter"),
            ({"adapter": "nobody"}, "'nobody' is not loaded"),
            ({"format": "mp3"}, "format"),
            ({"num_inference_steps": 1000}, "num_inference_steps"),
            ({"seed": -1}, "seed"),
            ({"surprise": 1}, "surprise"),
        ],
    )
    def test_wishes(self, server, change, says):
        answer = server.post(json={"prompt": "swing", "duration": 0.2, **change})
        assert answer.status_code == 422 and says in answer.json()["detail"]
        assert len(answer.text) < 1000

    @pytest.mark.parametrize(
        "body", ['{"prompt": "swing", "tempo": NaN}', '{"prompt": "swing", "duration": Infinity}', "{", "[]", "7",
                 '"swing"', "", "null", b"\xff\xfe\x00", '{"prompt": "\\ud800"}', "[" * 10_000],
    )  # fmt: skip
    def test_bodies(self, server, body):
        answer = server.post(content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422) and answer.json()["detail"]

    def test_sizes(self, server):
        long = {"prompt": "x" * 1_000_000}
        assert server.post(json=long).status_code == 413

        def pieces():
            for _ in range(100):
                yield b" " * 10_000

        answer = server.post(content=pieces(), headers={"content-type": "application/json"})
        assert answer.status_code == 413 and "at most" in answer.json()["detail"]

    def test_no_model(self):
        with running(OSError("there is no folder 'nowhere'")) as server:
            answer = server.get("/readyz")
            assert answer.status_code == 503 and "no folder 'nowhere'" in answer.json()["detail"]
            assert server.get("/healthz").status_code == 200
            assert server.post(json={"prompt": "swing"}).status_code == 503
            assert server.get("/v1/models").status_code == 503


class TestAccess:
    def test_keys(self, tiny_pipeline, caplog):
        caplog.set_level(logging.DEBUG)
        other = KEY[:-1] + "X"
        with running(tiny_pipeline, api_keys=(KEY,)) as server:
            for headers in (
                {},
                {"Authorization": f"Bearer {other}"},
                {"X-API-Key": other},
                {"X-API-Key": "é"},
            ):
                answer = server.post(
                    json={"prompt": "swing"}, headers={k: v.encode() for k, v in headers.items()}
                )
                assert answer.status_code == 401 and other not in answer.text
                assert (
                    server.get("/metrics", headers={k: v.encode() for k, v in headers.items()}).status_code
                    == 401
                )
            for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}):
                assert server.get("/v1/models", headers=headers).status_code == 200
            assert server.get(f"/v1/models?key={KEY}").status_code == 401
            assert server.get(f"/{KEY}").status_code == 401
            for path in ("/", "/healthz", "/readyz", "/player/player.js"):
                assert server.get(path).status_code == 200
        own = [record for record in caplog.records if not record.name.startswith(("http", "asyncio"))]
        text = "\n".join(JsonFormatter().format(record) for record in own)
        assert text.count('"event": "request"') > 5
        assert KEY not in text and other not in text

    def test_pages_from_elsewhere(self, tiny_pipeline, server):
        origin = {"Origin": "https://example.org"}
        assert "access-control-allow-origin" not in server.get("/v1/models", headers=origin).headers
        with running(tiny_pipeline, cors_origins=("https://example.org",)) as open_server:
            answer = open_server.get("/v1/models", headers=origin)
            assert answer.headers["access-control-allow-origin"] == "https://example.org"

    def test_nothing_comes_from_elsewhere(self, server):
        page = server.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for path in ("/", "/player/player.js", "/player/worklet.js", "/player/player.css"):
            text = server.get(path).text
            assert "http://" not in text and "https://" not in text and "//cdn" not in text
        assert server.get("/docs").status_code == 404
        assert server.get("/player/../app.py").status_code == 404


class TestDocuments:
    def test_models(self, server):
        (model,) = server.get("/v1/models").json()["models"]
        assert (
            model["name"] == "tiny" and model["sampling_rate"] == 48_000 and "piano" in model["instruments"]
        )
        assert model["adapters"] == [] and model["block_seconds"] == pytest.approx(0.16)

    def test_openapi(self, server):
        paths = server.get("/openapi.json").json()["paths"]
        assert {"/v1/generate", "/v1/models", "/healthz", "/readyz", "/metrics"} <= set(paths)
        assert {"401", "413", "422", "503"} <= set(paths["/v1/generate"]["post"]["responses"])

    def test_metrics(self, server):
        before = server.metric('requests_total{route="/healthz",status="200"}')
        server.get("/healthz")
        assert server.metric('requests_total{route="/healthz",status="200"}') == before + 1
        assert server.metric("tasks") > 0 and server.metric("blocks_total") > 0

    def test_logs_are_json(self):
        record = logging.makeLogRecord({"msg": 'a "word"', "levelname": "INFO", "fields": {"route": "/x\n"}})
        line = JsonFormatter().format(record)
        assert (
            "\n" not in line
            and json.loads(line)["event"] == 'a "word"'
            and json.loads(line)["route"] == "/x\n"
        )


class TestAdapters:
    def test_by_name(self, tiny_pipeline, tmp_path):
        pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")
        make_adapter(tmp_path / "anna", 1)
        (tmp_path / "broken").mkdir()
        (tmp_path / "notes.txt").write_text("no adapter")
        try:
            with running(tiny_pipeline, adapters=tmp_path) as server:
                assert server.get("/v1/models").json()["models"][0]["adapters"] == ["anna"]
                request = {"prompt": "swing", "duration": 0.3, "seed": 1}
                plain, anna, half = (
                    server.post(json={**request, **wish}).content
                    for wish in ({}, {"adapter": "anna"}, {"adapter": {"anna": 0.5}})
                )
                assert len({plain, anna, half}) == 3
                assert server.post(json={**request, "adapter": "broken"}).status_code == 422
        finally:
            tiny_pipeline.unload_lora_weights()
