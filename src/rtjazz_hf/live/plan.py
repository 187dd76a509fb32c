"""What a live session follows: the listener's wishes, and the style and lead sheet that come of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..audio import FRAME_RATE
from ..band import PhraseMemory, Score, fit_melody
from ..charts import chorus_bars
from ..music import LeadSheet
from ..prompts import BLOCK_SIZES

if TYPE_CHECKING:
    from ..flow import RealTimeJazzFlowTransformer
    from .models import LiveModels

# What the band leader writes a lead sheet from, beside the prompt.
WRITTEN_FIELDS = frozenset({"chords", "tempo", "key", "mood", "instruments"})
UPDATE_FIELDS = (
    "prompt",
    *sorted(WRITTEN_FIELDS),
    "lead_sheet",
    "guidance_scale",
    "num_inference_steps",
    "block_frames",
    "seed",
    "adapter",
    "adapter_scale",
    "melody",
    "parts",
)
AT = ("bar", "now")  # when an update begins
_NEAR = 1e-6  # frames


@dataclass(frozen=True)
class Plan:
    """Everything a block follows. Immutable: an update puts a new one in its place, whole or not at all.

    Attributes:
        asked: what the listener fixed, by field name; the rest is the band leader's.
        style: `(1, style_dim)`.
        transformer: the one with the adapters that were asked for.
        seeds: how many seeds were given so far; the noise starts anew with each.
        phrases: the habits of the player whose learnt style the prompt calls.
        tune: the melody as the band has it; `fit_melody`. said: what there was to say about it when the plan was made.
        before: what is played until this plan takes over, at beat `turn` of its lead sheet; None: it has taken over.
        bars: bars that the session had played before bar 1 of the lead sheet.
    """

    asked: dict[str, Any]
    style: torch.Tensor
    lead_sheet: LeadSheet
    transformer: RealTimeJazzFlowTransformer
    seeds: int = 1
    tune: Score | None = None
    said: tuple[str, ...] = ()
    phrases: PhraseMemory | None = None
    before: Plan | None = None
    turn: float = 0.0
    bars: int = 0

    @property
    def starts(self) -> float:
        """When it takes over, in seconds of the session; -inf where it has."""
        return -math.inf if self.before is None else self.before.lead_sheet.time_of(self.turn)

    def chorus_of(self, bar: int) -> int | None:
        """Which time round the chart that was asked for is played in a bar of the lead sheet."""
        chords = self.asked.get("chords")
        return None if chords is None else max(0, bar - 1) // chorus_bars(chords) + 1

    def due(self, frame: int) -> Plan:
        """What a block follows that begins at a frame: this, from less than the smallest block before `starts` on."""
        waits = self.before is not None and self.starts * FRAME_RATE - frame >= BLOCK_SIZES[0] - _NEAR
        return self.before if waits else self

    def frames_from(self, frame: int) -> int:
        """Frames of a block that begins at a frame: fewer than asked for where the block would pass `starts`."""
        plan = self.due(frame)
        if plan is self:
            return self.block_frames
        left = self.starts * FRAME_RATE - frame + _NEAR
        return min(plan.block_frames, max(size for size in BLOCK_SIZES if size <= left))

    def led_in(self, features: torch.Tensor, start_frame: int) -> torch.Tensor:
        """Features `(1, frames, feature_dim)` of a block that begins a few frames before its bar line: up to there the
        chords are still those of before."""
        frames = 0 if self.before is None else math.ceil(self.starts * FRAME_RATE - start_frame - _NEAR)
        if frames > 0:
            chords = self.before.lead_sheet.features(start_frame, frames)
            features[:, :frames, : chords.shape[-1]] = torch.from_numpy(chords).to(features)
        return features

    @property
    def guidance_scale(self) -> float:
        return float(self.asked["guidance_scale"])

    @property
    def num_inference_steps(self) -> int:
        return int(self.asked["num_inference_steps"])

    @property
    def block_frames(self) -> int:
        return int(self.asked["block_frames"])

    @property
    def seed(self) -> int:
        return int(self.asked["seed"])


def first_plan(models: LiveModels, asked: dict[str, Any], start_beat: float = 0.0) -> Plan:
    """The plan of a session that starts, at `start_beat` of its lead sheet.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    asked.setdefault(
        "adapter", dict(models.adapter_bank.active_mix)
    )  # others may become the active ones: the session's stay
    if (
        isinstance(start_beat, bool)
        or not isinstance(start_beat, (int, float))
        or not 0 <= start_beat < math.inf
    ):
        raise ValueError(f"start_beat {start_beat!r}: choose a beat of the chart, 0 or later")
    check_asked(models, asked)
    _read_melody(models, asked)
    sheet = _write_lead_sheet(models, asked, asked, None)
    sheet = dataclasses.replace(sheet, beat_offset=sheet.beat_offset + start_beat)
    tune, said = fitted(asked, sheet)
    return Plan(
        asked,
        models.encode_prompt(asked["prompt"]),
        sheet,
        _transformer(models, asked),
        tune=tune,
        said=said,
        phrases=models.prepare_phrases(asked["prompt"]),
    )


def changed_plan(models: LiveModels, before: Plan, changes: dict[str, Any]) -> Plan:
    """`before` with `changes`; its lead sheet, if it is a new one, stands at its own beginning.

    Raises:
        ValueError: an unknown field or value.
    """
    if unknown := sorted(set(changes) - set(UPDATE_FIELDS)):
        raise ValueError(f"cannot update {', '.join(unknown)}; choose from {', '.join(UPDATE_FIELDS)}")
    if changes.get("adapter", {}) is None:
        changes = {**changes, "adapter": {}}  # none
    silenced = changes.get("melody", "") is None  # the band's own part again
    if silenced:
        changes = {name: value for name, value in changes.items() if name != "melody"}
    if missing := sorted(name for name, value in changes.items() if value is None):
        raise ValueError(
            f"{', '.join(missing)} is None; give a value, or leave it out to keep what is played"
        )
    asked = dict(before.asked)
    if "lead_sheet" in changes:  # it says everything itself, and wins over what would have it written
        changes = {name: value for name, value in changes.items() if name not in WRITTEN_FIELDS}
        asked = {name: value for name, value in asked.items() if name not in WRITTEN_FIELDS}
    elif "lead_sheet" in asked and changes.keys() & WRITTEN_FIELDS - {"tempo"}:
        # from here on the band leader writes again, at the tempo that is being played
        del asked["lead_sheet"]
        asked["tempo"] = before.lead_sheet.tempo
    asked.update(changes)
    if silenced:
        asked.pop("melody", None)
    check_asked(models, asked)
    if "melody" in changes:
        _read_melody(models, asked)
    style, phrases = before.style, before.phrases
    if "prompt" in changes:
        style, phrases = models.encode_prompt(asked["prompt"]), models.prepare_phrases(asked["prompt"])
    lead_sheet = before.lead_sheet
    if changes.keys() & {"prompt", "lead_sheet", *WRITTEN_FIELDS}:
        lead_sheet = _write_lead_sheet(models, asked, changes, before)
    transformer = before.transformer
    if changes.keys() & {"adapter", "adapter_scale"}:
        transformer = _transformer(models, asked)
    tune, said = before.tune, ()
    same = (lead_sheet.sections, lead_sheet.spans) == (before.lead_sheet.sections, before.lead_sheet.spans)
    if "melody" in changes or silenced or not same:
        tune, said = fitted(asked, lead_sheet)
    seeds = before.seeds + ("seed" in changes)
    return dataclasses.replace(
        before, asked=asked, style=style, lead_sheet=lead_sheet, transformer=transformer, seeds=seeds, tune=tune,
        said=said, phrases=phrases,
    )  # fmt: skip


def check_at(at: str | None) -> None:
    """Refuse what is no beginning of an update.

    Raises:
        ValueError: naming what is allowed.
    """
    if at is not None and at not in AT:
        raise ValueError(f"at {at!r}: choose 'bar' (the update begins at the next bar line) or 'now'")


def next_plan(newest: Plan, after: Plan, at: str | None, frame: int, charted: bool, now: Plan | None) -> Plan:
    """`after`, put in its place in time: what is followed from the block on that begins at `frame`.

    Args:
        newest: what was followed, or waited for, until then. after: that with some changes.
        at: as of `LiveSession.update`. charted: whether the changes have a chart. now: if not, and if `newest` waits,
            what is played before it with the changes.
    """
    playing = newest.due(frame)
    sheet, seconds = playing.lead_sheet, frame / FRAME_RATE
    other = (after.lead_sheet.spans, after.lead_sheet.metres) != (sheet.spans, sheet.metres)
    if at == "bar" or (at is None and charted and other):
        line = dataclasses.replace(playing, before=None)
        return _from_bar_line(after, line, _next_line(sheet, seconds))
    if playing is not newest and not charted:  # what waits goes on waiting
        return _from_bar_line(after, _taken_over(now, playing, seconds), newest.turn)
    return dataclasses.replace(_taken_over(after, playing, seconds), before=playing.before, turn=playing.turn)


def _taken_over(plan: Plan, before: Plan, seconds: float) -> Plan:
    """`plan` in the place of `before` at `seconds`; a plan that keeps the lead sheet stands where it stood."""
    if plan.lead_sheet is before.lead_sheet:
        return plan
    sheet = continue_in_phase(plan.lead_sheet, before.lead_sheet, seconds)
    return _counted(dataclasses.replace(plan, lead_sheet=sheet), before, seconds)


def _from_bar_line(plan: Plan, before: Plan, turn: float) -> Plan:
    """`plan` from beat `turn` of what is played before: another tune from its top, the same one from its place."""
    seconds = before.lead_sheet.time_of(turn)
    beat = turn if _same_tune(plan.lead_sheet, before.lead_sheet) else 0.0
    sheet = plan.lead_sheet
    sheet = dataclasses.replace(sheet, beat_offset=beat - seconds * sheet.tempo / 60.0)
    plan = dataclasses.replace(plan, lead_sheet=sheet, before=before, turn=turn)
    return _counted(plan, before, seconds)


def _counted(plan: Plan, before: Plan, seconds: float) -> Plan:
    """`plan`, whose bars are counted on from those of `before`."""
    past, bar = (sheet.position(seconds).bar for sheet in (before.lead_sheet, plan.lead_sheet))
    return dataclasses.replace(plan, bars=before.bars + past - bar)


def _next_line(sheet: LeadSheet, seconds: float) -> float:
    """The beat of the next bar line, that of `seconds` where it falls on one."""
    beat = sheet.beat_at(seconds) + _NEAR
    bar, within = sheet.bar_at(beat)
    return sheet.bar_start(bar if within < 2 * _NEAR else bar + 1)


def check_asked(models: LiveModels, asked: dict[str, Any]) -> None:
    """Refuse wishes that cannot be played; those of the lead sheet are checked where it is written.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    seed = asked["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed!r}: choose a whole number from 0 to {2**63 - 1}")
    own = ("seed", "adapter", "adapter_scale")
    models.check_inputs(**{name: value for name, value in asked.items() if name not in own})
    if not isinstance(asked.get("lead_sheet"), (LeadSheet, type(None))):
        raise ValueError(f"lead_sheet {asked['lead_sheet']!r}: a live session follows one LeadSheet")
    if isinstance(asked["prompt"], list):
        raise ValueError(
            "a live session has one prompt, not a list; for a mix give {'bebop': 0.7, 'bossa': 0.3}"
        )


def fitted(asked: dict[str, Any], sheet: LeadSheet) -> tuple[Score | None, tuple[str, ...]]:
    """The melody that is asked for, as the band of a sheet has it, and what there is to say."""
    if asked.get("melody") is None:
        return None, ()
    tune, said = fit_melody(asked["melody"], sheet)
    return tune, tuple(said)


def _read_melody(models: LiveModels, asked: dict[str, Any]) -> None:
    """A melody's file is read once, when it is asked for."""
    if "melody" in asked:
        asked["melody"] = models.prepare_melody(asked["melody"])


def _transformer(models: LiveModels, asked: dict[str, Any]) -> RealTimeJazzFlowTransformer:
    """The one that plays the adapters asked for, whose strengths become plain numbers, which a file can hold."""
    transformer = models.transformer_of(asked.get("adapter"), asked.get("adapter_scale", 1.0))
    if isinstance(asked.get("adapter"), Mapping):
        asked["adapter"] = {name: float(weight) for name, weight in asked["adapter"].items()}
    if "adapter_scale" in asked:
        asked["adapter_scale"] = float(asked["adapter_scale"])
    return transformer


def _write_lead_sheet(
    models: LiveModels, asked: dict[str, Any], changes: dict[str, Any], before: Plan | None
) -> LeadSheet:
    if "lead_sheet" in asked:
        sheet = asked["lead_sheet"] if before is None or "lead_sheet" in changes else before.lead_sheet
        return sheet.with_tempo(changes["tempo"]) if before and "tempo" in changes else sheet
    wishes = {name: asked.get(name) for name in ("prompt", *WRITTEN_FIELDS)}
    return models.prepare_lead_sheet(**wishes, seeds=[asked["seed"]])[0]


def aligned_plan(plan: Plan, tempo: float, beat: float, at: float, frame: int) -> Plan:
    """`plan` at another tempo, with `beat` of the lead sheet that is played at `frame` at `at` seconds of the session.

    Raises:
        ValueError: a tempo out of range, a beat or a time that is not finite.
    """
    if plan.due(frame) is not plan:
        return _from_bar_line(plan, aligned_plan(plan.before, tempo, beat, at, frame), plan.turn)
    sheet = plan.lead_sheet.with_tempo(tempo)
    sheet = dataclasses.replace(sheet, beat_offset=beat - at * sheet.tempo / 60.0)
    asked = plan.asked if "lead_sheet" in plan.asked else {**plan.asked, "tempo": sheet.tempo}
    return dataclasses.replace(plan, asked=asked, lead_sheet=sheet)


def continue_in_phase(sheet: LeadSheet, before: LeadSheet, seconds: float) -> LeadSheet:
    """`sheet`, taking over from `before` at `seconds` without a jump of the beat.

    The same chart, in another key too, goes on where it was; another one starts from its top, at the place in
    the bar that was reached.
    """
    beat = before.beat_at(seconds)
    if not _same_tune(sheet, before):
        beat = before.bar_at(beat)[1] % sheet.metre_of(0).beats
    return dataclasses.replace(sheet, beat_offset=beat - seconds * sheet.tempo / 60.0)


def _same_tune(one: LeadSheet, other: LeadSheet) -> bool:
    """Whether two sheets have the same chords at the same beats, or the same a number of semitones apart."""
    if (one.beats_per_bar, one.metres, one.loops, len(one.spans)) != (
        other.beats_per_bar, other.metres, other.loops, len(other.spans),
    ):  # fmt: skip
        return False
    first, second = one.spans[0].chord.root, other.spans[0].chord.root
    if first is not None and second is not None:
        other = other.rotated(first - second)
    return one.spans == other.spans
