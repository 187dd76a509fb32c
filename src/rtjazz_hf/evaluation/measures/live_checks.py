"""A live change: is it heard in the next block, does the music then do what was asked, and is there a click?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr

from .metrics import SAMPLE_RATE, as_audio, mel_distance

if TYPE_CHECKING:
    from rtjazz_hf import RealTimeJazzPipeline
    from rtjazz_hf.music import Chord, LeadSheet


@dataclass(frozen=True)
class Performance:
    """A live session as it was heard.

    Attributes:
        audio: float32 `(2, samples)` at 48 kHz. starts: first sample of every block.
        change_block: the first block after the change. before, after: the lead sheets on both sides of it.
        control_seconds: from the call of `update` until the first block that obeys it was handed out; NaN without a
        change. block_seconds: what each block took to make.
    """

    audio: np.ndarray
    starts: tuple[int, ...]
    change_block: int
    before: LeadSheet
    after: LeadSheet
    control_seconds: float
    block_seconds: tuple[float, ...]

    @property
    def change_sample(self) -> int:
        return self.starts[self.change_block]

    def blocks(self) -> list[np.ndarray]:
        return np.split(self.audio, self.starts[1:], axis=1)


def perform(
    pipe: RealTimeJazzPipeline,
    wishes: Mapping[str, Any],
    change: Mapping[str, Any] | None,
    *,
    seconds_before: float,
    seconds_after: float,
    seed: int,
) -> Performance:
    """Play a session, and in the middle of it `update(**change)`, if there is a change."""
    blocks, starts, sample, block_seconds = [], [], 0, []
    change_block = None
    with pipe.live(**wishes, seed=seed) as session:
        before = session.lead_sheet
        for block in session:
            starts.append(sample)
            blocks.append(block.audio)
            block_seconds.append(block.seconds)
            sample += block.audio.shape[-1]
            if change_block is None and sample >= seconds_before * SAMPLE_RATE:
                change_block, end = len(blocks), sample + seconds_after * SAMPLE_RATE
                if change:
                    session.update(**change)
            elif change_block is not None and sample >= end:
                break
        after, control_seconds = session.lead_sheet, session.stats().control_to_output.last
    return Performance(
        np.concatenate(blocks, axis=1), tuple(starts), change_block, before, after, control_seconds,
        tuple(block_seconds),
    )  # fmt: skip


def difference_by_block(changed: Performance, unchanged: Performance) -> np.ndarray:
    """Mel distance in dB of every block to what the same session plays without the change, `(blocks,)`.

    Both have the same seed, so before the change it is 0 to the bit, and the first block after it that is not 0 is
    the first in which the change is heard, whatever the model makes of it.
    """
    return np.array(
        [
            0.0 if np.array_equal(a, b) else mel_distance(a, b)
            for a, b in zip(changed.blocks(), unchanged.blocks())
        ]
    )


def short_chroma(audio: np.ndarray) -> np.ndarray:
    """Chroma `(frames, 12)`, C first, a frame every 1,024 samples, with little memory: C3 to C8, a bin a semitone.

    A filter of C3 is 0.13 s long, so that a block hears its neighbours little; `obedience.chroma` reaches two octaves
    lower for over a second.
    """
    try:
        import librosa
    except ImportError as error:
        raise ImportError("chord obedience needs librosa: pip install 'rtjazz-hf[eval]'") from error
    mono = soxr.resample(as_audio(audio).mean(0), SAMPLE_RATE, 12_000)
    folded = librosa.feature.chroma_cqt(
        y=mono, sr=12_000, hop_length=256, fmin=librosa.note_to_hz("C3"), norm=None, n_octaves=5,
        bins_per_octave=12, tuning=0.0,
    )  # fmt: skip
    return np.ascontiguousarray(folded.T, dtype=np.float64)


def chord_contrast_by_block(performance: Performance, old: Chord, new: Chord) -> np.ndarray:
    """Energy on the notes of `new` alone less that on those of `old` alone, over all, of every block: -1 to 1."""
    frames = short_chroma(performance.audio)
    times = np.arange(len(frames)) * 1024  # samples
    only_new, only_old = (
        sorted(set(a.pitch_classes) - set(b.pitch_classes)) for a, b in ((new, old), (old, new))
    )
    edges = [*performance.starts, performance.audio.shape[1]]
    result = []
    for start, stop in itertools.pairwise(edges):
        total = frames[(times >= start) & (times < stop)].sum(0)
        result.append((total[only_new].sum() - total[only_old].sum()) / max(total.sum(), 1e-9))
    return np.array(result)


def high_level_by_block(performance: Performance, low_hz: float = 6000.0) -> np.ndarray:
    """Level above `low_hz` in dB of every block: where cymbals are."""
    levels = []
    for block in performance.blocks():
        spectrum = np.abs(np.fft.rfft(block * np.hanning(block.shape[1]), axis=1)) ** 2
        high = np.fft.rfftfreq(block.shape[1], 1 / SAMPLE_RATE) >= low_hz
        levels.append(10 * np.log10(spectrum[:, high].sum() / block.shape[1] ** 2 + 1e-12))
    return np.array(levels)


def response(by_block: Sequence[np.ndarray], change_block: int) -> dict[str, Any]:
    """How a measure goes from its old level to its new one, mean over several sessions.

    Returns:
        before: mean over the blocks before the change. after: over those from the third on. first, second: of the first
        blocks after it. shares: how much of the way these two have gone, 1 being all of it. by_block: the means.
    """
    mean = np.mean(np.stack(by_block), axis=0)
    before, after = float(mean[:change_block].mean()), float(mean[change_block + 2 :].mean())
    first, second = (float(value) for value in mean[change_block : change_block + 2])
    way = after - before
    return {
        "before": before,
        "first": first,
        "second": second,
        "after": after,
        "shares": [(value - before) / way if abs(way) > 1e-9 else float("nan") for value in (first, second)],
        "by_block": mean,
    }
