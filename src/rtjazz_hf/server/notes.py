"""Melodies that are sent, and the notes of a clip as a file."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import TYPE_CHECKING, Any

from ..band import Band
from ..band.midi import midi_bytes, read_midi
from .schemas import ClipRequest, wishes

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

MIDI_MEDIA = "audio/midi"


def read_melody(fields: dict[str, Any]) -> list[str]:
    """Put the score in the place of the base64 of `fields["melody"]`; what there was to say about the file.

    Raises:
        ValueError: it is no base64, or no MIDI file that can be read.
    """
    said: list[str] = []
    if fields.get("melody") is not None:
        try:
            data = base64.b64decode(fields["melody"], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("melody: send a MIDI file as base64") from None
        fields["melody"] = read_midi(data, "the melody", said.append)
    return said


def clip_midi(pipe: RealTimeJazzPipeline, request: ClipRequest) -> tuple[bytes, int]:
    """The notes that a clip plays, as a MIDI file, and its seed.

    Raises:
        ValueError: what was asked for, or a clip that is told no notes.
    """
    asked, duration = wishes(request), request.duration
    read_melody(asked)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    music = {name: asked.get(name) for name in ("prompt", "chords", "tempo", "key", "mood", "instruments")}
    told = {name: asked.get(name) for name in ("melody", "parts")}
    pipe.check_inputs(prompt=music["prompt"], duration=duration, **told)
    sheet = pipe.prepare_lead_sheet(**music, duration=duration, seeds=[seed])[0]
    (teller,) = pipe.prepare_parts([sheet], [seed], prompt=music["prompt"], **told)
    if not isinstance(teller, Band):
        raise ValueError("format 'mid': no notes are told for this clip; ask a model that reads notes for parts 'band'")
    return midi_bytes(teller.write(sheet.beat_at(duration)), sheet), seed


__all__ = ["MIDI_MEDIA", "clip_midi", "read_melody"]
