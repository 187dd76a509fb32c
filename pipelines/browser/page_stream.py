"""What `engine.js` does, in Python with onnxruntime: to check an export with, and a page's latents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GRAPHS = ("conditions", "flow", "codec_decoder")
MODEL = "model.json"


def load_model(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Settings, graphs and styles `(genres, style_dim)` of a folder of `conversion/export_browser.py`."""
    import onnxruntime

    folder = Path(folder)
    settings = json.loads((folder / MODEL).read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graphs = {
        name: onnxruntime.InferenceSession(
            str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        for name in GRAPHS
    }
    styles = np.frombuffer((folder / "styles.bin").read_bytes(), "<f4").reshape(-1, settings["style_dim"])
    return settings, graphs, styles


class PageStream:
    """One stream: its cache, its decoder's state, its place.

    Args:
        graphs, settings: of `load_model`.
    """

    def __init__(self, graphs: dict[str, Any], settings: dict[str, Any]):
        self.graphs, self.settings, self.frame = graphs, settings, 0
        layers, rows, heads, head_dim = settings["cache_shape"]
        self.tokens = settings["block_frames"] // settings["patch_size"]
        slots = settings["cache_blocks"] * self.tokens
        self.keys, self.values = np.zeros((2, layers, rows, heads, slots, head_dim), np.float32)
        self.heard = np.zeros(slots, bool)
        self.decoder_state = {
            each["name"]: np.zeros(each["shape"], each["type"]) for each in settings["decoder_state"]
        }

    def run(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        graph = self.graphs[name]
        return dict(zip([output.name for output in graph.get_outputs()], graph.run(None, inputs)))

    def block(
        self, noise: np.ndarray, style: np.ndarray, lead_sheet: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Noise (1, channels, frames) -> audio (2, samples) in [-1, 1], latents (1, latent_dim, frames)."""
        position = np.array([self.frame], np.int64)
        shared = self.run("conditions", lead_sheet=lead_sheet, style=style, position=position)
        clean, modulation, head = (shared.pop(name) for name in ("clean_modulation", "modulation", "head"))
        bends, bent = (shared.pop(name, None) for name in ("bends", "bent"))
        past = {"past_keys": self.keys, "past_values": self.values, "past_heard": self.heard}
        state, times = noise, np.asarray(self.settings["times"], np.float32)
        for index, length in enumerate(np.diff(times)):  # Euler, from noise at 0 to music at 1
            step = {"modulation": modulation[:, :, index], "head": head[:, index]}
            state = state + length * self.run("flow", sample=state, **step, **shared, **past)["velocity"]
        if bends is not None:
            last = slice(self.settings["latent_dim"] - bends.shape[1], self.settings["latent_dim"])
            state[:, last] += bent * (bends - state[:, last])
        silent = {
            "lead_sheet_states": np.zeros_like(shared["lead_sheet_states"]),
            "style_values": np.zeros_like(shared["style_values"]),
            "modulation": clean, "head": head[:, 0],
        }  # fmt: skip
        own = self.run("flow", sample=state, **{**shared, **silent}, **past)
        self.keys, self.values = (
            np.concatenate((past[..., self.tokens :, :], own[name]), axis=3)
            for past, name in ((self.keys, "keys"), (self.values, "values"))
        )
        self.heard = np.concatenate((self.heard[self.tokens :], np.ones(self.tokens, bool)))
        self.frame += noise.shape[-1]
        latents = state[:, : self.settings["latent_dim"]]
        played = self.run("codec_decoder", latents=latents, **self.decoder_state)
        self.decoder_state = {name: played[f"new_{name}"] for name in self.decoder_state}
        return played["audio"][0], latents
