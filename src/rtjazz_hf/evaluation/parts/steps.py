"""The same charts with fewer and fewer steps: which is the fastest that is still as good?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..measures import metrics, obedience
from ..measures.frechet import frechet_distance, split_distance
from ..measures.obedience import Heard
from ..writing import to_columns
from .similarity import LEAST_CLIPS, mean_text_score

if TYPE_CHECKING:
    from ..clip_store import StoredClip
    from ..measures.embeddings import ClipEmbedding
    from ..run import EvaluationRun

REFERENCE_STEPS = 16
STEPS = (8, 4, 2, 1)
TOLERANCE = 0.05


@dataclass(frozen=True)
class Figure:
    """A measure by which step counts are compared.

    Attributes:
        key: in the results. title: of its column. form: of its values. more_is_better.
        slack: a difference so small that it means nothing, allowed beside the 5%.
    """

    key: str
    title: str
    form: str
    more_is_better: bool
    slack: float = 0.0

    def holds(self, value: float, reference: float) -> bool:
        """Whether `value` is within 5% of `reference`, or better; what cannot be measured does not speak."""
        if math.isnan(value) or math.isnan(reference):
            return True
        loss = reference - value if self.more_is_better else value - reference
        return loss <= TOLERANCE * abs(reference) + self.slack


FIGURES = (
    Figure("chord_score", "chord score", ".3f", True),
    Figure("beat_f", "beat F", ".3f", True),
    Figure("band_error_db", "bands, error dB", ".2f", False, slack=0.25),
    Figure("text_score", "text score", ".3f", True, slack=0.005),
    Figure("fad", "FAD, of held-out sets'", ".2f", False, slack=0.1),
)


def measure_steps(run: EvaluationRun) -> dict[str, Any]:
    """Play the first charts with 16 steps (of a reference model, if there is one) and with fewer, and compare."""
    num = run.settings.step_takes
    takes, sheets = run.chart_takes[:num], run.chart_sheets[:num]
    renders = [Heard(take.audio(run.settings.duration)) for take in takes]
    own = run.pipe.config.num_inference_steps if run.settings.steps is None else run.settings.steps
    results: dict[str, dict[str, Any]] = {}
    for steps in (REFERENCE_STEPS, *STEPS):
        pipe = run.reference_pipe if steps == REFERENCE_STEPS else None
        label = "reference" if pipe is not None else "generated" if steps == own else f"steps-{steps}"
        clips = run.play(
            takes, sheets, label, run.settings.duration, range(len(takes)), steps=steps, pipe=pipe
        )
        results[str(steps)] = _figures(run, clips, renders)
    reference = results[str(REFERENCE_STEPS)]
    for result in results.values():
        result["misses"] = [
            figure.title for figure in FIGURES if not figure.holds(result[figure.key], reference[figure.key])
        ]
    good = [steps for steps in STEPS if not results[str(steps)]["misses"]]
    # the fewest from which no larger number fails: a lucky 1 below a bad 2 is no verdict
    fastest = REFERENCE_STEPS
    for steps in STEPS:
        if steps not in good:
            break
        fastest = steps
    table = _table(results)
    run.say(to_columns(table["header"], table["rows"]))
    of = "of the reference model" if run.reference_pipe is not None else "of the same model"
    missed = {steps: results[str(steps)]["misses"] for steps in STEPS if steps not in good}
    told = "; ".join(f"{steps} misses {', '.join(names)}" for steps, names in missed.items())
    shipped = run.pipe.config.num_inference_steps
    run.row(
        f"fewest steps within {TOLERANCE:.0%} of {REFERENCE_STEPS} {of}, {len(takes)} charts",
        f"the model's own default ({shipped})",
        f"{fastest}" + (f" ({told})" if told else ""),
        fastest == shipped,
    )
    return {"charts": len(takes), "steps": results, "fastest": fastest, "tables": [table]}


def _figures(run: EvaluationRun, clips: list[StoredClip], renders: list[Heard]) -> dict[str, Any]:
    charts, bands, embedded = [], [], []
    for place, (clip, render) in enumerate(zip(clips, renders)):
        take, sheet = run.chart_takes[place], run.chart_sheets[place]
        heard = Heard(clip.audio())
        charts.append(obedience.chart_scores(heard, render, sheet, take.lead_sheet))
        bands.append(metrics.band_difference(render.audio, heard.audio))
        embedded.append(run.embedder(heard.audio))
    mean = obedience.mean_chart_scores(charts)
    made = [clip.making_seconds for clip in clips if clip.making_seconds is not None]
    return {
        "chord_score": mean["chord_score"],
        "beat_f": mean["beat_f"],
        "tempo_error_median": mean["tempo_error_median"],
        "band_error_db": float(np.abs(np.mean(bands, axis=0)).mean()),
        "text_score": mean_text_score(
            run.embedder, embedded, [take.caption for take in run.chart_takes[: len(clips)]]
        ),
        "fad": _fad(run, embedded),
        "making_of_real_time": sum(made) / (len(made) * clips[0].seconds) if made else float("nan"),
    }


def _fad(run: EvaluationRun, clips: list[ClipEmbedding]) -> float:
    """FAD to the renders of the same charts, over that of two held-out sets of that size; NaN for a few clips."""
    renders = run.embedded("held_out")
    every = [clip.features for clip in (*renders, *run.embedded("held_out_b"))]
    size = min(len(clips), len(every) // 2)
    if size < LEAST_CLIPS:
        return math.nan
    joined = (np.concatenate([clip.features for clip in of]) for of in (clips, renders[: len(clips)]))
    return frechet_distance(*joined) / max(split_distance(every, size, run.settings.seed)[0], 1e-12)


def _table(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for steps, result in results.items():
        cells = [format(result[figure.key], figure.form) for figure in FIGURES]
        verdict = "reference" if int(steps) == REFERENCE_STEPS else ", ".join(result["misses"]) or "within 5%"
        rows.append([steps, *cells, f"{result['making_of_real_time']:.2f}", verdict])
    header = [
        "steps",
        *(figure.title for figure in FIGURES),
        "made in, of real time",
        "verdict (what is missed)",
    ]
    return {"title": "Steps", "header": header, "rows": rows}
