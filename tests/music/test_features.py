"""What the models see of a lead sheet, frame by frame."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.band import random_lead_sheet, write_lead_sheet
from rtjazz_hf.music import FEATURE_SLICES, INSTRUMENTS, LEAD_SHEET_DIM, ROLES, LeadSheet
from rtjazz_hf.music.features import long_rests, rotated_chords, without_chords

sheets = st.integers(0, 2**32 - 1).map(lambda seed: random_lead_sheet(np.random.default_rng(seed)))
offsets = st.sampled_from([0.0, -4.0, -0.3, 7.25])
CHART = "Dm7 | G7/B | Cmaj7 | N.C."


def part(features, name):
    return features[:, FEATURE_SLICES[name]]


class TestLayout:
    def test_slices_tile_the_width(self):
        columns = [column for piece in FEATURE_SLICES.values() for column in range(piece.start, piece.stop)]
        assert columns == list(range(LEAD_SHEET_DIM))

    def test_what_a_frame_says(self):
        # 60 BPM: a beat a second, so frame 75 * beat is the beat.
        features = LeadSheet.from_chart(CHART, tempo=60, swing=1.0).features(0, 75 * 16)
        assert features.dtype == np.float32 and features.shape == (1200, LEAD_SHEET_DIM)
        for beat, tones, bass, root, following in (
            (0, {0, 2, 5, 9}, 2, 2, 2),
            (3, {0, 2, 5, 9}, 2, 2, 11),
            (4, {2, 5, 7, 11}, 11, 7, 11),
        ):
            frame = features[75 * beat : 75 * beat + 1]
            assert set(np.flatnonzero(part(frame, "chord")[0])) == tones
            assert list(np.flatnonzero(part(frame, "bass")[0])) == [bass]
            assert list(np.flatnonzero(part(frame, "root")[0])) == [root]
            assert list(np.flatnonzero(part(frame, "next_bass")[0])) == [following]
        silent = part(features, "no_chord")[:, 0]
        assert not silent[: 75 * 12].any() and silent[75 * 12 :].all()
        assert not part(features, "chord")[75 * 12 :].any()
        assert np.array_equal(np.flatnonzero(part(features, "beat_in_bar")[75 * 6]), [2])
        assert part(features, "beat_pulse")[75 * 5, 0] == pytest.approx(1.0, abs=1e-5)
        assert np.argmax(part(features, "offbeat_pulse")[:75, 0]) == 50  # two thirds of a second
        assert part(features, "change")[0, 0] == pytest.approx(1.0) and part(features, "change")[
            75 * 3, 0
        ] == pytest.approx(0.25)
        assert part(features, "tempo")[0, 0] == pytest.approx(-1.0)
        playing = [INSTRUMENTS[i] for i in np.flatnonzero(part(features, "instruments")[0])]
        assert playing == ["piano", "bass", "drums"]
        assert list(np.flatnonzero(part(features, "lead")[0])) == [INSTRUMENTS.index("piano")]
        assert list(np.flatnonzero(part(features, "role")[0])) == [ROLES.index("head")]

    def test_waltzes_are_flagged_and_have_three_beats(self):
        features = LeadSheet.from_chart("3/4 C | F").features(0, 600)
        assert part(features, "waltz").all() and not part(features, "beat_in_bar")[:, 3].any()

    def test_the_change_feature_looks_through_the_loop(self):
        sheet = LeadSheet.from_chart("C | F | C", tempo=240, beats_per_bar=3)
        change = part(sheet.features(0, 400), "change")[:, 0] * 4.0
        # From bar 3 the next different chord is the F of bar 2 of the next turn: two bars of 0.75 s away.
        assert change[int(1.5 * 75) + 1] == pytest.approx(1.5, abs=0.03)
        assert part(LeadSheet.from_chart("C | %").features(0, 300), "change").min() == 1.0


class TestFrames:
    @given(sheets, offsets, st.integers(0, 20000), st.integers(0, 200), st.integers(0, 100), st.booleans())
    def test_depend_on_the_absolute_frame_alone(self, sheet, offset, start, length, skip, loops):
        sheet = dataclasses.replace(sheet, beat_offset=offset, loops=loops)
        whole = sheet.features(start, skip + length)
        np.testing.assert_array_equal(whole[skip:], sheet.features(start + skip, length))
        fresh = LeadSheet.from_dict(sheet.to_dict())
        np.testing.assert_array_equal(whole, fresh.features(start, skip + length))

    @given(sheets, offsets, st.integers(0, 20000), st.booleans())
    def test_are_finite_bounded_and_never_all_zero(self, sheet, offset, start, loops):
        features = dataclasses.replace(sheet, beat_offset=offset, loops=loops).features(start, 300)
        assert np.isfinite(features).all() and np.abs(features).max() <= 2.0
        assert (np.abs(features).sum(axis=1) > 0.5).all()

    @given(sheets, offsets, st.integers(0, 20000))
    def test_the_beat_phase_goes_forward_at_the_tempo(self, sheet, offset, start):
        features = dataclasses.replace(sheet, beat_offset=offset).features(start, 300)
        sine, cosine = part(features, "beat_phase")[:, :2].T
        turns = np.unwrap(np.arctan2(sine, cosine).astype(np.float64)) / (2 * np.pi)
        np.testing.assert_allclose(np.diff(turns), sheet.tempo / 60 / 75, atol=1e-4)
        first = (sheet.beat_at(start / 75) + offset) % 1.0
        assert abs((turns[0] - first + 0.5) % 1.0 - 0.5) < 1e-4

    @given(sheets, st.integers(0, 3000))
    def test_agree_with_positions_and_beats(self, sheet, frame):
        position = sheet.position((frame + 0.5) / 75)
        features = sheet.features(frame, 2)
        if sheet.position((frame + 1) / 75).chord == sheet.position(frame / 75).chord == position.chord:
            tones = tuple(np.flatnonzero(part(features, "chord")[0]))
            silent = position.chord.is_no_chord and long_rests(sheet).any()  # then it may be the key's chord
            assert silent or tones == position.chord.pitch_classes
        assert part(features, "beat_in_bar").sum() == 2.0

    @given(sheets, st.integers(-12, 12))
    def test_a_rotated_sheet_rolls_the_pitch_columns_only(self, sheet, semitones):
        plain, turned = sheet.features(0, 400), sheet.rotated(semitones).features(0, 400)
        for name in FEATURE_SLICES:
            pitched = name in ("chord", "bass", "root", "next_chord", "next_bass")
            expected = np.roll(part(plain, name), semitones, axis=1) if pitched else part(plain, name)
            np.testing.assert_array_equal(part(turned, name), expected)

    def test_loop_for_ever(self):
        sheet = LeadSheet.from_chart("Dm7 | G7", tempo=150)  # 8 beats: 3.2 s: 240 frames
        np.testing.assert_allclose(sheet.features(0, 240), sheet.features(240 * 10_000, 240), atol=1e-4)

    def test_before_and_after_the_music_only_time_is_told(self):
        sheet = dataclasses.replace(LeadSheet.from_chart(CHART, tempo=120, loops=False), beat_offset=-4.0)
        features = sheet.features(0, 75 * 12)
        outside = np.r_[0:149, 751:900]
        for name in ("chord", "bass", "root", "instruments", "lead", "role"):
            assert not part(features, name)[outside].any()
        assert part(features, "no_chord")[outside].all()
        assert part(features, "next_bass")[149].any()  # the first chord is announced
        assert not part(features, "next_bass")[outside[-100:]].any()

    @pytest.mark.parametrize("start, count", [(-1, 5), (0, -1)])
    def test_negative_frames_are_refused(self, start, count):
        with pytest.raises(ValueError, match="0 or more"):
            LeadSheet.from_chart(CHART).features(start, count)

    def test_no_frames_are_an_empty_table(self):
        assert LeadSheet.from_chart(CHART).features(10, 0).shape == (0, LEAD_SHEET_DIM)

    def test_thirty_seconds_take_milliseconds(self):
        sheet = write_lead_sheet("bebop")
        sheet.features(0, 2250)
        best = min(_timed(sheet) for _ in range(9))
        assert best < 0.02  # about 1 ms on a free core


class TestChanges:
    @given(sheets, st.integers(0, 11), st.integers(0, 500))
    def test_rotated_chords_are_those_of_the_rotated_sheet(self, sheet, semitones, start):
        features, rotated = sheet.features(start, 60), sheet.rotated(semitones).features(start, 60)
        assert np.array_equal(rotated_chords(features, semitones), rotated)
        assert np.array_equal(rotated_chords(torch.from_numpy(features), semitones).numpy(), rotated)

    @given(sheets)
    def test_without_chords_two_charts_of_one_band_look_the_same(self, sheet):
        other = sheet.rotated(5)
        assert np.array_equal(without_chords(sheet.features(0, 200)), without_chords(other.features(0, 200)))
        assert without_chords(sheet.features(0, 200)).any(axis=1).all()  # zeros would mean "no lead sheet"


def _timed(sheet):
    start = time.perf_counter()
    sheet.features(0, 2250)
    return time.perf_counter() - start


class TestLongRests:
    """Where there is no chord for two bars or more the drums play on, and the others are silent."""

    def band(self, chart, **options):
        sheet = LeadSheet.from_chart(chart, tempo=120, instruments=["piano", "bass", "drums"], **options)
        features = sheet.features(0, round(75 * 0.5 * sheet.num_beats))
        names = np.array(INSTRUMENTS)
        rows = features[:, FEATURE_SLICES["instruments"]] > 0
        return [sorted(names[row]) for row in rows[::150]]  # one of each bar

    def test_the_drums_alone(self):
        all_of_them, drums = ["bass", "drums", "piano"], ["drums"]
        assert self.band("N.C. | % | % | %") == [drums] * 4
        # a rest of one bar is the whole band's
        assert self.band("Dm7 | N.C. | G7 | Cmaj7") == [all_of_them, [], all_of_them, all_of_them]
        assert self.band("Dm7 | N.C. | N.C. | Cmaj7") == [all_of_them, drums, drums, all_of_them]
        assert self.band("N.C. | Dm7 | G7 | N.C.") == [
            drums,
            all_of_them,
            all_of_them,
            drums,
        ]  # over the loop's end

    def test_without_drums_the_chart_is_obeyed(self):
        sheet = LeadSheet.from_chart("N.C. | % | % | %", tempo=120, instruments=["piano", "bass"])
        rows = sheet.features(0, 300)[:, FEATURE_SLICES["instruments"]]
        assert not rows.any()
