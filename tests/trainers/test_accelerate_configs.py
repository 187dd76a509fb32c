"""Files for `accelerate launch --config_file` in training/configs/accelerate: read as Accelerate reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml")

FOLDER = Path(__file__).parents[2] / "training" / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))


def launched(file: Path, *arguments: str):
    """What `accelerate launch` makes of a file, options before it; nothing is started."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    args = launch_command_parser().parse_args(
        ["--config_file", str(file), *arguments, "train.py", "--config", "base"]
    )
    return _validate_launch_command(args)[0]


def test_one_four_eight_and_several_machines_are_there():
    assert {file.stem for file in FILES} == {
        "gpu_1", "ddp_4", "ddp_8", "ddp_nodes", "fsdp_1", "fsdp_4", "fsdp_8", "fsdp_nodes"}  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_takes_it(file):
    args = launched(file)
    kind, _, count = file.stem.partition("_")
    assert args.use_fsdp == (kind == "fsdp") and args.multi_gpu == (kind == "ddp")
    assert args.num_processes == (16 if count == "nodes" else int(count))
    assert args.num_machines == (2 if count == "nodes" else 1)
    assert args.mixed_precision == "bf16"
    assert args.training_script == "train.py" and args.training_script_args == ["--config", "base"]


@pytest.mark.parametrize("file", [file for file in FILES if "fsdp" in file.stem], ids=lambda file: file.stem)
def test_settings_of_fsdp_are_options_that_exist(file):
    import yaml
    from accelerate.commands.launch import launch_command_parser

    known = {action.dest for action in launch_command_parser()._actions}
    settings = yaml.safe_load(file.read_text())["fsdp_config"]
    assert set(settings) <= known
    args = launched(file)
    assert {name: getattr(args, name) for name in settings} == settings


def test_the_second_machine_says_who_it_is():
    args = launched(FOLDER / "ddp_nodes.yaml", "--machine_rank", "1", "--main_process_ip", "node0")
    assert (args.machine_rank, args.main_process_ip) == (1, "node0")


def test_models_name_the_layers_that_fsdp_wraps():
    from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzFlowTransformer, RealTimeJazzStyleEncoder

    for model in (RealTimeJazzCodec, RealTimeJazzFlowTransformer, RealTimeJazzStyleEncoder):
        assert model._no_split_modules
