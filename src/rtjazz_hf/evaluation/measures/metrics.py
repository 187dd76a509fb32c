"""Measures on audio alone: what a codec keeps, and whether a clip is sane.

Everything here needs numpy only (loudness: pyloudnorm), takes arrays `(channels, samples)` at 48 kHz and
returns plain floats, so that a training loop can call it on the way. Two arrays of unequal length are compared
over their common start.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from rtjazz_hf.audio import measure_loudness

SAMPLE_RATE = 48_000
OCTAVE_CENTRES = (62.5, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0)
SILENCE_DBFS = -60.0
MULTI_MEL_RESOLUTIONS = ((512, 32), (1024, 64), (2048, 96), (4096, 128))  # window in samples, mel bands


def as_audio(audio: np.ndarray) -> np.ndarray:
    """Return `audio` as a float32 array `(channels, samples)`; a single channel may be `(samples,)`.

    Raises:
        ValueError: if the array is empty or has another shape.
    """
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim == 1:
        audio = audio[None]
    if audio.ndim != 2 or audio.shape[0] > 8 or audio.shape[1] == 0:
        raise ValueError(
            f"audio has shape {audio.shape}; allowed is (channels, samples) with at least one sample."
        )
    return audio


def _pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, estimate = as_audio(reference), as_audio(estimate)
    if reference.shape[0] != estimate.shape[0]:
        raise ValueError(
            f"reference has {reference.shape[0]} channels and estimate {estimate.shape[0]}; "
            "give both the same number."
        )
    samples = min(reference.shape[1], estimate.shape[1])
    return reference[:, :samples], estimate[:, :samples]


def power_spectrogram(signal: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Power of a Hann-windowed STFT of a one-channel signal, `(frames, window // 2 + 1)`.

    Frames are centred (the signal is padded by half a window of zeros on both sides); a full-scale sine has a
    power of about 0.25 in its bin, whatever the window.
    """
    signal = np.pad(np.asarray(signal, dtype=np.float32), window // 2)
    if signal.size < window:
        signal = np.pad(signal, (0, window - signal.size))
    hann = np.hanning(window + 1)[:-1].astype(np.float32)
    hann /= hann.sum()
    frames = np.lib.stride_tricks.sliding_window_view(signal, window)[::hop]
    power = np.empty((len(frames), window // 2 + 1), dtype=np.float32)
    for start in range(0, len(frames), 256):  # bounded memory for long takes
        spectrum = np.fft.rfft(frames[start : start + 256] * hann, axis=-1)
        power[start : start + 256] = spectrum.real**2 + spectrum.imag**2
    return power


# --- what a round trip keeps ----------------------------------------------------------------------


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB over all channels jointly (Le Roux et al., 2019)."""
    reference, estimate = _pair(reference, estimate)
    target, guess = reference.astype(np.float64).ravel(), estimate.astype(np.float64).ravel()
    target, guess = target - target.mean(), guess - guess.mean()
    energy = float(target @ target)
    if energy == 0.0:
        raise ValueError("the reference is silent, so SI-SDR is undefined; leave this take out.")
    projection = (float(guess @ target) / energy) * target
    error = float(np.sum((guess - projection) ** 2))
    return float(10 * np.log10(max(float(projection @ projection), 1e-20) / max(error, 1e-20)))


def snr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Signal-to-noise ratio of the waveform in dB over all channels jointly; 0 is what silence would score.

    Unlike SI-SDR it forgives no gain, so it can be laid beside a rate-distortion bound.

    Raises:
        ValueError: the reference is silent.
    """
    reference, estimate = (audio.astype(np.float64) for audio in _pair(reference, estimate))
    energy = float(np.sum(reference**2))
    if energy == 0.0:
        raise ValueError("the reference is silent, so the SNR is undefined; leave this take out.")
    error = float(np.sum((reference - estimate) ** 2))
    return float(10 * np.log10(energy / max(error, 1e-20)))


def band_snr(
    reference: np.ndarray, estimate: np.ndarray, centres: Sequence[float] = OCTAVE_CENTRES
) -> np.ndarray:
    """SNR of each octave band in dB, `(len(centres),)`: energy of the reference less that of the difference."""
    reference, estimate = _pair(reference, estimate)
    return band_energies(reference, centres) - band_energies(reference - estimate, centres)


@functools.lru_cache(maxsize=16)
def mel_filters(num_bands: int = 128, window: int = 2048, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Triangular filters `(num_bands, window // 2 + 1)`, evenly spaced on the HTK mel scale from 0 Hz to
    half the
    rate, each summing to one, so that a band holds the mean power of its bins."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, num_bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(window, 1 / sample_rate)
    # The lowest bands are narrower than a bin: widen every edge to at least one bin, or they would be empty.
    width = sample_rate / window
    low = np.minimum(edges[:-2], edges[1:-1] - width)[:, None]
    high = np.maximum(edges[2:], edges[1:-1] + width)[:, None]
    centre = edges[1:-1][:, None]
    filters = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    return (filters / filters.sum(1, keepdims=True)).astype(np.float32)


def mel_distance(reference: np.ndarray, estimate: np.ndarray, floor_db: float = -100.0) -> float:
    """Mean absolute difference of log-mel spectrograms in dB: 128 bands to 24 kHz, window 2,048, hop 512,
    left and
    right each for itself; powers below `floor_db` (dB re a full-scale sine) count as `floor_db`."""
    reference, estimate = _pair(reference, estimate)
    filters, floor = mel_filters(), 0.25 * 10 ** (floor_db / 10)
    distances = []
    for left, right in zip(reference, estimate):
        a, b = (
            10 * np.log10(np.maximum(power_spectrogram(x, 2048, 512) @ filters.T, floor))
            for x in (left, right)
        )
        distances.append(float(np.mean(np.abs(a - b))))
    return float(np.mean(distances))


def multi_mel_distance(reference: np.ndarray, estimate: np.ndarray, floor_db: float = -100.0) -> float:
    """`mel_distance` in dB over several resolutions, and of mid and side beside left and right of `(2, samples)`.

    The mean over windows of 512, 1,024, 2,048 and 4,096 samples with 32, 64, 96 and 128 mel bands (hop: a quarter
    of the window) and over the four signals. Short windows hear attacks, long ones pitch, and mid and side hear the
    stereo image.
    """
    signals = [_mid_side(audio) for audio in _pair(reference, estimate)]
    floor = 0.25 * 10 ** (floor_db / 10)
    distances = []
    for window, num_bands in MULTI_MEL_RESOLUTIONS:
        filters = mel_filters(num_bands, window).T
        for pair in zip(*signals):
            a, b = (
                10 * np.log10(np.maximum(power_spectrogram(x, window, window // 4) @ filters, floor))
                for x in pair
            )
            distances.append(float(np.mean(np.abs(a - b))))
    return float(np.mean(distances))


def _mid_side(audio: np.ndarray) -> np.ndarray:
    """(2, samples) -> left, right, mid and side, (4, samples)."""
    if audio.shape[0] != 2:
        raise ValueError(f"audio has {audio.shape[0]} channel(s); mid and side want stereo, (2, samples).")
    left, right = audio
    return np.stack([left, right, (left + right) / 2, (left - right) / 2])


@functools.lru_cache(maxsize=4)
def semitone_filters(
    low_hz: float = 300.0, high_hz: float = 2500.0, window: int = 4096, sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """Triangular filters `(semitones, window // 2 + 1)` around the equal-tempered pitches (A4 = 440 Hz)
    between
    `low_hz` and `high_hz`; each triangle reaches one semitone, and at least one bin, to either side."""
    first = int(np.ceil(69 + 12 * np.log2(low_hz / 440)))
    last = int(np.floor(69 + 12 * np.log2(high_hz / 440)))
    centre = 440 * 2 ** ((np.arange(first, last + 1)[:, None] - 69) / 12)
    bins = np.fft.rfftfreq(window, 1 / sample_rate)[None]
    reach = np.maximum(centre * (2 ** (1 / 12) - 1), sample_rate / window)
    return np.clip(1 - np.abs(bins - centre) / reach, 0, None).astype(np.float32)


def semitone_energies(audio: np.ndarray, window: int = 4096, hop: int = 1024) -> np.ndarray:
    """Energies of the semitones from 300 to 2,500 Hz, `(frames, semitones)`, summed over the channels."""
    filters = semitone_filters(window=window)
    return sum(power_spectrogram(channel, window, hop) @ filters.T for channel in as_audio(audio))


def pitch_correlation(reference: np.ndarray, estimate: np.ndarray) -> float:
    """How much of the pitch content a round trip keeps: 1 is all of it, 0 none. Blind to gain.

    For both clips: the log of `semitone_energies` (300 to 2,500 Hz: melody and comping, without the bass),
    with a floor 60 dB below the clip's strongest semitone, so that soft notes count; from each semitone, the
    mean over the seven around it is taken off, so that a smooth envelope, however exact, earns next to
    nothing. The result is the Pearson correlation of the two over all frames and semitones.

    For scale, on composed takes: an MDCT that keeps 64 principal components of 1,280 scores 0.97, the same
    through 4 x 2,048 codes fitted by k-means 0.57-0.66, noise shaped in time and in 24 mel bands like the
    original 0.13. Returns NaN where either clip is silent in this range.
    """
    reference, estimate = _pair(reference, estimate)
    contrasts = []
    for audio in (reference, estimate):
        energies = semitone_energies(audio)
        peak = float(energies.max())
        if peak < 1e-14:
            return float("nan")
        contrast = _without_envelope(np.log(energies + 1e-6 * peak))
        contrasts.append(contrast - contrast.mean())
    a, b = contrasts
    return float(np.sum(a * b) / np.sqrt(float(np.sum(a**2)) * float(np.sum(b**2))))


def semitone_correlation(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Correlation of semitone amplitudes, 300 to 2,500 Hz, over all frames of `(2, samples)`: the plain measure.

    The square root of `semitone_energies`, nothing taken away. It weighs what is loud, and a spectrum of the right
    envelope without any melody already has about 0.5: read it beside `pitch_correlation`, which has that at 0.1.
    """
    _pair(reference, estimate)
    a, b = (np.sqrt(semitone_energies(audio)).ravel() for audio in (reference, estimate))
    if a.std() < 1e-9 or b.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _without_envelope(levels: np.ndarray, reach: int = 3) -> np.ndarray:
    """Take from each semitone the mean of itself and its `reach` neighbours to either side, frame by
    frame."""
    size = levels.shape[1]
    sums = np.pad(np.cumsum(levels, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    low = np.maximum(np.arange(size) - reach, 0)
    high = np.minimum(np.arange(size) + reach + 1, size)
    return levels - (sums[:, high] - sums[:, low]) / (high - low)


# --- attacks, loudness, stereo image --------------------------------------------------------------


def onset_sharpness(audio: np.ndarray, onsets: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How steeply the sound rises at its attacks: rises in dB, and the frames (of 2.7 ms) where they are.

    The level of 32 mel bands in windows of 5.3 ms, with a floor 60 dB below the clip's strongest band; the rise is
    what a band gains within 8 ms, falling bands counting as nothing, averaged over bands and channels (a
    log-spectral flux; Dixon, 2006, section 2). Attacks are the peaks of the rise that stand out by one standard
    deviation, 50 ms apart or more. A smeared attack or a pre-echo rises less steeply.

    Args:
        onsets: frames of attacks to look at (the steepest rise within 8 ms of each); found in `audio` by default.
    """
    audio = as_audio(audio)
    energies = np.stack([power_spectrogram(channel, 256, 128) @ mel_filters(32, 256).T for channel in audio])
    peak = float(energies.max())
    if peak <= 0.0 or energies.shape[1] <= 3:
        return np.zeros(0 if onsets is None else len(onsets)), np.zeros(0, int) if onsets is None else onsets
    levels = 10 * np.log10(energies + 1e-6 * peak)  # (channels, frames, bands)
    rise = np.maximum(levels[:, 3:] - levels[:, :-3], 0).mean((0, 2))
    reach = 3
    around = np.lib.stride_tricks.sliding_window_view(np.pad(rise, reach), 2 * reach + 1).max(1)
    if onsets is None:
        wide = 19  # 50 ms
        highest = np.lib.stride_tricks.sliding_window_view(np.pad(rise, wide), 2 * wide + 1).max(1)
        onsets = np.flatnonzero((rise == highest) & (rise > rise.mean() + rise.std()))
    return around[np.clip(onsets, 0, len(around) - 1)], onsets


def onset_sharpness_error(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Mean absolute difference of `onset_sharpness` in dB at the attacks of the reference; NaN without attacks."""
    reference, estimate = _pair(reference, estimate)
    sharp, onsets = onset_sharpness(reference)
    if not len(onsets):
        return float("nan")
    return float(np.abs(onset_sharpness(estimate, onsets)[0] - sharp).mean())


def loudness_error(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Absolute difference of integrated loudness in LU (ITU-R BS.1770-4, needs pyloudnorm).

    NaN where either is silent or shorter than 0.4 s.
    """
    reference, estimate = _pair(reference, estimate)
    if reference.shape[1] < 0.4 * SAMPLE_RATE:
        return float("nan")
    difference = abs(measure_loudness(estimate) - measure_loudness(reference))
    return difference if np.isfinite(difference) else float("nan")


def stereo_width(audio: np.ndarray, centres: Sequence[float] = OCTAVE_CENTRES) -> np.ndarray:
    """Side over mid energy of each octave band in dB, `(len(centres),)`, kept within -40 (mono) and 40 dB."""
    _, _, mid, side = _mid_side(as_audio(audio))
    return np.clip(band_energies(side, centres) - band_energies(mid, centres), -40.0, 40.0)


def stereo_width_error(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Mean absolute difference of `stereo_width` in dB, over the bands within 60 dB of the reference's strongest."""
    reference, estimate = _pair(reference, estimate)
    energies = band_energies(reference)
    heard = energies >= energies.max() - 60.0
    return float(np.abs(stereo_width(estimate) - stereo_width(reference))[heard].mean())


# --- spectrum and sanity --------------------------------------------------------------------------


def band_energies(audio: np.ndarray, centres: Sequence[float] = OCTAVE_CENTRES) -> np.ndarray:
    """Mean power of each octave band in dB re a full-scale sine, `(len(centres),)`; all channels averaged.

    A band reaches from its centre divided by the square root of two to its centre times that, at most to 24
    kHz.
    """
    audio = as_audio(audio)
    window = 4096
    # Power per bin, summed over a band; the sum over bins of a Hann-windowed tone is 1.5 times its peak bin.
    power = sum(power_spectrogram(channel, window, window // 2).mean(0) for channel in audio) / len(audio)
    bins = np.fft.rfftfreq(window, 1 / SAMPLE_RATE)
    bands = [power[(bins >= c / 2**0.5) & (bins < c * 2**0.5)].sum() / 1.5 / 0.25 for c in centres]
    return 10 * np.log10(np.maximum(np.array(bands, dtype=np.float64), 1e-12))


def band_difference(
    reference: np.ndarray, estimate: np.ndarray, centres: Sequence[float] = OCTAVE_CENTRES
) -> np.ndarray:
    """Octave-band energies of `estimate` minus those of `reference`, in dB; the clips may differ in
    length."""
    return band_energies(estimate, centres) - band_energies(reference, centres)


def rms_dbfs(audio: np.ndarray) -> float:
    """Root mean square over all channels, in dB re an amplitude of 1; silence is -200 dBFS."""
    return float(10 * np.log10(max(float(np.mean(as_audio(audio).astype(np.float64) ** 2)), 1e-20)))


def longest_silence(audio: np.ndarray, threshold_dbfs: float = SILENCE_DBFS, edges: bool = False) -> float:
    """Longest stretch in seconds whose 10 ms blocks all lie below `threshold_dbfs` RMS in every channel.

    Silence before the first and after the last sounding block is not counted unless `edges`; a clip with no
    sound at all is silent for its whole length.
    """
    audio = as_audio(audio)
    block = SAMPLE_RATE // 100
    count = -(-audio.shape[1] // block)
    padded = np.pad(audio, ((0, 0), (0, count * block - audio.shape[1]))).reshape(len(audio), count, block)
    loud = (
        10 * np.log10(np.maximum((padded.astype(np.float64) ** 2).mean(-1).max(0), 1e-20)) >= threshold_dbfs
    )
    sounding = np.flatnonzero(loud)
    if sounding.size == 0:
        return audio.shape[1] / SAMPLE_RATE
    gaps = list(np.diff(sounding) - 1)
    if edges:
        gaps += [sounding[0], count - 1 - sounding[-1]]
    return float(max(gaps, default=0)) * block / SAMPLE_RATE


def join_jumps(audio: np.ndarray, boundaries: Sequence[int]) -> dict[str, float]:
    """Do the joins of a clip click? The largest step from one sample to the next there, beside the clip's own.

    Args:
        boundaries: first sample of each piece that was joined on, 1 to samples - 1 (blocks of a stream: every
            multiple of a block's length; or only those where something was changed).

    Returns:
        `largest_join`: the largest step over a boundary, of any channel; 0 without boundaries.
        `clip_p9999`: the 99.99th percentile of the steps of the whole clip, over all channels.
        `ratio`: their quotient; at most 1 where nothing clicks (0 / 0 is 0).

    Raises:
        ValueError: a boundary outside the clip.
    """
    steps = np.abs(np.diff(as_audio(audio).astype(np.float64), axis=1))
    boundaries = np.asarray(boundaries, dtype=np.int64)
    if boundaries.size and not (boundaries.min() >= 1 and boundaries.max() <= steps.shape[1]):
        raise ValueError(
            f"boundaries from {boundaries.min()} to {boundaries.max()}: choose from 1 to {steps.shape[1]}"
        )
    largest = float(steps[:, boundaries - 1].max()) if boundaries.size else 0.0
    usual = float(np.percentile(steps, 99.99)) if steps.size else 0.0
    ratio = largest / usual if usual else (math.inf if largest else 0.0)
    return {"largest_join": largest, "clip_p9999": usual, "ratio": ratio}


def sanity(audio: np.ndarray) -> dict[str, float | bool]:
    """Is this a clip that may be played? Returns the numbers and `ok`: finite, no sample above 1, RMS from
    -30 to
    -12 dBFS, no half-second of silence inside."""
    audio = as_audio(audio)
    finite = bool(np.isfinite(audio).all())
    if not finite:
        audio = np.nan_to_num(audio, posinf=0.0, neginf=0.0)
    peak = float(np.abs(audio).max())
    # Full-scale runs of samples are clipping; a single sample at exactly 1 is not.
    full = np.abs(audio) >= 0.9999
    clipped = int((full[:, 1:] & full[:, :-1]).sum()) if audio.shape[1] > 1 else 0
    result = {
        "finite": finite,
        "peak": peak,
        "clipped_samples": clipped,
        "rms_dbfs": rms_dbfs(audio),
        "longest_silence_s": longest_silence(audio),
    }
    result["ok"] = bool(
        finite
        and peak <= 1.0
        and clipped == 0
        and -30.0 <= result["rms_dbfs"] <= -12.0
        and result["longest_silence_s"] < 0.5
    )
    return result
