"""Pipelines and adapters to the loopback Hub and back, with the real client, by processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hub_stub import HubStub
from safetensors.torch import save_file
from scripts import ROOT, load_script

from rtjazz_hf import hub
from rtjazz_hf.hub import publishing
from rtjazz_hf.hub.adapter_folder import check_adapter_folder

ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
           "base_model_name_or_path": "/home/me/secret/model"}  # fmt: skip


def write_adapter(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**ADAPTER, **config}))
    weights = {"base_model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.randn(4, 64)}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def adapter(tmp_path) -> Path:
    return write_adapter(tmp_path / "my-style")


def run(script: str, stub: HubStub, cache: Path, *arguments: object, token: str | None = "hf_stub") -> str:
    """A script in a process of its own that knows the stub alone; what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")
    }
    common = """
        import json
        import sys
        from transformers import AutoModel            # both before rtjazz_hf: registration must catch up
        from diffusers import DiffusionPipeline
        import rtjazz_hf
        import torch
        from rtjazz_hf import RealTimeJazzPipeline, hub
        from rtjazz_hf.hub import publishing
        from rtjazz_hf.hub.adapter_folder import check_adapter_folder, download_adapter

        def play(pipe):
            pipe.set_progress_bar_config(disable=True)
            generator = torch.Generator().manual_seed(3)
            return pipe("swing", duration=0.6, generator=generator, output_type="pt").audios

        def said(kind, action):
            try:
                action()
            except kind as error:
                return str(error)
            raise AssertionError("nothing was raised")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(common) + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**environment, **stub.environment(cache, token)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


PUSH = """
    import os
    from pathlib import Path
    pipe = RealTimeJazzPipeline.from_pretrained(sys.argv[1])
    pushes = (lambda name: pipe.push_to_hub(name), lambda name: pipe.push_adapter_to_hub(name, Path(sys.argv[3])))
    refused = {}
    for token in ("hf_stub", "hf_reader", "hf_wrong", ""):
        os.environ["HF_TOKEN"] = token
        refused[token] = [said((ValueError, PermissionError), lambda: push(name))
                          for push in pushes for name in ("../evil", "stub/../x", "other/model")]
    os.environ["HF_TOKEN"] = "hf_stub"
    want = play(pipe)
    torch.save(want, sys.argv[2])
    pipe.push_to_hub("stub/tiny", private=True, revision="v2")
    pipe.push_adapter_to_hub("stub/style", sys.argv[3], private=True, revision="take-2")
    text = said(OSError, lambda: download_adapter("stub/style", token=False))
    assert "could not be had" in text, text
"""
# In the same process, by every door: what was pushed is what comes back, and no more of it than was asked for.
BACK = """
    from huggingface_hub import scan_cache_dir
    from rtjazz_hf.hub import load_codec, part_folder

    pipe.push_to_hub("stub/whole", model_card="# by hand")
    pipe.push_to_hub("stub/whole")                # keeps the card
    alone = load_codec("stub/whole")
    assert all(torch.equal(a, b) for a, b in zip(pipe.codec.parameters(), alone.parameters()))
    files = {file.file_name for repo in scan_cache_dir().repos for rev in repo.revisions for file in rev.files}
    assert files == {"model_index.json", "config.json", "model.safetensors"}, "more than the codec"
    ours = RealTimeJazzPipeline.from_pretrained("stub/whole")
    assert torch.equal(want, play(ours)), "RealTimeJazzPipeline"
    assert ours.name_or_path == "stub/whole"
    theirs = DiffusionPipeline.from_pretrained("stub/whole")
    assert type(theirs) is RealTimeJazzPipeline
    assert torch.equal(want, play(theirs)), "DiffusionPipeline"
    codec, info = AutoModel.from_pretrained("stub/whole", subfolder="codec", output_loading_info=True)
    assert type(codec) is rtjazz_hf.RealTimeJazzCodec
    assert not info["missing_keys"] and not info["unexpected_keys"]
    pipe.codec.push_to_hub("stub/codec")
    assert part_folder("stub/whole", "style_encoder").with_name("tokenizer").joinpath("tokenizer.json").is_file()
    assert load_codec("stub/codec").config.codebook_size == pipe.codec.config.codebook_size
    pipe.transformer.push_to_hub("stub/flow")
    again = rtjazz_hf.RealTimeJazzFlowTransformer.from_pretrained("stub/flow")
    assert all(torch.equal(a, b) for a, b in zip(pipe.transformer.parameters(), again.parameters()))
    assert "stub/nothing" in said(OSError, lambda: RealTimeJazzPipeline.from_pretrained("stub/nothing"))
    print(json.dumps(refused))
"""
PULL = """
    from huggingface_hub import HfApi
    api = HfApi()
    assert "transformer/model.safetensors" in api.list_repo_files("stub/tiny", revision="v2")
    assert "model_index.json" not in api.list_repo_files("stub/tiny")            # the main branch is untouched
    assert api.model_info("stub/tiny").private
    pipe = RealTimeJazzPipeline.from_pretrained("stub/tiny", revision="v2", token="hf_reader")
    assert torch.equal(play(pipe), torch.load(sys.argv[1])), "played differently"
    folder = download_adapter("stub/style", revision="take-2")
    assert check_adapter_folder(folder)["r"] == 4
    for source in (lambda: RealTimeJazzPipeline.from_pretrained("stub/tiny", token=False, force_download=True),
                   lambda: RealTimeJazzPipeline.from_pretrained("stub/tiny", revision="v9")):
        assert "could not be had from the Hub" in said(OSError, source)
    print(folder)
"""


class TestPushed:
    """A process that pushes and loads, the Hub that it has pushed to, and another process that pulls."""

    @pytest.fixture(scope="class")
    def adapter(self, tmp_path_factory) -> Path:
        return write_adapter(tmp_path_factory.mktemp("mine") / "my-style")

    @pytest.fixture(scope="class")
    def pushed(self, tiny_folder, adapter, tmp_path_factory):
        """The Hub, the audio that was played, and what was said of pushes that were refused, by token."""
        folder = tmp_path_factory.mktemp("pushed")
        with HubStub() as stub:
            refused = run(PUSH + BACK, stub, folder / "cache", tiny_folder, folder / "audio.pt", adapter)
            yield stub, folder / "audio.pt", json.loads(refused.splitlines()[-1])

    @pytest.mark.slow
    def test_another_process_with_an_empty_cache_plays_the_same(self, pushed, adapter, tmp_path):
        stub, audio, _ = pushed
        folder = Path(run(PULL, stub, tmp_path / "theirs", audio))
        pulled = (folder / "adapter_model.safetensors").read_bytes()
        assert pulled == (adapter / "adapter_model.safetensors").read_bytes()
        files = stub.repositories["stub/style"].branches["take-2"]
        assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
        assert b"secret" not in files["adapter_config.json"]
        card = files["README.md"].decode()
        assert "library_name: peft" in card and "pipeline_tag: text-to-audio" in card and "Rank 4" in card

    @pytest.mark.parametrize(
        ("token", "words"),
        [
            ("hf_stub", "may not write to 'other/model'"),
            ("hf_reader", "may not write to 'other/model'"),
            ("hf_wrong", "does not know the token"),
            ("", "needs a token with write access"),
        ],
    )
    def test_impossible_names_and_no_write_access(self, pushed, token, words):
        stub, _, refused = pushed
        for what in (refused[token][:3], refused[token][3:]):  # a pipeline, an adapter
            assert all("cannot be a repository" in said for said in what[:2])
            assert words in what[2]
            assert "nothing was pushed" in what[2] or token not in ("hf_stub", "hf_reader")
        assert set(stub.repositories) == {"stub/tiny", "stub/style", "stub/whole", "stub/codec", "stub/flow"}

    def test_what_came_back_by_every_door_is_what_was_pushed(self, pushed):
        """Asserted where it was pushed from, in `BACK`; what the Hub holds is seen here."""
        stub, *_ = pushed
        files = stub.repositories["stub/whole"].files
        assert files["README.md"] == b"# by hand"
        assert {name.split("/")[0] for name in files if "/" in name} == set(hub.COMPONENTS)


class TestRefusals:
    @pytest.mark.slow  # the client waits between its tries
    def test_a_hub_that_is_lost_on_the_way(self, tiny_folder, tmp_path):
        script = """
            pipe = RealTimeJazzPipeline.from_pretrained(sys.argv[1])
            if sys.argv[2] == "again":
                pipe.push_to_hub("stub/tiny")
            else:
                print(said(ConnectionError, lambda: pipe.push_to_hub("stub/tiny")))
        """
        with HubStub() as stub:
            stub.break_after = 2
            said = run(script, stub, tmp_path / "cache", tiny_folder, "broken")
            assert "codec/model.safetensors, style_encoder/model.safetensors" in said
            assert "none of the files is in it yet" in said and "safe to run the same push again" in said
            assert not stub.repositories["stub/tiny"].files
            stub.break_after = None
            run(script, stub, tmp_path / "cache", tiny_folder, "again")
            assert len(stub.uploads) == 3 == len(set(stub.uploads)), "something was sent twice"
            assert "transformer/model.safetensors" in stub.repositories["stub/tiny"].files

    @pytest.mark.parametrize(
        "name", ["../x", "a/../b", "/etc", "a/b/c", "a b", "", "-x", "x.git", "a--b", "a/.."]
    )
    def test_repo_ids(self, name):
        with pytest.raises(ValueError, match="cannot be a repository"):
            hub.check_repo_id(name)

    @pytest.mark.parametrize("revision", ["../main", "a/../../b", "", "-x", "a b"])
    def test_revisions(self, revision):
        with pytest.raises(ValueError, match="cannot be a branch"):
            hub.check_revision(revision)
        hub.check_revision("feature/v1.0")


class TestAdapterFolders:
    def test_a_pickle_is_refused(self, adapter):
        (adapter / "adapter_model.bin").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"adapter_model\.bin.*runs code"):
            check_adapter_folder(adapter)

    def test_a_link_to_elsewhere_is_refused(self, adapter, tmp_path):
        (adapter / "notes.txt").symlink_to("/etc/hostname")
        with pytest.raises(OSError, match="holds links to elsewhere"):
            check_adapter_folder(adapter)

    def test_what_is_missing_is_named(self, adapter, tmp_path):
        with pytest.raises(OSError, match="there is no adapter folder"):
            check_adapter_folder(tmp_path / "nowhere")
        weights = adapter / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-5])
        with pytest.raises(OSError, match="cut short"):
            check_adapter_folder(adapter)
        (adapter / "adapter_config.json").write_text("{}")
        with pytest.raises(ValueError, match="peft_type"):
            check_adapter_folder(adapter)

    def test_only_what_is_an_adapters_is_pushed(self, adapter):
        (adapter / "optimizer.npz").write_bytes(b"x")
        names = {path.name for path in publishing.adapter_files(adapter)}
        assert names == {"adapter_config.json", "adapter_model.safetensors"}


class TestSample:
    def test_it_is_played_and_shown(self, tiny_pipeline, tmp_path):
        pytest.importorskip("matplotlib", reason="needs matplotlib")
        publishing.write_sample(tiny_pipeline, tmp_path, "swing", duration=1.0)
        assert {path.name for path in tmp_path.iterdir()} == {"sample.flac", "sample.png"}
        lines = publishing.sample_lines(tmp_path)
        assert "sample.flac" in lines and "sample.png" in lines
        assert publishing.sample_lines(None) == "None was given."


class TestWithoutThePackage:
    """`pipelines/hub/`: the code that comes with the model plays as the installed package does."""

    SCRIPT = """
        import importlib.util, os, sys
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        sys.path = [place for place in sys.path if not os.path.isdir(os.path.join(place, "rtjazz_hf"))]
        assert importlib.util.find_spec("rtjazz_hf") is None
        import torch
        from diffusers import DiffusionPipeline
        from huggingface_hub import snapshot_download

        folder = snapshot_download("stub/with-code")
        try:
            DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline")
        except ValueError as error:
            assert "trust_remote_code=True" in str(error)
        else:
            raise AssertionError("code ran that was not trusted")
        pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        audio = pipe("swing", duration=0.6, generator=generator, output_type="pt").audios
        assert torch.equal(audio, torch.load(sys.argv[1])), "played differently"
        print(sys.modules["rtjazz_hf"].__file__)
    """

    @pytest.mark.slow
    def test_from_the_hub(self, tiny_folder, tmp_path):
        shutil.copytree(tiny_folder, tmp_path / "model")
        script = load_script("add_code", "pipelines/hub")
        assert script.main([str(tmp_path / "model")]) == 0
        push = """
            torch.save(play(RealTimeJazzPipeline.from_pretrained(sys.argv[1])), sys.argv[2])
            publishing.push_folder(sys.argv[1], "stub/with-code")
            torch.save(play(RealTimeJazzPipeline.from_pretrained("stub/with-code")), sys.argv[3])
        """
        with HubStub() as stub:
            audio = [tmp_path / "audio.pt", tmp_path / "again.pt"]
            run(push, stub, tmp_path / "mine", tmp_path / "model", *audio)
            assert torch.equal(
                *map(torch.load, audio)
            )  # where it is installed, the code beside it is not asked
            environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(self.SCRIPT), str(audio[0])], capture_output=True, text=True,
                env={**environment, **stub.environment(tmp_path / "theirs"), "PYTHONPATH": ""}, cwd=tmp_path,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert str(tmp_path / "theirs") in done.stdout

    def test_no_pipeline(self, tmp_path, capsys):
        (tmp_path / "notes.txt").write_text("mine")
        script = load_script("add_code", "pipelines/hub")
        assert script.main([str(tmp_path)]) == 1
        assert "no model_index.json" in capsys.readouterr().err and not (tmp_path / "pipeline.py").exists()


class TestTemplates:
    """`model_cards/`: every place has a value, and the Hub's fields are read back."""

    FOLDER = ROOT / "model_cards"
    GIVEN = {
        "data": "12 minutes of my trio", "rights": "mine", "training": "`rtjazz adapt`", "limits": "none known",
        "metrics": "| distance | 0.7 | `rtjazz evaluate --takes mine` |", "licence": "CC-BY-4.0",
    }  # fmt: skip

    @pytest.mark.parametrize(("kind", "base"), [("base", None), ("fine-tune", "me/rtjazz-base")])
    def test_of_a_pipeline(self, tiny_pipeline, kind, base):
        from huggingface_hub import ModelCard

        template = (self.FOLDER / f"{kind}.md").read_text()
        text = hub.model_card(
            tiny_pipeline, "me/band", template, base_model=base, metadata={"license": "cc-by-4.0"},
            **self.GIVEN, sample=publishing.sample_lines(None),
        )  # fmt: skip
        data = ModelCard(text).data
        assert (data.library_name, data.pipeline_tag, data.license) == (
            "diffusers",
            "text-to-audio",
            "cc-by-4.0",
        )
        assert data.base_model == base and "jazz" in data.tags and "{{" not in text
        for words in (*self.GIVEN.values(), "me/band", "RealTimeJazzCodec"):
            assert words in text

    def test_of_an_adapter(self, tiny_pipeline, adapter):
        from huggingface_hub import ModelCard

        write_adapter(adapter, base_model_name_or_path="me/rtjazz-base")
        (adapter / "sample.flac").write_bytes(b"x")
        template = (self.FOLDER / "adapter.md").read_text()
        text = publishing.adapter_card(None, adapter, "me/style", template, **self.GIVEN)
        data = ModelCard(text).data
        assert (data.library_name, data.base_model, data.base_model_relation) == (
            "peft",
            "me/rtjazz-base",
            "adapter",
        )
        assert (
            "lora" in data.tags and "sample.flac" in text and "{{" not in text and "Rank 4, alpha 8" in text
        )

    @pytest.mark.parametrize("kind", ["base", "fine-tune", "adapter"])
    def test_what_is_left_open_is_named(self, tiny_pipeline, adapter, kind):
        template = (self.FOLDER / f"{kind}.md").read_text()
        with pytest.raises(ValueError, match="data, licence, limits, metrics, rights"):
            if kind == "adapter":
                publishing.adapter_card(None, adapter, "me/style", template)
            else:
                hub.model_card(tiny_pipeline, "me/band", template, sample="", base_model="me/x")
