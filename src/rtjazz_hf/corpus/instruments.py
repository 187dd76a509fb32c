"""A folder of recorded instruments: found, checked before anything is written, measured, matched to the sound fonts.

    instruments/
      README.md                 a table whose rows begin with the folders' names: what each is, source, terms
      upright_bass/*.sfz        one mapping each, or a link to it; samples where it says
      alto_sax/*.sfz
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..audio import SAMPLE_RATE
from ..band.bass import HIGH, LOW
from ..band.comping import HANDS
from ..band.melody import RANGES
from ..band.performance import Note
from ..music.vocabulary import INSTRUMENTS, KITS, canonical_instrument
from .lanes import WHEEL_RANGE, WHEEL_STEP, Lane
from .renderer import RendererUnavailable
from .sampler import Mapped, Sampler, Zone, choose, open_synth
from .sfz import Mapping, SfzError, read_sfz

_OTHER_NAMES = {"alto_flute": "flute", "double_bass": "bass", "acoustic_guitar": "guitar"}
_RATES = (8_000, 192_000)  # sfizz brings any rate between them to that of the corpus
_SHOWN = 4  # faults of a kind that are told one by one
ONSET_DB = -12.0  # a note is heard from when it comes so near to its loudest moment of the first 150 ms
_ONSET_WINDOW_S, _ONSET_WITHIN_S = 0.002, 0.15
_ONSET_S = 0.006  # after the beat: where the fonts' plucked and struck notes are heard
_LATEST_S = 0.02  # an onset that comes later after its stroke is brought there by skipping what is before it


class InstrumentsError(ValueError):
    """A folder of instruments cannot be used; the message names every fault and what to do."""


@dataclass(frozen=True)
class Instrument:
    """A recorded instrument, ready to be played.

    Attributes:
        name: of its folder. player: who plays it, one of `INSTRUMENTS`. mapped: for the sampler. keys: those that it
            has, MIDI. fingerprint: of its mapping and samples. what, source, terms: as the folder's README tells them.
    """

    name: str
    player: str
    mapped: Mapped
    keys: frozenset[int]
    fingerprint: str
    what: str = ""
    source: str = ""
    terms: str = "not told"

    def has(self, notes: Iterable[Note]) -> bool:
        """Whether it has the keys of all of them."""
        return all(note.midi in self.keys for note in notes)


@dataclass
class _Faults:
    """Everything that is wrong, by instrument."""

    by_name: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, what: str) -> None:
        self.by_name.setdefault(name, []).append(what)

    def text(self) -> str:
        lines = []
        for name, faults in self.by_name.items():
            more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            lines.append(f"  {name}: {'; '.join(faults[:_SHOWN])}{more}")
        return "\n".join(lines)


def player_of(name: str) -> str | None:
    """Whose instrument a folder of that name holds; None where it is nobody's."""
    plain = re.sub(r"[-_ ]*\d+$", "", name.lower())
    if plain in _OTHER_NAMES:
        return _OTHER_NAMES[plain]
    try:
        player = canonical_instrument(plain)
    except ValueError:
        return None
    return None if player in KITS else player


def load_instruments(folder: str | Path, say: Callable[[str], None] = lambda text: None) -> tuple[Instrument, ...]:
    """The instruments of a folder, checked sample by sample and measured; `say` is told what is left out.

    Args:
        folder: a sub-folder for each, named as its player is ("alto_sax", "upright_bass", "trumpet_2").

    Raises:
        InstrumentsError: names everything that is wrong: no mapping or several, samples that are missing, damaged,
            silent or of a rate beyond 8 to 192 kHz, regions that sfizz leaves out.
        RendererUnavailable: pysfizz is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InstrumentsError(f"there is no folder of instruments '{folder}'")
    found, faults = [], _Faults()
    told = _read_table(folder / "README.md")
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        player = player_of(place.name)
        if player is None:
            say(
                f"'{place}' is left out: it is named after nobody, or after a kit, which only sound fonts play; names "
                f"are {', '.join(name for name in INSTRUMENTS if name not in KITS)}, with a number behind if you like"
            )
            continue
        mapping = _mapping(place, faults)
        if mapping is None or not _check_samples(place.name, mapping, faults):
            continue
        try:
            zones, text = _zones(mapping)
        except ValueError as error:
            faults.add(place.name, str(error))
            continue
        robins, dice = mapping.controllers()
        mapped = Mapped(text, zones, tuple(robins.items()), dice)
        keys = frozenset(key for zone in zones for key in range(zone.keys[0], zone.keys[1] + 1))
        row = {key: value for key, value in zip(("what", "source", "terms"), told.get(place.name, ())) if value}
        found.append(Instrument(place.name, player, mapped, keys, _fingerprint(mapping), **row))
        reach = reach_of(player)
        if lacking := [key for key in reach if key not in keys]:
            say(
                f"{place.name} has no sample for {len(lacking)} of the keys {reach[0]} to {reach[-1]} that "
                f"{player.replace('_', ' ')} plays; takes that ask for them have a sound font there"
            )
    if faults.by_name:
        raise InstrumentsError(
            f"instruments of '{folder}' cannot be used:\n{faults.text()}\n"
            "Fetch them again, or take their folders out; nothing was written."
        )
    if not found:
        raise InstrumentsError(
            f"'{folder}' has no folder that is named after a player: 'upright_bass', 'alto_sax', 'jazz_guitar', ..."
        )
    missing = [name for name in INSTRUMENTS if name not in {each.player for each in found}]
    say(f"recorded: {', '.join(each.name for each in found)}; sound fonts alone: {', '.join(missing)}")
    return tuple(found)


def _mapping(place: Path, faults: _Faults) -> Mapping | None:
    files = sorted(path for path in place.iterdir() if path.suffix.lower() == ".sfz")
    if len(files) != 1:
        names = ", ".join(path.name for path in files)
        faults.add(place.name, f"{f'several mappings ({names})' if files else 'no .sfz'} in '{place}': it wants one")
        return None
    try:
        return read_sfz(files[0].resolve())  # a link leads to where its samples are
    except SfzError as error:
        faults.add(place.name, str(error))
        return None


def _check_samples(name: str, mapping: Mapping, faults: _Faults) -> bool:
    """Every sample is read to its end: sfizz passes over what it cannot read without a word."""
    import soundfile

    good = True
    for path in mapping.samples:
        try:
            if not path.is_file():
                raise ValueError("is missing")
            with soundfile.SoundFile(path) as file:
                rate, frames = file.samplerate, file.frames
                audio = file.read(dtype="float32", always_2d=True)
            if not _RATES[0] <= rate <= _RATES[1]:
                raise ValueError(f"has {rate} samples a second; {_RATES[0]} to {_RATES[1]} are played")
            if len(audio) != frames or not frames:
                raise ValueError(f"ends after {len(audio)} of {frames} samples")
            if not np.isfinite(audio).all() or not np.abs(audio).max() > 1e-5:
                raise ValueError("is silent")
        except (ValueError, RuntimeError, OSError) as error:  # soundfile's errors are RuntimeErrors
            good = False
            why = str(error) if isinstance(error, ValueError) else f"is damaged ({str(error).rstrip('. ')})"
            faults.add(name, f"sample '{path}' {why}")
    return good


def _zones(mapping: Mapping) -> tuple[tuple[Zone, ...], str]:
    """Where each region sounds, measured, and the mapping's text: samples whose sound begins late start later in it."""
    text = mapping.rewritten(WHEEL_RANGE)
    synth, zones = _open(mapping, text)
    lags = _lags(synth, zones, mapping)
    skips = {
        index: round((lag - _LATEST_S) * _rate(mapping, index))
        for index, lag in enumerate(lags)
        if lag > _LATEST_S and mapping.regions[index].sample is not None
    }
    if skips:
        text = mapping.rewritten(WHEEL_RANGE, skips)
        synth, zones = _open(mapping, text)
        lags = _lags(synth, zones, mapping)
    measured = [dataclasses.replace(zone, lag_s=max(0.0, lag - _ONSET_S)) for zone, lag in zip(zones, lags)]
    attacks = [zone for zone, region in zip(measured, mapping.regions) if _is_attack(region.opcodes)]
    return tuple(attacks), text


def _is_attack(opcodes: dict[str, str]) -> bool:
    return not opcodes.get("trigger", "attack").startswith("release")


def _rate(mapping: Mapping, index: int) -> int:
    import soundfile

    return soundfile.info(mapping.regions[index].sample).samplerate


def _open(mapping: Mapping, text: str) -> tuple[object, list[Zone]]:
    synth = open_synth(text)
    count = synth.get_num_regions()
    if count != len(mapping.regions):
        raise ValueError(f"sfizz plays {count} of the {len(mapping.regions)} regions of '{mapping.path}'")
    zones = []
    for index, region in enumerate(mapping.regions):
        data = synth.get_region_data(index)
        (robin, robins), (low, high) = region.robin, region.dice
        zones.append(
            Zone(
                (int(data["lokey"]), int(data["hikey"])),
                (round(127 * data["lovel"]), round(127 * data["hivel"])),
                robin, robins, (round(127 * low), round(127 * high) - (high < 1)),
            )
        )  # fmt: skip
    return synth, zones


def _lags(synth, zones: list[Zone], mapping: Mapping) -> list[float]:
    """Seconds from stroke to onset of each zone, struck alone at its own pitch."""
    robins, dice_controller = mapping.controllers()
    lags = []
    for zone, region in zip(zones, mapping.regions):
        if not _is_attack(region.opcodes):
            lags.append(0.0)
            continue
        synth.all_sound_off()
        synth.render_block()
        choose(synth, robins.items(), dice_controller, zone.robin, zone.dice[0])
        key = (zone.keys[0] + zone.keys[1]) // 2
        velocity = max(1, min(zone.velocities[1], max(zone.velocities[0], 90)))
        synth.note_on(0, key, velocity)
        blocks = []
        for _ in range(round(0.45 * SAMPLE_RATE / WHEEL_STEP)):
            left, right = synth.render_block()
            blocks.append(np.asarray(left) + np.asarray(right))
        synth.note_off(0, key, 0)
        lags.append(onset_of(np.concatenate(blocks)))
    return lags


def onset_of(sound: np.ndarray) -> float:
    """Seconds up to where `(samples,)` that hold one note are first within 12 dB of their loudest 2 ms, which is looked
    for in the 150 ms after the first sign of a sound."""
    width = round(_ONSET_WINDOW_S * SAMPLE_RATE)
    power = np.convolve(sound.astype(np.float64) ** 2, np.ones(width) / width)[width - 1 :]
    first = int(np.argmax(power > 1e-4 * power.max()))
    loudest = power[first : first + round(_ONSET_WITHIN_S * SAMPLE_RATE)].max()
    return float(np.argmax(power >= loudest * 10 ** (ONSET_DB / 10)) / SAMPLE_RATE)


def cents_of(sound: np.ndarray, key: int, rate: int = SAMPLE_RATE, within: float = 0.6) -> float:
    """Cents of a note `(samples,)` beside its key: by its partials up to the eighth, weighted by their power; NaN where
    it has none.

    Args:
        rate: samples a second. within: semitones beside its place in which a partial is looked for; the wider, the
            fewer partials stand so far apart.
    """
    hertz = 440.0 * 2 ** ((key - 69) / 12)
    size = 1 << 17
    window = np.hanning(len(sound))
    power = np.abs(np.fft.rfft(sound * window, size)) ** 2
    total = weight = 0.0
    for partial in range(1, min(8, int(1 / (2 ** (within / 6) - 1))) + 1):
        low, high = (int(partial * hertz * 2 ** (side / 12) * size / rate) for side in (-within, within))
        if high - low < 3 or high >= len(power) - 1:
            continue
        peak = low + int(np.argmax(power[low:high]))
        below, here, above = np.log(power[peak - 1 : peak + 2] + 1e-30)
        place = peak + 0.5 * (below - above) / (below - 2 * here + above - 1e-30)
        total += power[peak] * 1200 * np.log2(place * rate / size / (partial * hertz))
        weight += power[peak]
    return total / weight if weight else float("nan")


def reach_of(player: str) -> range:
    """The keys that the band asks of a player."""
    low, high = (LOW, HIGH) if player == "bass" else RANGES[player]
    if player in HANDS:
        low, high = min(low, HANDS[player].low), max(high, HANDS[player].high)
    return range(low, high + 1)


def _fingerprint(mapping: Mapping) -> str:
    """A short hash of a mapping and its samples, wherever they lie."""
    digest = hashlib.sha256()
    for region in mapping.regions:
        digest.update(repr(sorted(region.opcodes.items())).encode())
    for path in mapping.samples:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read_table(file: Path) -> dict[str, tuple[str, str, str]]:
    """What a README's table tells of folders: what it is, its source, its terms (the last two of its cells)."""
    found: dict[str, tuple[str, str, str]] = {}
    if not file.is_file():
        return found
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.lstrip().startswith("|") and len(cells) >= 3:
            for name in re.split(r"[,\s]+", cells[0]):
                found[name] = (cells[1] if len(cells) > 3 else "", cells[-2], cells[-1])
    return found


# -- level ------------------------------------------------------------------------------------------------------
def reference_notes(player: str) -> list[Note]:
    """Notes all over what a player plays, soft to loud: what levels are compared on."""
    reach = reach_of(player)
    keys = np.linspace(reach[0], reach[-1], 8).round().astype(int)
    order, velocities = (0, 4, 2, 6, 1, 5, 3, 7), (64, 96, 80, 72, 104, 88, 60, 92)
    role = "bass" if player == "bass" else "lead"
    return [
        Note(0.1 + 0.5 * index, 0.45, int(keys[place]), velocity, role)
        for index, (place, velocity) in enumerate(zip(order, velocities))
    ]


REFERENCE_S = 4.6


def matched(instrument: Instrument, wanted_lufs: float) -> Instrument:
    """The instrument as loud as asked on `reference_notes`, in LUFS."""
    notes = [note for note in reference_notes(instrument.player) if note.midi in instrument.keys]
    plain = dataclasses.replace(instrument.mapped, gain=1.0)
    sound = Sampler(plain).play([Lane(tuple(notes))], REFERENCE_S, np.random.default_rng(0))
    gain = 10 ** ((wanted_lufs - loudness_of(sound)) / 20)
    return dataclasses.replace(instrument, mapped=dataclasses.replace(plain, gain=float(f"{gain:.4g}")))


def loudness_of(sound: np.ndarray) -> float:
    """Integrated loudness of `(2, samples)` in LUFS (ITU-R BS.1770)."""
    import pyloudnorm

    return float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(sound.T.astype(np.float64)))


__all__ = [
    "Instrument", "InstrumentsError", "RendererUnavailable", "cents_of", "load_instruments", "loudness_of", "matched",
    "onset_of", "player_of", "reach_of", "reference_notes",
]  # fmt: skip
