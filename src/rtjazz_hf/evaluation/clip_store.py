"""Clips that an evaluation made, kept on disk so that no part makes again what another has made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtjazz_hf.audio import SAMPLE_RATE, audio_info, read_audio, write_audio

from .measures.metrics import sanity
from .writing import to_plain, write_text

INDEX = "clips.json"
_PIECE = 1 << 26  # bytes of a tensor that are hashed at once


def model_fingerprint(*models: Any) -> str:
    """A digest of configurations and weights (torch modules; other objects by their `config`): the same models, the
    same text."""
    digest = hashlib.blake2b(digest_size=16)
    for model in models:
        config = getattr(model, "config", {})
        config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        known = {key: value for key, value in config.items() if not key.startswith("_")}
        digest.update(json.dumps(known, sort_keys=True, default=str).encode())
        if isinstance(model, torch.nn.Module):
            for name, tensor in sorted(model.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                data = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy()
                for start in range(0, data.size, _PIECE):
                    digest.update(data[start : start + _PIECE])
    return digest.hexdigest()


def clip_key(*what: Any) -> str:
    """A digest of everything that decides how a clip sounds, in JSON's types."""
    text = json.dumps(to_plain(list(what)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class StoredClip:
    """A clip on disk.

    Attributes:
        name: of its file without suffix. key: of `clip_key`. path: a 24-bit flac. samples: of a channel.
        sanity: `metrics.sanity` of the sound as it was made, before NaN or peaks were lost in a file.
        making_seconds: time it took to make, where that was measured.
        notes: what else was known when it was made.
    """

    name: str
    key: str
    path: Path
    samples: int
    sanity: dict[str, Any]
    making_seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def audio(self, duration: float | None = None) -> np.ndarray:
        """The first `duration` seconds (all by default) as float32 `(2, samples)` at 48 kHz."""
        return read_audio(self.path, duration=duration)


class ClipStore:
    """A folder of clips and what is known of each; a clip is found again by its name and key.

    It is a memory, not a record: what is damaged, missing or of other settings is made again.

    Args:
        folder: made when the first clip is added. fresh: find nothing that was there before.
    """

    def __init__(self, folder: Path, fresh: bool = False):
        self.folder = Path(folder)
        self._index: dict[str, dict[str, Any]] = {} if fresh else self._read()

    def find(self, name: str, key: str) -> StoredClip | None:
        """The clip, if it is there whole and was made so."""
        entry = self._index.get(name)
        path = self.folder / f"{name}.flac"
        if entry is None or entry.get("key") != key:
            return None
        try:
            if audio_info(path).samples != entry["samples"]:
                return None
            return StoredClip(name=name, path=path, **entry)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def add(
        self,
        name: str,
        key: str,
        audio: np.ndarray,
        making_seconds: float | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> StoredClip:
        """Keep `(2, samples)` at 48 kHz in the place of what had the name; NaN becomes silence."""
        self.folder.mkdir(parents=True, exist_ok=True)
        checks = to_plain(sanity(audio))
        path = self.folder / f"{name}.flac"
        # Forgotten before the sound is replaced: an interrupt leaves no entry that tells of another sound.
        if self._index.pop(name, None) is not None:
            self._write()
        write_audio(path, np.nan_to_num(audio, posinf=0.0, neginf=0.0), overwrite=True, subtype="PCM_24")
        clip = StoredClip(name, key, path, audio.shape[-1], checks, making_seconds, dict(notes or {}))
        entry = asdict(clip)
        del entry["name"], entry["path"]
        self._index[name] = entry
        self._write()
        return clip

    def get_or_make(
        self,
        names: Sequence[str],
        keys: Sequence[str],
        make: Callable[[list[int]], Sequence[tuple[np.ndarray, dict[str, Any]]]],
        at_once: int = 1,
    ) -> list[StoredClip]:
        """The clips of these names and keys; those that are not there are made, `at_once` of them at a time.

        Args:
            make: places in `names` -> for each its audio and the further keywords of `add`.
        """
        clips = [self.find(name, key) for name, key in zip(names, keys)]
        missing = [place for place, clip in enumerate(clips) if clip is None]
        for start in range(0, len(missing), at_once):
            places = missing[start : start + at_once]
            for place, (audio, known) in zip(places, make(places)):
                clips[place] = self.add(names[place], keys[place], audio, **known)
        return clips

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return index if isinstance(index, dict) else {}

    def _write(self) -> None:
        write_text(self.folder / INDEX, json.dumps(self._index, indent=1, sort_keys=True) + "\n")
