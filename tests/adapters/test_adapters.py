"""Adapters: trained on PEFT's layers, read from folders, blended, swapped while a session plays."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from adapted import STYLE, assert_close, flow, play
from safetensors.torch import load_file, save_file
from tiny_models import build_tiny_pipeline, make_adapter

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.adapters import (
    adapter_parameters,
    attach_adapter,
    base_fingerprint,
    call_style,
    detach_adapters,
    read_adapter,
    split_style,
)

pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")


class TestTraining:
    def test_fresh_adapter_changes_nothing_and_alone_is_trainable(self):
        transformer = build_tiny_pipeline().transformer
        before, names = flow(transformer), set(transformer.state_dict())
        lines = []
        attach_adapter(transformer, rank=2)
        parameters = adapter_parameters(transformer, lines.append)
        assert_close(flow(transformer), before, atol=1e-6)
        assert len(parameters) == 2 * 8 * 2  # A and B of 8 projections in 2 layers
        count = sum(parameter.numel() for parameter in parameters)
        assert f"trainable: {count:,} of" in lines[0]
        detach_adapters(transformer)
        assert set(transformer.state_dict()) == names
        assert all(torch.equal(a, b) for a, b in zip(flow(transformer), before))
        assert all(parameter.requires_grad for parameter in transformer.parameters())

    @pytest.mark.parametrize(
        "wrong",
        [{"rank": 0}, {"rank": 2.5}, {"alpha": 0}, {"targets": ["q"]}, {"targets": []}, {"dropout": 1}],
    )
    def test_wrong_settings_are_refused(self, tiny_pipeline, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            attach_adapter(tiny_pipeline.transformer, **wrong)

    @pytest.mark.parametrize("precision", [None, "int8", "nf4"])
    def test_adapter_and_style_learn(self, tmp_path, precision):
        pipe = build_tiny_pipeline()
        known = base_fingerprint(pipe.transformer)
        if precision:
            pytest.importorskip("bitsandbytes", reason="the quant extra is not installed")
            pipe.quantize(precision)
        transformer = attach_adapter(pipe.transformer, rank=2).train()
        clean, noisy = torch.randn(2, 1, transformer.config.num_channels, 24)
        style = torch.nn.Parameter(STYLE.clone())
        called = call_style(torch.randn(512), [style])[None]
        output = transformer(noisy, torch.tensor([0.3]), None, called, context=clean, block_frames=12).sample
        output.square().mean().backward()
        assert style.grad.any()
        assert all(parameter.grad is not None for parameter in adapter_parameters(transformer, show=None))
        pipe.save_lora_weights(tmp_path / "x")
        config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
        assert config["auto_mapping"]["base_fingerprint"] == known

    def test_a_training_pipeline_saves_its_adapter_and_not_itself(self, tmp_path):
        pipe = build_tiny_pipeline()
        attach_adapter(pipe.transformer, rank=2)
        with pytest.raises(ValueError, match="attached"):
            pipe.save_pretrained(tmp_path / "pipeline")
        assert not (tmp_path / "pipeline").exists()
        pipe.save_lora_weights(tmp_path / "adapter")
        with pytest.raises(ValueError, match="in training"):
            pipe.load_lora_weights(tmp_path / "adapter")
        detach_adapters(pipe.transformer)
        assert pipe.load_lora_weights(tmp_path / "adapter") == "default_0"

    def test_fingerprint_is_the_base_s(self):
        transformer = build_tiny_pipeline().transformer
        known = base_fingerprint(transformer)
        attach_adapter(transformer, rank=2, targets=["q_proj", "modulation"])
        assert base_fingerprint(transformer) == known
        detach_adapters(transformer)
        assert base_fingerprint(transformer.to(torch.bfloat16)) == known
        assert base_fingerprint(build_tiny_pipeline(1).transformer) != known


class TestLoading:
    @pytest.mark.parametrize("name", ["a", "dora"])
    def test_plays_what_was_trained(self, tiny_pipeline, folders, tmp_path, weights, name):
        trained = make_adapter(tmp_path / "again", {"a": 1, "dora": 3}[name], use_dora=name == "dora")
        tiny_pipeline.transformer.pack_weights()
        base = flow(tiny_pipeline.transformer)
        tiny_pipeline.load_lora_weights(folders / name, "x")
        try:
            assert tiny_pipeline.get_active_adapters() == tiny_pipeline.list_adapters() == ["x"]
            adapted = flow(tiny_pipeline.transformer_for(tiny_pipeline.active_mix))
            assert_close(adapted, flow(trained))
            assert (adapted[0] - base[0]).abs().max() > 1e-3
        finally:
            tiny_pipeline.unload_lora_weights()
        assert weights() and all(torch.equal(a, b) for a, b in zip(flow(tiny_pipeline.transformer), base))

    def test_peft_reads_the_folder(self, folders, tiny_pipeline):
        from peft import PeftModel

        model = PeftModel.from_pretrained(build_tiny_pipeline().transformer, folders / "a")
        tiny_pipeline.load_lora_weights(folders / "a", "x")
        adapted = tiny_pipeline.transformer_for(tiny_pipeline.active_mix)
        tiny_pipeline.unload_lora_weights()
        assert_close(flow(model.base_model.model.eval()), flow(adapted))

    def test_saved_is_loaded(self, pipe, folders, tmp_path):
        pipe.save_lora_weights(tmp_path / "again", "a")
        wanted, got = (
            load_file(f / "adapter_model.safetensors") for f in (folders / "a", tmp_path / "again")
        )
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[n], got[n]) for n in wanted)
        assert pipe.lora_state_dict("a").keys() >= wanted.keys()
        pipe.load_lora_weights(tmp_path / "again", "again")
        assert play(pipe, adapter="a").tobytes() == play(pipe, adapter="again").tobytes()
        with pytest.raises(ValueError, match="choose from a, b, again"):
            pipe.save_lora_weights(tmp_path / "which")

    def test_pipeline_with_adapters_is_not_saved(self, pipe, tmp_path):
        with pytest.raises(ValueError, match="'a', 'b'"):
            pipe.save_pretrained(tmp_path / "pipeline")
        assert not (tmp_path / "pipeline").exists()

    def test_shared_weights_are_shared(self, pipe):
        adapted = pipe.transformer_for((("a", 1.0),))
        own, base = dict(adapted.named_parameters()), dict(pipe.transformer.named_parameters())
        assert own.keys() == base.keys()
        changed = {name for name in own if own[name] is not base[name]}
        assert changed == {n for n in base if "attn" in n and n.endswith("proj.weight")}
        assert pipe.transformer_for((("a", 1.0),)) is adapted

    def test_patterns_are_peft_s(self, tiny_pipeline, tmp_path):
        options = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}}
        trained = make_adapter(tmp_path / "x", 4, use_rslora=True, **options)
        tiny_pipeline.load_lora_weights(tmp_path / "x", "x")
        adapted = tiny_pipeline.transformer_for(tiny_pipeline.active_mix)
        tiny_pipeline.unload_lora_weights()
        assert_close(flow(adapted), flow(trained))

    def test_copied_pipeline_has_its_own(self, pipe):
        copied = copy.deepcopy(pipe)
        copied.delete_adapters("a")
        assert pipe.list_adapters() == ["a", "b"]
        assert play(copied, adapter="b").tobytes() == play(pipe, adapter="b").tobytes()

    def test_follows_the_base(self, tmp_path, folders):
        pipe = build_tiny_pipeline()
        pipe.load_lora_weights(folders / "a", "a")
        pipe.to(torch.bfloat16)
        adapted = pipe.transformer_for(pipe.active_mix)
        assert {parameter.dtype for parameter in adapted.parameters()} == {torch.bfloat16}


class TestRefused:
    def copy(self, folders, target, **config):
        target.mkdir()
        for file in (folders / "a").iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        path = target / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return target

    def refused(self, pipe, folder, match, error=ValueError):
        with pytest.raises(error, match=match):
            pipe.load_lora_weights(folder, "x")
        assert pipe.list_adapters() == []

    def test_pickles(self, tiny_pipeline, folders, tmp_path):
        folder = self.copy(folders, tmp_path / "x")
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        self.refused(tiny_pipeline, folder, "pickle")
        self.refused(tiny_pipeline, str(folder / "adapter_model.bin"), "pickle")
        self.refused(tiny_pipeline, "style.pt", "pickle")

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ({"r": 8}, "rank 4.*says 8"),
            ({"r": 0}, "rank r=0"),
            ({"lora_alpha": "x"}, "lora_alpha"),
            ({"peft_type": "IA3"}, "IA3"),
            ({"bias": "all"}, "bias='all'"),
            ({"rank_pattern": {"q_proj": 8}}, "rank 4.*says 8"),
            ({"alpha_pattern": {"(q|": 8}}, "alpha_pattern"),
            ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern"),
            ({"auto_mapping": ["x"]}, "auto_mapping"),
            ({"use_dora": True}, "use_dora"),
            ({"init_lora_weights": "pissa"}, "pissa"),
        ],
    )
    def test_configs(self, tiny_pipeline, folders, tmp_path, config, match):
        self.refused(tiny_pipeline, self.copy(folders, tmp_path / "x", **config), match)

    def test_other_weights_under_the_same_name(self, tiny_pipeline, tmp_path):
        make_adapter(tmp_path / "x", 1, base_seed=7, base_name="this pipeline")
        self.refused(tiny_pipeline, tmp_path / "x", "under the same name.*check_base=False")
        tiny_pipeline.load_lora_weights(tmp_path / "x", "x", check_base=False)
        tiny_pipeline.unload_lora_weights()

    def test_other_shapes(self, tiny_pipeline, folders, tmp_path):
        wide = build_tiny_pipeline(hidden_size=128)
        with pytest.raises(ValueError, match=r"64 x 64.*tiny"):
            wide.load_lora_weights(folders / "a")
        shallow = build_tiny_pipeline(num_hidden_layers=1)
        with pytest.raises(ValueError, match=r"layers\.1\."):
            shallow.load_lora_weights(folders / "a", check_base=False)

    def test_damaged_files(self, tiny_pipeline, folders, tmp_path):
        folder = self.copy(folders, tmp_path / "x")
        path = folder / "adapter_model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        self.refused(tiny_pipeline, folder, "cut short")
        path.write_bytes(whole)
        tensors = load_file(path)
        save_file({**tensors, next(iter(tensors)): next(iter(tensors.values())) * float("nan")}, path)
        self.refused(tiny_pipeline, folder, "NaN")
        path.unlink()
        self.refused(tiny_pipeline, folder, "has no adapter_model", OSError)
        (folder / "adapter_config.json").write_text("{")
        path.write_bytes(whole)
        self.refused(tiny_pipeline, folder, "not an adapter's config")

    @pytest.mark.parametrize("name", ["../secret", "/nowhere", "a/../b", "a/b/c", "", "a b", "me/.."])
    def test_paths_and_ids(self, tiny_pipeline, name):
        self.refused(tiny_pipeline, name, "adapter", (OSError, ValueError))

    def test_offline(self, tiny_pipeline):
        self.refused(tiny_pipeline, "somebody/a-style", "somebody/a-style", OSError)

    def test_names_and_strengths(self, pipe, folders):
        with pytest.raises(ValueError, match="loaded already"):
            pipe.load_lora_weights(folders / "a", "a")
        with pytest.raises(ValueError, match="'c' is not loaded; loaded: 'a', 'b'"):
            pipe.set_adapters(["a", "c"])
        for strength in (-2.1, 3, float("nan"), "loud", True):
            with pytest.raises(ValueError, match="from -2 to 2"):
                pipe.set_adapters("a", strength)
        with pytest.raises(ValueError, match="one strength"):
            pipe.set_adapters(["a", "b"], [1.0])
        with pytest.raises(ValueError, match="not loaded"):
            pipe.delete_adapters("c")
        with pytest.raises(ValueError, match="not loaded"):
            play(pipe, adapter="c")


class TestMixing:
    def weight(self, pipe, mix):
        return pipe.transformer_for(mix).layers[0].self_attn.v_proj.weight.detach()

    def test_strength_scales_the_change(self, pipe):
        base, whole = (self.weight(pipe, mix) for mix in ((), (("a", 1.0),)))
        half = self.weight(pipe, (("a", 0.5),))
        torch.testing.assert_close(half - base, 0.5 * (whole - base), rtol=0, atol=1e-6)
        assert pipe.transformer_for(pipe.adapter_mix({"a": 0.0})) is pipe.transformer

    def test_blend_is_the_sum(self, pipe):
        base, a, b = (self.weight(pipe, mix) for mix in ((), (("a", 1.0),), (("b", 1.0),)))
        pipe.set_adapters(["b", "a"], [0.3, 0.7])
        assert pipe.active_mix == (("a", 0.7), ("b", 0.3))
        want = base + 0.7 * (a - base) + 0.3 * (b - base)
        torch.testing.assert_close(self.weight(pipe, pipe.active_mix), want, rtol=0, atol=1e-6)
        blend = play(pipe)
        assert blend.tobytes() == play(pipe, adapter={"a": 0.7, "b": 0.3}).tobytes()
        pipe.disable_lora()
        assert pipe.get_active_adapters() == []
        assert play(pipe).tobytes() == play(pipe, adapter={}).tobytes() != blend.tobytes()
        pipe.enable_lora()
        assert play(pipe).tobytes() == blend.tobytes()

    def test_weighted_adapter(self, pipe, tmp_path):
        want = self.weight(pipe, (("a", 0.7), ("b", 0.3)))
        pipe.add_weighted_adapter(["a", "b"], [0.7, 0.3], "exact")
        pipe.add_weighted_adapter(["a", "b"], [0.7, 0.3], "near", combination_type="svd", svd_rank=6)
        for name in ("exact", "near"):
            torch.testing.assert_close(self.weight(pipe, ((name, 1.0),)), want, rtol=0, atol=1e-5)
        assert pipe.get_active_adapters() == []
        pipe.save_lora_weights(tmp_path / "blend", "exact")
        pipe.load_lora_weights(tmp_path / "blend", "again")
        torch.testing.assert_close(self.weight(pipe, (("again", 1.0),)), want, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="combination_type 'sum'"):
            pipe.add_weighted_adapter(["a", "b"], [1, 1], "x", combination_type="sum")

    def test_fuse_and_unfuse(self, pipe, weights, tmp_path):
        adapted, base = play(pipe, adapter="a"), play(pipe)
        pipe.set_adapters("a")
        pipe.fuse_lora()
        assert not weights()
        assert play(pipe).tobytes() == adapted.tobytes()
        with pytest.raises(ValueError, match="fused already"):
            play(pipe, adapter="a")
        with pytest.raises(ValueError, match="is fused"):
            pipe.delete_adapters("a")
        with pytest.raises(ValueError, match="'b' is loaded"):
            pipe.save_pretrained(tmp_path / "fused")
        pipe.delete_adapters("b")
        pipe.save_pretrained(tmp_path / "fused")
        pipe.unfuse_lora()
        assert weights()
        pipe.disable_lora()
        assert play(pipe).tobytes() == base.tobytes()
        fused = RealTimeJazzPipeline.from_pretrained(tmp_path / "fused")
        fused.set_progress_bar_config(disable=True)
        np.testing.assert_allclose(play(fused), adapted, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("precision", ["int8", "nf4"])
    def test_quantised_base(self, folders, precision):
        pytest.importorskip("bitsandbytes", reason="the quant extra is not installed")
        pipe = build_tiny_pipeline()
        pipe.quantize(precision)
        before = flow(pipe.transformer)
        pipe.load_lora_weights(folders / "a", "a")
        adapted = flow(pipe.transformer_for(pipe.active_mix))
        whole = build_tiny_pipeline()
        plain = flow(whole.transformer)
        whole.load_lora_weights(folders / "a", "a")
        wanted = flow(whole.transformer_for(whole.active_mix))
        for got, base, want, unadapted in zip(adapted, before, wanted, plain):
            error = ((got - base) - (want - unadapted)).norm() / (want - unadapted).norm()
            assert error < {"int8": 0.1, "nf4": 0.4}[precision]
        with pytest.raises(ValueError, match="DoRA"):
            pipe.load_lora_weights(folders / "dora", "dora")
        assert pipe.list_adapters() == ["a"]
        with pytest.raises(ValueError, match="quantised weights"):
            pipe.fuse_lora()


class TestStyle:
    def test_phrase(self):
        names = ["Anna", "Anna Blue"]
        assert split_style("slow ballad, in the style of anna blue, rubato", names) == (
            "slow ballad, rubato",
            ["Anna Blue"],
        )
        assert split_style("In the style of 'Anna'", names) == ("", ["Anna"])
        assert split_style("in the style of Annabel", names) == ("in the style of Annabel", [])

    def test_prompt_calls_the_embedding(self, pipe):
        plain = pipe.encode_prompt("slow ballad")[0]
        called = pipe.encode_prompt("slow ballad in the style of Anna Blue")[0]
        torch.testing.assert_close(called, call_style(plain, [STYLE]))
        assert torch.linalg.norm(called - STYLE) < torch.linalg.norm(called - plain)
        torch.testing.assert_close(pipe.encode_prompt("in the style of a")[0], STYLE)
        pipe.delete_adapters("a")
        assert not torch.allclose(pipe.encode_prompt("slow ballad in the style of Anna Blue")[0], called)

    def test_called_style_brings_its_band_unless_others_are_named(self, pipe):
        def band(prompt, **wishes):
            return set(pipe.prepare_lead_sheet(prompt, duration=30.0, **wishes)[0].instruments)

        assert band("slow ballad in the style of Anna Blue") == {"clarinet", "bass"}
        assert band("in the style of Anna Blue, without bass") == {"clarinet"}
        assert "piano" in band("piano trio in the style of Anna Blue")
        assert band("in the style of Anna Blue", instruments=["guitar"]) == {"guitar"}
        assert band("swing in the style of b", seeds=[3]) == band("swing", seeds=[3])  # it has none

    def test_band_is_kept_in_the_file(self, pipe, folders, tmp_path):
        assert (
            set(read_adapter(folders / "a").band) == {"clarinet", "bass"}
            and read_adapter(folders / "b").band == ()
        )
        pipe.save_lora_weights(tmp_path / "again", "a")
        assert read_adapter(tmp_path / "again").band == read_adapter(folders / "a").band
