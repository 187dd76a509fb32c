"""Which instruments sound: logistic regressions on the audio tower's features, fitted on takes of known bands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from rtjazz_hf.audio import SAMPLE_RATE, read_audio
from rtjazz_hf.music import INSTRUMENTS
from rtjazz_hf.runtime.files import whole_or_not_at_all

from .embeddings import TowerEmbedder

if TYPE_CHECKING:
    from rtjazz_hf.corpus.dataset import TakeRecord
    from rtjazz_hf.music import LeadSheet

PROBE_NAME = "instrument_probe.safetensors"
PRESENT, ABSENT = 0.6, 0.05  # share of a window in which an instrument plays; in between it is not judged
_LEAST_EXAMPLES = 20  # windows with, and without, an instrument
_REGULARISATION = 0.1
_FOLDS = 5
_ANOTHER_TOWER = 0.2


def playing_shares(lead_sheet: LeadSheet, starts: np.ndarray, seconds: float) -> np.ndarray:
    """In how much of each window each of `INSTRUMENTS` plays, by the sheet: `(windows, instruments)`, 0 to 1.

    Loops are followed; before the first bar line and after an end nobody plays.
    """
    shares = np.zeros((len(starts), len(INSTRUMENTS)))
    length = lead_sheet.num_beats
    for row, start in enumerate(starts):
        first, last = lead_sheet.beat_at(start), lead_sheet.beat_at(start + seconds)
        passes = (
            range(max(0, int(first // length)), int(last // length) + 1) if lead_sheet.loops else range(1)
        )
        for section in lead_sheet.sections:
            beats = sum(
                max(
                    0.0,
                    min(last, section.end_beat + k * length) - max(first, section.start_beat + k * length),
                )
                for k in passes
            )
            for name in section.instruments:
                shares[row, INSTRUMENTS.index(name)] += beats / (last - first)
    return shares


@dataclass(frozen=True)
class ProbeExamples:
    """What a probe is fitted on: `features` `(windows, width)`, `shares` of `playing_shares` `(windows,
    instruments)`, and the take that each window is of, `groups` `(windows,)`."""

    features: np.ndarray
    shares: np.ndarray
    groups: np.ndarray


def probe_examples(
    takes: Iterable[TakeRecord],
    embedder: TowerEmbedder,
    progress: bool = False,
    degrade: Callable[[np.ndarray], np.ndarray] | None = None,
) -> ProbeExamples:
    """Windows of takes, and of their mixes minus one player wherever there are stems.

    Without stems a probe learns which instruments go together (a bass is always there) and still hears one that was
    muted; with a hundred such takes it does not.

    Args:
        degrade: what may happen to sound on its way, such as a codec's round trip: each clip is then heard both
            ways.

    Raises:
        ValueError: no takes.
    """
    from tqdm.auto import tqdm

    features, shares, groups = [], [], []
    for group, take in enumerate(tqdm(list(takes), desc="probe", unit="take", disable=not progress)):
        mix = take.audio()
        clips = [(mix, take.lead_sheet)]
        for name, path in take.stems.items():
            stem = read_audio(path)
            size = min(mix.shape[1], stem.shape[1])
            clips.append((mix[:, :size] - stem[:, :size], take.lead_sheet.without(name)))
        for audio, sheet in clips:
            for heard in (audio,) if degrade is None else (audio, degrade(audio)):
                clip = embedder(heard)
                features.append(clip.features)
                shares.append(playing_shares(sheet, clip.starts, clip.seconds))
                groups.append(np.full(len(clip.starts), group))
    if not features:
        raise ValueError("there are no takes to fit a probe on; give those of a corpus (load_takes).")
    return ProbeExamples(np.concatenate(features), np.concatenate(shares), np.concatenate(groups))


@dataclass(frozen=True)
class InstrumentProbe:
    """A logistic regression an instrument, on features of the audio tower.

    Attributes:
        instruments: those that it can judge, in the order of `INSTRUMENTS`.
        weight: `(instruments, width)`. bias, threshold: `(instruments,)`: an instrument is heard where its logit
            `features @ weight + bias` is at least its threshold.
        signature: what the tower makes of a fixed sound, `(width,)`, so that another tower is noticed.
    """

    instruments: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    threshold: np.ndarray
    signature: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """`(windows, width)` to log odds above the threshold, `(windows, instruments)`: 0 and above is heard."""
        return features @ self.weight.T + (self.bias - self.threshold)

    def posteriors(self, features: np.ndarray) -> np.ndarray:
        """`(windows, width)` to posteriors `(windows, instruments)`; the threshold is not part of them."""
        logits = features @ self.weight.T + self.bias
        return 1.0 / (1.0 + np.exp(-np.clip(logits, -50.0, 50.0)))

    def index(self, instrument: str) -> int:
        """Where an instrument is. Raises ValueError for one that cannot be judged."""
        if instrument not in self.instruments:
            raise ValueError(
                f"the probe does not know {instrument!r}; it judges {', '.join(self.instruments)}."
            )
        return self.instruments.index(instrument)

    @classmethod
    def fit(cls, examples: ProbeExamples, embedder: TowerEmbedder) -> InstrumentProbe:
        """Fit on examples of training takes; thresholds are those with the best balanced accuracy on takes that
        five-fold cross-validation left out. Instruments of fewer than 20 windows with or without are left out.

        Raises:
            ValueError: no instrument has enough examples of both.
        """
        try:
            from sklearn.linear_model import LogisticRegression
            from sklearn.model_selection import GroupKFold, cross_val_predict
        except ImportError as error:
            raise ImportError("fitting a probe needs scikit-learn: pip install 'rtjazz-hf[eval]'") from error
        mean = examples.features.mean(0)
        deviation = np.maximum(examples.features.std(0), 1e-4)
        scaled = (examples.features - mean) / deviation
        names, weights, biases, thresholds = [], [], [], []
        for column, name in enumerate(INSTRUMENTS):
            judged, present = _judged(examples.shares[:, column])
            groups = examples.groups[judged]
            takes_with = len(np.unique(groups[present]))
            if min(present.sum(), (~present).sum()) < _LEAST_EXAMPLES or takes_with < 2:
                continue
            model = LogisticRegression(C=_REGULARISATION, class_weight="balanced", max_iter=1000)
            folds = GroupKFold(min(_FOLDS, takes_with))
            try:
                left_out = cross_val_predict(
                    model, scaled[judged], present, groups=groups, cv=folds, method="decision_function"
                )
                threshold = _best_threshold(left_out, present)
            except ValueError:  # a fold with one class alone: too few takes to choose by
                threshold = 0.0
            model.fit(scaled[judged], present)
            weight = model.coef_[0] / deviation
            names.append(name)
            weights.append(weight)
            biases.append(float(model.intercept_[0] - weight @ mean))
            thresholds.append(threshold)
        if not names:
            raise ValueError(
                f"no instrument is present in {_LEAST_EXAMPLES} windows and absent in as many; give more takes."
            )
        single = np.float32
        return cls(
            tuple(names), np.array(weights, single), np.array(biases, single), np.array(thresholds, single),
            tower_signature(embedder),
        )  # fmt: skip

    def scores(self, examples: ProbeExamples) -> dict[str, dict[str, float]]:
        """How well it hears, window by window: instrument -> auc, heard and absent (the share judged right of
        windows with and without it), balanced_accuracy, windows (with it). NaN where there are none."""
        from sklearn.metrics import roc_auc_score

        logits, result = self.logits(examples.features), {}
        for column, name in enumerate(self.instruments):
            judged, present = _judged(examples.shares[:, INSTRUMENTS.index(name)])
            values = logits[judged, column]
            heard, absent = _mean(values[present] >= 0), _mean(values[~present] < 0)
            auc = roc_auc_score(present, values) if 0 < present.sum() < len(present) else float("nan")
            result[name] = {
                "auc": float(auc), "heard": heard, "absent": absent,
                "balanced_accuracy": (heard + absent) / 2, "windows": int(present.sum()),
            }  # fmt: skip
        return result

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file (about 13 kB for mini)."""
        tensors = {
            "weight": self.weight, "bias": self.bias, "threshold": self.threshold, "signature": self.signature,
        }  # fmt: skip
        with whole_or_not_at_all(Path(path)) as partial:
            save_file(tensors, partial, metadata={"instruments": json.dumps(self.instruments)})

    @classmethod
    def load(cls, path: str | os.PathLike, embedder: TowerEmbedder | None = None) -> InstrumentProbe:
        """Read what `save` wrote.

        Raises:
            OSError: not there. ValueError: not a probe, or (with `embedder`) one for another audio tower.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no instrument probe '{path}'.")
        try:
            with safe_open(path, framework="numpy") as file:
                instruments = tuple(json.loads(file.metadata()["instruments"]))
                parts = {name: file.get_tensor(name) for name in ("weight", "bias", "threshold", "signature")}
        except Exception as error:  # safetensors has an error of its own
            raise ValueError(f"'{path}' is no instrument probe ({error}); fit one again.") from error
        probe = cls(instruments, **parts)
        if embedder is not None:
            signature = tower_signature(embedder)
            if signature.shape != probe.signature.shape or (
                np.linalg.norm(signature - probe.signature) > _ANOTHER_TOWER * np.linalg.norm(probe.signature)
            ):
                raise ValueError(f"'{path}' was fitted on another audio tower; fit one again on this one.")
        return probe


def tower_signature(embedder: TowerEmbedder) -> np.ndarray:
    """What the tower makes of a fixed sound, `(width,)`: close in any precision, far off for other weights."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    rng = np.random.default_rng(0)
    clip = sum(np.sin(2 * np.pi * hz * time) * np.exp(-5 * ((time + k / 7) % 0.5))
               for k, hz in enumerate((55, 147, 392, 1046, 2794)))  # fmt: skip
    clip = 0.1 * clip + 0.01 * rng.standard_normal(len(time))
    return embedder(np.stack([clip, clip]).astype(np.float32)).features[0]


def find_probe(pipe: Any, embedder: TowerEmbedder) -> InstrumentProbe | None:
    """The probe beside a pipeline's style encoder (`style_encoder/instrument_probe.safetensors` of its folder);
    None where there is none. Raises ValueError as `InstrumentProbe.load`."""
    from rtjazz_hf.hub import resolve_pretrained

    try:
        folder, is_local = resolve_pretrained(str(pipe.config.get("_name_or_path") or ""))
    except (OSError, ValueError):
        return None
    path = Path(folder) / "style_encoder" / PROBE_NAME
    return InstrumentProbe.load(path, embedder) if is_local and path.is_file() else None


def _judged(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which windows say clearly whether an instrument is there, and (among these) whether it is."""
    judged = (shares <= ABSENT) | (shares >= PRESENT)
    return judged, shares[judged] >= PRESENT


def _best_threshold(values: np.ndarray, present: np.ndarray) -> float:
    """Where the balanced accuracy is best."""
    from sklearn.metrics import roc_curve

    false, true, thresholds = roc_curve(present, values)
    best = float(thresholds[np.argmax(true - false)])
    return best if np.isfinite(best) else 0.0


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


__all__ = [
    "PROBE_NAME",
    "InstrumentProbe",
    "ProbeExamples",
    "find_probe",
    "playing_shares",
    "probe_examples",
    "tower_signature",
]
