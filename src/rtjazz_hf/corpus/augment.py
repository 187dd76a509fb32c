"""Augmentation of crops for the codec's training: level, tone colour, width, sides, room and noise floor."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from ..audio import SAMPLE_RATE

PEAK = 1.0  # nothing that comes out is louder


@dataclass(frozen=True)
class AugmentSettings:
    """How often each change is made and how far it goes. A probability of 0 leaves it out.

    Attributes:
        gain_probability, gain_db: one level for both sides.
        eq_probability, eq_db: a low shelf, a peak and a high shelf, each with a gain of its own.
        width_probability, width: factor on the side signal; 0 is mono, 1 leaves it as it is.
        swap_probability: left and right change places.
        reverb_probability, reverb_s, wet_db: time in seconds until the room has decayed by 60 dB, and its
            level against the dry sound.
        noise_probability, noise_dbfs: white or pink noise, its effective value in dB below full scale.
    """

    gain_probability: float = 0.9
    gain_db: tuple[float, float] = (-12.0, 3.0)
    eq_probability: float = 0.4
    eq_db: tuple[float, float] = (-8.0, 8.0)
    width_probability: float = 0.3
    width: tuple[float, float] = (0.0, 1.6)
    swap_probability: float = 0.5
    reverb_probability: float = 0.15
    reverb_s: tuple[float, float] = (0.1, 0.6)
    wet_db: tuple[float, float] = (-24.0, -8.0)
    noise_probability: float = 0.15
    noise_dbfs: tuple[float, float] = (-80.0, -50.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability"):
                if not 0.0 <= value <= 1.0:
                    raise ValueError(f"{field.name} {value!r}: choose 0 to 1")
                continue
            low, high = value
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{field.name} {value!r}: choose two numbers, the smaller one first")
        if self.width[0] < 0:
            raise ValueError(f"width {self.width!r}: choose 0 or more")
        if self.reverb_s[0] <= 0:
            raise ValueError(f"reverb_s {self.reverb_s!r}: choose more than 0 s")


def augment(audio: np.ndarray, rng: np.random.Generator, settings: AugmentSettings) -> np.ndarray:
    """A changed copy of float32 `(2, samples)` at 48 kHz, as long and no louder than a peak of 1.

    What is changed, and how far, is drawn from `rng` alone.
    """

    def chosen(name: str) -> bool:
        return rng.random() < getattr(settings, f"{name}_probability")

    if chosen("swap"):
        audio = audio[::-1]
    if chosen("eq"):
        audio = _equalise(audio, rng, settings.eq_db)
    if chosen("width"):
        audio = _widen(audio, rng.uniform(*settings.width))
    if chosen("reverb"):
        decay_s, wet = rng.uniform(*settings.reverb_s), 10 ** (rng.uniform(*settings.wet_db) / 20)
        audio = _reverberate(audio, rng, decay_s, wet)
    if chosen("gain"):
        audio = audio * np.float32(10 ** (rng.uniform(*settings.gain_db) / 20))
    if chosen("noise"):
        level = 10 ** (rng.uniform(*settings.noise_dbfs) / 20)
        audio = audio + _noise(rng, audio.shape, level, pink=rng.random() < 0.5)
    return limit_peak(audio)


def limit_peak(audio: np.ndarray) -> np.ndarray:
    """`audio` as contiguous float32, turned down as a whole where its peak is beyond 1."""
    peak = float(np.abs(audio).max(initial=0.0))
    if peak > PEAK:
        audio = audio * np.float32(PEAK * (1 - 1e-6) / peak)  # a hair less: the product is rounded
    return np.ascontiguousarray(audio, dtype=np.float32)


def _equalise(audio: np.ndarray, rng: np.random.Generator, gain_db: tuple[float, float]) -> np.ndarray:
    from scipy.signal import sosfilt

    def gain() -> float:
        return float(rng.uniform(*gain_db))

    def hertz(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    sections = np.stack(
        [
            _shelf(hertz(60, 400), gain(), high=False),
            _peaking(hertz(200, 6000), gain(), quality=float(rng.uniform(0.5, 2.0))),
            _shelf(hertz(2000, 10000), gain(), high=True),
        ]
    )
    return sosfilt(sections.astype(np.float32), audio, axis=-1)


# The formulas of R. Bristow-Johnson's "Cookbook formulae for audio EQ biquad filter coefficients"; scipy has
# resonators and notches only.
def _peaking(hertz: float, gain_db: float, quality: float) -> np.ndarray:
    """A second-order section `(6,)` that lifts or lowers a band."""
    omega = 2 * np.pi * hertz / SAMPLE_RATE
    a, alpha, cos = 10 ** (gain_db / 40), np.sin(omega) / (2 * quality), np.cos(omega)
    section = np.array([1 + alpha * a, -2 * cos, 1 - alpha * a, 1 + alpha / a, -2 * cos, 1 - alpha / a])
    return section / section[3]


def _shelf(hertz: float, gain_db: float, high: bool) -> np.ndarray:
    """A second-order section `(6,)` that lifts or lowers all above (`high`) or below a frequency; slope 1."""
    omega = 2 * np.pi * hertz / SAMPLE_RATE
    a, cos = 10 ** (gain_db / 40), np.cos(omega) * (-1 if high else 1)
    root = np.sqrt(a) * np.sin(omega) * np.sqrt(2)  # 2 sqrt(A) alpha at slope 1
    sign = -1 if high else 1  # the high shelf is the low one mirrored at a quarter of the rate
    section = np.array(
        [
            a * ((a + 1) - (a - 1) * cos + root),
            sign * 2 * a * ((a - 1) - (a + 1) * cos),
            a * ((a + 1) - (a - 1) * cos - root),
            (a + 1) + (a - 1) * cos + root,
            sign * -2 * ((a - 1) + (a + 1) * cos),
            (a + 1) + (a - 1) * cos - root,
        ]
    )
    return section / section[3]


def _widen(audio: np.ndarray, width: float) -> np.ndarray:
    mid, side = (audio[0] + audio[1]) / 2, (audio[0] - audio[1]) * np.float32(width / 2)
    return np.stack([mid + side, mid - side])


def _reverberate(audio: np.ndarray, rng: np.random.Generator, decay_s: float, wet: float) -> np.ndarray:
    """Add a room: noise that decays exponentially and loses its highs, unlike on both sides (Moorer, 1979)."""
    from scipy.signal import oaconvolve, sosfilt

    length = round(decay_s * SAMPLE_RATE)
    time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    tail = rng.standard_normal((2, length), dtype=np.float32) * np.exp(
        -np.float32(np.log(1e3) / decay_s) * time
    )
    pole = rng.uniform(0.2, 0.8)
    tail = sosfilt([[1 - pole, 0, 0, 1, -pole, 0]], tail, axis=-1).astype(np.float32)
    tail *= np.float32(wet) / np.sqrt((tail**2).sum(axis=-1, keepdims=True))
    delay, samples = round(rng.uniform(0.002, 0.03) * SAMPLE_RATE), audio.shape[-1]
    room = oaconvolve(audio, tail, axes=-1)[:, :samples]
    out = audio.copy()
    out[:, delay:] += room[:, : max(0, samples - delay)]
    return out


def _noise(rng: np.random.Generator, shape: tuple[int, ...], level: float, pink: bool) -> np.ndarray:
    """White or pink noise with the effective value `level`."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if pink:
        from scipy.fft import irfft, next_fast_len, rfft

        size = next_fast_len(shape[-1], real=True)
        spectrum = rfft(noise, size, axis=-1)
        bins = np.arange(spectrum.shape[-1], dtype=np.float32)
        # 3 dB an octave down to 20 Hz, where hearing ends
        spectrum /= np.sqrt(np.maximum(bins, max(1.0, 20 * size / SAMPLE_RATE)))
        noise = irfft(spectrum, size, axis=-1)[..., : shape[-1]]
        noise = noise / max(1e-9, float(np.sqrt(np.mean(noise**2))))
    return (noise * np.float32(level)).astype(np.float32)
