"""Chords from a keyboard, and a session's notes as a score."""

from __future__ import annotations

import pytest
from tiny_models import build_tiny_pipeline

from rtjazz_hf.live.chord_keys import ChordKeys
from rtjazz_hf.live.midi_ports import MidiInput
from rtjazz_hf.live.note_log import NoteLog
from rtjazz_hf.live.outputs import PacedOutput
from rtjazz_hf.live.playback import Player
from rtjazz_hf.music.chord_naming import name_chord
from rtjazz_hf.music.chords import Chord
from rtjazz_hf.music.score_features import SCORE_DIM

mido = pytest.importorskip("mido")
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "window_frames": 36}


class Keyboard:
    """A machine with one MIDI keyboard, which plays back what it is told to."""

    def get_input_names(self):
        return ["Keys"]

    def open_input(self, name, callback):
        self.callback = callback
        return self

    def close(self):
        self.callback = None

    def press(self, *keys):
        for key in keys:
            self.callback(mido.Message("note_on", note=key, velocity=80))

    def release(self, *keys):
        for key in keys:
            self.callback(mido.Message("note_off", note=key))


class TestNames:
    @pytest.mark.parametrize("root", range(12))
    @pytest.mark.parametrize("quality", ["", "m", "7", "maj7", "m7", "m7b5", "dim", "6", "m6", "9", "7#9", "13"])
    def test_root_position_comes_back(self, root, quality):
        chord = Chord.parse(f"C{quality}").transpose(root)
        keys = [48 + root + (interval or 0) for interval in Chord.parse(f"C{quality}").intervals]
        assert name_chord(keys).pitch_classes == chord.pitch_classes and name_chord(keys).root == chord.root

    @pytest.mark.parametrize(
        "keys, name",
        [([64, 67, 72], "C/E"), ([60, 64, 70], "C7"), ([43, 53, 59, 64], "G13"), ([57, 60, 64, 67], "Am7")],
    )
    def test_shells_and_inversions(self, keys, name):
        assert name_chord(keys).symbol == name

    def test_what_has_no_name(self):
        assert name_chord([60, 61, 62]) is None and name_chord([60, 67]) is None and name_chord([]) is None


class TestKeys:
    @pytest.fixture
    def keyboard(self):
        backend, self.now = Keyboard(), 0.0
        self.keys = ChordKeys(clock=lambda: self.now)
        MidiInput("Keys", self.keys, backend)
        return backend

    def test_held_keys_are_a_chord_once(self, keyboard):
        keyboard.press(60, 64, 67)
        assert self.keys.poll()[0].symbol == "C"
        assert self.keys.poll() == (None, "")
        keyboard.release(60, 64, 67)
        assert self.keys.poll() == (None, "")  # the last one goes on
        keyboard.press(60, 64, 67, 70)
        keyboard.release(67)
        assert self.keys.poll()[0].symbol == "C7"

    def test_a_chord_that_is_being_struck_is_waited_for(self, keyboard):
        keyboard.press(60, 64)
        assert self.keys.poll() == (None, "")
        keyboard.press(67)
        assert self.keys.poll()[0].symbol == "C"

    def test_what_cannot_be_named_is_said_once(self, keyboard):
        keyboard.press(60, 61, 62)
        self.now = 1.0
        chord, text = self.keys.poll()
        assert chord is None and text.startswith("C Db D: not a chord")
        assert self.keys.poll() == (None, "")

    def test_the_next_block_answers(self, keyboard):
        pipe = build_tiny_pipeline()
        said = []
        session = pipe.live("swing", chords="Dm7 | G7", tempo=200, **FAST)

        def on_block(block):
            blocks.append(block)
            if len(blocks) == 2:
                keyboard.press(53, 57, 60, 64)
            if len(blocks) == 5:
                player.stop()

        blocks = []
        player = Player(session, PacedOutput(buffer=9), chord_keys=self.keys, on_block=on_block, say=said.append)
        player.run()
        assert [block.chord.symbol for block in blocks][2:] == ["Fmaj7"] * 3
        assert {block.chord.symbol for block in blocks[:2]} <= {"Dm7", "G7"} and said == ["chord Fmaj7"]


def test_notes_of_a_session_keep_time_with_its_sound():
    pipe = build_tiny_pipeline(score_dim=SCORE_DIM)
    log, times = NoteLog(), []
    with pipe.live("swing", chords="Dm7 | G7", tempo=240, instruments=["piano", "bass"], **FAST) as session:
        for number, block in enumerate(session):
            log.add(block)
            times += block.note_times
            if number == 3:
                session.update(tempo=200)
            if number == 7:
                break
    score = log.score()
    assert times and score.tempo == 240 and score.players
    assert [note.start / 4.0 for note in score.notes] == pytest.approx(sorted(times), abs=1e-6)
