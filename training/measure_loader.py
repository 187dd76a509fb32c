"""Does the loader of stage 2 keep up with training, and is its memory flat?

    python training/measure_loader.py --config mini --data data/latents --codec runs/codec/final --batch-size 4 \\
        --max-steps 48 --mixed-precision no --output-dir runs/loader

As many takes of the store as hold `--gigabytes` of sound are packed into shards, as `prepare_corpus.py --dataset`
makes them. All of it is streamed once through the loader, and resident memory is looked at on the way. Then a flow is
trained, every batch twice: read from the shards, none of which is in the system's cache by then, and lying in memory
already; who goes first takes turns. Figures are printed as JSON.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from rtjazz_hf.audio import HOP_LENGTH
from rtjazz_hf.corpus.latent_store import SHARDS, LatentStore, write_shard
from rtjazz_hf.hub import load_codec
from rtjazz_hf.trainers.flow import FlowBatches, FlowTrainConfig, build_model, channel_weights, flow_loss
from rtjazz_hf.trainers.run import TrainingRun, input_errors, parameter_groups, parse_config, step_rng

CONFIGS = Path(__file__).parent / "configs"
FRAME_BYTES = HOP_LENGTH * 2 * 2  # of 16-bit stereo sound


@dataclass
class LoaderConfig(FlowTrainConfig):
    """Settings of a flow's training, and what is streamed."""

    gigabytes: float = 1.0  # of 16-bit stereo sound
    shard_takes: int = 64


def pack(config: LoaderConfig, folder: Path) -> LatentStore:
    """The first takes of the store as shards in `folder`, until they hold enough sound."""
    store = LatentStore(config.data, "train", config.styles)
    need, takes = config.gigabytes * 1e9, []
    for take in store:
        takes.append(take)
        need -= take.num_frames * FRAME_BYTES
        if need <= 0:
            break
    else:
        raise ValueError(
            f"{config.data} holds {config.gigabytes - need / 1e9:.2f} GB of sound, less than the {config.gigabytes:g} "
            "of --gigabytes."
        )
    shutil.rmtree(folder, ignore_errors=True)
    (folder / SHARDS).mkdir(parents=True)
    shutil.copy(store.folder / "index.json", folder)
    for first in range(0, len(takes), config.shard_takes):
        rows = []
        for take in takes[first : first + config.shard_takes]:
            label = {"name": take.name, "lead_sheet": take.lead_sheet.to_dict(), "caption": take.caption,
                     "split": take.split, "num_frames": take.num_frames}  # fmt: skip
            rows.append((label, {**take.tensors(), "text": take.text, "audio": take.audio}))
        write_shard(folder / SHARDS / f"shard-{first // config.shard_takes:05d}", rows)
    return LatentStore(folder)


def forget(folder: Path) -> None:
    """Ask the system to drop the files below `folder` from its cache."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stream(batches: FlowBatches, config: LoaderConfig) -> dict[str, float | list[float]]:
    """Read batches, every take as often as any other, until `gigabytes` went by; resident memory (MB) at five times."""
    process, read = psutil.Process(), 0.0
    count = math.ceil(config.gigabytes * 1e9 / (config.batch_size * config.crop_frames * FRAME_BYTES))
    marks = [round(count * part / 4) for part in range(5)]
    memory, started = [], time.monotonic()
    for number in range(count + 1):
        memory += marks.count(number) * [process.memory_info().rss / 1e6]
        if number < count:
            batches.numbered(number, step_rng(config.seed, number, 0))
            read += config.batch_size * config.crop_frames * FRAME_BYTES / 1e9
    return {"gigabytes": read, "batches": count, "seconds": time.monotonic() - started, "memory_mb": memory}


class InTurns:
    """Every batch of `batches` twice: as it is read now, and as it was `kept` in memory before."""

    def __init__(self, batches: FlowBatches, kept: list[dict[str, torch.Tensor]], seed: int) -> None:
        self.batches, self.kept, self.seed = batches, kept, seed

    def from_shards(self, number: int) -> bool:
        return number % 4 in (0, 3)

    def numbered(self, number: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        pair = number // 2
        if self.from_shards(number):
            return self.batches.numbered(pair, step_rng(self.seed, pair, 0))
        return self.kept[pair]


def timed_steps(config: LoaderConfig, run: TrainingRun, store: LatentStore) -> Iterator[tuple[bool, float]]:
    """Whether a step's batch came from the shards, and seconds of the step, waiting for the batch included."""
    codec = load_codec(config.codec)
    store.check_codec(codec)
    model = build_model(config, codec, store[0]).to(run.device).train()
    run.make_ema(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    prepared, optimizer = run.prepare(model, optimizer)
    weights = channel_weights(model)
    sizes = model.config.block_sizes, model.config.window_frames, model.config.score_dim
    before = FlowBatches(store, config, *sizes)
    kept = [before.numbered(pair, step_rng(config.seed, pair, 0)) for pair in range(config.max_steps // 2)]
    again = LatentStore(store.folder)  # it has compared no take with its checksum yet
    turns = InTurns(FlowBatches(again, config, *sizes), kept, config.seed)
    forget(store.folder)
    last = time.monotonic()
    for number, batch in enumerate(run.batches(turns)):
        with run.accelerator.accumulate(prepared):
            run.backward(flow_loss(prepared, batch, config, weights), prepared, optimizer)
        now = time.monotonic()
        yield turns.from_shards(number), now - last
        last = time.monotonic()


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_config(LoaderConfig, "flow", CONFIGS, description=__doc__, argv=argv)
    config.order, config.save_every = "epoch", config.max_steps + 1
    config.max_steps += config.max_steps % 2
    with input_errors():
        run = TrainingRun(config)
        store = pack(config, run.output_dir / "shards")
    files = [path.stat().st_size for path in store.folder.rglob("*.safetensors")]
    told = {"takes": len(store), "hours": store.hours, "shards": len(files), "shards_mb": sum(files) / 1e6}
    forget(store.folder)
    told["stream"] = stream(FlowBatches(store, config, (36,)), config)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number, (shards, taken) in enumerate(timed_steps(config, run, store)):
        if number >= 4:  # the first are warm-up
            seconds[shards].append(taken)
    total = {name: sum(seconds[shards]) for name, shards in (("shards", True), ("memory", False))}
    told["training"] = {
        "steps": len(seconds[True]), "seconds_from_shards": total["shards"], "seconds_in_memory": total["memory"],
        "median_ratio": statistics.median(a / b for a, b in zip(seconds[True], seconds[False])),
        "busy": total["memory"] / total["shards"],
    }  # fmt: skip
    run.finish()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
