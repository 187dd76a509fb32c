"""Residual vector quantiser: codes, their vectors and what training does to them."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from rtjazz_hf.codec.kmeans import kmeans, nearest
from rtjazz_hf.codec.quantizer import ResidualVectorQuantizer
from rtjazz_hf.codec.vector_quantizer import VectorQuantizer, codebook_statistics

DIM, SIZE, LEVELS = 8, 16, 3
TINY = {"latent_dim": DIM, "codebook_size": SIZE, "num_codebooks": LEVELS}
VARIANTS = [{}, {"codebook_dim": 4}, {"update": "gradient"}, {"update": "gradient", "codebook_dim": 4}]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int = 2000, seed: int = 0) -> torch.Tensor:
    """Vectors (n, DIM) around 40 centres, off zero."""
    g = generator(seed)
    centres = torch.randn(40, DIM, generator=generator(99))
    return centres[torch.randint(40, (n,), generator=g)] + 0.3 * torch.randn(n, DIM, generator=g) + 0.5


def fitted(**kwargs) -> ResidualVectorQuantizer:
    quantizer = ResidualVectorQuantizer(**TINY, **kwargs).eval()
    quantizer.fit(data(), generator=generator())
    return quantizer


def smooth(clips: int = 12, frames: int = 200, seed: int = 0, correlation: float = 0.95) -> torch.Tensor:
    """First-order autoregressive sequences of unit variance, off zero: (clips, frames, DIM)."""
    noise = torch.randn(frames, clips, DIM, generator=generator(seed)) * (1 - correlation**2) ** 0.5
    x, rows = torch.randn(clips, DIM, generator=generator(seed + 1000)), []
    for step in noise:
        x = correlation * x + step
        rows.append(x)
    return torch.stack(rows, dim=1) + 0.5


def predictive(prediction_levels: int = 2, **kwargs) -> ResidualVectorQuantizer:
    quantizer = ResidualVectorQuantizer(**TINY, prediction_levels=prediction_levels, **kwargs).eval()
    quantizer.fit(smooth(), iterations=6, generator=generator())
    return quantizer


def as_latents(vectors: torch.Tensor, batch: int = 2) -> torch.Tensor:
    return vectors.view(batch, -1, DIM).transpose(1, 2).contiguous()


class TestCodes:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_decoded_latents_are_the_sum_of_codebook_vectors(self, variant):
        quantizer = fitted(**variant)
        codes = quantizer.encode(as_latents(data(40, seed=1)))
        assert codes.shape == (2, LEVELS, 20) and codes.dtype == torch.int64
        vectors, offset = quantizer.codebook_vectors()
        assert vectors.shape == (LEVELS, SIZE, DIM)
        for levels in range(1, LEVELS + 1):
            expected = offset + sum(vectors[k][codes[:, k]] for k in range(levels))
            assert torch.allclose(quantizer.decode(codes[:, :levels]), expected.transpose(1, 2), atol=1e-5)

    def test_codes_are_the_nearest_entries_of_the_residual(self):
        quantizer = fitted()
        x = data(50, seed=1)
        codes = quantizer.encode(as_latents(x, batch=1))[0]
        vectors, offset = quantizer.codebook_vectors()
        residual = x - offset
        for k in range(LEVELS):
            assert torch.equal(codes[k], torch.cdist(residual, vectors[k]).argmin(dim=1))
            residual = residual - vectors[k][codes[k]]

    def test_fewer_levels_are_a_prefix(self):
        quantizer = fitted()
        latents = as_latents(data(40, seed=1))
        assert torch.equal(quantizer.encode(latents, 2), quantizer.encode(latents)[:, :2])

    def test_each_level_lowers_the_error(self):
        quantizer = fitted()
        latents = as_latents(data(400, seed=1))
        codes = quantizer.encode(latents)
        errors = [(quantizer.decode(codes[:, :k]) - latents).square().mean().item() for k in (1, 2, 3)]
        assert errors[0] > errors[1] > errors[2]

    @pytest.mark.parametrize("variant", VARIANTS[:2])
    def test_more_beams_lower_the_error(self, variant):
        quantizer = fitted(**variant)
        latents = as_latents(data(400, seed=1))
        errors = [
            (quantizer.decode(quantizer.encode(latents, num_beams=beams)) - latents).square().mean().item()
            for beams in (1, 4, SIZE**2)
        ]
        assert errors[0] > errors[1] >= errors[2]

    @pytest.mark.parametrize("num_beams", [1, 4])
    def test_split_equals_whole(self, num_beams):
        quantizer = fitted()
        latents = as_latents(data(40, seed=1))
        parts = [quantizer.encode(part, num_beams=num_beams) for part in latents.split([1, 12, 0, 7], dim=2)]
        assert torch.equal(torch.cat(parts, dim=2), quantizer.encode(latents, num_beams=num_beams))

    def test_half_precision_weights_decode_in_half_precision(self):
        quantizer = fitted().to(torch.bfloat16)
        latents = as_latents(data(40, seed=1)).to(torch.bfloat16)
        decoded = quantizer.decode(quantizer.encode(latents))
        assert decoded.dtype == torch.bfloat16
        assert (decoded - latents).float().square().mean() < 0.2


class TestFit:
    def test_reports_the_share_left_over_and_starts_all_levels(self):
        quantizer = ResidualVectorQuantizer(**TINY)
        assert not quantizer.is_initialized
        left_over = quantizer.fit(data(), generator=generator())
        assert quantizer.is_initialized
        assert 1 > left_over[0] > left_over[1] > left_over[2] > 0

    def test_same_generator_same_codebooks(self):
        first, second = fitted().state_dict(), fitted().state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    @pytest.mark.parametrize("variant", VARIANTS[:2])
    def test_weights_move_the_error_to_other_channels(self, variant):
        weights = torch.ones(DIM)
        weights[0] = 30.0
        x = data(1000, seed=1)
        latents = as_latents(x, batch=1)
        plain, weighted = fitted(**variant), fitted(**variant)
        weighted.fit(data(), weights=weights, generator=generator())
        error = [(q.decode(q.encode(latents)) - latents).square().mean(dim=(0, 2)) for q in (plain, weighted)]
        assert error[1][0] < 0.5 * error[0][0]
        assert error[1][1:].mean() > error[0][1:].mean()

    def test_fewer_vectors_than_entries_leave_work_to_every_level(self):
        quantizer = ResidualVectorQuantizer(**TINY).eval()
        quantizer.fit(data(12), generator=generator())
        held_out = as_latents(data(400, seed=1))
        output = quantizer(held_out)
        assert output.usage.min() > 0.5
        assert (output.quantized - held_out).square().mean() < 0.7 * held_out.var()

    def test_many_entries_start_from_one_small_batch_and_come_into_use(self):
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(DIM, codebook_size=256, num_codebooks=2, decay=0.95)
        for step in range(200):
            quantizer(as_latents(data(128, seed=step)), generator=generator(step))
        assert quantizer.eval()(as_latents(data(8000, seed=999))).usage.min() > 0.95

    def test_bad_input_is_named(self):
        quantizer = ResidualVectorQuantizer(**TINY)
        with pytest.raises(ValueError, match=r"at least 2 vectors, 8.*\(10, 7\)"):
            quantizer.fit(torch.zeros(10, 7))
        with pytest.raises(ValueError, match="finite"):
            quantizer.fit(torch.full((10, DIM), float("nan")))
        with pytest.raises(ValueError, match="8 positive numbers"):
            quantizer.fit(data(), weights=torch.zeros(DIM))
        with pytest.raises(ValueError, match="fitted already"):
            fitted().set_channel_weights(torch.ones(DIM))


class TestPrediction:
    @pytest.mark.parametrize("num_codebooks", [1, 2, 3])
    @pytest.mark.parametrize("variant", [{}, {"codebook_dim": (8, 8, 4)}, {"codebook_dim": 4}])
    def test_any_split_equals_whole(self, num_codebooks, variant):
        quantizer = predictive(**variant)
        latents = smooth(2, 40, seed=1).transpose(1, 2)
        whole = quantizer.encode(latents, num_codebooks)
        for split in ([1, 12, 0, 27], [1] * 40):
            state, codes = None, []
            for part in latents.split(split, dim=2):
                part, state = quantizer.encode(part, num_codebooks, state=state, return_state=True)
                codes.append(part)
            assert torch.equal(torch.cat(codes, dim=2), whole)
            state, decoded = None, []
            for part in whole.split(split, dim=2):
                part, state = quantizer.decode(part, state, return_state=True)
                decoded.append(part)
            # a product of another size may round otherwise, as it does where a CPU has AMX
            torch.testing.assert_close(torch.cat(decoded, dim=2), quantizer.decode(whole), rtol=1e-6, atol=1e-6)

    def test_the_encoder_knows_what_the_decoder_has(self):
        quantizer = predictive()
        latents = smooth(2, 40, seed=1).transpose(1, 2)
        codes, ours = quantizer.encode(latents, return_state=True)
        _, theirs = quantizer.decode(codes, return_state=True)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    def test_codes_of_more_levels_begin_with_those_of_the_loop(self):
        quantizer = predictive()
        latents = smooth(2, 40, seed=1).transpose(1, 2)
        assert torch.equal(quantizer.encode(latents, 3)[:, :2], quantizer.encode(latents, 2))
        assert not torch.equal(quantizer.encode(latents, 2)[:, :1], quantizer.encode(latents, 1))

    def test_decoding_is_the_recursion(self):
        quantizer = predictive()
        codes = quantizer.encode(smooth(1, 20, seed=1).transpose(1, 2))[0]
        vectors, offset = quantizer.codebook_vectors()
        base, expected = quantizer.start / quantizer.channel_scale, []
        for first, second, third in codes.T:
            base = quantizer.prediction * base + vectors[0][first] + vectors[1][second]
            expected.append(base + vectors[2][third] + offset)
        torch.testing.assert_close(
            quantizer.decode(codes[None])[0].T, torch.stack(expected), atol=1e-5, rtol=1e-5
        )

    def test_gains_over_coding_each_frame_by_itself(self):
        plain = ResidualVectorQuantizer(**TINY).eval()
        left = plain.fit(smooth(), generator=generator())
        quantizer = ResidualVectorQuantizer(**TINY, prediction_levels=LEVELS).eval()
        predicted = quantizer.fit(smooth(), generator=generator())
        assert predicted[0] > predicted[1] > predicted[2] and predicted[2] < 0.7 * left[2]
        latents = smooth(seed=5).transpose(1, 2)
        for levels in range(1, LEVELS + 1):
            error = [
                (q.decode(q.encode(latents, levels)) - latents).square().mean() for q in (plain, quantizer)
            ]
            assert error[1] < 0.9 * error[0]

    def test_many_iterations_do_not_spoil_the_codebooks(self):
        few, many = (
            ResidualVectorQuantizer(**TINY, prediction_levels=LEVELS).fit(smooth(), n, generator=generator())[
                -1
            ]
            for n in (3, 30)
        )
        assert many < 1.05 * few

    def test_a_stream_entered_in_the_middle_recovers(self):
        quantizer = predictive()
        codes = quantizer.encode(smooth(2, 200, seed=1).transpose(1, 2))
        late = quantizer.decode(codes[..., 50:])
        error = (late - quantizer.decode(codes)[..., 50:]).abs().amax(dim=(0, 1))
        assert error[-1] < 0.01 * error[0]

    def test_start(self):
        start = torch.full((DIM,), 9.0)
        quantizer = ResidualVectorQuantizer(**TINY, prediction_levels=LEVELS).eval()
        quantizer.fit(smooth(), start=start, iterations=2, generator=generator())
        first = quantizer.prediction * quantizer.start / quantizer.channel_scale + quantizer.offset
        torch.testing.assert_close(first, start)

    def test_sequences_of_unequal_length(self):
        quantizer = ResidualVectorQuantizer(**TINY, prediction_levels=2)
        left = quantizer.fit([x[: 50 + 10 * i] for i, x in enumerate(smooth())], 4, generator=generator())
        assert 1 > left[0] > left[1] > left[2] > 0

    def test_gradient_goes_straight_through(self):
        quantizer = predictive(codebook_dim=4)
        latents = smooth(2, 20, seed=1).transpose(1, 2).contiguous().requires_grad_()
        output = quantizer(latents)
        assert torch.equal(output.codes, quantizer.encode(latents))
        torch.testing.assert_close(output.quantized, quantizer.decode(output.codes), atol=1e-5, rtol=1e-5)
        weight = torch.randn_like(latents)
        (gradient,) = torch.autograd.grad((output.quantized * weight).sum(), latents, retain_graph=True)
        assert torch.equal(gradient, weight)
        output.loss.backward()
        assert latents.grad.abs().sum() > 0
        assert all(p.grad.abs().sum() > 0 for p in quantizer.parameters())

    @pytest.mark.parametrize("update", ["ema", "gradient"])
    def test_training_starts_and_follows(self, update):
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(**TINY, update=update, decay=0.9, prediction_levels=2)
        parameters = list(quantizer.parameters())
        optimizer = torch.optim.Adam(parameters, lr=0.02) if parameters else None
        for step in range(60):
            output = quantizer(smooth(4, 60, seed=step).transpose(1, 2), generator=generator(step))
            if optimizer is not None:
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
        assert quantizer.is_initialized and 0.85 < quantizer.prediction.mean() <= 0.95
        quantizer.eval()
        latents = smooth(seed=999).transpose(1, 2)
        assert (quantizer.decode(quantizer.encode(latents)) - latents).square().mean() < 0.3
        assert quantizer(latents).usage.min() > 0.9

    def test_dropout_runs_the_loop_of_fewer_levels(self):
        quantizer = predictive(quantizer_dropout=0.6, unquantized_rate=0.2).train()
        for layer in quantizer.layers:
            layer.decay = 1.0  # entries stay
        latents = smooth(64, 20, seed=1).transpose(1, 2)
        output = quantizer(latents, generator=generator())
        assert set(output.num_codebooks_used.tolist()) == {0, 1, 2, 3}
        for row, levels in enumerate(output.num_codebooks_used.tolist()):
            expected = latents[row]
            if levels:
                expected = quantizer.decode(quantizer.encode(latents[row : row + 1], levels))[0]
            torch.testing.assert_close(output.quantized[row], expected, atol=1e-4, rtol=1e-4)

    def test_bad_input_is_named(self):
        quantizer = predictive()
        with pytest.raises(ValueError, match=r"order of frames counts.*\(100, 8\)"):
            quantizer.fit(data(100))
        with pytest.raises(ValueError, match=r"\(2, 8\), got \(1, 8\)"):
            quantizer.decode(torch.zeros(2, 1, 5, dtype=torch.long), torch.zeros(1, DIM))


class TestTraining:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_codebooks_follow_data_that_moves(self, variant):
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(**TINY, decay=0.8, **variant)
        parameters = list(quantizer.parameters())
        optimizer = torch.optim.Adam(parameters, lr=0.02) if parameters else None
        held_out = data(1000, seed=7)

        def error(shift: float) -> float:
            latents = as_latents(held_out + shift)
            return (quantizer.decode(quantizer.encode(latents)) - latents).square().mean().item()

        for step in range(100):
            latents = as_latents(data(400, seed=step) + 0.01 * step)
            output = quantizer(latents, generator=generator(step))
            if optimizer is not None:
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
            if step == 0:
                start, unmoved = error(0.0), error(1.0)
        assert quantizer.is_initialized
        assert error(1.0) < min(0.5 * unmoved, 1.5 * start)
        assert output.usage.min() > 0.9 and output.perplexity.shape == (LEVELS,)

    def test_dead_entries_restart(self):
        quantizer = fitted().train()
        layer = quantizer.layers[0]
        layer.embed[3] = 1e4  # nothing is near
        for step in range(300):
            quantizer(as_latents(data(100, seed=step)), generator=generator(step))
        assert layer.embed.abs().max() < 10

    def test_eval_mode_changes_nothing(self):
        quantizer = fitted()
        before = {name: value.clone() for name, value in quantizer.state_dict().items()}
        quantizer(as_latents(data(40)))
        assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_gradient_goes_straight_through(self, variant):
        quantizer = fitted(**variant)
        latents = as_latents(data(40)).requires_grad_()
        weight = torch.randn(2, DIM, 20)
        output = quantizer(latents)
        assert torch.allclose(output.quantized, quantizer.decode(output.codes), atol=1e-5)
        (gradient,) = torch.autograd.grad((output.quantized * weight).sum(), latents, retain_graph=True)
        assert torch.equal(gradient, weight)
        (gradient,) = torch.autograd.grad(output.loss, latents, retain_graph=True)
        assert gradient.abs().sum() > 0
        if list(quantizer.parameters()):
            output.loss.backward()
            assert all(p.grad.abs().sum() > 0 for p in quantizer.parameters())

    def test_dropout_keeps_some_levels_or_none(self):
        quantizer = fitted(quantizer_dropout=0.5, unquantized_rate=0.25).train()
        latents = as_latents(data(256), batch=256)
        expected = {k: quantizer.decode(quantizer.encode(latents)[:, :k]) for k in range(1, LEVELS + 1)}
        expected[0] = latents
        output = quantizer(latents, generator=generator())
        used = output.num_codebooks_used
        assert set(used.tolist()) == {0, 1, 2, 3}
        assert 0.15 < (used == 0).float().mean() < 0.35
        for row, levels in enumerate(used.tolist()):
            assert torch.allclose(output.quantized[row], expected[levels][row], atol=1e-5)

    def test_dropout_is_repeatable_and_off_when_levels_are_asked_for(self):
        quantizer = fitted(quantizer_dropout=0.5, unquantized_rate=0.25).train()
        latents = as_latents(data(64), batch=64)
        draws = [quantizer(latents, generator=generator(5)).num_codebooks_used for _ in range(2)]
        assert torch.equal(*draws)
        assert (quantizer(latents, num_codebooks=2).num_codebooks_used == 2).all()


class TestCheckpoint:
    """The quantiser inside a transformers model: built on the meta device, filled from the file."""

    class Config(PreTrainedConfig):
        model_type = "quantizer_test"

    class Model(PreTrainedModel):
        config_class = PreTrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.quantizer = ResidualVectorQuantizer(**TINY, codebook_dim=(8, 4, 4), prediction_levels=2)
            self.post_init()

        def _init_weights(self, module):
            if isinstance(module, (VectorQuantizer, ResidualVectorQuantizer)):
                module.reset_parameters()

    def test_every_tensor_comes_back(self, tmp_path):
        model = self.Model(self.Config())
        weights = torch.rand(DIM) + 0.5
        model.quantizer.fit(smooth(), 3, weights=weights, generator=generator())
        model.save_pretrained(tmp_path)
        loaded, info = self.Model.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        ours, theirs = model.state_dict(), loaded.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert loaded.quantizer.is_initialized
        latents = as_latents(data(40, seed=1))
        assert torch.equal(model.quantizer.encode(latents), loaded.quantizer.encode(latents))

    def test_fresh_model_has_entries_that_differ(self):
        codebook, _ = self.Model(self.Config()).quantizer.codebook_vectors()
        assert torch.cdist(codebook[0], codebook[0]).add(torch.eye(SIZE)).min() > 1e-3


class TestBadInput:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"codebook_dim": 9}, "codebook_dim=9"),
            ({"codebook_dim": (4, 4)}, "codebook_dim has 2 numbers; num_codebooks is 3"),
            ({"prediction_levels": 4}, "prediction_levels=4"),
            ({"num_codebooks": 33}, "num_codebooks=33"),
            ({"codebook_size": 1}, "codebook_size=1"),
            ({"update": "sgd"}, "update='sgd'"),
            ({"quantizer_dropout": 0.8, "unquantized_rate": 0.4}, "quantizer_dropout=0.8"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ResidualVectorQuantizer(**{**TINY, **arguments})

    def test_tensors(self):
        quantizer = fitted()
        with pytest.raises(ValueError, match=r"\(batch, 8, frames\)"):
            quantizer.encode(torch.zeros(1, 7, 4))
        with pytest.raises(ValueError, match="num_codebooks=4"):
            quantizer.encode(torch.zeros(1, DIM, 4), num_codebooks=4)
        with pytest.raises(ValueError, match="1 to 3 codebooks"):
            quantizer.decode(torch.zeros(1, 4, 5, dtype=torch.long))
        with pytest.raises(ValueError, match="from 0 to 15, got 0 to 16"):
            quantizer.decode(torch.tensor([[[0, 16]]]))
        with pytest.raises(ValueError, match="integers"):
            quantizer.decode(torch.zeros(1, 1, 5))


class TestKMeans:
    def test_finds_separate_clusters(self):
        g = generator()
        centres = 10 * torch.eye(DIM)
        vectors = centres[torch.arange(800) % DIM] + 0.1 * torch.randn(800, DIM, generator=g)
        centroids = kmeans(vectors, 4 * DIM, iterations=20, generator=g)
        assert nearest(vectors, centroids)[1].mean() < 0.2

    def test_equal_vectors(self):
        assert torch.equal(kmeans(torch.ones(50, 3), 4, generator=generator()), torch.ones(4, 3))

    def test_no_iterations_is_refused(self):
        with pytest.raises(ValueError, match="iterations=0"):
            kmeans(torch.ones(4, 2), 2, iterations=0)


def test_codebook_statistics():
    perplexity, usage = codebook_statistics(torch.tensor([0, 0, 1, 1, 5, 5]), codebook_size=12)
    assert perplexity.item() == pytest.approx(3.0) and usage.item() == pytest.approx(0.25)
