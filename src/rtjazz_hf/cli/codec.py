"""`rtjazz codec encode | decode | compare`: the codec by itself."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import COMMANDS, Refused, add_command, choose_device, quiet_libraries

if TYPE_CHECKING:
    from ..codec import CodeFile, RealTimeJazzCodec

CODE_SUFFIX = ".rtj"  # that of rtjazz_hf.codec.code_file, which imports torch: too long for --help
MAX_LEVELS = 32
MAX_COMPARED = 600.0  # seconds: both clips and their spectra are in memory
_LONG = 60.0  # seconds of sound that deserve a progress bar

_CODEC_HELP = """\
The codec by itself: a recording to a small file of codes and back, and what that costs.

example:
  rtjazz codec encode take.wav -o take.rtj
  rtjazz codec decode take.rtj -o received.wav
  rtjazz codec compare take.wav -o take.png
"""
_ENCODE_HELP = """\
Encode a recording (wav, flac, ogg, mp3; any rate, mono or stereo, any length) to a file of codes.

example:
  rtjazz codec encode take.wav -o take.rtj
  rtjazz codec encode take.mp3 --levels 2 -o take.rtj --json
"""
_DECODE_HELP = """\
Play a file of codes into a wav, flac or ogg: 48 kHz stereo, exactly as long as what was encoded.

example:
  rtjazz codec decode take.rtj -o received.wav
"""
_COMPARE_HELP = """\
Measure what a recording keeps on its way through the codec, un-quantised and through its codes, and draw the
spectra of the original, of what came back through the codes, and of the difference.

example:
  rtjazz codec compare take.wav -o take.png
  rtjazz codec compare take.wav --levels 2 --seconds 30 -o report/ --json
"""
_SEED_HELP = "whole number; nothing is drawn here: the result is the same with any"


def add_codec(commands: Any) -> None:
    codec = commands.add_parser(
        "codec",
        help=COMMANDS["codec"],
        description=_CODEC_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = codec.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="codec_command")

    parser = _add(parts, "encode", "a recording to a file of codes", _ENCODE_HELP, run_encode)
    parser.add_argument("input", type=Path, help="wav, flac, ogg or mp3")
    parser.add_argument("-o", "--output", type=Path, required=True, help=f"out{CODE_SUFFIX}")
    _add_levels(parser)

    parser = _add(parts, "decode", "a file of codes to sound", _DECODE_HELP, run_decode)
    parser.add_argument("input", type=Path, help=f"file of codes ({CODE_SUFFIX})")
    parser.add_argument("-o", "--output", type=Path, required=True, help="out.wav, out.flac or out.ogg")
    parser.add_argument(
        "--any-codebooks",
        action="store_true",
        help="decode even if the codes belong to other codebooks of the same sizes; it may sound like noise",
    )

    parser = _add(
        parts, "compare", "what a round trip keeps, in numbers and a picture", _COMPARE_HELP, run_compare
    )
    parser.add_argument("input", type=Path, help="wav, flac, ogg or mp3")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="picture (out.png, .jpg, .pdf, .svg), or folder for picture, measures and reconstruction "
        "(default: NAME.codec.png here)",
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="judge the first so many seconds (default: %(default)g)"
    )
    _add_levels(parser)


def _add(parts: Any, name: str, summary: str, description: str, run: Any) -> argparse.ArgumentParser:
    parser = add_command(parts, name, description, run, _SEED_HELP, dtype=False, summary=summary)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _add_levels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--levels", type=int, help="levels of codes, 1 to the codec's (default: all)")


# ----------------------------------------------------------------------------------------------------------
# rtjazz codec encode, decode
# ----------------------------------------------------------------------------------------------------------
def run_encode(args: argparse.Namespace) -> int:
    from ..audio import check_output_path

    with _refusing():
        output = check_output_path(args.output, (CODE_SUFFIX,), args.overwrite)
        duration = _look_at(args)
    codec = _load_codec(args)
    _check_levels(args, codec)

    from ..codec import encode_file, read_codes

    started = time.perf_counter()
    with _progress("encoding", duration) as on_progress:
        encode_file(
            codec,
            args.input,
            output,
            args.levels,
            model=str(args.model),
            overwrite=args.overwrite,
            on_progress=on_progress,
        )
    seconds = time.perf_counter() - started
    file = read_codes(output)
    size = output.stat().st_size
    return _tell(
        args,
        {**_facts(args, output, file, seconds), "bytes": size},
        f"{output}: {file.duration:.2f} s, {file.num_codebooks} levels, {file.bitrate / 1000:.2f} kbit/s, "
        f"{size} bytes, real-time factor {seconds / file.duration:.3f}",
    )


def run_decode(args: argparse.Namespace) -> int:
    from ..audio import AUDIO_SUFFIXES, check_output_path

    with _refusing():
        output = check_output_path(args.output, AUDIO_SUFFIXES, args.overwrite)
        from ..codec import read_codes

        file = read_codes(args.input)
    codec = _load_codec(args)

    from ..codec.audio_file import check_decoding, decode_file

    with _refusing():
        check_decoding(codec, file, output, args.any_codebooks)
    started = time.perf_counter()
    with _progress("decoding", file.duration) as on_progress:
        decode_file(codec, file, output, args.overwrite, args.any_codebooks, on_progress)
    seconds = time.perf_counter() - started
    return _tell(
        args,
        _facts(args, output, file, seconds),
        f"{output}: {file.duration:.2f} s from {file.num_codebooks} levels at {file.bitrate / 1000:.2f} kbit/s, "
        f"real-time factor {seconds / file.duration:.3f}",
    )


def _facts(args: argparse.Namespace, output: Path, file: CodeFile, seconds: float) -> dict[str, Any]:
    """What `--json` says of an encoding or decoding that took so many seconds."""
    return {
        "input": str(args.input),
        "output": str(output),
        "model": str(args.model),
        "levels": file.num_codebooks,
        "frames": file.frames,
        "samples": file.samples,
        "sampling_rate": file.sampling_rate,
        "duration": file.duration,
        "bitrate": file.bitrate,
        "seconds": round(seconds, 3),
        "real_time_factor": round(seconds / file.duration, 4),
    }


# ----------------------------------------------------------------------------------------------------------
# rtjazz codec compare
# ----------------------------------------------------------------------------------------------------------
def run_compare(args: argparse.Namespace) -> int:
    with _refusing():
        outputs = _compare_outputs(args)
        if not (math.isfinite(args.seconds) and 0 < args.seconds <= MAX_COMPARED):
            raise ValueError(
                f"--seconds {args.seconds:g}: choose more than 0 and at most {MAX_COMPARED:g} seconds"
            )
        duration = _look_at(args)
    if duration > args.seconds:
        _to_people(
            f"note: only the first {args.seconds:g} of {duration:.0f} seconds are judged; --seconds says how many"
        )
    codec = _load_codec(args)
    _check_levels(args, codec)

    import torch

    from ..audio import read_audio, write_audio
    from ..evaluation.measures.codec import measure_round_trip
    from ..evaluation.pictures import plot_round_trip
    from ..evaluation.writing import to_plain, write_text

    original = read_audio(args.input, duration=args.seconds, sampling_rate=codec.config.sampling_rate)
    encoded = codec.encode(torch.from_numpy(original)[None], num_codebooks=args.levels)
    levels = encoded.codes.shape[1]
    decoded = {
        name: codec.decode(**given).audio[0, :, : original.shape[1]].cpu().numpy()
        for name, given in (("latents", {"latents": encoded.latents}), ("codes", {"codes": encoded.codes}))
    }
    measures = {name: measure_round_trip(original, audio) for name, audio in decoded.items()}
    result = to_plain(
        {
            "input": str(args.input),
            "output": str(args.output),
            "model": str(args.model),
            "levels": levels,
            "bitrate": codec.bitrate(levels),
            "seconds": original.shape[1] / codec.config.sampling_rate,
            "measures": measures,
        }
    )
    rate = f"{levels} levels, {codec.bitrate(levels) / 1000:.2f} kbit/s"
    if "folder" in outputs:
        outputs["folder"].mkdir(exist_ok=True)
    title = f"{args.input.name} through {args.model}: {rate}"
    plot_round_trip(original, decoded["codes"], outputs["picture"], title, args.overwrite)
    if "folder" in outputs:
        write_audio(outputs["reconstruction"], decoded["codes"], args.overwrite)
        write_text(outputs["measures"], json.dumps(result, indent=1) + "\n")
    _to_people(f"{args.input}: {result['seconds']:.2f} s, {rate}; wrote {args.output}")
    return _tell(args, result, _table(measures, rate))


def _compare_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """The files to write, each of which can be written."""
    from ..audio import AUDIO_SUFFIXES, PICTURE_SUFFIXES, check_output_path

    try:
        import matplotlib  # noqa: F401  (better missed now than after the work)
        import pyloudnorm  # noqa: F401
    except ImportError as error:
        raise ValueError(f"compare needs {error.name}; run: pip install 'rtjazz-hf[eval]'") from error
    if args.output is None:
        args.output = Path(f"{args.input.stem}.codec.png")
    output = args.output.expanduser()
    if not output.is_dir() and output.suffix:
        return {"picture": check_output_path(output, PICTURE_SUFFIXES, args.overwrite)}
    outputs = {
        "folder": output,
        "picture": output / "compare.png",
        "measures": output / "measures.json",
        "reconstruction": output / "reconstructed.wav",
    }
    if output.is_dir():
        for name in ("picture", "measures", "reconstruction"):
            check_output_path(outputs[name], (*PICTURE_SUFFIXES, ".json", *AUDIO_SUFFIXES), args.overwrite)
    elif output.exists() or not output.parent.is_dir():
        raise ValueError(
            f"the output '{output}' can be no folder here: its parent is missing, or a file is there"
        )
    return outputs


def _table(measures: dict[str, dict[str, float]], rate: str) -> str:
    """Measures in rows, the octave bands of one kind in one row."""
    from ..evaluation.measures.codec import BAND_NAMES, MEASURES

    lines = [f"{'':36}{'un-quantised':>14}{rate:>24}"]
    for name, (title, _, unit, _) in MEASURES.items():
        latents, codes = (measures[way][name] for way in ("latents", "codes"))
        lines.append(f"{title + (unit and f', {unit}'):36}{latents:14.3f}{codes:24.3f}")
    lines.append(f"{'octave band, Hz':36}" + "".join(f"{name:>8}" for name in BAND_NAMES))
    for kind, title in (("band_error", "energy error"), ("band_snr", "SNR")):
        for way, words in (("latents", "un-quantised"), ("codes", "codes")):
            values = "".join(f"{measures[way][f'{kind}_{name}']:8.1f}" for name in BAND_NAMES)
            lines.append(f"{f'{title}, {words}, dB':36}" + values)
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------
# shared
# ----------------------------------------------------------------------------------------------------------
@contextmanager
def _refusing() -> Iterator[None]:
    """What is found wrong in here was found before any work."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from error


def _look_at(args: argparse.Namespace) -> float:
    """Seconds of the recording; refuses what its header shows, and tells what will be changed."""
    from ..audio import SAMPLE_RATE, audio_info

    if args.levels is not None and not 1 <= args.levels <= MAX_LEVELS:
        raise ValueError(f"--levels {args.levels}: choose 1 to {MAX_LEVELS}, at most what the codec has")
    info = audio_info(args.input)
    changes = ["mono: both channels will be the same"] if info.channels == 1 else []
    if info.sampling_rate != SAMPLE_RATE:
        changes.append(f"{info.sampling_rate} Hz: resampled to {SAMPLE_RATE} Hz")
    if changes:
        _to_people(f"note: {args.input} is {'; '.join(changes)}")
    return info.duration


def _load_codec(args: argparse.Namespace) -> RealTimeJazzCodec:
    from ..hub import load_codec

    device = choose_device(args.device)
    quiet_libraries()
    return load_codec(args.model).to(device)


def _check_levels(args: argparse.Namespace, codec: RealTimeJazzCodec) -> None:
    if args.levels is not None and args.levels > codec.config.total_codebooks:
        raise Refused(f"--levels {args.levels}: the codec of {args.model} has {codec.config.total_codebooks}")


@contextmanager
def _progress(what: str, duration: float) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(
        desc=what,
        total=round(duration, 1),
        unit="s",
        leave=False,
        disable=duration < _LONG or not sys.stderr.isatty(),
    ) as bar:
        yield bar.update


def _to_people(text: str) -> None:
    print(text, file=sys.stderr)


def _tell(args: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    _to_people(text)
    if args.json:
        print(json.dumps(result))
    return 0
