"""What the parts of an evaluation share: the pipeline, held-out takes, clips that are made once, rows of the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtjazz_hf import __version__
from rtjazz_hf.band.score import Score

from .clip_store import ClipStore, StoredClip, clip_key, model_fingerprint
from .measures.embeddings import ClipEmbedding, Embedder, TowerEmbedder, derangement, noise_like
from .measures.model_checks import round_trip
from .takes import HeldOutTake, choose_takes, looping

if TYPE_CHECKING:
    from rtjazz_hf import RealTimeJazzPipeline
    from rtjazz_hf.music import LeadSheet

AT_ONCE = 4  # clips played in one batch


@dataclass(frozen=True)
class Settings:
    """What a caller of `evaluate` chooses; its docstring explains each."""

    num_takes: int = 40
    duration: float = 30.0
    long_duration: float = 120.0
    speed_duration: float = 20.0
    shuffled_takes: int = 10
    mute_takes: int = 20
    mute_seconds: float = 15.0
    seed_takes: int = 5
    seeds: int = 4
    train_takes: int = 1000
    note_takes: int = 8
    tunes: int = 10
    themes: int = 10
    groove_takes: int = 3
    groove_seconds: float = 20.0
    hour_seconds: float = 3600.0
    step_takes: int = 20
    live_sessions: int = 4
    live_seconds: float = 6.0
    listening_takes: int = 8
    listening_seconds: float = 12.0
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0


@dataclass
class EvaluationRun:
    """What every part works with, and where it leaves what it found.

    Attributes:
        rows: of the table; `part` is the one that wrote it. pictures: file names in `out_dir`, by part.
        references: measure -> kind of clip -> value, by part: what stands beside what was generated.
        train_takes: records of what the model was trained on, where that is known. clap: a second embedder.
    """

    pipe: RealTimeJazzPipeline
    takes: list[HeldOutTake]
    out_dir: Path
    settings: Settings
    store: ClipStore
    say: Callable[[str], None]
    reference_pipe: RealTimeJazzPipeline | None = None
    train_takes: list[Any] = field(default_factory=list)
    clap: Embedder | None = None
    listening_dir: Path | None = None
    part: str = ""  # the one at work
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    references: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    _embedded: dict[tuple[str, str], list[ClipEmbedding]] = field(default_factory=dict)

    # -- what was found ------------------------------------------------------------------------------------
    def row(self, what: str, asked: str, measured: str, ok: bool | None) -> None:
        """A row of the table; `ok` is None where nothing is asked."""
        self.rows.append({"part": self.part, "what": what, "asked": asked, "measured": measured, "ok": ok})

    def add_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows that a measure has written (`writing.verdict`)."""
        self.rows += [{"part": self.part, **row} for row in rows]

    def picture(self, path: Path) -> None:
        self.pictures.setdefault(self.part, []).append(path.name)

    def reference(self, measure: str, **values: float | None) -> None:
        """What a measure says of each kind of clip: generated, render, codec, shuffled, noise, ..."""
        known = {
            kind: float(value) for kind, value in values.items() if value is not None and np.isfinite(value)
        }
        self.references.setdefault(self.part, {}).setdefault(measure, {}).update(known)

    # -- clips ---------------------------------------------------------------------------------------------
    @cached_property
    def fingerprint(self) -> str:
        return pipeline_fingerprint(self.pipe)

    @cached_property
    def chart_takes(self) -> list[HeldOutTake]:
        """The held-out takes whose charts are played, and that stand beside what is played."""
        return choose_takes(self.takes, self.settings.num_takes, self.settings.duration)

    @cached_property
    def chart_sheets(self) -> list[LeadSheet]:
        return [looping(take.lead_sheet) for take in self.chart_takes]

    def generated(self, num: int | None = None) -> list[StoredClip]:
        """The pipeline's clip of each of `chart_takes`, from its caption and its chart."""
        takes, sheets = self.chart_takes[:num], self.chart_sheets[:num]
        return self.play(takes, sheets, "generated", self.settings.duration, range(len(takes)))

    def shuffled(self, num: int | None = None) -> list[StoredClip]:
        """Clips as `generated`, each from its own caption and the next take's chart."""
        takes = self.chart_takes[:num]
        sheets = [self.chart_sheets[other] for other in self.others(len(takes))]
        return self.play(takes, sheets, "shuffled", self.settings.duration, range(len(takes)))

    def others(self, num: int | None = None) -> list[int]:
        """For each of the first `num` of `chart_takes` another of them, whose chart is not its own."""
        return [int(place) for place in derangement(len(self.chart_takes) if num is None else num)]

    def reconstructed(self, num: int | None = None) -> list[StoredClip]:
        """What the codec gives back of each of `chart_takes`: un-quantised, as the flow's own latents are decoded."""
        takes, codec = self.chart_takes[:num], self.pipe.codec
        model = model_fingerprint(codec)

        def make(places: list[int]) -> list[tuple[np.ndarray, dict[str, Any]]]:
            return [
                (round_trip(codec, takes[place].audio(self.settings.duration))[0], {}) for place in places
            ]

        keys = [clip_key(__version__, model, take_identity(take), self.settings.duration) for take in takes]
        return self.store.get_or_make([f"{take.name}-codec" for take in takes], keys, make)

    # -- embeddings ----------------------------------------------------------------------------------------
    @cached_property
    def embedder(self) -> TowerEmbedder:
        """The pipeline's own tower."""
        return TowerEmbedder(self.pipe.style_encoder, self.pipe.tokenizer)

    def embedded(self, kind: str, embedder: Embedder | None = None) -> list[ClipEmbedding]:
        """The clips of a kind, in the order of `chart_takes`, each embedded once.

        Args:
            kind: generated, reconstruction, shuffled (the first `shuffled_takes`), noise, held_out (the takes whose
                charts are played), or held_out_b (as many of the other takes as there are, long enough).
        """
        embedder = embedder or self.embedder
        if (kind, embedder.name) not in self._embedded:
            self._embedded[kind, embedder.name] = [embedder(audio) for audio in self._sounds(kind)]
        return self._embedded[kind, embedder.name]

    def _sounds(self, kind: str) -> Iterator[np.ndarray]:
        seconds, takes = self.settings.duration, self.chart_takes
        if kind == "held_out":
            return (take.audio(seconds) for take in takes)
        if kind == "held_out_b":
            known = {take.name for take in takes}
            others = [take for take in self.takes if take.name not in known and take.seconds >= seconds]
            return (take.audio(seconds) for take in choose_takes(others, len(takes), seconds))
        if kind == "noise":
            return (noise_like(take.audio(seconds), place) for place, take in enumerate(takes))
        if kind == "shuffled":
            return (clip.audio() for clip in self.shuffled(min(self.settings.shuffled_takes, len(takes))))
        clips = {"generated": self.generated, "reconstruction": self.reconstructed}[kind]()
        return (clip.audio() for clip in clips)

    # -- playing -------------------------------------------------------------------------------------------
    def play(
        self,
        takes: Sequence[HeldOutTake],
        sheets: Sequence[LeadSheet],
        label: str,
        duration: float,
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        pipe: RealTimeJazzPipeline | None = None,
        each: Mapping[str, Sequence[Any]] | None = None,
    ) -> list[StoredClip]:
        """A clip of `duration` seconds for each take's caption and a sheet, a few at once, or from the store.

        Args:
            label: of the file, after the take's name. seeds: added to the run's own.
            steps, guidance_scale: those of the run by default. pipe: another one, with its own defaults.
            each: further arguments of the pipeline, a value a take (scores, melodies); what was played by whom is kept
                in the clip's notes as "score".
        """
        if pipe is None:
            pipe, model = self.pipe, self.fingerprint
            steps = self.settings.steps if steps is None else steps
            guidance_scale = self.settings.guidance_scale if guidance_scale is None else guidance_scale
        else:
            model = pipeline_fingerprint(pipe)
        options = {
            "num_inference_steps": pipe.config.num_inference_steps if steps is None else steps,
            "guidance_scale": float(pipe.config.guidance_scale if guidance_scale is None else guidance_scale),
        }
        seeds = [self.settings.seed + seed for seed in seeds]
        each = dict(each or {})
        done = 0

        def make(places: list[int]) -> list[tuple[np.ndarray, dict[str, Any]]]:
            nonlocal done
            begun = time.perf_counter()
            output = pipe(
                [takes[place].caption for place in places],
                duration=duration,
                lead_sheet=[sheets[place] for place in places],
                generator=[torch.Generator().manual_seed(seeds[place]) for place in places],
                **options,
                **_arguments(each, places),
            )
            seconds = (time.perf_counter() - begun) / len(places)
            scores = (getattr(output, "scores", None) or [None] * len(places)) if each else [None] * len(places)
            done += len(places)
            self.say(f"  {label}: {done} clips of {duration:g} s played")
            return [
                (clip, {"making_seconds": seconds, "notes": {"at_once": len(places), **_kept(score)}})
                for clip, score in zip(output.audios, scores)
            ]

        keys = [
            clip_key(__version__, model, options, duration, take.caption, sheet.to_dict(), seed, *_told(each, place))
            for place, (take, sheet, seed) in enumerate(zip(takes, sheets, seeds))
        ]
        names = [f"{take.name}-{label}" for take in takes]
        return self.store.get_or_make(names, keys, make, 1 if "melody" in each else AT_ONCE)


def _arguments(each: Mapping[str, Sequence[Any]], places: Sequence[int]) -> dict[str, Any]:
    """Those of a batch: a score a row; one melody, one value of anything else."""
    return {
        name: [values[place] for place in places] if name == "score" else values[places[0]]
        for name, values in each.items()
    }


def _kept(score: Score | None) -> dict[str, Any]:
    return {} if score is None else {"score": score.to_dict()}


def _told(each: Mapping[str, Sequence[Any]], place: int) -> list[Any]:
    """Further arguments of a take in JSON's types; nothing where there are none."""
    values = {name: of[place] for name, of in each.items()}
    told = {name: value.to_dict() if isinstance(value, Score) else value for name, value in values.items()}
    return [told] if told else []


def take_identity(take: HeldOutTake) -> list[Any]:
    """What tells a take's sound from another's, without reading it: in JSON's types."""
    if take.samples is not None:
        return [
            take.name,
            take.lead_sheet.to_dict(),
            take.samples.shape[-1],
            float(np.abs(take.samples).sum()),
        ]
    return [take.name, take.lead_sheet.to_dict(), take.path.stat().st_size]


def pipeline_fingerprint(pipe: RealTimeJazzPipeline) -> str:
    """A digest of all that a pipeline is made of: the same music for the same wishes, the same text."""
    models = (pipe, pipe.codec, pipe.transformer, pipe.style_encoder, pipe.scheduler)
    # another engine rounds otherwise
    engine = [] if pipe.engine == "torch" else [pipe.engine, pipe.transformer.engine_precision]
    return clip_key(model_fingerprint(*models), sorted(pipe.tokenizer.get_vocab().items()), *engine)
