"""The parts of an evaluation: each takes a run, leaves rows of the table, and returns its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .bends import measure_bends
from .charts import measure_charts
from .drift import measure_drift
from .grooves import measure_grooves
from .hour import measure_hour
from .judge import measure_judge
from .listening import make_listening
from .live import measure_live
from .models import measure_codec, measure_flow, measure_seeds, measure_speed, measure_splits
from .notes import measure_notes
from .similarity import measure_diversity, measure_instruments, measure_similarity
from .steps import measure_steps

if TYPE_CHECKING:
    from ..run import EvaluationRun

PART_FUNCTIONS: dict[str, Callable[[EvaluationRun], dict[str, Any]]] = {
    "codec": measure_codec,
    "flow": measure_flow,
    "splits": measure_splits,
    "seeds": measure_seeds,
    "charts": measure_charts,
    "notes": measure_notes,
    "bends": measure_bends,
    "grooves": measure_grooves,
    "similarity": measure_similarity,
    "instruments": measure_instruments,
    "diversity": measure_diversity,
    "judge": measure_judge,
    "drift": measure_drift,
    "live": measure_live,
    "hour": measure_hour,
    "speed": measure_speed,
    "steps": measure_steps,
    "listening": make_listening,
}
PARTS = tuple(PART_FUNCTIONS)
# Of those that are asked for by name alone, three play music of their own, one every chart five times, and one is for
# people.
DEFAULT_PARTS = tuple(part for part in PARTS if part not in ("bends", "grooves", "hour", "steps", "listening"))

__all__ = ["DEFAULT_PARTS", "PARTS", "PART_FUNCTIONS"]
