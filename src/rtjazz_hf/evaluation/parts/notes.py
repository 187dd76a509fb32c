"""Notes: what the flow is told to play, heard by an outside transcriber, beside renders, codec copies and the model
that is told none; melodies that somebody brings; tunes that come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.band.score import Score
from rtjazz_hf.music import LeadSheet, Section

from ...corpus.transcription import transcribe
from .. import pictures
from ..measures import metrics, obedience
from ..measures.notes import SCORED_ROLES, clarity, note_scores, peaks_over_valleys, semitone_levels
from ..measures.themes import likeness, theme_chroma
from ..takes import HeldOutTake, render_score
from ..tunes import TUNES

if TYPE_CHECKING:
    from ..clip_store import StoredClip
    from ..run import EvaluationRun

SHARE, LEAST_SHARE = 0.95, 0.85  # of the codec copies' F1: asked, and the least
TUNE_SHARE = 0.9  # of their own renders' F1
_WITHIN_DB = 1.0
_PICTURES = 4
_SECTIONS = ("head", "solo", "head_out")
KINDS = ("held_out", "reconstruction", "generated", "free")
NAMES = {"held_out": "render", "reconstruction": "codec copy", "generated": "model", "free": "model without notes"}


def measure_notes(run: EvaluationRun) -> dict[str, Any]:
    """F1, clarity and level of lead, bass and chords; then brought melodies, a silent player and themes."""
    try:
        transcribe(np.zeros((2, 48_000), np.float32))
    except ImportError as error:
        run.row("notes that are heard", "-", f"not measured: {error}", None)
        return {"skipped": str(error)}
    if not run.pipe.transformer.config.score_dim:
        run.row("notes that are heard", "-", "not measured: this model is told no notes (its score_dim is 0)", None)
        return {"skipped": "a model without notes"}
    found: dict[str, Any] = {"charts": [], "tables": []}
    places = [place for place, take in enumerate(run.chart_takes) if take.score is not None]
    if places:
        found |= _measure_charts(run, places)
    else:
        why = "not measured: no held-out take has a score; prepare the corpus again"
        run.row("notes that are heard", "-", why, None)
    found["tunes"] = _measure_tunes(run)
    found["themes"] = _measure_themes(run)
    return found


# -- held-out charts -------------------------------------------------------------------------------------------
def _measure_charts(run: EvaluationRun, places: Sequence[int]) -> dict[str, Any]:
    takes = [run.chart_takes[place] for place in places]
    sheets = [run.chart_sheets[place] for place in places]
    seconds = run.settings.duration
    told = run.play(takes, sheets, "told", seconds, places, each={"score": [take.score for take in takes]})
    free = run.play(takes, sheets, "free", seconds, places, each={"parts": ["free"] * len(takes)})
    copies = run.reconstructed()
    charts = []
    for at, (place, take) in enumerate(zip(places, takes)):
        audio = {
            "held_out": take.audio(seconds),
            "reconstruction": copies[place].audio(),
            "generated": told[at].audio(),
            "free": free[at].audio(),
        }
        notes = take.score.rows(take.lead_sheet)[0]
        charts.append(
            {"take": take.name, "genre": take.lead_sheet.genre}
            | {kind: heard_notes(sound, notes) for kind, sound in audio.items()}
        )
        run.say(f"  {take.name}: heard")
        if at < _PICTURES:
            shown = {NAMES[kind]: sound for kind, sound in audio.items()}
            title = f"{take.name}, {take.lead_sheet.genre}, {take.lead_sheet.tempo:.0f} bpm"
            path = run.out_dir / f"notes-{take.name}.png"
            run.picture(pictures.plot_notes(notes, shown, path, min(8.0, seconds), title))
    summary = summarise(charts)
    _chart_rows(run, summary, len(charts))
    obeyed = _obedience_without_notes(run, places, free)
    silent = _measure_silence(run, takes, sheets, places)
    found = {"charts": charts, "summary": summary, "without_notes": obeyed, "silent": silent}
    return {**found, "tables": [_table(summary)]}


def _obedience_without_notes(
    run: EvaluationRun, places: Sequence[int], free: Sequence[StoredClip]
) -> dict[str, float]:
    """Chords and beats of the clips whose notes nobody told, as the part "charts" has them."""
    scores = []
    for place, clip in zip(places, free):
        take, sheet = run.chart_takes[place], run.chart_sheets[place]
        render = take.audio(run.settings.duration)
        scores.append(obedience.chart_scores(clip.audio(), render, sheet, take.lead_sheet))
    mean = obedience.mean_chart_scores(scores)
    run.row(
        "without notes: chord obedience; beat F",
        "score >= 0.7, goal 0.9; >= 0.9 of the renders'",
        f"{mean['chord_score']:.2f} (free {mean['chord_generated']:.3f}, rotated {mean['chord_rotated']:.3f}, "
        f"render {mean['chord_render']:.3f}); {mean['beat_f']:.3f} (renders {mean['beat_f_render']:.3f})",
        mean["chord_score"] >= 0.7 and mean["beat_f"] >= 0.9 * mean["beat_f_render"],
    )
    return mean


def heard_notes(audio: np.ndarray, notes: np.ndarray) -> dict[str, float]:
    """What `note_scores`, `clarity` and `peaks_over_valleys` say of a clip, and its level in dBFS."""
    levels = semitone_levels(audio)
    return {
        **note_scores(audio, notes),
        **clarity(levels, notes),
        "valleys_db": peaks_over_valleys(levels),
        "rms_dbfs": metrics.rms_dbfs(audio),
    }


def summarise(charts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the charts that have a figure, by kind of clip."""
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        names = dict.fromkeys(name for chart in charts for name in chart[kind])
        found[kind] = {name: float(np.mean([c[kind][name] for c in charts if name in c[kind]])) for name in names}
    return found


def _chart_rows(run: EvaluationRun, summary: dict[str, dict[str, float]], number: int) -> None:
    copies, model, free = (summary[kind] for kind in ("reconstruction", "generated", "free"))
    for role in SCORED_ROLES:
        name = f"{role}_f1"
        if name not in model:
            continue
        share = model[name] / max(copies[name], 1e-9)
        run.row(
            f"{role} notes heard in {number} charts: F1 as a share of the codec copies'",
            f">= {LEAST_SHARE}, goal {SHARE}",
            f"{share:.2f} (model {model[name]:.2f}, copies {copies[name]:.2f}, renders "
            f"{summary['held_out'][name]:.2f}, without notes {free[name]:.2f})",
            share >= LEAST_SHARE,
        )
        run.reference(f"{role} F1", **{kind: summary[kind][name] for kind in KINDS})
    for name, what in (("rms_dbfs", "level"), ("valleys_db", "peaks over valleys")):
        difference = model[name] - copies[name]
        run.row(
            f"{what}, model against codec copies",
            f"within {_WITHIN_DB:g} dB",
            f"{difference:+.1f} dB (model {model[name]:.1f}, copies {copies[name]:.1f}, without notes "
            f"{free[name]:.1f})",
            abs(difference) <= _WITHIN_DB,
        )
        run.reference(what, **{kind: summary[kind][name] for kind in KINDS})
    clear = {role: f"{role}_db" for role in SCORED_ROLES if f"{role}_db" in model}
    told = ", ".join(f"{role} {model[name]:.1f} dB ({copies[name]:.1f})" for role, name in clear.items())
    run.row("asked notes over their neighbours, model (codec copies)", "-", told, None)


def _table(summary: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows = []
    for kind in KINDS:
        of = summary[kind]
        cells = [NAMES[kind]]
        for role in SCORED_ROLES:
            cells.append(" / ".join(_shown(of.get(f"{role}_{name}")) for name in ("recall", "precision", "f1")))
        cells += [_shown(of.get(f"{role}_db"), ".1f") for role in SCORED_ROLES]
        rows.append([*cells, f"{of['valleys_db']:.1f}", f"{of['rms_dbfs']:.1f}"])
    scores = [f"{role}: recall / precision / F1" for role in SCORED_ROLES]
    clear = [f"{role} over neighbours, dB" for role in SCORED_ROLES]
    return {"title": "Notes", "header": ["clip", *scores, *clear, "peaks over valleys, dB", "RMS"], "rows": rows}


def _shown(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


# -- a player who is silent --------------------------------------------------------------------------------------
def _measure_silence(
    run: EvaluationRun, takes: Sequence[HeldOutTake], sheets: Sequence[LeadSheet], places: Sequence[int]
) -> dict[str, Any]:
    """The first charts again without who leads: how many of the notes that were left out are heard all the same."""
    chosen = [
        (at, lead)
        for at, take in enumerate(takes)
        if (lead := _lead_of(take, run.settings.duration)) is not None
    ][: run.settings.note_takes]
    if not chosen:
        return {"skipped": "no chart whose lead plays nothing else"}
    muted = [takes[at].score.without_players([lead]) for at, lead in chosen]
    clips = run.play(
        [takes[at] for at, _ in chosen], [sheets[at].without(lead) for at, lead in chosen], "silent-lead",
        run.settings.duration, [places[at] for at, _ in chosen], each={"score": muted},
    )  # fmt: skip
    told = {clip.name: clip for clip in run.play(
        [takes[at] for at, _ in chosen], [sheets[at] for at, _ in chosen], "told", run.settings.duration,
        [places[at] for at, _ in chosen], each={"score": [takes[at].score for at, _ in chosen]},
    )}  # fmt: skip
    found = []
    for (at, lead), clip in zip(chosen, clips):
        notes = takes[at].score.rows(takes[at].lead_sheet)[0]
        gone = note_scores(clip.audio(), notes).get("lead_recall")
        there = note_scores(told[f"{takes[at].name}-told"].audio(), notes).get("lead_recall")
        found.append({"take": takes[at].name, "lead": lead, "silent": gone, "playing": there})
    gone, there = (float(np.mean([each[name] for each in found])) for name in ("silent", "playing"))
    run.row(
        f"lead left out of {len(found)} charts: share of its notes that are heard (told)",
        "<= 0.2 of told",
        f"{gone:.2f} ({there:.2f})",
        gone <= 0.2 * there,
    )
    return {"charts": found}


def _lead_of(take: HeldOutTake, seconds: float) -> str | None:
    """Who plays the lead in a take's first seconds, where it is one player who plays nothing else."""
    last = take.lead_sheet.beat_at(seconds)
    players = {note.player for note in take.score.notes if note.role == "lead" and note.start < last}
    others = {note.player for note in take.score.notes if note.role != "lead" and note.start < last}
    return next(iter(players)) if len(players) == 1 and not players & others else None


# -- melodies that somebody brings -------------------------------------------------------------------------------
def _measure_tunes(run: EvaluationRun) -> dict[str, Any]:
    """Melodies that the composer never wrote, as files: heard in what is played and in the render of the same notes."""
    from rtjazz_hf.corpus.renderer import RendererUnavailable

    tunes = TUNES[: run.settings.tunes]
    folder = run.out_dir / "tunes"
    folder.mkdir(exist_ok=True)
    paths = [tune.write(folder) for tune in tunes]
    sheets = [tune.sheet for tune in tunes]
    takes = [HeldOutTake(tune.name, sheet, tune.words, run.settings.duration) for tune, sheet in zip(tunes, sheets)]
    melodies = [Score.from_file(path) for path in paths]
    clips = run.play(takes, sheets, "melody", run.settings.duration, range(len(takes)), each={"melody": melodies})
    found = []
    for tune, sheet, clip in zip(tunes, sheets, clips):
        played = Score.from_dict(clip.notes["score"])
        seconds = min(clip.seconds, sheet.duration)
        notes = played.rows(sheet)[0]
        try:
            render = render_score(played, sheet, seconds)
        except RendererUnavailable as error:
            run.row("melodies that are brought", "-", f"not measured: {error}", None)
            return {"skipped": str(error)}
        heard, own = (note_scores(sound, notes).get("lead_f1", 0.0) for sound in (clip.audio(seconds), render))
        found.append({"tune": tune.title, "words": tune.words, "lead_f1": heard, "render": own})
        run.say(f"  {tune.title}: {heard:.2f}, its render {own:.2f}")
    heard, own = (float(np.mean([each[name] for each in found])) for name in ("lead_f1", "render"))
    run.row(
        f"{len(found)} public-domain tunes brought as MIDI files: lead F1",
        f">= {TUNE_SHARE} of their own renders'",
        f"{heard:.2f}, renders {own:.2f} ({heard / max(own, 1e-9):.2f} of them)",
        heard >= TUNE_SHARE * own,
    )
    run.reference("lead F1 of brought tunes", generated=heard, held_out=own)
    return {"tunes": found}


# -- tunes that come back ----------------------------------------------------------------------------------------
def _measure_themes(run: EvaluationRun) -> dict[str, Any]:
    """Head, solo and head again, by the band alone: is the returning head more like the first than the solo is?"""
    found = []
    for number, tune in enumerate(TUNES[: run.settings.themes]):
        sheet = three_choruses(tune.sheet)
        take = HeldOutTake(f"{tune.name}-theme", sheet, tune.words, sheet.duration)
        (clip,) = run.play([take], [sheet], "band", sheet.duration, [number])
        third = sheet.num_beats / len(_SECTIONS)
        audio = clip.audio()
        passes = [
            theme_chroma(audio, np.array([sheet.time_of(at * third + beat) for beat in range(round(third) + 1)]))
            for at in range(len(_SECTIONS))
        ]
        back, solo = likeness(passes[0], passes[2]), likeness(passes[0], passes[1])
        found.append({"chart": tune.title, "head_again": back, "solo": solo})
        run.say(f"  {tune.title}: head again {back:.2f}, solo {solo:.2f}")
    if not found:
        return {"skipped": "no themes asked for"}
    told = sum(each["head_again"] > each["solo"] for each in found)
    back, solo = (float(np.mean([each[name] for each in found])) for name in ("head_again", "solo"))
    run.row(
        f"the head comes back: more like itself than the solo is, {len(found)} charts",
        "in >= 90%",
        f"{told} of {len(found)} (likeness {back:.2f}, solo {solo:.2f})",
        told >= 0.9 * len(found),
    )
    return {"charts": found}


def three_choruses(sheet: LeadSheet) -> LeadSheet:
    """A chart played three times: head, solo, head."""
    beats, section = sheet.num_beats, sheet.sections[0]
    sections = tuple(
        Section(role, at * beats, beats, section.instruments, section.lead) for at, role in enumerate(_SECTIONS)
    )
    return dataclasses.replace(sheet, spans=sheet.spans * len(_SECTIONS), sections=sections, loops=False,
        metres=sheet.metres * len(_SECTIONS),
    )  # fmt: skip


__all__ = ["heard_notes", "measure_notes", "summarise", "three_choruses"]
