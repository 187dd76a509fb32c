"""How much waveform SNR a bit rate can buy: reverse water-filling over a clip's short-time spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import SAMPLE_RATE, as_audio

HOPS = (4096, 2048, 1024, 256)  # samples; each divides the first, over which the choice is made
_FLOOR = 1e-16  # variance per coefficient below which nothing is coded: far below 24-bit quantisation noise
_STEP_DB = 1.0  # of the water level
_TOP_SNR = 70.0  # dB up to which a curve is computed


@dataclass(frozen=True)
class RateDistortionCurve:
    """Rates in bit/s and the highest SNR in dB that each allows; both rise along the arrays `(points,)`."""

    rates: np.ndarray
    snrs: np.ndarray

    def snr_at(self, rate: float) -> float:
        """The highest SNR in dB at `rate` bit/s; NaN beyond the end of the curve."""
        return float(np.interp(rate, self.rates, self.snrs, right=np.nan))

    def rate_at(self, snr: float) -> float:
        """The lowest rate in bit/s that allows an SNR of `snr` dB; NaN beyond the end of the curve."""
        return float(np.interp(snr, self.snrs, self.rates, right=np.nan))


def reverse_water_filling(audio: np.ndarray, hops: tuple[int, ...] = HOPS) -> RateDistortionCurve:
    """Rate-distortion function of a Gaussian process that has the clip's short-time spectrum.

    For independent Gaussian components of variance `v` and a mean squared error, the least rate is the sum of
    `max(0, log2(v / w) / 2)` and the error the sum of `min(v, w)`, for one water level `w` (Berger, Rate Distortion
    Theory, 1971, section 4.5; Cover and Thomas, Elements of Information Theory, 2nd ed., section 10.3.3). The
    components here are the coefficients of an MDCT with a sine window:

    - variances are the power of the complex lapped transform of the same window, halved, which does not flutter
      with phase as squared MDCT coefficients do, smoothed by (1, 2, 1) / 4 over frames and over bins;
    - left and right are first turned to their principal axes, band by band (a third of an octave) and stretch by
      stretch of 85 ms: a Karhunen-Loeve transform that mid/side is a special case of;
    - for each stretch that hop of `hops` is used whose cost, error plus rate times slope, is the least at this water
      level: long windows where tones ring, short ones where a drum is hit.

    The decoder is given spectrum, axes and hops for free, so a transform codec stays below the curve. It is the
    bound of the Gaussian model, not of music as such: a codec that knows what music repeats could in theory
    pass it.

    Args:
        audio: `(2, samples)` at 48 kHz. hops: in samples, the longest first, each dividing it.

    Raises:
        ValueError: for no stereo, a silent clip, or one shorter than the longest hop.
    """
    audio = as_audio(audio).astype(np.float64)
    if audio.shape[0] != 2 or audio.shape[1] < hops[0]:
        raise ValueError(
            f"audio has shape {audio.shape}; allowed is (2, samples), {hops[0]} samples at least."
        )
    if any(hops[0] % hop for hop in hops):
        raise ValueError(f"hops={hops}: each must divide the first, {hops[0]}.")
    if not audio.any():
        raise ValueError("audio is silent, so it needs no bits at any SNR; leave this clip out.")
    seconds = audio.shape[1] / SAMPLE_RATE
    audio = np.pad(audio, ((0, 0), (0, -audio.shape[1] % hops[0])))
    # Each (stretches, coefficients of both axes): the same number of coefficients for every hop.
    variances = [np.maximum(_variances(audio, hop, hops[0]), _FLOOR) for hop in hops]
    logs = [np.log2(v) for v in variances]
    energy = float(np.sum(audio**2))

    rates, snrs = [0.0], [0.0]
    top = 10 * np.log10(max(float(v.max()) for v in variances))
    for level_db in np.arange(top, 10 * np.log10(_FLOOR), -_STEP_DB):
        water = 10 ** (level_db / 10)
        errors = np.stack([np.minimum(v, water).sum(1) for v in variances])  # (hops, stretches)
        bits = np.stack([np.maximum(log - np.log2(water), 0).sum(1) / 2 for log in logs])
        # Along an optimal curve one more bit takes 2 ln 2 times the water level off the error.
        best = (errors + 2 * np.log(2) * water * bits).argmin(0)[None]
        rate = float(np.take_along_axis(bits, best, 0).sum()) / seconds
        snr = 10 * np.log10(energy / float(np.take_along_axis(errors, best, 0).sum()))
        if rate > rates[-1] and snr > snrs[-1]:
            rates.append(rate)
            snrs.append(snr)
        if snr > _TOP_SNR:
            break
    return RateDistortionCurve(np.array(rates), np.array(snrs))


def _variances(audio: np.ndarray, hop: int, stretch: int) -> np.ndarray:
    """Variances of the MDCT coefficients on their principal axes: (stretches, 2 * stretch)."""
    spectrum = _complex_lapped(audio, hop)  # (2, frames, hop)
    per_stretch = stretch // hop
    left, right = spectrum.reshape(2, -1, per_stretch, hop)
    starts = _band_starts(hop)
    moments = [
        np.add.reduceat(moment.sum(1), starts, axis=-1)  # (stretches, bands)
        for moment in (np.abs(left) ** 2, np.abs(right) ** 2, (left * right.conj()).real)
    ]
    angle = np.arctan2(2 * moments[2], moments[0] - moments[1]) / 2
    angle = np.repeat(angle, np.diff([*starts, hop]), axis=-1)[:, None]  # (stretches, 1, hop)
    first = np.cos(angle) * left + np.sin(angle) * right
    second = np.cos(angle) * right - np.sin(angle) * left
    power = np.stack([np.abs(axis) ** 2 / 2 for axis in (first, second)]).reshape(2, -1, hop)
    power = _smooth(_smooth(power, 1), 2)
    return power.reshape(2, -1, stretch).transpose(1, 0, 2).reshape(-1, 2 * stretch)


def _complex_lapped(audio: np.ndarray, hop: int) -> np.ndarray:
    """Modulated complex lapped transform (Malvar, 1999): (2, samples) -> (2, samples / hop, hop), complex.

    Its real part is an orthonormal MDCT; the first frame starts half a window early.
    """
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)) * np.sqrt(2 / hop)
    padded = np.pad(audio, ((0, 0), (hop // 2, hop - hop // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop, axis=1)[:, ::hop]
    # Bins lie half-way between those of a DFT: a shift in frequency is a product in time. The phase that is left
    # out changes no power, nor how left and right go together.
    shift = np.exp(-1j * np.pi * np.arange(2 * hop) / (2 * hop))
    return np.fft.fft(frames * (window * shift))[..., :hop]


def _band_starts(hop: int) -> np.ndarray:
    """First coefficients of bands a third of an octave wide, four coefficients at least."""
    starts = [0]
    while True:
        following = max(starts[-1] + 4, round(starts[-1] * 2 ** (1 / 3)))
        if following > hop - 4:
            return np.array(starts)
        starts.append(following)


def _smooth(power: np.ndarray, axis: int) -> np.ndarray:
    """(1, 2, 1) / 4 along `axis`, its ends repeated, so that energy stays."""
    power = np.moveaxis(power, axis, -1)
    before = np.concatenate([power[..., :1], power[..., :-1]], -1)
    after = np.concatenate([power[..., 1:], power[..., -1:]], -1)
    return np.moveaxis((before + 2 * power + after) / 4, -1, axis)
