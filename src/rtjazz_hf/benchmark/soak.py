"""A live session for hours against the clock, steered all the while: what a long evening does to it.

    python -m rtjazz_hf.benchmark.soak --minutes 120 --change-every 20 --adapter my-style/ --log soak.jsonl

plays in real time to nobody, changes prompt, mix, chart, tempo, band and style every so many seconds, and prints a line
a minute and the figures of the whole at the end. It exits 1 where the sound ran out, was not finite, silent or clicked,
or where memory or level went off by more than is allowed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE
from rtjazz_hf.evaluation.measures.metrics import join_jumps
from rtjazz_hf.live.outputs import PacedOutput
from rtjazz_hf.live.playback import Player
from rtjazz_hf.runtime.memory import memory_of_this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtjazz_hf.live import LiveBlock, LiveSession

MAX_GROWTH = 20e6  # bytes, from the end of the warm-up on
MAX_DRIFT = 2.0  # dB, of the second half against the first
_WARM_UP = 0.1  # of the time: caches and allocators fill
_SILENT_DB = -60.0  # of a block, where the band plays
_CLICK = 3.0  # times the steps of the two blocks that a join is between
_CHANGES = (
    {"tempo": 96.0}, {"prompt": "bossa nova, nylon guitar"}, {"chords": "Am7 | D7 | Gmaj7 | %"}, {"tempo": 180.0},
    {"prompt": {"bossa nova": 0.4, "hard bop quintet": 0.6}}, {"instruments": ["piano", "bass", "drums"]},
    {"prompt": "slow ballad, muted trumpet", "tempo": 60.0}, {"chords": "Dm7 | G7 | Cmaj7 | %", "tempo": 132.0},
    {"prompt": "medium swing quartet"}, {"seed": 7},
)  # fmt: skip


@dataclass
class Soak:
    """What was seen so far.

    Attributes:
        seconds: of music. levels: of each block in dB (RMS). memory: (seconds, bytes) once a second or so.
        clicks: joins of blocks with a step of over three times those of the blocks (`join_jumps`).
    """

    seconds: float = 0.0
    blocks: int = 0
    changes: int = 0
    not_finite: int = 0
    silent: int = 0
    clicks: int = 0
    under_runs: int = 0
    levels: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    block_seconds: list[float] = field(default_factory=list)
    _before: np.ndarray | None = None

    def take(self, block: LiveBlock) -> None:
        """Look at the next block."""
        audio = block.audio
        self.blocks += 1
        self.seconds += audio.shape[1] / SAMPLE_RATE
        self.block_seconds.append(block.seconds)
        if not np.isfinite(audio).all():
            self.not_finite += 1
            return
        self.levels.append(10.0 * float(np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-12)))
        self.silent += self.levels[-1] < _SILENT_DB
        if self._before is not None:
            pair = np.concatenate([self._before, audio], axis=1)
            self.clicks += join_jumps(pair, [self._before.shape[1]])["ratio"] > _CLICK
        self._before = audio

    @property
    def growth(self) -> float:
        """Bytes that the process has grown by since the warm-up: medians of the first and the last tenth after it."""
        kept = [size for at, size in self.memory if at >= _WARM_UP * self.seconds]
        tenth = max(1, len(kept) // 10)
        return float(np.median(kept[-tenth:]) - np.median(kept[:tenth])) if kept else 0.0

    @property
    def drift(self) -> float:
        """dB by which the second half is louder than the first (medians over blocks, of the same round of changes)."""
        half = len(self.levels) // 2
        return float(np.median(self.levels[half:]) - np.median(self.levels[:half])) if half else 0.0

    def problems(self) -> list[str]:
        """What is not as it should be."""
        counted = {"under-runs": self.under_runs, "blocks that are not finite": self.not_finite,
                   "silent blocks": self.silent, "clicks": self.clicks}  # fmt: skip
        found = [f"{count} {name}" for name, count in counted.items() if count]
        if self.growth > MAX_GROWTH:
            found.append(f"memory grew by {self.growth / 1e6:.1f} MB")
        if abs(self.drift) > MAX_DRIFT:
            found.append(f"the level drifted by {self.drift:+.1f} dB")
        return found

    def to_dict(self) -> dict[str, Any]:
        times = np.percentile(self.block_seconds, (50, 95, 99)) if self.block_seconds else (0.0, 0.0, 0.0)
        own = {name: value for name, value in asdict(self).items() if isinstance(value, (int, float))}
        return {
            **own,
            "memory_mb": round(self.memory[-1][1] / 1e6, 1) if self.memory else None,
            "growth_mb": round(self.growth / 1e6, 2),
            "drift_db": round(self.drift, 2),
            "block_ms": [round(1000.0 * value, 1) for value in times],
            "problems": self.problems(),
        }


def soak(
    session: LiveSession,
    seconds: float,
    *,
    change_every: float = 20.0,
    adapters: Sequence[str] = (),
    buffer: float = 0.4,
    output: PacedOutput | None = None,
    tell: Callable[[Soak], None] = lambda seen: None,
) -> Soak:
    """Play `session` for so many seconds against the clock, with a change every `change_every` seconds.

    Args:
        adapters: of the pipeline's, that take turns with none, a change of each round.
        output: in place of one of real time. tell: called once a minute of music.
    """
    seen, changes = Soak(), _all_changes(adapters)
    process, told = memory_of_this_process(), [0.0, 0.0]  # when memory was looked at, and when it was told

    def take(block: LiveBlock) -> None:
        seen.take(block)
        seen.under_runs = player.under_runs
        if seen.seconds - told[0] >= 1.0:
            told[0] = seen.seconds
            seen.memory.append((seen.seconds, process()))
        if seen.seconds >= change_every * (seen.changes + 1):
            seen.changes += 1
            session.update(**next(changes))
        if seen.seconds - told[1] >= 60.0:
            told[1] = seen.seconds
            tell(seen)

    player = Player(session, output or PacedOutput(buffer=buffer), duration=seconds, on_block=take)
    player.run()
    seen.under_runs = player.under_runs
    return seen


def _all_changes(adapters: Sequence[str]) -> Iterator[dict[str, Any]]:
    turn = 0
    while True:
        yield from _CHANGES
        if adapters:
            names = [*adapters, None]
            yield {"adapter": names[turn % len(names)]}
            turn += 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rtjazz-mini")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--change-every", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="DIR", help="a style to change to and from"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, metavar="FILE.jsonl", help="a line a minute")
    args = parser.parse_args(argv)

    import torch

    from rtjazz_hf.pipeline_realtime_jazz import RealTimeJazzPipeline

    torch.set_num_threads(args.threads)
    pipe = RealTimeJazzPipeline.from_pretrained(args.model)
    for number, folder in enumerate(args.adapter):
        pipe.load_lora_weights(folder, f"style{number}")
    pipe.set_adapters([])
    began = time.perf_counter()

    def tell(seen: Soak) -> None:
        line = json.dumps({"clock": round(time.perf_counter() - began, 1), **seen.to_dict()})
        print(line, file=sys.stderr, flush=True)
        if args.log is not None:
            with args.log.open("a") as file:
                file.write(line + "\n")

    with pipe.live("medium swing quartet", tempo=120, seed=args.seed) as session:
        names = [f"style{number}" for number in range(len(args.adapter))]
        seen = soak(session, 60.0 * args.minutes, change_every=args.change_every, adapters=names, tell=tell)
    print(json.dumps(seen.to_dict()))
    return 1 if seen.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
