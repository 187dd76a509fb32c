"""Can what is played be told from what the codec makes of renders? A classifier is taught to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..measures.classifier import CROP_SECONDS, log_mel_crops, told_apart

if TYPE_CHECKING:
    from ..run import EvaluationRun

MOST_ACCURACY = 0.9


def measure_judge(run: EvaluationRun) -> dict[str, Any]:
    """Accuracy of a classifier between generated clips and codec copies, beside that between renders and copies."""
    seconds = run.settings.duration
    if seconds < CROP_SECONDS or len(run.chart_takes) < 2:
        why = f"needs two charts or more of {CROP_SECONDS:g} s"
        run.row("a classifier tells generated clips from codec copies", "-", f"not measured: {why}", None)
        return {"skipped": why}
    copies = [log_mel_crops(clip.audio()) for clip in run.reconstructed()]
    kinds = {
        "generated": [log_mel_crops(clip.audio()) for clip in run.generated()],
        "held_out": [log_mel_crops(take.audio(seconds)) for take in run.chart_takes],
    }
    found = {}
    for kind, crops in kinds.items():
        pairs = [(x[: len(y)], y[: len(x)]) for x, y in zip(crops, copies)]
        found[kind] = told_apart([x for x, _ in pairs], [y for _, y in pairs], run.settings.seed)
        run.say(f"  {kind} against codec copies: told apart in {found[kind]:.0%}")
    run.row(
        f"a classifier of {CROP_SECONDS:g} s, taught on half of {len(copies)} charts, tells generated clips from codec "
        "copies on the other half",
        f"<= {MOST_ACCURACY} (0.5 cannot be told)",
        f"{found['generated']:.2f} (renders from copies {found['held_out']:.2f})",
        found["generated"] <= MOST_ACCURACY,
    )
    run.reference("told from codec copies", **found)
    return found


__all__ = ["measure_judge"]
