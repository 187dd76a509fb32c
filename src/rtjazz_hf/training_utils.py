"""What every training script shares: seeds, checkpoints, EMA, logs, the bookkeeping of the loop.

A script reads top to bottom; this module keeps its promises. The pattern:

    @dataclass
    class FlowTrainConfig(TrainConfig):  # own settings beside the shared ones
        data: str = ""
        model: dict = field(default_factory=dict)

    # --config mini means CONFIGS/flow_mini.yaml; every field is also an option of the command line
    config = parse_config(FlowTrainConfig, "flow", CONFIGS, description=__doc__)
    run = TrainingRun(config)  # Accelerator, seeds, TensorBoard
    model = Model(ModelConfig(**config.model))
    run.make_ema(model)  # before prepare
    optimizer = AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    model, optimizer = run.prepare(model, optimizer)
    run.resume()  # from the newest complete checkpoint, if there is one
    for batch in run.batches(make_batch):  # make_batch(rng) -> dict of tensors
        with run.accelerator.accumulate(model):
            loss = model(**batch).loss
            run.backward(loss, model, optimizer)  # clip, step, zero_grad, EMA
        run.log(loss=loss)  # mean over log_every steps
        if run.due(config.sample_every):
            run.save_sample("take 1", audio, lead_sheet)  # flac, picture, TensorBoard
    run.save_model(run.weights(model), extras=[tokenizer], card=model_card(...))  # output_dir/final
    run.finish()

Micro-batches are numbered over all processes: number n is what process n % processes makes next, and what it holds
depends on (seed, n) alone, as does the random state that is set before it. So a run that was killed and resumed repeats
the losses of one that was not; and two processes learn what one does that accumulates two micro-batches.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .audio import plot_spectrogram, whole_or_not_at_all, write_audio
from .files import as_umask, atomic_folder, told_why
from .precision import training_precision
from .training_config import (
    TrainConfig,
    build_config,
    import_train_extra,
    input_errors,
    learning_rate_factor,
    load_config,
    parse_config,
)
from .training_monitor import TrainingMonitor

__all__ = [
    "EMA",
    "EpochOrder",
    "TrainConfig",
    "TrainingRun",
    "atomic_folder",
    "build_config",
    "complete_checkpoints",
    "damaged_files",
    "input_errors",
    "latest_checkpoint",
    "learning_rate_factor",
    "load_config",
    "model_card",
    "parameter_groups",
    "parse_config",
    "step_rng",
]

_CHECKPOINT_NAME = re.compile(r"step-(\d{8})")
_STATE_FILE = "state.json"
_BAD_BATCHES = 3  # dumps of batches whose gradient was not finite that are kept
# What a checkpoint's tensors are of: with another value they do not fit, or mean something else.
_FIXED = ("model", "discriminator", "styles", "rank", "alpha", "targets", "dora", "qlora")
# What may change between two parts of one run without a word.
_FREE_TO_CHANGE = {"max_minutes", "max_steps", "log_every", "save_every", "sample_every", "keep_checkpoints",
                   "keep_best", "best_metric", "num_workers", "wandb", "output_dir", "resume", "init_from",
                   "evaluate_every", "evaluate_takes", "evaluate_seconds"}  # fmt: skip


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: decay for matrices and kernels, none for biases, norms, scales and embeddings."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    decays = [p for p in trainable if p.ndim >= 2 and id(p) not in embeddings]
    rest = [p for p in trainable if p.ndim < 2 or id(p) in embeddings]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


class EMA:
    """An exponential moving average of a model's weights, as a second module: `ema.module`, in eval mode.

    Parameters are averaged (the decay warms up as (1 + n) / (10 + n)); buffers are copied. Make it before
    `Accelerator.prepare`, which binds a wrapped forward to the instance.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimizer step; `model` is the unwrapped model."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine, theirs = list(self.module.parameters()), [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for own, other in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(other)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.module.load_state_dict(state["module"])


def complete_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """The complete checkpoint folders of a run, oldest first; half-written ones are ignored."""
    return sorted(
        folder
        for folder in Path(output_dir, "checkpoints").glob("step-*")
        if _CHECKPOINT_NAME.fullmatch(folder.name) and (folder / _STATE_FILE).is_file()
    )


def _partial_checkpoint(folder: Path) -> Path:
    """Where a checkpoint lies while it is written, or deleted."""
    return folder.with_name(f".{folder.name}.partial")


def latest_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The newest complete checkpoint folder of a run, or None."""
    return next(reversed(complete_checkpoints(output_dir)), None)


def damaged_files(checkpoint: Path) -> list[str]:
    """The files of a checkpoint that are missing, cut short or changed since it was written, by their checksums."""
    sums = json.loads((checkpoint / _STATE_FILE).read_text()).get("sha256", {})  # older ones have none
    return [name for name, known in sums.items() if _file_sum(checkpoint / name) != known]


def _file_sum(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def step_rng(seed: int, *key: int) -> np.random.Generator:
    """The random generator that belongs to (seed, step, ...), the same whenever it is asked for."""
    return np.random.default_rng([seed, *key])


class EpochOrder:
    """Every one of `size` samples once an epoch, each epoch in an order of its own.

    A pure function of the seed and of how many samples came before, so that a restart, or other processes, neither
    repeat nor skip one.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"an epoch of {size} samples: there must be one at least")
        self.size, self.seed = size, seed
        self._epoch, self._order = -1, np.zeros(0, dtype=int)

    def __getitem__(self, place: int) -> int:
        """The sample at `place`, counted from the beginning of the run over all epochs."""
        epoch, within = divmod(place, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, step_rng(self.seed, epoch, 2).permutation(self.size)
        return int(self._order[within])


class _StepDataset(torch.utils.data.Dataset):
    """Micro-batches by their number, so that workers, processes and resumed runs make the same ones."""

    def __init__(self, make_batch: Callable[[np.random.Generator], Any], seed: int) -> None:
        self.make_batch, self.seed = make_batch, seed

    def __getitem__(self, number: int) -> Any:
        rng = step_rng(self.seed, number, 0)
        numbered = getattr(self.make_batch, "numbered", None)
        return self.make_batch(rng) if numbered is None else numbered(number, rng)


class TrainingRun:
    """One run of a training script: Accelerator, clock, checkpoints, logs. See the module's head for its use.

    Attributes: `accelerator`, `config`, `output_dir`, `step` (optimizer steps done), `device`, `is_main`, `checkpoint`
    (what `resume` loads: the newest whose files are whole, or None).
    """

    def __init__(self, config: TrainConfig) -> None:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration, set_seed

        import_train_extra("tensorboard")
        if config.wandb:
            import_train_extra("wandb", "wandb")
        self.config = config
        self.output_dir = Path(config.output_dir)
        if self.output_dir.is_file():
            raise NotADirectoryError(f"output_dir '{self.output_dir}' is a file; give a folder.")
        if not config.resume and latest_checkpoint(self.output_dir) is not None:
            raise FileExistsError(f"'{self.output_dir}' holds a run; resume it, or give another output_dir.")
        self.checkpoint = self._usable_checkpoint()
        self.output_dir.mkdir(parents=True, exist_ok=True)
        precision = training_precision(config.mixed_precision)
        self.accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with=["tensorboard", "wandb"] if config.wandb else ["tensorboard"],
            project_config=ProjectConfiguration(
                str(self.output_dir), logging_dir=str(self.output_dir / "logs")
            ),
        )
        self.is_main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        # Off line unless the environment says otherwise: a run tells nobody of itself without being asked to.
        offline = {"dir": str(self.output_dir), "mode": os.environ.get("WANDB_MODE", "offline"),
                   "name": self.output_dir.name}  # fmt: skip
        self.accelerator.init_trackers(
            "rtjazz", {k: str(v) for k, v in dataclasses.asdict(config).items()}, {"wandb": offline}
        )
        self.monitor = TrainingMonitor(self.device, self.accelerator.num_processes)
        set_seed(config.seed)
        self.step = 0
        self._micro_batches = 0  # made before this call, by all processes
        self._first_step = 0
        self._batch: Any = None
        self.healthy = True  # a script says False where checkpoints of the state in hand are not wanted
        self.ema: EMA | None = None
        self._ema_source: nn.Module | None = None
        self.metrics: dict[str, float] = {}  # the last logged means
        self._pending: dict[str, list[Any]] = {}
        self._optimizers: list[tuple[Any, list[float]]] = []
        self._skipped: dict[str, int] = {}
        self._started = time.monotonic()
        self._stop = False
        self._last_micro_batch = True
        self._progress: Any = None
        if precision != config.mixed_precision:
            self.print(f"mixed_precision is {precision}: this CPU has no fast {config.mixed_precision}")

    @property
    def minutes(self) -> float:
        """Wall time since this call started."""
        return (time.monotonic() - self._started) / 60

    def print(self, text: str) -> None:
        """Say something on the main process without breaking the progress bar."""
        if self.is_main:
            (self._progress.write if self._progress is not None else print)(text)

    def make_ema(self, model: nn.Module) -> EMA | None:
        """Make the EMA of the model (None if ema_decay is 0) that checkpoints keep; before `prepare`."""
        if self.config.ema_decay == 0:
            return None
        if "FSDP" in str(self.accelerator.distributed_type):
            raise ValueError("EMA needs whole weights on each process; set ema_decay: 0 with FSDP.")
        self.ema = EMA(model.to(self.device), self.config.ema_decay)
        self._ema_source = model
        self.accelerator.register_for_checkpointing(self.ema)
        return self.ema

    def prepare(self, *objects: Any) -> Any:
        """`Accelerator.prepare` for models and optimizers, whose rates follow the schedule from here on."""
        prepared = self.accelerator.prepare(*objects)
        for item in prepared if len(objects) > 1 else (prepared,):
            if isinstance(item, torch.optim.Optimizer):
                self._optimizers.append((item, [group["lr"] for group in item.param_groups]))
        return prepared

    def resume(self) -> int:
        """Load the newest whole checkpoint, if any, into everything prepared; the steps done so far.

        Another number of processes goes on with the micro-batches that have not been seen yet (with FSDP, whose shards
        belong to their processes, it must be the same).
        """
        folder = self.checkpoint
        if folder is None:
            if self.is_main:
                self._trim_log()  # of a run that was killed before its first checkpoint
            return 0
        state = json.loads((folder / _STATE_FILE).read_text())
        now = json.loads(json.dumps(dataclasses.asdict(self.config)))
        changed = [key for key in now if key not in _FREE_TO_CHANGE and state["config"].get(key) != now[key]]
        if changed:
            self.print(f"settings changed since the last part of this run: {', '.join(changed)}")
        processes = state.get("processes", self.accelerator.num_processes)
        if processes != self.accelerator.num_processes:
            if "FSDP" in str(self.accelerator.distributed_type):
                raise ValueError(
                    f"'{folder}' holds the shards of {processes} processes, now there are "
                    f"{self.accelerator.num_processes}: start as many, or save the model and use init_from."
                )
            self.print(
                f"{self.accelerator.num_processes} processes instead of {processes}: set gradient_accumulation_steps "
                "so that a step sees as much as before"
            )
        self.accelerator.load_state(str(folder))
        self.step = self._first_step = state["step"]
        micro = self.config.gradient_accumulation_steps
        self._micro_batches = state.get("micro_batches", self.step * micro * processes)
        if self.is_main:  # they are of all processes, and added up again
            self._pending = {name: list(pair) for name, pair in state["pending"].items()}
        self.monitor.earlier = state.get("cost", 0.0)
        if self.is_main:
            self._trim_log()
        self.print(f"resumed from {folder.name}")
        return self.step

    def _usable_checkpoint(self) -> Path | None:
        """The newest checkpoint whose files are as they were written; ValueError where it is of another model."""
        if not self.config.resume:
            return None
        for folder in reversed(complete_checkpoints(self.output_dir)):
            if damaged := damaged_files(folder):
                print(
                    f"checkpoint {folder.name} is damaged ({', '.join(damaged)}): passed over",
                    file=sys.stderr,
                )
                continue
            before = json.loads((folder / _STATE_FILE).read_text())["config"]
            now = json.loads(json.dumps(dataclasses.asdict(self.config)))
            other = [key for key in _FIXED if key in now and key in before and now[key] != before[key]]
            if other:
                told = "; ".join(f"{key} {before[key]!r}, now {now[key]!r}" for key in other)
                raise ValueError(
                    f"'{folder}' is of another model ({told}): give another output_dir, or the settings of this one."
                )
            return folder
        return None

    def _made_by(self, step: int) -> int:
        """Micro-batches that all processes together have made before `step`."""
        processes, micro = self.accelerator.num_processes, self.config.gradient_accumulation_steps
        return self._micro_batches + (step - self._first_step) * micro * processes

    def batches(
        self, make_batch: Callable[[np.random.Generator], Any], sizes: Mapping[str, float] | None = None
    ) -> Iterator[Any]:
        """Yield batches on the device until max_steps, max_minutes or an interrupt; checkpoints on the way
        and at the end.

        `make_batch(rng)` makes a micro-batch (a tensor, dict or list of them) from its generator alone; where it has a
        method `numbered(number, rng)`, that is called instead, with the micro-batch's number (see `EpochOrder`).
        `sizes` (`training_monitor.batch_sizes`) is what it holds, for the rates that are logged.
        """
        from accelerate.utils import send_to_device
        from tqdm.auto import tqdm

        micro = self.config.gradient_accumulation_steps
        indices = range(self.step * micro, self.config.max_steps * micro)
        first = self._made_by(self.step) + self.accelerator.process_index
        numbers = range(
            first, first + len(indices) * self.accelerator.num_processes, self.accelerator.num_processes
        )
        loader = torch.utils.data.DataLoader(
            _StepDataset(make_batch, self.config.seed), batch_size=None, sampler=numbers,
            num_workers=self.config.num_workers,
            prefetch_factor=2 if self.config.num_workers else None, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        self._progress = tqdm(
            total=self.config.max_steps, initial=self.step, disable=not self.is_main, unit="step"
        )
        self.monitor.begin(self.step, {name: size * micro for name, size in (sizes or {}).items()})
        with self._progress, self._graceful_stop():
            for index, number, batch in zip(indices, numbers, loader):
                self._last_micro_batch = (index + 1) % micro == 0
                if index % micro == 0:
                    self._set_learning_rate()
                # the same noise, dropout and masks in a resumed run, whatever an evaluation drew before
                torch.manual_seed(int(step_rng(self.config.seed, number, 0, 1).integers(2**62)))
                self._batch = batch
                yield send_to_device(batch, self.device)
                if not self._last_micro_batch:
                    continue
                self._end_of_log_window()
                self.step += 1
                self._progress.update()
                if self._should_stop():
                    break
                if self.step % self.config.save_every == 0 and self.healthy:
                    self.save_checkpoint()
            latest = latest_checkpoint(self.output_dir)
            if latest is None or latest.name != f"step-{self.step:08d}":
                self.save_checkpoint()
        self._progress = None

    def backward(
        self, loss: torch.Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, name: str = "grad_norm"
    ) -> None:
        """Back-propagate; where a step is due: clip, step, clear, and update the EMA if it is of this model.

        A step with a gradient that is not finite is left out, and its batch kept as
        output_dir/bad_batches/step-XXXXXXXX-N.pt (the last three); ten in a row end the run with an error.
        `name` is the logged name of the gradient's norm, where one script trains two models.
        """
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            norm = self.accelerator.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)
            self.log(**{name: norm})
            if torch.isfinite(torch.as_tensor(norm)) or self.accelerator.scaler is not None:
                self._skipped[name] = 0
                optimizer.step()
                unwrapped = self.accelerator.unwrap_model(model)
                if self.ema is not None and unwrapped is self._ema_source:  # not a discriminator, say
                    self.ema.update(unwrapped)
            else:
                self._skipped[name] = self._skipped.get(name, 0) + 1
                self._keep_bad_batch(name, loss)
                if self._skipped[name] == 10:
                    raise FloatingPointError(
                        f"the gradient was not finite 10 times in a row at step {self.step}; "
                        "lower learning_rate or set mixed_precision: 'no'."
                    )
            optimizer.zero_grad(set_to_none=True)

    def _keep_bad_batch(self, name: str, loss: torch.Tensor) -> None:
        folder = self.output_dir / "bad_batches"
        folder.mkdir(exist_ok=True)
        process = self.accelerator.process_index
        path = folder / f"step-{self.step:08d}-{process}.pt"
        torch.save({"step": self.step, "what": name, "loss": loss.detach().cpu(), "batch": self._batch}, path)
        self.print(f"step {self.step}: {name} is not finite, left out; its batch is in {path}")
        for old in sorted(folder.glob(f"step-*-{process}.pt"))[:-_BAD_BATCHES]:
            old.unlink()

    def log(self, **values: torch.Tensor | float) -> None:
        """Add values to this window's means over all processes, written every log_every steps to TensorBoard and
        log.jsonl."""
        for name, value in values.items():
            value = value.detach().float().mean() if isinstance(value, torch.Tensor) else float(value)
            total = self._pending.setdefault(name, [0.0, 0])
            total[0] = total[0] + value  # stays on the device: no synchronisation until the window ends
            total[1] += 1

    def log_now(self, **values: float) -> None:
        """Write values of this step at once (evaluations)."""
        values = {name: float(value) for name, value in values.items()}
        self.metrics.update(values)
        self._write(self.step + 1, values)

    def due(self, every: int) -> bool:
        """Whether the step in hand is a multiple of `every` (0 = never); ask after `backward`."""
        return every > 0 and self._last_micro_batch and (self.step + 1) % every == 0

    def save_sample(self, name: str, audio: Any, lead_sheet: Any = None) -> None:
        """Keep a sound of `(2, samples)` at 48 kHz and its picture, in output_dir/samples and TensorBoard."""
        if not self.is_main:
            return
        from matplotlib.image import imread

        audio = audio.detach().float().cpu().numpy() if isinstance(audio, torch.Tensor) else np.asarray(audio)
        folder = self.output_dir / "samples" / f"step-{self.step + 1:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^\w-]+", "_", name)
        write_audio(folder / f"{stem}.flac", audio, overwrite=True)
        picture = plot_spectrogram(audio, folder / f"{stem}.png", lead_sheet, f"{name}, step {self.step + 1}")
        writer = self.accelerator.get_tracker("tensorboard").writer
        mid = torch.from_numpy(audio).mean(0, keepdim=True).clamp(-1, 1)
        writer.add_audio(name, mid, self.step + 1, sample_rate=48_000)
        self.log_picture(name, imread(picture)[..., :3])

    def log_picture(self, name: str, picture: np.ndarray) -> None:
        """Show a picture in TensorBoard: `(height, width)` or `(height, width, 3)`, values in [0, 1]."""
        if self.is_main:
            layout = "HWC" if picture.ndim == 3 else "HW"
            writer = self.accelerator.get_tracker("tensorboard").writer
            writer.add_image(name, picture, self.step + 1, dataformats=layout)

    def save_checkpoint(self) -> None:
        """Write checkpoints/step-XXXXXXXX whole or not at all, with checksums; drop the oldest beyond keep_checkpoints
        that are not among the keep_best best by best_metric."""
        folder = self.output_dir / "checkpoints" / f"step-{self.step:08d}"
        partial = _partial_checkpoint(folder)
        try:
            with told_why(folder, partial):
                self._write_checkpoint(folder, partial)
        finally:
            if self.is_main:  # on a disk that is full, what is half there only takes room
                shutil.rmtree(partial, ignore_errors=True)

    def _write_checkpoint(self, folder: Path, partial: Path) -> None:
        if self.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))  # every process: FSDP keeps a shard each
        self.accelerator.wait_for_everyone()
        pending = self._pending_of_all()
        if self.is_main:
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            state = {
                "step": self.step, "pending": pending, "config": dataclasses.asdict(self.config),
                "processes": self.accelerator.num_processes, "micro_batches": self._made_by(self.step),
                "cost": self.monitor.cost, "metrics": self.metrics,
                "sha256": {str(path.relative_to(partial)): _file_sum(path) for path in files},
            }  # fmt: skip
            (partial / _STATE_FILE).write_text(json.dumps(state, indent=2))
            as_umask(partial)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
            self._drop_checkpoints()
        self.accelerator.wait_for_everyone()

    def _drop_checkpoints(self) -> None:
        """Delete the checkpoints that are not kept, and what a killed process left of one it wrote or deleted."""
        done = complete_checkpoints(self.output_dir)
        kept = {*done[-max(1, self.config.keep_checkpoints) :], *self._best_checkpoints(done)}
        for old in set(done) - kept:  # renamed first: half deleted, it must not stay for ever
            partial = _partial_checkpoint(old)
            shutil.rmtree(partial, ignore_errors=True)
            os.replace(old, partial)
        for left in (self.output_dir / "checkpoints").glob(_partial_checkpoint(Path("step-*")).name):
            shutil.rmtree(left, ignore_errors=True)

    def _best_checkpoints(self, done: Sequence[Path]) -> list[Path]:
        """The keep_best of `done` with the lowest best_metric; of two that are equal the older."""
        measured = []
        for folder in done if self.config.keep_best else ():
            value = (
                json.loads((folder / _STATE_FILE).read_text()).get("metrics", {}).get(self.config.best_metric)
            )
            if value is not None and np.isfinite(value):
                measured.append((value, folder))
        return [folder for _, folder in sorted(measured)[: self.config.keep_best]]

    def weights(self, model: nn.Module) -> nn.Module:
        """The model to sample from, judge and save: the EMA where there is one, else the unwrapped model."""
        if self.ema is not None:
            return self.ema.module
        return self.accelerator.unwrap_model(model)

    def save_model(self, model: Any, extras: Sequence[Any] = (), card: str = "", name: str = "final") -> Path:
        """Save model, extras (a tokenizer) and README.md as the folder output_dir/name, atomically."""
        folder = self.output_dir / name
        whole = {}
        if "FSDP" in str(self.accelerator.distributed_type):  # gathered by all processes together
            whole = {"state_dict": self.accelerator.get_state_dict(model)}
        if self.is_main:
            with atomic_folder(folder) as partial:
                model.save_pretrained(partial, **whole)
                for item in extras:
                    item.save_pretrained(partial)
                if card:
                    (partial / "README.md").write_text(card)
        self.accelerator.wait_for_everyone()
        return folder

    def stop(self) -> None:
        """End the run after the step in hand, saved, as an interrupt does."""
        self._stop = True

    def finish(self) -> None:
        """Close the logs, and say what the run has cost."""
        if self.is_main:  # after the last checkpoint a kill may have come before this
            self._drop_checkpoints()
        self.print(self.monitor.summary())
        self.accelerator.end_training()

    def _set_learning_rate(self) -> None:
        progress = self.minutes / self.config.max_minutes if self.config.decay_by == "minutes" else None
        factor = learning_rate_factor(self.step, self.config, progress)
        for optimizer, peaks in self._optimizers:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        if self._optimizers:
            self.log(learning_rate=self._optimizers[0][1][0] * factor)

    def _should_stop(self) -> bool:
        late = self.config.max_minutes is not None and self.minutes >= self.config.max_minutes
        if late or self._stop:
            self.accelerator.set_trigger()
        return (
            self.accelerator.check_trigger()
        )  # all processes agree, or they would wait for each other for ever

    def _pending_of_all(self) -> dict[str, list[Any]]:
        """This window's sums and counts, added up over all processes; the same on each of them."""
        from accelerate.utils import gather_object

        mine = {name: [float(total), count] for name, (total, count) in self._pending.items()}
        if self.accelerator.num_processes == 1:
            return mine
        added: dict[str, list[Any]] = {}
        for part in gather_object([mine]):
            for name, (total, count) in part.items():
                before = added.get(name, [0.0, 0])
                added[name] = [before[0] + total, before[1] + count]
        return added

    def _end_of_log_window(self) -> None:
        if (self.step + 1) % self.config.log_every:
            return
        means = {name: total / count for name, (total, count) in self._pending_of_all().items()}
        self._pending.clear()
        self.metrics.update(means)
        self._write(self.step + 1, means)
        cost = self._write_machine(self.step + 1)
        if self._progress is not None:
            shown = {k: f"{v:.4g}" for k, v in list(means.items())[:6]}
            self._progress.set_postfix({**shown, "cost": cost}, refresh=False)

    def _write(self, step: int, values: dict[str, float]) -> None:
        self.accelerator.log(values, step=step)
        if self.is_main:
            path = self.output_dir / "log.jsonl"
            with told_why(path, path), path.open("a") as log:
                log.write(json.dumps({"step": step, **values}) + "\n")

    def _write_machine(self, step: int) -> str:
        """Rates, memory and cost, in a file of their own: what log.jsonl holds is the same in every repetition."""
        figures = {**self.monitor.window(step), "cost": self.monitor.cost}
        limit = self.config.max_minutes
        left = self.monitor.left(step, self.config.max_steps, None if limit is None else limit - self.minutes)
        if left is not None:
            figures["cost_left"] = left
        self.accelerator.log({f"machine/{name}": value for name, value in figures.items()}, step=step)
        if self.is_main:
            path = self.output_dir / "machine.jsonl"
            with told_why(path, path), path.open("a") as log:
                log.write(json.dumps({"step": step, **figures}) + "\n")
        return f"{figures['cost']:.2g}+{figures.get('cost_left', 0.0):.2g} {self.monitor.unit}"

    def _trim_log(self) -> None:
        """Forget what was logged after the checkpoint: those steps are run again."""
        path = self.output_dir / "log.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            with whole_or_not_at_all(path) as partial:
                partial.write_text(
                    "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= self.step)
                )

    @contextlib.contextmanager
    def _graceful_stop(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step in hand, saved; a second Ctrl-C ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _frame: Any) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True
            self.print("stopping after this step; once more to stop at once")

        old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def model_card(
    name: str,
    summary: str,
    config: TrainConfig,
    metrics: dict[str, float],
    data: str,
    library: str = "transformers",
) -> str:
    """The README.md of a trained part: what it is, how it was trained, its measures and limits."""
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in sorted(metrics.items()))
    settings = "\n".join(f"{key}: {json.dumps(value)}" for key, value in dataclasses.asdict(config).items()
                         if key not in ("output_dir", "data"))  # fmt: skip
    return f"""---
library_name: {library}
license: apache-2.0
tags:
- music
- jazz
- rtjazz
---

# {name}

{summary}

A part of RealTimeJazz: `pip install rtjazz-hf`, then `import rtjazz_hf` before `AutoModel.from_pretrained`.

## Training

Data: {data}

```yaml
{settings}
```

## Measures at the end of training

| measure | value |
|---|---|
{rows}

## Limits

Trained on the data named above alone: other music, other words and other sound are outside what it knows.
"""
