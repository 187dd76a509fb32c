"""Export a pipeline to ONNX: a folder that plays with onnxruntime and numpy alone.

    python conversion/export_onnx.py rtjazz-mini -o rtjazz-mini-onnx --prompt "medium swing piano trio" --tempo 132
    python pipelines/examples/onnx_stream.py rtjazz-mini-onnx -o swing.wav
    python conversion/export_onnx.py rtjazz-mini -o rtjazz-mini-int8 --int8             # a quarter of the size

Four graphs, all state going in and coming out, all shapes fixed (block, window, steps, guidance or none):

| file | from | to |
|---|---|---|
| `conditions.onnx` | lead sheet, style, position | what steps share: modulation, style keys, rotary tables ... |
| `flow_step.onnx` | sample, one step's conditions, cache | velocity, guidance included |
| `flow_append.onnx` | finished block, conditions, cache | the cache with it, its oldest block gone |
| `codec_decoder.onnx` | latents, state | audio, state |

`performance.npz` holds a style embedding and the features of a lead sheet, and of what a band plays over it where the
model reads notes; `onnx.json` the settings. The style encoder, the band and the codec's encoder are not exported. The
folder appears only if onnxruntime plays `--seconds` of music within 1e-3 of torch. `--int8` then holds the weights of
the flow's attention and MLP in 8 bits (`onnx_int8.py`), and measures what that costs: the velocity's relative error,
which must be below 0.05.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from onnx_int8 import GRAPHS, compare_steps, quantize_graph
from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzFlowTransformer, RealTimeJazzPipeline, hub
from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.codec.lapped import LappedDecoder
from rtjazz_hf.codec.streaming import StreamingState
from rtjazz_hf.flow import apply_guidance
from rtjazz_hf.flow.embeddings import rotary_tables
from rtjazz_hf.flow.layers import fold_rotary, norm_weights
from rtjazz_hf.flow.steps import denoise_step, hear_step
from rtjazz_hf.live.bends import ToldBends
from rtjazz_hf.live.engine import soft_limit
from rtjazz_hf.music.score_features import without_chords_and_notes
from rtjazz_hf.runtime.files import atomic_folder

RUNTIME = Path(__file__).resolve().parents[1] / "pipelines" / "examples" / "onnx_stream.py"
OPSET, LARGEST_DIFFERENCE = 20, 1e-3
LARGEST_ERROR = 0.05  # of an 8-bit velocity, relative: twice what the bundled model has
SETTINGS, PERFORMANCE = "onnx.json", "performance.npz"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="pipeline: bundled name, folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the export that is there")
    parser.add_argument("--steps", type=int, help="steps a block (the pipeline's)")
    parser.add_argument(
        "--guidance", type=float, help="guidance scale; 1 exports half the rows (the pipeline's)"
    )
    parser.add_argument("--block-frames", type=int, help="frames a block (the pipeline's)")
    parser.add_argument("--window-frames", type=int, help="frames of context (the pipeline's)")
    parser.add_argument("--prompt", default="medium swing piano trio", help="style of performance.npz")
    parser.add_argument("--chords", help="chart of performance.npz (the band leader's)")
    parser.add_argument("--tempo", type=float, help="its tempo in beats per minute")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="its length, and of the parity check (10)"
    )
    parser.add_argument("--int8", action="store_true", help="flow weights in 8 bits: smaller, faster, less exact")
    return parser.parse_args(argv)


# -- graphs ------------------------------------------------------------------------------------------------------
class Conditions(nn.Module):
    """`prepare_conditions` of one stream at any position, with tensors in and out, and what the score bends."""

    OUTPUTS = (
        *("lead_sheet_states", "modulation", "clean_modulation", "head"),
        *("style_keys", "style_values", "rotary_cos", "rotary_sin"),
    )
    BENDS = ("bends", "bent")  # latents, and the share of them that takes the place of the block's last ones

    def __init__(self, pipe: RealTimeJazzPipeline, timesteps: torch.Tensor, guided: bool):
        super().__init__()
        self.model, self.guided = pipe.transformer, guided
        config = self.model.config
        self.bends = ToldBends.of(pipe.codec.config, config.latent_dim, config.score_dim)
        self.outputs = self.OUTPUTS if self.bends is None else (*self.OUTPUTS, *self.BENDS)
        self.register_buffer("timesteps", timesteps.float().reshape(-1, 1, 1), persistent=False)

    def forward(self, lead_sheet: torch.Tensor, style: torch.Tensor, position: torch.Tensor) -> tuple:
        """lead_sheet (1, frames, features), style (1, style_dim), position (1,) int64: the block's first frame"""
        model, frames = self.model, lead_sheet.shape[1]
        bends = () if self.bends is None else self.bends(lead_sheet, position)
        if self.guided:  # as in `BlockStream.denoise`
            style, lead_sheet = style.repeat(2, 1), torch.cat((lead_sheet, without_chords_and_notes(lead_sheet)))
        condition, style_tokens = model._condition(self.timesteps, style)
        modulation, clean = model._modulations(condition.squeeze(2))
        positions = position[:, None] + torch.arange(0, frames, model.config.patch_size)[None]
        cos, sin = rotary_tables(model.config, positions, torch.float32)
        return (
            model._embed_lead_sheet(lead_sheet),
            modulation,
            clean,
            torch.stack(model.head.modulate(condition.squeeze(2))),
            *model._style_states(style_tokens),
            *fold_rotary(cos, sin, norm_weights([layer.self_attn for layer in model.layers]), model.dtype),
            *bends,
        )


class FlowStep(nn.Module):
    """`denoise_step` with the cache as plain tensors, and guidance."""

    def __init__(self, model: RealTimeJazzFlowTransformer, guided: bool):
        super().__init__()
        self.model, self.guided = model, guided

    def forward(
        self, sample, guidance_scale, lead_sheet_states, modulation, head, style_keys, style_values, rotary_cos,
        rotary_sin, past_keys, past_values, past_heard,
    ) -> torch.Tensor:  # fmt: skip
        """
        sample (1, channels, frames); past_keys, past_values (layers, 1, heads, slots, head_dim); past_heard (slots,)
        bool, false for slots that wait for their first block -> velocity of the sample's shape
        """
        rows = 2 if self.guided else 1
        keys, values, mask = with_room(self.model, sample, rows, past_keys, past_values, past_heard)
        velocity, _ = denoise_step(
            self.model, sample.repeat(rows, 1, 1), sample.new_zeros(rows, 1), lead_sheet_states, modulation, head,
            style_keys, style_values, rotary_cos, rotary_sin, mask, keys, values,
        )  # fmt: skip
        return apply_guidance(*velocity.chunk(2), guidance_scale) if self.guided else velocity


class FlowAppend(nn.Module):
    """`append_to_cache` with the cache as plain tensors: blocks of one size, of which the oldest falls out."""

    OUTPUTS = ("keys", "values", "heard")

    def __init__(self, model: RealTimeJazzFlowTransformer):
        super().__init__()
        self.model = model

    def forward(
        self, sample, clean_modulation, rotary_cos, rotary_sin, past_keys, past_values, past_heard
    ) -> tuple:
        keys, values, mask = with_room(self.model, sample, 1, past_keys, past_values, past_heard)
        hear_step(self.model, sample, clean_modulation, rotary_cos, rotary_sin, mask, keys, values)
        tokens, slots = sample.shape[-1] // self.model.config.patch_size, past_heard.shape[0]
        heard = torch.cat((past_heard, past_heard.new_ones(tokens)))
        keys, values = (torch.stack(states)[:, :, :, -slots:] for states in (keys, values))
        return keys, values, heard[-slots:]


def with_room(
    model, sample, rows: int, past_keys, past_values, past_heard
) -> tuple[list, list, torch.Tensor]:
    """The past with room for the block's own keys and values behind it, as `CacheView` has it, and its mask."""
    tokens = sample.shape[-1] // model.config.patch_size
    room = past_keys.new_zeros(rows, past_keys.shape[2], tokens, past_keys.shape[4])
    keys, values = (
        [torch.cat((layer.repeat(rows, 1, 1, 1), room), dim=2) for layer in states.unbind(0)]
        for states in (past_keys, past_values)
    )
    return keys, values, torch.cat((past_heard, past_heard.new_ones(tokens)))[None, None, None]


class RealDecoder(LappedDecoder):
    """The decoder with Fourier transforms that know no complex numbers, which ONNX has not: two products with small
    matrices (Cooley and Tukey, 1965). Nor has it a function for powers of two."""

    def _exp2(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x * math.log(2))

    def _rfft(self, windows: torch.Tensor) -> torch.Tensor:
        length = windows.shape[-1]
        real, imaginary = fourier(windows, None, length)
        return torch.stack((real, imaginary), dim=-1)[..., : length // 2 + 1, :].flatten(-2)

    def _irfft(self, spectrum: torch.Tensor, length: int) -> torch.Tensor:
        real, imaginary = spectrum.unflatten(-1, (-1, 2)).unbind(-1)
        # The imaginary parts at zero and at the highest frequency count for nothing, as in torch's.
        edge = torch.zeros_like(imaginary[..., :1])
        inner, mirrored = imaginary[..., 1:-1], imaginary[..., 1:-1].flip(-1)
        real = torch.cat((real, real[..., 1:-1].flip(-1)), dim=-1)
        # The inverse of z is the conjugate of the transform of z's conjugate, and only its real part is asked for.
        return fourier(real, torch.cat((edge, -inner, edge, mirrored), dim=-1), length)[0] / length


def fourier(
    real: torch.Tensor, imaginary: torch.Tensor | None, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Discrete Fourier transform of the last axis, `length` a power of two; `None` stands for zeros."""
    rows = 2 ** ((length.bit_length() - 1) // 2)
    columns = length // rows

    def turns(first: int, second: int, period: int) -> tuple[torch.Tensor, torch.Tensor]:
        angle = -2 * np.pi * (np.outer(np.arange(first), np.arange(second)) % period) / period
        return torch.from_numpy(np.cos(angle).astype(np.float32)), torch.from_numpy(
            np.sin(angle).astype(np.float32)
        )

    def times(real, imaginary, factor, product) -> tuple[torch.Tensor, torch.Tensor]:
        if imaginary is None:
            return product(real, factor[0]), product(real, factor[1])
        return (
            product(real, factor[0]) - product(imaginary, factor[1]),
            product(real, factor[1]) + product(imaginary, factor[0]),
        )

    def columns_of(part):  # sample n = columns * n1 + n2 -> (n2, n1)
        return None if part is None else part.unflatten(-1, (rows, columns)).transpose(-1, -2)

    parts = times(columns_of(real), columns_of(imaginary), turns(rows, rows, rows), torch.matmul)
    parts = times(*parts, turns(columns, rows, length), torch.mul)  # (n2, k1)
    parts = (part.transpose(-1, -2) for part in parts)
    parts = times(*parts, turns(columns, columns, columns), torch.matmul)  # (k1, k2): k = k1 + rows * k2
    return tuple(part.transpose(-1, -2).flatten(-2) for part in parts)


class CodecDecoder(nn.Module):
    """Normalised latents (1, latent_dim, frames) and the state's tensors -> limited audio (1, 2, samples) and state."""

    def __init__(self, codec: RealTimeJazzCodec):
        super().__init__()
        if codec.config.backbone != "lapped":
            raise ValueError(f"the codec's backbone is {codec.config.backbone!r}; only 'lapped' is exported")
        self.codec = codec
        self.names = list(codec.decoder.init_state(1).entries)

    def forward(self, latents: torch.Tensor, *state: torch.Tensor) -> tuple:
        latents = self.codec.complete(latents)
        audio, new = self.codec._decode_latents(latents, StreamingState(dict(zip(self.names, state))))
        return soft_limit(audio), *(new[name] for name in self.names)


def export(module: nn.Module, inputs: dict[str, torch.Tensor], outputs: Sequence[str], path: Path) -> tuple:
    """Write one graph; what the module gives for `inputs`."""
    positional = tuple(inputs.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own calls
        # First, so that tables which are made once are not made of the exporter's stand-in tensors.
        result = module.eval()(*positional)
        # Without the exporter's optimiser, which takes `power + 1e-9` for `power`; onnxruntime has one of its own.
        torch.onnx.export(
            module, positional, str(path), dynamo=True, opset_version=OPSET, external_data=False, optimize=False,
            input_names=list(inputs), output_names=list(outputs), verbose=False,
        )  # fmt: skip
    print(f"{path.name:20} {path.stat().st_size / 1e6:7.1f} MB")
    return result if isinstance(result, tuple) else (result,)


def export_graphs(pipe: RealTimeJazzPipeline, folder: Path, settings: dict) -> None:
    """The four graphs of a float32 pipeline on the CPU."""
    model, codec, frames = pipe.transformer, pipe.codec, settings["block_frames"]
    config, guided = model.config, settings["guidance_scale"] != 1.0
    slots = settings["cache_blocks"] * frames // config.patch_size
    inputs = {
        "lead_sheet": torch.zeros(1, frames, config.feature_dim),
        "style": torch.zeros(1, config.style_dim),
        "position": torch.zeros(1, dtype=torch.int64),
    }
    timesteps = torch.tensor(settings["times"][:-1])
    conditions = Conditions(pipe, timesteps, guided)
    given = export(conditions, inputs, conditions.outputs, folder / "conditions.onnx")
    given = dict(zip(Conditions.OUTPUTS, given))
    clean = given.pop("clean_modulation")
    given["modulation"], given["head"] = given["modulation"][:, :, 0], given["head"][:, 0]

    sample = {"sample": torch.randn(1, config.num_channels, frames)}
    shape = (config.num_hidden_layers, 1, config.num_attention_heads, slots, config.head_dim)
    past = {"past_keys": torch.randn(shape), "past_values": torch.randn(shape),
            "past_heard": torch.arange(slots) > 0}  # fmt: skip
    scale = {"guidance_scale": torch.tensor(settings["guidance_scale"])} if guided else {}
    step = FlowStep(model, guided) if guided else UnguidedStep(model)
    export(step, {**sample, **scale, **given, **past}, ["velocity"], folder / "flow_step.onnx")
    rotary = {name: given[name] for name in ("rotary_cos", "rotary_sin")}
    export(FlowAppend(model), {**sample, "clean_modulation": clean[:, :, 0], **rotary, **past}, FlowAppend.OUTPUTS,
           folder / "flow_append.onnx")  # fmt: skip

    export_decoder(codec, config.latent_dim, frames, folder)


def export_decoder(codec: RealTimeJazzCodec, latent_dim: int, frames: int, folder: Path) -> dict[str, torch.Tensor]:
    """Write `codec_decoder.onnx` for blocks of `frames` frames; the state that its first block begins with, by name."""
    kind, codec.decoder.__class__ = codec.decoder.__class__, RealDecoder
    try:
        decoder = CodecDecoder(codec)
        state = dict(zip(decoder.names, codec.decoder.init_state(1).tensors()))
        latents = {"latents": torch.randn(1, latent_dim, frames)}
        names = ["audio", *(f"new_{name}" for name in decoder.names)]
        export(decoder, {**latents, **state}, names, folder / "codec_decoder.onnx")
    finally:
        codec.decoder.__class__ = kind
    return state


class UnguidedStep(FlowStep):
    """`FlowStep` without an input that it would not use."""

    def __init__(self, model: RealTimeJazzFlowTransformer):
        super().__init__(model, guided=False)

    def forward(self, sample, *others: torch.Tensor) -> torch.Tensor:
        return super().forward(sample, None, *others)


# -- what is played, and the check -------------------------------------------------------------------------------
def settings_of(pipe: RealTimeJazzPipeline, args: argparse.Namespace) -> dict:
    """What `onnx.json` says; the pipeline's own settings where none are given."""
    given = {"num_inference_steps": args.steps, "guidance_scale": args.guidance,
             "block_frames": args.block_frames, "window_frames": args.window_frames}  # fmt: skip
    chosen = {name: pipe.generation_defaults[name] if v is None else v for name, v in given.items()}
    pipe.check_inputs(args.prompt, **chosen)
    config, scheduler = pipe.transformer.config, pipe.scheduler
    if (
        config.prediction_type != "velocity"
        or scheduler.config.method != "euler"
        or not config.lead_sheet_dim
    ):
        raise ValueError(
            f"prediction_type {config.prediction_type!r}, method {scheduler.config.method!r} and lead_sheet_dim "
            f"{config.lead_sheet_dim}: only velocity models with a lead sheet and Euler steps are exported"
        )
    if chosen["window_frames"] < chosen["block_frames"]:
        raise ValueError(
            f"window_frames {chosen['window_frames']} holds no block of {chosen['block_frames']} frames"
        )
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(chosen["num_inference_steps"])
    return {
        "format": 1,
        "sampling_rate": pipe.sampling_rate,
        **{name: float(value) if name == "guidance_scale" else value for name, value in chosen.items()},
        "cache_blocks": chosen["window_frames"] // chosen["block_frames"],  # blocks fall out whole
        "cache_shape": [config.num_hidden_layers, 1, config.num_attention_heads, config.head_dim],
        "patch_size": config.patch_size,
        "channels": config.num_channels,
        "init_noise_sigma": pipe.scheduler.init_noise_sigma,
        "latent_dim": config.latent_dim,
        "times": scheduler.grid.tolist(),
        "source": pipe.config.get("_name_or_path", ""),
    }


def write_performance(
    pipe: RealTimeJazzPipeline, args: argparse.Namespace, folder: Path, settings: dict
) -> None:
    """Style and lead sheet of `--seconds` of music, in whole blocks."""
    block = settings["block_frames"]
    blocks = max(1, round(args.seconds * 75 / block))
    sheet = pipe.prepare_lead_sheet(
        args.prompt, chords=args.chords, tempo=args.tempo, duration=blocks * block / 75
    )
    features = pipe.prepare_features(sheet, 0, blocks * block, pipe.prepare_parts(sheet, [0]))
    style = pipe.encode_prompt(args.prompt)
    np.savez(folder / PERFORMANCE, style=style.numpy(), lead_sheet=features.numpy())


def load_runtime() -> ModuleType:
    """The example that users run: it is what the check plays with."""
    spec = importlib.util.spec_from_file_location("onnx_stream", RUNTIME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_output(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / SETTINGS).is_file()):
        raise OSError(f"{folder} is something other than an export and is left alone; give another folder")
    if not overwrite:
        raise OSError(f"{folder} exists; give --overwrite to replace it")


def convert(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None:
        raise OSError("onnxscript and onnxruntime are needed: pip install 'rtjazz-hf[onnx]'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    pipe = RealTimeJazzPipeline.from_pretrained(args.model, engine="torch").to("cpu")
    settings = settings_of(pipe, args)
    with atomic_folder(args.output) as partial:
        export_graphs(pipe, partial, settings)
        write_performance(pipe, args, partial, settings)
        (partial / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        report = load_runtime().compare(partial, pipe)
        print(f"parity over {report['seconds']:.1f} s: largest difference {report['difference']:.2e} in audio, "
              f"{report['latents_difference']:.2e} in latents; {LARGEST_DIFFERENCE:g} is allowed")  # fmt: skip
        if not report["difference"] <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"onnxruntime plays differently, by {report['difference']:.2e}; nothing was written"
            )
        if args.int8:
            report = quantize_export(partial, settings, pipe)
    print(f"{args.output}: real-time factor {report['onnx']:.3f} (torch {report['torch']:.3f})")


def quantize_export(folder: Path, settings: dict, pipe: RealTimeJazzPipeline) -> dict:
    """Hold an export's weights in 8 bits, and say what that costs; what `compare` says of it then.

    Raises:
        ValueError: it costs too much, or a weight was left as it was.
    """
    runtime = load_runtime()
    whole = runtime.load_graphs(folder)
    for name in GRAPHS:
        quantize_graph(folder / f"{name}.onnx")
    error, share = compare_steps(runtime, folder, whole)
    print(f"8 bits: relative error of the velocity {error:.4f}; {LARGEST_ERROR:g} is allowed")
    print(f"        a step takes {share:.2f} of the CPU time of a whole one")
    if not error <= LARGEST_ERROR:
        raise ValueError(f"8-bit weights play differently, by {error:.4f} of the velocity; nothing was written")
    (folder / SETTINGS).write_text(
        json.dumps({**settings, "weights": "int8", "velocity_error": error}, indent=2) + "\n", encoding="utf-8"
    )
    return runtime.compare(folder, pipe)


def main(argv: Sequence[str] | None = None) -> int:
    hub.quiet_libraries()
    return run_script(lambda: convert(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
