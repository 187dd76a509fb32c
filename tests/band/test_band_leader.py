"""The band leader: charts from words, arrangements over time, variety for the corpus."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.band import random_lead_sheet, write_lead_sheet
from rtjazz_hf.band.forms import FORMS, write_form
from rtjazz_hf.music import (
    GENRES,
    GROOVE_GENRES,
    INSTRUMENTS,
    KEYS,
    LEAD_INSTRUMENTS,
    ROLES,
    LeadSheet,
    parse_chart,
)
from rtjazz_hf.music.vocabulary import CHORD_INSTRUMENTS, KITS, is_minor, tonic

CHART = "Dm7 | G7 | Cmaj7 | %"
seeds = st.integers(0, 10_000)


class TestForms:
    @pytest.mark.parametrize("minor", [False, True])
    @pytest.mark.parametrize("form", FORMS)
    def test_every_form_is_whole_phrases_of_readable_chords(self, form, minor):
        lengths = set()
        for seed in range(60):
            bars = write_form(form, minor, np.random.default_rng(seed))
            parse_chart(" | ".join(" ".join(bar) for bar in bars))
            lengths.add(len(bars))
        expected = {
            "blues": {12},
            "rhythm_changes": {32},
            "aaba": {32},
            "abac": {32},
            "ballad": {32},
            "bossa": {32},
        }
        assert lengths <= expected.get(form, {4, 8, 12, 16, 24, 32})

    def test_unknown_forms_are_refused(self):
        with pytest.raises(ValueError, match=r"unknown form 'sonata'.*blues"):
            write_form("sonata", False, np.random.default_rng(0))

    @pytest.mark.parametrize("genre", GENRES)
    def test_tunes_differ_and_stay_in_their_key(self, genre):
        prompt, charts, home = genre.replace("_", " "), set(), 0
        for seed in range(30):
            sheet = write_lead_sheet(prompt, key="C", seed=seed)
            charts.add(sheet.to_text())
            home += any(span.chord.root == 0 for span in sheet.spans)
        assert len(charts) >= 12 and home >= 27


class TestWords:
    @pytest.mark.parametrize(
        "prompt, genre, plays, lead",
        [
            ("Bill Evans modal jazz", "modal", {"piano", "bass", "brushes"}, "piano"),
            ("bebop sax quartet", "bebop", {"piano", "bass", "alto_sax"}, "alto_sax"),
            ("bossa nova, nylon guitar", "bossa", {"guitar", "bass"}, "guitar"),
            ("medium swing piano trio", "swing", {"piano", "bass"}, "piano"),
            ("muted trumpet ballad", "ballad", {"muted_trumpet", "bass"}, "muted_trumpet"),
            ("organ trio blues", "blues", {"organ", "drums"}, "organ"),
            ("vibraphone cool jazz", "cool", {"vibraphone"}, "vibraphone"),
        ],
    )
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_genre_band_and_lead(self, prompt, genre, plays, lead, seed):
        sheet = write_lead_sheet(prompt, seed=seed)
        assert sheet.genre == genre
        assert plays - {"drums"} <= set(sheet.instruments) and sheet.sections[0].lead == lead

    @pytest.mark.parametrize(
        "prompt, size",
        [
            ("piano trio", 3),
            ("bebop quartet", 4),
            ("hard bop quintet", 5),
            ("sextet", 6),
            ("duo", 2),
            ("solo piano", 1),
        ],
    )
    def test_ensembles_have_their_size(self, prompt, size):
        for seed in range(8):
            assert len(write_lead_sheet(prompt, seed=seed).instruments) == size

    def test_pace_words_order_the_tempo(self):
        for seed in range(8):
            paces = (
                "very slow swing",
                "slow swing",
                "medium swing",
                "medium up swing",
                "fast swing",
                "very fast swing",
            )
            tempi = [write_lead_sheet(pace, seed=seed).tempo for pace in paces]
            assert tempi == sorted(tempi)
        assert write_lead_sheet("up-tempo bebop").tempo >= 180
        assert write_lead_sheet("slow blues").tempo <= 96
        assert 40 <= write_lead_sheet("very slow ballad").tempo < 60

    def test_numbers_keys_and_metres(self):
        sheet = write_lead_sheet("132 bpm jazz waltz in F minor")
        assert (sheet.tempo, sheet.key, sheet.beats_per_bar, sheet.genre) == (132, "Fm", 3, "waltz")
        assert write_lead_sheet("dark minor swing").mood == "dark"
        assert is_minor(write_lead_sheet("minor blues").key) and not is_minor(
            write_lead_sheet("major blues").key
        )

    def test_leaving_out_by_words(self):
        sheet = write_lead_sheet("hard bop quintet without piano, no drums")
        assert not {"piano", "drums", "brushes"} & set(sheet.instruments)

    def test_bossa_is_straight_and_an_empty_prompt_swings(self):
        assert write_lead_sheet("bossa nova").swing == 0.0
        assert write_lead_sheet("").genre == "swing" and write_lead_sheet("").swing > 0

    @given(st.text(max_size=30), seeds, st.one_of(st.none(), st.floats(0.5, 90)))
    def test_any_prompt_gives_a_sheet_that_can_be_played(self, prompt, seed, duration):
        try:
            sheet = write_lead_sheet(prompt, seed=seed, duration=duration)
        except ValueError as error:
            assert "tempo" in str(error)
            return
        check_playable(sheet)


class TestArguments:
    def test_win_over_words(self):
        sheet = write_lead_sheet(
            "sad slow ballad in Db, piano trio",
            tempo=200,
            key="G minor",
            mood="bright",
            instruments=["flute", "bass"],
        )
        assert (sheet.tempo, sheet.key, sheet.mood, sheet.instruments) == (
            200,
            "Gm",
            "bright",
            ("bass", "flute"),
        )

    def test_a_chart_is_played_as_written(self):
        sheet = write_lead_sheet("slow blues", chords=CHART)
        form = [span.chord.symbol for span in sheet.spans]
        assert form == ["Dm7", "G7", "Cmaj7", "Cmaj7"] * (len(form) // 4) and sheet.key == "C"
        timed = write_lead_sheet("swing", chords=CHART, tempo=120, duration=30)
        assert [span.chord.symbol for span in timed.spans] == (["Dm7", "G7", "Cmaj7", "Cmaj7"] * 4)[:15]

    def test_a_chart_brings_its_metre(self):
        assert write_lead_sheet("", chords="3/4 Am7 | D7").genre == "waltz"
        assert write_lead_sheet("waltz", chords="Am7 | D7").beats_per_bar == 3
        assert write_lead_sheet("waltz", chords="4/4 Am7 | D7").beats_per_bar == 4

    def test_instruments_with_a_minus_are_left_out(self):
        everybody = write_lead_sheet("hard bop quintet", seed=3).instruments
        assert set(write_lead_sheet("hard bop quintet", seed=3, instruments=["-bass"]).instruments) == set(
            everybody
        ) - {"bass"}
        assert write_lead_sheet("", instruments="piano, bass").instruments == ("piano", "bass")
        assert write_lead_sheet("", instruments=["drums"]).sections[0].lead == "drums"

    def test_one_decision_leaves_the_others(self):
        plain = write_lead_sheet("bebop", seed=5)
        faster = write_lead_sheet("bebop", seed=5, tempo=251)
        assert (
            faster.spans == plain.spans
            and faster.instruments == plain.instruments
            and faster.key == plain.key
        )
        assert write_lead_sheet("bebop", seed=5, instruments=["-drums"]).spans == plain.spans
        assert write_lead_sheet("bebop", seed=5) == plain != write_lead_sheet("bebop", seed=6)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"tempo": 39}, "40 to 320"),
            ({"tempo": 321}, "40 to 320"),
            ({"key": "H minor"}, "unknown key 'H minor'"),
            ({"mood": "hungry"}, "unknown mood 'hungry'.*playful"),
            ({"instruments": ["kazoo"]}, "unknown instrument 'kazoo'.*trumpet"),
            ({"instruments": ["-kazoo"]}, "unknown instrument 'kazoo'"),
            ({"instruments": ["piano", "-piano"]}, "nobody is left"),
            ({"chords": "Hm7"}, "'Hm7'"),
            ({"chords": ""}, "empty chart"),
            ({"chords": "|: C"}, "unbalanced"),
            ({"chords": "7/5 C"}, "7/5"),
            ({"duration": 0}, "duration 0"),
            ({"duration": -1.0}, "duration"),
            ({"duration": float("nan")}, "duration"),
            ({"duration": 1e9}, "duration"),
        ],
    )
    def test_wrong_ones_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            write_lead_sheet("swing", **arguments)


class TestArrangement:
    @pytest.mark.parametrize("genre", GENRES)
    def test_a_loop_has_a_head_solos_and_a_head_out(self, genre):
        sheet = write_lead_sheet(genre.replace("_", " "), seed=1)
        roles = [section.role for section in sheet.sections]
        assert sheet.loops and roles[0] == "head" and roles[-1] == "head_out" and "solo" in roles
        assert not {"intro", "ending"} & set(roles)
        assert sheet.num_bars <= 512
        assert parse_chart(sheet.to_text()).num_beats == sheet.num_beats

    @given(seeds, st.floats(1.0, 240.0), st.sampled_from(GENRES))
    def test_sections_fill_the_duration(self, seed, duration, genre):
        sheet = write_lead_sheet(genre.replace("_", " "), seed=seed, duration=duration)
        bar = sheet.beats_per_bar * 60 / sheet.tempo
        assert (
            not sheet.loops and duration <= sheet.duration + 1e-6 and sheet.duration < duration + bar + 1e-6
        )
        assert sheet.features(0, int(duration * 75))[:, 60].sum() == 0  # the no-chord flag
        check_playable(sheet)

    def test_a_long_take_ends_on_the_tonic(self):
        for genre in ("swing", "bossa", "waltz", "blues", "ballad"):
            sheet = write_lead_sheet(genre, duration=60, seed=4)
            assert sheet.sections[-1].role == "ending" and sheet.spans[-1].chord.root == tonic(sheet.key)
        assert write_lead_sheet("swing", duration=5).sections[-1].role == "head"

    def test_soloists_change(self):
        leads = {section.lead for section in write_lead_sheet("hard bop quintet").sections}
        assert len(leads & set(LEAD_INSTRUMENTS)) >= 2

    def test_horns_rest_while_another_plays(self):
        for section in write_lead_sheet("hard bop quintet", duration=120).sections:
            if section.role == "solo" and section.lead == "piano":
                assert not {"trumpet", "tenor_sax", "alto_sax", "trombone"} & set(section.instruments)


class TestCorpusCharts:
    def test_cover_the_vocabulary(self):
        rng = np.random.default_rng(7)
        sheets = [random_lead_sheet(rng) for _ in range(500)]
        for sheet in sheets:
            check_playable(sheet)
            assert 60 <= sheet.tempo <= 240 and 20 <= sheet.duration < 65 and not sheet.loops
        assert {sheet.genre for sheet in sheets} == set(GENRES) - set(GROOVE_GENRES)
        assert {name for sheet in sheets for name in sheet.instruments} == set(INSTRUMENTS)
        assert {section.role for sheet in sheets for section in sheet.sections} == set(ROLES)
        assert {sheet.key for sheet in sheets} == set(KEYS)
        assert Counter(sheet.beats_per_bar for sheet in sheets)[3] > 20
        assert len({sheet.to_text() for sheet in sheets}) > 490
        roots = Counter(span.chord.root for sheet in sheets for span in sheet.spans)
        assert min(roots[root] for root in range(12)) > 0.5 * max(roots[root] for root in range(12))

    @pytest.mark.parametrize("genre", GENRES)
    def test_of_one_genre(self, genre):
        assert random_lead_sheet(np.random.default_rng(1), genre).genre == genre

    def test_the_same_generator_state_gives_the_same_chart(self):
        assert random_lead_sheet(np.random.default_rng(3)) == random_lead_sheet(np.random.default_rng(3))

    def test_an_unknown_genre_is_refused(self):
        with pytest.raises(ValueError, match="unknown genre 'polka'"):
            random_lead_sheet(np.random.default_rng(0), "polka")


def check_playable(sheet: LeadSheet) -> None:
    """Somebody plays and leads all the time, on known instruments, and no more than one kit."""
    for section in sheet.sections:
        assert section.instruments and set(section.instruments) <= set(sheet.instruments)
        assert section.lead is not None or section.role == "intro"
        assert len(set(KITS) & set(section.instruments)) <= 1
        if section.role != "intro" and "bass" in sheet.instruments and len(sheet.instruments) > 2:
            assert "bass" in section.instruments
    if len(sheet.instruments) > 3:
        assert set(CHORD_INSTRUMENTS) & set(sheet.instruments)


def test_regulars_play_where_nobody_is_named():
    regulars = ("vibraphone", "bass", "brushes")
    assert set(write_lead_sheet("slow ballad", regulars=regulars, duration=40.0).instruments) == set(regulars)
    assert "brushes" not in write_lead_sheet("without brushes", regulars=regulars).instruments
    for prompt, wishes in (("piano trio", {}), ("jazz quintet", {}), ("jazz", {"instruments": ["guitar"]})):
        assert "vibraphone" not in write_lead_sheet(prompt, regulars=regulars, **wishes).instruments
