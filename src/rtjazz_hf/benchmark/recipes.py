"""What is trained, and on what: the settings of each training that a benchmark measures, and the recipes it judges.

The settings are those of training/configs, of which an installed package knows nothing (a test holds them together).
Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .settings import DTYPES, MAX_THREADS, Case

PARTS = ("codec", "flow", "lora")
SIZES = ("mini", "base")

_FLOW = {
    "mini": {
        "model": {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6, "num_style_heads": 2,
                  "intermediate_size": 1024, "adaln_rank": 16, "patch_size": 3},
        "batch_size": 8, "crop_frames": 432, "full_attention_rate": 0.1, "own_context_rate": 0.5,
        "context_drift": 0.3, "ema_decay": 0.998, "mixed_precision": "bf16", "max_steps": 8000,
    },
    "base": {
        "model": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
        "batch_size": 32, "crop_frames": 864, "window_frames": 750, "own_context_rate": 0.5, "context_drift": 0.3,
        "ema_decay": 0.9999, "mixed_precision": "bf16", "max_steps": 400_000,
    },
}  # fmt: skip
_LORA = {"batch_size": 4, "crop_frames": 288, "max_steps": 1500}
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("codec", "mini"): {
        "model": {"max_codebooks": 32, "prediction_levels": 4, "codebook_dim": [128] * 4 + [16] * 28},
        "batch_size": 6, "crop_frames": 90, "ema_decay": 0.998, "mixed_precision": "no",
        "discriminator": {"num_filters": 8, "n_ffts": [2048, 1024, 512]}, "max_steps": 7000,
        "adversarial_from": 4000, "freeze_encoder_at": 4000,
    },
    ("codec", "base"): {
        "model": {"encoder_hidden_size": 640, "encoder_layers": 4, "decoder_hidden_size": 768, "decoder_layers": 4},
        "batch_size": 32, "crop_frames": 150, "ema_decay": 0.999, "mixed_precision": "bf16",
        "discriminator": {"num_filters": 32, "n_ffts": [4096, 2048, 1024, 512, 256], "periods": [2, 3, 5, 7, 11]},
        "discriminator_frames": 100, "discriminator_every": 1, "max_steps": 200_000,
        "adversarial_from": 40_000, "freeze_encoder_at": 120_000,
    },
    ("flow", "mini"): _FLOW["mini"],
    ("flow", "base"): _FLOW["base"],
    # mini is distilled, and its adapters learn through its own two steps
    ("lora", "mini"): {"model": {**_FLOW["mini"]["model"], "distilled_steps": 2, "distilled_shift": 2.0}, **_LORA},
    ("lora", "base"): {"model": _FLOW["base"]["model"], **_LORA},
}  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """Peak of dense bfloat16 in FLOP/s, and memory in GB, as the maker states them."""

    name: str
    flops: float
    memory_gb: float


A100 = Gpu("A100 40 GB", 312e12, 40.0)
SMALL = Gpu("RTX 3060 8 GB", 25e12, 8.0)
# Shares of a GPU's peak between which training is thought to run: an assumption, not a measurement.
UTILISATIONS = (0.3, 0.1)


@dataclass(frozen=True)
class Recipe:
    """A training that somebody may want to run: `steps` optimizer steps of what SETTINGS has for part and size.

    Attributes:
        batch_size: crops of a GPU at a time. accumulate: such batches a step. asked_hours: what it should fit in.
    """

    part: str
    size: str
    gpu: Gpu
    gpus: int
    batch_size: int
    accumulate: int
    steps: int
    asked_hours: float

    @property
    def name(self) -> str:
        return f"{self.part} {self.size}, {self.gpus} x {self.gpu.name}"


RECIPES = (
    Recipe("codec", "base", A100, 4, 16, 2, 200_000, 7 * 24.0),
    Recipe("flow", "base", A100, 8, 8, 4, 400_000, 14 * 24.0),
    Recipe("codec", "mini", SMALL, 1, 6, 1, 7000, 24.0),
    Recipe("flow", "mini", SMALL, 1, 8, 1, 8000, 24.0),
    Recipe("codec", "base", SMALL, 1, 2, 16, 200_000, math.inf),
    Recipe("flow", "base", SMALL, 1, 2, 16, 400_000, math.inf),
    Recipe("lora", "base", SMALL, 1, 4, 1, 1500, 2.0),
)


@dataclass(frozen=True)
class TrainingSettings:
    """What to measure of training.

    Args:
        parts: of `PARTS`. sizes: of `SIZES`.
        batch_size: crops a step; by default the config's on a GPU and for mini, and 1 for base on a CPU.
        dtype: of the arithmetic, "float32" or "bfloat16"; by default the config's.
        checkpointing: activations are computed again in the backward pass, where a model can (the flow's can).
        steps: of each kind that are timed, after a first one.
        threads: of torch; as torch has them by default. device: "cpu", "cuda" or "mps". seed: of all that is drawn.
        overrides: settings by part that go before the config's, for small tries. isolate: as in `BenchmarkSettings`;
            a process has one precision, so cases of several want processes of their own.
    """

    parts: tuple[str, ...] = PARTS
    sizes: tuple[str, ...] = SIZES
    batch_size: int | None = None
    dtype: str | None = None
    checkpointing: bool = False
    steps: int = 2
    threads: int | None = None
    device: str = "cpu"
    seed: int = 0
    overrides: dict[str, dict[str, Any]] | None = None
    isolate: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("parts", PARTS), ("sizes", SIZES)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or set(values) - set(allowed):
                raise ValueError(
                    f"{name} {', '.join(values) or 'none'}: choose from {', '.join(allowed)}, each once"
                )
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: choose 1 or more")
        if self.dtype not in (None, *DTYPES[:2]):
            raise ValueError(f"dtype {self.dtype}: training is measured in {' or '.join(DTYPES[:2])}")
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}: choose 1 or more")
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise ValueError(f"threads {self.threads}: choose 1 to {MAX_THREADS}")
        if self.device not in ("cpu", "cuda", "mps"):
            raise ValueError(f"device {self.device}: training is measured on cpu, cuda or mps")


def plan_training(settings: TrainingSettings) -> list[Case]:
    """A case for each part and size."""
    cases = []
    for part in settings.parts:
        for size in settings.sizes:
            values = {**SETTINGS[part, size], **(settings.overrides or {}).get(part, {})}
            if settings.batch_size is not None:
                values["batch_size"] = settings.batch_size
            elif size == "base" and settings.device == "cpu":
                values["batch_size"] = 1
            if settings.dtype is not None:
                values["mixed_precision"] = {"float32": "no", "bfloat16": "bf16"}[settings.dtype]
            dtype = "bfloat16" if values.get("mixed_precision", "bf16") == "bf16" else "float32"
            cases.append(
                Case(
                    "train", f"{part} {size}", "alone", dtype=dtype, device=settings.device,
                    threads=settings.threads, rounds=settings.steps, seed=settings.seed,
                    config={"part": part, "values": values, "checkpointing": settings.checkpointing},
                )
            )  # fmt: skip
    return cases


def compute_recipe(recipe: Recipe, figures: dict[str, Any]) -> dict[str, Any]:
    """What a recipe would take by what was counted here; nothing of it was run.

    Args:
        figures: of the case with the recipe's part and size (`training.TrainContender.result`).

    Returns:
        "hours" of wall time by utilisation, "gpu_hours" likewise, "memory_gb" a GPU (weights, gradients, optimizer,
        average, and what the backward pass needs; without workspaces and the driver's own), "fits".
    """
    samples = recipe.batch_size * recipe.accumulate * recipe.steps  # of one GPU; all do as much at once
    flops = samples * figures["flops_per_sample"]
    hours = {f"{share:g}": flops / (share * recipe.gpu.flops) / 3600 for share in UTILISATIONS}
    memory = (figures["state_bytes"] + recipe.batch_size * figures["activation_bytes_per_sample"]) / 1e9
    return {
        "recipe": recipe.name,
        "steps": recipe.steps,
        "batch": f"{recipe.batch_size} x {recipe.accumulate} x {recipe.gpus}",
        "hours": hours,
        "gpu_hours": {share: recipe.gpus * value for share, value in hours.items()},
        "asked_hours": recipe.asked_hours if math.isfinite(recipe.asked_hours) else None,
        "memory_gb": memory,
        "fits": memory < 0.9 * recipe.gpu.memory_gb,
    }
