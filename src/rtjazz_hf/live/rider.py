"""Live music at the loudness that is asked for: a hand on the fader, slow, and a limiter (ITU-R BS.1770-4)."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from ..audio import SAMPLE_RATE
from .loudness import CEILING, check_loudness, limited

_PIECE = SAMPLE_RATE // 10  # samples of one measurement
_BLOCK = 4  # pieces of a block that the gates look at
_REMEMBERED = 200  # pieces: 20 s, in which a tune is louder and softer and the fader rests
_UP, _DOWN = 1.0, 3.0  # dB a second at most, once the music has begun
_MOST = 24.0  # dB up or down
_GATE, _RELATIVE_GATE = -70.0, -10.0  # LUFS, and LU below what is left
# BS.1770-4, tables 1 and 2: the filters of 48 kHz.
_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))


class LoudnessRider:
    """Brings 48 kHz stereo that comes in blocks to `lufs`; state of one player.

    The loudness of the last 20 s, silence left out, says where the fader goes: from the first block at once, from then
    on by at most 1 dB a second up and 3 down. Peaks over -1 dBTP are turned down.

    Raises:
        ValueError: a loudness out of range. ImportError: scipy is not installed.
    """

    def __init__(self, lufs: float):
        self.lufs = check_loudness(lufs)
        try:
            from scipy.signal import sosfilt
        except ImportError as error:
            raise ImportError("loudness needs scipy; run: pip install 'rtjazz-hf[live]'") from error
        self._filter = sosfilt
        self._sections = np.array([[*b, *a] for b, a in (_SHELF, _HIGH_PASS)])
        self._state = np.zeros((2, 2, 2))  # (sections, channels, 2)
        self._powers: deque[float] = deque(maxlen=_REMEMBERED)
        self._rest = np.zeros((2, 0))  # of a piece
        self.gain: float | None = None  # dB, at the end of the last block; None before the first sound

    @property
    def loudness(self) -> float:
        """LUFS of what came in lately; -inf for silence."""
        powers = np.array(self._powers)
        if len(powers) > _BLOCK:
            powers = np.convolve(powers, np.full(_BLOCK, 1.0 / _BLOCK), mode="valid")
        for gate in (_GATE, None):
            if not len(powers):
                return -math.inf
            level = gate if gate is not None else _lufs(powers.mean()) + _RELATIVE_GATE
            powers = powers[_lufs(powers) > level]
        return float(_lufs(powers.mean())) if len(powers) else -math.inf

    def process(self, audio: np.ndarray) -> np.ndarray:
        """The next block `(2, samples)`, as loud as it shall be."""
        self._measure(audio)
        heard = self.loudness
        if not math.isfinite(heard):
            return audio
        wanted, seconds = min(max(self.lufs - heard, -_MOST), _MOST), audio.shape[1] / SAMPLE_RATE
        before = wanted if self.gain is None else self.gain
        self.gain = min(max(wanted, before - _DOWN * seconds), before + _UP * seconds)
        ramp = np.linspace(before, self.gain, audio.shape[1], dtype=np.float32)
        return _bounded(limited(audio * np.float32(10.0) ** (ramp / 20.0), SAMPLE_RATE))

    def _measure(self, audio: np.ndarray) -> None:
        weighted, self._state = self._filter(self._sections, audio.astype(np.float64), axis=1, zi=self._state)
        pieces = np.concatenate([self._rest, weighted], axis=1)
        whole = pieces.shape[1] // _PIECE * _PIECE
        self._rest = pieces[:, whole:]
        self._powers.extend(
            np.square(pieces[:, :whole]).reshape(2, -1, _PIECE).mean(axis=2).sum(axis=0).tolist()
        )


def _lufs(power: np.ndarray | float) -> np.ndarray | float:
    return -0.691 + 10.0 * np.log10(np.maximum(power, 1e-12))


def _bounded(audio: np.ndarray) -> np.ndarray:
    """What a limiter that sees one block at a time lets through at its beginning."""
    most = np.float32(10.0 ** (CEILING / 20.0))
    return audio if np.abs(audio).max(initial=0.0) <= most else audio.clip(-most, most)
