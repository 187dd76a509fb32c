"""Who is played by what: sound fonts and recorded instruments, side by side in one take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from ..audio import SAMPLE_RATE
from ..band.performance import Take
from .instruments import REFERENCE_S, Instrument, loudness_of, matched, reference_notes
from .lanes import lanes_of
from .mixing import placed, room_of
from .renderer import (
    ACOUSTIC_GUITARS,
    VOICES,
    MixPlan,
    Place,
    Renderer,
    Rendering,
    draw_mix,
    faded,
    finish,
    players_of,
    shared_renderer,
)
from .sampler import shared_sampler

RECORDED = "recorded/"  # before the name of a recorded instrument, where a source is told


def match_levels(instruments: Sequence[Instrument], renderer: Renderer) -> tuple[Instrument, ...]:
    """The instruments as loud as a font's own players of them, on the same notes."""
    return tuple(matched(each, _font_loudness(renderer, each.player)) for each in instruments)


def _font_loudness(renderer: Renderer, player: str) -> float:
    """LUFS of a font's player in the middle of a mix without a room."""
    from ..music.lead_sheet import LeadSheet

    notes = {player: tuple(reference_notes(player))}
    take = Take(LeadSheet.from_chart("C", instruments=(player,)), notes, duration_s=REFERENCE_S)
    voice = VOICES[player]
    place = Place(voice.presets[0], voice.level_db, 0.0, 0.0, 0.0)
    plan = MixPlan({player: place}, (0.2, 0.4, 0.5, 0.0), 0.0, 1.0)
    return loudness_of(renderer.tracks(take, [[player]], plan)[0])


def draw_sources(
    take: Take, fonts: Sequence[str], instruments: Sequence[Instrument], share: float, rng: np.random.Generator
) -> dict[str, str]:
    """A source for each player: with the chance `share` one of the recorded instruments that have all of its notes,
    else one of the fonts. An acoustic guitar, as a bossa has it, is a font's."""
    sources = {}
    for player in VOICES:  # drawn for all, so that one more player changes nobody else's
        font = fonts[int(rng.integers(len(fonts)))]
        recorded, which = bool(rng.random() < share), float(rng.random())
        acoustic = player == "guitar" and take.lead_sheet.genre in ACOUSTIC_GUITARS
        notes = take.notes.get(player, ())
        able = [each for each in instruments if each.player == player and not acoustic and each.has(notes)]
        if notes:
            chosen = able[int(which * len(able))].name if recorded and able else None
            sources[player] = font if chosen is None else RECORDED + chosen
    return sources


def render_mixed(
    take: Take,
    sources: Mapping[str, str],
    instruments: Sequence[Instrument],
    rng: np.random.Generator,
    stems: bool = False,
) -> Rendering:
    """Render a take with each player's own source; see `Renderer.render`, whose draws from `rng` these are."""
    plan = draw_mix(take, rng)
    dice = int(rng.integers(2**31))
    players = players_of(take)
    by_name = {each.name: each for each in instruments}
    samples = round(take.duration_s * SAMPLE_RATE)
    tracks: dict[tuple[str, ...], np.ndarray] = {}
    fonts = sorted({source for source in sources.values() if not source.startswith(RECORDED)})
    for font in fonts:
        mine = [name for name in players if sources[name] == font]
        groups = [(name,) for name in mine] if stems else [tuple(mine)]
        tracks |= dict(zip(groups, shared_renderer(font).tracks(take, groups, plan), strict=True))
    recorded = [name for name in players if sources[name].startswith(RECORDED)]
    for group in [(name,) for name in recorded] if stems else [tuple(recorded)] if recorded else []:
        total = np.zeros((2, samples), dtype=np.float32)
        room = np.zeros((2, samples), dtype=np.float32)
        for name in group:
            place, own = plan.places[name], np.random.default_rng([dice, list(VOICES).index(name)])
            sampler = shared_sampler(by_name[sources[name].removeprefix(RECORDED)].mapped)
            dry = sampler.play(lanes_of(take, name), take.duration_s, own) * np.float32(10 ** (place.human_db / 20))
            total += placed(dry, place.pan)
            room += placed(dry, 0.5 * place.pan) * np.float32(place.wet)
        total += room_of(room, plan.reverb, dice)
        tracks[group] = faded(total)
    if stems:
        return finish(np.stack([tracks[(name,)] for name in players]), players, plan)
    return finish(np.stack(list(tracks.values())), [], plan)


@lru_cache(maxsize=4)
def matched_once(instruments: tuple[Instrument, ...], font: str) -> tuple[Instrument, ...]:
    """`match_levels` with a font of this process, kept."""
    return match_levels(instruments, shared_renderer(font))


__all__ = ["RECORDED", "draw_sources", "match_levels", "matched_once", "render_mixed"]
