"""Who plays, and when: bands that suit a genre, and the course of a performance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..music.lead_sheet import Section
from ..music.vocabulary import (
    CHORD_INSTRUMENTS,
    HORNS,
    KITS,
    LEAD_INSTRUMENTS,
    canonical_instruments,
    choose_lead,
)


@dataclass(frozen=True)
class Band:
    """Players, and the leads among them in the order in which they come forward."""

    members: tuple[str, ...]
    leads: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], left_out: Iterable[str] = ()) -> Band:
        """Exactly `names` less `left_out`; horns lead before vibraphone and guitar, keyboards last."""
        gone = set(left_out)
        members = canonical_instruments(name for name in names if name not in gone)
        if not members:
            raise ValueError(
                f"nobody is left to play without {', '.join(sorted(gone))}: leave out fewer instruments"
            )
        leads, rest = [], list(members)
        while (lead := choose_lead(rest)) is not None:
            leads.append(lead)
            rest.remove(lead)
        if not leads:  # bass alone, drums alone: they lead themselves
            leads = [name for name in ("synth_pad", "bass", *KITS) if name in members][:1]
        return cls(members=members, leads=tuple(leads))

    @property
    def kit(self) -> str | None:
        return next((name for name in KITS if name in self.members), None)

    @property
    def front_line(self) -> tuple[str, ...]:
        """Leads that only play melody: they rest while another solos, the rhythm section does not."""
        comping = any(name in CHORD_INSTRUMENTS and name != "vibraphone" for name in self.members)
        return tuple(name for name in self.leads if name in HORNS or (name == "vibraphone" and comping))

    def playing(self, lead: str | None) -> tuple[str, ...]:
        """Who sounds while `lead` solos."""
        resting = {name for name in self.front_line if name != lead}
        return tuple(name for name in self.members if name not in resting)


# Front lines and comping instruments of each genre with their weights; "-" is a trio led from the rhythm
# section.
_FRONT_LINES = {
    "swing": "- 3, tenor_sax 3, alto_sax 1, trumpet 1, clarinet 2, vibraphone 1, trumpet+tenor_sax 1",
    "blues": "- 2, tenor_sax 3, alto_sax 2, trumpet 1, trombone 1, vibraphone 1, tenor_sax+trombone 1",
    "bebop": "- 2, alto_sax 4, trumpet+alto_sax 3, trumpet 1, tenor_sax 2, trombone 1",
    "rhythm_changes": "- 2, tenor_sax 3, alto_sax 3, trumpet 1, trumpet+tenor_sax 1, clarinet 1",
    "modal": "- 3, tenor_sax 3, muted_trumpet 3, trumpet+tenor_sax 1, flute 1, vibraphone 1",
    "bossa": "- 3, tenor_sax 3, flute 4, alto_sax 1, muted_trumpet 1, vibraphone 1, clarinet 1",
    "waltz": "- 4, tenor_sax 2, flute 2, vibraphone 2, alto_sax 1, muted_trumpet 1",
    "ballad": "- 3, tenor_sax 4, alto_sax 2, muted_trumpet 2, trumpet 1, clarinet 1, trombone 1",
    "hard_bop": "trumpet+tenor_sax 6, tenor_sax 2, alto_sax 1, trumpet 1, trumpet+alto_sax 1",
    "cool": "- 2, alto_sax 3, trumpet 2, muted_trumpet 2, vibraphone 3, tenor_sax 2, flute 1, clarinet 1",
    "shuffle": "- 2, tenor_sax 4, alto_sax 2, trumpet+tenor_sax 2, trombone 1",
    "samba": "- 2, flute 4, tenor_sax 2, alto_sax 2, trumpet 1, trombone 1, trumpet+alto_sax 1",
    "mambo": "- 2, trumpet 3, flute 3, trumpet+trombone 3, trumpet+tenor_sax 2, alto_sax 1, vibraphone 2",
    "afro": "- 2, tenor_sax 4, flute 2, trumpet+tenor_sax 2, alto_sax 1, vibraphone 1",
    "funk": "- 2, tenor_sax 3, alto_sax 3, trumpet+tenor_sax 3, trombone 1",
    "gypsy": "clarinet 5, alto_sax 1, flute 1, muted_trumpet 1, trumpet 1, vibraphone 1",
    "second_line": "trumpet+trombone 4, trumpet+clarinet 3, trombone 2, clarinet 2, trumpet 2, tenor_sax 1",
    "fast_waltz": "- 4, tenor_sax 3, alto_sax 2, flute 1, vibraphone 1, trumpet 1",
    "even_eighths": "- 4, tenor_sax 3, trumpet 2, flute 1, alto_sax 1, clarinet 1",
}
_COMPING = {
    "swing": "piano 8, guitar 2",
    "blues": "piano 6, organ 2, guitar 2",
    "bebop": "piano 1",
    "rhythm_changes": "piano 9, guitar 1",
    "modal": "piano 8, electric_piano 2",
    "bossa": "guitar 6, piano 3, electric_piano 1",
    "waltz": "piano 8, guitar 2",
    "ballad": "piano 8, guitar 2",
    "hard_bop": "piano 8, organ 2",
    "cool": "piano 7, guitar 3",
    "shuffle": "piano 4, organ 4, guitar 3",
    "samba": "guitar 5, piano 4, electric_piano 1",
    "mambo": "piano 1",
    "afro": "piano 8, electric_piano 1, guitar 1",
    "funk": "electric_piano 4, organ 3, piano 2, guitar 2",
    "gypsy": "guitar 1",
    "second_line": "piano 1",
    "fast_waltz": "piano 8, guitar 1, electric_piano 1",
    "even_eighths": "piano 6, guitar 4",
}
_BRUSHES = {
    "ballad": 0.95,
    "bossa": 0.5,
    "cool": 0.5,
    "waltz": 0.4,
    "modal": 0.25,
    "swing": 0.25,
    "blues": 0.15,
    "samba": 0.15,
    "fast_waltz": 0.15,
    "even_eighths": 0.3,
    **dict.fromkeys(("shuffle", "mambo", "afro", "funk", "second_line"), -0.1),
}
_WITHOUT_KIT = ("gypsy",)  # the guitar keeps time
_SOFT_MOODS = ("romantic", "melancholic", "relaxed")


def weighted_choice(choices: str, rng: np.random.Generator) -> str:
    """One name out of `"name weight, name weight"`, by weight."""
    names, weights = zip(*(item.rsplit(None, 1) for item in choices.split(",")))
    share = np.array(weights, dtype=np.float64)
    return names[int(rng.choice(len(names), p=share / share.sum()))].strip()


def build_band(
    genre: str,
    mood: str,
    named: tuple[str, ...],
    ensemble: int | None,
    rng: np.random.Generator,
    left_out: Iterable[str] = (),
    adventurous: bool = False,
) -> Band:
    """The band for a genre: those whom a prompt named (a leading "-" leaves one out) and whom it adds.

    Args:
        ensemble: how many play, where the prompt says; 1 is a solo player.
        adventurous: any lead and any comping instrument at times, a pad now and then: variety for a corpus.
    """
    gone = set(left_out) | {name[1:] for name in named if name.startswith("-")}
    chosen = [name for name in named if not name.startswith("-")]
    extra = [*rng.permutation(np.array(["tenor_sax", "trumpet", "alto_sax"])), "trombone", "flute"]
    line = weighted_choice(_FRONT_LINES[genre], rng)
    front = [] if line == "-" else line.split("+")
    if ensemble and ensemble >= 5 and len(front) == 1 and front[0] not in extra[:3]:
        front = []  # two or three horns: the usual ones
    if ensemble and ensemble >= 4:
        front = front[: ensemble - 3]
    comp = weighted_choice(_COMPING[genre], rng)
    brushes = rng.random() < _BRUSHES.get(genre, 0.0) + (0.1 if mood in _SOFT_MOODS else -0.05)
    if adventurous and rng.random() < 0.3:
        front = (
            [str(rng.choice(LEAD_INSTRUMENTS))]
            if rng.random() < 0.8
            else [str(name) for name in rng.permutation(np.array(HORNS))[:2]]
        )
    if adventurous and rng.random() < 0.2 and genre != "gypsy":
        comp = str(rng.choice(("piano", "electric_piano", "organ", "guitar", "vibraphone")))
    pad = adventurous and genre in ("ballad", "modal", "bossa") and rng.random() < 0.15

    solo_player = ensemble == 1 and len(chosen) == 1
    if solo_player:
        return Band.of(chosen, gone)
    members = list(chosen)
    leads = [name for name in chosen if name in LEAD_INSTRUMENTS]
    if not leads and not (ensemble and ensemble <= 3):
        members += front
    if genre in _WITHOUT_KIT and not leads and not any(name in front for name in members):
        members += front[:1]  # somebody else than the guitar that keeps time
    if not any(name in KITS for name in members) and ensemble != 2 and genre not in _WITHOUT_KIT:
        members.append("brushes" if brushes and "drums" not in gone else "drums")
    if "bass" not in members and (ensemble != 2 or not members):
        # An organist's left hand could walk, but the chart's bass notes are the bass's to play.
        members.append("bass")
    if not any(name in CHORD_INSTRUMENTS and name not in gone for name in members):
        if comp in gone:
            comp = next(
                (name for name in ("piano", "guitar", "vibraphone", "organ") if name not in gone), comp
            )
        members.append(comp)
    if ensemble == 2 and len(members) < 2:
        members.append("bass")
    if ensemble and ensemble >= 4:  # fill up: a rhythm section of three and horns
        for name in [*front, *(str(horn) for horn in extra)]:
            if len(set(members)) >= ensemble:
                break
            if name not in members and name not in gone:
                members.append(name)
    if pad:
        members.append("synth_pad")
    band = Band.of(members, gone)
    if genre in _WITHOUT_KIT and len(band.leads) > 1:  # whoever keeps time does not lead
        band = replace(band, leads=tuple(name for name in band.leads if name != "guitar"))
    return band


def arrange(
    band: Band,
    bars: int,
    chorus: int,
    beats_per_bar: int,
    rng: np.random.Generator,
    ending_bar: int | None,
    timed: bool,
    whole: bool,
) -> tuple[Section, ...]:
    """Lay head, solos, trading and head out over `bars`, back to back.

    Args:
        bars: length of the sheet. chorus: length of the form, which the sections follow.
        ending_bar: where the final chord begins; None where the music does not end.
        timed: whether the sheet lasts a given time; else it loops, without introduction and ending.
        whole: whether it begins with the head; else anywhere in the music.
    """
    end = bars if ending_bar is None else max(1, ending_bar - 1)
    plan: list[tuple[str, int, str | None]] = []  # role, bars, lead
    leads = list(band.leads)
    at = 0
    unit = _section_bars(chorus, end, float(rng.choice((1.5, 2.5, 3.5))) if timed else None)
    if timed and whole and end >= 12 and end >= 2 * unit and rng.random() < 0.35:
        plan.append(("intro", 4, None))
        at = 4
    # A remainder joins the last section: nobody starts a chorus to play two bars of it.
    course = _course(max(1, round((end - at) / unit)), leads, band, rng, whole)
    for index, (role, lead) in enumerate(course):
        length = unit if index + 1 < len(course) else end - at
        plan.extend(_trades(length, band, rng) if role == "trading" else [(role, length, lead)])
        at += length
    if end < bars:
        plan.append(("ending", bars - end, leads[0]))

    sections: list[Section] = []
    start = 0.0
    for role, length, lead in plan:
        everybody = role in ("head", "head_out", "ending")
        playing = band.members if everybody else band.playing(lead)
        beats = float(length * beats_per_bar)
        before = sections[-1] if sections else None
        if before and (before.role, before.lead, before.instruments) == (role, lead, playing):
            sections[-1] = Section(role, before.start_beat, before.beats + beats, playing, lead)
        else:
            sections.append(Section(role, start, beats, playing, lead))
        start += beats
    return tuple(sections)


def _section_bars(chorus: int, bars: int, least: float | None) -> int:
    """Bars a section lasts: a chorus (or about 16 bars of short ones), or a part of one where time is short.

    Args:
        least: how many sections should fit into `bars`; None where the sheet loops and time is no matter.
    """
    usual = chorus * max(1, round(16 / chorus))
    if least is None:
        return min(usual, bars)
    for part in (usual, chorus, chorus // 2, 8, 4):
        if part >= 4 and bars >= least * part and (part % chorus == 0 or chorus % part == 0):
            return part
    return bars


def _course(
    units: int, leads: list[str], band: Band, rng: np.random.Generator, whole: bool
) -> list[tuple[str, str]]:
    """Role and lead of each unit."""
    first = leads[0]
    if not whole:  # a moment of a longer performance: solos mostly
        start = int(rng.integers(len(leads)))
        soloists = [leads[(start + index) % len(leads)] for index in range(units)]
        roles = [("solo", soloists[index // 2]) for index in range(units)]
        if rng.random() < 0.3:
            roles[0] = ("head", first)
        return roles
    if units == 1:
        return [("head", first)]
    if units == 2:
        return [("head", first), ("solo", leads[min(1, len(leads) - 1)] if rng.random() < 0.3 else first)]
    middle = units - 2
    trading = middle >= 2 and band.kit is not None and len(band.members) > 2 and rng.random() < 0.4
    soloing = middle - trading
    order = leads[: max(1, min(len(leads), soloing))]
    room = soloing >= 4 or (soloing >= 2 and len(order) == 1)
    if room and "bass" in band.members and "bass" not in order and rng.random() < 0.3:
        order.append("bass")
    solos = [order[index * len(order) // soloing] for index in range(soloing)]
    course = [("head", first), *(("solo", lead) for lead in solos)]
    if trading:
        course.append(("trading", first))
    return [*course, ("head_out", first)]


def _trades(bars: int, band: Band, rng: np.random.Generator) -> list[tuple[str, int, str | None]]:
    """Four bars each (two where time is short), by turns: two soloists, or a soloist and the drummer."""
    first = band.leads[0]
    second = band.leads[1] if len(band.leads) > 1 and rng.random() < 0.5 else band.kit
    plan: list[tuple[str, int, str | None]] = []
    done, turn = 0, 4 if bars >= 8 else 2
    while done < bars:
        length = min(turn, bars - done)
        plan.append(("trading", length, (first, second)[len(plan) % 2]))
        done += length
    return plan
