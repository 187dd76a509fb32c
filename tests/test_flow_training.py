"""What the scripts that train a flow share: sources of parts, batches with cues, the loss, playing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from synthetic_takes import write_takes
from tiny_models import TINY_CODEC, TINY_FLOW, plucked_clip

from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.codec.cues import SemitoneCues
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_store import LatentStore, embed_takes, encode_takes
from rtjazz_hf.flow_training import (
    FlowBatches,
    FlowTrainConfig,
    build_model,
    channel_weights,
    flow_loss,
    flow_state,
    load_style_encoder,
    play_takes,
)


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
        batches, losses = FlowBatches(cued, config, model.config.block_sizes), []
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
