"""How well a session keeps to an external MIDI clock, on a simulated timeline: no port, and no waiting.

    python -m rtjazz_hf.live.clock_check --minutes 5
    python -m rtjazz_hf.live.clock_check --orders 40

plays the real model against a clock with jitter and a change of tempo, and prints the error of the band's beats;
`--orders` against one that is stopped, started, continued, put elsewhere, slowed and silenced, in any order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..hub.loading import resolve_pretrained
from .clock import TICKS_PER_BEAT, TICKS_PER_POSITION, ClockFollower, MidiClock
from .midi_ports import import_mido
from .outputs import PacedOutput
from .playback import Heard, Player

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


# ----------------------------------------------------------------------------------------------------------
# orders
# ----------------------------------------------------------------------------------------------------------
# `silence`: the ticks stay away without a stop. A stop comes with ticks that go on, and with ones that do not.
ORDERS = ("stop", "stop, silent", "start", "continue", "song position", "tempo", "silence")


@dataclass
class SimulatedSet:
    """A set that is played by random orders: what its clock sends, and where it truly is.

    Attributes:
        messages: time in seconds, kind as of `mido.Message`, song position in semiquavers.
        stretches: of playing without an order between: from, to (seconds), beat at the beginning, tempo.
        orders: what was ordered, and when.
    """

    messages: list[tuple[float, str, int]] = field(default_factory=list)
    stretches: list[tuple[float, float, float, float]] = field(default_factory=list)
    orders: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0

    def beat_at(self, seconds: float) -> float | None:
        for begin, end, beat, tempo in self.stretches:
            if begin <= seconds < end:
                return beat + (seconds - begin) * tempo / 60.0
        return None

    def settled_at(self, seconds: float, beats: float) -> bool:
        """Whether the set plays at `seconds`, and has played for so many beats without an order."""
        return any(begin + beats * 60.0 / tempo <= seconds < end for begin, end, _, tempo in self.stretches)


def simulated_set(orders: int, jitter: float, seed: int) -> SimulatedSet:
    """A start, and so many random orders one after another, a few bars apart; see `check_orders`."""
    rng = np.random.default_rng(seed)
    made = SimulatedSet()
    at, ticks, tempo = 0.0, 0, 120.0  # the time of the next tick, the set's place in ticks
    last_period, playing = 0.0, False

    def run(seconds: float, sounding: bool = True) -> None:
        """Let ticks come for so long, or keep them back."""
        nonlocal at, ticks, last_period
        period, begin, first = 60.0 / (TICKS_PER_BEAT * tempo), at, ticks
        count = max(1, round(seconds / period))
        if sounding:
            late = np.clip(rng.normal(0.0, jitter, count), -0.2 * period, 0.2 * period)
            made.messages.extend((float(at + n * period + late[n]), "clock", 0) for n in range(count))
            ticks += count if playing else 0
        at, last_period = at + count * period, period
        if playing and sounding:
            made.stretches.append((begin, at, first / TICKS_PER_BEAT, tempo))

    def send(kind: str, position: int = 0) -> None:
        early = (
            rng.uniform(0.55, 0.7) if kind == "songpos" else rng.uniform(0.25, 0.5)
        )  # before the next tick
        made.messages.append((at - float(early) * last_period, kind, position))

    def play(kind: str) -> None:
        nonlocal playing, ticks
        ticks, playing = 0 if kind == "start" else ticks, True
        send(kind)

    def locate() -> None:
        nonlocal ticks
        position = int(rng.integers(0, 256))
        ticks = position * TICKS_PER_POSITION
        send("songpos", position)

    run(1.0)
    play("start")
    run(8.0)
    for number in range(orders):
        order = ORDERS[number % len(ORDERS)] if number < len(ORDERS) else str(rng.choice(ORDERS))
        made.orders.append((at, order))
        pause = float(rng.uniform(0.1, 6.0))
        if order.startswith("stop"):
            if playing:
                send("stop")
            playing = False
            run(pause, sounding=order == "stop")
            if rng.random() < 0.3:
                tempo = float(rng.uniform(70, 220))
            if rng.random() < 0.3:
                locate()
            play(str(rng.choice(["start", "continue"])))
        elif order == "tempo":
            tempo = float(np.clip(tempo * rng.uniform(0.7, 1.4), 60, 240))
        elif order == "song position":
            locate()
        elif order == "silence":
            run(pause, sounding=False)
        else:
            play(order)
        run(float(rng.uniform(4.0, 9.0)))
    made.seconds = at
    made.messages.sort(key=lambda message: message[0])
    return made


@dataclass(frozen=True)
class OrdersReport:
    """How the band stood to the set, from one bar after each order on.

    Attributes:
        orders: how many of each. beats: heard and judged. largest: error in seconds, whole bars included.
        wrong: beats more than 10 ms off. late: orders after which one was.
        missed: beats of the set at which the band was silent. wandering: seconds by which `Player.heard` moved
            while the set stood.
    """

    orders: dict[str, int]
    beats: int
    largest: float
    wrong: int
    late: list[str]
    missed: int
    wandering: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_orders(
    session: LiveSession, *, orders: int = 40, jitter: float = 0.002, buffer: float = 0.3, seed: int = 0
) -> OrdersReport:
    """Let a `Player` of `session` follow a simulated clock that is ordered about."""
    Message = import_mido().Message
    simulated, now, sent = simulated_set(orders, jitter, seed), [0.0], [0]
    clock = MidiClock(clock=lambda: now[0])
    beats: list[tuple[float, float]] = []  # heard at, the band's beat
    places: list[tuple[float, Heard | None]] = []

    def pass_time(seconds: float) -> None:
        until = now[0] + seconds
        while sent[0] < len(simulated.messages) and simulated.messages[sent[0]][0] <= until:
            now[0], kind, position = simulated.messages[sent[0]]
            clock.receive(Message(kind, **({"pos": position} if kind == "songpos" else {})))
            sent[0] += 1
        now[0] = until
        places.append((until, player.heard()))
        if until >= simulated.seconds:
            player.stop()

    def take(block: Any) -> None:
        begun = output.heard_at(player._handed) - block.duration
        for at in block.lead_sheet.beat_times(block.start, block.duration):
            beats.append((float(at) - block.start + begun, round(block.lead_sheet.beat_at(float(at)))))

    output = PacedOutput(buffer=buffer, clock=lambda: now[0], sleep=pass_time)
    player = Player(session, output, follower=ClockFollower(clock), on_block=take)
    player.run()

    per_bar, errors, late = session.lead_sheet.beats_per_bar, [], Counter()
    for at, beat in beats:
        if simulated.settled_at(at, per_bar):
            tempo = next(s[3] for s in simulated.stretches if s[0] <= at < s[1])
            errors.append((beat - simulated.beat_at(at)) * 60.0 / tempo)
            if abs(errors[-1]) > 0.010:
                late[max((o for o in simulated.orders if o[0] <= at), default=(0.0, "start"))] += 1
    heard = np.array([at for at, _ in beats])
    missed = 0
    for begin, end, first, tempo in simulated.stretches:
        for beat in range(int(np.ceil(first + per_bar)), int(first + (end - begin) * tempo / 60.0)):
            at = begin + (beat - first) * 60.0 / tempo
            missed += bool(at < simulated.seconds - 1.0 and np.abs(heard - at).min() > 0.25 * 60.0 / tempo)
    # what was in hand when the set stopped is heard to its end
    standing = [
        (place.seconds, at)
        for at, place in places
        if place is not None and simulated.beat_at(at) is None and simulated.beat_at(at - 1.0) is None
    ]
    moved = [abs(b[0] - a[0]) for a, b in itertools.pairwise(standing) if b[1] - a[1] < 0.2]
    return OrdersReport(
        orders=dict(Counter(kind for _, kind in simulated.orders)),
        beats=len(errors),
        largest=float(np.abs(errors).max(initial=0.0)),
        wrong=int((np.abs(errors) > 0.010).sum()),
        late=[f"{kind} at {at:.1f} s" for at, kind in late],
        missed=missed,
        wandering=float(sum(moved)),
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
    parser.add_argument("--orders", type=int, help="so many random orders, in place of one change of tempo")
    args = parser.parse_args()
    import torch
    from diffusers import DiffusionPipeline  # which knows the pipeline: this room comes before it

    pipe = DiffusionPipeline.from_pretrained(resolve_pretrained(args.model)[0], dtype=torch.float32)
    with pipe.live("medium swing piano trio", tempo=args.tempos[0], seed=args.seed) as session:
        jitter = args.jitter / 1000.0
        if args.orders is not None:
            report = check_orders(session, orders=args.orders, jitter=jitter, seed=args.seed)
        else:
            report = check_clock(
                session,
                seconds=60.0 * args.minutes,
                tempos=tuple(args.tempos),
                change_at=12.0 * args.minutes,
                jitter=jitter,
                seed=args.seed,
            )
    print(json.dumps(report.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
