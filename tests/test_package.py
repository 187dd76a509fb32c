"""The package face: names, versions, import time, and the two published sizes."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys

import pytest
import torch

import rtjazz_hf


def run_python(code: str, **environment: str) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestImport:
    def test_is_fast_and_leaves_torch_alone(self):
        code = (
            "import sys, time; started = time.perf_counter(); import rtjazz_hf;"
            "print(time.perf_counter() - started);"
            "print([name for name in ('torch', 'transformers', 'diffusers', 'numpy') if name in sys.modules])"
        )
        seconds, heavy = run_python(code).splitlines()
        assert float(seconds) < 0.5
        assert heavy == "[]"

    def test_a_command_imports_no_other(self):
        code = (
            "import sys; from rtjazz_hf import cli; cli.main({}); "
            "print([name for name in cli.COMMANDS if f'rtjazz_hf.cli.{{name}}' in sys.modules])"
        )
        assert run_python(code.format("['--help']")).splitlines()[-1] == "[]"
        assert run_python(code.format("['codec', '--help']")).splitlines()[-1] == "['codec']"

    def test_every_public_name_is_there(self):
        for name in rtjazz_hf.__all__:
            assert getattr(rtjazz_hf, name) is not None
            assert name in dir(rtjazz_hf)

    def test_unknown_name(self):
        with pytest.raises(AttributeError, match="NoSuchThing"):
            _ = rtjazz_hf.NoSuchThing

    def test_old_module_names(self):
        """Scripts and Spaces that import a module by the place it had before it had a room go on working."""
        import rtjazz_hf.publishing
        from rtjazz_hf.cli_common import choose_device
        from rtjazz_hf.corpus.score import Note
        from rtjazz_hf.evaluation.metrics import snr
        from rtjazz_hf.training_utils import TrainingRun

        from rtjazz_hf import band, cli, hub, trainers
        from rtjazz_hf.hub import publishing
        from rtjazz_hf.music import write_lead_sheet

        assert Note is band.score.Note and snr is rtjazz_hf.evaluation.snr
        assert choose_device is cli.common.choose_device and TrainingRun is trainers.run.TrainingRun
        assert write_lead_sheet is band.write_lead_sheet and rtjazz_hf.hub.load_codec is hub.load_codec
        assert sys.modules["rtjazz_hf.publishing"].push_folder is publishing.push_folder
        for old, new in rtjazz_hf._MOVED.items():
            assert importlib.import_module(f"rtjazz_hf.{new}").__name__ == f"rtjazz_hf.{new}"
            with pytest.raises(AttributeError):
                _ = sys.modules[f"rtjazz_hf.{old}"].no_such_thing

    def test_version_is_that_of_the_distribution(self):
        assert rtjazz_hf.__version__ == importlib.metadata.version("rtjazz-hf")


class TestSizes:
    """Both published sizes are configs of the same classes."""

    @staticmethod
    def count(size: str) -> dict[str, int]:
        from rtjazz_hf import (
            RealTimeJazzCodec,
            RealTimeJazzCodecConfig,
            RealTimeJazzFlowTransformer,
            RealTimeJazzFlowTransformerConfig,
            RealTimeJazzStyleEncoder,
            RealTimeJazzStyleEncoderConfig,
        )

        parts = (
            (RealTimeJazzCodec, RealTimeJazzCodecConfig),
            (RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig),
            (RealTimeJazzStyleEncoder, RealTimeJazzStyleEncoderConfig),
        )
        with torch.device("meta"):
            models = [model(getattr(config, size)()) for model, config in parts]
        return {type(model).__name__: sum(p.numel() for p in model.parameters()) for model in models}

    def test_base_is_290_to_320_million(self):
        assert 290e6 <= sum(self.count("base").values()) <= 320e6

    def test_mini_is_at_most_32_million(self):
        assert sum(self.count("mini").values()) <= 32e6

    def test_base_transformer(self):
        config = rtjazz_hf.RealTimeJazzFlowTransformerConfig.base()
        assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)

    def test_default_lead_sheet_width_fits(self):
        from rtjazz_hf.music import LEAD_SHEET_DIM

        assert rtjazz_hf.RealTimeJazzFlowTransformerConfig.base().lead_sheet_dim == LEAD_SHEET_DIM
