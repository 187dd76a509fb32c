"""One command's output is the next one's input: an adapter's folder, file, state dict, and what others wrote."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from adapted import assert_close, flow, play
from safetensors.torch import load_file, save_file
from tiny_models import build_tiny_pipeline, make_adapter

pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")

from peft import LoraConfig, get_peft_model

from rtjazz_hf.adapters import adapter_name_of, adapter_parameters, read_adapter
from rtjazz_hf.hub.publishing import push_adapter


@pytest.fixture
def fresh(tiny_pipeline):
    yield tiny_pipeline
    tiny_pipeline.unload_lora_weights()


def heard(pipe):
    return flow(pipe.transformer_for(pipe.active_mix))


def loaded(pipe, *args, **options):
    """What is played after an adapter was loaded; then it is not."""
    pipe.load_lora_weights(*args, **options)
    velocities = heard(pipe)
    pipe.unload_lora_weights()
    return velocities


def nudge(parameters, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2 * torch.randn_like(parameter))


class TestPlaces:
    def test_the_outer_folder_of_adapt_and_of_a_name(self, fresh, folders, tmp_path):
        shutil.copytree(folders / "a", tmp_path / "my-style" / "adapter")
        shutil.copytree(folders / "b", tmp_path / "named" / "jazz")
        shutil.copytree(folders / "b", tmp_path / "my-style" / "other")  # beside it: `adapter` it is
        assert_close(loaded(fresh, str(tmp_path / "my-style")), loaded(fresh, folders / "a"))
        assert_close(loaded(fresh, tmp_path / "named"), loaded(fresh, folders / "b"))
        assert read_adapter(tmp_path / "my-style").fingerprint == read_adapter(folders / "a").fingerprint
        shutil.copytree(folders / "a", tmp_path / "named" / "blues")
        with pytest.raises(ValueError, match=r"several adapters.*'blues', 'jazz'"):
            fresh.load_lora_weights(tmp_path / "named")
        assert_close(loaded(fresh, tmp_path / "named", subfolder="blues"), loaded(fresh, folders / "a"))
        with pytest.raises(OSError, match=r"no sub-folder 'swing'.*'blues', 'jazz'"):
            fresh.load_lora_weights(tmp_path / "named", subfolder="swing")
        for astray in ("..", "/", "a/../..", ""):
            with pytest.raises(ValueError, match="subfolder"):
                fresh.load_lora_weights(tmp_path / "named", subfolder=astray)
        with pytest.raises(ValueError, match="several adapters"):
            push_adapter(fresh.models, "me/style", tmp_path / "named")

    def test_file_names_and_state_dicts(self, fresh, folders, tmp_path):
        want = loaded(fresh, folders / "a")
        (tmp_path / "x").mkdir()
        shutil.copy(folders / "a" / "adapter_config.json", tmp_path / "x")
        shutil.copy(folders / "a" / "adapter_model.safetensors", tmp_path / "x" / "mine.safetensors")
        assert_close(loaded(fresh, tmp_path / "x", weight_name="mine.safetensors"), want)
        assert_close(loaded(fresh, tmp_path / "x" / "mine.safetensors"), want)
        with pytest.raises(ValueError, match="pickle"):
            fresh.load_lora_weights(tmp_path / "x", weight_name="mine.bin")
        with pytest.raises(ValueError, match="weight_name"):
            fresh.load_lora_weights(tmp_path / "x", weight_name="../mine.safetensors")

        fresh.load_lora_weights(folders / "a", "a")
        told = fresh.lora_state_dict()
        fresh.unload_lora_weights()
        assert_close(loaded(fresh, told), want)  # at the strength that was trained
        with pytest.raises(ValueError, match="no layers"):
            fresh.load_lora_weights({})

    def test_as_diffusers_writes_it(self, fresh, folders, tmp_path):
        want = loaded(fresh, folders / "a")
        tensors = {f"transformer.{name.removeprefix('base_model.model.')}": tensor
                   for name, tensor in load_file(folders / "a" / "adapter_model.safetensors").items()}  # fmt: skip
        header = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
        save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", metadata=header)
        assert_close(loaded(fresh, tmp_path), want)
        halved = {name: t * (2 if ".lora_B" in name else 1) for name, t in tensors.items()}
        assert_close(loaded(fresh, halved), want)  # without an alpha it is the rank, as in diffusers

    @pytest.mark.parametrize(
        ("source", "name"),
        [("my-style/adapter", "my-style"), ("my-style/", "my-style"), ("me/swing-v1.2", "swing-v1-2"),
         ("adapter/adapter_model.safetensors", "habits")],
    )  # fmt: skip
    def test_names(self, source, name, monkeypatch, tmp_path):
        (tmp_path / "habits").mkdir()
        monkeypatch.chdir(tmp_path / "habits")
        assert adapter_name_of(source) == name


class TestOthers:
    def test_what_peft_saved_of_this_base_loads(self, fresh, tmp_path):
        for name in ("default", "jazz"):
            model = get_peft_model(
                build_tiny_pipeline().transformer, LoraConfig(r=4, target_modules=["q_proj"]), adapter_name=name
            )
            nudge(p for p in model.parameters() if p.requires_grad)
            model.save_pretrained(tmp_path / name)
            with pytest.warns(UserWarning, match="does not tell which weights"):
                got = loaded(fresh, tmp_path / name)
            assert_close(got, flow(model.base_model.model.eval()))

    def test_what_transformers_saved_loads(self, fresh, tmp_path):
        transformer = build_tiny_pipeline().transformer
        transformer.add_adapter(LoraConfig(r=4, target_modules=["q_proj"]))
        nudge(adapter_parameters(transformer, show=None))
        transformer.save_pretrained(tmp_path)
        with pytest.warns(UserWarning, match="does not tell which weights"):
            assert_close(loaded(fresh, tmp_path), flow(transformer.eval()))

    def test_of_another_class_is_refused(self, fresh, folders, tmp_path):
        shutil.copytree(folders / "a", tmp_path / "x")
        path = tmp_path / "x" / "adapter_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "auto_mapping": {"base_model_class": "LlamaModel"}}))
        with pytest.raises(ValueError, match="LlamaModel"):
            fresh.load_lora_weights(tmp_path / "x")


def test_layers_that_are_missing_are_named(fresh, folders, tmp_path):
    shutil.copytree(folders / "a", tmp_path / "x")
    path = tmp_path / "x" / "adapter_model.safetensors"
    tensors = load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.load_lora_weights(tmp_path / "x", "whole")
    save_file({name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}, path)
    with pytest.warns(UserWarning, match=r"lacks 8 of the 16 layers.*layers\.1\.self_attn\.\w_proj"):
        fresh.load_lora_weights(tmp_path / "x", "half")


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_keep_the_strength_that_was_trained(fresh, tmp_path, rslora):
    options = {
        "alpha_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 40},
        "rank_pattern": {"v_proj": 2, "layers.0.self_attn.v_proj": 3},
    }
    trained = make_adapter(tmp_path / "x", 4, targets=["q_proj", "v_proj"], use_rslora=rslora, **options)
    fresh.load_lora_weights(tmp_path / "x", "x")
    assert_close(heard(fresh), flow(trained))
    fresh.save_lora_weights(tmp_path / "again")
    fresh.unload_lora_weights()
    assert_close(loaded(fresh, tmp_path / "again"), flow(trained))

    from peft import PeftModel

    model = PeftModel.from_pretrained(build_tiny_pipeline().transformer, tmp_path / "x")
    assert_close(flow(model.base_model.model.eval()), flow(trained))


def test_overlapping_patterns_of_others(fresh, tmp_path):
    options = {"alpha_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 40}, "rank_pattern": {"q_proj": 2}}
    make_adapter(tmp_path / "x", 4, targets=["q_proj"], **options)
    path = tmp_path / "x" / "adapter_config.json"
    config = json.loads(path.read_text())
    ranks = {"layers.0.self_attn.q_proj": 8, "q_proj": 2}  # as PEFT sorts them: the tensors know better
    path.write_text(json.dumps({**config, **options, "rank_pattern": ranks}))
    with pytest.warns(UserWarning, match="several alphas for layers.1.self_attn.q_proj"):
        fresh.load_lora_weights(tmp_path / "x", "x")


def test_strengths_beyond_one(fresh, folders):
    fresh.load_lora_weights(folders / "b", "b")
    name = "layers.0.self_attn.q_proj.weight"

    def change(strength):
        fresh.set_adapters("b", strength)
        adapted = fresh.transformer_for(fresh.active_mix).state_dict()[name]
        return adapted - fresh.transformer.state_dict()[name]

    torch.testing.assert_close(change(1.5), 1.5 * change(1.0))
    torch.testing.assert_close(change(-1), -change(1.0))
    for strength in (2.1, -3, float("nan")):
        with pytest.raises(ValueError, match="from -2 to 2"):
            fresh.set_adapters("b", strength)
    with pytest.raises(ValueError, match="times adapter_scale"):
        play(fresh, adapter={"b": 1.5}, adapter_scale=2.0)
