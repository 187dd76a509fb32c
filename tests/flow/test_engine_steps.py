"""The steps by other engines: the same music, and torch where they cannot play."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from flow_models import build_model
from test_flow_compile import close, stream

from rtjazz_hf.flow import FlowCache
from rtjazz_hf.flow.sharing import shared_copy
from rtjazz_hf.runtime.engines import is_installed

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not is_installed(name), reason=f"{name} is not installed"))
    for name in ("openvino", "onnx")
]


@pytest.fixture(scope="module", params=ENGINES)
def models(request):
    """A model that torch plays, and its copy that an engine plays; a trained model's gates are open."""
    model = build_model(num_hidden_layers=2, patch_size=3)
    other = copy.deepcopy(model)
    assert other.use_engine(request.param, "float32") == other.engine == request.param
    assert other.engine_precision == "float32"
    return model, other


@pytest.fixture(scope="module")
def by_openvino():
    pytest.importorskip("openvino")
    model = build_model(num_hidden_layers=1, patch_size=3)
    model.use_engine("openvino", "float32")
    return model


class TestSameMusic:
    @pytest.mark.parametrize("window", [0, 12, 24, 30])
    def test_every_block_of_a_stream(self, models, window):
        plain, other = models
        close(stream(other, window_frames=window), stream(plain, window_frames=window))

    def test_blocks_of_changing_size(self, models):
        plain, other = models
        played = []
        for model in (plain, other):
            cache = model.init_cache(1, 24)
            parts = [stream(model, blocks=2, frames=frames, cache=cache) for frames in (6, 24, 12)]
            played.append(torch.cat(parts, dim=-1))
        close(*played)

    def test_rows_that_have_heard_different_pasts(self, models):
        played = []
        for model in models:
            caches = [model.init_cache(1, 24) for _ in range(2)]
            stream(model, blocks=1, cache=caches[0])
            stream(model, blocks=3, frames=6, cache=caches[1])
            cache = FlowCache.stack(caches)
            sample, sheet, style = (
                torch.randn(shape, generator=torch.Generator().manual_seed(3))
                for shape in ((4, 8, 12), (4, 12, 5), (4, 16))
            )
            with torch.no_grad():
                conditions = model.prepare_conditions(torch.tensor([0.3]), sheet, style, cache)
                velocity = model(sample, conditions=conditions, cache=cache).sample
                model.append_to_cache(sample[:2], cache)  # without conditions
            played.append((velocity, *cache.select([1]).keys))
        close(played[0], played[1])

    def test_a_cache_goes_from_one_engine_to_the_other(self, models):
        plain, other = models
        whole = stream(plain, blocks=2, cache=(cache := plain.init_cache(1, 24)))
        assert whole.isfinite().all()
        there = cache.clone()
        close(stream(other, blocks=1, cache=there), stream(plain, blocks=1, cache=cache))
        close(there.values, cache.values)

    @pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.03), ("int8", 0.06)])
    def test_in_fewer_bits_it_is_near(self, precision, most):
        pytest.importorskip("openvino")
        wide = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2}  # narrow weights stay whole
        model = build_model(num_hidden_layers=2, patch_size=3, **wide)
        plain = stream(model)
        model.use_engine("openvino", precision)
        difference = (stream(model) - plain).square().mean() / plain.square().mean()
        assert model.engine_precision == precision and 0 < difference < most**2


class TestTorchPlaysOn:
    def test_gradients_flow(self, by_openvino):
        sample, sheet, style = torch.randn(1, 8, 12, requires_grad=True), torch.zeros(1, 12, 5), torch.zeros(1, 16)
        cache = by_openvino.init_cache(1, 12)
        conditions = by_openvino.prepare_conditions(torch.tensor([0.3]), sheet, style, cache)
        by_openvino(sample, conditions=conditions, cache=cache).sample.sum().backward()
        assert sample.grad.abs().sum() > 0

    def test_layers_that_8_bits_do_not_fit(self):
        pytest.importorskip("openvino")
        model = build_model(num_hidden_layers=1, patch_size=3)
        with pytest.warns(UserWarning, match="torch plays .* a multiple of 128 inputs"):
            assert model.use_engine("openvino", "int8") == "torch"

    @pytest.mark.parametrize("change", ["in place", "through data", "hook", "adapter"])
    def test_after_the_model_has_changed_and_says_so(self, change):
        pytest.importorskip("openvino")
        model = build_model(num_hidden_layers=1, patch_size=3)
        model.use_engine("openvino", "float32")
        before, layer = stream(model), model.layers[0].mlp.up_proj
        if change == "in place":
            with torch.no_grad():
                layer.weight.mul_(2)
        elif change == "through data":
            layer.weight.data *= 2
            with pytest.warns(UserWarning, match="weights have changed"):
                model.pack_weights()
        elif change == "hook":
            layer.register_forward_hook(lambda module, inputs, output: 2 * output)
        else:
            from peft import LoraConfig, inject_adapter_in_model

            inject_adapter_in_model(LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False), model)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            after = stream(model)
        assert not torch.allclose(before, after)
        if change != "hook":  # which may go again
            assert model.engine == "torch"
        if change == "in place":
            assert any("use_engine" in str(each.message) for each in said)

    def test_copies_have_no_engine(self, by_openvino):
        played = stream(by_openvino, blocks=2)
        for copied in (copy.deepcopy(by_openvino), pickle.loads(pickle.dumps(by_openvino))):
            assert copied.engine == "torch"
            close(stream(copied, blocks=2), played)
        shared, layers = shared_copy(by_openvino, ["layers.0.mlp.up_proj"])
        layers["layers.0.mlp.up_proj"].weight = torch.nn.Parameter(2 * layers["layers.0.mlp.up_proj"].weight.detach())
        assert shared.engine == "torch" and by_openvino.engine == "openvino"
        assert not torch.allclose(stream(shared, blocks=2), played)

    def test_weights_are_not_held_twice(self, by_openvino):
        by_openvino.pack_weights()
        assert not any("_packed" in vars(module) for module in by_openvino.modules())

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda: build_model(prediction_type="codebook"), "prediction_type is 'codebook'"),
            (lambda: build_model().to(torch.bfloat16), "torch.bfloat16"),
            (lambda: build_model(lead_sheet_dim=0), "lead_sheet_dim is 0"),
        ],
        ids=["codebook", "bfloat16", "no-sheet"],
    )
    def test_a_model_that_an_engine_does_not_take(self, make, why):
        pytest.importorskip("openvino")
        model = make()
        with pytest.warns(UserWarning, match=why):
            assert model.use_engine("openvino") == "torch"

    def test_auto_leaves_small_models_to_torch(self, recwarn):
        assert build_model(num_hidden_layers=1).use_engine("auto") == "torch" and not recwarn
