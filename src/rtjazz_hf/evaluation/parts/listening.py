"""The listening test that is made of the clips of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtjazz_hf.music.chart import ChordSpan, format_chart

from ..listening_test import KEY_NAME, ListeningClip, low_anchor, write_listening_test

if TYPE_CHECKING:
    from rtjazz_hf.music import LeadSheet

    from ..run import EvaluationRun


def make_listening(run: EvaluationRun) -> dict[str, Any]:
    """Write the page: of each of the first charts what was generated, its render, that through the codec, and an anchor
    (another chart's render without its heights, which should be rated low in sound and obedience)."""
    num = min(run.settings.listening_takes, len(run.chart_takes))
    seconds = min(run.settings.listening_seconds, run.settings.duration)
    generated, back = run.generated(num), run.reconstructed(num)
    clips = []
    for place, other in enumerate(run.others(num)):
        take = run.chart_takes[place]
        sounds = {
            "generated": generated[place].audio(seconds),
            "held_out": take.audio(seconds),
            "reconstruction": back[place].audio(seconds),
            "anchor": low_anchor(run.chart_takes[other].audio(seconds)),
        }
        chart = chart_of_start(run.chart_sheets[place], seconds)
        clips += [
            ListeningClip(kind, take.name, audio, chart, take.lead_sheet.tempo)
            for kind, audio in sounds.items()
        ]
    folder = run.listening_dir or run.out_dir / "listening"
    page = write_listening_test(clips, folder, notes={"model": run.fingerprint})
    run.say(f"  hand out {page.parent}, keep {folder / KEY_NAME}")
    return {"page": str(page), "key": str(folder / KEY_NAME), "clips": len(clips), "seconds": seconds}


def chart_of_start(lead_sheet: LeadSheet, seconds: float) -> str:
    """The chart of the bars that the first `seconds` reach, as text."""
    bar = lead_sheet.beats_per_bar
    left = bar * max(1, -int(-lead_sheet.beat_at(seconds) // bar))
    spans = []
    for span in lead_sheet.spans:
        if left <= 0:
            break
        spans.append(ChordSpan(span.chord, min(span.beats, left)))
        left -= span.beats
    return format_chart(spans, bar)
