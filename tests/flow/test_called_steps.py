"""What stands on a module of the flow transformer is heard: hooks, offloading, layers that are replaced or compiled."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook, disk_offload
from accelerate.hooks import CpuOffload, add_hook_to_module
from diffusers.hooks import apply_group_offloading
from tiny_models import build_tiny_pipeline, make_adapter

from rtjazz_hf.flow.called_steps import has_to_be_called

SHORT = {"duration": 0.4, "chords": "Dm7 | G7", "tempo": 132, "block_frames": 12, "window_frames": 24}
CPU = torch.device("cpu")


def play(pipe, **options):
    return pipe("swing", generator=torch.Generator().manual_seed(1), **{**SHORT, **options}).audios


@pytest.fixture
def pipe():
    return build_tiny_pipeline()


class TestHooks:
    @pytest.mark.parametrize(
        "name",
        ["layers.0", "layers.1.self_attn", "layers.0.cross_attn", "layers.0.self_attn.q_norm", "layers.0.cross_norm",
         "layers.1.mlp", "layers.0.mlp.down_proj", "head", "input_proj", "lead_sheet_embedding"],
    )  # fmt: skip
    def test_every_module_is_called(self, tiny_pipeline, name):
        module, calls = tiny_pipeline.transformer.get_submodule(name), []
        plain = play(tiny_pipeline)
        hook = module.register_forward_hook(lambda *_: calls.append(1))
        heard = play(tiny_pipeline)
        hook.remove()
        np.testing.assert_allclose(heard, plain, atol=1e-5)  # it changes nothing, and is called in every step
        assert len(calls) >= 2 * 3
        assert not has_to_be_called(tiny_pipeline.transformer)
        np.testing.assert_array_equal(play(tiny_pipeline), plain)

    @pytest.mark.parametrize("block_frames", [6, 24])
    def test_without_guidance_and_in_a_batch(self, tiny_pipeline, block_frames):
        options = {"guidance_scale": 1.0, "block_frames": block_frames}
        plain = play(tiny_pipeline, **options)
        hook = tiny_pipeline.transformer.layers[0].register_forward_pre_hook(lambda *_: None)
        try:
            np.testing.assert_allclose(play(tiny_pipeline, **options), plain, atol=1e-5)
            seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
            both = tiny_pipeline(["swing"] * 2, generator=seeds, **{**SHORT, **options}).audios
        finally:
            hook.remove()
        np.testing.assert_allclose(both[:1], plain, atol=1e-4)

    def test_what_it_gives_back_is_heard(self, tiny_pipeline):
        plain, layer = play(tiny_pipeline), tiny_pipeline.transformer.layers[0]
        hook = layer.register_forward_hook(lambda module, given, output: output * 0)
        silenced = play(tiny_pipeline)
        hook.remove()
        assert np.abs(silenced - plain).max() > 1e-4

    def test_of_all_modules(self, tiny_pipeline):
        names = set()
        hook = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: names.add(type(m).__name__))
        play(tiny_pipeline)
        hook.remove()
        assert {"FlowLayer", "FlowAttention", "FlowMLP", "FlowHead"} <= names

    def test_one_on_the_model_costs_nothing(self, tiny_pipeline):
        model, calls = tiny_pipeline.transformer, []
        hook = model.register_forward_hook(lambda *_: calls.append(has_to_be_called(model)))
        play(tiny_pipeline)
        hook.remove()
        assert calls and not any(calls)

    def test_it_comes_and_goes_in_a_session(self, tiny_pipeline):
        calls, options = [], {"seed": 1, "block_frames": 12, "window_frames": 24}
        with tiny_pipeline.live("swing", **options) as plain, tiny_pipeline.live("swing", **options) as heard:
            for number in range(4):
                if number == 1:
                    hook = tiny_pipeline.transformer.layers[0].register_forward_hook(lambda *_: calls.append(1))
                block = next(heard)
                if number == 2:
                    hook.remove()
                np.testing.assert_allclose(block.audio, next(plain).audio, atol=1e-4)
        assert calls


class TestReplaced:
    def test_layers_of_ones_own(self, pipe):
        class Silent(torch.nn.Module):
            def forward(self, hidden):
                return torch.zeros_like(hidden)

        plain = play(pipe)
        pipe.transformer.layers[0].mlp = Silent()
        assert np.abs(play(pipe) - plain).max() > 1e-4

    @pytest.mark.parametrize("name", ["layers.0", "layers.1.mlp"])
    def test_compiled_parts(self, pipe, name):
        plain, seen = play(pipe), []

        def backend(graph, inputs):
            seen.append(graph)
            return graph

        pipe.transformer.get_submodule(name).compile(backend=backend)
        np.testing.assert_allclose(play(pipe), plain, atol=1e-5)
        assert seen


class TestOffload:
    @pytest.mark.parametrize("way", ["cpu", "disk", "group"])
    def test_weights_that_lie_elsewhere(self, pipe, tmp_path, way):
        plain = play(pipe)
        if way == "cpu":
            cpu_offload(pipe.transformer, execution_device=CPU)
        elif way == "disk":
            disk_offload(pipe.transformer, tmp_path, execution_device=CPU)
        else:
            apply_group_offloading(pipe.transformer, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
        if way != "group":
            assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}
            assert pipe.transformer.device == CPU
        np.testing.assert_allclose(play(pipe), plain, atol=1e-5)
        with pipe.live("swing", seed=1, block_frames=12, window_frames=24, overlap=True) as session:
            assert np.isfinite(next(session).audio).all()

    def test_of_every_model(self, pipe):
        plain = play(pipe)
        for model in (pipe.codec, pipe.style_encoder, pipe.transformer):
            cpu_offload(model, execution_device=CPU)
        np.testing.assert_allclose(play(pipe), plain, atol=1e-5)

    def test_whole_models_are_brought_by_whatever_computes(self, pipe):
        """`enable_model_cpu_offload`, which itself wants a GPU: its hooks, on a device that this machine has."""
        plain, brought = play(pipe), []

        class Told(CpuOffload):
            def pre_forward(self, module, *args, **kwargs):
                brought.append(type(module).__name__)
                return super().pre_forward(module, *args, **kwargs)

        assert pipe.model_cpu_offload_seq.split("->") == ["style_encoder", "transformer", "codec"]
        for name in pipe.model_cpu_offload_seq.split("->"):
            add_hook_to_module(getattr(pipe, name), Told(CPU))
        np.testing.assert_array_equal(play(pipe), plain)
        kinds = [type(getattr(pipe, name)).__name__ for name in pipe.model_cpu_offload_seq.split("->")]
        assert sorted(set(brought), key=brought.index) == kinds
        for call in (
            lambda: pipe.transformer.prepare_conditions(torch.tensor([0.5]), frames=12),
            lambda: pipe.transformer.append_to_cache(torch.zeros(1, 64, 12), pipe.transformer.init_cache(1)),
            lambda: pipe.codec.encode(torch.zeros(1, 2, 6400)),
            lambda: pipe.codec.codes_to_latents(pipe.codec.latents_to_codes(torch.zeros(1, 64, 6))),
            lambda: pipe.style_encoder.encode_audio(torch.zeros(1, 2, 48_000)),
        ):
            brought.clear()
            call()
            assert brought

    def test_a_session_does_not_send_its_transformer_away(self, pipe):
        _, hook = cpu_offload_with_hook(pipe.transformer, CPU)
        cpu_offload_with_hook(pipe.codec, CPU, prev_module_hook=hook)
        with pipe.live("swing", seed=1, block_frames=12, window_frames=24, overlap=True) as session:
            assert session._worker is None
            assert np.isfinite(next(session).audio).all()

    def test_adapters_are_refused_and_not_played_without(self, pipe, tmp_path):
        pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")
        make_adapter(tmp_path / "a", 1)
        fused = copy.deepcopy(pipe)
        cpu_offload(pipe.transformer, execution_device=CPU)
        with pytest.raises(ValueError, match=r"offloaded.*fuse_lora"):
            pipe.load_lora_weights(tmp_path / "a", "a")
        fused.load_lora_weights(tmp_path / "a", "a")
        fused.fuse_lora()
        adapted = play(fused)
        cpu_offload(fused.transformer, execution_device=CPU)
        np.testing.assert_allclose(play(fused), adapted, atol=1e-5)
