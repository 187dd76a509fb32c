"""What the style encoder's training is made of: facts, their loss, augmentation, batches, the space's alignment."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from rtjazz_hf.band import random_lead_sheet
from rtjazz_hf.corpus.dataset import TakeRecord
from rtjazz_hf.music import GENRES, INSTRUMENTS, MOODS, LeadSheet
from rtjazz_hf.style import RealTimeJazzStyleEncoder, RealTimeJazzStyleEncoderConfig, train_tokenizer
from rtjazz_hf.trainers.style import (
    StyleLearner,
    StyleTrainConfig,
    align_space,
    augment_log_mel,
    facts_loss,
    facts_of,
    instrument_shares,
    make_batch_function,
    mix_weights,
    tokenizer_texts,
)

BAND = len(INSTRUMENTS)


@pytest.fixture
def sheet() -> LeadSheet:
    """A sheet whose line-up changes."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        sheet = random_lead_sheet(rng)
        if len({section.instruments for section in sheet.sections}) > 1:
            return sheet
    raise AssertionError("no sheet of 200 changes its line-up")


@pytest.fixture(scope="module")
def encoder() -> RealTimeJazzStyleEncoder:
    torch.manual_seed(0)
    config = RealTimeJazzStyleEncoderConfig(
        vocab_size=400, text_hidden_size=32, text_num_layers=1, text_intermediate_size=64, num_mel_bins=24,
        audio_hidden_size=32, audio_num_layers=1, audio_intermediate_size=64, projection_dim=16,
    )  # fmt: skip
    return RealTimeJazzStyleEncoder(config).eval()


def settings(**values) -> StyleTrainConfig:
    return StyleTrainConfig(output_dir="unused", data="unused", **values)


def take(sheet: LeadSheet) -> TakeRecord:
    return TakeRecord(Path("unused/mix.flac"), sheet, "some jazz", ("some jazz",), {}, "none")


class TestFacts:
    def test_of_a_part_are_those_of_its_section(self, sheet):
        for section in sheet.sections:
            start, end = sheet.time_of(section.start_beat), sheet.time_of(section.end_beat)
            playing, leading = facts_of(sheet, start, end - start)[: 2 * BAND].reshape(2, BAND)
            named = {name for name, share in zip(INSTRUMENTS, playing, strict=True) if share > 1 - 1e-4}
            assert named == set(section.instruments)
            assert playing.sum() == pytest.approx(len(section.instruments), abs=1e-3)
            if section.lead is not None:
                assert leading[INSTRUMENTS.index(section.lead)] == pytest.approx(1, abs=1e-4)

    def test_over_a_change_are_shares_of_the_time(self, sheet):
        sections = zip(sheet.sections, sheet.sections[1:])
        one, two = next(pair for pair in sections if pair[0].instruments != pair[1].instruments)
        name = next(iter(set(one.instruments) ^ set(two.instruments)))
        beat = 60 / sheet.tempo
        facts = facts_of(sheet, sheet.time_of(one.end_beat) - 3 * beat, 4 * beat)
        expected = 0.75 if name in one.instruments else 0.25
        assert facts[INSTRUMENTS.index(name)] == pytest.approx(expected, abs=1e-4)

    def test_of_a_whole_take_name_everybody(self, sheet):
        facts = facts_of(sheet)
        assert [name for name, share in zip(INSTRUMENTS, facts) if share == 1] == [
            name for name in INSTRUMENTS if name in sheet.instruments
        ]
        one_hot = facts[2 * BAND : -1]
        assert one_hot[: len(GENRES)].argmax() == GENRES.index(sheet.genre)
        assert one_hot[len(GENRES) :].argmax() == MOODS.index(sheet.mood)
        assert one_hot.sum() == 2
        double = facts_of(sheet.with_tempo(sheet.tempo / 2))
        assert facts[-1] - double[-1] == pytest.approx(2, abs=1e-4)  # an octave is two deviations
        assert facts.shape == (60,)
        assert facts.dtype == np.float32

    def test_loss_falls_towards_the_truth(self, sheet):
        truth = torch.from_numpy(np.stack([facts_of(sheet), facts_of(sheet)]))
        sure = torch.cat([(truth[:, :-1] * 2 - 1) * 20, truth[:, -1:]], dim=1)
        assert facts_loss(sure, truth) < 1e-4
        assert facts_loss(sure / 20, truth) < facts_loss(torch.zeros_like(truth), truth)
        assert facts_loss(-sure, truth) > facts_loss(torch.zeros_like(truth), truth)


class TestAugmentation:
    def test_nothing_asked_is_nothing_done(self):
        log_mel = torch.randn(3, 50, 24)
        assert torch.equal(augment_log_mel(log_mel, 0.0, 0.0), log_mel)

    def test_masks_are_a_band_and_a_stretch(self):
        torch.manual_seed(0)
        silent = augment_log_mel(torch.zeros(64, 50, 24), 0.0, 1.0) < -7
        assert 0.05 < silent.float().mean() < 0.25
        assert (silent.all(dim=1).sum(dim=1) <= 4).all()  # an eighth of 24 bands, rounded up at both ends
        assert (silent.all(dim=2).sum(dim=1) <= 11).all()

    def test_tone_control_is_smooth_constant_in_time_and_repeatable(self):
        torch.manual_seed(1)
        curve = augment_log_mel(torch.zeros(200, 50, 24), 4.0, 0.0)
        assert torch.equal(curve, curve[:, :1].expand_as(curve))
        assert 0.2 < curve.std() < 0.5  # 4 dB are 0.4 of log10 power; less between the knobs
        assert curve.diff(dim=2).std() < 0.5 * curve.std()
        torch.manual_seed(1)
        assert torch.equal(augment_log_mel(torch.zeros(200, 50, 24), 4.0, 0.0), curve)


class TestBatches:
    def test_facts_are_those_of_the_crop(self, encoder, sheet):
        frames = round(sheet.duration * encoder.config.frame_rate)
        log_mels = [np.arange(frames, dtype=np.float32)[:, None].repeat(24, 1)] * 4  # a frame says when it is
        takes = [take(sheet)] * 4
        tokenizer = train_tokenizer(tokenizer_texts(takes, 0), 400)
        config = settings(batch_size=4, min_crop_seconds=1.0, crop_seconds=3.0)
        make_batch = make_batch_function(takes, tokenizer, config, encoder.config, log_mels)
        lengths = set()
        for seed in range(4):
            batch = make_batch(np.random.default_rng(seed))
            lengths.add(batch["log_mel"].shape[1])
            for clip, facts in zip(batch["log_mel"], batch["clip_facts"], strict=True):
                start, duration = float(clip[0, 0]) / 50, len(clip) / 50
                assert np.array_equal(facts.numpy(), facts_of(sheet, start, duration))
            assert np.array_equal(batch["take_facts"][0].numpy(), facts_of(sheet))
        assert len(lengths) > 1
        assert all(50 <= length <= 150 for length in lengths)


class TestLearner:
    def test_the_head_teaches_both_towers(self, encoder):
        learner = StyleLearner(encoder, settings(facts_weight=0.5)).train()
        facts = torch.from_numpy(
            np.stack([facts_of(random_lead_sheet(np.random.default_rng(seed))) for seed in range(3)])
        )
        batch = {
            "input_ids": torch.randint(4, 400, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long),
            "ignore_mask": torch.zeros(3, 3, dtype=torch.bool), "clip_facts": facts, "take_facts": facts,
            "audio_lengths": torch.full((3,), 60 * 960), "log_mel": torch.randn(3, 60, 24),
        }  # fmt: skip
        output = learner(**batch)
        assert torch.allclose(output["loss"], output["contrast"] + 0.5 * output["facts"])
        output["facts"].backward()
        assert all(p.grad is not None and p.grad.any() for p in learner.head.parameters())
        assert encoder.audio_tower.conv1.weight.grad.any()
        assert encoder.text_tower.token_embedding.weight.grad.any()
        encoder.zero_grad()

    def test_shares_of_instruments_heard_and_gone(self):
        plays = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], bool)
        says = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
        shares = instrument_shares(says, plays)  # the third instrument never plays: not judged
        assert shares["instruments_heard"] == pytest.approx((0.5 + 1.0) / 2)
        assert shares["instruments_gone"] == pytest.approx((1.0 + 2 / 3) / 2)
        assert instrument_shares(says[:, :0], plays[:, :0]) == {
            "instruments_heard": 0.0,
            "instruments_gone": 0.0,
        }


class TestAlignment:
    def test_a_turned_space_comes_back(self, encoder):
        torch.manual_seed(2)
        tokens, log_mel = torch.randint(4, 400, (40, 7)), torch.randn(30, 60, 24)
        with torch.no_grad():
            old = torch.cat([encoder.encode_text(tokens), encoder.encode_audio(log_mel=log_mel)])
            turn = torch.linalg.qr(torch.randn(16, 16))[0]
            for projection in (encoder.text_projection, encoder.audio_projection):
                projection.weight.copy_(turn @ projection.weight)
            new = torch.cat([encoder.encode_text(tokens), encoder.encode_audio(log_mel=log_mel)])
            assert (new - old).abs().max() > 0.1
            aligned = align_space(encoder, new, old)
            again = torch.cat([encoder.encode_text(tokens), encoder.encode_audio(log_mel=log_mel)])
        assert torch.allclose(aligned, old, atol=1e-5)
        assert torch.allclose(again, old, atol=1e-5)
        assert torch.allclose(again @ again.T, new @ new.T, atol=1e-5)


def test_weights_are_mixed_with_the_start(encoder):
    config, start = encoder.config, copy.deepcopy(encoder)
    torch.manual_seed(3)
    other = RealTimeJazzStyleEncoder(config)
    learnt = [weight.detach().clone() for weight in other.parameters()]
    mix_weights(other, start, 0.25)
    for new, mine, old in zip(other.parameters(), learnt, start.parameters(), strict=True):
        assert torch.allclose(new, 0.75 * mine + 0.25 * old, atol=1e-6)


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"min_crop_seconds": 9.0}, "min_crop_seconds"),
            ({"facts_weight": -1.0}, "facts_weight"),
            ({"equalizer_db": float("nan")}, "equalizer_db"),
            ({"mask_rate": 1.5}, "mask_rate"),
        ],
    )
    def test_bad_ones_are_named(self, values, named):
        with pytest.raises(ValueError, match=named):
            settings(**values)
