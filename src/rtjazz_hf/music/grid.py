"""A chart as players see it: bars in a row, each with its chords."""

from __future__ import annotations

from .lead_sheet import LeadSheet

_NEAR = 1e-6  # beats


def chart_grid(sheet: LeadSheet) -> list[list[str]]:
    """The chords of each bar, as symbols, until the bars come again: of a sheet that goes round one chart, that chart.

    Bar n of the sheet, counted from 0 on through its loops, is `grid[n % len(grid)]`.
    """
    lines = sheet.bar_lines.tolist()
    bars: list[list[str]] = [[] for _ in lines[1:]]
    bar, at = 0, 0.0
    for span in sheet.spans:
        end = at + span.beats
        while bar < len(bars) and lines[bar] < end - _NEAR:
            if bars[bar][-1:] != [span.chord.symbol]:
                bars[bar].append(span.chord.symbol)
            if lines[bar + 1] > end + _NEAR:
                break
            bar += 1
        at = end
    count = len(bars)
    return next(
        bars[:length]
        for length in range(1, count + 1)
        if count % length == 0 and bars[length:] == bars[: count - length]
    )


__all__ = ["chart_grid"]
