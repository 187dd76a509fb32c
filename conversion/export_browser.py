"""Export a pipeline for a web page: three graphs that hold every weight once, small enough to be fetched.

    python conversion/export_browser.py rtjazz-mini -o model/        # pipelines/browser/build.py makes the whole page

| file | from | to |
|---|---|---|
| `conditions.onnx` | lead sheet, style, position | what the steps of a block share, and what the score bends |
| `flow.onnx` | sample, one step's conditions, cache | velocity, and the block's own keys and values |
| `codec_decoder.onnx` | latents, state | audio, state |

One graph both steps and appends: a finished block goes through it with the clean modulation and style values of zero,
which add nothing, and what is kept are its keys and values. Large weights are stored in fewer bits and widened once,
when a page loads them, so that every runtime computes with the same float32 numbers: attention and MLP of the flow have
10 bits and a scale for each row, the decoder's 8, what is small and decides much 16. `--float` has 16 bits
throughout. `styles.bin` has a style embedding for each genre, `model.json` the settings and what every file should be.
The folder appears only if onnxruntime plays `--seconds` of music near what torch plays: with `--float` within 2e-2 of
audio and latents, else within 0.03 of the latents' deviation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export_onnx import Conditions, export, export_decoder, settings_of, with_room
from rtjazz_hf import RealTimeJazzFlowTransformer, RealTimeJazzPipeline, hub
from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.flow.steps import denoise_step
from rtjazz_hf.live.engine import draw_noise
from rtjazz_hf.music import GENRES
from rtjazz_hf.runtime.files import atomic_folder

sys.path.append(str(Path(__file__).resolve().parents[1] / "pipelines" / "browser"))
from page_stream import GRAPHS, MODEL, PageStream, load_model

FLOAT_DIFFERENCE, LATENT_SHARE = 2e-2, 0.03
LEAST_HALVED, LEAST_ROWS = 1 << 10, 1 << 16  # values of a constant that is worth 16 bits, and fewer
# Bits of the latter and their names. What reads the score, and the flow's first and last product, are small and decide
# most: in 10 bits they would double the latents' difference.
FEWER = {
    "conditions": (10, re.compile(r"modulation|style_tokens|cross_attn")),
    "flow": (10, re.compile(r"layers\.\d+\.(self_attn|cross_attn|mlp)\.")),
    "codec_decoder": (8, re.compile("")),
}


class FlowBlock(nn.Module):
    """`denoise_step` that also tells the block's own keys and values: a step, or, with clean conditions, what the cache
    is to remember of it."""

    OUTPUTS = ("velocity", "keys", "values")

    def __init__(self, model: RealTimeJazzFlowTransformer):
        super().__init__()
        self.model = model

    def forward(
        self, sample, lead_sheet_states, modulation, head, style_keys, style_values, rotary_cos, rotary_sin, past_keys,
        past_values, past_heard,
    ) -> tuple:  # fmt: skip
        """Shapes as of `export_onnx.FlowStep`; keys, values `(layers, 1, heads, tokens, head_dim)`"""
        keys, values, mask = with_room(self.model, sample, 1, past_keys, past_values, past_heard)
        velocity, _ = denoise_step(
            self.model, sample, sample.new_zeros(1, 1), lead_sheet_states, modulation, head, style_keys, style_values,
            rotary_cos, rotary_sin, mask, keys, values,
        )  # fmt: skip
        tokens = sample.shape[-1] // self.model.config.patch_size
        return velocity, *(torch.stack(states)[:, :, :, -tokens:] for states in (keys, values))


def export_graphs(pipe: RealTimeJazzPipeline, folder: Path, settings: dict) -> None:
    """The three graphs, in float32."""
    model, codec, frames = pipe.transformer, pipe.codec, settings["block_frames"]
    config = model.config
    inputs = {
        "lead_sheet": torch.zeros(1, frames, config.feature_dim),
        "style": torch.zeros(1, config.style_dim),
        "position": torch.zeros(1, dtype=torch.int64),
    }
    conditions = Conditions(pipe, torch.tensor(settings["times"][:-1]), guided=False)
    given = export(conditions, inputs, conditions.outputs, folder / "conditions.onnx")
    given = dict(zip(Conditions.OUTPUTS, given))
    given.pop("clean_modulation")
    given["modulation"], given["head"] = given["modulation"][:, :, 0], given["head"][:, 0]
    slots = settings["cache_blocks"] * frames // config.patch_size
    shape = (config.num_hidden_layers, 1, config.num_attention_heads, slots, config.head_dim)
    names = (
        "lead_sheet_states",
        "modulation",
        "head",
        "style_keys",
        "style_values",
        "rotary_cos",
        "rotary_sin",
    )
    inputs = {
        "sample": torch.randn(1, config.num_channels, frames),
        **{name: given[name] for name in names},
        "past_keys": torch.randn(shape), "past_values": torch.randn(shape), "past_heard": torch.arange(slots) > 0,
    }  # fmt: skip
    export(FlowBlock(model), inputs, FlowBlock.OUTPUTS, folder / "flow.onnx")

    state = export_decoder(codec, config.latent_dim, frames, folder)
    settings["decoder_state"] = [
        {"name": name, "shape": list(tensor.shape), "type": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in state.items()
    ]


def shrink(path: Path, bits: int = 8, chosen: re.Pattern | None = None) -> None:
    """Store the large float32 constants of a graph in float16, and of those the largest whose name is `chosen` in
    `bits`, 8 or 10, with a scale for each row; nodes behind each widen it, which runtimes do once, on loading."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph, kept, nodes = model.graph, [], []

    def node(kind: str, inputs: list[str], name: str, **attributes) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}.node", **attributes))
        return name

    def constant(array: np.ndarray, name: str) -> str:
        kept.append(numpy_helper.from_array(array, name))
        return name

    def widened(array: np.ndarray, name: str, wide: str) -> str:
        return node("Cast", [constant(array, name)], wide, to=TensorProto.FLOAT)

    for tensor in graph.initializer:
        array, name = numpy_helper.to_array(tensor), tensor.name
        if tensor.data_type != TensorProto.FLOAT or array.size < LEAST_HALVED or np.abs(array).max() > 6e4:
            kept.append(tensor)
        elif array.size < LEAST_ROWS or array.ndim < 2 or array.size % 4 or not (chosen and chosen.search(name)):
            widened(array.astype(np.float16), f"{name}.small", name)
        else:
            largest = np.abs(array).max(axis=tuple(range(1, array.ndim)), keepdims=True)
            scale = largest.clip(1e-30) / np.float32(2 ** (bits - 1) - 1)
            whole = np.round(array / scale).astype(np.int16)
            wide = widened((whole >> (bits - 8)).astype(np.int8), f"{name}.small", f"{name}.wide")
            if bits > 8:  # the lowest two of each, four to a byte
                low = (whole & 3).astype(np.uint8).reshape(-1, 4)
                packed = (low << np.uint8([6, 4, 2, 0])).sum(axis=1, keepdims=True, dtype=np.uint8)
                rest = widened(packed, f"{name}.low", f"{name}.packed")
                place = constant(np.float32([64, 16, 4, 1]), f"{name}.place")
                rest = node("Floor", [node("Div", [rest, place], f"{name}.moved")], f"{name}.floor")
                rest = node("Mod", [rest, constant(np.float32(4), f"{name}.four")], f"{name}.two", fmod=1)
                shape = constant(np.int64(array.shape), f"{name}.shape")
                wide = node("Mul", [wide, f"{name}.four"], f"{name}.high")
                wide = node("Add", [wide, node("Reshape", [rest, shape], f"{name}.rest")], f"{name}.whole")
            node("Mul", [wide, constant(scale.astype(np.float32), f"{name}.scale")], name)
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.save(model, path)
    print(f"{path.name:20} {path.stat().st_size / 1e6:7.1f} MB as it is fetched")


def write_styles(pipe: RealTimeJazzPipeline, folder: Path) -> list[str]:
    """A style embedding for each genre's words; the genres."""
    rows = [pipe.encode_prompt(genre.replace("_", " ")).numpy().reshape(-1) for genre in GENRES]
    (folder / "styles.bin").write_bytes(np.stack(rows).astype("<f4").tobytes())
    return list(GENRES)


def describe_files(folder: Path) -> dict[str, dict]:
    """Size and SHA-256 of each file, by which a page knows a broken one."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.suffix in (".onnx", ".bin")
    }


@torch.inference_mode()
def compare(pipe: RealTimeJazzPipeline, folder: Path, seconds: float, seed: int = 1) -> dict[str, float]:
    """The same noise and lead sheet by torch and by the folder's graphs: largest differences of audio and latents, and
    the latents' as a share of their deviation (root mean square)."""
    settings, graphs, styles = load_model(folder)
    frames = settings["block_frames"]
    blocks = max(1, round(seconds * 75 / frames))
    sheet = pipe.prepare_lead_sheet("medium swing tenor sax quartet", tempo=132, seeds=[seed])  # whose tones move
    features = pipe.prepare_features(sheet, 0, blocks * frames, pipe.prepare_parts(sheet, [seed]))
    style = torch.tensor(styles[settings["genres"].index("swing")][None])
    stream = PageStream(graphs, settings)
    generator = torch.Generator().manual_seed(seed)
    player = pipe.prepare_stream([torch.Generator()], frames, settings["window_frames"])
    sound, squares, largest = 0.0, np.zeros(2), 0.0
    for block in range(blocks):
        told = features[:, block * frames : (block + 1) * frames]
        noise = draw_noise([generator], frames, settings["channels"], "cpu", settings["init_noise_sigma"])
        state = player.denoise(
            noise, style, told, num_inference_steps=settings["num_inference_steps"], guidance_scale=1.0
        )
        player.append(state)
        want = player.without_cues(state)
        audio, latents = stream.block(noise.numpy(), style.numpy(), told.numpy())
        heard = player.decode(want)[0].numpy()
        sound = max(sound, float(np.abs(heard - audio).max()))
        error = latents - want.numpy()
        largest = max(largest, float(np.abs(error).max()))
        squares += np.square(error).sum(), np.square(want.numpy() - want.numpy().mean()).sum()
    return {"audio": sound, "latents": largest, "share": float(np.sqrt(squares[0] / squares[1]))}


def convert(args: argparse.Namespace) -> None:
    if args.output.exists() and not args.overwrite:
        raise OSError(f"{args.output} exists; give --overwrite to replace it")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    pipe = RealTimeJazzPipeline.from_pretrained(args.model, engine="torch").to("cpu")
    settings = settings_of(pipe, args)
    if settings["guidance_scale"] != 1.0:
        raise ValueError(
            f"guidance_scale {settings['guidance_scale']:g}: a page plays models whose guidance is folded in; give "
            "--guidance 1 to play this one without"
        )
    config = pipe.transformer.config
    settings |= {
        "feature_dim": config.feature_dim,
        "score_dim": config.score_dim,
        "style_dim": config.style_dim,
    }
    with atomic_folder(args.output) as partial:
        export_graphs(pipe, partial, settings)
        for name in GRAPHS:
            shrink(partial / f"{name}.onnx", *(() if args.float else FEWER[name]))
        settings["genres"] = write_styles(pipe, partial)
        settings["files"] = describe_files(partial)
        (partial / MODEL).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        report = compare(pipe, partial, args.seconds)
        total = sum(each["bytes"] for each in settings["files"].values())
        print(f"{total / 1e6:.1f} MB; against torch over {args.seconds:g} s: audio {report['audio']:.2e}, latents "
              f"{report['latents']:.2e} at most, {report['share']:.4f} of their deviation")  # fmt: skip
        near = max(report["audio"], report["latents"]) <= FLOAT_DIFFERENCE
        if not (near if args.float else report["share"] <= LATENT_SHARE):
            raise ValueError("the graphs play otherwise than the model; nothing was written")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="pipeline: bundled name, folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder")
    parser.add_argument("--float", action="store_true", help="no weights in fewer than 16 bits")
    parser.add_argument("--steps", type=int, help="steps a block (the pipeline's)")
    parser.add_argument("--guidance", type=float, help="guidance scale; a page plays 1 alone")
    parser.add_argument("--block-frames", type=int, help="frames a block (the pipeline's)")
    parser.add_argument("--window-frames", type=int, help="frames of context (the pipeline's)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the comparison with torch (4)")
    parser.set_defaults(prompt="medium swing piano trio")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    hub.quiet_libraries()
    return run_script(lambda: convert(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
