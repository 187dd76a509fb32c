"""Who plays in recordings, as the probe beside a style encoder hears it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..audio import read_audio
from ..corpus.personal import find_recordings
from ..evaluation.measures.embeddings import TowerEmbedder
from ..evaluation.measures.instrument_probe import PROBE_NAME, InstrumentProbe
from ..hub import load_style_encoder, part_folder

_SECONDS, _FILES = 30.0, 20  # of each recording, and of how many, that are listened to
_SHARE = 0.3  # of the windows of a recording in which a player is heard: then he is of its band
_MOST = 0.5  # of the recordings in whose band he is
_USUAL, _SURE, _SURER = ("piano", "bass", "drums", "brushes"), 0.5, 2.5  # log odds over the threshold; of others, more
_ONE_KIT = ("drums", "brushes")  # of which a band has one


def hear_band(recordings: str | os.PathLike, base: str) -> list[str] | None:
    """Who plays in most of a folder's recordings; None where the base has no probe, or nobody is heard.

    A probe knows the instruments of the corpus that it was fitted on, and calls others by the nearest of them.

    Raises:
        FileNotFoundError: no such folder, or no sound file in it. OSError, ValueError: as of `load_style_encoder`.
    """
    path = part_folder(base, "style_encoder") / PROBE_NAME
    if not path.is_file():
        return None
    embedder = TowerEmbedder(*load_style_encoder(base))
    probe = InstrumentProbe.load(path, embedder)
    sure = np.array([_SURE if name in _USUAL else _SURER for name in probe.instruments])
    votes, logits = [], []
    for file in _spread(find_recordings(recordings)):
        try:
            heard = probe.logits(embedder(read_audio(file, duration=_SECONDS)).features)
        except (OSError, ValueError):  # told of when the recordings are prepared
            continue
        votes.append((heard >= sure).mean(0) >= _SHARE)
        logits.append(heard.mean(0))
    if not votes:
        return None
    shares, strength = np.mean(votes, axis=0), np.mean(logits, axis=0)
    kit = max(_ONE_KIT, key=lambda name: strength[probe.index(name)] if name in probe.instruments else -np.inf)
    band = [
        name
        for name, share in zip(probe.instruments, shares)
        if share >= _MOST and (name not in _ONE_KIT or name == kit)
    ]
    return band or None


def _spread(files: list[Path]) -> list[Path]:
    """At most so many of the files, from all over the list."""
    return files[:: max(1, -(-len(files) // _FILES))]


__all__ = ["hear_band"]
