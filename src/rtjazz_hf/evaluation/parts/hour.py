"""An hour of live playing with a change every 20 s: are its last five minutes still the music of its first?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.music.score_features import NOTE_ROLES
from rtjazz_hf.music.vocabulary import INSTRUMENTS

from ...corpus.transcription import transcribe
from ...runtime.memory import memory_of_this_process
from ..measures import metrics
from ..measures.notes import SCORED_ROLES, note_scores

if TYPE_CHECKING:
    from rtjazz_hf.live import LiveBlock

    from ..run import EvaluationRun

EVERY = 20.0  # seconds between two changes
# A round of changes: each says all, so that a round is the same whatever was before.
ROUND: tuple[dict[str, Any], ...] = (
    {"prompt": "medium swing piano trio", "chords": "Dm7 | G7 | Cmaj7 | A7", "tempo": 120.0},
    {"prompt": "medium swing piano trio", "chords": "Fm7 | Bb7 | Ebmaj7 | %", "tempo": 126.0},
    {"prompt": "bebop quartet with tenor sax", "chords": "Fmaj7 | D7 | Gm7 | C7", "tempo": 170.0},
    {"prompt": "bossa nova, flute and nylon guitar", "chords": "Am7 | D7 | Gmaj7 | %", "tempo": 116.0},
    {"prompt": "slow ballad, muted trumpet", "chords": "Ebmaj7 | Cm7 | Fm7 | Bb7", "tempo": 66.0},
    {"prompt": "hard bop quintet, trumpet and tenor sax", "chords": "Cm7 | % | Fm7 | G7", "tempo": 150.0},
    {"prompt": "blues, guitar, bass and drums", "chords": "F7 | Bb7 | F7 | C7", "tempo": 104.0},
    {"prompt": "modal jazz with alto sax", "chords": "Dm7 | % | Ebm7 | %", "tempo": 140.0},
    {"prompt": "cool jazz, vibraphone quartet", "chords": "Bbmaj7 | Gm7 | Cm7 | F7", "tempo": 132.0},
    {"prompt": "waltz, piano trio", "chords": "3/4 Am7 | D7 | Gmaj7 | Cmaj7", "tempo": 144.0},
    {"prompt": "samba with trombone", "chords": "Gm7 | C7 | Fmaj7 | D7", "tempo": 112.0},
    {"prompt": "swing, clarinet and piano", "chords": "Bb6 | G7 | Cm7 | F7", "tempo": 160.0},
    {"prompt": "shuffle, organ and guitar", "chords": "C7 | F7 | C7 | G7", "tempo": 120.0},
    {"prompt": "swinging jazz with trumpet, piano and bass", "chords": "Abmaj7 | Fm7 | Bbm7 | Eb7", "tempo": 136.0},
    {"prompt": "medium swing quartet with alto sax", "chords": "Em7b5 | A7 | Dm7 | G7", "tempo": 128.0},
)  # fmt: skip
WITHIN_DB, WITHIN_F1 = 2.0, 0.05


def measure_hour(run: EvaluationRun) -> dict[str, Any]:
    """One session at full speed; its first and its last round of changes, beside each other."""
    try:
        transcribe(np.zeros((2, 48_000), np.float32))
    except ImportError as error:
        run.row("an hour of live playing", "-", f"not measured: {error}", None)
        return {"skipped": str(error)}
    rounds = max(2, round(run.settings.hour_seconds / (EVERY * len(ROUND))))
    ends = {"first": 0, "last": rounds - 1}
    kept: dict[str, list[list[LiveBlock]]] = {name: [[] for _ in ROUND] for name in ends}
    memory = memory_of_this_process()
    sizes, seconds, broken = [], 0.0, 0
    with run.pipe.live(**ROUND[0], seed=run.settings.seed) as session:
        for turn in range(rounds * len(ROUND)):
            if turn:
                session.update(**ROUND[turn % len(ROUND)])
            while seconds < (turn + 1) * EVERY:
                block = next(session)
                seconds += block.duration
                broken += not np.isfinite(block.audio).all()
                for name, at in ends.items():
                    if turn // len(ROUND) == at:
                        kept[name][turn % len(ROUND)].append(block)
            sizes.append(memory())
            if not (turn + 1) % len(ROUND):
                run.say(f"  {seconds / 60:.0f} minutes played")
    found = {name: _heard(pieces) for name, pieces in kept.items()}
    # between the end of the first round and the beginning of the last, both of which are kept
    grown = (sizes[(rounds - 1) * len(ROUND) - 1] - sizes[len(ROUND) - 1]) / 1e6
    _rows(run, found, seconds, grown, broken)
    return {"ends": found, "minutes": seconds / 60, "growth_mb": grown, "not_finite": broken, "tables": []}


def _heard(pieces: list[list[LiveBlock]]) -> dict[str, Any]:
    """Octave bands and level of a round, and what the transcriber hears of its notes (means over its pieces)."""
    sounds = [np.concatenate([block.audio for block in blocks], axis=1) for blocks in pieces]
    scores = [note_scores(sound, _told(blocks)) for sound, blocks in zip(sounds, pieces)]
    names = [f"{role}_f1" for role in SCORED_ROLES]
    whole = np.concatenate(sounds, axis=1)
    return {
        "bands_db": metrics.band_energies(whole),
        "rms_dbfs": metrics.rms_dbfs(whole),
        **{name: _mean([score[name] for score in scores if name in score]) for name in names},
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _told(blocks: list[LiveBlock]) -> np.ndarray:
    """The notes of blocks as `Score.rows` has them, in seconds of their sound."""
    rows = []
    for block in blocks:
        beat = 60.0 / block.lead_sheet.tempo
        for note, start in zip(block.notes, block.note_times):
            role, player = NOTE_ROLES.index(note.role), INSTRUMENTS.index(note.player)
            rows.append((start - blocks[0].start, note.beats * beat, note.midi, note.velocity, role, player))
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def _rows(run: EvaluationRun, found: dict[str, Any], seconds: float, grown: float, broken: int) -> None:
    first, last = found["first"], found["last"]
    what = f"{seconds / 60:.0f} minutes of live playing, a change every {EVERY:g} s: last round against first"
    bands = last["bands_db"] - first["bands_db"]
    worst = int(np.abs(bands).argmax())
    run.row(
        f"{what}: octave bands", f"within {WITHIN_DB:g} dB",
        f"{bands.min():+.1f}..{bands.max():+.1f} dB, most at {metrics.OCTAVE_CENTRES[worst]:g} Hz; level "
        f"{last['rms_dbfs'] - first['rms_dbfs']:+.1f} dB; {broken} blocks not finite; memory {grown:+.1f} MB",
        bool(np.abs(bands).max() <= WITHIN_DB and not broken),
    )  # fmt: skip
    names = [f"{role}_f1" for role in SCORED_ROLES]
    told = ", ".join(f"{name[:-3]} {first[name]:.2f}, then {last[name]:.2f}" for name in names)
    ok = last["lead_f1"] >= first["lead_f1"] - WITHIN_F1
    run.row(f"{what}: notes heard (F1)", f"lead within {WITHIN_F1:g}", told, ok)


__all__ = ["measure_hour"]
