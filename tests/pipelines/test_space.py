"""The Gradio Space: its page, its streams, and what its controls do to a take."""

from __future__ import annotations

import configparser
import contextlib
import re
import socket
import threading

import numpy as np
import pytest
import soundfile
from browsing import WAIT, until
from scripts import ROOT, load_script
from tiny_models import build_tiny_pipeline

from rtjazz_hf.audio import write_audio
from rtjazz_hf.band import Score, ScoreNote
from rtjazz_hf.music.score_features import SCORE_DIM

pytest.importorskip("gradio", reason="needs gradio: pip install 'rtjazz-hf[space]'")

import uvicorn

FOLDER = ROOT / "pipelines" / "space"


@pytest.fixture(scope="module")
def space():
    module = load_script("app", "pipelines/space")
    module.AHEAD = 60.0  # tests do not wait for listeners
    return module


@pytest.fixture
def studio(space, tiny_pipeline, tmp_path):
    studio = space.Studio(tiny_pipeline, tmp_path, seats=1)
    yield studio
    for name in studio.takes:
        studio.stop(name)


def values(space, **given):
    """What the page's controls hold, in their order."""
    plain = {"first": "medium swing piano trio", "second": "bossa nova", "mix": 0.0, "clip": None, "clip_weight": 0.5,
             "chords": "", "tempo": None, "instruments": [], "adapter": ""}  # fmt: skip
    return space.Wishes(**{**plain, **given})


def begin(space, studio, **given):
    """A take that plays: its name, the take, and its blocks."""
    name, _ = studio.play("", *values(space, **given))
    take = studio.takes[name]
    return name, take, (block for block, _ in take.blocks())


@contextlib.contextmanager
def served(app):
    """The address of the application, at a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        server.should_exit = True
        thread.join(WAIT)


class TestPage:
    def test_it_has_the_controls(self, space, studio):
        config = space.build_page(studio).get_config_file()
        labels = {part["props"].get("label") or part["props"].get("value") for part in config["components"]}
        assert {
            "Play", "Stop", "Download the take", "Prompt", "Second prompt", "Chart", "Personal style",
            "A clip to sound like", "The take",
        } <= {label for label in labels if isinstance(label, str)}  # fmt: skip

    def test_a_file_of_chords_becomes_a_chart(self, space, tmp_path):
        file = tmp_path / "tune.txt"
        file.write_text("C | F")
        assert space.read_charts(str(file))[0].endswith("4/4 C | F")
        (tmp_path / "bad.txt").write_text("C | H9x")
        chart, told, tunes = space.read_charts(str(tmp_path / "bad.txt"))
        assert chart == "" and "is not read" in told and "unknown chord" in told and tunes == []

    def test_the_chart_is_practised(self, space):
        wishes = values(space, chords="swing: 1\nDm7 | G7", transpose="+2", swing="0.2")
        assert wishes.chart.splitlines() == ["transpose: +2", "swing: 0.2", "Dm7 | G7"]
        assert values(space).chart is None
        with pytest.raises(ValueError, match="rests: there is no chart"):
            _ = values(space, rests="piano/2").chart

    def test_it_is_served_with_its_player(self, space, studio):
        from fastapi.testclient import TestClient

        with TestClient(space.build_app(studio)) as client:
            assert "/player/stream.js" in client.get("/").text
            assert "rtjazzStream" in client.get("/player/stream.js").text
            assert "registerProcessor" in client.get("/player/worklet.js").text

    def test_charts_to_try_parse(self, space):
        from rtjazz_hf.music import parse_chart

        for (chart,) in space.CHARTS:
            assert parse_chart(chart).bars


class TestStream:
    def test_download_is_what_was_streamed(self, space, studio):
        from fastapi.testclient import TestClient

        name, status = studio.play("", *values(space, tempo=200.0))
        assert "200 BPM" in status
        parts, described = [], []
        with (
            TestClient(space.build_app(studio)) as client,
            client.websocket_connect(f"/takes/{name}") as socket,
        ):
            for _ in range(5):
                described.append(socket.receive_json())
                parts.append(np.frombuffer(socket.receive_bytes(), "<i2").reshape(-1, 2))
            studio.stop(name)
            while (message := socket.receive())["type"] != "websocket.close":  # what was on its way
                if message.get("bytes"):
                    parts.append(np.frombuffer(message["bytes"], "<i2").reshape(-1, 2))
        kept, rate = soundfile.read(studio.recording(name), dtype="int16")
        assert rate == 48_000
        np.testing.assert_array_equal(kept, np.concatenate(parts))
        starts = np.cumsum([0] + [len(part) for part in parts[:4]]) / 48_000
        np.testing.assert_allclose([each["start"] for each in described], starts, atol=1e-6)
        assert len(parts[0]) < len(parts[-1])  # the first block is a short one

    def test_a_take_has_one_listener(self, space, studio):
        from fastapi.testclient import TestClient
        from starlette.websockets import WebSocketDisconnect

        name, _, blocks = begin(space, studio)
        next(blocks)
        with TestClient(space.build_app(studio)) as client:
            for other in (name, "unknown"):
                with (
                    client.websocket_connect(f"/takes/{other}") as socket,
                    pytest.raises(WebSocketDisconnect),
                ):
                    socket.receive_json()
        assert next(blocks).audio.shape[1] > 0
        blocks.close()

    def test_picture_has_chords_and_bar_lines_of_the_take(self, space, studio):
        *_, blocks = begin(space, studio, chords="Dm7 | G7", tempo=120.0)
        next(blocks)
        block = next(blocks)
        shown = space.describe(block)
        times, symbols = zip(*shown["chords"])
        lines, numbers = zip(*shown["bars"])
        assert times[0] == pytest.approx(block.start) and symbols[:2] == ("Dm7", "G7")
        np.testing.assert_allclose(np.diff(lines), 2.0)
        np.testing.assert_allclose(times[1:3], lines[:2])  # a chord a bar
        assert numbers == tuple(range(2, 2 + len(lines))) and shown["grid"] == [["Dm7"], ["G7"]]
        blocks.close()


class TestControls:
    def test_a_change_reaches_the_session(self, space, studio):
        name, take, blocks = begin(space, studio, tempo=120.0)
        assert next(blocks).tempo == 120.0
        status = studio.change(
            name,
            *values(space, tempo=180.0, mix=0.5, chords="Am7 | D7", instruments=["guitar", "bass"], at_once=True),
        )
        block = next(blocks)
        assert block.tempo == 180.0 and block.chord.symbol == "Am7"
        assert set(block.lead_sheet.instruments) == {"guitar", "bass"} and "180 BPM" in status
        assert dict(take.session._plan.asked["prompt"]) == {"medium swing piano trio": 0.5, "bossa nova": 0.5}
        studio.change(name, *values(space, tempo=0, at_once=True))  # what is emptied is the band's again
        assert next(blocks).lead_sheet.to_text() != block.lead_sheet.to_text()
        blocks.close()

    def test_a_new_chart_waits_for_its_bar_line(self, space, studio):
        name, take, blocks = begin(space, studio, chords="Dm7 | G7", tempo=120.0)
        next(blocks)
        status = studio.change(name, *values(space, chords="Am7 | D7", tempo=120.0))
        assert "Am7" in status and take.session.coming[0] == pytest.approx(2.0)
        assert next(blocks).chord.symbol == "Dm7"
        studio.change(name, *values(space, chords="Dm7 | G7", tempo=130.0))  # as it was: only the tempo is new
        assert take.session.coming is None and next(blocks).tempo == 130.0
        blocks.close()

    def test_the_tempo_goes_with_the_choruses(self, space, studio):
        asked = {"chords": "Dm7", "ramp": "300:320/1+10"}
        _, take, blocks = begin(space, studio, **asked)
        played = [next(blocks) for _ in range(5)]
        assert played[0].tempo == 300 and played[-1].tempo > 300
        assert played[-1].tempo == values(space, **asked).tempo_of(take.chorus)
        blocks.close()
        for wrong in ({"ramp": "300:320/1"}, {"ramp": "fast", "chords": "C"}):
            assert "Not played: ramp" in studio.play("", *values(space, **wrong))[1]

    def test_a_bad_chart_is_told_and_the_music_plays_on(self, space, studio):
        name, _, blocks = begin(space, studio, chords="Dm7 | G7")
        first = next(blocks)
        status = studio.change(name, *values(space, chords="Dm7 | Hello7"))
        assert "plays on" in status and "bar 2" in status and "Hello7" in status
        block = next(blocks)
        assert block.start == pytest.approx(first.duration) and block.lead_sheet == first.lead_sheet
        blocks.close()
        assert studio.play("", *values(space, chords="Hello7"))[0] == ""

    def test_a_clip_is_a_style(self, space, studio, tmp_path):
        clip, text = tmp_path / "clip.wav", tmp_path / "text.wav"
        rng = np.random.default_rng(0)
        write_audio(clip, 0.1 * rng.standard_normal((2, 48_000)).astype(np.float32))
        text.write_text("no sound")
        name, take, blocks = begin(space, studio)
        before = take.session._plan.style
        assert "BPM" in studio.change(name, *values(space, clip=str(clip), clip_weight=0.75))
        assert not np.allclose(take.session._plan.style, before)
        assert "Not changed" in studio.change(name, *values(space, clip=str(text)))
        next(blocks)
        blocks.close()
        alone = values(space, first=" ", second="", clip=str(clip)).prompt
        assert [weight for _, weight in alone] == [1.0]

    def test_a_melody_is_played_and_taken_back(self, space, tmp_path):
        pytest.importorskip("mido")
        from rtjazz_hf.band.midi import midi_bytes

        notes = tuple(ScoreNote(float(beat), 1.0, 60 + beat, 80, "piano", "lead") for beat in range(4))
        (tmp_path / "tune.mid").write_bytes(midi_bytes(Score(notes)))
        studio = space.Studio(build_tiny_pipeline(score_dim=SCORE_DIM), tmp_path)
        asked = {"chords": "C6 | G7", "tempo": 240.0, "melody": str(tmp_path / "tune.mid")}
        name, take, blocks = begin(space, studio, **asked)
        heard = [note.midi for _ in range(4) for note in next(blocks).notes if note.role == "lead"]
        assert heard[:4] == [60, 61, 62, 63]
        studio.change(name, *values(space, **{**asked, "melody": None}))
        assert "melody" not in take.session.asked
        (tmp_path / "bad.mid").write_bytes(b"no notes")
        told = studio.change(name, *values(space, **{**asked, "melody": str(tmp_path / "bad.mid")}))
        assert "plays on" in told and "not a MIDI file" in told
        blocks.close()

    def test_an_empty_prompt_is_told(self, space, studio):
        assert "prompt is empty" in studio.play("", *values(space, first="", second=""))[1]

    def test_seats_are_limited_and_free_again(self, space, studio):
        name, _, blocks = begin(space, studio)
        next(blocks)
        assert "seats are taken" in studio.play("", *values(space))[1]
        another, _ = studio.play(name, *values(space))  # one's own seat is free at once
        assert another not in ("", name)
        assert studio.change(name, *values(space)) == "Press Play."
        blocks.close()

    def test_old_recordings_go(self, space, studio, monkeypatch):
        monkeypatch.setattr(space, "KEPT_TAKES", 1)
        name, take, blocks = begin(space, studio)
        next(blocks)
        blocks.close()
        assert take.path.exists()
        studio.play("", *values(space))
        assert not take.path.exists() and studio.recording(name) is None


class TestBrowser:
    def test_plays_and_follows(self, space, studio, browser, monkeypatch):
        monkeypatch.setattr(space, "AHEAD", 0.5)  # a listener hears in real time
        with served(space.build_app(studio)) as url:
            page = browser.new_page()
            page.set_default_timeout(WAIT * 1000)
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(url)
            page.click("text=Practise the chart")
            page.fill("#tempo input", "240")
            page.fill("#count-in input", "1")
            page.click("#play")
            until(page, "rtjazzStream.seen.blocks > 4 && rtjazzStream.seen.firstSound > 0")
            assert page.evaluate("rtjazzStream.seen.played") >= 48_000  # a second of clicks came before
            until(page, "document.querySelector('#rtjazz-grid .now')?.getAttribute('aria-current') === 'true'")
            page.fill("#chords textarea", "Ebm7 | Ab7")
            page.press("#chords textarea", "Tab")
            # The chart before may have an Ab7 of its own: the grid changes with the chord that is heard.
            until(page, "document.querySelectorAll('#rtjazz-grid li').length === 2")
            assert page.locator("#rtjazz-grid li").all_text_contents() == ["Ebm7", "Ab7"]
            until(page, "['Ebm7', 'Ab7'].includes(rtjazzStream.seen.chord)")
            for _ in range(4):
                page.click("#tap")
            until(page, "document.querySelector('#tempo input').value >= 40")
            page.fill("#chords textarea", "Hello7")
            page.press("#chords textarea", "Tab")
            until(page, "document.querySelector('#status textarea').value.includes('plays on')")
            blocks = page.evaluate("rtjazzStream.seen.blocks")
            until(page, f"rtjazzStream.seen.blocks > {blocks}")
            page.click("#keep")
            page.wait_for_selector("#file a[download]")
            page.click("#stop")
            until(page, "rtjazzStream.seen.inHand === 0")
            assert problems == []
            page.close()


class TestFiles:
    def test_front_matter_is_a_space_s(self):
        yaml = pytest.importorskip("yaml")
        from packaging.requirements import Requirement

        text = (FOLDER / "README.md").read_text(encoding="utf-8")
        card = yaml.safe_load(text.split("---")[1])
        assert card["sdk"] == "gradio" and (FOLDER / card["app_file"]).is_file()
        assert len(card["short_description"]) <= 60
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg", encoding="utf-8")
        wanted = [Requirement(line) for line in setup["options.extras_require"]["space"].split("\n")[1:]]
        gradio = next(requirement for requirement in wanted if requirement.name == "gradio")
        assert gradio.specifier.contains(card["sdk_version"])
        requirements = (FOLDER / "requirements.txt").read_text(encoding="utf-8")
        assert "rtjazz-hf[space]" in re.findall(r"^[^-#].*$", requirements, re.MULTILINE)

    def test_readme_names_the_variables(self):
        source = (FOLDER / "app.py").read_text(encoding="utf-8")
        named = set(re.findall(r'environ\.get\("(\w+)"', source))
        text = (FOLDER / "README.md").read_text(encoding="utf-8")
        table = " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
        assert set(re.findall(r"`(\w+)`", table)) == named
