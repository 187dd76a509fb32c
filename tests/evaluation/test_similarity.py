"""Measures on embeddings: sets of clips against each other, against words, and against training takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic_takes import write_takes

from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.evaluation.measures.diversity import (
    TrainIndex,
    diversity_part,
    group_by,
    hopping_features,
    neighbours_part,
    pairwise_distance,
)
from rtjazz_hf.evaluation.measures.embeddings import (
    ClapEmbedder,
    ClipEmbedding,
    TowerEmbedder,
    derangement,
    embed_sets,
    noise_like,
)
from rtjazz_hf.evaluation.measures.frechet import frechet_distance, frechet_infinity, frechet_part
from rtjazz_hf.evaluation.measures.text_match import (
    different_groups,
    kl_divergence,
    retrieval,
    tag_posteriors,
    tags_part,
    text_part,
)
from rtjazz_hf.music import GENRES

RATE = 48_000


@pytest.fixture(scope="module")
def embedder(tiny_pipeline) -> TowerEmbedder:
    return TowerEmbedder(tiny_pipeline.style_encoder, tiny_pipeline.tokenizer, seconds=1.0)


def tones(hertz: float, seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    tone = 0.2 * np.sin(2 * np.pi * hertz * time) * np.exp(-3 * (time % 0.5))
    noise = 0.01 * np.random.default_rng(seed).standard_normal((2, time.size))
    return (tone + noise).astype(np.float32)


def embedding(unit: np.ndarray, features: np.ndarray | None = None) -> ClipEmbedding:
    """An embedding of given unit vectors `(windows, dim)`."""
    unit = np.asarray(unit, np.float32)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return ClipEmbedding(np.arange(len(unit)) * 5.0, 5.0, unit if features is None else features, unit)


class TestEmbeddings:
    def test_windows_are_what_the_encoder_makes_of_them(self, embedder, tiny_pipeline):
        clip = tones(300, 2.4)
        clip[:, RATE:] = tones(700, 1.4)
        found = embedder(clip)
        assert found.starts.tolist() == [0.0, 1.0]  # the rest is no whole window
        assert found.features.shape == (2, tiny_pipeline.style_encoder.config.audio_hidden_size)
        for row, start in enumerate((0, RATE)):
            window = torch.from_numpy(clip[:, start : start + RATE])[None]
            whole = tiny_pipeline.style_encoder.encode_audio(window)[0]
            np.testing.assert_allclose(found.unit[row], whole.detach().numpy(), atol=1e-5)
        assert np.linalg.norm(found.whole) == pytest.approx(1.0, abs=1e-5)

    def test_a_short_clip_is_one_window_and_a_tiny_one_is_refused(self, embedder):
        assert len(embedder(tones(300, 0.5)).starts) == 1
        with pytest.raises(ValueError, match=r"0\.1 s or more"):
            embedder(np.zeros((2, 100), np.float32))

    def test_the_mode_of_the_encoder_is_left_as_it_was(self, embedder):
        encoder = embedder.style_encoder
        encoder.train()
        try:
            embedder(tones(300))
            assert encoder.training
        finally:
            encoder.eval()

    def test_words_do_not_depend_on_their_neighbours(self, embedder):
        both = embedder.text(["swing", "a much longer phrase about a bossa nova"])
        np.testing.assert_allclose(both[0], embedder.text(["swing"])[0], atol=1e-6)
        with pytest.raises(ValueError, match="tokenizer"):
            TowerEmbedder(embedder.style_encoder).text(["swing"])

    def test_noise_has_the_level_of_the_clip(self):
        clip = tones(300)
        noise = noise_like(clip, seed=1)
        assert noise.shape == clip.shape and noise.dtype == np.float32
        assert np.sqrt((noise**2).mean()) == pytest.approx(np.sqrt((clip**2).mean()), rel=0.02)

    @pytest.mark.parametrize("count", [2, 3, 9])
    def test_a_derangement_moves_everything(self, count):
        order = derangement(count, seed=count)
        assert sorted(order) == list(range(count)) and (order != np.arange(count)).all()


class TestFrechet:
    def test_equals_the_closed_form(self):
        from scipy.linalg import sqrtm

        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 5)), 1 + rng.standard_normal((40, 5))
        a, b = np.cov(x.T), np.cov(y.T)
        closed = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
        assert frechet_distance(x, y) == pytest.approx(closed, rel=1e-6)
        assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)

    def test_fewer_windows_than_dimensions(self):
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((8, 50)), rng.standard_normal((6, 50))
        assert 0 < frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
        with pytest.raises(ValueError, match="two windows or more"):
            frechet_distance(x[:1], y)

    def test_infinity_takes_the_bias_of_small_sets_away(self):
        rng = np.random.default_rng(0)
        draw = lambda shift: [shift + rng.standard_normal((6, 4)) for _ in range(24)]  # noqa: E731
        same, other = draw(0.0), draw(0.0)
        plain = frechet_distance(np.concatenate(same), np.concatenate(other))
        assert abs(frechet_infinity(same, same, other)) < plain
        assert frechet_infinity(draw(1.0), same, other) == pytest.approx(4.0, rel=0.2)

    def test_real_takes_pass_and_noise_does_not(self):
        rng = np.random.default_rng(1)

        def clips(shift: float) -> list[ClipEmbedding]:
            centres = rng.standard_normal((10, 1, 8))
            return [
                embedding(np.ones((4, 2)), shift + c + 0.3 * rng.standard_normal((4, 8))) for c in centres
            ]

        sets = {
            "generated": clips(0.0),
            "held_out": clips(0.0),
            "held_out_b": clips(0.0),
            "noise": clips(4.0),
        }
        figures, (row,) = frechet_part(sets)
        assert row["ok"] and figures["clips"] == 10 and figures["windows"] == 40
        assert figures["to_held_out"]["noise"] > 5 * figures["yardstick"]
        assert frechet_part({**sets, "generated": clips(4.0)})[1][0]["ok"] is False
        with pytest.raises(ValueError, match="held_out_b"):
            frechet_part({"generated": clips(0.0), "held_out": clips(0.0)})

    def test_on_sound(self, embedder):
        low = [tones(hz, seed=hz) for hz in (200, 220, 250, 280)]
        sets = {"generated": low, "held_out": [c[:, ::-1].copy() for c in low],
                "held_out_b": [tones(hz, seed=hz) for hz in (210, 230, 260, 290)],
                "noise": [noise_like(c) for c in low]}  # fmt: skip
        figures, _ = frechet_part(embed_sets(embedder, sets))
        assert figures["to_held_out"]["generated"] < figures["to_held_out"]["noise"]


class TestText:
    def test_groups_hold_no_class_twice(self):
        classes = list("aabbccddeeffgghh")
        groups = different_groups(classes, count=20)
        assert groups.shape == (20, 8)
        assert all(len({classes[i] for i in group}) == 8 for group in groups)
        assert not len(different_groups(list("aabb")))

    def test_retrieval(self):
        groups = different_groups(list(range(12)), count=50)
        assert retrieval(np.eye(12), groups) == (1.0, 1.0)
        wrong = np.roll(np.eye(12), 1, axis=0)
        assert max(retrieval(wrong - 0.1 * np.eye(12), groups)) == 0.0
        # a clip that answers to every caption: captions find it in place of their own, clips find theirs
        greedy = np.eye(12)
        greedy[:, 0] = 2.0 + np.eye(12)[0]
        of_text, of_audio = retrieval(greedy, groups)
        assert of_text == 1.0 and of_audio < 0.5

    def test_part(self, embedder):
        captions = [f"{genre} piano trio" for genre in GENRES]
        texts = embedder.text(captions)
        right = [embedding(text[None]) for text in texts]
        rng = np.random.default_rng(0)
        noise = [embedding(rng.standard_normal((1, texts.shape[1]))) for _ in captions]
        figures, rows = text_part(
            embedder, {"generated": right, "held_out": right, "noise": noise}, captions, GENRES
        )
        assert figures["generated"]["retrieval_of_text"] == 1.0 and rows[0]["ok"]
        assert figures["generated"]["score"] == pytest.approx(1.0, abs=1e-4)
        assert figures["held_out, shuffled"]["retrieval_of_text"] < 0.5
        assert figures["noise"]["score"] < 0.5
        with pytest.raises(ValueError, match="one clip for each"):
            text_part(embedder, {"generated": right[:3]}, captions, GENRES)

    def test_few_captions_are_told_and_not_judged(self, embedder):
        clips = [embedder(tones(300)), embedder(tones(400))]
        figures, rows = text_part(embedder, {"generated": clips}, ["swing", "bossa"], ["a", "b"])
        assert np.isnan(figures["generated"]["retrieval_of_text"])
        assert rows[0]["ok"] is None and "not measured" in rows[0]["measured"]


class TestTags:
    def test_divergence(self):
        p, q = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
        assert kl_divergence(p, q) == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1))
        assert kl_divergence(p, p) == 0.0
        both = kl_divergence(np.array([[0.5]]), np.array([[0.9]]), exclusive=False)
        assert both == pytest.approx(kl_divergence(p, q))
        assert np.isfinite(kl_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])))

    def test_posteriors_are_distributions(self, embedder):
        tags = tag_posteriors(embedder, [embedder(tones(300)), embedder(tones(900))])
        assert tags["genre"].shape == (2, len(GENRES))
        for values in tags.values():
            np.testing.assert_allclose(values.sum(1), 1.0, atol=1e-5)

    def test_part(self, embedder):
        renders = [embedding(embedder.text([genre])) for genre in GENRES]
        figures, (row,) = tags_part(embedder, {"held_out": renders, "generated": renders})
        assert row["ok"] and figures["generated"]["genre"] == pytest.approx(0.0, abs=1e-6)
        assert figures["shuffled"]["genre"] > 0
        with pytest.raises(ValueError, match="held_out"):
            tags_part(embedder, {"generated": renders})


class TestDiversity:
    def test_seeds_that_play_the_same_fail(self):
        rng = np.random.default_rng(0)
        real = [embedding(rng.standard_normal((3, 16))) for _ in range(6)]
        same = [embedding(np.ones((3, 16))) for _ in range(4)]
        assert pairwise_distance(same) == pytest.approx(0.0, abs=1e-6)
        assert np.isnan(pairwise_distance(same[:1]))
        groups = group_by(real, list("aabbbc"))
        assert [len(group) for group in groups] == [2, 3]
        assert diversity_part([real[:3]], groups)[1][0]["ok"]
        figures, (row,) = diversity_part([same], groups)
        assert figures["ratio"] == pytest.approx(0.0, abs=1e-5) and row["ok"] is False
        assert diversity_part([same[:1]], [])[1][0]["ok"] is None

    def test_windows_hop(self, embedder):
        clip = tones(300, 3.2)
        features = hopping_features(embedder, clip, hop=0.5)
        assert len(features) == 3 + 2  # at 0, 1, 2 s and at 0.5, 1.5 s
        np.testing.assert_allclose(features[3], embedder(clip[:, RATE // 2 :]).features[0], atol=1e-5)
        assert len(hopping_features(embedder, clip[:, :RATE])) == 1

    def test_a_replayed_corpus_is_noticed(self, embedder):
        rng = np.random.default_rng(0)

        def tune(seconds: float = 4.0) -> np.ndarray:
            notes = [tones(hz, 0.25, int(hz)) for hz in rng.uniform(100, 3000, round(4 * seconds))]
            return np.concatenate(notes, axis=1)

        train = [tune() for _ in range(30)]
        index = TrainIndex(np.concatenate([embedder(clip).features for clip in train]), len(train))
        held_out, fresh = [tune() for _ in range(6)], [tune() for _ in range(6)]
        figures, (row,) = neighbours_part(index, embedder, {"generated": fresh, "held_out": held_out})
        assert row["ok"] and figures["training_windows"] == 120
        replayed = [clip[:, RATE // 2 :] for clip in train[:6]]  # begins between two windows of the index
        figures, (row,) = neighbours_part(index, embedder, {"generated": replayed, "held_out": held_out})
        assert row["ok"] is False and figures["nearer"] > 0.5
        with pytest.raises(ValueError, match="held_out"):
            neighbours_part(index, embedder, {"generated": fresh})

    def test_index_of_takes_is_kept_and_made_anew_for_another_tower(self, tmp_path, embedder, tiny_pipeline):
        takes = load_takes(write_takes(tmp_path, count=3, seconds=2.0), "train")
        cache = tmp_path / "index.safetensors"
        index = TrainIndex.from_takes(takes, embedder, cache=cache)
        assert index.takes == 2 and len(index.features) == 4
        kept = takes[0].path.rename(tmp_path / "away.flac")  # found in the cache: nothing is read
        np.testing.assert_array_equal(
            TrainIndex.from_takes(takes, embedder, cache=cache).features, index.features
        )
        kept.rename(takes[0].path)
        cache.write_bytes(b"broken")
        np.testing.assert_array_equal(
            TrainIndex.from_takes(takes, embedder, cache=cache).features, index.features
        )
        with torch.no_grad():
            bias = tiny_pipeline.style_encoder.audio_tower.final_norm.bias
            bias += 0.5
            try:
                other = TrainIndex.from_takes(takes, embedder, cache=cache)
            finally:
                bias -= 0.5
        np.testing.assert_allclose(other.features, index.features + 0.5, atol=1e-4)


class TestClap:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

        folder = tmp_path_factory.mktemp("clap") / "tiny-clap"
        text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
                "vocab_size": 64, "projection_dim": 16, "max_position_embeddings": 70}  # fmt: skip
        audio = {"hidden_size": 32, "depths": [1, 1], "num_attention_heads": [1, 2], "patch_embeds_hidden_size": 16,
                 "num_hidden_layers": 2, "num_mel_bins": 64, "spec_size": 256, "projection_dim": 16,
                 "window_size": 8}  # fmt: skip
        torch.manual_seed(0)
        ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(folder)
        ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
        words = {
            word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "swing", "bossa", "trio"])
        }
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
        ).save_pretrained(folder)
        return folder

    def test_embeds_clips_and_words(self, folder):
        embedder = ClapEmbedder(folder)
        assert embedder.name == "CLAP tiny-clap"
        found = embedder(tones(300, 3.0))
        assert found.unit.shape == (1, 16)
        np.testing.assert_allclose(np.linalg.norm(found.unit, axis=1), 1.0, atol=1e-4)
        np.testing.assert_array_equal(found.unit, embedder(tones(300, 3.0)).unit)
        texts = embedder.text(["swing trio", "bossa"])
        np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1.0, atol=1e-4)

    def test_another_model_is_refused(self, tiny_folder, tmp_path):
        with pytest.raises((OSError, ValueError)):
            ClapEmbedder(tiny_folder / "style_encoder")
        with pytest.raises(OSError):
            ClapEmbedder(tmp_path / "nothing")
