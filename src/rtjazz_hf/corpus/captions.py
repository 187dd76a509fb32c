"""Captions: what a person would call a take, said in many ways from its tags."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..music.lead_sheet import LeadSheet
from ..music.vocabulary import CHORD_INSTRUMENTS, HORNS, KITS

_GENRES = {
    "swing": ("swing", "medium swing", "straight-ahead swing", "swing standard"),
    "blues": ("blues", "twelve-bar blues", "jazz blues"),
    "bebop": ("bebop", "bop", "fast bebop lines"),
    "rhythm_changes": ("rhythm changes", "rhythm changes bop", "AABA rhythm changes"),
    "modal": ("modal jazz", "modal", "open modal jazz"),
    "bossa": ("bossa nova", "bossa", "Brazilian jazz, bossa nova"),
    "waltz": ("jazz waltz", "waltz in three", "3/4 jazz waltz"),
    "ballad": ("ballad", "jazz ballad", "slow ballad"),
    "hard_bop": ("hard bop", "hard bop, bluesy and driving"),
    "cool": ("cool jazz", "west coast cool jazz", "cool school jazz"),
    "shuffle": ("shuffle", "blues shuffle", "jazz shuffle"),
    "samba": ("samba", "samba jazz", "Brazilian samba"),
    "mambo": ("mambo", "son montuno", "Afro-Cuban jazz, mambo", "latin jazz on clave"),
    "afro": ("afro 6/8", "Afro-Cuban 6/8", "afro 12/8 groove"),
    "funk": ("funk jazz", "soul jazz", "jazz funk", "boogaloo"),
    "gypsy": ("gypsy swing", "gypsy jazz", "jazz manouche"),
    "second_line": ("second line", "New Orleans second line", "New Orleans street beat"),
    "fast_waltz": ("fast jazz waltz", "up-tempo waltz", "fast waltz"),
    "even_eighths": ("even eighths", "ECM-style even eighths", "straight-eighths European jazz"),
}
_STRINGS = {"bossa": "nylon guitar", "samba": "nylon guitar", "gypsy": "acoustic guitar"}
_MOODS = {
    "relaxed": ("relaxed", "laid-back", "easy-going", "mellow"),
    "energetic": ("energetic", "lively", "driving", "upbeat"),
    "dark": ("dark", "moody", "brooding"),
    "bright": ("bright", "sunny", "cheerful"),
    "melancholic": ("melancholic", "wistful", "sad"),
    "romantic": ("romantic", "tender", "warm"),
    "playful": ("playful", "witty", "light-hearted"),
    "intense": ("intense", "burning", "fiery"),
}
_NAMES = {
    "piano": ("piano", "acoustic piano", "grand piano"),
    "electric_piano": ("electric piano", "Rhodes"),
    "organ": ("organ", "Hammond organ"),
    "guitar": ("guitar", "jazz guitar"),
    "vibraphone": ("vibraphone", "vibes"),
    "bass": ("bass", "double bass", "upright bass"),
    "drums": ("drums", "drum kit"),
    "brushes": ("brushes", "brushed drums"),
    "alto_sax": ("alto sax", "alto saxophone"),
    "tenor_sax": ("tenor sax", "tenor saxophone"),
    "trumpet": ("trumpet",),
    "muted_trumpet": ("muted trumpet", "Harmon-muted trumpet"),
    "trombone": ("trombone",),
    "clarinet": ("clarinet",),
    "flute": ("flute",),
    "synth_pad": ("synth pad", "soft synth pad"),
}
_SIZES = {1: "solo", 2: "duo", 3: "trio", 4: "quartet", 5: "quintet", 6: "sextet"}
_ROLES = {
    "intro": ("with an intro",),
    "head": ("playing the head", "theme statement"),
    "solo": ("with a {lead} solo", "{lead} improvising"),
    "trading": ("trading fours", "trading with the drums"),
    "ending": ("with an ending",),
}


def tempo_word(tempo: float, rng: np.random.Generator) -> str:
    """A word for a tempo in beats per minute."""
    for limit, words in (
        (76, ("very slow", "slow")),
        (104, ("slow", "slow-medium", "unhurried")),
        (150, ("medium", "mid-tempo", "medium tempo")),
        (196, ("medium-up", "brisk", "medium-fast")),
        (400, ("fast", "up-tempo", "very fast")),
    ):
        if tempo < limit:
            return str(rng.choice(words))
    return "fast"


def tags(lead_sheet: LeadSheet) -> dict[str, Any]:
    """What a take is, in the words of the closed lists: genre, mood, key, tempo, metre, instruments, leads,
    roles."""
    leads = []
    for section in lead_sheet.sections:
        if section.lead is not None and section.lead not in leads:
            leads.append(section.lead)
    return {
        "genre": lead_sheet.genre,
        "mood": lead_sheet.mood,
        "key": lead_sheet.key,
        "tempo": round(lead_sheet.tempo, 1),
        "beats_per_bar": lead_sheet.beats_per_bar,
        "swing": round(lead_sheet.swing, 3),
        "instruments": list(lead_sheet.instruments),
        "leads": leads,
        "roles": list(dict.fromkeys(section.role for section in lead_sheet.sections)),
    }


def key_words(key: str, rng: np.random.Generator) -> str:
    """A key as people write it: "in Bb", "in B flat major", "in C minor"."""
    minor = key.endswith("m")
    note = key[:-1] if minor else key
    if rng.random() < 0.3:
        note = note.replace("b", " flat").replace("#", " sharp")
    if minor:
        return f"in {note} minor"
    return f"in {note} major" if rng.random() < 0.4 else f"in {note}"


def caption(lead_sheet: LeadSheet, rng: np.random.Generator) -> str:
    """One phrase for a take, from a few words to a sentence; every call with another draw says it
    differently."""
    facts = tags(lead_sheet)

    def word(table: dict[str, tuple[str, ...]], name: str) -> str:
        return str(rng.choice(table[name]))

    genre, mood = word(_GENRES, facts["genre"]), word(_MOODS, facts["mood"])
    speed = tempo_word(lead_sheet.tempo, rng)
    if speed.split("-")[0] in genre or (facts["genre"] == "ballad" and "slow" in genre + speed):
        speed = ""
    if speed and "medium" in genre:  # never "fast medium swing"
        genre = genre.replace("medium ", "")
    strings = _STRINGS.get(facts["genre"])
    strings = strings if strings and rng.random() < 0.6 else None
    names = [word(_NAMES, name) for name in facts["instruments"]]
    if strings:  # a bossa's guitar has nylon strings
        names = [strings if name.endswith("guitar") else name for name in names]
    lead = facts["leads"][0] if facts["leads"] else None
    front = [word(_NAMES, name) for name in facts["leads"] if name in HORNS + CHORD_INSTRUMENTS][:2]
    if strings:
        front = [strings if name.endswith("guitar") else name for name in front]
    band = _band_name(facts, word)
    clock = str(rng.choice([f"{round(lead_sheet.tempo)} bpm", f"at {round(lead_sheet.tempo)} BPM"]))
    key = key_words(facts["key"], rng)
    role = str(rng.choice(facts["roles"]))
    scene = ""
    if role in _ROLES and rng.random() < 0.35:
        soloists = [
            section.lead for section in lead_sheet.sections if section.role == "solo" and section.lead
        ]
        who = word(_NAMES, soloists[0]) if soloists else (word(_NAMES, lead) if lead else "band")
        scene = str(rng.choice(_ROLES[role])).format(lead=who)

    shape = int(rng.integers(8))
    if shape == 0:
        text = f"{speed} {genre} {band}"
    elif shape == 1:
        text = f"{mood} {genre}, {_join(names)}"
    elif shape == 2:
        text = f"{genre}, {mood}, {' and '.join(front) or band}, {clock}"
    elif shape == 3:
        text = f"a {mood} {speed} {genre} for {_join(names)}, {key}"
    elif shape == 4:
        text = f"{band} playing {speed} {genre} {key}, {clock}"
    elif shape == 5:
        text = f"{speed} {genre}" + (f" with {' and '.join(front)}" if front else "")
    elif shape == 6:
        text = ", ".join([genre, mood, speed or clock, key, *names])
    else:
        text = f"{mood} {genre} {band} {key}"
    if (metre := str(lead_sheet.metre_of(0))) not in ("3/4", "4/4") and rng.random() < 0.6:
        text = f"{text}, in {metre}" if metre not in text else text
    text = " ".join(f"{text}{', ' + scene if scene else ''}".split()).replace(" ,", ",")
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    return text


def captions(lead_sheet: LeadSheet, rng: np.random.Generator, count: int = 3) -> list[str]:
    """`count` different captions of one take."""
    found: list[str] = []
    for _ in range(20 * count):
        text = caption(lead_sheet, rng)
        if text not in found:
            found.append(text)
        if len(found) == count:
            break
    return found


def _band_name(facts: dict[str, Any], word: Any) -> str:
    instruments = facts["instruments"]
    size = _SIZES.get(len(instruments), "ensemble")
    lead = facts["leads"][0] if facts["leads"] else None
    if lead is None or lead in KITS or lead == "bass":
        return f"jazz {size}"
    if size == "solo":
        return f"solo {word(_NAMES, lead)}"
    return f"{word(_NAMES, lead)} {size}"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
