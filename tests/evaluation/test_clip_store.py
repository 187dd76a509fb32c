"""Clips on disk: found again by name and key, made again when anything about them is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_pipeline

from rtjazz_hf.evaluation.clip_store import ClipStore, clip_key, model_fingerprint
from rtjazz_hf.evaluation.run import pipeline_fingerprint

SOUND = (0.1 * np.random.default_rng(0).standard_normal((2, 4800))).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    store = ClipStore(tmp_path / "clips")
    store.add("a", "key", SOUND, making_seconds=1.5, notes={"tempo": 120})
    return store


def test_found_again(store):
    for again in (store, ClipStore(store.folder)):
        clip = again.find("a", "key")
        assert (clip.samples, clip.making_seconds, clip.notes) == (4800, 1.5, {"tempo": 120})
        assert clip.seconds == 0.1 and clip.sanity["finite"] is True
        np.testing.assert_allclose(clip.audio(), SOUND, atol=2**-22)
        assert clip.audio(0.05).shape == (2, 2400)
    assert store.find("a", "another") is None and store.find("b", "key") is None
    assert ClipStore(store.folder, fresh=True).find("a", "key") is None


def test_what_no_file_can_hold_is_remembered(store):
    broken = SOUND.copy()
    broken[0, 7] = np.nan
    broken[1] *= 100
    clip = store.add("b", "key", broken)
    assert clip.sanity["finite"] is False and clip.sanity["peak"] > 1 and clip.sanity["ok"] is False
    assert clip.audio()[0, 7] == 0.0
    assert ClipStore(store.folder).find("b", "key").sanity == clip.sanity


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "index", "entry"])
def test_what_is_damaged_is_made_again(store, damage):
    sound, index = store.folder / "a.flac", store.folder / "clips.json"
    if damage == "missing":
        sound.unlink()
    elif damage == "cut":
        from rtjazz_hf.audio import write_audio

        write_audio(sound, SOUND[:, :100], overwrite=True)
    elif damage == "empty":
        sound.write_bytes(b"")
    elif damage == "index":
        index.write_text("{")
    else:
        index.write_text(json.dumps({"a": {"key": "key", "samples": 4800}}))
    again = ClipStore(store.folder)
    assert again.find("a", "key") is None
    made = again.get_or_make(["a"], ["key"], lambda places: [(SOUND, {})])
    assert made[0].audio().shape == SOUND.shape and ClipStore(store.folder).find("a", "key")


def test_only_what_is_not_there_is_made(store):
    calls = []

    def make(places):
        calls.append(places)
        return [(SOUND * place, {}) for place in places]

    clips = store.get_or_make(list("abcd"), ["key"] * 4, make, at_once=2)
    assert calls == [[1, 2], [3]] and [clip.name for clip in clips] == list("abcd")
    store.get_or_make(list("abcd"), ["key"] * 4, make)
    assert len(calls) == 2


def test_an_interrupt_leaves_no_entry_of_another_sound(store, monkeypatch):
    """The sound is replaced, and then the process dies before the index is."""
    monkeypatch.setattr(ClipStore, "_write", lambda self: None)
    store.add("a", "new", -SOUND)
    monkeypatch.undo()
    index = json.loads((store.folder / "clips.json").read_text())
    assert index["a"]["key"] == "key"  # an index that was never written would be wrong ...

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    fresh = ClipStore(store.folder)
    monkeypatch.setattr("rtjazz_hf.evaluation.clip_store.write_audio", die)
    with pytest.raises(KeyboardInterrupt):
        fresh.add("a", "new", -SOUND)
    assert "a" not in json.loads((store.folder / "clips.json").read_text())  # ... so it is, first


def test_fingerprints():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 4)
    before = model_fingerprint(layer)
    assert before == model_fingerprint(layer)
    with torch.no_grad():
        layer.bias[0] += 1e-6
    assert model_fingerprint(layer) != before
    assert model_fingerprint(layer.bfloat16()) != before
    assert clip_key("a", {"x": 1.0}) == clip_key("a", {"x": np.float32(1.0)}) != clip_key("a", {"x": 2.0})


def test_fingerprint_of_a_pipeline(tiny_pipeline):
    before = pipeline_fingerprint(tiny_pipeline)
    tiny_pipeline.encode_prompt("swing")  # tokenizing leaves traces in the tokenizer
    assert pipeline_fingerprint(tiny_pipeline) == before
    assert pipeline_fingerprint(build_tiny_pipeline(seed=1)) != before
