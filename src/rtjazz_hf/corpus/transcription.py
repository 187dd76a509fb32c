"""An outside transcriber (basic-pitch, arXiv:2203.09893): which notes are heard in a clip."""

from __future__ import annotations

import functools
import importlib.util
import logging
import tempfile
from pathlib import Path

import numpy as np

from ..audio import SAMPLE_RATE

INSTALL = (
    "basic-pitch is not installed; run: pip install 'rtjazz-hf[notes]' && pip install --no-deps basic-pitch==0.4.0 "
    "(its own requirements ask for an old TensorFlow, which its ONNX model does not need)"
)
# Where F1 of renders is highest, on takes that no figure is reported of.
ONSET_THRESHOLD, FRAME_THRESHOLD, SHORTEST_FRAMES = 0.5, 0.3, 5
LEAST_AMPLITUDE = 0.4
_RATE, _HOP = 22_050, 256
_FRAMES_A_WINDOW, _SAMPLES_A_WINDOW = 142, 36_164  # of what windows contribute: their ends overlap


@functools.cache
def _model():
    try:
        logging.getLogger().addFilter(_no_missing_backends)
        try:
            import onnxruntime
            from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
            from basic_pitch.inference import Model
        finally:
            logging.getLogger().removeFilter(_no_missing_backends)
    except ImportError as error:
        raise ImportError(INSTALL) from error
    path = build_icassp_2022_model_path(FilenameSuffix.onnx)
    model = Model(path)
    # Its own session takes every core and spins on it while it waits: beside other work several times slower.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model.model = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return model


def _no_missing_backends(record: logging.LogRecord) -> bool:
    """basic-pitch warns of every backend that is not there; one is enough."""
    return "is not installed" not in record.getMessage()


def transcribe(audio: np.ndarray, least_amplitude: float = LEAST_AMPLITUDE) -> np.ndarray:
    """The notes heard in `audio` `(channels, samples)` at 48 kHz: float64 `(notes, 4)` of start and end in seconds,
    MIDI key and certainty (0 to 1), by time.

    Raises:
        ImportError: basic-pitch is not installed; says how to.
    """
    model = _model()
    import soundfile
    import soxr
    from basic_pitch.inference import run_inference
    from basic_pitch.note_creation import output_to_notes_polyphonic

    mono = soxr.resample(np.asarray(audio, dtype=np.float64).mean(0), SAMPLE_RATE, _RATE)
    # It never reports the last 0.67% of a file.
    mono = np.concatenate([mono, np.zeros(_RATE + len(mono) // 100)])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.wav"
        soundfile.write(file, mono.astype(np.float32), _RATE, subtype="FLOAT")
        heard = run_inference(file, model)
    events = output_to_notes_polyphonic(
        heard["note"].copy(), heard["onset"].copy(), ONSET_THRESHOLD, FRAME_THRESHOLD, SHORTEST_FRAMES,
        True, None, None, True,
    )  # fmt: skip
    rows = [(_seconds(s), _seconds(e), key, sure) for s, e, key, sure in events if sure >= least_amplitude]
    return np.array(sorted(rows), dtype=np.float64).reshape(-1, 4)


def _seconds(frame: int) -> float:
    windows, rest = divmod(int(frame), _FRAMES_A_WINDOW)
    return (windows * _SAMPLES_A_WINDOW + rest * _HOP) / _RATE


def has_transcriber() -> bool:
    """Whether basic-pitch and what runs it are installed."""
    return all(importlib.util.find_spec(name) for name in ("basic_pitch", "onnxruntime"))


__all__ = ["INSTALL", "has_transcriber", "transcribe"]
