"""Endless jazz with onnxruntime and numpy alone: no torch, no transformers, no rtjazz_hf.

    python conversion/export_onnx.py rtjazz-mini -o rtjazz-mini-onnx       # once; needs rtjazz-hf[onnx]
    python pipelines/examples/onnx_stream.py rtjazz-mini-onnx -o jazz.wav --seed 1
    python pipelines/examples/onnx_stream.py rtjazz-mini-onnx --compare    # beside torch; needs rtjazz_hf

A folder made by `export_onnx.py` holds the graphs, and in `performance.npz` what is played: a style embedding, and a
lead sheet's features, which start again at their end. Noise is drawn here. All state is in `OnnxStream`: make as many
as there are listeners, they share the sessions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

GRAPHS = ("conditions", "flow_step", "flow_append", "codec_decoder")
FRAMES_PER_SECOND = 75


def load_graphs(folder: str | Path, threads: int = 1) -> dict[str, onnxruntime.InferenceSession]:
    """The exported graphs, ready to run on a CPU.

    One thread keeps up with the music, and leaves the other cores to whoever plays beside it. More do not spin while
    they wait, which would take whole cores and, beside other programs, many times the time.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return {
        name: onnxruntime.InferenceSession(
            str(Path(folder) / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        for name in GRAPHS
    }


class OnnxStream:
    """One stream: its cache, its decoder's state, its place in the music.

    Args:
        graphs: of `load_graphs`. settings: what `onnx.json` says.
    """

    def __init__(self, graphs: dict[str, onnxruntime.InferenceSession], settings: dict[str, Any]):
        self.graphs, self.settings = graphs, settings
        self.frame = 0
        layers, rows, heads, head_dim = settings["cache_shape"]
        slots = settings["cache_blocks"] * settings["block_frames"] // settings["patch_size"]
        self.cache = {
            "past_keys": np.zeros((layers, rows, heads, slots, head_dim), np.float32),
            "past_values": np.zeros((layers, rows, heads, slots, head_dim), np.float32),
            "past_heard": np.zeros(slots, bool),
        }
        types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        inputs = graphs["codec_decoder"].get_inputs()[1:]  # the first is the latents
        self.decoder_state = {each.name: np.zeros(each.shape, types[each.type]) for each in inputs}

    def run(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        graph = self.graphs[name]
        return dict(zip([output.name for output in graph.get_outputs()], graph.run(None, inputs)))

    def block(
        self, noise: np.ndarray, style: np.ndarray, lead_sheet: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Noise (1, channels, frames) -> audio (2, samples) in [-1, 1], latents (1, latent_dim, frames)."""
        position = np.array([self.frame], np.int64)
        shared = self.run("conditions", lead_sheet=lead_sheet, style=style, position=position)
        clean_modulation = shared.pop("clean_modulation")[:, :, 0]
        modulation, head = shared.pop("modulation"), shared.pop("head")
        bends, bent = (shared.pop(name, None) for name in ("bends", "bent"))
        if self.settings["guidance_scale"] != 1.0:
            shared["guidance_scale"] = np.array(self.settings["guidance_scale"], np.float32)
        times, state = np.asarray(self.settings["times"], np.float32), noise
        for index, length in enumerate(np.diff(times)):  # Euler, from noise at 0 to music at 1
            step = {"modulation": modulation[:, :, index], "head": head[:, index]}
            state = (
                state
                + length * self.run("flow_step", sample=state, **step, **shared, **self.cache)["velocity"]
            )
        if bends is not None:  # of the last latents, as much as is bent
            last = slice(self.settings["latent_dim"] - bends.shape[1], self.settings["latent_dim"])
            state[:, last] += bent * (bends - state[:, last])
        rotary = {name: shared[name] for name in ("rotary_cos", "rotary_sin")}
        heard = self.run(
            "flow_append", sample=state, clean_modulation=clean_modulation, **rotary, **self.cache
        )
        self.cache = {f"past_{name}": value for name, value in heard.items()}
        self.frame += noise.shape[-1]
        latents = state[:, : self.settings["latent_dim"]]
        played = self.run("codec_decoder", latents=latents, **self.decoder_state)
        self.decoder_state = {name: played[f"new_{name}"] for name in self.decoder_state}
        return played["audio"][0], latents


def load_performance(folder: str | Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Settings, style `(1, style_dim)` and lead sheet `(1, frames, features)` of an exported folder."""
    folder = Path(folder)
    try:
        settings = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
        arrays = np.load(folder / "performance.npz", allow_pickle=False)
        return settings, arrays["style"], arrays["lead_sheet"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{folder} is no folder of conversion/export_onnx.py ({error})") from None


def draw_noise(settings: dict[str, Any], seed: int):
    """Gaussian noise for one block after another."""
    generator = np.random.default_rng(seed)
    sigma = np.float32(settings.get("init_noise_sigma", 1.0))  # exports of older versions do not tell it
    while True:
        noise = generator.standard_normal((1, settings["channels"], settings["block_frames"]), dtype=np.float32)
        yield sigma * noise


def stream(folder: str | Path, seed: int = 1, threads: int = 1):
    """Blocks of audio (2, samples) and of latents, without end."""
    settings, style, lead_sheet = load_performance(folder)
    player, block = OnnxStream(load_graphs(folder, threads), settings), settings["block_frames"]
    for noise in draw_noise(settings, seed):
        start = player.frame % lead_sheet.shape[1]
        yield player.block(noise, style, lead_sheet[:, start : start + block])


def compare(folder: str | Path, pipe: Any = None, seed: int = 1, threads: int | None = None) -> dict[str, float]:
    """The performance by torch and by onnxruntime from the same noise: differences, and real-time factors of both.

    On `threads` of each, or as many as torch has; each plays a block beforehand that is not timed.
    """
    import torch

    from rtjazz_hf import RealTimeJazzPipeline

    settings, style, lead_sheet = load_performance(folder)
    pipe = pipe or RealTimeJazzPipeline.from_pretrained(settings["source"], engine="torch")
    block, total = settings["block_frames"], lead_sheet.shape[1]
    noises = draw_noise(settings, seed)
    parts = [(next(noises), lead_sheet[:, start : start + block]) for start in range(0, total, block)]
    if threads is not None:
        torch.set_num_threads(threads)
    graphs = load_graphs(folder, torch.get_num_threads())

    def by_onnx(parts) -> list:
        player = OnnxStream(graphs, settings)
        return [player.block(noise, style, sheet) for noise, sheet in parts]

    @torch.inference_mode()
    def by_torch(parts) -> list:
        player = pipe.prepare_stream([torch.Generator()], block, settings["window_frames"])
        blocks = []
        for noise, sheet in parts:
            state = player.denoise(
                torch.from_numpy(noise), torch.from_numpy(style), torch.from_numpy(sheet),
                num_inference_steps=settings["num_inference_steps"], guidance_scale=settings["guidance_scale"],
            )  # fmt: skip
            player.append(state)
            latents = player.without_cues(state)
            blocks.append((player.decode(latents)[0].numpy(), latents.numpy()))
        return blocks

    played, factors, seconds = [], [], total / FRAMES_PER_SECOND
    for play in (by_torch, by_onnx):
        play(parts[:1])
        started = time.perf_counter()
        played.append(play(parts))
        factors.append((time.perf_counter() - started) / seconds)
    audio, latents = (
        max(float(np.abs(one[part] - other[part]).max()) for one, other in zip(*played)) for part in (0, 1)
    )
    return {"seconds": seconds, "difference": audio, "latents_difference": latents,
            "torch": factors[0], "onnx": factors[1]}  # fmt: skip


def write_wav(path: str, audio: np.ndarray, rate: int) -> None:
    """(2, samples) as 16-bit stereo."""
    with wave.open(path, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((audio.T * 32767).astype("<i2").tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="what conversion/export_onnx.py wrote")
    parser.add_argument("-o", "--output", default="onnx_stream.wav", help="WAV file (onnx_stream.wav)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime (1)")
    parser.add_argument("--compare", action="store_true", help="differences and speed beside torch, no file")
    args = parser.parse_args()
    if args.compare:
        print(json.dumps(compare(args.folder, seed=args.seed, threads=args.threads)))
        return
    settings, _, _ = load_performance(args.folder)
    blocks, rate = [], settings["sampling_rate"]
    wanted, began = round(args.seconds * rate), time.perf_counter()
    for audio, _ in stream(args.folder, args.seed, args.threads):
        blocks.append(audio)
        if sum(block.shape[1] for block in blocks) >= wanted:
            break
    took = time.perf_counter() - began
    write_wav(args.output, np.concatenate(blocks, axis=1)[:, :wanted], rate)
    print(f"{args.output}: {args.seconds:g} s in {took:.1f} s, graphs loaded included", file=sys.stderr)


if __name__ == "__main__":
    main()
