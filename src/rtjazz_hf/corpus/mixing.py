"""What makes a mix of tracks: a place, a room, a limit to the lows, loudness under a true peak."""

from __future__ import annotations

import numpy as np

from ..audio import SAMPLE_RATE

TRUE_PEAK = 0.95
LOW_BAND_HZ = 200.0


def placed(audio: np.ndarray, pan: float) -> np.ndarray:
    """`(2, samples)` at a place from -1, left, to 1, by the law of constant power; the middle is as loud as given."""
    angle = (np.clip(pan, -1, 1) + 1) * np.pi / 4
    gains = np.sqrt(2) * np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)
    return audio * gains[:, None]


def room_of(sent: np.ndarray, reverb: tuple[float, float, float, float], seed: int) -> np.ndarray:
    """What a room gives back of `(2, samples)` that are sent to it: noise that decays, its highs sooner (Moorer, 1979).

    Args:
        reverb: size, damping, width and level as FluidSynth has them. Time, level and delay of the room are those that
            were measured of FluidSynth's, so that players of both kinds stand in one.
    """
    from scipy.signal import oaconvolve, sosfilt

    size, damping, width, level = reverb
    decay_s = 0.6 * np.exp(2.08 * size)  # until 60 dB less
    gain = 10 ** ((-26.5 + 11.4 * size) / 20) * (level / 0.6) / 0.3
    length, samples = round(decay_s * SAMPLE_RATE), sent.shape[-1]
    noise = np.random.default_rng(seed).standard_normal((3, length), dtype=np.float32)
    side = 0.35 + 0.55 * width
    tail = np.stack([noise[0] + side * noise[1], noise[0] + side * noise[2]])
    tail *= np.exp(-np.float32(np.log(1e3) / decay_s) * np.arange(length, dtype=np.float32) / SAMPLE_RATE)
    pole = 0.3 + 0.6 * damping
    tail = sosfilt([[1 - pole, 0, 0, 1, -pole, 0]], tail, axis=-1).astype(np.float32)
    tail *= np.float32(gain) / np.sqrt((tail**2).sum(axis=-1, keepdims=True))
    delay = min(samples, round(0.045 * SAMPLE_RATE))
    out = np.zeros_like(sent)
    out[:, delay:] = oaconvolve(sent, tail, axes=-1)[:, : samples - delay]
    return out


def band_share(audio: np.ndarray, below_hz: float = LOW_BAND_HZ) -> float:
    """Share of the energy of `(2, samples)` below a frequency in Hz."""
    size = _fast_length(audio.shape[-1])  # an odd length costs ten times as much
    power = np.abs(np.fft.rfft(audio, size, axis=-1)) ** 2
    edge = int(below_hz * size / SAMPLE_RATE)
    total = float(power.sum())
    return float(power[:, :edge].sum()) / total if total > 0 else 0.0


def limit_lows(tracks: np.ndarray, most: float) -> np.ndarray:
    """Turn down what lies below 200 Hz of `(tracks, 2, samples)` so that the mix has at most the share `most`
    there."""
    size = _fast_length(tracks.shape[-1])
    spectrum = np.fft.rfft(tracks.astype(np.float32), size, axis=-1)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    power = (np.abs(spectrum.sum(axis=0)) ** 2).sum(axis=0)
    edge = np.searchsorted(hertz, LOW_BAND_HZ)
    low, high = float(power[:edge].sum()), float(power[edge:].sum())
    if low <= most * (low + high) or high <= 0:
        return tracks
    gain = np.sqrt(most * high / ((1 - most) * low))
    # A shelf, an octave wide, rather than a step; its upper half lies above the edge, so aim a little lower.
    shape = 1 / (1 + (hertz / (1.15 * LOW_BAND_HZ)) ** 6)
    for _ in range(6):
        curve = 1 - (1 - gain) * shape
        shaped = power * curve**2
        share = shaped[:edge].sum() / shaped.sum()
        if share <= most * 1.02:
            break
        gain *= np.sqrt(most * (1 - share) / (share * (1 - most)))
    spectrum *= curve.astype(np.float32)
    return np.fft.irfft(spectrum, size, axis=-1)[..., : tracks.shape[-1]].astype(np.float32)


def _fast_length(samples: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(samples + SAMPLE_RATE // 2, real=True))  # room for the filter's tail


def master(tracks: np.ndarray, target: float) -> tuple[np.ndarray, float]:
    """Bring the sum of `(tracks, 2, samples)` to `target` LUFS under the true peak; the tracks and the
    loudness."""
    import pyloudnorm

    meter = pyloudnorm.Meter(SAMPLE_RATE)

    def loudness_of(sound: np.ndarray) -> float:
        with np.errstate(divide="ignore"):
            return float(meter.integrated_loudness(sound.sum(axis=0).T.astype(np.float64)))

    measured = loudness_of(tracks)
    if not np.isfinite(measured):
        return tracks, measured
    for _ in range(2):  # the limiter takes a little loudness; once more brings it back
        tracks = _limiter(tracks * np.float32(10 ** ((target - measured) / 20)))
        measured = loudness_of(tracks)
        if abs(measured - target) < 0.3:
            break
    return tracks, measured


def _limiter(tracks: np.ndarray) -> np.ndarray:
    """Look-ahead limiter on the sum of the tracks: true peak (four times oversampled) at most `TRUE_PEAK`."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d
    from scipy.signal import resample_poly

    mix = tracks.sum(axis=0)
    peaks = np.abs(mix).max(axis=0)
    loud = np.flatnonzero(peaks > 0.5 * TRUE_PEAK)
    if loud.size:
        over = np.abs(resample_poly(mix, 4, 1, axis=-1)).max(axis=0).reshape(-1, 4).max(axis=1)
        peaks = np.maximum(peaks, over[: len(peaks)])
    if peaks.max() <= TRUE_PEAK:
        return tracks
    needed = np.minimum(1.0, TRUE_PEAK / np.maximum(peaks, 1e-9))
    width = 2 * (SAMPLE_RATE // 400) + 1  # 5 ms
    gain = uniform_filter1d(minimum_filter1d(needed, 2 * width + 1), width)
    return tracks * gain.astype(np.float32)
