"""Make one pipeline folder of a trained codec, flow transformer and style encoder.

    python conversion/assemble_pipeline.py --codec runs/codec/final --transformer runs/flow/final \\
        --style-encoder runs/style/final --steps 8 --guidance 2.0 -o my-model

Weights are stored in 16 bit and still load as float32 unless `from_pretrained` is told otherwise. float16 loses
least: it keeps 11 bits of every weight where bfloat16 keeps 8, and weights are nowhere near its limit of 65,504
(checked). The folder appears only after it was loaded again and played the same, to the bit.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from rtjazz_hf import FlowMatchScheduler, RealTimeJazzPipeline, hub
from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.evaluation.measures.instrument_probe import PROBE_NAME
from rtjazz_hf.hub import load_style_encoder
from rtjazz_hf.runtime.files import atomic_folder

MODELS = ("codec", "transformer", "style_encoder")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
BUNDLED_MEGABYTES, BUNDLED_PARAMETERS = 64, 32e6  # what a checkpoint inside the package may weigh


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--codec", required=True, help="folder of train_codec.py's final model, or a pipeline to take it from"
    )
    parser.add_argument("--transformer", required=True, help="the same of train_flow.py or distill_flow.py")
    parser.add_argument(
        "--style-encoder", required=True, help="the same of train_style.py, tokenizer included, and the probe of "
        "instruments where there is one"
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--overwrite", action="store_true", help="replace the pipeline that is there")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="how weights are stored (float16)")
    parser.add_argument("--card", type=Path, help="model card, or a template with {{places}}, for README.md")
    parser.add_argument(
        "--card-values",
        type=Path,
        help="JSON object of the template's places (see model_cards/) and of `metadata`",
    )
    defaults = parser.add_argument_group(
        "settings that ship with the model: what it was found to play best with"
    )
    defaults.add_argument("--steps", type=int, help="steps a block (8, or those it was distilled to)")
    defaults.add_argument(
        "--guidance", type=float, help="guidance scale (2.0; 1.0 of a distilled transformer)"
    )
    defaults.add_argument("--block-frames", type=int, help="frames a block (the transformer's)")
    defaults.add_argument("--window-frames", type=int, help="frames of context (the transformer's)")
    defaults.add_argument("--shift", type=float, help="of the scheduler's times (1.0, or as distilled)")
    defaults.add_argument("--noise", type=float, default=1.0, help="deviation of a block's first noise (1.0)")
    defaults.add_argument("--method", choices=("euler", "heun"), default="euler", help="of its steps (euler)")
    return parser.parse_args(argv)


def build_pipeline(args: argparse.Namespace) -> RealTimeJazzPipeline:
    """The pipeline in float32, after a check that its parts were made for each other."""
    codec = hub.load_codec(args.codec)
    transformer = hub.load_part(hub.part_folder(args.transformer, "transformer"), "transformer")
    style_encoder, tokenizer = load_style_encoder(args.style_encoder)
    if not codec.quantizer.is_initialized:
        raise ValueError(f"{args.codec} has no codes yet: train it past freeze_encoder_at")
    if transformer.config.style_dim != style_encoder.config.projection_dim:
        raise ValueError(
            f"the transformer reads styles of {transformer.config.style_dim} numbers, the style encoder "
            f"makes {style_encoder.config.projection_dim}: they were not made for each other"
        )
    if transformer.config.prediction_type == "codebook":
        known, wanted = transformer.head.codebooks, codec.codebooks
        if known.shape != wanted.shape or not torch.allclose(known, wanted, atol=1e-3):
            raise ValueError(
                f"{args.transformer} was trained on the codes of another codec than {args.codec}"
            )
    config = transformer.config
    own = config.sampling_defaults
    return RealTimeJazzPipeline(
        codec=codec,
        transformer=transformer,
        style_encoder=style_encoder,
        tokenizer=tokenizer,
        scheduler=FlowMatchScheduler(
            shift=own["shift"] if args.shift is None else args.shift,
            method=args.method,
            init_noise_sigma=args.noise,
        ),
        num_inference_steps=own["num_inference_steps"] if args.steps is None else args.steps,
        guidance_scale=own["guidance_scale"] if args.guidance is None else args.guidance,
        block_frames=args.block_frames or config.block_frames,
        window_frames=args.window_frames or config.window_frames,
    )


@torch.no_grad()
def round_weights(model: nn.Module, dtype: torch.dtype) -> float:
    """Round what is saved of a float32 model to `dtype`, in place; the relative error (RMS) of all of it.

    Integers stay as they are, and so do tables that are computed when a model is loaded.
    """
    error = total = 0.0
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            rounded = tensor.to(dtype).to(tensor.dtype)
            if not torch.isfinite(rounded).all():
                raise ValueError(
                    f"{type(model).__name__}: {name} reaches {tensor.abs().max().item():.3g}, which {dtype} "
                    "cannot hold; give another --dtype, or train again if it is not a number"
                )
            error += (rounded - tensor).double().square().sum().item()
            total += tensor.double().square().sum().item()
            tensor.copy_(rounded)
    return (error / total) ** 0.5 if total else 0.0


def save_pipeline(pipe: RealTimeJazzPipeline, folder: Path, dtype: torch.dtype, card: str) -> None:
    """Write the pipeline with its models in `dtype`, marked to load as float32."""
    (folder / "README.md").write_text(card, encoding="utf-8")  # save_pretrained keeps a card that is there
    stored = {name: copy.deepcopy(getattr(pipe, name)).to(dtype) for name in MODELS}
    RealTimeJazzPipeline(
        **stored, tokenizer=pipe.tokenizer, scheduler=pipe.scheduler, **pipe.generation_defaults
    ).save_pretrained(folder)
    for name in MODELS:
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def play(pipe: RealTimeJazzPipeline) -> dict[str, torch.Tensor]:
    """A second of music, and its round trip through the codec: every part has a say in it."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    audio = pipe("medium swing piano trio", duration=1.0, generator=generator, output_type="pt").audios
    encoded = pipe.codec.encode(audio)
    again = pipe.codec.decode(codes=encoded.codes).audio
    style = pipe.encode_prompt(audio[0])
    return {
        "audio": audio,
        "latents": encoded.latents,
        "codes": encoded.codes,
        "again": again,
        "style": style,
    }


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def read_values(path: Path | None) -> dict[str, object]:
    """What a card says that is not known here; empty without a file."""
    values = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or not {"pipe", "name", "template"}.isdisjoint(values):
        raise ValueError(f"{path} must hold a JSON object of places of the card's template and their texts")
    return values


def check_output(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OSError(f"{folder} is a file; give the folder to write")
    if not overwrite:
        raise OSError(f"{folder} exists; give --overwrite to replace it")
    if any(folder.iterdir()) and not (folder / "model_index.json").is_file():
        raise OSError(
            f"{folder} holds something other than a pipeline and is left alone; give another folder"
        )


def check_size(folder: Path, name: str, parameters: int) -> float:
    """Megabytes of all files; a bundled name has a limit."""
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if name in hub.BUNDLED_MODELS and (megabytes > BUNDLED_MEGABYTES or parameters > BUNDLED_PARAMETERS):
        raise ValueError(
            f"{name} would have {parameters / 1e6:.1f}M parameters and {megabytes:.1f} MB; a bundled model may have "
            f"{BUNDLED_PARAMETERS / 1e6:.0f}M and {BUNDLED_MEGABYTES} MB"
        )
    return megabytes


def assemble(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    dtype, name = DTYPES[args.dtype], args.output.resolve().name
    template = args.card.read_text(encoding="utf-8") if args.card else None
    values = read_values(args.card_values)
    pipe = build_pipeline(args)
    trained = play(pipe)
    parameters = 0
    for part in MODELS:
        model = getattr(pipe, part)
        count, error = model.num_parameters(), round_weights(model, dtype)
        parameters += count
        print(f"{part:13} {count / 1e6:7.2f} M parameters, rounded by {error:.1e} of their size")
    rounded = play(pipe)
    noise = (rounded["audio"] - trained["audio"]).square().mean() / trained["audio"].square().mean()
    print(f"a clip differs from the trained weights' by {10 * torch.log10(noise.clamp_min(1e-20)):.1f} dB")
    with atomic_folder(args.output) as partial:
        save_pipeline(pipe, partial, dtype, hub.model_card(pipe, name, template, **values))
        probe = hub.part_folder(args.style_encoder, "style_encoder") / PROBE_NAME
        if probe.is_file():
            shutil.copyfile(probe, partial / "style_encoder" / PROBE_NAME)
        difference = largest_difference(rounded, play(RealTimeJazzPipeline.from_pretrained(partial, engine="torch")))
        print(f"largest difference after loading: {difference}")
        if difference != 0.0:
            raise ValueError(f"the saved pipeline plays differently, by {difference}; nothing was written")
        megabytes = check_size(partial, name, parameters)
    print(
        f"{args.output}: {parameters / 1e6:.2f} M parameters, {megabytes:.1f} MB, {pipe.generation_defaults}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(lambda: assemble(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
