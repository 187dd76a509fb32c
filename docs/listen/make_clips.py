"""Make the clips of the listening page anew, from the commands and seeds that it shows.

    python docs/listen/make_clips.py                       # docs/listen/clips/*.ogg and list.js
    python docs/listen/make_clips.py --check               # makes them anew, writes nothing, says which differ
    python docs/listen/make_clips.py --only trio ballad
    python docs/listen/make_clips.py --adapter players/ana/style --adapter players/ben/style   # two slots more each

Clips are Ogg Opus of about 120 kbit/s by soundfile, which keeps their length and place to the sample. `--check`
compares decoded sound, since no two Ogg files have the same bytes: exit status 1 if a clip differs by more than 1e-3 of
full scale, with by how much. A render and what comes of it want FluidSynth and a sound font (Debian: `apt-get install
libfluidsynth3 musescore-general-soundfont-lossless`).

A model on the Hub has them beside it, where the `widget:` entries of its card look for them: `hf upload ID
docs/listen/clips clips`.

The slots of personal styles are empty without `--adapter`: for each folder of `rtjazz adapt` there is one clip before,
the model alone on the style's band, and one after, with the words that call the style.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from rtjazz_hf import LeadSheet, RealTimeJazzPipeline, hub
from rtjazz_hf.adapters.files import read_adapter
from rtjazz_hf.audio import SAMPLE_RATE, read_audio
from rtjazz_hf.corpus.renderer import RendererUnavailable
from rtjazz_hf.evaluation.takes import render_score
from rtjazz_hf.evaluation.tunes import TUNES
from rtjazz_hf.hub.adapter_folder import adapter_root
from rtjazz_hf.runtime.files import whole_or_not_at_all

HERE = Path(__file__).parent
LIST = "list.js"
LARGEST_DIFFERENCE = 1e-3  # of full scale
FADE_S = 0.4
PEAKS = 240  # of a waveform
STYLE_CHART = "Fmaj7 | Dm7 | Gm7 | C7 | Am7 | D7 | Gm7 C7 | F6"


@dataclass(frozen=True)
class Clip:
    """A clip of the page.

    Attributes:
        how: "generated", "render" (sampled instruments play the notes that `of` was told), "copy" (that render through
            the codec's codes) or "live". bars: its length.
        options: of the pipeline's call, named as `rtjazz generate` names them. tune: title of a melody that is brought.
        of: the clip whose notes are played. group: clips of one group are at the same place when one is changed for
            another. changes: of a live session, by second.
    """

    name: str
    title: str
    words: str
    how: str = "generated"
    prompt: str = ""
    bars: int = 8
    seed: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    tune: str = ""
    of: str = ""
    group: str = ""
    changes: tuple[tuple[float, dict[str, Any]], ...] = ()
    adapter: str = ""

    @property
    def command(self) -> str:
        """What makes it, at a shell."""
        if self.how != "generated" or self.tune:  # more than one command, or a file that it brings
            return f"python docs/listen/make_clips.py --only {self.name}"
        adapter = f" --adapter {self.adapter}" if self.adapter else ""
        return (
            f"rtjazz generate {shlex.quote(self.prompt)} {flags(self.options)}{adapter} --bars {self.bars} "
            f"--seed {self.seed} -o {self.name}.wav"
        )


def flags(options: dict[str, Any]) -> str:
    """Options as the command line has them."""

    def text(value: Any) -> str:
        return ",".join(value) if isinstance(value, (list, tuple)) else str(value)

    return " ".join(f"--{name}={shlex.quote(text(value))}" for name, value in options.items())


TUNE_OF = {tune.title: tune for tune in TUNES}
SAINTS = TUNE_OF["When the Saints Go Marching In"]
TWO_FIVE = "Dm7 | G7 | Cmaj7 | Am7"
BLUES = "F7 | Bb7 | F7 | % | Bb7 | Bdim7 | F7 | D7 | Gm7 | C7 | F7 D7 | Gm7 C7"
SONG = {"chords": STYLE_CHART, "tempo": 144, "instruments": ["tenor_sax", "piano", "bass", "drums"]}

CLIPS = (
    Clip("trio", "Piano trio, medium", "Four chords, 132 beats a minute.", prompt="medium swing piano trio",
         options={"chords": TWO_FIVE, "tempo": 132}),
    Clip("trio-fast", "The same trio, fast", "The same chords and seed at 208.", prompt="medium swing piano trio",
         bars=12, options={"chords": TWO_FIVE, "tempo": 208}),
    Clip("ballad", "Ballad", "Tenor saxophone and brushes.", prompt="slow ballad with tenor sax", bars=4, seed=3,
         options={"chords": "Ebmaj7 Cm7 | Fm7 Bb7 | Gm7 C7 | Fm7 Bb7", "tempo": 66}),
    Clip("bossa", "Bossa nova", "Nylon guitar, straight quavers.", prompt="bossa nova, nylon guitar", seed=2,
         options={"chords": "Am7 | D7 | Gmaj7 | Cmaj7 | F#m7b5 | B7 | Em7 | %", "tempo": 126}),
    Clip("blues", "Blues", "Twelve bars in F with trumpet.", prompt="hard bop blues quartet with trumpet", bars=12,
         seed=4, options={"chords": BLUES, "tempo": 176}),
    Clip("tune", "A tune that somebody brings", f"“{SAINTS.title}”: the melody comes as a MIDI file, the rest is the "
         "band's.", prompt=SAINTS.words, bars=12, tune=SAINTS.title,
         options={"chords": SAINTS.chart, "tempo": SAINTS.tempo, "key": SAINTS.key, "instruments": list(SAINTS.band)}),
    Clip("song", "One chart, four ways: generated", "A quartet, as the model plays it.",
         prompt="swing quartet with tenor sax", seed=5, options=SONG, group="song"),
    Clip("song-render", "One chart, four ways: sampled", "The same notes by a sampler and a sound font: what the "
         "model learnt from.", how="render", of="song", group="song"),
    Clip("song-copy", "One chart, four ways: codec copy", "That sampled sound through the codec's codes, 3.3 kbit/s: "
         "the best that a model of these codes could sound.", how="copy", of="song", group="song"),
    Clip("song-minus-piano", "One chart, four ways: minus piano", "The model again, and the piano is yours to play.",
         prompt="swing quartet with tenor sax", seed=5,
         options={**SONG, "instruments": ["tenor_sax", "bass", "drums"]}, group="song"),
    Clip("live", "Changed while it plays", "A trio; after seven seconds a bossa nova; after fourteen another chart, "
         "faster.", how="live", prompt="medium swing piano trio", options={"chords": TWO_FIVE, "tempo": 132},
         changes=((7.0, {"prompt": "bossa nova, nylon guitar"}),
                  (14.0, {"chords": "Fm7 | Bb7 | Ebmaj7 | %", "tempo": 150})), bars=20),
)  # fmt: skip
LIVE_SECONDS = 20.0


def style_clips(folders: Sequence[str]) -> tuple[Clip, ...]:
    """Two clips a personal style: before and after."""
    clips: list[Clip] = []
    for number, folder in enumerate(folders, 1):
        style = read_adapter(adapter_root(folder))
        name = style.style_name or f"style {number}"
        band = list(style.band) or ["piano", "bass", "drums"]
        wishes = {"chords": STYLE_CHART, "tempo": 132, "instruments": band}
        group = f"style-{number}"
        clips += [
            Clip(f"{group}-before", f"{name}: before", "The model alone, on the band of the style.",
                 prompt="medium swing", seed=6, options=wishes, group=group),
            Clip(f"{group}-after", f"{name}: after", "With the style that was learnt.", seed=6, options=wishes,
                 prompt=f"medium swing in the style of {name}", group=group, adapter=folder),
        ]  # fmt: skip
    return tuple(clips)


# -- sound ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Played:
    """A clip as it sounds: audio (2, samples), what bars and chords it had and when, and the notes it was told."""

    audio: np.ndarray
    bars: list[dict[str, Any]]
    tempo: float
    sheet: LeadSheet | None = None
    score: Any = None


def bars_of(sheet: LeadSheet, start: float, stop: float, origin: float = 0.0) -> list[dict[str, Any]]:
    """Bars that begin in `[start, stop)` seconds of a sheet: when, and the chords written in them."""
    bars, number = [], 0
    while (at := sheet.time_of(sheet.bar_start(number))) < stop - 1e-6:
        until = sheet.time_of(sheet.bar_start(number + 1))
        if at >= start - 1e-6:
            chords = [str(chord) for _, _, chord in sheet.chord_segments(at, until - at)]
            bars.append({"start": round(at - origin, 4), "chords": chords})
        number += 1
    return bars


def play(pipe: RealTimeJazzPipeline, clip: Clip) -> Played:
    """Generate, as `rtjazz generate --bars` does."""
    wishes = dict(clip.options)
    extra: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if clip.adapter:
            pipe.load_lora_weights(clip.adapter, "style")
            pipe.set_adapters("style")
        if clip.tune:
            tune = TUNE_OF[clip.tune]
            extra["melody"] = tune.write(Path(folder))
        sheet = pipe.prepare_lead_sheet(clip.prompt, **wishes, seeds=[clip.seed])[0]
        seconds = sheet.bar_start(clip.bars) * 60.0 / sheet.tempo
        sheet = pipe.prepare_lead_sheet(clip.prompt, **wishes, duration=seconds, seeds=[clip.seed])[0]
        try:
            out = pipe(
                clip.prompt, duration=seconds, lead_sheet=sheet, generator=torch.Generator().manual_seed(clip.seed),
                **extra,
            )  # fmt: skip
        finally:
            if clip.adapter:
                pipe.unload_lora_weights()
    sheet = out.lead_sheets[0]
    return Played(out.audios[0], bars_of(sheet, 0.0, seconds), sheet.tempo, sheet, (out.scores or [None])[0])


def play_live(pipe: RealTimeJazzPipeline, clip: Clip) -> Played:
    """A session whose wishes change at the first block that starts after each time."""
    changes = list(clip.changes)
    blocks = []
    with pipe.live(clip.prompt, seed=clip.seed, **clip.options) as session:
        for block in session:
            blocks.append(block)
            if block.start + block.duration >= LIVE_SECONDS:
                break
            if changes and block.start + block.duration >= changes[0][0]:
                session.update(**changes.pop(0)[1])
    bars: list[dict[str, Any]] = []
    for before, block in zip([blocks[0], *blocks], blocks):
        begun = bars_of(block.lead_sheet, block.start, block.start + block.duration)
        if block.lead_sheet.spans != before.lead_sheet.spans and not (
            begun and begun[0]["start"] <= block.start
        ):
            bars.append({"start": round(block.start, 4), "chords": [str(block.chord)]})  # within a bar
        bars += begun
    audio = np.concatenate([block.audio for block in blocks], axis=1)[:, : round(LIVE_SECONDS * SAMPLE_RATE)]
    return Played(audio, bars, blocks[0].tempo)


@torch.inference_mode()
def copied(pipe: RealTimeJazzPipeline, audio: np.ndarray) -> np.ndarray:
    """Through the codec's codes and back."""
    codes = pipe.codec.encode(torch.from_numpy(audio)[None]).codes
    return pipe.codec.decode(codes=codes).audio[0, :, : audio.shape[1]].numpy()


class Maker:
    """Makes clips; one that others are made of is made once."""

    def __init__(self, pipe: RealTimeJazzPipeline, clips: Sequence[Clip]):
        self.pipe, self.clips, self.made = pipe, {clip.name: clip for clip in clips}, {}

    def __call__(self, name: str) -> Played:
        if name not in self.made:
            self.made[name] = self._make(self.clips[name])
        return self.made[name]

    def _make(self, clip: Clip) -> Played:
        if clip.how == "live":
            return play_live(self.pipe, clip)
        if clip.how == "generated":
            return play(self.pipe, clip)
        first = self(clip.of)
        seconds = first.audio.shape[1] / SAMPLE_RATE
        audio = render_score(first.score, first.sheet, seconds, clip.seed)[:, : first.audio.shape[1]]
        audio = np.pad(audio, ((0, 0), (0, first.audio.shape[1] - audio.shape[1])))
        if clip.how == "copy":
            audio = copied(self.pipe, audio)
        return Played(audio, first.bars, first.tempo)


def finished(audio: np.ndarray) -> np.ndarray:
    """(2, samples) with its end faded, within full scale."""
    fade = min(round(FADE_S * SAMPLE_RATE), audio.shape[1])
    audio = np.array(audio, dtype=np.float32)
    audio[:, -fade:] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
    return audio / max(1.0, float(np.abs(audio).max()) / 0.98)


# -- files ---------------------------------------------------------------------------------------------------------
def opus(audio: np.ndarray) -> bytes:
    """(2, samples) as an Ogg Opus file."""
    file = io.BytesIO()
    soundfile.write(file, audio.T, SAMPLE_RATE, format="OGG", subtype="OPUS")
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """An Ogg Opus file's sound as float32 (2, samples)."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert rate == SAMPLE_RATE
    return samples.T


def peaks(audio: np.ndarray) -> list[float]:
    """The waveform of a clip, in `PEAKS` pieces."""
    pieces = np.array_split(np.abs(audio).max(axis=0), PEAKS)
    return [round(float(piece.max(initial=0.0)), 2) for piece in pieces]


def described(clip: Clip, played: Played, audio: np.ndarray) -> dict[str, Any]:
    """What the page knows of a clip."""
    return {
        "name": clip.name, "title": clip.title, "words": clip.words, "group": clip.group, "command": clip.command,
        "seconds": round(audio.shape[1] / SAMPLE_RATE, 4), "tempo": round(played.tempo), "bars": played.bars,
        "peaks": peaks(audio),
    }  # fmt: skip


def difference(old: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Largest difference of two sounds, and the power of their difference under the first's, in dB; infinite where
    their lengths differ."""
    if old.shape != new.shape:
        return math.inf, math.inf
    error = float(np.square(new - old).mean())
    return float(np.abs(new - old).max()), 10 * math.log10(
        (error + 1e-20) / (float(np.square(old).mean()) + 1e-20)
    )


def read_list(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of `list.js` by name; none where there is no list."""
    path = folder / LIST
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    return {each["name"]: each for each in json.loads(text[text.index("[") : text.rindex("]") + 1])}


def write_list(folder: Path, entries: Sequence[dict[str, Any]]) -> None:
    # A script rather than JSON: a page that is opened from a disk may not fetch.
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    with whole_or_not_at_all(folder / LIST) as partial:
        partial.write_text(f"window.CLIPS = [\n{lines}\n];\n", encoding="utf-8")


def run(args: argparse.Namespace, report: Callable[[str], None] = print) -> int:
    clips = (*CLIPS, *style_clips(args.adapter))
    names = [clip.name for clip in clips]
    if unknown := sorted(set(args.only) - set(names)):
        raise ValueError(f"no clip {', '.join(unknown)}; choose from {', '.join(names)}")
    chosen = [clip for clip in clips if not args.only or clip.name in args.only]
    pipe = RealTimeJazzPipeline.from_pretrained(args.model, engine="torch").to("cpu")
    pipe.set_progress_bar_config(disable=True)
    make, entries, differ = Maker(pipe, clips), read_list(args.output), []
    args.output.mkdir(parents=True, exist_ok=True)
    for clip in chosen:
        played = make(clip.name)
        audio, path = finished(played.audio), args.output / f"{clip.name}.ogg"
        data = opus(audio)
        told = f"{clip.name:18} {len(data) / 1000:5.0f} kB  {audio.shape[1] / SAMPLE_RATE:5.2f} s  "
        if args.check:
            old = read_audio(path) if path.is_file() else np.zeros((2, 0), np.float32)
            largest, decibels = difference(old, decoded(data))
            same = largest <= LARGEST_DIFFERENCE
            differ += [] if same else [clip.name]
            told += "same" if same else f"DIFFERS: by {largest:.4f} at most, {decibels:.1f} dB under it"
        else:
            with whole_or_not_at_all(path) as partial:
                partial.write_bytes(data)
            entries[clip.name] = described(clip, played, audio)
        report(f"{told}  {clip.command}")
    if args.check:
        told = f"{len(chosen) - len(differ)} of {len(chosen)} clips are the same"
        report(f"{told}, not {', '.join(differ)}" if differ else told)
        return 1 if differ else 0
    if args.only:  # clips that were not asked for stay, those of styles that are not given too
        names += [name for name in entries if name not in names]
    write_list(args.output, [entries[name] for name in names if name in entries])
    total = sum(path.stat().st_size for path in args.output.glob("*.ogg"))
    report(f"{len(entries)} clips, {total / 1e6:.2f} MB in {args.output}")
    return 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rtjazz-mini", help="pipeline: bundled name, folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "clips", help="folder of the clips")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these clips alone")
    parser.add_argument("--check", action="store_true", help="write nothing; say which clips differ")
    parser.add_argument("--adapter", action="append", default=[], help="a personal style, before and after")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    hub.quiet_libraries()
    try:
        return run(parse_args(argv))
    except (OSError, ValueError, RendererUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
