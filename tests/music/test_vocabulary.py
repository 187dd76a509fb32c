"""Names of instruments and keys, and who leads a band."""

from __future__ import annotations

import pytest

from rtjazz_hf.music.vocabulary import (
    INSTRUMENTS,
    KEYS,
    LEAD_INSTRUMENTS,
    canonical_instrument,
    canonical_instruments,
    canonical_key,
    check_tempo,
    choose_lead,
    default_swing,
    note_to_pitch_class,
    tonic,
    transpose_key,
)


class TestNames:
    @pytest.mark.parametrize(
        "text, name",
        [("Tenor Sax", "tenor_sax"), ("vibes", "vibraphone"), ("nylon guitar", "guitar"), ("PIANO", "piano")],
    )
    def test_instruments_as_people_write_them(self, text, name):
        assert canonical_instrument(text) == name

    @pytest.mark.parametrize("name", ["kazoo", "", None, 3])
    def test_an_unknown_instrument_is_named_with_those_that_are_known(self, name):
        with pytest.raises(ValueError, match=r"unknown instrument .*piano.*synth_pad") as error:
            canonical_instrument(name)
        assert repr(name) in str(error.value)

    def test_bands_are_in_the_order_of_the_features(self):
        assert canonical_instruments(["drums", "piano", "bass", "piano"]) == ("piano", "bass", "drums")
        assert set(LEAD_INSTRUMENTS) < set(INSTRUMENTS)

    @pytest.mark.parametrize(
        "text, key",
        [
            ("F minor", "Fm"),
            ("fm", "Fm"),
            ("E♭", "Eb"),
            ("A# major", "Bb"),
            ("Gbm", "F#m"),
            ("D-flat major", "Db"),
            ("c sharp minor", "C#m"),
            ("b", "B"),
            ("Bb", "Bb"),
            ("bbm", "Bbm"),
            ("CM", "C"),
        ],
    )
    def test_keys_as_people_write_them(self, text, key):
        assert canonical_key(text) == key

    @pytest.mark.parametrize("text", ["H", "F dorianish", "", None, "12"])
    def test_an_unknown_key_is_named(self, text):
        with pytest.raises(ValueError, match="unknown key"):
            canonical_key(text)

    def test_every_key_reads_as_itself_and_turns_round_in_twelve_steps(self):
        for key in KEYS:
            assert canonical_key(key) == key
            assert transpose_key(key, 12) == key == transpose_key(transpose_key(key, 7), -7)
            assert tonic(transpose_key(key, 3)) == (tonic(key) + 3) % 12

    def test_notes(self):
        assert [note_to_pitch_class(name) for name in ("C", "B#", "Cb", "F##", "E♭")] == [0, 0, 11, 7, 3]
        with pytest.raises(ValueError, match="'H'"):
            note_to_pitch_class("H")


class TestTimeAndLead:
    @pytest.mark.parametrize("tempo", [39.9, 321, float("nan"), float("inf"), "fast", None])
    def test_a_tempo_out_of_range_is_named_with_the_range(self, tempo):
        with pytest.raises(ValueError, match=r"40 to 320"):
            check_tempo(tempo)

    def test_swing_flattens_with_tempo_and_bossa_is_straight(self):
        leans = [default_swing("swing", tempo) for tempo in range(60, 321, 20)]
        assert leans == sorted(leans, reverse=True)
        assert leans[0] == 1.0 and 0.0 < leans[-1] < 0.3
        assert default_swing("bossa", 120) == 0.0

    def test_horns_lead_before_keyboards(self):
        assert choose_lead(("piano", "bass", "drums", "trumpet")) == "trumpet"
        assert choose_lead(("piano", "guitar", "bass")) == "guitar"
        assert choose_lead(("bass", "drums")) is None
