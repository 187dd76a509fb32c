"""The probe of latents through `main()`: tiny models, takes of three seconds, two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scripts import load_script
from synthetic_takes import write_takes
from test_training_scripts import refused
from tiny_models import TINY_FLOW, plucked_clip

from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.corpus.dataset import load_takes

pytest.importorskip("tensorboard")
yaml = pytest.importorskip("yaml")
pytest.importorskip("matplotlib")
pytest.importorskip("librosa")


@pytest.fixture(scope="module")
def script():
    return load_script("probe_latents")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_takes(tmp_path_factory.mktemp("corpus"), count=5, held_out=2)


@pytest.fixture(scope="module")
def flow_yaml(tmp_path_factory) -> Path:
    sizes = {key: value for key, value in TINY_FLOW.items() if key not in ("codebook_size", "latent_dim")}
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump({
        "model": {**sizes, "patch_size": 3}, "crop_frames": 72, "ema_decay": 0.9, "mixed_precision": "no",
    }))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def codec_folder(tiny_pipeline, corpus, tmp_path_factory) -> Path:
    """A codec with codes."""
    folder = tmp_path_factory.mktemp("codec")
    tiny_pipeline.codec.save_pretrained(folder)
    codec = type(tiny_pipeline.codec).from_pretrained(folder)
    clips = [torch.from_numpy(take.audio())[None] for take in load_takes(corpus, "train")]
    latents = torch.cat([codec.encode(clip, return_codes=False).latents[0].T for clip in clips])
    codec.quantizer.fit(latents, generator=torch.Generator().manual_seed(0))
    codec.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def typed(corpus, flow_yaml, tiny_folder):
    def make(out: Path, *candidates: str, **values) -> list[str]:
        options = {"takes": corpus, "out": out, "config": flow_yaml, "style_encoder": tiny_folder / "style_encoder",
                   "steps": 2, "batch_size": 2, "num_takes": 2, "num_charts": 1, "seconds": 2, "sampling_steps": 1,
                   "fit_clips": 2, "cue_channels": 4, **values}  # fmt: skip
        words = [
            word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))
        ]
        return [*words, "--candidates", *candidates]

    return make


@pytest.fixture(scope="module")
def probed(script, typed, codec_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("probe") / "out"
    script.main(typed(out, f"mine={codec_folder}", f"cued=cues:{codec_folder}"))
    return out


def read(out: Path, name: str) -> dict:
    return json.loads((out / name / "result.json").read_text())


class TestProbe:
    def test_both_masters_of_every_candidate(self, probed):
        for name, cues in (("mine", 0), ("cued", 4)):
            result = read(probed, name)
            assert (result["latent_dim"], result["cue_channels"], result["steps"]) == (64, cues, 2)
            losses = result["validation"]
            assert {"true", "rotated", "none", "relative_gap"} <= losses["by_time"]["0.1"].keys()
            gap = (losses["rotated"] - losses["true"]) / losses["true"]
            assert losses["relative_gap"] == pytest.approx(gap)
            assert ("with_cues" in losses) == bool(cues)
            assert {"chord_score", "beat_f", "beat_f_render"} <= result["sound"]["mean"].keys()
            assert len(result["sound"]["charts"]) == 1
            assert {"pitch_correlation", "mel_distance_db", "obedience"} <= result["codec"].keys()
            assert result["sound"]["notes"] == result["codec"]["notes"] == {}  # these takes have no scores
            assert result["seconds_per_step"] > 0 and result["core_seconds_per_step"] > 0
            assert len(list((probed / name / "clips").glob("*.flac"))) == 1
            assert not (probed / name / "run" / "checkpoints").exists()
        assert read(probed, "mine")["codec"] == read(probed, "cued")["codec"]

    def test_same_takes_and_crops_for_all(self, probed):
        names = [sorted(path.name for path in (probed / name / "latents" / "takes").iterdir())
                 for name in ("mine", "cued")]  # fmt: skip
        assert names[0] == names[1] and len(names[0]) == 2 * (2 + 2)  # two to train on, two held out

    def test_one_table_and_one_picture(self, probed):
        table = [
            line.split("|") for line in (probed / "probe.md").read_text().splitlines() if line[:1] == "|"
        ]
        assert [row[1].strip() for row in table] == ["latents", "---", "mine", "cued", "renders"]
        assert len({len(row) for row in table}) == 1
        assert table[3][2].strip() == "64 + 4"
        assert (probed / "probe.png").stat().st_size > 10_000
        results = json.loads((probed / "probe.json").read_text())["results"]
        assert [result["name"] for result in results] == ["mine", "cued"]

    def test_what_is_finished_is_not_trained_again(self, script, typed, probed, codec_folder, capsys):
        (probed / "cued" / "result.json").unlink()  # as if the second had been stopped before its end
        before = {path: path.stat().st_mtime_ns for path in (probed / "mine").rglob("*") if path.is_file()}
        loss = (probed / "cued" / "run" / "log.jsonl").read_text().splitlines()[-1]
        script.main(typed(probed, f"mine={codec_folder}", f"cued=cues:{codec_folder}", "pca"))
        after = {path: path.stat().st_mtime_ns for path in (probed / "mine").rglob("*") if path.is_file()}
        assert after == before
        assert "mine: done before" in (said := capsys.readouterr().out)
        assert "pca: 0." in said
        again = (probed / "cued" / "run" / "log.jsonl").read_text().splitlines()[-1]
        assert json.loads(again)["loss"] == pytest.approx(json.loads(loss)["loss"], rel=1e-5)
        assert "| pca | 128 |" in (probed / "probe.md").read_text()

    def test_what_was_stopped_goes_on(self, script, typed, probed, codec_folder, flow_yaml, tmp_path):
        hurried = tmp_path / "hurried.yaml"
        hurried.write_text(flow_yaml.read_text() + "max_minutes: 1.0e-9\n")
        words = f"mine={codec_folder}"
        with pytest.raises(SystemExit) as exit_info:
            script.main(typed(tmp_path / "out", words, config=hurried))
        assert exit_info.value.code == 130
        log = tmp_path / "out" / "mine" / "run" / "log.jsonl"
        assert not log.exists()  # one step of two
        script.main(typed(tmp_path / "out", words))
        losses = [
            json.loads(path.read_text())["loss"] for path in (log, probed / "mine" / "run" / "log.jsonl")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        validation = [read(out, "mine")["validation"]["true"] for out in (tmp_path / "out", probed)]
        assert validation[0] == pytest.approx(validation[1], rel=1e-4)

    def test_other_settings_need_another_folder(self, script, typed, probed, codec_folder, capsys):
        said = refused(script, typed(probed, f"mine={codec_folder}", steps=3), capsys)
        assert "max_steps 2, now 3" in said and "another folder" in said
        assert "codec" in refused(script, typed(probed, "mine=rtjazz-mini"), capsys)

    def test_codes_instead_of_velocity(self, script, typed, probed, codec_folder):
        script.main(typed(probed, f"mine={codec_folder}", prediction="codebook"))
        result = read(probed, "mine-codebook")
        assert result["prediction"] == "codebook"
        assert result["codec_codes"]["bits_per_second"] > 0
        assert "| mine-codebook |" in (table := (probed / "probe.md").read_text()) and "| mine |" in table

    def test_codes_without_memory_for_a_codec_that_predicts(
        self, script, typed, tiny_pipeline, codec_folder, tmp_path, capsys
    ):
        config = RealTimeJazzCodecConfig.from_dict(
            {**tiny_pipeline.codec.config.to_dict(), "prediction_levels": 4, "codebook_dim": 64}
        )
        codec = RealTimeJazzCodec(config).eval()
        codec.encoder.load_state_dict(tiny_pipeline.codec.encoder.state_dict())
        codec.fit_codes([plucked_clip()], generator=torch.Generator().manual_seed(0))
        codec.save_pretrained(tmp_path / "codec")
        words, out = f"mine={tmp_path / 'codec'}", tmp_path / "out"
        said = refused(script, typed(out, words, prediction="codebook"), capsys)
        assert "prediction_levels=4" in said and "--fit-codes" in said
        script.main([*typed(out, words, prediction="codebook", codebook_steps=1), "--fit-codes"])
        assert "variance left after each level" in capsys.readouterr().out
        result = read(out, "mine-codebook")
        assert (result["prediction"], result["steps"]) == ("codebook", 1)
        fitted = RealTimeJazzCodec.from_pretrained(out / "codecs" / "mine-memoryless")
        assert fitted.config.prediction_levels == 0 and fitted.config.num_codebooks == 4
        clip = plucked_clip()
        assert torch.equal(fitted.encode(clip).latents, codec.encode(clip).latents)
        script.main(typed(out, words))  # and its velocity beside it
        assert read(out, "mine")["steps"] == 2
        assert "| mine-codebook |" in (table := (out / "probe.md").read_text()) and "| mine |" in table


class TestBadInput:
    def test_candidates(self, script, typed, codec_folder, tmp_path, capsys):
        for words, said in (
            (["pcs"], "unknown candidate 'pcs'"),
            ([f"a/b={codec_folder}"], "no name for its folder"),
            ([f"codecs={codec_folder}"], "no name for its folder"),
            (["a=pca", "a=start"], "same name"),
            ([f"mine={tmp_path / 'nowhere'}"], str(tmp_path / "nowhere")),
            ([f"mine={tmp_path}"], "no config.json"),
        ):
            assert said in refused(script, typed(tmp_path / "out", *words), capsys)
        assert not (tmp_path / "out").exists()

    def test_no_codes_to_predict(self, script, typed, tiny_folder, tmp_path, capsys):
        said = refused(script, typed(tmp_path, f"mine={tiny_folder}", prediction="codebook"), capsys)
        assert "has no codes" in said

    def test_takes(self, script, typed, codec_folder, tmp_path, capsys):
        mine = f"mine={codec_folder}"
        assert "holds no takes" in refused(script, typed(tmp_path / "a", mine, takes=tmp_path / "no"), capsys)
        corpus = write_takes(tmp_path / "corpus", count=2, held_out=0)
        assert "'test'" in refused(script, typed(tmp_path / "a", mine, takes=corpus), capsys)
        corpus = write_takes(tmp_path / "other", count=2, held_out=2)
        assert "'train'" in refused(script, typed(tmp_path / "a", mine, takes=corpus), capsys)

    def test_numbers(self, script, typed, codec_folder, tmp_path, capsys):
        assert "steps" in refused(script, typed(tmp_path, f"mine={codec_folder}", steps=0), capsys)
        assert "1..92" in refused(script, typed(tmp_path, f"a=cues:{codec_folder}", cue_channels=100), capsys)
