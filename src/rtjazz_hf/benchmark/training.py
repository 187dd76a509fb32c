"""How fast a part trains: real optimizer steps of the training code itself, on random weights and random data."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter

from rtjazz_hf.audio import FRAME_RATE, HOP_LENGTH
from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.flow import RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig
from rtjazz_hf.music import LEAD_SHEET_DIM
from rtjazz_hf.music.score_features import SCORE_DIM
from rtjazz_hf.trainers.adapter import LoraTrainConfig, StyledFlow, lora_losses
from rtjazz_hf.trainers.codec import CodecLoss, CodecTrainConfig, codec_step
from rtjazz_hf.trainers.flow import FlowTrainConfig, channel_weights, flow_loss
from rtjazz_hf.trainers.run import TrainConfig, TrainingRun, parameter_groups

from .settings import Case
from .timing import peak_memory, timed


@dataclass(frozen=True)
class Kind:
    """A kind of step: its share of a whole training, a step, and (where that can be counted without computing) loss
    and backward pass of a twin whose tensors are shapes alone, on torch's device "meta"."""

    share: float
    step: Callable[[], Any]
    twin: nn.Module | None = None
    twin_step: Callable[[], Any] | None = None


Kinds = dict[str, Kind]


class TrainContender:
    """A part in training. Its kinds of steps are measured apart: a training is a mixture of them, of known shares.

    FLOPs and what is kept for the backward pass are counted once of each kind; the steps of `round` are timed.
    """

    def __init__(self, case: Case):
        if case.device == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"  # a GPU that is there is not what was asked for
        self.case = case
        self.folder = tempfile.TemporaryDirectory(prefix="rtjazz-train-")
        given = case.config or {}
        torch.manual_seed(case.seed)
        trainee = {"codec": _codec, "flow": _flow, "lora": _lora}[given["part"]]
        self.config, self.run, self.model, self.kinds, patch = trainee(
            {**given["values"], "output_dir": str(Path(self.folder.name) / "run"), "seed": case.seed},
            given.get("checkpointing", False),
        )
        self.frames = self.config.batch_size * self.config.crop_frames
        self.tokens = self.frames / patch
        self.seconds: dict[str, list[float]] = {name: [] for name in self.kinds}
        self.counts: dict[str, tuple[float, float]] = {}

    def warm_up(self) -> None:
        for name, kind in self.kinds.items():
            if kind.twin is None:
                self.counts[name] = count_step(kind.step, self.model)
            else:
                with fused_attention() as attention:
                    flops, kept = count_step(kind.twin_step, kind.twin)
                self.counts[name] = flops + sum(attention), kept
                kind.step()

    def round(self) -> None:
        for name, kind in self.kinds.items():
            self.seconds[name].append(timed(kind.step, self.run.device)[0])

    def result(self) -> dict[str, Any]:
        seconds = self._mean({name: statistics.median(times) for name, times in self.seconds.items()})
        flops = self._mean({name: count[0] for name, count in self.counts.items()})
        batch = self.config.batch_size
        parameters = list(self.model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        everything = sum(p.numel() for p in parameters)
        average = everything if self.config.ema_decay else 0
        self.run.finish()
        self.folder.cleanup()
        return {
            "parameters": everything,
            "trained_parameters": trained,
            "batch_size": batch,
            "crop_frames": self.config.crop_frames,
            "mixed_precision": self.run.accelerator.mixed_precision,
            "checkpointing": bool((self.case.config or {}).get("checkpointing")),
            "step_seconds": seconds,
            "kinds": {
                name: {"share": kind.share, "seconds": statistics.median(self.seconds[name])}
                for name, kind in self.kinds.items()
            },
            "tokens_per_second": self.tokens / seconds,
            "samples_per_second": batch / seconds,
            "audio_seconds_per_second": self.frames / FRAME_RATE / seconds,
            "flops_per_second": flops / seconds,
            "flops_per_sample": flops / batch,
            # float32: weights and their average, gradients, two moments of AdamW
            "state_bytes": 4.0 * (everything + average + 3 * trained),
            "activation_bytes_per_sample": max(kept for _, kept in self.counts.values()) / batch,
            "recipe_hours": seconds / batch * self._recipe_samples() / 3600,
            "peak_memory_mb": peak_memory(self.run.device),
        }

    def _mean(self, values: dict[str, float]) -> float:
        return sum(kind.share * values[name] for name, kind in self.kinds.items())

    def _recipe_samples(self) -> float:
        """Crops of the config's whole training on one device."""
        from .recipes import SETTINGS

        part, _, size = self.case.name.partition(" ")
        planned = SETTINGS[part, size]
        return planned["max_steps"] * planned.get("batch_size", self.config.batch_size)


# --- the parts ------------------------------------------------------------------------------------


def _codec(
    values: dict[str, Any], checkpointing: bool
) -> tuple[TrainConfig, TrainingRun, nn.Module, Kinds, int]:
    config = CodecTrainConfig(data="random", **values)
    run = TrainingRun(config)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**config.model))
    codec.quantizer.train()
    codec.quantizer(torch.randn(1, codec.config.latent_dim, 64))  # its first look at data
    codec.quantizer.eval()
    codec.to(run.device)
    run.make_ema(codec)
    optimizer = torch.optim.AdamW(parameter_groups(codec, config.weight_decay), lr=config.learning_rate)
    model, optimizer = run.prepare(codec, optimizer)
    loss = CodecLoss(run, config)
    samples = config.crop_frames * HOP_LENGTH
    batch = {
        "audio": 0.1 * torch.randn(config.batch_size, 2, samples, device=run.device),
        "start_frame": torch.randint(codec.config.noise_frames, (config.batch_size,), device=run.device),
    }

    def step(at: int) -> Callable[[], Any]:
        frozen = at >= config.freeze_encoder_at

        def one() -> None:
            run.step = at
            codec.encoder.requires_grad_(not frozen)
            codec.quantizer.requires_grad_(not frozen)
            codec_step(run, model, optimizer, loss, batch, frozen, together=False)

        return one

    whole, begin = config.max_steps, config.adversarial_from
    marks = sorted(
        {0, min(config.freeze_encoder_at, whole), whole if begin is None else min(begin, whole), whole}
    )
    kinds = {}
    for start, end in itertools.pairwise(marks):
        judged = begin is not None and start >= begin
        names = ["encoder and decoder", "decoder"][start >= config.freeze_encoder_at]
        kinds[names + (", discriminators" if judged else "")] = Kind(
            (end - start) / whole, step(start + config.adversarial_warmup if judged else start)
        )
    return config, run, codec, kinds, 1


def _random_flow(config: FlowTrainConfig, checkpointing: bool) -> RealTimeJazzFlowTransformer:
    model = RealTimeJazzFlowTransformer(
        RealTimeJazzFlowTransformerConfig(
            **{"lead_sheet_dim": LEAD_SHEET_DIM, "score_dim": SCORE_DIM if config.score else 0, **config.model}
        )
    )
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model


def _flow_batch(model: RealTimeJazzFlowTransformer, config: FlowTrainConfig, block: int, own: bool) -> dict:
    """A batch as `FlowBatches` makes it, of noise; the context is as long as it ever is."""
    rows, frames, device = config.batch_size, config.crop_frames, model.device
    window = model.config.window_frames if config.window_frames is None else config.window_frames
    return {
        "latents": torch.randn(rows, model.config.latent_dim, frames, device=device),
        "lead_sheet": torch.rand(rows, frames, model.config.feature_dim, device=device),
        "style": nn.functional.normalize(torch.randn(rows, model.config.style_dim, device=device), dim=-1),
        "window_frames": torch.full((rows,), window // max(block, 1) * block),
        "block_frames": torch.tensor(block),
        "own_context": torch.tensor(own),
    }


def _block_of(model: RealTimeJazzFlowTransformer, config: FlowTrainConfig) -> int:
    sizes = [size for size in model.config.block_sizes if config.crop_frames % size == 0]
    return model.config.block_frames if model.config.block_frames in sizes else sizes[-1]


def _flow(
    values: dict[str, Any], checkpointing: bool
) -> tuple[TrainConfig, TrainingRun, nn.Module, Kinds, int]:
    config = FlowTrainConfig(data="random", codec="random", **values)
    run = TrainingRun(config)
    model = _random_flow(config, checkpointing).to(run.device).train()
    with torch.device("meta"):
        twin = _random_flow(config, checkpointing).train()
    ema = run.make_ema(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    prepared, optimizer = run.prepare(model, optimizer)
    weights = channel_weights(model)

    def kind(share: float, block: int, own: bool) -> Kind:
        batch = _flow_batch(model, config, block, own)

        def denoise(*inputs: Any, **named: Any) -> Any:
            with run.accelerator.autocast():
                return (prepared if ema is None else ema.module)(*inputs, **named)

        def one() -> None:
            with run.accelerator.accumulate(prepared):
                loss = flow_loss(prepared, batch, config, weights, denoiser=denoise)
                run.backward(loss, prepared, optimizer)

        def count() -> None:
            shapes = _flow_batch(twin, config, block, own)
            flow_loss(twin, shapes, config, channel_weights(twin)).backward()

        return Kind(share, one, twin, count)

    full, own, block = config.full_attention_rate, config.own_context_rate, _block_of(model, config)
    kinds = {
        "full attention": kind(full, 0, False),
        "blocks": kind((1 - full) * (1 - own), block, False),
        "blocks, own context": kind((1 - full) * own, block, True),
    }
    return config, run, model, _present(kinds), model.config.patch_size


def _lora(
    values: dict[str, Any], checkpointing: bool
) -> tuple[TrainConfig, TrainingRun, nn.Module, Kinds, int]:
    from rtjazz_hf.adapters import attach_adapter

    config = LoraTrainConfig(recordings="random", **values)
    run = TrainingRun(config)

    def adapted() -> StyledFlow:
        model = _random_flow(config, checkpointing)
        attach_adapter(
            model, rank=config.rank, alpha=config.alpha, targets=config.targets, use_dora=config.dora
        )
        return StyledFlow(model, torch.randn(model.config.style_dim)).train()

    styled = adapted().to(run.device)
    model = styled.transformer
    twin = adapted().to("meta")  # made of numbers first: an adapter looks at its base's
    parameters = [parameter for parameter in styled.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    prepared, optimizer = run.prepare(styled, optimizer)
    weights = channel_weights(model)

    def kind(share: float, block: int) -> Kind:
        batch = _flow_batch(model, config, block, False)

        def one() -> None:
            with run.accelerator.accumulate(prepared):
                losses = lora_losses(prepared, batch, config, weights)
                loss = losses["style"] + config.prior_weight * losses.get("prior", 0.0)
                run.backward(loss, prepared, optimizer)

        def count() -> None:
            shapes = _flow_batch(twin.transformer, config, block, False)
            sum(lora_losses(twin, shapes, config, channel_weights(twin.transformer)).values()).backward()

        return Kind(share, one, twin, count)

    full = config.full_attention_rate
    kinds = {"full attention": kind(full, 0), "blocks": kind(1 - full, _block_of(model, config))}
    return config, run, styled, _present(kinds), model.config.patch_size


def _present(kinds: Kinds) -> Kinds:
    return {name: kind for name, kind in kinds.items() if kind.share > 0}


# --- counting -------------------------------------------------------------------------------------


def count_step(step: Callable[[], Any], model: nn.Module) -> tuple[float, float]:
    """FLOPs of a step (products of matrices, convolutions and attention, both passes), and the bytes that it keeps
    for its backward pass: each storage once, the weights' own left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = max(kept.get(storage._cdata, 0), storage.nbytes())
        return tensor

    with (
        flop_counter.FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as flops,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        step()
    return float(flops.get_total_flops()), float(sum(kept.values()))


class _FusedAttention(torch.autograd.Function):
    """Shapes of attention as the fused kernels of a GPU have them: they keep inputs, output and one number a query."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, flops: list[float]) -> Any:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        ctx.flops = flops
        flops.append(float(flop_counter.sdpa_flop_count(query.shape, key.shape, value.shape)))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        count = flop_counter.sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)
        ctx.flops.append(float(count))
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


@contextmanager
def fused_attention() -> Iterator[list[float]]:
    """On "meta", attention would be made of matrices that no GPU keeps. Instead, FLOPs of each call, in a list."""
    flops: list[float] = []

    def attend(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return _FusedAttention.apply(query, key, value, flops)

    plain = nn.functional.scaled_dot_product_attention
    nn.functional.scaled_dot_product_attention = attend
    try:
        yield flops
    finally:
        nn.functional.scaled_dot_product_attention = plain


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **named: Any) -> int:
    return flop_counter.sdpa_flop_count(query, key, value)


def _attention_backward_flops(out: Any, query: Any, key: Any, value: Any, *args: Any, **named: Any) -> int:
    return flop_counter.sdpa_backward_flop_count(out, query, key, value)


# torch's counter knows the kernels of GPUs alone.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
