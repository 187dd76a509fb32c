"""Melodies that are sent, and notes that are told, by a server whose model reads notes."""

from __future__ import annotations

import base64

import pytest
from served import hear, hear_block, running, say, wait_for
from tiny_models import build_tiny_pipeline

from rtjazz_hf.band import Score, ScoreNote
from rtjazz_hf.music.score_features import SCORE_DIM

pytest.importorskip("mido")

from rtjazz_hf.band.midi import midi_bytes, read_midi

WISH = {"prompt": "swing", "chords": "C6 | G7", "tempo": 200, "seed": 5, "instruments": ["trumpet", "bass"]}


def melody(*keys, metre="4/4"):
    notes = tuple(ScoreNote(i * 1.0, 1.0, key, 80, "piano", "lead") for i, key in enumerate(keys))
    return base64.b64encode(midi_bytes(Score(notes, metre=metre))).decode()


@pytest.fixture(scope="module")
def server():
    with running(build_tiny_pipeline(score_dim=SCORE_DIM)) as server:
        yield server


def leads(described):
    return [row[2] for row in described["midi"] if row[5] == "lead"]


def test_live(server):
    with server.live() as listener:
        say(listener, "start", midi=True, melody=melody(60, 62, 64, 65, 67, metre="3/4"), **WISH)
        started = hear(listener, "started")
        assert "the melody is in 3/4 and the chart in 4/4" in " ".join(started["remarks"])
        heard = []
        while len(heard) < 4:
            described, _ = hear_block(listener)
            heard += leads(described)
            assert all(0 <= row[0] < described["samples"] / 48_000 + 1e-3 for row in described["midi"])
        assert heard[:4] == [60, 62, 64, 65]
        say(listener, "update", melody=None)
        assert hear(listener, "updated")["remarks"] == []
        say(listener, "update", melody="bm8gbWlkaQ==")
        assert "not a MIDI file" in hear(listener, "error")["detail"]
        say(listener, "update", melody="%%%")
        assert "base64" in hear(listener, "error")["detail"]


def test_notes_of_a_clip(server):
    asked = {**WISH, "duration": 2.0, "melody": melody(60, 62, 64, 65, 67, 69)}
    answer = server.post(json={**asked, "format": "mid"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/midi"
    score = read_midi(answer.content)
    assert [n.midi for n in score.notes if n.role == "lead"] == [60, 62, 64, 65, 67, 69]
    assert score.players == ("bass", "trumpet") and score.tempo == pytest.approx(200, rel=1e-4)
    assert server.post(json={**asked, "format": "mid"}).content == answer.content
    assert server.post(json={**asked, "format": "wav"}).status_code == 200
    assert "no notes are told" in server.post(json={**WISH, "parts": "free", "format": "mid"}).json()["detail"]
    assert server.post(json={**asked, "melody": "A" * 60_000}).status_code in (413, 422)
    assert server.get("/v1/models").json()["models"][0]["reads_notes"]


def test_the_player_sends_a_file(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    wait_for(lambda: page.is_visible("#melody"))
    data = base64.b64decode(melody(60, 62, 64, 65))
    page.set_input_files("#melody", {"name": "tune.mid", "mimeType": "audio/midi", "buffer": data})
    page.fill("#chords", "C6 | G7")
    page.click("#play")
    wait_for(lambda: page.evaluate("rtjazz.blocks > 0"))
    (seat,) = server.engine.seats
    assert [note.midi for note in seat.session.asked["melody"].notes] == [60, 62, 64, 65]
    page.set_input_files("#melody", [])
    wait_for(lambda: "melody" not in seat.session.asked)
    page.click("#play")
    wait_for(lambda: page.evaluate("rtjazz.state") == "stopped")
    page.close()
