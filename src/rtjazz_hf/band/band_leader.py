"""The band leader: picks tune, key, tempo and players for a prompt and lays out the performance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..music.chart import MAX_BARS, ChordSpan, check_beats_per_bar, metre_of_beats, parse_chart
from ..music.chords import Chord
from ..music.key_finding import estimate_key
from ..music.lead_sheet import LeadSheet
from ..music.metre import Metre
from ..music.practice import choruses_round, with_rests
from ..music.tags import Tags, not_done, parse_tags
from ..music.vocabulary import (
    GENRES,
    GROOVE_GENRES,
    MAJOR_KEYS,
    MAX_TEMPO,
    MIN_TEMPO,
    MINOR_KEYS,
    MOODS,
    SHARP_KEYS,
    canonical_choice,
    canonical_instrument,
    canonical_key,
    check_tempo,
    default_swing,
    is_minor,
    tonic,
)
from .arrangement import Band, arrange, build_band, weighted_choice
from .forms import colour_chords, to_spans, write_form

__all__ = ["NotPlayed", "Tags", "parse_tags", "random_lead_sheet", "told", "write_lead_sheet"]


@dataclass(frozen=True)
class _Style:
    """What a genre suggests where nobody says otherwise."""

    tempo: tuple[float, float]  # BPM
    forms: str  # form and weight, for weighted_choice
    minor: float  # share of minor tunes
    moods: tuple[str, ...]
    colour: float  # how freely chords are extended and substituted


_STYLES: dict[str, _Style] = {
    "swing": _Style(
        (112, 186), "aaba 5, abac 3, rhythm_changes 1, blues 1", 0.25, ("relaxed", "bright", "playful"), 0.35
    ),
    "blues": _Style((84, 168), "blues 1", 0.25, ("relaxed", "playful", "dark", "intense"), 0.15),
    "bebop": _Style(
        (180, 264),
        "rhythm_changes 4, blues 2, aaba 3, abac 2",
        0.2,
        ("energetic", "intense", "playful"),
        0.45,
    ),
    "rhythm_changes": _Style((168, 250), "rhythm_changes 1", 0.12, ("energetic", "bright", "playful"), 0.3),
    "modal": _Style((100, 176), "modal 1", 0.7, ("dark", "relaxed", "intense"), 0.0),
    "bossa": _Style((108, 148), "bossa 1", 0.4, ("relaxed", "romantic", "melancholic", "bright"), 0.15),
    "waltz": _Style((112, 180), "waltz 1", 0.35, ("romantic", "bright", "relaxed", "playful"), 0.3),
    "ballad": _Style((54, 74), "ballad 1", 0.35, ("romantic", "melancholic", "relaxed"), 0.3),
    "hard_bop": _Style(
        (126, 216), "blues 3, aaba 4, abac 1, modal 1", 0.65, ("intense", "energetic", "dark"), 0.35
    ),
    "cool": _Style((92, 164), "aaba 4, abac 3, blues 1", 0.35, ("relaxed", "melancholic", "bright"), 0.3),
    "shuffle": _Style((104, 152), "blues 5, aaba 1, street 1", 0.2, ("relaxed", "playful", "energetic"), 0.15),
    "samba": _Style((184, 252), "bossa 4, aaba 1", 0.35, ("bright", "energetic", "playful"), 0.15),
    "mambo": _Style((168, 228), "montuno 5, aaba 1, blues 1", 0.6, ("energetic", "bright", "intense"), 0.1),
    "afro": _Style((156, 216), "modal 3, blues 2, montuno 2", 0.8, ("dark", "intense", "relaxed"), 0.0),
    "funk": _Style((88, 172), "vamp 4, blues 3", 0.45, ("playful", "energetic", "relaxed"), 0.15),
    "gypsy": _Style((150, 240), "sixths 5, aaba 1", 0.5, ("bright", "playful", "romantic"), 0.05),
    "second_line": _Style((168, 216), "street 4, blues 2", 0.1, ("bright", "playful", "energetic"), 0.1),
    "fast_waltz": _Style((186, 252), "waltz 3, modal 1", 0.4, ("bright", "energetic", "intense"), 0.3),
    "even_eighths": _Style((92, 152), "open 4, modal 1", 0.5, ("melancholic", "romantic", "relaxed", "dark"), 0.0),
}
# Metres of genres that are not in 4/4 unless somebody says so.
_METRES = {"waltz": Metre(3, 4), "fast_waltz": Metre(3, 4), "afro": Metre(12, 8)}
_MINOR_MOODS = {
    "dark": 0.5,
    "melancholic": 0.4,
    "intense": 0.25,
    "bright": -0.25,
    "playful": -0.15,
    "relaxed": -0.1,
}
_MOOD_TEMPO = {
    "energetic": 0.35,
    "intense": 0.2,
    "bright": 0.1,
    "relaxed": -0.2,
    "melancholic": -0.3,
    "romantic": -0.25,
    "dark": -0.1,
}
# Pace -> (share of the genre's range, least and greatest BPM that the word can mean).
_PACES: dict[str, tuple[float, float, float]] = {
    "very_slow": (-0.6, 40, 72),
    "slow": (-0.2, 48, 96),
    "medium_slow": (0.05, 72, 120),
    "medium": (0.4, 100, 152),
    "medium_up": (0.75, 140, 200),
    "fast": (1.1, 180, 270),
    "very_fast": (1.5, 220, 310),
}
# Keys that jazz players call; the corpus uses all of them.
_CALLED_MAJOR = ("C", "F", "F", "Bb", "Bb", "Eb", "Eb", "Ab", "G", "Db", "D")
_CALLED_MINOR = ("Cm", "Cm", "Dm", "Dm", "Fm", "Fm", "Gm", "Gm", "Am", "Bbm", "Em")
_FORM_GENRE = {"blues": "blues", "rhythm_changes": "rhythm_changes", "modal": "modal"}
_MAX_DURATION_S = 4 * 3600.0
_LOOP_BARS = 256  # an endless sheet's pass stays near this length, and its text readable by parse_chart


def _called_key(minor: bool, rng: np.random.Generator) -> str:
    keys = _CALLED_MINOR if minor else _CALLED_MAJOR
    return keys[int(rng.integers(len(keys)))]


def _choose_tempo(genre: str, pace: str | None, mood: str, rng: np.random.Generator) -> float:
    low, high = _STYLES[genre].tempo
    spread = float(rng.uniform(0.15, 0.85))
    if pace is None:
        at = min(max(spread + _MOOD_TEMPO.get(mood, 0.0), 0.0), 1.0)
        return float(round(low + at * (high - low)))
    share, least, most = _PACES[pace]
    wanted = low + (share + 0.15 * (spread - 0.5)) * (high - low)
    if genre == "ballad":  # a fast ballad is still one
        return float(round(min(max(wanted, MIN_TEMPO + 4), 96)))
    return float(round(min(max(wanted, least + 8 * spread), most - 8 * (1 - spread), MAX_TEMPO)))


def _split_instruments(instruments: Iterable[str] | None) -> tuple[tuple[str, ...], frozenset[str]]:
    """Those to play and those, written with a leading "-", to leave out."""
    if instruments is None:
        return (), frozenset()
    names = instruments.split(",") if isinstance(instruments, str) else list(instruments)
    wanted, left_out = [], set()
    for name in names:
        if isinstance(name, str) and name.strip().startswith("-"):
            left_out.add(canonical_instrument(name.strip().lstrip("-")))
        else:
            wanted.append(canonical_instrument(name))
    return tuple(dict.fromkeys(wanted)), frozenset(left_out)


def write_lead_sheet(
    prompt: str = "",
    *,
    chords: str | None = None,
    tempo: float | None = None,
    key: str | None = None,
    mood: str | None = None,
    instruments: Iterable[str] | None = None,
    regulars: Iterable[str] | None = None,
    duration: float | None = None,
    seed: int = 0,
) -> LeadSheet:
    """Write the lead sheet of a performance.

    What the arguments leave open comes from the prompt's words (`parse_tags`), and what they leave open from
    the genre's habits and `seed`: the same call gives the same sheet, and another tempo keeps tune and band.

    Args:
        prompt: a description such as `"medium swing piano trio in F minor"`; empty means swing.
        chords: a chart (see `parse_chart`) to play instead of a tune of the band leader's.
        tempo: beats per minute, 40 to 320.
        key: one of `KEYS`, or as people write it ("F minor"). A given chart is not transposed.
        mood: one of `MOODS`.
        instruments: who plays, names as in `INSTRUMENTS`; a name with a leading "-" is left out. Where all
            names have one, the band is the genre's without them.
        regulars: who plays where neither `instruments` nor the words say who or how many do, names as in
            `INSTRUMENTS`.
        duration: seconds. The sections are laid out over it and the sheet ends; by default it loops for ever.
        seed: any whole number.

    Raises:
        ValueError: naming the argument that is out of range or unknown, and what is allowed.
    """
    tags = parse_tags(prompt)
    tempo = check_tempo(tempo) if tempo is not None else tags.tempo
    key = canonical_key(key) if key is not None else tags.key
    mood = canonical_choice("mood", mood, MOODS) if mood is not None else tags.mood
    wanted, left_out = _split_instruments(instruments)
    if duration is not None and not 0.0 < duration <= _MAX_DURATION_S:
        raise ValueError(
            f"duration {duration!r} is out of range: choose more than 0 and at most {_MAX_DURATION_S:g} s"
        )
    said = Metre.parse(tags.metre) if tags.metre else None
    chart = None
    if chords is not None:
        chart = parse_chart(chords, metre=said or _METRES.get(tags.genre or ""))
        tags = _with_chart(tags, chart.style, chart.metre)
        tempo = tempo or chart.tempo
        key = key or chart.key
    genre = tags.genre or _FORM_GENRE.get(tags.form or "", "swing")
    # One generator for each decision, so that fixing one leaves the others as they were.
    tune_rng, key_rng, tempo_rng, band_rng, mood_rng, plan_rng = (
        np.random.default_rng([seed % 2**32, GENRES.index(genre), part]) for part in range(6)
    )
    metres = list(chart.metres) if chart is not None else [said or _METRES.get(genre, Metre(4, 4))]
    style = _STYLES[genre]
    if mood is None:
        mood = style.moods[int(mood_rng.integers(len(style.moods)))]
    if tempo is None:
        tempo = _choose_tempo(genre, tags.pace, mood, tempo_rng)

    if chart is not None:
        chorus = list(chart.bars)
        key = key or estimate_key(chart.spans)
    else:
        minor = is_minor(key) if key else tags.minor
        if minor is None:
            minor = bool(key_rng.random() < style.minor + _MINOR_MOODS.get(mood, 0.0))
        key = key or _called_key(minor, key_rng)
        chorus = _write_chorus(genre, tags.form, key, metres[0], tune_rng)
        metres *= len(chorus)

    named = [name for name in tags.instruments or () if not name.startswith("-")]
    if wanted:
        band = Band.of(wanted, left_out)
    elif regulars and not named and tags.ensemble is None:
        band = Band.of(regulars, left_out.union(name[1:] for name in tags.instruments or ()))
    else:
        band = build_band(genre, mood, tags.instruments or (), tags.ensemble, band_rng, left_out)
    title = (chart.title if chart is not None else "") or f"{genre.replace('_', ' ')} in {key}"
    rests = chart.rests if chart is not None else ()
    sheet = _perform(
        chorus, chart is None, band, duration, plan_rng, tempo, metres, key, genre, mood, title,
        swing=chart.swing if chart is not None else None, round_after=choruses_round(rests, len(chorus)),
    )  # fmt: skip
    return with_rests(sheet, rests, len(chorus))


class NotPlayed(UserWarning):
    """Something that was asked for, in words or in a chart, is not played."""


def told(prompt: str = "", chords: str | None = None) -> tuple[str, ...]:
    """What a prompt and a chart ask for and nobody plays, a line each.

    Raises:
        ValueError: the chart cannot be read.
    """
    return (*not_done(prompt), *(parse_chart(chords).remarks if chords is not None else ()))


def _with_chart(tags: Tags, style: str, metre: Metre) -> Tags:
    """What the prompt says, and where it is silent what stands above the chart and what its metre suggests."""
    above = parse_tags(style) if style else Tags()
    waltz = "waltz" if (metre.count, metre.unit) == (3, 4) and above.form is None else None
    return dataclasses.replace(
        tags, genre=tags.genre or above.genre or waltz, pace=tags.pace or above.pace, mood=tags.mood or above.mood
    )


def _write_chorus(
    genre: str, form: str | None, key: str, metre: Metre, rng: np.random.Generator
) -> list[tuple[ChordSpan, ...]]:
    style = _STYLES[genre]
    if form is None:
        form = weighted_choice(style.forms, rng)
    minor = is_minor(key)
    bars = write_form(form, minor, rng)
    if form not in ("modal", "free"):
        bars = colour_chords(bars, rng, style.colour, blues=form == "blues" and not minor)
    return to_spans(bars, metre, tonic(key), sharps=key in SHARP_KEYS)


def _perform(
    chorus: list[tuple[ChordSpan, ...]],
    own_tune: bool,
    band: Band,
    duration: float | None,
    rng: np.random.Generator,
    tempo: float,
    metres: list[Metre],
    key: str,
    genre: str,
    mood: str,
    title: str,
    swing: float | None = None,
    offset_bars: int = 0,
    whole_take: bool = True,
    round_after: int = 1,
) -> LeadSheet:
    """Repeat the chorus to the length asked and lay the sections over it; a sheet that loops has a multiple of
    `round_after` choruses, where that many are not too many."""
    length = len(chorus)
    beats_per_bar = _usual_beats(metres)
    if duration is None:
        choruses = max(1, min(max(4, round(128 / length)), _LOOP_BARS // length))
        if (more := math.ceil(choruses / round_after) * round_after) * length <= MAX_BARS:
            choruses = more
        bars, ending_bar = chorus * choruses, None
    else:
        exact = _bars_in(duration * tempo / 60.0, metres, offset_bars)
        total = max(1, math.ceil(exact - 1e-6))
        bars = [chorus[(offset_bars + index) % length] for index in range(total)]
        # The last chord starts a full bar or more before the end, so that it can ring.
        ending_bar = math.floor(exact + 1e-6) - 1 if whole_take and exact >= 8 else None
        if ending_bar is not None and own_tune:
            bars = _close(bars, ending_bar, chorus[0][0].chord, key, genre, beats_per_bar)
    sections = arrange(band, len(bars), length, 1, rng, ending_bar, timed=duration is not None, whole=whole_take)
    played = [metres[(offset_bars + index) % length] for index in range(len(bars))]
    lines = np.concatenate([[0.0], np.cumsum([metre.beats for metre in played])])
    sections = tuple(
        dataclasses.replace(
            section,
            start_beat=float(lines[round(section.start_beat)]),
            beats=float(lines[round(section.end_beat)] - lines[round(section.start_beat)]),
        )
        for section in sections
    )
    return LeadSheet(
        spans=tuple(span for bar in bars for span in bar),
        tempo=tempo,
        beats_per_bar=beats_per_bar,
        swing=default_swing(genre, tempo) if swing is None else swing,
        sections=sections,
        key=key,
        genre=genre,
        mood=mood,
        title=title,
        loops=duration is None,
        metres=tuple(str(metre) for metre in played),
    )


def _usual_beats(metres: list[Metre]) -> float:
    """Quarter notes of most bars."""
    beats = [metre.beats for metre in metres]
    return check_beats_per_bar(max(set(beats), key=lambda each: (beats.count(each), -beats.index(each))))


def _bars_in(beats: float, metres: list[Metre], first: int) -> float:
    """How many bars, from `first` of a chorus on and round again, `beats` quarter notes are."""
    if len(set(metres)) == 1:
        return beats / check_beats_per_bar(metres[0].beats)
    whole, at = 0, 0.0
    while at + (length := metres[(first + whole) % len(metres)].beats) <= beats + 1e-9:
        at, whole = at + length, whole + 1
    return whole + max(0.0, beats - at) / length


def _close(
    bars: list[tuple[ChordSpan, ...]], last: int, home_chord: Chord, key: str, genre: str, beats_per_bar: float
) -> list[tuple[ChordSpan, ...]]:
    """End on the tonic from bar `last` on, a cadence in the bar before (a mode needs none)."""
    sharps, home = key in SHARP_KEYS, tonic(key)

    def chord(symbol: str) -> Chord:
        return Chord.parse(symbol).transpose(home, sharps=sharps)

    if genre == "modal":
        final = home_chord
    elif is_minor(key):
        final = chord("Cm7" if genre == "blues" else "Cm69")
    else:
        final = chord("C13" if genre == "blues" else "C69")
    bars = bars[:last] + [(ChordSpan(final, float(beats_per_bar)),)] * (len(bars) - last)
    if genre == "modal":
        bars[last - 1] = bars[last]
    else:
        two, five = (chord("Dm7b5"), chord("G7b9")) if is_minor(key) else (chord("Dm7"), chord("G7"))
        lengths = (2.0, 1.0) if beats_per_bar == 3 else metre_of_beats(beats_per_bar).share(2)
        bars[last - 1] = (ChordSpan(two, lengths[0]), ChordSpan(five, lengths[1]))
    return bars


def _pulse_of(metre: Metre, genre: str) -> float:
    """How many quarter notes of a metre last as long as a beat of a genre in its own."""
    if genre == "afro":
        return 1.0
    if metre.is_compound:
        return 1.5
    return 0.5 if metre == Metre(2, 4) and genre in ("samba", "bossa") else 1.0


def random_lead_sheet(
    rng: np.random.Generator, genre: str | None = None, metre: Metre | None = None
) -> LeadSheet:
    """A chart for the corpus: any key and band, 60 to 240 BPM, for a take of 20 to 60 seconds.

    One in six has chords that no tune has, so that models learn to follow any chart. Four in ten begin in
    the middle of a form and do not end, as live music does at any moment; the others have a beginning and an
    end.

    Args:
        genre: by default one of those that are no groove of their own.
        metre: by default the genre's own. What is counted in dotted quarters, or in 2/4, has their tempo.
    """
    songs = GENRES[: -len(GROOVE_GENRES)]
    genre = canonical_choice("genre", genre, GENRES) if genre is not None else str(rng.choice(songs))
    style = _STYLES[genre]
    mood = str(rng.choice(style.moods if rng.random() < 0.7 else MOODS))
    low, high = style.tempo
    low, high = max(60.0, low - 12.0), min(240.0, high + 12.0)
    tempo = float(np.round(rng.uniform(low, max(high, low + 20.0)), 1))
    if genre not in ("ballad", "bossa", *GROOVE_GENRES) and rng.random() < 0.1:
        tempo = float(np.round(rng.uniform(60.0, 240.0), 1))
    minor = bool(rng.random() < style.minor + _MINOR_MOODS.get(mood, 0.0))
    key = str(rng.choice(MINOR_KEYS if minor else MAJOR_KEYS))
    if metre is not None and metre != _METRES.get(genre, Metre(4, 4)):
        tempo = float(np.round(np.clip(tempo * _pulse_of(metre, genre), 60.0, 270.0), 1))
    metre = metre or _METRES.get(genre, Metre(4, 4))
    free = rng.random() < 1 / 6
    chorus = _write_chorus(genre, "free" if free else None, key, metre, rng)
    if free:
        key = estimate_key([span for bar in chorus for span in bar])
    band = build_band(genre, mood, (), None, rng, adventurous=True)
    whole = bool(rng.random() < 0.6)
    return _perform(
        chorus,
        not free,
        band,
        float(rng.uniform(20.0, 60.0)),
        rng,
        tempo,
        [metre] * len(chorus),
        key,
        genre,
        mood,
        f"{genre.replace('_', ' ')} in {key}",
        swing=float(np.round(np.clip(default_swing(genre, tempo) + rng.normal(0.0, 0.08), 0.0, 1.0), 3))
        if default_swing(genre, tempo) > 0.0
        else 0.0,
        offset_bars=0 if whole else int(rng.integers(len(chorus))),
        whole_take=whole,
    )
