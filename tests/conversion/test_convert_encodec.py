"""EnCodec to our codec: equal where both are to do the same, proven layer by layer elsewhere, refused when bad."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EncodecConfig, EncodecModel

from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.audio import write_audio

CONVERSION = Path(__file__).parents[2] / "conversion"
MODULES = ("convert_encodec", "encodec_codebooks", "encodec_layers", "encodec_source")
TINY = {"num_filters": 2, "hidden_size": 8, "codebook_size": 16}
MONO_24 = {}
STEREO_48 = {"sampling_rate": 48_000, "audio_channels": 2, "norm_type": "time_group_norm",
             "use_causal_conv": False, "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01,
             "target_bandwidths": [3.0, 6.0]}  # fmt: skip
SAME = {"sampling_rate": 48_000, "audio_channels": 2, "upsampling_ratios": [8, 5, 4, 4]}


@pytest.fixture(scope="module")
def modules():
    """The script and its helpers, imported as `python conversion/convert_encodec.py` does."""
    sys.path.insert(0, str(CONVERSION))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(CONVERSION))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def script(modules):
    return modules["convert_encodec"]


@torch.no_grad()
def build_encodec(trained: bool = True, **values) -> EncodecModel:
    """Random weights; codebooks and norms as if trained, zeros before the start as in a stream."""
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**{**TINY, "pad_mode": "constant", **values}))
    for layer in model.quantizer.layers if trained else ():
        layer.codebook.embed.normal_()
        layer.codebook.cluster_size.uniform_(0.1, 10)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.2)
    return model.eval()


def save_encodec(folder: Path, **values) -> Path:
    build_encodec(**values).save_pretrained(folder)
    return folder


def typed(source: Path, out: Path, *more: str) -> list[str]:
    return [str(source), "-o", str(out), "--codebook-size", "32", *more]


def report(path: Path) -> dict[str, dict]:
    return {row["group"]: row for row in json.loads(path.read_text())["rows"]}


def load(folder: Path) -> RealTimeJazzCodec:
    codec, info = RealTimeJazzCodec.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    return codec.eval()


def unnormalised(codec: RealTimeJazzCodec, latents: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(codec.config.latents_mean), torch.tensor(codec.config.latents_std)
    return latents * std[:, None] + mean[:, None]


def hold(audio: torch.Tensor) -> torch.Tensor:
    return audio.repeat_interleave(2, dim=-1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encodec")
    kinds = {"mono": MONO_24, "stereo": STEREO_48, "same": SAME}
    return {name: save_encodec(root / name, **values) for name, values in kinds.items()}


@pytest.fixture(scope="module")
def converted(script, folders, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("converted")
    for name, folder in folders.items():
        assert script.main(typed(folder, root / name, "--json", str(root / f"{name}.json"))) == 0
    return {name: root / name for name in folders}


class TestSameShape:
    """48 kHz stereo, causal, 75 frames: nothing needs adapting."""

    @torch.no_grad()
    def test_encoder_and_decoder_equal_encodec(self, converted):
        encodec, codec = build_encodec(**SAME), load(converted["same"])
        audio = 0.3 * torch.randn(2, 2, 12 * 640)
        latents = encodec.encoder(audio)
        ours = codec.encode(audio, return_codes=False).latents
        assert torch.allclose(unnormalised(codec, ours), latents, atol=1e-5)
        assert torch.allclose(codec.decode(latents=ours).audio, encodec.decoder(latents), atol=1e-5)

    def test_every_layer_is_carried_bit_by_bit(self, converted):
        rows = report(converted["same"].with_suffix(".json"))
        layers = {name: row for name, row in rows.items() if ".layers." in name and "quantizer" not in name}
        assert len(layers) == 22 and {row["status"] for row in layers.values()} == {"carried"}
        theirs, ours = build_encodec(**SAME).state_dict(), load(converted["same"]).state_dict()
        kept = [name for name in ours if name.startswith(("encoder.", "decoder."))]
        assert any(".lstm." in name for name in kept) and any("original0" in name for name in kept)
        assert all(torch.equal(ours[name], theirs[name]) for name in kept)


class TestMono24:
    @torch.no_grad()
    def test_on_held_samples_it_is_encodec(self, converted):
        encodec, codec = build_encodec(**MONO_24), load(converted["mono"])
        assert codec.config.seanet_strides == (8, 5, 4, 4) and codec.config.seanet_audio_dilation == 2
        left, right = 0.3 * torch.randn(2, 1, 1, 12 * 320)
        latents = encodec.encoder((left + right) / 2)
        ours = codec.encode(hold(torch.cat([left, right], dim=1)), return_codes=False).latents
        assert torch.allclose(unnormalised(codec, ours), latents, atol=1e-5)
        wanted = hold(encodec.decoder(latents)).repeat(1, 2, 1)
        assert torch.allclose(codec.decode(latents=ours).audio, wanted, atol=1e-5)

    @torch.no_grad()
    def test_codes_that_encodec_made_decode_alike(self, converted):
        encodec, codec = build_encodec(**MONO_24), load(converted["mono"])
        audio = 0.3 * torch.randn(1, 1, 12 * 320)
        codes = encodec.encode(audio, bandwidth=6.0).audio_codes[0][:, :4]  # (1, 4, 12)
        wanted = encodec.decoder(encodec.quantizer.decode(codes.transpose(0, 1)))
        assert torch.allclose(codec.decode(codes=codes).audio, hold(wanted).repeat(1, 2, 1), atol=1e-5)

    @torch.no_grad()
    def test_streams(self, converted):
        codec = load(converted["mono"])
        audio = 0.3 * torch.randn(1, 2, 8 * 640)
        whole = codec.encode(audio).latents
        state, pieces = codec.init_encoder_state(), []
        for piece in audio.split([100, 3000, 7, 2013], dim=-1):
            out = codec.encode(piece, state=state)
            state, pieces = out.state, [*pieces, out.latents]
        assert torch.allclose(torch.cat(pieces, dim=-1), whole, atol=1e-5)
        first = codec.decode(latents=whole[..., :3])
        second = codec.decode(latents=whole[..., 3:], state=first.state)
        both = torch.cat([first.audio, second.audio], dim=-1)
        assert torch.allclose(both, codec.decode(latents=whole).audio, atol=1e-5)

    def test_what_is_carried_and_what_is_adapted(self, converted):
        rows = report(converted["mono"].with_suffix(".json"))
        adapted = {name for name, row in rows.items() if row["status"] == "adapted"}
        assert adapted == {"encoder.layers.0", "encoder.layers.3", "decoder.layers.12", "decoder.layers.15",
                           "quantizer.layers.0-3", "latents' mean, deviation"}  # fmt: skip
        assert all(row["difference"] is None or row["difference"] <= 1e-5 for row in rows.values())
        theirs, ours = build_encodec().state_dict(), load(converted["mono"]).state_dict()
        dilated = "encoder.layers.1.block.1.conv.parametrizations.weight.original1"
        assert torch.equal(theirs[dilated], ours[dilated])

    def test_trains_on(self, converted):
        codec = load(converted["mono"]).train()
        out = codec(0.3 * torch.randn(2, 2, 6 * 640), levels=torch.tensor([0, 4]), latent_noise=0.05)
        (out.audio.square().mean() + out.quantizer.loss).backward()
        trained = {name: p for name, p in codec.named_parameters() if p.grad is not None}
        assert len(trained) == len(list(codec.parameters()))
        assert all(torch.isfinite(p.grad).all() for p in trained.values())

    def test_names_of_old_weight_norm(self, script, folders, converted, tmp_path):
        old = shutil.copytree(folders["mono"], tmp_path / "old")
        weights = load_file(old / "model.safetensors")
        names = {
            "parametrizations.weight.original0": "weight_g",
            "parametrizations.weight.original1": "weight_v",
        }
        for new, former in names.items():
            weights = {name.replace(new, former): value for name, value in weights.items()}
        assert any(name.endswith("conv.weight_g") for name in weights)
        save_file(weights, old / "model.safetensors", metadata={"format": "pt"})
        assert script.main(typed(old, tmp_path / "x")) == 0
        ours, again = load(converted["mono"]).state_dict(), load(tmp_path / "x").state_dict()
        assert all(torch.equal(ours[name], again[name]) for name in ours)


class TestStereo48:
    def test_what_is_carried_and_what_is_adapted(self, converted):
        codec, rows = load(converted["stereo"]), report(converted["stereo"].with_suffix(".json"))
        assert codec.config.seanet_strides == (16, 5, 4, 2) and codec.config.seanet_audio_dilation == 1
        carried = {name for name, row in rows.items() if row["status"] == "carried"}
        assert carried == {"encoder.layers.13", "decoder.layers.1"}  # the LSTMs: every kernel had a norm
        assert "mean of two frames" in rows["encoder.layers.12"]["how"]
        assert "each frame twice" in rows["decoder.layers.3"]["how"]
        assert all(row["difference"] is None or row["difference"] <= 1e-5 for row in rows.values())
        assert codec.encode(0.1 * torch.randn(1, 2, 6400)).codes.shape == (1, 4, 10)

    @torch.no_grad()
    def test_over_its_own_segment_a_fixed_norm_changes_nothing(self, modules):
        encodec = build_encodec(**STEREO_48)
        segment = 0.2 * torch.randn(1, 2, 6400)
        rms = segment.mean(dim=1).square().mean().sqrt()
        latents = encodec.encoder(segment / rms)
        audio = encodec.decoder(latents)
        assert modules["encodec_source"].fix_statistics(encodec, [segment]) == pytest.approx(rms.item())
        assert not any(isinstance(module, nn.GroupNorm) for module in encodec.modules())
        assert torch.allclose(encodec.encoder(segment / rms), latents, atol=1e-4)
        assert torch.allclose(encodec.decoder(latents), audio, atol=1e-4)

    @pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
    @pytest.mark.parametrize("stride", [2, 5, 8])
    @torch.no_grad()
    def test_a_steady_signal_does_not_notice_the_lost_future(self, modules, kind, stride):
        layers, conv = modules["encodec_layers"], kind(3, 3, 2 * stride, stride)
        weight, _ = layers.hold_future(conv).edit(conv.weight, conv.bias)
        assert not torch.equal(weight, conv.weight)
        steady = torch.randn(1, 3, 1).expand(1, 3, 8 * stride)
        before = conv(steady)
        conv.weight.copy_(weight)
        after = conv(steady)
        if (
            kind is nn.ConvTranspose1d
        ):  # away from the edges; EnCodec trims from the start what it looks ahead
            ahead, inside = layers.look_ahead(conv), 2 * stride
            before, after = before[..., inside + ahead : ahead - inside], after[..., inside:-inside]
        assert torch.allclose(after, before, atol=1e-5)

    def test_statistics_of_given_music(self, script, folders, converted, tmp_path):
        music = 0.2 * np.random.default_rng(0).standard_normal((2, 2 * 48_000)).astype(np.float32)
        write_audio(tmp_path / "a.wav", music)
        assert (
            script.main(typed(folders["stereo"], tmp_path / "x", "--calibration", str(tmp_path / "a.wav")))
            == 0
        )
        name = "encoder.layers.0.conv.bias"
        assert not torch.equal(
            load(tmp_path / "x").state_dict()[name], load(converted["stereo"]).state_dict()[name]
        )

    def test_silent_channels_stay_numbers(self, script, tmp_path):
        model = build_encodec(**STEREO_48)
        model.encoder.layers[3].norm.weight.data[1] = 0.0
        model.save_pretrained(tmp_path / "a")
        assert script.main(typed(tmp_path / "a", tmp_path / "x")) == 0
        assert torch.isfinite(load(tmp_path / "x").encode(0.1 * torch.randn(1, 2, 6400)).latents).all()


@pytest.mark.parametrize(
    "values",
    [
        {"upsampling_ratios": [5, 4, 4, 2]},  # 24 kHz and 150 frames
        {"use_causal_conv": False},
        {"audio_channels": 2, "norm_type": "time_group_norm"},
        {**SAME, "upsampling_ratios": [8, 5, 4, 2]},
        {**SAME, "use_causal_conv": False, "normalize": True},
    ],
)
def test_other_mixtures_are_proven_too(script, values, tmp_path):
    save_encodec(tmp_path / "a", **values)
    assert script.main(typed(tmp_path / "a", tmp_path / "x", "--json", str(tmp_path / "x.json"))) == 0
    proven = [row for row in report(tmp_path / "x.json").values() if row["difference"] is not None]
    assert len(proven) >= 23 and load(tmp_path / "x").config.hop_length == 640


class TestCodebooks:
    def test_new_entries_lie_beside_the_old(self, converted):
        old = [layer.codebook.embed for layer in build_encodec(**MONO_24).quantizer.layers]
        for layer, entries in zip(load(converted["mono"]).quantizer.layers, old):
            assert torch.equal(layer.embed[:16], entries)
            assert torch.unique(layer.embed, dim=0).shape[0] == 32
            # a new entry is nearer to one of the old ones than the old ones are to each other
            apart = (torch.cdist(entries, entries) + 1e3 * torch.eye(16)).min()
            assert (torch.cdist(layer.embed[16:], entries).min(dim=1).values > 0.1 * apart).all()
            assert torch.cdist(layer.embed[16:], entries).argmin(dim=1).unique().numel() == 16

    def test_the_most_used_are_split_first(self, modules):
        entries, share = torch.randn(8, 4), torch.tensor([0.0, 0.1, 0.3, 0.0, 0.2, 0.0, 0.4, 0.0])
        split = modules["encodec_codebooks"].split_entries
        more = split(entries, share, 3)
        assert torch.cdist(more, entries).argmin(dim=1).tolist() == [6, 2, 4]
        assert torch.unique(torch.cat([entries, split(entries, share, 24)]), dim=0).shape[0] == 32

    def test_as_many_entries_as_there_were_are_carried(self, script, folders, tmp_path):
        out, table = tmp_path / "x", tmp_path / "x.json"
        arguments = [str(folders["mono"]), "-o", str(out), "--codebook-size", "16", "--json", str(table)]
        assert script.main([*arguments, "--num-codebooks", "6"]) == 0
        row = report(table)["quantizer.layers.0-5"]
        assert row["status"] == "carried" and load(out).quantizer.is_initialized

    def test_levels_that_encodec_lacks_or_never_trained_start_fresh(self, script, folders, tmp_path):
        save_encodec(tmp_path / "a", **STEREO_48, trained=False)
        for source, groups in (
            (folders["stereo"], ("quantizer.layers.0-9", "quantizer.layers.10-11")),
            (tmp_path / "a", ("quantizer.layers.0-11",)),
        ):
            arguments = typed(source, tmp_path / "x", "--overwrite", "--json", str(tmp_path / "x.json"))
            assert script.main([*arguments, "--num-codebooks", "12"]) == 0
            rows = report(tmp_path / "x.json")
            assert {name for name in rows if name.startswith("quantizer")} == set(groups)
            assert rows[groups[-1]]["status"] == "fresh"
            assert not load(tmp_path / "x").quantizer.is_initialized

    @torch.no_grad()
    def test_fewer_latents_are_principal_components(self, script, tmp_path):
        """Latents of a source that uses 3 of its 8 dimensions keep everything in 3."""
        model = build_encodec(**MONO_24)
        plane = torch.linalg.qr(torch.randn(8, 3)).Q
        for layer in model.quantizer.layers:
            layer.codebook.embed.copy_(layer.codebook.embed @ plane @ plane.T)
        model.save_pretrained(tmp_path / "a")
        assert script.main(typed(tmp_path / "a", tmp_path / "x", "--latent-dim", "3")) == 0
        codec = load(tmp_path / "x")
        codes = torch.randint(16, (1, 4, 12))
        wanted = model.decoder(model.quantizer.decode(codes.transpose(0, 1)))
        assert codec.config.latent_dim == 3
        assert torch.allclose(codec.decode(codes=codes).audio, hold(wanted).repeat(1, 2, 1), atol=1e-4)

    def test_latents_are_normalised_by_what_the_codebooks_tell(self, converted):
        codec = load(converted["mono"])
        generator = torch.Generator().manual_seed(0)
        encodec = build_encodec(**MONO_24)
        draws = [torch.multinomial(layer.codebook.cluster_size, 4000, True, generator=generator)
                 for layer in encodec.quantizer.layers]  # fmt: skip
        latents = encodec.quantizer.decode(torch.stack(draws)[:, None])[0]
        mean, std = torch.tensor(codec.config.latents_mean), torch.tensor(codec.config.latents_std)
        assert ((latents.mean(dim=1) - mean) / std).abs().max() < 0.1
        assert (latents.std(dim=1) / std - 1).abs().max() < 0.1


def test_without_the_lstm(script, folders, tmp_path):
    arguments = typed(folders["mono"], tmp_path / "x", "--drop-lstm", "--json", str(tmp_path / "x.json"))
    assert script.main(arguments) == 0
    assert report(tmp_path / "x.json")["encoder.layers.13"]["status"] == "dropped"
    assert not any("lstm" in name for name in load(tmp_path / "x").state_dict())


class TestRefusal:
    @pytest.mark.parametrize("damaged", ["encoder.layers.4.block.1", "encoder.layers.3"])
    def test_a_layer_that_differs_is_named_and_nothing_is_written(
        self, script, folders, tmp_path, capsys, monkeypatch, damaged
    ):
        """Carried or adapted: one wrong number is found."""
        convert_layer = script.convert_layer

        def damage(plan, layers, index, target, group):
            if damaged.startswith(group + ".") or damaged == group:
                layer = layers[index].get_submodule(damaged[len(group) + 1 :])
                original = layer.forward
                layer.forward = lambda x: original(x) + 1e-3
            return convert_layer(plan, layers, index, target, group)

        monkeypatch.setattr(script, "convert_layer", damage)
        assert script.main(typed(folders["mono"], tmp_path / "x", "--json", str(tmp_path / "x.json"))) == 1
        said = capsys.readouterr()
        assert ".".join(damaged.split(".")[:3]) in said.err and "nothing was written" in said.err
        assert not list(tmp_path.iterdir())

    def test_an_lstm_that_differs(self, script, folders, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(script, "convert_lstm", lambda source, target: float("nan"))
        assert script.main(typed(folders["mono"], tmp_path / "x")) == 1
        assert "encoder.layers.13 (nan)" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_is_no_encodec(self, script, converted, folders, tmp_path, capsys):
        def refuse(source: Path) -> str:
            assert script.main(typed(source, tmp_path / "x")) == 1
            assert not (tmp_path / "x").exists()
            return capsys.readouterr().err

        assert "no config.json" in refuse(tmp_path / "nowhere")
        assert "'realtime_jazz_codec'; 'encodec' is wanted" in refuse(converted["mono"])
        broken = shutil.copytree(folders["mono"], tmp_path / "broken")
        (broken / "config.json").write_text("[1, 2")
        assert "cannot be read" in refuse(broken)
        (broken / "config.json").write_text('{"model_type": "encodec", "num_filters": "many"}')
        assert "is no EnCodec configuration" in refuse(broken)

    def test_missing_cut_or_foreign_weights(self, script, folders, tmp_path, capsys):
        def refuse(source: Path) -> str:
            assert script.main(typed(source, tmp_path / "x")) == 1
            assert not (tmp_path / "x").exists()
            return capsys.readouterr().err

        folder = shutil.copytree(folders["mono"], tmp_path / "a")
        path = folder / "model.safetensors"
        weights = load_file(path)
        path.unlink()
        assert "no model.safetensors" in refuse(folder)
        shutil.copy(folders["mono"] / "model.safetensors", path)
        path.write_bytes(path.read_bytes()[:-100])
        assert "cut short" in refuse(folder)
        path.write_bytes(b"hello")
        assert "not a safetensors file" in refuse(folder)
        lacking = {name: value for name, value in weights.items() if "lstm" not in name}
        save_file(lacking, path, metadata={"format": "pt"})
        assert "missing_keys" in refuse(folder)
        weights["encoder.layers.0.conv.bias"][0] = float("nan")
        save_file(weights, path, metadata={"format": "pt"})
        assert "encoder.layers.0.conv.bias holds NaN" in refuse(folder)

    @pytest.mark.parametrize(
        "values, said",
        [
            ({"sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4]}, "sampling_rate=32000"),
            ({"upsampling_ratios": [8, 5, 4, 4]}, "37.5 frames a second; 75 or 150"),
            ({"num_residual_layers": 2}, "num_residual_layers=2"),
            ({"use_conv_shortcut": False}, "use_conv_shortcut=False"),
            ({"kernel_size": 5}, "kernel_size=5 is not supported; it must be 7"),
        ],
    )
    def test_sizes_that_the_codec_cannot_have(self, script, tmp_path, capsys, values, said):
        save_encodec(tmp_path / "a", **values)
        assert script.main(typed(tmp_path / "a", tmp_path / "x")) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "x").exists()

    @pytest.mark.parametrize(
        "options, said",
        [
            (["--codebook-size", "8"], "--codebook-size 8 must be from 16 to 64"),
            (["--codebook-size", "65"], "must be from 16 to 64"),
            (["--latent-dim", "9"], "--latent-dim 9 must be from 1 to 8"),
            (["--num-codebooks", "0"], "num_codebooks=0"),
            (["--num-codebooks", "33"], "num_codebooks=33"),
            (["--calibration", "a.wav"], "--calibration is for a source with time_group_norm"),
        ],
    )
    def test_options_out_of_range(self, script, folders, tmp_path, capsys, options, said):
        assert script.main(typed(folders["mono"], tmp_path / "x", *options)) == 1
        assert said in capsys.readouterr().err and not list(tmp_path.iterdir())

    def test_calibration_that_cannot_be_used(self, script, folders, tmp_path, capsys):
        write_audio(tmp_path / "silence.wav", np.zeros((2, 48_000), dtype=np.float32))
        (tmp_path / "text.wav").write_text("la")
        for name, said in (("silence", "not silent"), ("text", "cannot be read"), ("none", "no audio file")):
            audio = str(tmp_path / f"{name}.wav")
            assert script.main(typed(folders["stereo"], tmp_path / "x", "--calibration", audio)) == 1
            assert said in capsys.readouterr().err and not (tmp_path / "x").exists()


class TestOutput:
    def test_card_and_report_say_where_it_is_from_and_not_on_which_machine(self, converted, folders):
        card = (converted["mono"] / "README.md").read_text()
        assert "`mono`" in card and "licence" in card and "encoder.layers.13" in card
        for path in (*converted["mono"].iterdir(), converted["mono"].with_suffix(".json")):
            text = path.read_bytes()
            assert str(folders["mono"].parent).encode() not in text and b".partial" not in text
        codec = json.loads(converted["mono"].with_suffix(".json").read_text())["codec"]
        assert RealTimeJazzCodecConfig(**codec).seanet_audio_dilation == 2

    def test_what_is_there_is_replaced_only_when_asked_and_only_if_a_codec(
        self, script, folders, tmp_path, capsys
    ):
        out = tmp_path / "x"
        assert script.main(typed(folders["mono"], out)) == 0
        (out / "old.txt").write_text("old")
        assert script.main(typed(folders["mono"], out)) == 1
        assert "--overwrite" in capsys.readouterr().err and (out / "old.txt").exists()
        assert script.main(typed(folders["mono"], out, "--overwrite")) == 0
        assert not (out / "old.txt").exists() and (out / "model.safetensors").exists()
        music = tmp_path / "music"
        music.mkdir()
        (music / "config.json").write_text("[]")
        for other in (music, music / "config.json", folders["mono"]):
            assert script.main(typed(folders["mono"], other, "--overwrite")) == 1
            assert str(other) in capsys.readouterr().err
        assert (music / "config.json").read_text() == "[]"
        assert (folders["mono"] / "model.safetensors").exists()

    def test_the_report_is_checked_before_the_work(self, script, folders, tmp_path, capsys):
        for path in (tmp_path, tmp_path / "nowhere" / "x.json", tmp_path / "x.txt"):
            assert script.main(typed(folders["mono"], tmp_path / "x", "--json", str(path))) == 1
            assert not (tmp_path / "x").exists()
        assert "allowed: .json" in capsys.readouterr().err
