"""What the scripts that train a flow share: sources of parts, batches with cues, the loss, playing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_takes import write_takes
from tiny_models import MOVING, TINY_CODEC, TINY_FLOW, plucked_clip

from rtjazz_hf import (
    FlowMatchScheduler,
    RealTimeJazzCodec,
    RealTimeJazzCodecConfig,
    RealTimeJazzFlowTransformerConfig,
)
from rtjazz_hf.codec.cues import SemitoneCues
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import embed_takes, encode_takes
from rtjazz_hf.corpus.latent_store import LatentStore, flow_state
from rtjazz_hf.flow import FlowTransformerOutput
from rtjazz_hf.hub import load_style_encoder
from rtjazz_hf.music import LEAD_SHEET_DIM, LeadSheet, rotated_chords
from rtjazz_hf.music.score_features import SCORE_DIM, SCORE_SLICES, score_features, without_notes
from rtjazz_hf.trainers.config import load_config
from rtjazz_hf.trainers.dropping import draw_times, drop_conditions
from rtjazz_hf.trainers.flow import (
    FlowBatches,
    FlowTrainConfig,
    build_model,
    channel_weights,
    flow_groups,
    flow_loss,
    noisy_blocks,
    own_context,
    play_takes,
)

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    return load_takes(write_takes(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="module")
def cues(takes) -> SemitoneCues:
    cues = SemitoneCues(6)
    cues.fit([torch.from_numpy(take.audio())[None] for take in takes])
    return cues


def make_store(pipe, takes, folder, **options) -> LatentStore:
    encode_takes(pipe.codec, takes, folder, codes=True, progress=False, **options)
    return LatentStore(embed_takes(pipe.style_encoder, pipe.tokenizer, takes, folder, progress=False))


@pytest.fixture(scope="module")
def plain(tiny_pipeline, takes, tmp_path_factory) -> LatentStore:
    return make_store(tiny_pipeline, takes, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def cued(tiny_pipeline, takes, cues, tmp_path_factory) -> LatentStore:
    return make_store(tiny_pipeline, takes, tmp_path_factory.mktemp("cued"), cues=cues)


def settings(prediction: str = "velocity", **values) -> FlowTrainConfig:
    sizes = {key: value for key, value in TINY_FLOW.items() if key != "codebook_size"}
    model = {**sizes, "patch_size": 3, "prediction_type": prediction}
    return FlowTrainConfig(output_dir="out", data="data", codec="codec", model=model, batch_size=2,
                           crop_frames=72, **values)  # fmt: skip


class TestSources:
    def test_style_encoder_with_its_tokenizer_in_it_or_beside_it(self, tiny_pipeline, tiny_folder, tmp_path):
        shutil.copytree(tiny_folder / "style_encoder", tmp_path / "style")
        with pytest.raises(OSError, match=r"no tokenizer\.json"):
            load_style_encoder(tmp_path / "style")
        tiny_pipeline.tokenizer.save_pretrained(tmp_path / "style")
        words = ["slow ballad, muted trumpet"]
        expected = tiny_pipeline.tokenizer(words)["input_ids"]
        for source in (tiny_folder, tiny_folder / "style_encoder", tmp_path / "style"):
            encoder, tokenizer = load_style_encoder(source)
            assert not encoder.training
            assert tokenizer(words)["input_ids"] == expected


def many(store, config, count=60, **options) -> list[dict]:
    batches = FlowBatches(store, config, (6, 12, 24, 36, 48), **options)
    return [batches(np.random.default_rng([7, index])) for index in range(count)]


class TestBatches:
    def test_blocks_of_every_size_with_context_of_every_length(self, plain):
        config = settings(full_attention_rate=0.25)
        config.crop_frames = 144
        drawn = many(plain, config, 200)
        sizes = [int(batch["block_frames"]) for batch in drawn]
        assert set(sizes) == {0, 6, 12, 24, 36, 48}
        assert sizes.count(0) / 200 == pytest.approx(0.25, abs=0.1)
        windows = {size: [] for size in sizes}
        for batch, size in zip(drawn, sizes):
            windows[size] += batch["window_frames"].tolist()
        for size in (6, 12, 24, 36, 48):
            assert all(window % size == 0 and 0 <= window <= 300 for window in windows[size])
            assert 0 in windows[size] and max(windows[size]) > 200

    def test_longest_window(self, plain):
        own = {"window_frames": 150}
        for options, values, longest in ((own, {}, 150), (own, {"window_frames": 720}, 720),
                                         ({}, {"window_frames": 0}, 0)):  # fmt: skip
            windows = [batch["window_frames"].max() for batch in many(plain, settings(**values), **options)]
            assert 0.8 * longest <= max(windows) <= longest

    def test_the_crops_of_the_configs_divide(self):
        for name in ("mini", "base"):
            config = load_config(FlowTrainConfig, CONFIGS / f"flow_{name}.yaml",
                                 {"output_dir": "a", "data": "b", "codec": "c"})  # fmt: skip
            assert all(
                config.crop_frames % size == 0 for size in RealTimeJazzFlowTransformerConfig().block_sizes
            )
            assert config.own_context_rate == 0.5

    def test_own_context_changes_nothing_else(self, plain):
        without, some = many(plain, settings(), 40), many(plain, settings(own_context_rate=0.5), 40)
        for one, other in zip(without, some):
            assert set(other) - set(one) == {"own_context"}
            assert all(torch.equal(one[name], other[name]) for name in one)
        asked = [bool(batch["own_context"]) for batch in some]
        assert 10 < sum(asked) < 30

    @pytest.mark.parametrize("values", [{"own_context_rate": 1.1}, {"context_noise": -0.1}, {"context_drift": -1.0},
                                        {"deviation_weight": -1.0}, {"window_frames": -1}])  # fmt: skip
    def test_settings_out_of_range(self, values):
        with pytest.raises(ValueError, match=next(iter(values))):
            settings(**values)


class TestLoss:
    @pytest.fixture
    def model(self, tiny_pipeline):
        return tiny_pipeline.transformer

    @pytest.fixture
    def batch(self, plain):
        batches = FlowBatches(plain, settings(), (36,))
        batch = batches(np.random.default_rng(0))
        return {**batch, "block_frames": torch.tensor(36), "window_frames": torch.tensor([36, 36])}

    @staticmethod
    def loss(model, batch, denoiser=None, **values) -> torch.Tensor:
        torch.manual_seed(0)
        config = settings(**{"style_dropout": 0.0, "lead_sheet_dropout": 0.0, "chord_dropout": 0.0, **values})
        return flow_loss(model, batch, config, channel_weights(model), denoiser=denoiser)

    @pytest.mark.parametrize("dropped, changed", [
        ("style_dropout", lambda batch: {"style": -batch["style"]}),
        ("chord_dropout", lambda batch: {"lead_sheet": rotated_chords(batch["lead_sheet"], 5)}),
        ("lead_sheet_dropout", lambda batch: {"lead_sheet": batch["lead_sheet"].flip(1)}),
    ])  # fmt: skip
    def test_conditions_are_heard_unless_dropped(self, model, batch, dropped, changed):
        other = batch | changed(batch)
        assert self.loss(model, batch) != self.loss(model, other)
        assert self.loss(model, batch, **{dropped: 1.0}) == self.loss(model, other, **{dropped: 1.0})

    def test_dropped_chords_leave_the_beat(self, model, batch):
        other = batch | {"lead_sheet": batch["lead_sheet"].flip(1)}
        assert self.loss(model, batch, chord_dropout=1.0) != self.loss(model, other, chord_dropout=1.0)

    def test_context_is_heard_within_the_window(self, model, batch):
        losses = []
        for noise in (0.0, 0.5):
            for window in (0, 36):
                rows = batch | {"window_frames": torch.tensor([window, window])}
                losses.append(self.loss(model, rows, context_noise=noise))
        assert losses[0] == losses[2]  # no context, so its noise changes nothing
        assert len({loss.item() for loss in losses}) == 3

    def test_bfloat16_is_close(self, model, batch):
        for size in (0, 36):
            batch["block_frames"] = torch.tensor(size)
            whole = self.loss(model, batch)
            with torch.autocast("cpu", torch.bfloat16):
                half = self.loss(model, batch)
            assert half.dtype == torch.float32 and half.item() == pytest.approx(whole.item(), rel=0.02)

    def test_own_context_is_heard_and_learnt_from_without_its_making(self, model, batch):
        own, other = batch | {"own_context": torch.tensor(True)}, batch | {"own_context": torch.tensor(False)}
        assert self.loss(model, other, own_context_rate=0.5) == self.loss(model, batch)
        assert self.loss(model, own) != self.loss(model, batch)
        calls = []

        def denoiser(*inputs, **named):
            calls.append(torch.is_grad_enabled())
            return model(*inputs, **named)

        grads = []
        for one in (None, denoiser):
            model.zero_grad()
            loss = self.loss(model, own, one, context_drift=0.2)
            loss.backward()
            grads.append(
                [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
            )
        model.zero_grad()
        assert calls == [False]
        assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))

    def test_full_attention_and_validation_have_none(self, model, batch):
        def denoiser(*inputs, **named):
            raise AssertionError("no context is to be made")

        own = batch | {"own_context": torch.tensor(True)}
        self.loss(model, own | {"block_frames": torch.tensor(0)}, denoiser)
        flow_loss(model, own, settings(), channel_weights(model), train=False, denoiser=denoiser)


class TestOwnContext:
    @pytest.mark.parametrize("prediction", ["velocity", "codebook"])
    def test_is_one_step_of_the_model_in_some_blocks(self, tiny_pipeline, cued, prediction):
        config = settings(prediction)
        model = build_model(config, tiny_pipeline.codec, cued[0]).eval()
        batch = FlowBatches(cued, config, (12,), score_dim=model.config.score_dim)(np.random.default_rng(0))
        batch |= {"block_frames": torch.tensor(12), "window_frames": torch.tensor([24, 72])}
        clean, made = flow_state(batch), []

        def denoiser(sample, timestep, **named):
            assert timestep.min() >= 0.2 and timestep.max() <= 1
            assert torch.equal(named["style"], batch["style"]) and torch.equal(named["context"], clean)
            out = model(sample, timestep, **named)
            made.append(sample + (1 - timestep.repeat_interleave(12, 1)[:, None]) * out.sample)
            return out

        torch.manual_seed(1)
        context = own_context(denoiser, batch, clean)
        blocks = [states.unflatten(-1, (6, 12)) for states in (context, clean, made[0])]
        true, own = ((blocks[0] == other).all(dim=(1, 3)) for other in blocks[1:])
        assert torch.equal(own, ~true) and own.any() and true.any()

    def test_of_a_model_that_knows_all_is_the_truth(self, plain):
        batch = FlowBatches(plain, settings(), (12,))(np.random.default_rng(0))
        batch["block_frames"] = torch.tensor(12)
        clean = flow_state(batch)

        def denoiser(sample, timestep, **named):
            left = 1 - timestep.repeat_interleave(12, 1)[:, None]
            return FlowTransformerOutput(sample=(clean - sample) / left)

        assert torch.allclose(own_context(denoiser, batch, clean), clean, atol=1e-3)
        drifted = own_context(denoiser, batch, clean, max_drift=0.5) - clean
        assert drifted.abs().mean() > 0.05


def test_noisy_blocks_are_the_schedulers():
    clean, noise = torch.randn(2, 3, 24), torch.randn(2, 3, 24)
    timestep = torch.rand(2, 4)
    noisy = noisy_blocks(clean, noise, timestep)
    for row in range(2):
        for block in range(4):
            here = slice(6 * block, 6 * block + 6)
            expected = FlowMatchScheduler().scale_noise(
                clean[row, :, here], timestep[row, block], noise[row, :, here]
            )
            assert torch.allclose(noisy[row, :, here], expected)


class TestCues:
    def test_are_kept_in_the_store(self, plain, cued, takes, cues):
        for one, other, take in zip(plain, cued, takes, strict=True):
            assert torch.equal(one.latents, other.latents)
            expected = cues(torch.from_numpy(take.audio())[None])[0].T.half()
            assert torch.equal(other.cues, expected) and len(expected) == other.num_frames
            crop = other.crop(10, 30)
            assert flow_state(crop).shape == (64 + 6, 30)
            assert torch.equal(flow_state(crop)[64:], expected[10:40].T.float())
            assert torch.equal(flow_state(one.crop(10, 30)), crop["latents"])

    def test_other_cues_are_refused(self, tiny_pipeline, takes, cued):
        for other in (None, SemitoneCues(6)):
            with pytest.raises(ValueError, match=r"made otherwise \(cues"):
                encode_takes(tiny_pipeline.codec, takes, cued.folder, True, False, cues=other)

    @pytest.mark.parametrize("prediction", ["velocity", "codebook"])
    def test_are_learnt_beside_the_latents(self, tiny_pipeline, cued, prediction):
        config = settings(prediction, cue_weight=2.0)
        model = build_model(config, tiny_pipeline.codec, cued[0])
        assert (model.config.latent_dim, model.config.cue_channels) == (64, 6)
        weights = channel_weights(model)
        assert torch.equal(weights[64:], torch.full((6,), 2.0))
        assert weights[:64].mean().item() == pytest.approx(1.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        batches = FlowBatches(cued, config, model.config.block_sizes, score_dim=model.config.score_dim)
        losses = []
        for _ in range(8):  # one batch, one noise: the loss must fall
            torch.manual_seed(0)
            loss = flow_loss(model, batches(np.random.default_rng(0)), config, weights)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        rows = model.head.proj.weight.view(3, -1, model.config.hidden_size)  # (patch, outputs, hidden)
        assert rows[:, -6:].abs().sum() > 0  # the cues' outputs started at zero

    def test_played_clips_are_sound_without_cues(self, tiny_pipeline, cued):
        model = build_model(settings(), tiny_pipeline.codec, cued[0]).eval()
        clips = play_takes(model, tiny_pipeline.codec, cued.takes[:2], seconds=1.0, steps=1)
        assert [clip.shape for clip in clips] == [(2, 48_000)] * 2
        alone = play_takes(model, tiny_pipeline.codec, cued.takes[:1], seconds=1.0, steps=1)[0]
        assert np.abs(alone - clips[0]).max() < 1e-4


def test_codecs_that_are_not_normalised_are_refused(tiny_pipeline, plain):
    config = tiny_pipeline.codec.config
    mean, std = config.latents_mean, config.latents_std
    try:
        config.latents_mean = config.latents_std = None
        with pytest.raises(ValueError, match="does not normalise"):
            build_model(settings(), tiny_pipeline.codec, plain[0])
    finally:
        config.latents_mean, config.latents_std = mean, std


def test_a_flow_is_refitted_to_the_latents_of_another_codec(tiny_pipeline, tiny_folder, plain):
    start = build_model(settings(init_from=str(tiny_folder / "transformer")), tiny_pipeline.codec, plain[0])
    assert torch.equal(start.input_proj.weight, tiny_pipeline.transformer.input_proj.weight)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**{**TINY_CODEC, "latent_dim": 16}))
    codec.fit_start([plucked_clip()])
    other = build_model(settings(init_from=str(tiny_folder / "transformer")), codec, plain[0])
    assert other.config.num_channels == 16 and len(other.config.channel_weights) == 16
    assert other.input_proj.weight.shape[1] == 16 * other.config.patch_size
    for mine, theirs in zip(other.layers.parameters(), tiny_pipeline.transformer.layers.parameters()):
        assert torch.equal(mine, theirs)


def test_a_flow_grows_by_the_channels_of_deviations(tiny_pipeline, tiny_folder, plain):
    old = tiny_pipeline.transformer
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**{**TINY_CODEC, **MOVING, "latent_dim": 64 + 24}))
    codec.fit_start([plucked_clip()])
    old_weights = str(tiny_folder / "transformer")
    grown = build_model(settings(init_from=old_weights), codec, plain[0]).eval()
    known, more = old.config.latent_dim, codec.config.num_deviations
    assert grown.config.num_channels == known + more == len(grown.config.channel_weights)
    mine = grown.config.channel_weights  # only their ratios matter
    asked = settings(init_from=old_weights, deviation_weight=3.0)
    heavier = build_model(asked, codec, plain[0]).config.channel_weights
    assert heavier[known] / heavier[0] == pytest.approx(3 * mine[known] / mine[0])
    assert heavier[1] / heavier[0] == pytest.approx(mine[1] / mine[0])
    conditions = {"style": torch.randn(1, old.config.style_dim), "block_frames": 12}
    conditions["context"] = torch.randn(1, known, 24)
    sample, time = torch.randn(1, known, 24), torch.full((1, 2), 0.3)
    wanted = old(sample, time, **conditions).sample
    conditions["context"] = torch.cat([conditions["context"], torch.randn(1, more, 24)], 1)
    played = grown(torch.cat([sample, torch.randn(1, more, 24)], 1), time, **conditions).sample
    torch.testing.assert_close(played[:, :known], wanted, atol=1e-5, rtol=0)
    assert not played[:, known:].any()


class TestNotes:
    """Conditions of a flow that is told notes, as training tells them."""

    @pytest.fixture(scope="class")
    def told(self):
        rng = np.random.default_rng(0)
        notes = np.stack([rng.uniform(0, 1, 40), np.full(40, 0.2), rng.integers(40, 80, 40), np.full(40, 90),
                          rng.integers(0, 4, 40), np.zeros(40)], axis=1)  # fmt: skip
        sheet = LeadSheet.from_chart("Dm7 | G7").features(0, 72)
        score = score_features(notes, np.zeros((0, 4)), 0, 72, 75)
        return torch.from_numpy(np.concatenate([sheet, score], axis=1))[None].repeat(200, 1, 1)

    @staticmethod
    def flags(sheet) -> torch.Tensor:
        """Which roles each row is told of."""
        part = SCORE_SLICES["told"]
        return sheet[:, 0, LEAD_SHEET_DIM + part.start : LEAD_SHEET_DIM + part.stop] > 0

    def test_some_rows_are_told_nothing_some_a_few_roles_most_all(self, told):
        torch.manual_seed(0)
        config = settings(chord_dropout=0.0, lead_sheet_dropout=0.0, notes_dropout=0.3, roles_dropout=0.3)
        dropped = drop_conditions(told, config)
        count = self.flags(dropped).sum(1)
        assert 40 < (count == 0).sum() < 85 and (count == 5).sum() > 60 and ((count > 0) & (count < 5)).sum() > 30
        assert torch.equal(dropped[..., :LEAD_SHEET_DIM], told[..., :LEAD_SHEET_DIM])
        whole = count == 5
        assert torch.equal(dropped[whole], told[whole])

    def test_rows_without_chords_mostly_lose_their_notes(self, told):
        torch.manual_seed(0)
        config = settings(chord_dropout=1.0, lead_sheet_dropout=0.0, notes_dropout=0.0, roles_dropout=0.0)
        count = self.flags(drop_conditions(told, config)).sum(1)
        assert 110 < (count == 0).sum() < 170 and set(count.tolist()) == {0, 5}

    def test_times_nearer_to_noise(self):
        torch.manual_seed(0)
        plain = draw_times((4000, 1), settings())
        torch.manual_seed(0)
        noisy = draw_times((4000, 1), settings(noisy_rate=0.5, noisy_mean=-2.0))
        assert noisy.median() < plain.median() and (noisy < 0.2).float().mean() > 0.3
        assert noisy.min() >= 0 and noisy.max() < 1

    def test_the_layers_that_read_notes_have_a_rate_of_their_own(self, tiny_pipeline, plain):
        config = settings(score_learning_rate=4e-3)
        model = build_model(config, tiny_pipeline.codec, plain[0])
        groups = flow_groups(model, config)
        ears = {id(parameter) for parameter in model.score_embedding.parameters()}
        assert {id(parameter) for parameter in groups[-1]["params"]} == ears and groups[-1]["lr"] == 4e-3
        every = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(every) == sorted(id(parameter) for parameter in model.parameters())
        assert len(flow_groups(build_model(settings(score=False), tiny_pipeline.codec, plain[0]), config)) == 2

    def test_a_store_without_scores_tells_the_metre_alone(self, plain):
        batch = FlowBatches(plain, settings(), (36,), score_dim=SCORE_DIM)(np.random.default_rng(0))
        assert batch["lead_sheet"].shape[-1] == LEAD_SHEET_DIM + SCORE_DIM
        score = batch["lead_sheet"][..., LEAD_SHEET_DIM:]
        assert torch.equal(score, without_notes(score)) and score.any()

    @pytest.mark.parametrize("values", [{"notes_dropout": 0.7, "roles_dropout": 0.5}, {"noisy_rate": 1.5}])
    def test_settings_out_of_range(self, values):
        with pytest.raises(ValueError, match=next(iter(values))):
            settings(**values)
