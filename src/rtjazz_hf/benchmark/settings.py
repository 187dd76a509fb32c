"""What a benchmark measures: the settings of a run, and the cases that follow from them.

Nothing here imports torch, so that the command line can be read and refused at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from rtjazz_hf.runtime.engines import ENGINES

PEERS = ("musicgen-small", "stable-audio-open", "encodec")
OWN_MODELS = ("mini", "base")
ATTENTION = ("sdpa", "eager", "flex_attention", "flash_attention_2")
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_DTYPES = ("float32", "bfloat16")  # weights in float32 are what every engine takes
BLOCK_FRAMES = (6, 12, 24, 36, 48)
MAIN_BLOCK = 36  # that of the published targets, and of peers' comparison
ENDURANCE_BLOCK = 12
FIRST_BLOCK = 6  # frames of the block that the time to first audio is of
STEPS = (2, 4, 8)  # beside the shipped number, with the main block
UNCACHED_WINDOW = 750  # frames: 10 s
MAX_THREADS = 1024
MAX_MINUTES = 24 * 60.0
MAX_SECONDS = 600.0
SWAP_SECONDS = 5.0  # from one adapter to the next
MAX_BESIDE = 64  # busy processes
BESIDE_THREADS = (1, 2)  # beside "auto", what a session chooses
BESIDE_MINUTES, BESIDE_TURN = 0.5, 10.0  # of each number of threads, and seconds of a turn


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to measure. An empty tuple leaves the choice to the benchmark.

    Args:
        models: "mini" (the pipeline `mini`), "base" (random weights in the published size), bundled names, folders
            or Hub ids.
        mini: the pipeline that "mini" stands for.
        peers: of `PEERS`; an empty tuple measures none.
        block_frames: block sizes; all sizes by default. The first of them that is 36, or else the first, is the
            main one: variants and peers are laid beside it.
        steps: steps a block, measured with every block size; by default the pipeline's own number, and with the
            main block 2, 4 and 8 too.
        guidance_scale: the pipeline's own by default.
        window_frames: context; the pipeline's own by default.
        dtypes: of the weights. All blocks are measured in the first, the main one in all. Peers that run in
            either of them are measured in all, and compared at their best. By default float32 and bfloat16, and
            float32 alone where the device has no fast bfloat16.
        threads: of torch; all blocks with the first, the main one with all. 0, the default: as a session chooses.
        attention: implementations; all blocks with the first, the main one with all. By default sdpa, then eager,
            and flash_attention_2 where it is installed.
        engines: what computes the flow (`runtime.engines.ENGINES`); all blocks with the first, the main one with all.
            By default auto. Profiles look into torch.
        compile: measure the main block through `torch.compile` too.
        seconds: of audio that is measured a block size, step count and variant; a slow one ends after as much
            time, with `MIN_BLOCKS` at least.
        peer_seconds: of audio that MusicGen makes a round.
        rounds: contenders take turns in so many rounds.
        minutes: of a run in real time, with under-runs counted; 0 for none.
        swap: folders or Hub ids of adapters: a second such run changes from one to the next every `SWAP_SECONDS`.
        beside: numbers of busy processes to play beside, in real time, the main block with one thread, two and as many
            as a session chooses, or with `threads`, in turns; see `run_beside`.
        device: a device of torch. seed: of music and random weights.
        isolate: each case in a process of its own, so that peaks of memory are its own. Without it, everything
            runs in this process and memory is not told.
    """

    models: tuple[str, ...] = OWN_MODELS
    mini: str = "rtjazz-mini"
    peers: tuple[str, ...] = PEERS
    block_frames: tuple[int, ...] = BLOCK_FRAMES
    steps: tuple[int, ...] = ()
    guidance_scale: float | None = None
    window_frames: int | None = None
    dtypes: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    attention: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    compile: bool = False
    seconds: float = 5.0
    peer_seconds: float = 1.5
    rounds: int = 2
    minutes: float = 0.0
    swap: tuple[str, ...] = ()
    beside: tuple[int, ...] = ()
    device: str = "cpu"
    seed: int = 0
    isolate: bool = True

    def __post_init__(self) -> None:
        for name in ("models", "block_frames"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        for name, allowed in (
            ("peers", PEERS), ("dtypes", DTYPES), ("attention", ATTENTION), ("engines", ENGINES),
        ):  # fmt: skip
            if unknown := sorted(set(getattr(self, name)) - set(allowed)):
                raise ValueError(f"{name} {', '.join(unknown)}: choose from {', '.join(allowed)}")
        for name in ("models", "peers", "block_frames", "steps", "dtypes", "threads", "attention", "engines", "beside"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {', '.join(map(str, values))}: each may be given once")
        if wrong := [count for count in self.threads if not 0 <= count <= MAX_THREADS]:
            raise ValueError(f"threads {wrong[0]}: choose 1 to {MAX_THREADS}, or 0 for as many as a session chooses")
        if wrong := [count for count in self.beside if not 0 <= count <= MAX_BESIDE]:
            raise ValueError(f"beside {wrong[0]}: choose 0 to {MAX_BESIDE} busy processes")
        for name in ("seconds", "peer_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= MAX_SECONDS):
                raise ValueError(f"{name} {value:g}: choose more than 0 and at most {MAX_SECONDS:g}")
        if not (math.isfinite(self.minutes) and 0 <= self.minutes <= MAX_MINUTES):
            raise ValueError(f"minutes {self.minutes:g}: choose 0 to {MAX_MINUTES:g}")
        if self.swap and not (len(self.swap) > 1 and self.minutes):
            raise ValueError(
                f"swap {', '.join(self.swap)}: give two adapters or more, and minutes to swap them in"
            )
        if self.rounds < 1:
            raise ValueError(f"rounds {self.rounds}: choose 1 or more")

    def check_generation(self) -> None:
        """Block sizes, steps, guidance and window, as the pipeline checks them.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        from rtjazz_hf.prompts import check_settings

        check_settings(guidance_scale=self.guidance_scale, window_frames=self.window_frames)
        for frames in self.block_frames:
            check_settings(block_frames=frames)
        for steps in self.steps:
            check_settings(num_inference_steps=steps)

    @property
    def thread_counts(self) -> tuple[int | None, ...]:
        """`threads`, None for as many as a session chooses."""
        return tuple(count or None for count in self.threads) or (None,)

    @property
    def main_block(self) -> int:
        """The block size beside which variants and peers are laid."""
        return MAIN_BLOCK if MAIN_BLOCK in self.block_frames else self.block_frames[0]

    @property
    def main_attention(self) -> str:
        return self.attention[0] if self.attention else ATTENTION[0]


QUICK: dict[str, Any] = {
    "block_frames": (12, 36),
    "seconds": 1.0,
    "peer_seconds": 0.4,
    "rounds": 1,
}


@dataclass(frozen=True, eq=False)
class Case:
    """One thing that is measured, in a process of its own: plain values only, to be sent there. A case is itself.

    Attributes:
        kind: "stream", "musicgen", "stable_audio", "codec", "endurance", "beside", "profile" or "train".
        name: for people: mini, base, musicgen-small.
        group: "comparison" cases run interleaved with each other, "variants" likewise, "alone" by themselves.
        source: folder or Hub id of a pipeline. config: values of a peer's configuration; its own by default.
        steps: step counts, `None` for the pipeline's own.
        swap: adapters that an endurance run changes between. beside: busy processes that run meanwhile.
        main: time to first audio, and the gain of the cache, are measured too.
    """

    kind: str
    name: str
    group: str
    source: str = ""
    config: dict[str, Any] | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    attention: str = "sdpa"
    engine: str = "auto"
    compile: bool = False
    block_frames: int = MAIN_BLOCK
    steps: tuple[int | None, ...] = (None,)
    guidance_scale: float | None = None
    window_frames: int | None = None
    seconds: float = 6.0
    rounds: int = 2
    minutes: float = 0.0
    seed: int = 0
    main: bool = False
    swap: tuple[str, ...] = ()
    beside: int = 0
    files: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """One line that tells it from the others."""
        parts = [self.name, self.dtype]
        if self.kind in ("stream", "endurance", "beside", "profile"):
            parts.append(f"{self.block_frames} frames")
            parts.append(self.attention)
        if self.engine != "auto":
            parts.append(self.engine)
        if self.compile:
            parts.append("compiled")
        if self.threads is not None:
            parts.append(f"{self.threads} thread{'s' * (self.threads > 1)}")
        elif self.kind == "beside":
            parts.append("auto threads")
        if self.kind in ("endurance", "profile"):
            parts.append(self.kind)
        if self.kind == "beside":
            parts.append(f"beside {self.beside}")
        if self.swap:
            parts.append("swapping adapters")
        return ", ".join(parts)


def plan_beside(settings: BenchmarkSettings, sources: dict[str, str], beside: int) -> list[Case]:
    """Each model in the first type, beside so many busy processes, with each number of threads."""
    minutes = settings.minutes or BESIDE_MINUTES
    turns = max(1, round(60 * minutes / BESIDE_TURN))
    return [
        Case(
            "beside", name, "comparison", sources[name], dtype=settings.dtypes[0], device=settings.device,
            threads=count, attention=settings.main_attention, block_frames=settings.main_block,
            steps=(settings.steps or (None,))[:1], guidance_scale=settings.guidance_scale,
            window_frames=settings.window_frames, seconds=60 * minutes / turns, rounds=turns, seed=settings.seed,
            beside=beside,
        )
        for name in settings.models
        for count in dict.fromkeys((*(settings.thread_counts if settings.threads else BESIDE_THREADS), None))
    ]  # fmt: skip


def plan_cases(
    settings: BenchmarkSettings, sources: dict[str, str], peers: dict[str, dict[str, Any]] | None = None
) -> list[Case]:
    """Every case of a run: the main block and the peers first, then the other blocks and the variants.

    Args:
        sources: folder or Hub id of each of the models.
        peers: configurations that take the place of the published ones, by peer.
    """
    peers = peers or {}
    threads = settings.thread_counts
    attention = settings.attention or (settings.main_attention, "eager")
    dtypes = settings.dtypes or DEFAULT_DTYPES
    engines = settings.engines or ("auto",)
    common: dict[str, Any] = {
        "device": settings.device,
        "threads": threads[0],
        "seconds": settings.seconds,
        "rounds": settings.rounds,
        "seed": settings.seed,
    }
    cases = []
    for name in settings.models:
        main = Case(
            "stream", name, "comparison", sources[name],
            dtype=dtypes[0], attention=attention[0], engine=engines[0], block_frames=settings.main_block,
            steps=settings.steps or (None, *STEPS), guidance_scale=settings.guidance_scale,
            window_frames=settings.window_frames, main=True, **common,
        )  # fmt: skip
        cases.append(main)
        variant = dataclasses.replace(main, steps=settings.steps or (None,), main=False)
        # In the comparison too: a model is compared at its best type, as peers are.
        cases += [dataclasses.replace(variant, dtype=dtype) for dtype in dtypes[1:]]
        variant = dataclasses.replace(variant, group="variants")
        cases += [
            dataclasses.replace(variant, block_frames=frames)
            for frames in settings.block_frames
            if frames != settings.main_block
        ]
        cases += [dataclasses.replace(variant, attention=which) for which in attention[1:]]
        cases += [dataclasses.replace(variant, engine=engine) for engine in engines[1:]]
        cases += [dataclasses.replace(variant, threads=count) for count in threads[1:]]
        if settings.compile:
            cases.append(dataclasses.replace(variant, engine="torch", compile=True))
        if settings.minutes:
            blocks = settings.block_frames if settings.block_frames != BLOCK_FRAMES else (ENDURANCE_BLOCK,)
            cases += [
                dataclasses.replace(
                    variant,
                    kind="endurance",
                    group="alone",
                    block_frames=frames,
                    minutes=settings.minutes,
                    swap=swap,
                )
                for frames in blocks
                for swap in dict.fromkeys(
                    ((), settings.swap)
                )  # with adapters, compared with the same without
            ]
    common["seconds"] = settings.peer_seconds
    for peer, kind in (("musicgen-small", "musicgen"), ("stable-audio-open", "stable_audio")):
        if peer not in settings.peers:
            continue
        # The second takes minutes a step in float32, and is not what the ratios are of: the first type will do.
        own = dtypes if kind == "musicgen" else dtypes[:1]
        cases += [
            Case(kind, peer, "comparison", config=peers.get(peer), dtype=dtype, **common) for dtype in own
        ]
    if "encodec" in settings.peers:
        first = sources[settings.models[0]]
        cases.append(Case("codec", "encodec", "comparison", first, peers.get("encodec"), **common))
    return cases
