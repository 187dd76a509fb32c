"""Instruments, keys and tempo: what a probe hears, which key a clip is in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from played import play_chords

from rtjazz_hf.audio import write_audio
from rtjazz_hf.corpus.dataset import TakeRecord
from rtjazz_hf.evaluation.measures.embeddings import TowerEmbedder, embed_sets
from rtjazz_hf.evaluation.measures.instrument_probe import (
    PROBE_NAME,
    InstrumentProbe,
    find_probe,
    playing_shares,
    probe_examples,
)
from rtjazz_hf.evaluation.measures.keys import find_key, key_fits, key_part, key_score, tempo_part
from rtjazz_hf.evaluation.measures.presence import (
    MutedPair,
    band_scores,
    choose_mutes,
    pair_scores,
    presence_part,
    stem_pairs,
)
from rtjazz_hf.evaluation.takes import HeldOutTake
from rtjazz_hf.music import INSTRUMENTS, KEYS, LeadSheet, Section
from rtjazz_hf.music.vocabulary import transpose_key

RATE = 48_000
SECONDS = 4.0
# every player has a register of its own
HERTZ = {"bass": 70.0, "piano": 600.0, "trumpet": 2500.0}


def player(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, INSTRUMENTS.index(name)])
    time = np.arange(round(SECONDS * RATE)) / RATE
    hertz = HERTZ[name] * rng.uniform(0.9, 1.1)
    tone = sum(np.sin(2 * np.pi * hertz * h * time) / h for h in (1, 2, 3))
    pulse = np.exp(-4 * ((time + rng.uniform()) % 0.5))
    return (0.1 * rng.uniform(0.7, 1.3) * np.stack([tone, tone]) * pulse).astype(np.float32)


def band_sheet(names) -> LeadSheet:
    return LeadSheet.from_chart("Dm7 | G7 | Cmaj7 | %", tempo=120, instruments=names)


@pytest.fixture(scope="module")
def embedder(tiny_pipeline) -> TowerEmbedder:
    return TowerEmbedder(tiny_pipeline.style_encoder, tiny_pipeline.tokenizer, seconds=1.0)


def write_takes(folder, count: int, seed: int) -> list[TakeRecord]:
    """Takes of two or three players with stems; there is a bass in every one."""
    takes = []
    for index in range(count):
        names = [("bass", "piano"), ("bass", "trumpet"), ("bass", "piano", "trumpet")][index % 3]
        rng = np.random.default_rng([seed, index])
        hiss = 0.002 * rng.standard_normal((2, round(SECONDS * RATE))).astype(np.float32)
        stems = {name: player(name, 1000 * seed + index) for name in names}
        path = folder / f"{index:06d}" / "mix.flac"
        (path.parent / "stems").mkdir(parents=True)
        write_audio(path, hiss + sum(stems.values()))
        for name, stem in stems.items():
            write_audio(path.parent / "stems" / f"{name}.flac", stem)
        takes.append(TakeRecord(path, band_sheet(names), "a band", ("a band",), {}, "none"))
    return takes


@pytest.fixture(scope="module")
def train(embedder, tmp_path_factory):
    return probe_examples(write_takes(tmp_path_factory.mktemp("train"), 18, 0), embedder)


@pytest.fixture(scope="module")
def probe(embedder, train):
    return InstrumentProbe.fit(train, embedder)


class TestShares:
    def test_follow_sections_and_loops(self):
        sheet = LeadSheet.from_chart("C | F", tempo=60, instruments=("piano", "bass"))
        sections = (Section("head", 0.0, 4.0, ("piano", "bass")), Section("solo", 4.0, 4.0, ("bass",)))
        sheet = dataclasses.replace(sheet, sections=sections)
        shares = playing_shares(sheet, np.array([0.0, 2.0, 4.0, 6.0, 8.0]), 4.0)
        piano = shares[:, INSTRUMENTS.index("piano")]
        np.testing.assert_allclose(piano, [1.0, 0.5, 0.0, 0.5, 1.0])
        np.testing.assert_allclose(shares[:, INSTRUMENTS.index("bass")], 1.0)
        once = playing_shares(dataclasses.replace(sheet, loops=False), np.array([6.0, 8.0]), 4.0)
        np.testing.assert_allclose(once[:, INSTRUMENTS.index("bass")], [0.5, 0.0])
        early = dataclasses.replace(sheet, beat_offset=-2.0)
        np.testing.assert_allclose(playing_shares(early, np.array([0.0]), 4.0)[0, 0], 0.5)


class TestProbe:
    def test_stems_teach_it_what_is_in_every_mix(self, probe, train):
        assert probe.instruments == ("piano", "bass", "trumpet")
        assert len(train.features) == 18 * 4 + (6 * 2 + 6 * 2 + 6 * 3) * 4

    def test_hears_takes_it_was_not_fitted_on(self, probe, embedder, tmp_path):
        scores = probe.scores(probe_examples(write_takes(tmp_path, 6, 9), embedder))
        for name, score in scores.items():
            assert score["balanced_accuracy"] > 0.8, name
            assert score["auc"] > 0.9, name

    def test_saved_equals_loaded(self, probe, embedder, train, tmp_path):
        probe.save(tmp_path / "probe.safetensors")
        assert (tmp_path / "probe.safetensors").stat().st_size < 100_000
        again = InstrumentProbe.load(tmp_path / "probe.safetensors", embedder)
        assert again.instruments == probe.instruments
        np.testing.assert_array_equal(again.logits(train.features), probe.logits(train.features))

    def test_another_tower_is_refused(self, probe, embedder, tmp_path):
        probe.save(tmp_path / "probe.safetensors")
        weight = embedder.style_encoder.audio_tower.conv1.weight
        kept = weight.detach().clone()
        try:
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
            with pytest.raises(ValueError, match="another audio tower"):
                InstrumentProbe.load(tmp_path / "probe.safetensors", embedder)
        finally:
            with torch.no_grad():
                weight.copy_(kept)

    def test_bad_files(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            InstrumentProbe.load(tmp_path / "nothing.safetensors")
        (tmp_path / "bad.safetensors").write_bytes(b"no")
        with pytest.raises(ValueError, match="no instrument probe"):
            InstrumentProbe.load(tmp_path / "bad.safetensors")

    def test_is_found_beside_the_style_encoder(self, probe, tiny_folder, tiny_pipeline, embedder):
        from rtjazz_hf import RealTimeJazzPipeline

        pipe = RealTimeJazzPipeline.from_pretrained(tiny_folder)
        assert find_probe(pipe, embedder) is None
        path = tiny_folder / "style_encoder" / PROBE_NAME
        probe.save(path)
        try:
            pipe = RealTimeJazzPipeline.from_pretrained(tiny_folder)  # the file is in nobody's way
            assert (
                find_probe(pipe, TowerEmbedder(pipe.style_encoder, seconds=1.0)).instruments
                == probe.instruments
            )
        finally:
            path.unlink()

    def test_too_few_examples(self, embedder, train):
        few = dataclasses.replace(
            train, features=train.features[:8], shares=train.shares[:8], groups=train.groups[:8]
        )
        with pytest.raises(ValueError, match="give more takes"):
            InstrumentProbe.fit(few, embedder)


class TestPresence:
    @pytest.fixture(scope="class")
    def takes(self) -> list[HeldOutTake]:
        found = []
        for index, names in enumerate((("bass", "piano"), ("bass", "piano", "trumpet")) * 2):
            stems = {name: player(name, 500 + index) for name in names}
            mix = sum(stems.values()) + 0.002 * np.random.default_rng(index).standard_normal(
                (2, round(4 * RATE))
            )
            found.append(HeldOutTake(f"t{index}", band_sheet(names), "a band", 4.0, samples=mix, stems=stems))
        return found

    def test_muted_players_are_gone(self, probe, embedder, takes):
        pairs = stem_pairs(takes, SECONDS)
        assert len(pairs) == 10
        scores = pair_scores(probe, embedder, pairs)
        assert scores["pairs"] == 10 and scores["instruments"]["trumpet"]["pairs"] == 2
        assert min(scores["heard"], scores["gone"], scores["lower"]) >= 0.8

    def test_a_model_that_mutes_nobody_fails(self, probe, embedder, takes):
        pairs = [MutedPair(pair.instrument, pair.full, pair.full, pair.lead_sheet)
                 for pair in stem_pairs(takes, SECONDS)]  # fmt: skip
        figures, rows = presence_part(probe, embedder, pairs, stem_pairs(takes, SECONDS))
        heard, gone = rows
        assert heard["ok"] and gone["ok"] is False
        assert figures["pairs"]["lower"] == 0.0
        assert figures["renders"]["gone"] >= 0.8

    def test_bands(self, probe, embedder, takes):
        sheets = [take.lead_sheet for take in takes]
        clips = embed_sets(embedder, {"held_out": [take.audio() for take in takes]})
        scores = band_scores(probe, clips["held_out"], sheets)
        assert scores["heard"] >= 0.8 and scores["absent"] >= 0.5
        assert scores["instruments"]["trumpet"]["clips"] == 2
        rows = presence_part(probe, embedder, [], sets=clips, lead_sheets=sheets)[1]
        assert rows[0]["ok"] is None and "held out" in rows[2]["measured"]

    def test_every_instrument_is_muted_in_turn(self, probe):
        sheets = [band_sheet(("bass", "piano", "trumpet"))] * 9 + [
            band_sheet(("bass",)),
            band_sheet(("flute", "organ")),
        ]
        chosen = choose_mutes(sheets, probe, 10.0, seconds=1.0)
        assert chosen[9:] == [None, None]  # alone; unknown to the probe
        assert sorted(chosen[:9]) == ["bass"] * 3 + ["piano"] * 3 + ["trumpet"] * 3

    def test_takes_without_stems_are_refused(self, takes):
        with pytest.raises(ValueError, match="stems=True"):
            stem_pairs([dataclasses.replace(takes[0], stems=None)], 2.0)


class TestKey:
    def test_profiles_find_their_own_key(self):
        for key in KEYS:
            scale = [0, 2, 3, 5, 7, 8, 11] if key.endswith("m") else [0, 2, 4, 5, 7, 9, 11]
            weights = np.zeros(12)
            weights[scale] = [3, 1, 2, 1, 2, 1, 1]
            assert KEYS[int(np.argmax(key_fits(np.roll(weights, KEYS.index(key) % 12))))] == key

    def test_scores(self):
        assert key_score("C", "C") == 1.0
        assert key_score("C", "G") == 0.5
        assert key_score("C", "Am") == 0.3
        assert key_score("Cm", "C") == 0.2
        assert key_score("C", "F#m") == key_score("C", None) == 0.0

    def test_part(self):
        pytest.importorskip("librosa")
        sheets = [
            LeadSheet.from_chart("Dm7 | G7 | C6 | C6", tempo=120, key="C"),
            LeadSheet.from_chart("Gm7 | C7 | F6 | F6", tempo=120, key="F"),
        ]
        clips = [play_chords(sheet, 8.0) for sheet in sheets]
        assert find_key(np.zeros((2, RATE), np.float32)) is None
        figures, (row,) = key_part(clips, clips, sheets)
        assert figures["generated"]["exact"] == 1.0 and row["ok"]
        wrong = [play_chords(sheet.rotated(6), 8.0) for sheet in sheets]
        figures, (row,) = key_part(wrong, clips, sheets)
        assert figures["generated"]["exact"] == 0.0 and row["ok"] is False
        assert figures["charts"][0]["generated"] == transpose_key("C", 6)
        with pytest.raises(ValueError, match="as many of each"):
            key_part(clips, clips[:1], sheets)

    def test_tempo(self):
        figures, (row,) = tempo_part([0.001, 0.002, float("nan")], [0.001])
        assert figures["median"] == 0.002 and row["ok"]
        assert tempo_part([float("nan"), 0.001, 0.5])[1][0]["ok"] is False
