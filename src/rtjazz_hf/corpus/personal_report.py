"""What became of somebody's own recordings: which were used, how much of them, and why others were not."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TakeReport:
    """What became of one recording: seconds in all and used, pieces, tempo, key, and why it was skipped."""

    file: str
    seconds: float = 0.0
    used_seconds: float = 0.0
    pieces: int = 0
    tempo: float | None = None
    key: str | None = None
    split: str | None = None
    skipped: str | None = None
    picture: str | None = None
    held_out_seconds: float = 0.0  # of those used
    notes: int = 0  # heard in it, where they were listened for


@dataclass
class PersonalReport:
    """All recordings of a folder. `minutes`: of usable sound, held-out takes included."""

    takes: list[TakeReport] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        return sum(take.used_seconds for take in self.takes) / 60

    @property
    def minutes_held_out(self) -> float:
        """Of the test split: judged by, not learnt."""
        return sum(take.held_out_seconds for take in self.takes) / 60

    def to_text(self) -> str:
        lines = []
        for take in self.takes:
            if take.skipped:
                lines.append(f"skipped  {take.file}: {take.skipped}")
            else:
                lines.append(
                    f"{take.split:8} {take.file}: {take.used_seconds:.0f} of {take.seconds:.0f} s in {take.pieces} "
                    f"pieces, {take.tempo:.0f} BPM, {take.key}" + (f", {take.notes} notes" if take.notes else "")
                )
        used = sum(not take.skipped for take in self.takes)
        lines.append(f"{used} of {len(self.takes)} recordings used, {self.minutes:.1f} minutes in all, "
                     f"{self.minutes_held_out:.1f} of them held out")  # fmt: skip
        return "\n".join(lines)


__all__ = ["PersonalReport", "TakeReport"]
