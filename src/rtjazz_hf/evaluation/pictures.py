"""Pictures of a report: spectrograms beside their renders, a round trip, octave bands, obedience chart by chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtjazz_hf.audio import (
    PICTURE_RANGE_DB,
    PICTURE_SUFFIXES,
    SAMPLE_RATE,
    check_output_path,
    draw_levels,
    picture_levels,
    plot_spectrogram_grid,
)
from rtjazz_hf.runtime.files import whole_or_not_at_all

from .measures.metrics import OCTAVE_CENTRES, _pair

KINDS = {
    "generated": "tab:orange",
    "held_out": "tab:blue",
    "held_out_b": "tab:cyan",
    "reconstruction": "tab:green",
    "shuffled": "tab:purple",
    "free": "tab:olive",
    "noise": "tab:gray",
}


def plot_beside_renders(clips: Sequence[tuple[str, np.ndarray, np.ndarray, Any]], path: str | Path) -> Path:
    """One row a clip: what was generated on the left, its composed render on the right, under the same chart.

    Args:
        clips: (title, generated, render, lead sheet); audio `(2, samples)` at 48 kHz.
    """
    items = []
    for title, generated, render, sheet in clips:
        items += [(f"generated: {title}", generated, sheet), (f"render: {title}", render, sheet)]
    return plot_spectrogram_grid(items, path, columns=2, overwrite=True)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'rtjazz-hf[eval]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display and no global state
    return figure


def _save(figure: Any, path: str | Path, dpi: int = 110) -> Path:
    with whole_or_not_at_all(Path(path)) as partial:
        figure.savefig(partial, dpi=dpi)
    return Path(path)


def plot_round_trip(
    reference: np.ndarray,
    estimate: np.ndarray,
    path: str | Path,
    title: str = "",
    overwrite: bool = True,
) -> Path:
    """Spectrograms of a recording and of what a codec gave back for it, and where the two differ in dB.

    Both at one scale of colour; the difference (red: the codec gave more) counts levels that lie
    `PICTURE_RANGE_DB` below the loudest as that low, so that nobody hunts what nobody hears.

    Args:
        reference, estimate: `(channels, samples)` at 48 kHz, sample on sample; the common start is drawn.
    """
    path = check_output_path(path, PICTURE_SUFFIXES, overwrite)
    reference, estimate = _pair(reference, estimate)
    seconds = reference.shape[1] / SAMPLE_RATE
    levels = [picture_levels(audio) for audio in (reference, estimate)]
    top = max(*(float(level.max()) for level in levels), -40.0)
    levels = [np.maximum(level, top - PICTURE_RANGE_DB) - top for level in levels]
    figure = _figure(12, 10.5)
    axes = figure.subplots(3, 1, sharex=True, sharey=True)
    loudness = {"cmap": "magma", "vmin": -PICTURE_RANGE_DB, "vmax": 0.0}
    for axis, level, name in zip(axes, levels, ("original", "reconstructed")):
        image = draw_levels(axis, level, seconds, **loudness)
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xlabel("")
    figure.colorbar(image, ax=axes[:2], label="dB re the loudest", aspect=40, pad=0.01)
    difference = levels[1] - levels[0]
    image = draw_levels(axes[2], difference, seconds, cmap="RdBu_r", vmin=-24.0, vmax=24.0)
    axes[2].set_title(
        f"reconstructed less original: {np.abs(difference).mean():.1f} dB on average", fontsize=10, loc="left"
    )
    figure.colorbar(image, ax=axes[2], label="dB", aspect=20, pad=0.01, extend="both")
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


_ROLE_COLOURS = {"lead": "tab:red", "second": "tab:orange", "bass": "tab:blue", "comp": "tab:green"}


def plot_notes(
    notes: np.ndarray, clips: Mapping[str, np.ndarray], path: str | Path, seconds: float = 8.0, title: str = ""
) -> Path:
    """Asked notes above what sounds: a roll of the notes, then the semitones C1 to B7 of every clip, one under another.

    Args:
        notes: `(notes, 6)` in seconds, of `music.score_features.NOTE_COLUMNS`; drums are left out.
        clips: audio `(2, samples)` at 48 kHz by name.
    """
    from ..music.score_features import NOTE_ROLES
    from .measures.notes import semitone_levels

    path = check_output_path(path, PICTURE_SUFFIXES, True)
    figure = _figure(13, 2.1 * (1 + len(clips)))
    axes = figure.subplots(1 + len(clips), 1, sharex=True, sharey=True)
    for start, length, midi, _, role, _ in notes:
        if colour := _ROLE_COLOURS.get(NOTE_ROLES[int(role)]):
            axes[0].plot([start, start + length], [midi, midi], color=colour, linewidth=2.2, solid_capstyle="butt")
    handles = [axes[0].plot([], [], color=colour, label=role)[0] for role, colour in _ROLE_COLOURS.items()]
    axes[0].legend(handles=handles, fontsize=8, loc="upper right", ncols=4)
    axes[0].set_title("asked", fontsize=10, loc="left")
    for axis, (name, audio) in zip(axes[1:], clips.items()):
        levels = 20 * np.log10(semitone_levels(audio[:, : round(seconds * SAMPLE_RATE)]) + 1e-7)
        top = float(np.percentile(levels, 99.8))
        axis.imshow(levels, origin="lower", aspect="auto", extent=(0, seconds, 23.5, 107.5), cmap="magma",
                    vmin=top - 45, vmax=top, interpolation="nearest")  # fmt: skip
        axis.set_title(name, fontsize=10, loc="left")
    axes[0].set_xlim(0, seconds)
    axes[0].set_ylim(30, 100)
    axes[0].set_yticks([36, 48, 60, 72, 84, 96], ["C2", "C3", "C4", "C5", "C6", "C7"])
    axes[-1].set_xlabel("s")
    figure.suptitle(title, fontsize=11)
    return _save(figure, path, dpi=90)


def plot_bands(generated_db: np.ndarray, render_db: np.ndarray, path: str | Path) -> Path:
    """Octave-band energies `(clips, bands)` in dB: mean and range over the clips, generated and rendered."""
    figure = _figure(8, 4.5)
    axis = figure.subplots()
    places = np.arange(len(OCTAVE_CENTRES))
    for values, label, colour in (
        (render_db, "renders", "tab:blue"),
        (generated_db, "generated", "tab:orange"),
    ):
        values = np.asarray(values)
        axis.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.plot(places, values.mean(0), "o-", color=colour, label=label)
    axis.set_xticks(places, [_hertz(c) for c in OCTAVE_CENTRES])
    axis.set_xlabel("octave band, Hz")
    axis.set_ylabel("dB re full-scale sine")
    axis.set_title(f"Octave bands of {len(generated_db)} charts: mean and range", loc="left", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, path)


def plot_rate_distortion(
    curves: dict[str, tuple[Sequence[float], dict[str, Sequence[float]]]],
    levels: dict[str, float],
    measures: Sequence[tuple[str, str]],
    path: str | Path,
    title: str = "",
) -> Path:
    """Measures against bit rate, a panel each.

    Args:
        curves: name -> (rates in bit/s, measure -> values at these rates); a curve is drawn where it has the measure.
        levels: measure -> value without a rate (un-quantised latents), drawn as a dashed line.
        measures: (key, label of the axis) of every panel.
    """
    figure = _figure(5.5 * len(measures), 4.8)
    panels = np.atleast_1d(figure.subplots(1, len(measures)))
    for axis, (key, label) in zip(panels, measures):
        for index, (name, (rates, values)) in enumerate(curves.items()):
            if key not in values:
                continue
            style = "k--" if name == "bound" else "o-"
            colour = {} if name == "bound" else {"color": f"C{index}"}
            axis.plot(np.asarray(rates) / 1000, values[key], style, markersize=4, label=name, **colour)
        if key in levels:
            axis.axhline(levels[key], color="C0", linestyle=":", label="un-quantised latents")
        axis.set_xscale("log")
        ticks = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("kbit/s")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def plot_obedience(charts: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Chord rates and beat F chart by chart: generated, its render, and the generated against rotated
    charts."""
    figure = _figure(max(8.0, 0.55 * len(charts) + 2), 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(charts))
    for axis, bars in (
        (
            top,
            (
                ("chord_render", "render"),
                ("chord_generated", "generated"),
                ("chord_rotated", "rotated chart"),
            ),
        ),
        (
            bottom,
            (("beat_f_render", "render"), ("beat_f", "generated"), ("beat_f_offset", "half a beat off")),
        ),
    ):
        for index, (key, label) in enumerate(bars):
            values = [chart[key] if chart[key] is not None else np.nan for chart in charts]
            axis.bar(places + (index - 1) * 0.27, values, width=0.26, label=label)
        axis.set_ylim(0, 1.2)
        axis.grid(axis="y", alpha=0.3)
        axis.legend(loc="upper right", ncols=3, fontsize=8)
    top.set_ylabel("chord ranked first")
    bottom.set_ylabel("beat F, 70 ms")
    bottom.set_xticks(
        places, [f"{c['genre']} {c['tempo']:.0f}" for c in charts], rotation=60, ha="right", fontsize=8
    )
    return _save(figure, path)


def plot_drift(levels: Mapping[str, np.ndarray], stretch: float, path: str | Path) -> Path:
    """Octave bands over time beside what they were at the start: mean over the clips, and the range of all.

    Args:
        levels: name -> band energies in dB, `(clips, windows, bands)`. stretch: seconds of a window.
    """
    figure = _figure(11, 3.6 * len(levels))
    panels = np.atleast_1d(figure.subplots(len(levels), 1, sharex=True, sharey=True))
    colours = _colours(len(OCTAVE_CENTRES))
    for axis, (name, values) in zip(panels, levels.items()):
        change = values - values[:, :1]  # (clips, windows, bands)
        times = (np.arange(values.shape[1]) + 0.5) * stretch
        axis.axhspan(-3, 3, color="0.93", linewidth=0)
        for band, centre in enumerate(OCTAVE_CENTRES):
            axis.plot(times, change[:, :, band].mean(0), color=colours[band], label=_hertz(centre))
        axis.set_title(
            f"{name}: mean of {len(values)} clips, windows of {stretch:g} s", loc="left", fontsize=10
        )
        axis.set_ylabel("dB re the first window")
        axis.grid(alpha=0.3)
    panels[-1].set_xlabel("seconds")
    panels[0].legend(
        title="octave, Hz", ncols=len(OCTAVE_CENTRES), fontsize=7, title_fontsize=7, loc="lower left"
    )
    return _save(figure, path)


def plot_live(result: Mapping[str, Any], path: str | Path) -> Path:
    """What each live change does block by block: difference to the unchanged session, chords, cymbals.

    Args:
        result: of `parts.live.measure_live`.
    """
    figure = _figure(11, 3.6)
    heard = result["heard"]
    change = next(iter(heard.values()))["change_block"]
    left, middle, right = figure.subplots(1, 3)
    for kind, one in heard.items():
        left.plot(np.arange(len(one["by_block"])) - change, one["by_block"], "o-", markersize=3, label=kind)
    left.set_ylabel("mel distance to no change, dB")
    left.legend(fontsize=8)
    for axis, name, label in (
        (middle, "chords", "energy on the new chord less the old"),
        (right, "instruments", "above 6 kHz without drums, dB re with"),
    ):
        values = result[name]["by_block"]
        axis.plot(np.arange(len(values)) - change, values, "o-", markersize=3, color="tab:red")
        axis.axhline(0, color="0.7", linewidth=0.8)
        axis.set_ylabel(label)
    for axis in (left, middle, right):
        axis.axvline(-0.5, color="black", linestyle=":", linewidth=1)
        axis.set_xlabel("blocks after the change")
        axis.grid(alpha=0.3)
    return _save(figure, path)


def plot_references(references: Mapping[str, Mapping[str, float]], path: str | Path) -> Path:
    """One panel a measure: what was generated, beside held-out takes, the codec's copies, shuffled charts, noise.

    Args:
        references: measure -> kind of clip -> value.
    """
    columns = min(4, len(references))
    rows = -(-len(references) // columns)
    figure = _figure(3.4 * columns, 2.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (measure, values) in zip(grid, references.items()):
        kinds = [kind for kind in KINDS if kind in values] + [kind for kind in values if kind not in KINDS]
        heights = [values[kind] for kind in kinds]
        bars = axis.bar(range(len(kinds)), heights, color=[KINDS.get(kind, "tab:brown") for kind in kinds])
        axis.bar_label(bars, fmt="%.3g", fontsize=7)
        axis.margins(y=0.15)
        axis.set_xticks(
            range(len(kinds)), [kind.replace("_", " ") for kind in kinds], rotation=30, ha="right", fontsize=7
        )
        axis.set_title(measure, fontsize=9, loc="left")
        axis.grid(axis="y", alpha=0.3)
    for axis in grid[len(references) :]:
        axis.set_axis_off()
    return _save(figure, path)


def _hertz(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _colours(number: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](value) for value in np.linspace(0.0, 0.9, number)]
