import numpy as np
import pytest

from rtjazz_hf.band.expression import SEMITONE
from rtjazz_hf.band.performance import EXPRESSION, PITCH_BEND, VIBRATO, Control, Note, Take, Touch
from rtjazz_hf.corpus.lanes import WHEEL_STEP, lanes_of, pitch_of
from rtjazz_hf.music import LeadSheet

HERTZ, CENTS = 5.0, 40.0
POINT_S = WHEEL_STEP / 48_000


def bent(time, semitones):
    return Control(time, PITCH_BEND, round(semitones * SEMITONE))


@pytest.fixture(scope="module")
def take():
    """A fall, a plain note, a note with vibrato, and chords beside them."""
    line = (Note(0.5, 0.4, 60, 90, "lead"), Note(0.92, 0.3, 62, 90, "lead"), Note(1.5, 1.2, 64, 90, "lead"))
    controls = (
        bent(0.5, -1.0), bent(0.6, 0.0), bent(0.7, 0.0), bent(0.9, -4.0), bent(0.92, 0.0),
        Control(1.5, VIBRATO, 0), Control(1.8, VIBRATO, 127), Control(0.92, EXPRESSION, 112),
        Control(1.0, EXPRESSION, 56), Control(1.5, EXPRESSION, 112),
    )  # fmt: skip
    notes = {"guitar": (*line, Note(0.5, 1.0, 50, 60, "comp")), "piano": (Note(0.5, 1.0, 55, 60, "comp"),)}
    sheet = LeadSheet.from_chart("C", instruments=("guitar", "piano"))
    controls = {"guitar": tuple(sorted(controls, key=lambda event: event.start_s))}
    return Take(sheet, notes, controls, 3.0, {"guitar": Touch(HERTZ, CENTS)})


def at(curve, time):
    return float(np.interp(time / POINT_S, np.arange(len(curve)), curve))


class TestLanes:
    def test_who_does_not_move_has_one_lane(self, take):
        (lane,) = lanes_of(take, "piano")
        assert lane.notes == take.notes["piano"] and lane.wheel is None and lane.swell is None

    def test_a_line_takes_turns_and_chords_stand_still(self, take):
        first, second, chords = lanes_of(take, "guitar")
        assert [note.midi for note in first.notes] == [60, 64] and [note.midi for note in second.notes] == [62]
        assert chords.wheel is None and [note.role for note in chords.notes] == ["comp"]

    def test_bends_go_in_lines_and_a_note_that_has_ended_keeps_its_own(self, take):
        first, second, _ = lanes_of(take, "guitar")
        assert at(first.wheel, 0.5) == pytest.approx(-1.0, abs=0.06)
        assert at(first.wheel, 0.55) == pytest.approx(-0.5, abs=0.06)
        assert at(first.wheel, 0.8) == pytest.approx(-2.0, abs=0.06)
        assert at(first.wheel, 1.1) == pytest.approx(-4.0)  # the next note sounds on the other lane
        assert at(second.wheel, 1.0) == 0.0
        assert at(first.wheel, 1.49) == pytest.approx(0.0, abs=1e-6)  # ready before its next note

    def test_vibrato_grows_from_its_first_control(self, take):
        wheel = 100 * lanes_of(take, "guitar")[0].wheel
        time = np.arange(len(wheel)) * POINT_S
        late = wheel[(time > 1.81) & (time < 2.6)]
        assert late.max() == pytest.approx(CENTS, abs=2) and late.min() == pytest.approx(-CENTS, abs=2)
        crossings = np.flatnonzero(np.diff(np.sign(late)) > 0)
        assert np.diff(crossings).mean() * POINT_S == pytest.approx(1 / HERTZ, rel=0.05)
        assert np.abs(wheel[(time > 1.5) & (time < 1.52)]).max() < 4

    def test_swell_is_a_gain_of_the_lane(self, take):
        first, second, _ = lanes_of(take, "guitar")
        assert first.swell is None
        assert at(second.swell, 1.1) == pytest.approx(0.25) and at(second.swell, 0.93) > 0.8

    def test_pitch_of_the_take_is_that_of_its_wheels(self, take):
        cents = pitch_of(take, "guitar", 75)
        assert cents.shape == (225,) and cents.dtype == np.float32
        time = (np.arange(225) + 0.5) / 75
        assert np.all(cents[(time < 0.49) | ((time > 1.23) & (time < 1.49)) | (time > 2.71)] == 0)
        wheel = lanes_of(take, "guitar")[0].wheel
        for frame in np.flatnonzero((time > 0.51) & (time < 0.89) | (time > 1.51) & (time < 2.69)):
            assert cents[frame] == pytest.approx(100 * at(wheel, time[frame]), abs=3)
        assert not pitch_of(take, "piano", 75).any()
