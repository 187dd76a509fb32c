"""Exact loops: so many bars to the sample, whose end runs into its beginning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE
from ..music import LeadSheet
from ..prompts import MAX_DURATION
from .context import crossfade_end

MAX_BARS = 256
_LEAD_IN_SECONDS = 2.0  # at least; whole bars, so that the band plays itself in before the first bar
_SHORTEST_SPAN = 1e-6  # beats; what a float sum leaves over is no chord


def loop_samples(sheet: LeadSheet, bars: int) -> int:
    """Samples at 48 kHz of so many bars of `sheet`, to the nearest."""
    return round(sheet.bar_start(bars) * 60.0 / sheet.tempo * SAMPLE_RATE)


def loop_sheet(sheet: LeadSheet, bars: int) -> LeadSheet:
    """The first `bars` of `sheet`, counted on through its own loops, as a sheet that starts again after them.

    Raises:
        ValueError: `bars` is no whole number from 1 to 256, or they last longer than a call plays.
    """
    if isinstance(bars, bool) or not isinstance(bars, int) or not 1 <= bars <= MAX_BARS:
        raise ValueError(f"bars {bars!r}: choose a whole number from 1 to {MAX_BARS}")
    seconds = loop_samples(sheet, bars) / SAMPLE_RATE
    most = MAX_DURATION - _lead_in_beats(sheet) * 60.0 / sheet.tempo
    if seconds > most:
        raise ValueError(
            f"{bars} bars at {sheet.tempo:g} BPM last {seconds:.1f} s: choose at most {most:.1f} s"
        )
    beats = sheet.bar_start(bars)
    spans = [
        dataclasses.replace(sheet.spans[index], beats=length)
        for index, length in _first_beats([span.beats for span in sheet.spans], beats)
    ]
    sections, at = [], 0.0
    for index, length in _first_beats([section.beats for section in sheet.sections], beats):
        sections.append(dataclasses.replace(sheet.sections[index], start_beat=at, beats=length))
        at += length
    return dataclasses.replace(
        sheet, spans=tuple(spans), sections=tuple(sections), loops=True, beat_offset=0.0,
        metres=tuple(str(sheet.metre_of(bar)) for bar in range(bars)) if sheet.metres else (),
        beats_per_bar=sheet.metre_of(0).beats if sheet.metres else sheet.beats_per_bar,
    )  # fmt: skip


def _first_beats(lengths: list[float], beats: float) -> list[tuple[int, float]]:
    """Indices into `lengths`, gone round as often as needed, and how much of each falls in the first `beats`."""
    taken, at, index = [], 0.0, 0
    while beats - at > _SHORTEST_SPAN:
        length = min(lengths[index % len(lengths)], beats - at)
        taken.append((index % len(lengths), length))
        at, index = at + length, index + 1
    return taken


def _lead_in_beats(sheet: LeadSheet) -> float:
    """Beats of the last bars of the sheet, gone round as often as needed, that last long enough to play in."""
    beats, bar = 0.0, 0
    while beats * 60.0 / sheet.tempo < _LEAD_IN_SECONDS - 1e-9:
        bar -= 1
        beats += sheet.metre_of(bar % sheet.num_bars).beats
    return beats


def play_loop(play: Callable[..., Any], prompt: Any, sheet: LeadSheet, bars: int, **options: Any) -> Any:
    """Play the first `bars` of `sheet` as a loop.

    The band plays the loop's last bars first, as a lead-in, and then the loop. The loop's last 0.1 s cross over at
    equal power into the end of the lead-in, which is the same place in the chart and the very sound that the
    loop's first sample follows: so where the loop starts again, the sound goes on as it was played.

    Args:
        play: a pipeline, which is called.
        prompt, options: as the pipeline's call takes them (generator, num_inference_steps, ...).

    Returns:
        As the call does: `audios` `(1, 2, loop_samples(sheet, bars))` numpy, lead sheet and notes of the loop; no
        latents, since those of the crossing are not the ones that sound.

    Raises:
        ValueError: as `loop_sheet` and the call.
    """
    sheet = loop_sheet(sheet, bars)
    before = round(_lead_in_beats(sheet) * 60.0 / sheet.tempo * SAMPLE_RATE)
    samples = loop_samples(sheet, bars)
    # the loop's beat 0 falls on a sample, so that its length is what tempo and bars say
    offset = -before / SAMPLE_RATE * sheet.tempo / 60.0 % sheet.num_beats
    output = play(
        prompt,
        duration=(before + samples) / SAMPLE_RATE,
        lead_sheet=dataclasses.replace(sheet, beat_offset=offset),
        **options,
    )
    audio = np.asarray(output.audios[0])
    loop = crossfade_end(audio[:, before : before + samples], audio[:, :before])
    start = offset + before / SAMPLE_RATE * sheet.tempo / 60.0  # the loop's first beat in what was played
    return type(output)(audios=loop[None], lead_sheets=[sheet], scores=[output.scores[0].since(start)])
