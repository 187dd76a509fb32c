"""What the words of a prompt ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.band.forms import FORMS
from rtjazz_hf.music import GENRES, INSTRUMENTS, KEYS, MOODS, parse_tags
from rtjazz_hf.music.tags import not_done


class TestGenre:
    @pytest.mark.parametrize(
        "prompt, genre",
        [
            ("Bill Evans modal jazz", "modal"),
            ("bebop sax quartet", "bebop"),
            ("BE-BOP", "bebop"),
            ("hard bop quintet", "hard_bop"),
            ("bossa nova, nylon guitar", "bossa"),
            ("medium swing piano trio", "swing"),
            ("jazz waltz", "waltz"),
            ("slow blues", "blues"),
            ("a ballad", "ballad"),
            ("fast rhythm changes", "rhythm_changes"),
            ("West Coast jazz", "cool"),
            ("John Coltrane", "modal"),
            ("Charlie Parker", "bebop"),
            ("Chet Baker", "cool"),
            ("Bill Evans waltz", "waltz"),
            ("post-bop", "modal"),
            ("something nice", None),
            ("", None),
            ("Art Blakey", "hard_bop"),
            ("Jobim", "bossa"),
            ("fast samba", "samba"),
            ("son montuno", "mambo"),
            ("Afro-Cuban jazz", "mambo"),
            ("afro-cuban 6/8", "afro"),
            ("Afro 12/8 quartet", "afro"),
            ("Latin", "bossa"),
            ("Latin jazz", "mambo"),
            ("soul jazz organ trio", "funk"),
            ("funky hard bop", "hard_bop"),
            ("blues shuffle", "shuffle"),
            ("jazz manouche", "gypsy"),
            ("New Orleans street beat", "second_line"),
            ("fast waltz", "fast_waltz"),
            ("up-tempo jazz waltz", "fast_waltz"),
            ("slow waltz", "waltz"),
            ("Even 8ths", "even_eighths"),
            ("straight-ahead swing", "swing"),
            ("ECM ballad", "ballad"),
        ],
    )
    def test_words_and_names(self, prompt, genre):
        assert parse_tags(prompt).genre == genre

    @pytest.mark.parametrize("genre", GENRES)
    def test_every_genre_is_meant_by_its_own_name(self, genre):
        assert parse_tags(genre.replace("_", " ")).genre == genre

    @pytest.mark.parametrize(
        "prompt, form",
        [
            ("bebop blues", "blues"),
            ("rhythm changes", "rhythm_changes"),
            ("modal waltz", "modal"),
            ("bossa", None),
            ("AABA swing", "aaba"),
        ],
    )
    def test_forms(self, prompt, form):
        assert parse_tags(prompt).form == form


class TestTempoKeyMood:
    @pytest.mark.parametrize(
        "prompt, tempo, pace",
        [
            ("swing at 132 bpm", 132.0, None),
            ("132 BPM", 132.0, None),
            ("tempo 95.5", 95.5, None),
            ("slow blues", None, "slow"),
            ("up-tempo", None, "fast"),
            ("uptempo bop", None, "fast"),
            ("fast", None, "fast"),
            ("medium swing", None, "medium"),
            ("very slow ballad", None, "very_slow"),
            ("medium up swing", None, "medium_up"),
            ("at 48 kHz", None, None),
        ],
    )
    def test_tempo(self, prompt, tempo, pace):
        tags = parse_tags(prompt)
        assert (tags.tempo, tags.pace) == (tempo, pace)

    @pytest.mark.parametrize("prompt", ["400 bpm", "at 20 bpm"])
    def test_an_impossible_tempo_is_refused(self, prompt):
        with pytest.raises(ValueError, match="40 to 320"):
            parse_tags(prompt)

    @pytest.mark.parametrize(
        "prompt, key",
        [
            ("swing in F minor", "Fm"),
            ("in Bb", "Bb"),
            ("F blues", "F"),
            ("ballad in D flat major", "Db"),
            ("key of A", "A"),
            ("Cm bossa", "Cm"),
            ("in f# minor", "F#m"),
            ("in A minor", "Am"),
            ("in a minor mood", None),
            ("in a quiet club", None),
            ("a blues", None),
            ("A slow blues", None),
            ("Eb swing", "Eb"),
            ("in eb", "Eb"),
            ("Be nice", None),
            ("in E♭ minor", "Ebm"),
        ],
    )
    def test_key(self, prompt, key):
        assert parse_tags(prompt).key == key

    def test_a_mode_without_a_key(self):
        assert parse_tags("minor blues").minor is True and parse_tags("major blues").minor is False
        assert parse_tags("blues in C minor").minor is None

    @pytest.mark.parametrize(
        "prompt, mood",
        [
            ("moody late night jazz", "dark"),
            ("sad ballad", "melancholic"),
            ("laid-back swing", "relaxed"),
            ("fiery bop", "intense"),
            ("jazz", None),
        ],
    )
    def test_mood(self, prompt, mood):
        assert parse_tags(prompt).mood == mood


class TestInstruments:
    @pytest.mark.parametrize(
        "prompt, names, size",
        [
            ("bossa nova, nylon guitar", ("guitar",), None),
            ("bebop sax quartet", ("alto_sax",), 4),
            ("swing saxophone", ("tenor_sax",), None),
            ("muted trumpet ballad", ("muted_trumpet",), None),
            ("piano trio with brushes", ("piano", "brushes"), 3),
            ("Rhodes and flute", ("electric_piano", "flute"), None),
            ("no drums", ("-drums", "-brushes"), None),
            ("swing without piano, vibes", ("-piano", "vibraphone"), None),
            ("Bill Evans", ("piano", "bass", "brushes"), None),
            ("Coltrane quartet", ("tenor_sax",), 4),
            ("hard bop quintet", None, 5),
            ("jazz", None, None),
            ("tenor sax and alto", ("alto_sax", "tenor_sax"), None),
            ("solo piano", ("piano",), 1),
        ],
    )
    def test_named_players(self, prompt, names, size):
        tags = parse_tags(prompt)
        assert (tags.instruments, tags.ensemble) == (names, size)


@given(st.text(max_size=60))
def test_any_prompt_gives_tags_from_the_vocabulary(prompt):
    try:
        tags = parse_tags(prompt)
    except ValueError as error:
        assert "tempo" in str(error)
        return
    assert tags.genre in (None, *GENRES) and tags.mood in (None, *MOODS) and tags.key in (None, *KEYS)
    assert tags.form in (None, *FORMS)
    assert all(name.lstrip("-") in INSTRUMENTS for name in tags.instruments or ())


class TestWordsThatPeopleUse:
    @pytest.mark.parametrize(
        "text, tempo",
        [
            ("swing, bpm: 96", 96), ("BPM 96 trio", 96), ("tempo: 96", 96), ("tempo of 140", 140),
            ("♩=180 bebop", 180),
            ("♩ = 72 ballad", 72), ("hard bop at 96", 96), ("at around 210", 210), ("96 beats per minute", 96),
            ("swing at 100% energy", None), ("at 48 khz", None), ("a set at 20:30", None), ("at 16 bars", None),
            ("at 90 degrees", None),
        ],
    )  # fmt: skip
    def test_tempo(self, text, tempo):
        assert parse_tags(text).tempo == tempo

    @pytest.mark.parametrize(
        "text, gone",
        [
            ("without drums and bass", "bass drums brushes"), ("no bass or drums", "bass drums brushes"),
            ("sans piano", "piano"), ("don't use piano", "piano"), ("do not play the guitar", "guitar"),
            ("pianoless quartet", "piano"), ("drumless trio", "drums brushes"), ("mute the drums", "drums brushes"),
            ("without piano, bass or drums", "piano bass drums brushes"), ("no drums, piano trio", "drums brushes"),
            ("no drums, no bass", "bass drums brushes"), ("leave out the guitar and the piano", "piano guitar"),
            ("swing except bass", "bass"), ("not the organ", "organ"), ("muted trumpet ballad", ""),
            ("no horns", "alto_sax tenor_sax trumpet muted_trumpet trombone clarinet flute"),
        ],
    )  # fmt: skip
    def test_what_is_left_out(self, text, gone):
        named = parse_tags(text).instruments or ()
        assert [name[1:] for name in named if name.startswith("-")] == gone.split()

    def test_what_is_left_out_does_not_take_others_along(self):
        assert "piano" in parse_tags("no drums, piano trio").instruments
        assert "muted_trumpet" in parse_tags("trumpet with harmon mute").instruments

    @pytest.mark.parametrize(
        "text, key",
        [
            ("blues in b flat", "Bb"), ("key of gm", "Gm"), ("in gm", "Gm"), ("key: Bbm", "Bbm"), ("G dorian", "Gm"),
            ("D mixolydian vamp", "D"), ("bossa in d", "D"), ("an eb blues", "Eb"), ("in e flat major", "Eb"),
            ("ballad in the key of Ab", "Ab"), ("A minor waltz", "Am"), ("a blues", None), ("Bb clarinet swing", None),
            ("Eb alto sax bebop", None), ("a horn in F", "F"), ("parts for Bb instruments", None),
            ("a dorian tune", None),
        ],
    )  # fmt: skip
    def test_keys(self, text, key):
        assert parse_tags(text).key == key

    @pytest.mark.parametrize(
        "text, metre",
        [
            ("jazz in 5/4", "5/4"), ("in seven", "7/4"), ("6/8 afro", "6/8"), ("waltz in three", "3/4"),
            ("12/8 blues", "12/8"),
            ("take in five", "5/4"), ("in six eight", "6/8"), ("music in four parts", None), ("in three keys", None),
            ("swing", None), ("ready in 5 minutes", None),
        ],
    )  # fmt: skip
    def test_metres(self, text, metre):
        assert parse_tags(text).metre == metre

    @pytest.mark.parametrize(
        "text, words",
        [
            ("swing with a singer", "singer"), ("bebop with strings", "strings"), ("rock ballad", "rock"),
            ("accelerando", "accelerando"),
            ("lo-fi bossa", "lo-fi"), ("swing with soprano sax", "soprano sax"), ("modulating ballad", "modulating"),
            ("5 minutes of swing", "5 minutes"), ("no vocals please", ""), ("without vocals and strings", ""),
            ("medium swing piano trio in F minor at 120 bpm", ""), ("rocking blues", ""),
        ],
    )  # fmt: skip
    def test_what_cannot_be_done_is_told(self, text, words):
        told = not_done(text)
        assert [line.split("'")[1] for line in told] == ([words] if words else [])
