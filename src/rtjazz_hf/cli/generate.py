"""`rtjazz generate`: a clip into a file."""

from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapters import add_adapters, check_adapters, load_adapters
from .charts import practise, tell
from .common import (
    MAX_SEED,
    Refused,
    add_command,
    add_engine,
    add_music,
    check_engine_options,
    check_sampling,
    leave_short_music_to_torch,
    load_pipeline,
)
from .notes import add_notes, check_notes, read_melody, telling_remarks

if TYPE_CHECKING:
    import numpy as np

    from ..band import Score
    from ..music import LeadSheet


_GENERATE_HELP = """\
Play a clip and write it as wav, flac or ogg.

example:
  rtjazz generate "Bill Evans modal jazz" -o evans.wav
  rtjazz generate "medium swing quartet" --chords "Dm7 | G7 | Cmaj7 | %" --tempo 132 --duration 20 \\
      --instruments=-piano --seed 7 --plot quartet.png -o quartet.flac
  rtjazz generate "medium swing in the style of me" --adapter my-style/ -o mine.flac
  rtjazz generate "bossa nova" --bars 8 --loop -o loop.wav
  rtjazz generate "ballad with tenor sax" --chords "Cmaj7 | Am7 | Dm7 | G7" --melody tune.mid --midi take.mid \
      --stems stems/ -o take.flac
"""

_DEFAULT_DURATION = 10.0  # seconds


def add_generate(commands: Any) -> None:
    seed_help = "whole number; drawn and printed when not given"
    parser = add_command(commands, "generate", _GENERATE_HELP, run_generate, seed_help)
    parser.add_argument("prompt", help="the music in words")
    parser.add_argument("-o", "--output", type=Path, required=True, help="out.wav, out.flac or out.ogg")
    parser.add_argument("--duration", type=float, help=f"seconds (default: {_DEFAULT_DURATION:g})")
    parser.add_argument("--bars", type=int, help="instead of --duration: so many bars, to the sample")
    parser.add_argument("--loop", action="store_true", help="with --bars: the end runs into the beginning")
    parser.add_argument("--count-in", type=int, default=0, metavar="BARS", help="clicks before bar 1, 0 to 8")
    parser.add_argument("--like", type=Path, metavar="FILE", help="a recording that it shall sound like too")
    add_music(parser)
    add_notes(parser)
    add_adapters(parser, "they are mixed")
    parser.add_argument("--midi", type=Path, metavar="FILE.mid", help="write the notes that were told too")
    parser.add_argument(
        "--stems", type=Path, metavar="DIR", help="write every player alone too, as 32-bit wav, in time with the output"
    )
    parser.add_argument(
        "--levels", metavar="bass=-3", help="dB by player, -60 to +12: players are played alone and mixed anew"
    )
    parser.add_argument("--steps", type=int, help="steps a block (default: the model's)")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 for none (default: the model's)")
    parser.add_argument(
        "--loudness",
        type=float,
        metavar="LUFS",
        help="-40 to -8, peaks under -1 dBTP (default: as it is played)",
    )
    parser.add_argument("--codes", type=Path, metavar="FILE.rtj", help="write the codec's codes too")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="write a spectrogram under its chart too"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_engine(parser)


def run_generate(args: argparse.Namespace) -> int:
    practise(args)
    _check_generate(args)
    tell(args.prompt, args.chords)
    seed = secrets.randbelow(MAX_SEED + 1) if args.seed is None else args.seed
    leave_short_music_to_torch(args, args.duration or _DEFAULT_DURATION)
    pipe = load_pipeline(args, quickly=True)
    check_notes(args, pipe, ("melody", "midi", "stems", "levels"))
    adapters = load_adapters(pipe, args)

    import torch

    started = time.perf_counter()
    wishes = {name: getattr(args, name) for name in ("chords", "tempo", "key", "mood", "instruments")}
    options = {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "generator": torch.Generator().manual_seed(seed),
        **({} if args.melody is None else {"melody": args.melody}),
        **({} if args.parts is None else {"parts": args.parts}),
    }
    if args.like is not None:
        args.prompt, words = ((args.prompt, 1.0), (args.like, 1.0)), args.prompt
    else:
        words = args.prompt
    with telling_remarks():
        output = _play(pipe, args, wishes, options, seed)
    seconds = time.perf_counter() - started
    audio, lead_sheet = output.audios[0], output.lead_sheets[0]
    score = None if output.scores is None else output.scores[0]
    stems = _stems(pipe, args, lead_sheet, score, audio, seed) if args.stems or args.levels else {}
    if args.levels:
        audio = _at_levels(stems, args.levels)
    if args.count_in:
        from ..live.playback import count_in

        audio = count_in(audio, lead_sheet, args.count_in)

    from ..audio import plot_spectrogram, write_audio

    if args.loudness is not None:
        from ..live.loudness import set_loudness

        audio = set_loudness(audio, args.loudness, pipe.sampling_rate)
    write_audio(args.output, audio, overwrite=args.overwrite)
    if args.codes:
        from ..codec import write_codes

        codes = pipe.codec.latents_to_codes(output.latents.to(pipe.codec.dtype))[0]
        notes = {"prompt": words, "seed": str(seed)}
        write_codes(args.codes, codes, pipe.codec, audio.shape[-1], str(args.model), notes, args.overwrite)
    if args.midi:
        score.to_midi(args.midi, lead_sheet, args.overwrite)
    stem_files = _write_stems(args, stems) if args.stems else []
    if args.plot:
        plot_spectrogram(audio, args.plot, lead_sheet=lead_sheet, title=words, overwrite=args.overwrite)

    duration = audio.shape[-1] / pipe.sampling_rate
    result = {
        "output": str(args.output),
        "model": str(args.model),
        "prompt": words,
        "like": str(args.like) if args.like else None,
        "seed": seed,
        "duration": duration,
        "bars": args.bars,
        "count_in": args.count_in,
        "loop": args.loop,
        "sampling_rate": pipe.sampling_rate,
        "engine": pipe.engine,
        "loudness": args.loudness,
        "seconds": round(seconds, 3),
        "real_time_factor": round(seconds / duration, 4),
        "tempo": lead_sheet.tempo,
        "key": lead_sheet.key,
        "genre": lead_sheet.genre,
        "mood": lead_sheet.mood,
        "instruments": list(lead_sheet.instruments),
        "adapters": adapters,
        "chart": lead_sheet.to_text(),
        "parts": args.parts or pipe.default_parts,
        "melody": str(args.melody_file) if args.melody_file else None,
        "midi": str(args.midi) if args.midi else None,
        "stems": stem_files,
        "levels": args.levels,
        "codes": str(args.codes) if args.codes else None,
        "plot": str(args.plot) if args.plot else None,
    }
    print(
        f"{args.output}: {duration:.2f} s, real-time factor {seconds / duration:.2f}, seed {seed}, "
        f"{lead_sheet.tempo:g} BPM in {lead_sheet.key}, {', '.join(lead_sheet.instruments)}, "
        f"chart {_shorten(lead_sheet.to_text())}",
        file=sys.stderr,
    )
    if args.json:
        print(json.dumps(result))
    return 0


def _play(pipe: Any, args: argparse.Namespace, wishes: dict[str, Any], options: dict[str, Any], seed: int) -> Any:
    if args.bars is None:
        return pipe(args.prompt, duration=args.duration or _DEFAULT_DURATION, **wishes, **options)
    from ..live.loops import loop_samples, play_loop

    sheet = pipe.prepare_lead_sheet(args.prompt, **wishes, seeds=[seed])[0]
    if args.loop:
        return play_loop(pipe, args.prompt, sheet, args.bars, **options)
    seconds = loop_samples(sheet, args.bars) / pipe.sampling_rate
    sheet = pipe.prepare_lead_sheet(args.prompt, **wishes, duration=seconds, seeds=[seed])[0]
    return pipe(args.prompt, duration=seconds, lead_sheet=sheet, **options)


def _stems(
    pipe: Any, args: argparse.Namespace, sheet: LeadSheet, score: Score, mix: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Every player alone."""
    import torch

    from ..live.stems import play_stems

    return play_stems(
        pipe, args.prompt, sheet, score, mix, lambda: torch.Generator().manual_seed(seed),
        num_inference_steps=args.steps, guidance_scale=args.guidance,
    )  # fmt: skip


def _at_levels(stems: dict[str, np.ndarray], levels: dict[str, float]) -> np.ndarray:
    from ..live.stems import at_levels

    for name in sorted(set(levels) - set(stems)):
        print(f"rtjazz: --levels {name}: plays no note here", file=sys.stderr)
    audio, turned_down = at_levels(stems, levels)
    if turned_down:
        print(f"rtjazz: --levels: all is {turned_down:.1f} dB softer, so that it does not clip", file=sys.stderr)
    return audio


def _write_stems(args: argparse.Namespace, stems: dict[str, np.ndarray]) -> list[str]:
    """A file a player in the folder; their paths."""
    from ..audio import write_audio

    args.stems.mkdir(exist_ok=True)
    paths = []
    for player, audio in stems.items():
        path = write_audio(args.stems / f"{player}.wav", audio, overwrite=args.overwrite, subtype="FLOAT")
        paths.append(str(path))
    return paths


def _check_generate(args: argparse.Namespace) -> None:
    """Everything that can be refused is refused here, before torch is imported and a model is read."""
    from ..audio import AUDIO_SUFFIXES, PICTURE_SUFFIXES, _import_extra, check_output_path

    try:
        if not args.prompt.strip():
            raise ValueError("the prompt is empty; describe the music, such as 'medium swing piano trio'")
        _check_numbers(args)
        if args.loudness is not None:
            from ..live.loudness import check_loudness

            check_loudness(args.loudness)
            _import_extra("pyloudnorm")
        outputs = [
            (args.output, AUDIO_SUFFIXES),
            (args.codes, (".rtj",)),
            (args.plot, PICTURE_SUFFIXES),
            (args.midi, (".mid", ".midi")),
        ]
        for path, suffixes in outputs:
            if path is not None:
                check_output_path(path, suffixes, args.overwrite)
        _check_stems(args)
        check_adapters(args)
        check_engine_options(args)
        if args.like is not None:
            from ..prompts import mix_of

            mix_of(args.like)
        read_melody(args)
        sheet = _trial_lead_sheet(args)
        if gone := sorted(set(args.levels or ()) - set(sheet.instruments)):
            raise ValueError(f"--levels {', '.join(gone)}: the band is {', '.join(sheet.instruments)}")
        if args.plot:
            _import_extra("matplotlib")  # better missed now than after the music is made
    except (ValueError, OSError, ImportError) as error:
        raise Refused(str(error)) from error


def _check_stems(args: argparse.Namespace) -> None:
    if args.parts == "free" and args.melody is None and (args.midi or args.stems or args.levels):
        raise ValueError("--midi, --stems and --levels want notes, and --parts free tells none: leave one of them out")
    if args.levels is not None:
        from ..live.stems import levels_of

        if args.loop or args.codes is not None:
            raise ValueError("--levels mixes players anew, which --loop and --codes do not have: leave one of them out")
        args.levels = levels_of(args.levels)
    if args.stems is None:
        return
    if args.loop:
        raise ValueError("--loop and --stems: the crossing at a loop's end is made in the mix; leave one of them out")
    if args.stems.exists() and not args.stems.is_dir():
        raise ValueError(f"--stems {args.stems} is a file: give a folder")
    if args.stems.is_dir() and any(args.stems.iterdir()) and not args.overwrite:
        raise ValueError(f"--stems {args.stems} is not empty: give another folder, or --overwrite")
    if not args.stems.parent.is_dir():
        raise ValueError(f"the folder '{args.stems.parent}' of --stems does not exist; make it first")


def _check_numbers(args: argparse.Namespace) -> None:
    if args.duration is not None and not (math.isfinite(args.duration) and 0 < args.duration <= 600):
        raise Refused(f"--duration {args.duration:g}: choose more than 0 and at most 600 seconds")
    if args.bars is not None and args.duration is not None:
        raise Refused(f"--bars {args.bars} and --duration {args.duration:g}: give one of them")
    if args.loop and args.bars is None:
        raise Refused("--loop needs --bars: how many bars the loop has")
    if not 0 <= args.count_in <= 8:
        raise Refused(f"--count-in {args.count_in}: choose 0 to 8 bars")
    if args.count_in and (args.loop or args.codes is not None or args.plot is not None):
        raise Refused("--count-in: clicks have no place in --loop, --codes and --plot")
    if args.loop and args.codes is not None:
        raise Refused("--loop and --codes: the crossing at a loop's end is made in sound and has no codes")
    check_sampling(args)


def _trial_lead_sheet(args: argparse.Namespace) -> LeadSheet:
    from ..band.band_leader import write_lead_sheet

    sheet = write_lead_sheet(
        args.prompt,
        chords=args.chords,
        tempo=args.tempo,
        key=args.key,
        mood=args.mood,
        instruments=args.instruments,
        duration=args.duration,
    )
    if args.bars is not None:
        from ..live.loops import loop_sheet

        loop_sheet(sheet, args.bars)
    return sheet


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4].rstrip(' |')} ..."
