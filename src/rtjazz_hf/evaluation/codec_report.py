"""One report for every codec: round trips against rate, beside Opus and the reverse water-filling bound."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtjazz_hf.audio import plot_spectrogram_grid, write_audio
from rtjazz_hf.corpus.transcription import transcribe

from .clips import USAGE_SECONDS, Clip
from .codec_verdicts import STANDARD_LEVELS, to_markdown, to_text, verdicts
from .measures import codec as codec_measures
from .measures import judges, metrics, opus, tuning
from .measures.codec import judge_round_trip, measure_round_trip
from .measures.model_checks import decode_split_difference, round_trip
from .measures.notes import note_scores
from .measures.rate_distortion import reverse_water_filling
from .pictures import plot_rate_distortion
from .takes import HeldOutTake
from .writing import to_plain, write_text

if TYPE_CHECKING:
    from rtjazz_hf import RealTimeJazzCodec

LEVELS = (1, 2, 4, 8, 16, 32)
OPUS_RATES = (*opus.OPUS_RATES, 510)  # the last is the most that Opus can: does it reach 40 dB?
TUNING_RATE = 32  # kbit/s of Opus: more costs time and says nothing
NOTE_SECONDS = 20.0
SHOWN_CLIPS = 3
SHOWN_SECONDS = 10.0
_PANELS = (
    ("mel_distance", "mel distance, dB"),
    ("pitch_correlation", "pitch correlation (contrast)"),
    ("snr", "SNR, dB"),
)


@dataclass
class _Contender:
    """A row of the tables in the making: scores clip by clip."""

    name: str
    kind: str  # "render", "latents", "low_delay", "codes" or "opus"
    setting: float | None  # levels, or the rate asked of Opus in kbit/s
    scores: list[dict[str, float]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a measure without an answer on any clip is NaN
            keys = dict.fromkeys(key for one in self.scores for key in one)
            means = {key: float(np.nanmean([one[key] for one in self.scores if key in one])) for key in keys}
        return {"name": self.name, "kind": self.kind, "setting": self.setting, **means}


def evaluate_codec(
    codec: RealTimeJazzCodec,
    sets: dict[str, Sequence[Clip]],
    out_dir: str | os.PathLike,
    *,
    levels: Sequence[int] = LEVELS,
    seconds: float = 10.0,
    opus_rates: Sequence[float] = OPUS_RATES,
    usage_seconds: float = USAGE_SECONDS,
    cache: str | os.PathLike | None = None,
    speed: dict[str, Any] | None = None,
    passed_over: Sequence[str] = (),
    save_audio: bool = True,
    tones: bool = True,
    note_takes: Sequence[HeldOutTake] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a codec on held-out clips.

    Args:
        sets: clips by set; the asked figures are looked for in "composed" and "real".
        out_dir: for codec.json, codec.md, pictures and (with `save_audio`) the clips shown; made if missing.
        levels: of the codes; those that the codec does not have are left out.
        seconds: of each clip. usage_seconds: of each clip whose codes are counted, from the same recording.
        opus_rates: in kbit/s; empty leaves Opus out.
        cache: folder of Opus files and their scores, for the next codec on the same clips; `out_dir`/opus by default.
        speed: what `rtjazz_hf.benchmark.benchmark_codec` measured, to be reported too.
        passed_over: files that were no use, and why, to be reported too.
        tones: measure how far tones that move are pulled: un-quantised, 4 levels, Opus to 32 kbit/s.
        note_takes: takes with scores, of whose first 20 s an outside transcriber says which notes it hears.

    Returns:
        "sets" (rows, bound, codebooks by set), "tuning" (cents errors by contender), "notes" (F1 by role, of renders
        and copies; "skipped" where the transcriber is not installed), "table" (asked, measured, ok),
        "splits", "speed", "settings", "passed_over", "pictures", as in codec.json.

    Raises:
        ValueError: no clips, or none of the levels. OpusUnavailable: Opus was asked for and is not installed.
        ImportError: a judge is not installed.
    """
    present = sorted(level for level in set(levels) if level <= codec.config.total_codebooks)
    if not present or min(present) < 1:
        raise ValueError(f"levels={tuple(levels)}: this codec has 1 to {codec.config.total_codebooks}.")
    if not sets or not all(sets.values()):
        raise ValueError("there are no clips to judge by; give each set one at least.")
    if opus_rates:
        opus.find_opus()
    judges.check_installed()
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        if progress:
            print(text, file=sys.stderr, flush=True)

    started = time.perf_counter()
    run = _Run(
        codec, out_dir, present, seconds, tuple(opus_rates), Path(cache or out_dir / "opus"), save_audio, say
    )
    report: dict[str, Any] = {"sets": {}, "settings": run.settings()}
    codes = {}
    for name, clips in sets.items():
        say(f"{name}: {len(clips)} clips of {seconds:g} s")
        report["sets"][name] = run.measure(name, clips)
        codes[name] = encode_clips(codec, clips, usage_seconds)
        report["sets"][name]["codebooks"] = codebook_use(codec, codes[name])
    report["tuning"] = run.tuning() if tones else []
    report["notes"] = run.notes(note_takes)
    report["codebooks"] = codebook_use(codec, torch.cat(list(codes.values()), dim=-1))
    first = next(iter(sets.values()))[0].read(min(seconds, 10.0))
    latents = codec.encode(_tensor(codec, first), return_codes=False).latents
    report["splits"] = {
        "decode": max(decode_split_difference(codec, latents, seed=seed) for seed in range(3))
    }
    report |= {"speed": speed, "passed_over": list(passed_over)}
    report["pictures"] = run.pictures
    report["table"] = verdicts(report)
    report["wall_seconds"] = round(time.perf_counter() - started, 1)
    report = to_plain(report)
    write_text(out_dir / "codec.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_text(out_dir / "codec.md", to_markdown(report))
    say(to_text(report))
    return report


def encode_clips(codec: RealTimeJazzCodec, clips: Sequence[Clip], seconds: float) -> torch.Tensor:
    """Codes of all levels that there are, of the first `seconds` of each clip: (levels, frames)."""
    levels = codec.config.total_codebooks
    parts = [codec.encode(_tensor(codec, clip.read(seconds)), levels).codes[0].cpu() for clip in clips]
    return torch.cat(parts, dim=-1)


def codebook_use(codec: RealTimeJazzCodec, codes: torch.Tensor) -> dict[str, Any]:
    """Usage (share of entries chosen) and perplexity (exp of entropy) of every level of codes (levels, frames).

    Both want many more frames than entries: "frames" says how many there were.
    """
    from rtjazz_hf.codec.quantizer import codebook_statistics

    figures = [codebook_statistics(level, codec.config.codebook_size) for level in codes]
    return {
        "frames": codes.shape[-1],
        "entries": codec.config.codebook_size,
        "usage": [usage.item() for _, usage in figures],
        "perplexity": [perplexity.item() for perplexity, _ in figures],
    }


def _tensor(codec: RealTimeJazzCodec, audio: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio))[None].to(codec.device)


@dataclass
class _Run:
    codec: RealTimeJazzCodec
    out_dir: Path
    levels: list[int]
    seconds: float
    opus_rates: tuple[float, ...]
    cache: Path
    save_audio: bool
    say: Callable[[str], None]
    pictures: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        config = self.codec.config
        return {
            "seconds": self.seconds,
            "levels": self.levels,
            "opus": opus.find_opus() if self.opus_rates else None,
            "parameters": sum(parameter.numel() for parameter in self.codec.parameters()),
            "codebook_size": config.codebook_size,
            "frame_rate": self.codec.frame_rate,
            "latency_ms": 1000 * config.latency_samples / config.sampling_rate,
            "look_ahead_ms": 1000 * config.frames_ahead / config.frame_rate,
            "torch": torch.__version__,
        }

    def contenders(self) -> list[_Contender]:
        contenders = [_Contender("un-quantised latents", "latents", None)]
        contenders += [
            _Contender(f"{level} level{'s' if level > 1 else ''}", "codes", level) for level in self.levels
        ]
        return contenders + [_Contender(f"Opus {rate:g}", "opus", rate) for rate in self.opus_rates]

    def tuning(self) -> list[dict[str, Any]]:
        """Cents errors (see `tuning.tuning_errors`) of the contenders up to the rates that are asked for."""
        rows = []
        self.say("tones that move")
        for contender in self.contenders():
            most = {"latents": 0, "codes": STANDARD_LEVELS, "opus": TUNING_RATE}[contender.kind]
            if (contender.setting or 0) > most:
                continue
            if contender.kind == "opus":

                def copy(audio: np.ndarray, rate: float = contender.setting) -> np.ndarray:
                    return opus.opus_round_trip(audio, rate, cache=self.cache, name="tone").audio
            else:

                def copy(audio: np.ndarray, levels: int | None = contender.setting) -> np.ndarray:
                    return round_trip(self.codec, audio, levels)[0]

            head = {"name": contender.name, "kind": contender.kind, "setting": contender.setting}
            rows.append({**head, **tuning.tuning_errors(copy)})
        return rows

    def notes(self, takes: Sequence[HeldOutTake]) -> dict[str, Any]:
        """What is heard of the notes of takes in their renders and in copies, means over the takes."""
        if not takes:
            return {"takes": 0, "rows": []}
        try:
            transcribe(np.zeros((2, metrics.SAMPLE_RATE), np.float32))
        except ImportError as error:
            return {"takes": 0, "rows": [], "skipped": str(error)}
        self.say(f"notes that are heard: {len(takes)} takes")
        contenders = [_Contender("renders", "render", None), self.contenders()[0]]
        contenders += [one for one in self.contenders() if one.kind == "codes" and one.setting == STANDARD_LEVELS]
        if self.codec.config.frames_ahead:
            contenders.append(_Contender("un-quantised, low delay", "low_delay", None))
        for take in takes:
            try:
                audio = take.audio(NOTE_SECONDS)
            except (OSError, ValueError) as error:
                self.say(f"  passed over: {error}")
                continue
            notes = take.score.rows(take.lead_sheet)[0]
            for contender in contenders:
                copy = audio
                if contender.kind != "render":
                    copy, _ = round_trip(self.codec, audio, contender.setting, contender.kind == "low_delay")
                contender.scores.append(note_scores(copy, notes))
        heard = len(contenders[0].scores)
        return {"takes": heard, "rows": [contender.row() for contender in contenders] if heard else []}

    def measure(self, name: str, clips: Sequence[Clip]) -> dict[str, Any]:
        """Every contender on every clip, the bound, the plot and the pictures."""
        contenders = self.contenders()
        curves, worst_delay = [], 0
        for number, clip in enumerate(clips, start=1):
            audio = clip.read(self.seconds)
            curve = reverse_water_filling(audio)
            curves.append(curve)
            for contender in contenders:
                if contender.kind == "opus":
                    scores = self._opus_scores(clip, audio, contender.setting)
                    worst_delay = max(worst_delay, abs(scores.pop("delay")))
                else:
                    back, _ = round_trip(self.codec, audio, contender.setting)
                    scores = measure_round_trip(audio, back) | judge_round_trip(audio, back)
                    scores["bitrate"] = (
                        float("nan") if contender.setting is None else self.codec.bitrate(contender.setting)
                    )
                scores["snr_bound"] = curve.snr_at(scores["bitrate"])
                contender.scores.append(scores)
            self.say(f"  {number} of {len(clips)}: {clip.name}")
        rows = [contender.row() for contender in contenders]
        needed = [curve.rate_at(40.0) for curve in curves]
        grid = np.geomspace(500, 512_000, 60)
        snrs = np.array([[curve.snr_at(rate) for rate in grid] for curve in curves])
        known = np.isfinite(snrs).all(0)  # beyond, some clip's curve has ended
        bound = {"rates": grid[known], "snrs": snrs[:, known].mean(0), "rate_of_40_db": needed}
        self._plot(name, len(clips), rows, bound)
        self._show(name, clips)
        return {
            "clips": [clip.name for clip in clips],
            "rows": rows,
            "bound": bound,
            "opus_delay": worst_delay,
        }

    def _opus_scores(self, clip: Clip, audio: np.ndarray, kilobits: float) -> dict[str, float]:
        """Scores, "bitrate" and "delay", from the cache where the same code measured the same Opus file before."""
        measured_by = _measuring_code()
        kept = opus.cached_file(audio, kilobits, self.cache, clip.name).with_suffix(".json")
        try:
            record = json.loads(kept.read_text(encoding="utf-8"))
            if record["measured_by"] == measured_by:
                return {
                    key: float("nan") if score is None else score for key, score in record["scores"].items()
                }
        except (OSError, ValueError, KeyError):  # not there, or cut short by a full disk
            pass
        result = opus.opus_round_trip(audio, kilobits, cache=self.cache, name=clip.name)
        scores = measure_round_trip(audio, result.audio) | judge_round_trip(audio, result.audio)
        scores |= {"bitrate": result.bitrate, "delay": result.delay}
        write_text(kept, json.dumps(to_plain({"measured_by": measured_by, "scores": scores})))
        return scores

    def _plot(self, name: str, number: int, rows: list[dict[str, Any]], bound: dict[str, Any]) -> None:
        keys = [key for key, _ in _PANELS]
        curves = {}
        for label, kind in (("codec", "codes"), ("Opus", "opus")):
            points = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["bitrate"])
            if points:
                values = {key: [row[key] for row in points] for key in keys}
                curves[label] = ([row["bitrate"] for row in points], values)
        curves["bound"] = (bound["rates"], {"snr": bound["snrs"]})
        unquantised = {key: rows[0][key] for key in keys}
        title = f"{number} held-out clips of {self.seconds:g} s ({name})"
        path = plot_rate_distortion(curves, unquantised, _PANELS, self.out_dir / f"{name}-rates.png", title)
        self.pictures.append(path.name)

    def _show(self, name: str, clips: Sequence[Clip]) -> None:
        """Spectrograms (and files to listen to) of a few clips: original, un-quantised, codes, Opus at that rate."""
        standard = max((level for level in self.levels if level <= 4), default=self.levels[0])
        rate = self.codec.bitrate(standard) / 1000
        items = []
        for index in sorted({0, len(clips) // 2, len(clips) - 1})[:SHOWN_CLIPS]:
            clip = clips[index]
            audio = clip.read(min(self.seconds, SHOWN_SECONDS))
            versions = {
                "original": audio,
                "un-quantised": round_trip(self.codec, audio)[0],
                f"{standard} levels, {rate:.1f} kbit/s": round_trip(self.codec, audio, standard)[0],
            }
            if self.opus_rates:
                nearest = min(self.opus_rates, key=lambda asked: abs(np.log(asked / rate)))
                result = opus.opus_round_trip(audio, nearest, cache=self.cache, name=clip.name)
                versions[f"Opus, {result.bitrate / 1000:.1f} kbit/s"] = result.audio
            for title, version in versions.items():
                items.append((f"{clip.name}: {title}", version, clip.lead_sheet))
                if self.save_audio:
                    folder = self.out_dir / "clips"
                    folder.mkdir(exist_ok=True)
                    file = f"{name}-{clip.name}-{title}".replace(" ", "-").replace(",", "").replace("/", "-")
                    write_audio(folder / f"{file}.flac", version, overwrite=True)
        path = plot_spectrogram_grid(items, self.out_dir / f"{name}-spectrograms.png", columns=2)
        self.pictures.append(path.name)


def _measuring_code() -> str:
    """Changes whenever the measures do, so that scores of another day are not mixed up with today's."""
    source = "".join(inspect.getsource(module) for module in (metrics, codec_measures, judges, opus))
    return hashlib.sha256(source.encode()).hexdigest()[:16]
