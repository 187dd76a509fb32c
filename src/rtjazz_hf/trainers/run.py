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
    model, optimizer = run.prepare_model(model)  # EMA, AdamW, Accelerator.prepare
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
import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..runtime.files import as_umask, atomic_folder, told_why, whole_or_not_at_all
from ..runtime.precision import training_precision
from .batches import EpochOrder, StepDataset, step_rng
from .cards import model_card
from .checkpoints import (
    STATE_FILE,
    complete_checkpoints,
    damaged_files,
    drop_checkpoints,
    file_sum,
    latest_checkpoint,
    partial_checkpoint,
    read_state,
    usable_checkpoint,
)
from .config import (
    TrainConfig,
    build_config,
    disk_errors,
    import_train_extra,
    input_errors,
    learning_rate_factor,
    load_config,
    parse_config,
)
from .log import RunLog
from .monitor import TrainingMonitor
from .weights import EMA, parameter_groups

# What a training script needs, by one import.
__all__ = [
    "EMA",
    "EpochOrder",
    "TrainConfig",
    "TrainingRun",
    "atomic_folder",
    "build_config",
    "complete_checkpoints",
    "damaged_files",
    "disk_errors",
    "input_errors",
    "latest_checkpoint",
    "learning_rate_factor",
    "load_config",
    "model_card",
    "parameter_groups",
    "parse_config",
    "step_rng",
]

_BAD_BATCHES = 3  # dumps of batches whose gradient was not finite that are kept
# What may change between two parts of one run without a word.
_FREE_TO_CHANGE = {"max_minutes", "max_steps", "log_every", "save_every", "sample_every", "keep_checkpoints",
                   "keep_best", "best_metric", "num_workers", "wandb", "output_dir", "resume", "init_from",
                   "evaluate_every", "evaluate_takes", "evaluate_seconds"}  # fmt: skip


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
        self.checkpoint = usable_checkpoint(config)
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
        told = {name: str(value) for name, value in dataclasses.asdict(config).items()}
        with told_why(self.output_dir, self.output_dir):
            self.accelerator.init_trackers("rtjazz", told, {"wandb": offline})
        self.monitor = TrainingMonitor(self.device, self.accelerator.num_processes)
        set_seed(config.seed)
        self.step = 0
        self._micro_batches = 0  # made before this call, by all processes
        self._first_step = 0
        self._batch: Any = None
        self.healthy = True  # a script says False where checkpoints of the state in hand are not wanted
        self.ema: EMA | None = None
        self._ema_source: nn.Module | None = None
        self._log = RunLog(self.accelerator, self.output_dir, self.monitor)
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

    def prepare_model(
        self, model: nn.Module, groups: Callable[[nn.Module, Any], list[dict]] | None = None
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model on its device, in training mode, with its EMA and AdamW, both prepared; `resume` comes next.

        Args:
            groups: AdamW's, of the model and the config; default: `parameter_groups`.
        """
        model.to(self.device).train()
        if getattr(self.config, "gradient_checkpointing", False):
            model.gradient_checkpointing_enable()
        self.make_ema(model)
        if groups is None:
            chosen = parameter_groups(model, self.config.weight_decay)
        else:
            chosen = groups(model, self.config)
        return self.prepare(model, torch.optim.AdamW(chosen, lr=self.config.learning_rate, betas=(0.9, 0.98)))

    def prepare(self, *objects: Any) -> Any:
        """`Accelerator.prepare` for models and optimizers, whose rates follow the schedule from here on."""
        prepared = self.accelerator.prepare(*objects)
        for item in prepared if len(objects) > 1 else (prepared,):
            if isinstance(item, torch.optim.Optimizer):
                self._optimizers.append((item, [group["lr"] for group in item.param_groups]))
        return prepared

    def begun_without(self, setting: str) -> bool:
        """Whether the run that is gone on with began before there was such a setting."""
        return self.checkpoint is not None and setting not in read_state(self.checkpoint)["config"]

    def resume(self) -> int:
        """Load the newest whole checkpoint, if any, into everything prepared; the steps done so far.

        Another number of processes goes on with the micro-batches that have not been seen yet (with FSDP, whose shards
        belong to their processes, it must be the same).
        """
        folder = self.checkpoint
        if folder is None:
            if self.is_main:
                self._log.trim(self.step)  # of a run that was killed before its first checkpoint
            return 0
        state = read_state(folder)
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
            self._log.pending = {name: list(pair) for name, pair in state["pending"].items()}
        self.monitor.earlier = state.get("cost", 0.0)
        if self.is_main:
            self._log.trim(self.step)
        self.print(f"resumed from {folder.name}")
        return self.step

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
        `sizes` (`monitor.batch_sizes`) is what it holds, for the rates that are logged.
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
            StepDataset(make_batch, self.config.seed), batch_size=None, sampler=numbers,
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
                if (self.step + 1) % self.config.log_every == 0:
                    limit = self.config.max_minutes
                    left = None if limit is None else limit - self.minutes
                    shown = self._log.end_window(self.step + 1, self.config.max_steps, left)
                    self._progress.set_postfix(shown, refresh=False)
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
        kept = {"step": self.step, "what": name, "loss": loss.detach().cpu(), "batch": self._batch}
        with whole_or_not_at_all(path) as partial:
            torch.save(kept, partial)
        self.print(f"step {self.step}: {name} is not finite, left out; its batch is in {path}")
        for old in sorted(folder.glob(f"step-*-{process}.pt"))[:-_BAD_BATCHES]:
            old.unlink()

    @property
    def metrics(self) -> dict[str, float]:
        """The last logged means and evaluations."""
        return self._log.metrics

    def log(self, **values: torch.Tensor | float) -> None:
        """Add values to this window's means over all processes, written every log_every steps to TensorBoard and
        log.jsonl."""
        self._log.add(**values)

    def log_now(self, **values: float) -> None:
        """Write values of this step at once (evaluations)."""
        self._log.write_now(self.step + 1, **values)

    def save_sample(self, name: str, audio: Any, lead_sheet: Any = None) -> None:
        """Keep a sound of `(2, samples)` at 48 kHz and its picture, in output_dir/samples and TensorBoard."""
        self._log.save_sample(self.step + 1, name, audio, lead_sheet)

    def log_picture(self, name: str, picture: np.ndarray) -> None:
        """Show a picture in TensorBoard: `(height, width)` or `(height, width, 3)`, values in [0, 1]."""
        self._log.show_picture(self.step + 1, name, picture)

    def due(self, every: int) -> bool:
        """Whether the step in hand is a multiple of `every` (0 = never); ask after `backward`."""
        return every > 0 and self._last_micro_batch and (self.step + 1) % every == 0

    def save_checkpoint(self) -> None:
        """Write checkpoints/step-XXXXXXXX whole or not at all, with checksums; drop the oldest beyond keep_checkpoints
        that are not among the keep_best best by best_metric."""
        folder = self.output_dir / "checkpoints" / f"step-{self.step:08d}"
        partial = partial_checkpoint(folder)
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
        pending = self._log.of_all_processes()
        if self.is_main:
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            state = {
                "step": self.step, "pending": pending, "config": dataclasses.asdict(self.config),
                "processes": self.accelerator.num_processes, "micro_batches": self._made_by(self.step),
                "cost": self.monitor.cost, "metrics": self.metrics,
                "sha256": {str(path.relative_to(partial)): file_sum(path) for path in files},
            }  # fmt: skip
            (partial / STATE_FILE).write_text(json.dumps(state, indent=2))
            as_umask(partial)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
            drop_checkpoints(self.config)
        self.accelerator.wait_for_everyone()

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
            drop_checkpoints(self.config)
        self.print(self.monitor.summary())
        with told_why(self.output_dir, self.output_dir):
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
