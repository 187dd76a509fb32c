"""How well a session keeps to an external MIDI clock, on a simulated timeline: no port, and no waiting.

    python -m rtjazz_hf.live.clock_check --minutes 5

plays the real model against a clock with jitter and a change of tempo, and prints the error of the band's beats.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..hub.loading import resolve_pretrained
from .clock import TICKS_PER_BEAT, ClockFollower, MidiClock
from .midi_ports import import_mido

if TYPE_CHECKING:
    from .session import LiveSession


@dataclass(frozen=True)
class ClockReport:
    """Errors in seconds of the band's beats, after the first bar, against the clock's true ones.

    Attributes:
        drift: median error of the last minute less that of the first (signed).
        worst_after_change: the largest error in the bar after the change of tempo.
        settled: seconds after the change from which on no error is above 10 ms.
    """

    beats: int
    median: float
    p95: float
    largest: float
    drift: float
    worst_after_change: float
    settled: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def simulated_ticks(
    seconds: float, tempos: tuple[float, float], change_at: float, jitter: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """True and jittered times of the ticks of a clock that changes its tempo at `change_at` seconds.

    jitter: standard deviation in seconds. Ticks do not overtake one another.
    """
    periods = [60.0 / (TICKS_PER_BEAT * tempo) for tempo in tempos]
    before = int(change_at / periods[0])
    steps = np.full(int(seconds / min(periods)), periods[1])
    steps[:before] = periods[0]
    true = np.concatenate([[0.0], np.cumsum(steps)])
    heard = true + np.random.default_rng(seed).normal(0.0, jitter, len(true))
    return true, np.maximum.accumulate(heard)


def check_clock(
    session: LiveSession,
    *,
    seconds: float = 300.0,
    tempos: tuple[float, float] = (120.0, 126.0),
    change_at: float = 60.0,
    jitter: float = 0.002,
    buffer: float = 0.3,
    latency: float = 0.02,
    seed: int = 0,
) -> ClockReport:
    """Let `session` follow a simulated clock.

    As in `playback.Player`: the next block is asked for when `buffer` seconds are left in hand, and heard after
    them and the sound card's `latency`.
    """
    Message = import_mido().Message
    now = [0.0]
    clock = MidiClock(clock=lambda: now[0])
    follower = ClockFollower(clock)
    true, ticks = simulated_ticks(seconds + 5.0, tempos, change_at, jitter, seed)
    clock.receive(Message("start"), float(ticks[0]))
    fed = 0
    made_until = 1.0  # when the first block is heard, in seconds of the clock
    heard: list[tuple[int, float]] = []
    while made_until < seconds:
        now[0] = made_until - buffer - latency
        while ticks[fed] <= now[0]:
            clock.receive(Message("clock"), float(ticks[fed]))
            fed += 1
        follower.align(session, made_until)
        sheet, start = session.lead_sheet, session.position
        block = next(session)
        for at in sheet.beat_times(start, block.duration):
            heard.append((round(sheet.beat_at(float(at))), float(at) - start + made_until))
        made_until += block.duration
    first_bar = sheet.beats_per_bar + heard[0][0]
    kept = [(beat, at) for beat, at in heard if beat >= first_bar and beat * TICKS_PER_BEAT < len(true)]
    times = np.array([at for _, at in kept])
    errors = times - np.array([true[beat * TICKS_PER_BEAT] for beat, _ in kept])
    off, after = np.abs(errors), times >= change_at
    late = times[after & (off > 0.010)]
    minute = min(60.0, seconds / 4)
    return ClockReport(
        beats=len(off),
        median=float(np.median(off)),
        p95=float(np.percentile(off, 95)),
        largest=float(off.max()),
        drift=float(
            np.median(errors[times > times[-1] - minute]) - np.median(errors[times < times[0] + minute])
        ),
        worst_after_change=float(off[after & (times < change_at + 2.0)].max(initial=0.0)),
        settled=float(late.max() - change_at) if len(late) else 0.0,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rtjazz-mini")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--jitter", type=float, default=2.0, help="ms, standard deviation")
    parser.add_argument("--tempos", type=float, nargs=2, default=(120.0, 126.0))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch
    from diffusers import DiffusionPipeline  # which knows the pipeline: this room comes before it

    pipe = DiffusionPipeline.from_pretrained(resolve_pretrained(args.model)[0], dtype=torch.float32)
    with pipe.live("medium swing piano trio", tempo=args.tempos[0], seed=args.seed) as session:
        report = check_clock(
            session,
            seconds=60.0 * args.minutes,
            tempos=tuple(args.tempos),
            change_at=12.0 * args.minutes,
            jitter=args.jitter / 1000.0,
            seed=args.seed,
        )
    print(json.dumps(report.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
