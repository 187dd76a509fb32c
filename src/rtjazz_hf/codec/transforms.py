"""Fixed transforms of the lapped backbone: windows, band and semitone pooling, MDCT, tones, noise.

Everything is computed from formulas and cached per device, so that no buffer has to travel with the weights.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

_WORTH_A_PRODUCT = 6000  # multiplications a row, saved by one more product
FLOOR = 1e-9  # power under which nothing is heard: -90 dB of full scale


def erb_number(hertz: np.ndarray | float) -> np.ndarray:
    """Equivalent rectangular bandwidths below a frequency (Glasberg and Moore, 1990)."""
    return 21.4 * np.log10(1 + 0.00437 * np.asarray(hertz, dtype=np.float64))


def band_edges(num_bands: int, low: float = 40.0, high: float = 22000.0) -> np.ndarray:
    """Edges in Hz of `num_bands` bands equally wide on the ERB scale: (num_bands + 1,)."""
    numbers = np.linspace(erb_number(low), erb_number(high), num_bands + 1)
    return (10 ** (numbers / 21.4) - 1) / 0.00437


def note_frequency(notes: np.ndarray) -> np.ndarray:
    """Hz of MIDI notes in equal temperament, A4 = 440 Hz."""
    return 440.0 * 2.0 ** ((np.asarray(notes, dtype=np.float64) - 69) / 12)


def band_matrix(n_fft: int, num_bands: int, sampling_rate: int) -> np.ndarray:
    """Pools the power of FFT bins into ERB bands: (num_bands, n_fft // 2 + 1) of zeros and ones.

    A band narrower than a bin takes the nearest bin.
    """
    edges = band_edges(num_bands)
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    centres = np.sqrt(edges[1:] * edges[:-1])
    matrix = (frequencies >= edges[:-1, None]) & (frequencies < edges[1:, None])
    nearest = np.abs(frequencies[None] - centres[:, None]).argmin(axis=1)
    empty = ~matrix.any(axis=1)
    matrix[empty, nearest[empty]] = True
    return matrix.astype(np.float32)


def mel_matrix(n_fft: int, num_bands: int, sampling_rate: int) -> np.ndarray:
    """Pools the power of FFT bins into triangular bands, evenly spaced on the HTK mel scale: (num_bands, bins).

    An edge reaches one bin at least, or the lowest bands would be empty.
    """
    top = 2595 * np.log10(1 + sampling_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, num_bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    centre = edges[1:-1, None]
    low = np.minimum(edges[:-2, None], centre - sampling_rate / n_fft)
    high = np.maximum(edges[2:, None], centre + sampling_rate / n_fft)
    return np.clip(
        np.minimum((frequencies - low) / (centre - low), (high - frequencies) / (high - centre)), 0, None
    ).astype(np.float32)


def semitone_matrix(n_fft: int, notes: np.ndarray, sampling_rate: int, width: float = 0.5) -> np.ndarray:
    """Pools the power of FFT bins around MIDI notes with a Gaussian: (notes, n_fft // 2 + 1).

    Args:
        width (`float`): standard deviation in semitones; widened where a bin is wider than that.
    """
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    frequencies[0] = frequencies[1] / 2  # no logarithm of zero; far from every note
    pitches = 69 + 12 * np.log2(frequencies / 440)
    notes = np.asarray(notes, dtype=np.float64)[:, None]
    bin_semitones = (sampling_rate / n_fft) / (note_frequency(notes) * (2 ** (1 / 12) - 1))
    deviation = np.sqrt(width**2 + (0.5 * bin_semitones) ** 2)
    return np.exp(-0.5 * ((pitches[None] - notes) / deviation) ** 2).astype(np.float32)


def asymmetric_window(length: int, fall: int) -> np.ndarray:
    """A window that rises slowly and falls within its last `fall` samples, so that it looks at now.

    Scaled so that a sinusoid of amplitude A has the magnitude A at its bin.
    """
    rise = length - fall
    up = np.sin(math.pi / 2 * (np.arange(rise) + 0.5) / rise) ** 2
    down = np.cos(math.pi / 2 * (np.arange(fall) + 0.5) / fall) ** 2
    window = np.concatenate([up, down])
    return (window * 2 / window.sum()).astype(np.float32)


def _table(name: str, arguments: tuple, device: str) -> torch.Tensor:
    # Tables outlive the call that first asks for them, which may be under inference mode; training wants them too.
    with torch.inference_mode(False):
        return torch.from_numpy(np.ascontiguousarray(_BUILDERS[name](*arguments))).to(device)


_constant = lru_cache(maxsize=256)(_table)


def _level_window(length: int, hop: int, overlap: int, faded: bool) -> np.ndarray:
    """Rises over the past, is flat over the newest hop, and falls within the overlap, unless what it gets has
    `faded` there by itself. Scaled as `asymmetric_window`."""
    rise = length - hop - overlap
    up = np.sin(math.pi / 2 * (np.arange(rise) + 0.5) / rise) ** 2
    down = np.cos(math.pi / 2 * (np.arange(overlap) + 0.5) / overlap)
    scale = 2 / (up.sum() + hop + down.sum())
    return (np.concatenate([up, np.ones(hop), down**0 if faded else down]) * scale).astype(np.float32)


def _fall_window(hop: int, overlap: int) -> np.ndarray:
    """One, and half a cosine slope in the overlap: (hop + overlap,)."""
    return np.concatenate([np.ones(hop), np.cos(math.pi / 2 * (np.arange(overlap) + 0.5) / overlap)]).astype(
        np.float32
    )


def _join_window(hop: int, overlap: int) -> np.ndarray:
    """Makes frames that have `_fall_window` add up to one: (hop + overlap,)."""
    up = np.sin(math.pi / 2 * (np.arange(overlap) + 0.5) / overlap) ** 2
    return np.concatenate([up, _fall_window(hop, overlap)[overlap:]]).astype(np.float32)


def _mean_mel_matrix(n_fft: int, num_bands: int, sampling_rate: int) -> np.ndarray:
    """`mel_matrix` whose bands hold the mean power of their bins."""
    matrix = mel_matrix(n_fft, num_bands, sampling_rate)
    return matrix / matrix.sum(1, keepdims=True)


def _mel_spread(n_fft: int, num_bands: int, sampling_rate: int) -> np.ndarray:
    """Interpolates what mel bands hold to FFT bins; columns sum to one: (num_bands, bins)."""
    matrix = mel_matrix(n_fft, num_bands, sampling_rate)
    matrix[0, 0] = matrix[-1, -1] = 1.0  # no triangle reaches the ends
    return matrix / matrix.sum(0, keepdims=True)


def constant(name: str, *arguments, device: torch.device | str = "cpu") -> torch.Tensor:
    """The named table of this module as a tensor, built once per device."""
    return _constant(name, arguments, str(device))


def banded_product(x: torch.Tensor, name: str, *arguments, transposed: bool = False) -> torch.Tensor:
    """`x @ constant(name, *arguments)`, or its transpose, of a matrix that is zero away from a diagonal: x (..., rows)
    -> (..., columns). Groups of columns are multiplied with the rows that they have something in alone."""
    parts = _column_groups(name, arguments, transposed, str(x.device))
    flat = x.reshape(-1, x.shape[-1])  # two axes: products of more are wrapped in views, which cost as much as they do
    return torch.cat([flat[:, rows] @ part for rows, part in parts], dim=-1).unflatten(0, x.shape[:-1])


@lru_cache(maxsize=64)
def _column_groups(name: str, arguments: tuple, transposed: bool, device: str) -> list[tuple[slice, torch.Tensor]]:
    matrix = _table(name, arguments, device)  # not kept beside its parts
    matrix = matrix.T if transposed else matrix

    def rows_of(columns: slice) -> slice:
        rows = matrix[:, columns].any(1).nonzero()[:, 0].tolist() or [0]
        return slice(rows[0], rows[-1] + 1)

    def size(columns: slice) -> int:
        rows = rows_of(columns)
        return (rows.stop - rows.start) * (columns.stop - columns.start)

    def split(columns: slice) -> list[slice]:
        middle = (columns.start + columns.stop) // 2
        halves = [slice(columns.start, middle), slice(middle, columns.stop)]
        if size(columns) - sum(map(size, halves)) < _WORTH_A_PRODUCT:
            return [columns]
        return [part for half in halves for part in split(half)]

    with torch.inference_mode(False):
        return [
            (rows_of(columns), matrix[rows_of(columns), columns].clone(memory_format=torch.contiguous_format))
            for columns in split(slice(0, matrix.shape[1]))
        ]


def _frame_window(hop: int, overlap: int) -> np.ndarray:
    """Sine slopes of `overlap` samples around a flat top: (hop + overlap,); its squares overlap to one."""
    up = np.sin(math.pi / 2 * (np.arange(overlap) + 0.5) / overlap)
    return np.concatenate([up, np.ones(hop - overlap), up[::-1]])


def _mdct_basis(hop: int, overlap: int) -> np.ndarray:
    """Rows of an orthonormal low-overlap MDCT (Princen and Bradley, 1986): (hop, hop + overlap)."""
    window = _frame_window(hop, overlap)
    n = np.arange(hop + overlap) + (hop - overlap) / 2
    k = np.arange(hop)[:, None]
    basis = np.cos(math.pi / hop * (n[None] + 0.5 + hop / 2) * (k + 0.5))
    return (window * math.sqrt(2 / hop) * basis).astype(np.float32)


def _tone_frequencies(lowest: int, count: int, tones_per_note: int) -> np.ndarray:
    """Hz of the tones of the bank: `tones_per_note` around each note, evenly spaced in pitch."""
    offsets = (
        (np.arange(tones_per_note) + 0.5) / tones_per_note
        - 0.5
        + (0.5 / tones_per_note) * (1 - tones_per_note % 2)
    )
    return note_frequency(np.arange(lowest, lowest + count)[:, None] + offsets).ravel()


def _tone_basis(
    hop: int, overlap: int, lowest: int, count: int, tones_per_note: int, rate: int
) -> np.ndarray:
    """Cosines then negative sines of a frame and its overlap: (2 tones, hop + overlap)."""
    step = 2 * math.pi * _tone_frequencies(lowest, count, tones_per_note) / rate
    angle = step[:, None] * np.arange(hop + overlap)[None]
    return np.concatenate([np.cos(angle), -np.sin(angle)]).astype(np.float32)


def _tone_turns(lowest: int, count: int, tones_per_note: int, hop: int, rate: int) -> np.ndarray:
    """Turns that each tone makes in a frame: (tones,) float64."""
    return _tone_frequencies(lowest, count, tones_per_note) * hop / rate


def _tone_spread(tones_per_note: int) -> np.ndarray:
    """Where the tones of a note start, in log power: the one on the note has it all."""
    middle = np.arange(tones_per_note) == (tones_per_note - 1) // 2
    return np.where(middle, 0.0, -3.0).astype(np.float32)


def _flat_window(length: int, hop: int, overlap: int) -> np.ndarray:
    """`_level_window`, faded, with a flat part of one."""
    window = _level_window(length, hop, overlap, True)
    return window / window.max()


def _level_pool(length: int, hop: int, overlap: int, num_bands: int, sampling_rate: int) -> np.ndarray:
    """Squares of real and imaginary parts, one after the other, of spectra of mid and side in `_flat_window` -> mean
    power in `_level_window` of the bands of mid, then of side, which has half as many: (parts, bands)."""
    scale = _level_window(length, hop, overlap, True).max() ** 2
    pools = [_mean_mel_matrix(length, bands, sampling_rate).T for bands in (num_bands, num_bands // 2)]
    return _side_by_side(*(np.repeat(pool * scale, 2, axis=0) for pool in pools))


def _level_spread(length: int, num_bands: int, sampling_rate: int) -> np.ndarray:
    """What bands of mid, then of side, hold -> what each real and imaginary part gets of it: (bands, parts)."""
    spreads = [_mel_spread(length, bands, sampling_rate) for bands in (num_bands, num_bands // 2)]
    return _side_by_side(*(np.repeat(spread, 2, axis=1) for spread in spreads))


def _side_by_side(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A matrix of two blocks on its diagonal."""
    upper = np.pad(first, ((0, 0), (0, second.shape[1])))
    return np.concatenate([upper, np.pad(second, ((0, 0), (first.shape[1], 0)))]).astype(np.float32)


def _envelope_points(points: int, length: int) -> np.ndarray:
    """Linear interpolation of a gain given at `points` places of a frame: (points, length)."""
    places = np.linspace(0, points - 1, length)
    return np.stack([np.interp(places, np.arange(points), row) for row in np.eye(points)]).astype(np.float32)


def _noise_spectra(frames: int, hop: int, length: int) -> np.ndarray:
    """Spectra of pieces of one white noise for mid and side, a hop apart, around each frame: (2, frames, 2 * bins),
    real and imaginary parts one after the other.

    The noise has unit variance and begins again after its last frame.
    """
    generator = np.random.Generator(np.random.PCG64(20))
    noise = generator.standard_normal((2, frames * hop), dtype=np.float32)
    noise = np.concatenate([noise] * -(-(frames * hop + length) // (frames * hop)), axis=1)
    pieces = np.lib.stride_tricks.sliding_window_view(noise, length, axis=1)[:, : frames * hop : hop]
    spectra = np.empty((2, frames, length + 2), dtype=np.float32)
    for start in range(0, frames, 100):  # transformed in float64, which takes a moment's memory
        some = np.fft.rfft(pieces[:, start : start + 100]).astype(np.complex64)
        spectra[:, start : start + 100] = some.view(np.float32)
    return spectra


def _unit_noise(length: int, fall: int, num_bands: int, sampling_rate: int) -> np.ndarray:
    """Log power in ERB bands of white noise of unit variance, in `asymmetric_window`: (num_bands,)."""
    bins = band_matrix(length, num_bands, sampling_rate).sum(1)
    return np.log(bins * np.square(asymmetric_window(length, fall)).sum()).astype(np.float32)


def _band_interpolation(num_bands: int, n_fft: int, sampling_rate: int) -> np.ndarray:
    """Spreads band gains over FFT bins, linearly on the ERB scale: (num_bands, n_fft // 2 + 1)."""
    edges = erb_number(band_edges(num_bands))
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    place = (erb_number(frequencies) - edges[0]) / (edges[-1] - edges[0]) * num_bands - 0.5
    place = place.clip(0, num_bands - 1 - 1e-6)
    low, bins = place.astype(int), np.arange(len(frequencies))
    matrix = np.zeros((num_bands, len(frequencies)), dtype=np.float32)
    matrix[low, bins] = 1 - (place - low)
    matrix[low + 1, bins] += place - low
    return matrix


def _band_index(num_bands: int, lowest: int, count: int) -> np.ndarray:
    """The ERB band in which each note of the bank lies: (count,) int64."""
    edges = band_edges(num_bands)
    notes = note_frequency(np.arange(lowest, lowest + count))
    return (np.searchsorted(edges, notes) - 1).clip(0, num_bands - 1).astype(np.int64)


def _tone_phases(count: int) -> np.ndarray:
    """Where each tone of the bank starts, in turns; scattered, so that the tones do not peak together."""
    return np.random.Generator(np.random.PCG64(21)).random(count)


def _asymmetric_slope(length: int, fall: int) -> np.ndarray:
    """Slope of `asymmetric_window`, per sample."""
    rise = length - fall
    up = np.sin(math.pi * (np.arange(rise) + 0.5) / rise) / rise
    down = -np.sin(math.pi * (np.arange(fall) + 0.5) / fall) / fall
    # Its squared sines have a mean of a half, so what it was scaled by is 4 / length.
    return (np.concatenate([up, down]) * (math.pi / 2) * (4 / length)).astype(np.float32)


def _level_slope(length: int, hop: int, overlap: int) -> np.ndarray:
    """Slope of `_level_window`, not faded, per sample."""
    rise = length - hop - overlap
    up = math.pi / 2 / rise * np.sin(math.pi * (np.arange(rise) + 0.5) / rise)
    down = -math.pi / 2 / overlap * np.sin(math.pi / 2 * (np.arange(overlap) + 0.5) / overlap)
    scale = float(_level_window(length, hop, overlap, False).max())
    return (np.concatenate([up, np.zeros(hop), down]) * scale).astype(np.float32)


def _near_notes(n_fft: int, first: int, last: int, sampling_rate: int) -> np.ndarray:
    """Which bins lie within half a semitone of each note, or within three quarters of a bin: (bins, notes) of zeros
    and ones, up to the last bin that does."""
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)[:, None]
    hertz = note_frequency(np.arange(first, last))
    reach = np.maximum(hertz * (2 ** (0.5 / 12) - 1), 0.75 * sampling_rate / n_fft)
    near = np.abs(frequencies - hertz) <= reach
    return near[: near.any(1).nonzero()[0].max() + 1].astype(np.float32)


def _near_distances(n_fft: int, first: int, last: int, sampling_rate: int) -> np.ndarray:
    """`_near_notes` times how far each bin lies above its note, in Hz."""
    near = _near_notes(n_fft, first, last, sampling_rate)
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)[: len(near), None]
    return (near * (frequencies - note_frequency(np.arange(first, last)))).astype(np.float32)


def _register_members(registers: tuple[int, ...], lowest: int, count: int) -> np.ndarray:
    """Which notes share each channel: (notes, 12 * registers) of zeros and ones; those below have none."""
    notes = np.arange(lowest, lowest + count)
    channel = 12 * (np.searchsorted(registers, notes, side="right") - 1) + notes % 12
    return (channel[:, None] == np.arange(12 * len(registers))).astype(np.float32)


_BUILDERS = {
    "asymmetric_window": asymmetric_window,
    "hann_window": lambda length: (np.hanning(length + 1)[:-1] * 2 / length * 2).astype(np.float32),
    "band_matrix": band_matrix,
    "mel_matrix": mel_matrix,
    "mean_mel_matrix": _mean_mel_matrix,
    "flat_window": _flat_window,
    "level_pool": _level_pool,
    "level_spread": _level_spread,
    "level_window": _level_window,
    "join_window": _join_window,
    "fall_window": _fall_window,
    "semitone_matrix": lambda n_fft, low, high, rate, width, step=1: semitone_matrix(
        n_fft, np.arange(step * low, step * high) / step, rate, width
    ),
    "mdct_basis": _mdct_basis,
    "tone_basis": _tone_basis,
    "tone_turns": _tone_turns,
    "tone_spread": _tone_spread,
    "envelope_points": _envelope_points,
    "noise_spectra": _noise_spectra,
    "unit_noise": _unit_noise,
    "band_pairs": lambda *arguments: np.repeat(_band_interpolation(*arguments), 2, axis=1),
    "band_index": _band_index,
    "tone_phases": _tone_phases,
    "asymmetric_slope": _asymmetric_slope,
    "level_slope": _level_slope,
    "near_notes": _near_notes,
    "near_distances": _near_distances,
    "register_members": _register_members,
    "note_frequency": lambda first, last: note_frequency(np.arange(first, last)).astype(np.float32),
}
