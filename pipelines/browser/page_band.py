"""What the page asks of the package: a lead sheet of what is wished for, and block by block what the flow is told.

It runs in the browser, where `small_numpy` stands in for numpy, and anywhere else with numpy itself: the same wishes
give the same features.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rtjazz_hf.band import Band, write_lead_sheet
from rtjazz_hf.band.ensemble import conditions_of
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.features import FRAME_RATE
from rtjazz_hf.music.grid import chart_grid

WISHES = ("prompt", "chords", "tempo", "instruments", "seed")


class PageBand:
    """The band of one page.

    Args:
        score_dim: of the flow that is told: 0 for one that reads no notes.
    """

    def __init__(self, score_dim: int):
        self.score_dim = score_dim
        self.frame, self.sheet, self.band = 0, None, None

    def wish(self, wishes: str) -> str:
        """Play by these wishes from the next block on; what the page shows of it. At first it begins, later another
        chart begins from its top at the place in the bar that was reached, and the same one goes on.

        Args:
            wishes: an object of `WISHES` as JSON, all but the seed optional.

        Raises:
            ValueError: a wish that cannot be played, and why: of a chart with the bar.
        """
        read: dict[str, Any] = json.loads(wishes)
        given = {name: value for name, value in read.items() if value not in (None, "", [])}
        if unknown := sorted(set(given) - set(WISHES)):
            raise ValueError(f"cannot wish for {', '.join(unknown)}; choose from {', '.join(WISHES)}")
        sheet, seed = write_lead_sheet(**given), int(given.get("seed", 0))
        seconds = self.frame / FRAME_RATE
        if self.sheet is not None:
            beat = self.sheet.beat_at(seconds)
            if sheet.spans != self.sheet.spans:
                beat = self.sheet.bar_at(beat)[1] % sheet.metre_of(0).beats
            sheet = dataclasses.replace(sheet, beat_offset=beat - seconds * sheet.tempo / 60.0)
        if self.band is None:
            self.band = Band(sheet, seed, seconds=seconds)
        else:
            self.band.follow(sheet, seconds, seed=seed)
        self.sheet = sheet
        return json.dumps(described(sheet))

    def block(self, frames: int) -> tuple[Any, str]:
        """The next block.

        Returns:
            Features `(frames, feature_dim)` float32, and as JSON where in the music the block begins, and its chords as
            [seconds from its start, symbol].
        """
        sheet, start = self.sheet, self.frame
        told = conditions_of(sheet, self.band if self.score_dim else None, start, frames, self.score_dim)
        self.frame += frames
        seconds = start / FRAME_RATE
        self.band.write(sheet.beat_at(self.frame / FRAME_RATE))
        where = sheet.position(seconds)
        chords = [
            [round(begin - seconds, 4), str(chord)]
            for begin, _, chord in sheet.chord_segments(seconds, frames / FRAME_RATE)
        ]
        info = {
            "bar": where.bar, "beat": where.beat, "chords": chords, "tempo": sheet.tempo,
            "beats_per_bar": sheet.metre_of((where.bar - 1) % sheet.num_bars).beats,
        }  # fmt: skip
        return told, json.dumps(info)


def described(sheet: LeadSheet) -> dict[str, Any]:
    """What the page shows of a lead sheet."""
    return {
        "tempo": sheet.tempo, "key": sheet.key, "genre": sheet.genre, "instruments": list(sheet.instruments),
        "bars": chart_grid(sheet),
    }  # fmt: skip


def block_bytes(band: PageBand, frames: int) -> tuple[bytes, str]:
    """`PageBand.block` with the features as bytes, little-endian float32, row by row: for the page's worker."""
    told, info = band.block(frames)
    data = told.tobytes() if hasattr(told, "tobytes") else bytes(memoryview(told.base))
    return data, info
