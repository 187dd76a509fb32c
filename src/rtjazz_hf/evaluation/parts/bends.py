"""Tones that move: glides, vibrato, scoops and quarter tones that a score asks of a lead, in what is played."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE
from rtjazz_hf.band.score import Score, ScoreControl, ScoreNote
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.score_features import NOTE_ROLES

from ...corpus.renderer import RendererUnavailable
from ..measures.model_checks import round_trip
from ..measures.tuning import MOVES, asked_pitch_error
from ..takes import HeldOutTake, render_score

if TYPE_CHECKING:
    from ..run import EvaluationRun

PLAYERS = ("alto_sax", "trumpet", "trombone", "guitar")
KEYS = (60, 63, 67, 70, 65, 62)  # of the notes, two seconds each; a trombone has them an octave lower
MOST_CENTS = 15.0  # asked: the median over what moves
_TEMPO, _BEATS = 120.0, 4.0  # of the chart, and of a note
_PACE = 0.0125  # seconds between two controls
_ONSET, _RELEASE = 0.2, 0.1  # seconds of a note that are not judged
_RANGE = 200.0  # cents: what a sound font's players bend at most
_SHEET = "Cm7 | Fm7 | Cm7 | Fm7 | Bb7 | Ebmaj7"


def measure_bends(run: EvaluationRun) -> dict[str, Any]:
    """Cents between asked and heard pitch, by move, beside the render of the same score and its codec copy."""
    if not run.pipe.transformer.config.score_dim:
        run.row("tones that move", "-", "not measured: this model is told no notes (its score_dim is 0)", None)
        return {"skipped": "a model without notes"}
    found: dict[str, dict[str, float]] = {}
    for move in MOVES:
        played = [_score(move, player) for player in PLAYERS]
        sheets = [_sheet(player) for player in PLAYERS]
        seconds = sheets[0].duration
        takes = [
            HeldOutTake(f"{move}-{player}", sheet, f"{player.replace('_', ' ')} alone", seconds)
            for player, sheet in zip(PLAYERS, sheets)
        ]
        clips = run.play(takes, sheets, "bends", seconds, range(len(takes)), each={"score": [s for s, _ in played]})
        heard: dict[str, list[float]] = {"generated": [], "held_out": [], "reconstruction": []}
        for clip, (score, hertz), sheet in zip(clips, played, sheets):
            heard["generated"].append(asked_pitch_error(clip.audio(), hertz))
            try:
                render = render_score(score, sheet, seconds)
            except RendererUnavailable:
                continue
            heard["held_out"].append(asked_pitch_error(render, hertz))
            heard["reconstruction"].append(asked_pitch_error(round_trip(run.pipe.codec, render)[0], hertz))
        found[move] = {kind: float(np.nanmedian(values)) for kind, values in heard.items() if values}
        run.say(f"  {move}: {found[move]}")
        run.reference(f"{move}, cents off", **found[move])
    cents = [each["generated"] for each in found.values()]
    told = ", ".join(
        f"{move.replace('_', ' ')} {each['generated']:.1f} (copies {each.get('reconstruction', np.nan):.1f}, renders "
        f"{each.get('held_out', np.nan):.1f})"
        for move, each in found.items()
    )
    run.row(
        f"tones that move as a score asks, cents off (median of {len(PLAYERS)} players)", f"<= {MOST_CENTS:g}", told,
        max(cents) <= MOST_CENTS,
    )  # fmt: skip
    return {"moves": found, "tables": []}


def _sheet(player: str) -> LeadSheet:
    return LeadSheet.from_chart(_SHEET, tempo=_TEMPO, genre="ballad", instruments=(player,))


def _score(move: str, player: str) -> tuple[Score, np.ndarray]:
    """A lead of long notes that move so, and its pitch in Hz at every sample, NaN where a note begins or ends."""
    beat = 60.0 / _TEMPO
    notes, controls = [], []
    hertz = np.full(round(len(KEYS) * _BEATS * beat * SAMPLE_RATE), np.nan)
    for at, key in enumerate(KEYS):
        key -= 12 if player == "trombone" else 0
        start, length = at * _BEATS, _BEATS - 0.2
        notes.append(ScoreNote(start, length, key, 84, player, "lead"))
        times = np.arange(0.0, _BEATS * beat, _PACE)
        for time, cents in zip(times, _cents(move, times)):
            controls.append(ScoreControl(start + time / beat, "bend", float(cents) / 100, player, "lead"))
        first, last = (round((start * beat + x) * SAMPLE_RATE) for x in (_ONSET, length * beat - _RELEASE))
        time = np.arange(first, last) / SAMPLE_RATE - start * beat
        hertz[first:last] = 440.0 * 2.0 ** ((key - 69 + _cents(move, time) / 100) / 12)
    return Score(tuple(notes), tuple(controls), NOTE_ROLES), hertz


def _cents(move: str, time: np.ndarray) -> np.ndarray:
    cents = MOVES[move](time)
    return cents * (_RANGE / 300) if move == "glide" else cents  # which goes three semitones up
