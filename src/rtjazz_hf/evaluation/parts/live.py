"""Live changes of chords, tempo, instruments and prompt: heard at once, obeyed, and without a click."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.audio import FRAME_RATE
from rtjazz_hf.music import Chord

from .. import pictures
from ..measures import live_checks, metrics, obedience
from ..measures.live_checks import Performance

if TYPE_CHECKING:
    from ..run import EvaluationRun

# What is played before the change: (prompt, chord, tempo). A chord a tritone away has no note in common with it.
PLAYED = (
    ("medium swing piano trio", "Dm7", "Abm7", 120.0),
    ("bebop quartet with tenor sax", "Fmaj7", "Bmaj7", 140.0),
    ("swinging jazz with trumpet, piano, bass and drums", "Gm7", "C#m7", 110.0),
    ("modern jazz, guitar trio", "Bbmaj7", "Emaj7", 130.0),
)
CHANGES = ("chords", "tempo", "instruments", "prompt")
NEW_PROMPT = "slow romantic ballad, flute and nylon guitar, brushes"
NEW_TEMPO = 1.35  # times the old one
LEAST_DIFFERENCE = 1.0  # dB of mel distance: what is called heard
# A player changes when he next strikes a note, and what rings goes on ringing: of the way from the old sound to the new
# one the first block (half a second: about a beat) can go only a part.
LEAST_SHARES = (0.2, 0.5)  # of the first block, of the second


def measure_live(run: EvaluationRun) -> dict[str, Any]:
    """Play the same sessions with and without each change, and compare block by block."""
    settings = {
        "num_inference_steps": run.settings.steps,
        "guidance_scale": run.settings.guidance_scale,
    }
    played: dict[str, list[Performance]] = {kind: [] for kind in ("none", *CHANGES)}
    sessions = PLAYED[: run.settings.live_sessions]
    for place, (prompt, chord, new_chord, tempo) in enumerate(sessions):
        wishes = {"prompt": prompt, "chords": chord, "tempo": tempo, **settings}
        changes = {
            "none": None,
            "chords": {"chords": new_chord, "at": "now"},
            "tempo": {"tempo": NEW_TEMPO * tempo},
            "instruments": {"instruments": ["-drums", "-brushes"]},
            "prompt": {"prompt": NEW_PROMPT},
        }
        for kind, change in changes.items():
            played[kind].append(_perform(run, wishes, change, place))
        run.say(f"  session {place + 1} of {len(sessions)} played with every change")
    result = {
        "heard": _heard(played),
        "chords": _chords(played["chords"]),
        "tempo": _tempo(played["tempo"]),
        "instruments": _instruments(played["instruments"], played["none"]),
        "prompt": _prompt(run, played["prompt"]),
        "joins": _joins(played),
        "control": _control(played),
    }
    _rows(run, result)
    run.picture(pictures.plot_live(result, run.out_dir / "live.png"))
    return result


def _perform(
    run: EvaluationRun, wishes: dict[str, Any], change: dict[str, Any] | None, place: int
) -> Performance:
    seconds = run.settings.live_seconds
    return live_checks.perform(
        run.pipe, wishes, change, seconds_before=0.8 * seconds, seconds_after=seconds,
        seed=run.settings.seed + place,
    )  # fmt: skip


def _heard(played: dict[str, list[Performance]]) -> dict[str, Any]:
    """By kind of change: the difference of each block to the unchanged session (mean), and where it begins."""
    result = {}
    for kind in CHANGES:
        each = [live_checks.difference_by_block(a, b) for a, b in zip(played[kind], played["none"])]
        change = played[kind][0].change_block
        mean = np.mean(each, axis=0)
        begins = [int(np.flatnonzero(one)[0]) - change if one.any() else None for one in each]
        result[kind] = {
            "by_block": mean,
            "change_block": change,
            "begins": begins,
            "first_block_db": float(mean[change]),
            "ok": bool(all(begin == 0 for begin in begins) and mean[change] >= LEAST_DIFFERENCE),
        }
    return result


def _chords(performances: Sequence[Performance]) -> dict[str, Any]:
    by_block = [
        live_checks.chord_contrast_by_block(one, Chord.parse(old), Chord.parse(new))
        for one, (_, old, new, _) in zip(performances, PLAYED)
    ]
    return live_checks.response(by_block, performances[0].change_block)


def _tempo(performances: Sequence[Performance]) -> dict[str, float]:
    """Beat F of what comes after the change, against the new grid and against the old one going on."""
    new, old = [], []
    for one in performances:
        heard = obedience.Heard(one.audio[:, one.change_sample :])
        start = one.change_sample / live_checks.SAMPLE_RATE
        new.append(obedience.beat_f_measure(heard, one.after, start))
        old.append(obedience.beat_f_measure(heard, one.before, start))
    return {"f_new": float(np.mean(new)), "f_old": float(np.mean(old))}


def _instruments(performances: Sequence[Performance], unchanged: Sequence[Performance]) -> dict[str, Any]:
    """Level of the cymbals' range without drums, less that of the same sessions with them, block by block."""
    by_block = [
        live_checks.high_level_by_block(one) - live_checks.high_level_by_block(other)
        for one, other in zip(performances, unchanged)
    ]
    return live_checks.response(by_block, performances[0].change_block)


def _prompt(run: EvaluationRun, performances: Sequence[Performance]) -> dict[str, float]:
    """Likeness to the new words less that to the old, before the change and in the later half of what follows."""
    before, after = [], []
    for one, (old, *_) in zip(performances, PLAYED):
        late = one.change_sample + (one.audio.shape[1] - one.change_sample) // 2
        for into, audio in ((before, one.audio[:, : one.change_sample]), (after, one.audio[:, late:])):
            new_words, old_words = run.embedder.text((NEW_PROMPT, old))
            into.append(float(run.embedder(audio).whole @ (new_words - old_words)))
    return {"before": float(np.mean(before)), "after": float(np.mean(after))}


def _joins(played: dict[str, list[Performance]]) -> dict[str, Any]:
    clips = [one for kind in played.values() for one in kind]
    each = [metrics.join_jumps(one.audio, one.starts[1:]) for one in clips]
    return {
        "clips": len(each),
        "joins": sum(len(one.starts) - 1 for one in clips),
        "above": sum(one["ratio"] > 1 for one in each),
        "largest_of_limit": max(one["ratio"] for one in each),
    }


def _control(played: dict[str, list[Performance]]) -> dict[str, float]:
    changed = [one for kind in CHANGES for one in played[kind]]
    blocks = [seconds for one in changed for seconds in one.block_seconds]
    control = [one.control_seconds for one in changed]
    starts, change = changed[0].starts, changed[0].change_block
    seconds = (starts[change + 1] - starts[change]) / live_checks.SAMPLE_RATE
    return {
        "block_ms": 1000 * seconds,
        "block_frames": round(seconds * FRAME_RATE),
        "control_ms": 1000 * float(np.median(control)),
        "control_ms_worst": 1000 * max(control),
        "block_ms_p95": 1000 * float(np.percentile(blocks, 95)),
    }


def _rows(run: EvaluationRun, result: dict[str, Any]) -> None:
    heard, control, joins = result["heard"], result["control"], result["joins"]
    told = ", ".join(f"{kind} {one['first_block_db']:.1f}" for kind, one in heard.items())
    late = [kind for kind, one in heard.items() if any(begin != 0 for begin in one["begins"])]
    run.row(
        "a live change: difference in its first block to the same session without it (mel distance)",
        f">= {LEAST_DIFFERENCE:g} dB, none before it",
        f"{told} dB" + (f"; not in the first block: {', '.join(late)}" if late else ""),
        all(one["ok"] for one in heard.values()),
    )
    run.row(
        "from a live change to the ear",
        "one block plus compute, which takes less than a block",
        f"{control['control_ms']:.0f} ms from the call until its block is made (worst "
        f"{control['control_ms_worst']:.0f}), and for who asks just in time at most a block "
        f"more ({control['block_ms']:.0f} ms)",
        control["control_ms"] <= control["block_ms"],
    )
    chords, way = (
        result["chords"],
        "{:.0%} of the way in the first block, {:.0%} in the second".format(*LEAST_SHARES),
    )
    run.row(
        "live change of chords: energy on the new chord's notes less the old one's",
        f"from below 0 to above, {way}",
        f"{chords['before']:+.2f} -> {chords['after']:+.2f}, {_gone(chords)}",
        _in_time(chords) and chords["after"] > 0 > chords["before"],
    )
    tempo = result["tempo"]
    run.row(
        f"live change of tempo (x {NEW_TEMPO:g}): beat F in the {run.settings.live_seconds:g} s after it",
        ">= 0.7 on the new beat, more than on the old",
        f"{tempo['f_new']:.2f} on the new beat, {tempo['f_old']:.2f} on the old",
        tempo["f_new"] >= max(0.7, tempo["f_old"]),
    )
    band = result["instruments"]
    run.row(
        "drums taken out live: level above 6 kHz beside the session that keeps them",
        f"-10 dB or less, {way}",
        f"{band['after']:+.1f} dB" + (f", {_gone(band)}" if band["after"] <= -10 else ""),
        _in_time(band) and band["after"] <= -10,
    )
    prompt = result["prompt"]
    run.row(
        "live change of prompt: likeness to the new words less that to the old (our tower)",
        "rises",
        f"{prompt['before']:+.3f} before, {prompt['after']:+.3f} from {run.settings.live_seconds / 2:g} s after",
        prompt["after"] > prompt["before"],
    )
    run.row(
        f"clicks: sample jumps at {joins['joins']} joins of blocks in {joins['clips']} live clips",
        "none above its clip's 99.99th percentile",
        f"above it in {joins['above']} clips, the largest {joins['largest_of_limit']:.2f} times it",
        joins["above"] == 0,
    )


def _gone(response: dict[str, Any]) -> str:
    return "{:.0%} of the way in the first block, {:.0%} in the second".format(*response["shares"])


def _in_time(response: dict[str, Any]) -> bool:
    return all(share >= least for share, least in zip(response["shares"], LEAST_SHARES))
