"""Make a codec of EnCodec's weights (Defossez et al., 2022), as a warm start for training.

    hf download facebook/encodec_24khz --local-dir encodec_24khz
    python conversion/convert_encodec.py encodec_24khz -o runs/encodec-48k --json runs/encodec-48k.json
    accelerate launch training/train_codec.py --config mini --data data/corpus --init-from runs/encodec-48k ...

The source is a folder of transformers' `EncodecModel`; the result is 48 kHz stereo with 75 frames a second and
loads with `RealTimeJazzCodec.from_pretrained`. A table says of every group of tensors whether it is carried over
as it is, adapted (how), or starts fresh, and how far it is from what it should do: every layer of both models is
run (the source with zeros before the start, as a stream has them; EnCodec by default reflects). Above a
difference of 1e-5, relative to the largest value, nothing is written. What is done, and why:

- **24 kHz mono, 75 frames** (`encodec_24khz`). At 48 kHz a kernel covers half the time and answers an octave too
  high, and everything behind it was learnt on its answers. So the kernels at the audio rate are dilated by 2 and
  their tensors stay as they are; the stride next to the audio goes from 2 to 4, which makes every rate behind it
  what it was (12 kHz, 3 kHz, 600 Hz, 75 Hz). On audio whose samples come in equal pairs, the codec is EnCodec on
  every other sample, to rounding: checked, whole. Alternatives do worse: undilated kernels hear another octave;
  a longer stride elsewhere moves every rate before or behind it; a pair of resamplers does no more below 12 kHz,
  adds latency, and leaves training nothing to win above 12 kHz. Until trained, the output is held for two
  samples: what is at 4 kHz has an image at 20 kHz, 11 dB lower.
- **Mono to stereo.** The first kernels hear the mean of left and right, the last speak on both alike. Left and
  right have weights of their own, which learn apart as soon as the two sides differ.
- **48 kHz stereo, 150 frames** (`encodec_48khz`). The stride next to the *latents* goes from 8 to 16, so that all
  rates before it stay: the encoder gives the mean of each two frames, the decoder uses each frame twice, and
  kernels at the frame rate pool their taps in pairs. The LSTM is carried over and runs at half its rate.
  `time_group_norm` takes its statistics from a whole segment, which a stream does not have: they are measured
  over calibration audio (`--calibration`; else synthetic chords and noise) and folded into the kernels, and so
  is the level that `normalize` measures. EnCodec looks ahead here: the first and last kernel, at the audio rate,
  stay and answer 3 samples later; elsewhere a delay would set the branches of residual blocks apart, or add up to
  many milliseconds, so taps that saw the future join the newest one (what is to come is taken to stay as it is).
  All of this is proven layer by layer; the whole is no longer EnCodec, and sounds right only after training.
- **Codebooks.** Levels and their first entries are EnCodec's (`--num-codebooks` of them), so codes that EnCodec
  made decode to the same latents: checked. More entries (`--codebook-size`, up to four times as many) lie beside
  them, a fifth of the way to their nearest neighbours, those of the most used entries first. Levels beyond
  EnCodec's, or that it never trained, start fresh. Note that `train_codec.py` fits all levels anew when it
  freezes the encoder.
- **Latents.** `--latent-dim` keeps EnCodec's 128 by default; fewer are its principal components, as its codebooks
  show them. The latents' mean and deviation, which normalise them, follow from the codebooks too.

The licence of the weights stays that of their source.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import EncodecModel

from encodec_codebooks import (
    MAX_GROWTH,
    decoded_by_both,
    principal_basis,
    trained_codebooks,
    write_codebooks,
)
from encodec_layers import Adaptation, Plan, compose, edited, without_future, write_normed
from encodec_source import calibration_segments, fix_statistics, load_encodec, needs_calibration
from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.audio import check_output_path
from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.codec.seanet import SEANetLSTM
from rtjazz_hf.codec.streaming import CausalConv1d, CausalConvTranspose1d
from rtjazz_hf.evaluation.writing import write_text
from rtjazz_hf.runtime.files import atomic_folder

TOLERANCE = 1e-5  # relative to the largest value
FRAME_RATE = 75
CONVOLUTIONS = (CausalConv1d, CausalConvTranspose1d)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of an EncodecModel: config.json, model.safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--overwrite", action="store_true", help="replace the codec that is there")
    parser.add_argument("--json", type=Path, help="write the table to this .json file too")
    parser.add_argument("--num-codebooks", type=int, default=4, help="levels (4)")
    parser.add_argument("--codebook-size", type=int, default=2048, help="entries of a level (2048)")
    parser.add_argument("--latent-dim", type=int, help="channels of the latents (the source's: 128)")
    parser.add_argument(
        "--drop-lstm",
        action="store_true",
        help="leave the LSTM out: several times faster, and it is residual",
    )
    parser.add_argument(
        "--calibration", type=Path, nargs="+", default=[], metavar="AUDIO",
        help="music that a source with time_group_norm takes its statistics from (synthetic chords and noise)",
    )  # fmt: skip
    return parser.parse_args(argv)


@dataclass
class Row:
    """One line of the table. `status`: carried, adapted, fresh or dropped; `tensors`: how many of the codec's.

    `difference`: the largest between the codec and what the source demands of it, relative to the largest value;
    None where there is nothing to compare.
    """

    group: str
    status: str
    how: str
    tensors: int
    parameters: int
    difference: float | None


# --- layers ---------------------------------------------------------------------------------------------------
def relative_difference(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    if ours.shape != wanted.shape:
        raise ValueError(f"the codec gives {tuple(ours.shape)} where {tuple(wanted.shape)} is wanted")
    return ((ours - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)).item()


def random_signal(channels: int, samples: int) -> torch.Tensor:
    return torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def convert_convolution(
    source: nn.Module, target: nn.Module, adaptations: list[Adaptation]
) -> tuple[bool, float]:
    """Write the tensors; whether they are as they were, and the difference of what both layers then do."""
    carried = all(adaptation.edit is None for adaptation in adaptations)
    if carried:
        target.conv.load_state_dict(source.conv.state_dict())
    else:
        write_normed(target.conv, *edited(source.conv, adaptations))
    theirs = without_future(source) if any(a.holds_future for a in adaptations) else source
    samples = 24 if target.stride == 1 else 8 * target.stride
    x = random_signal(target.conv.in_channels, samples)
    ours, _ = target(compose(a.own_in for a in adaptations)(x))
    wanted = theirs(compose(a.source_in for a in adaptations)(x))
    return carried, relative_difference(ours, compose(a.out for a in adaptations)(wanted))


@torch.no_grad()
def convert_lstm(source: nn.Module, target: SEANetLSTM) -> float:
    target.lstm.load_state_dict(source.lstm.state_dict())
    x = random_signal(target.lstm.hidden_size, 24)
    return relative_difference(target(x)[0], source(x))


def convert_layer(plan: Plan, layers: nn.ModuleList, index: int, target: nn.Module, group: str) -> Row | None:
    """Layer `index` of the source's encoder or decoder into ours; None where there is nothing to carry."""
    source = layers[index]
    sizes = (len(target.state_dict()), sum(p.numel() for p in target.parameters()))
    if isinstance(target, SEANetLSTM):
        half = ", at half its rate" if plan.halved else ""
        return Row(group, "carried", f"LSTM{half}", *sizes, convert_lstm(source, target))
    if hasattr(source, "lstm"):
        return Row(group, "dropped", "LSTM left out: --drop-lstm", 0, 0, None)
    names = [name for name, module in target.named_modules() if isinstance(module, CONVOLUTIONS)]
    if not names:
        return None
    kinds = {CausalConv1d: "convolution", CausalConvTranspose1d: "transposed convolution"}
    notes, all_carried, differences = [], True, []
    for name in names:
        part = source.get_submodule(name)
        adaptations = plan.adaptations(layers, index, part)
        carried, difference = convert_convolution(part, target.get_submodule(name), adaptations)
        all_carried &= carried
        differences.append(difference)
        notes += [a.note for a in adaptations if a.note not in notes]
    how = "; ".join([kinds.get(type(target), "residual block"), *notes])
    return Row(group, "carried" if all_carried else "adapted", how, *sizes, worst(differences))


def worst(differences: Sequence[float]) -> float:
    """The largest; not a number where one is none, which `max` may pass over."""
    return torch.tensor(differences, dtype=torch.float64).max().item()


@torch.no_grad()
def whole_rows(plan: Plan, source: EncodecModel, codec: RealTimeJazzCodec) -> list[Row]:
    """The whole encoder and the whole decoder against the source's, where they are to do the same."""
    rows = []
    for side, channels, samples in (
        ("encoder", codec.config.audio_channels, 12 * source.config.hop_length),
        ("decoder", codec.config.latent_dim, 12),
    ):
        ours, theirs = getattr(codec, side), getattr(source, side)
        first = plan.adaptations(theirs.layers, 0, theirs.layers[0])
        final = plan.adaptations(theirs.layers, len(theirs.layers) - 1, theirs.layers[-1])
        x = random_signal(channels, samples)
        y, _ = ours(compose(a.own_in for a in first)(x))
        wanted = compose(a.out for a in final)(theirs(compose(a.source_in for a in first)(x)))
        how = "on samples in equal pairs" if plan.stretched else "on any audio"
        rows.append(Row(f"{side}, whole", "checked", how, 0, 0, relative_difference(y, wanted)))
    return rows


# --- codebooks ------------------------------------------------------------------------------------------------
def codebook_rows(
    codec: RealTimeJazzCodec, source: EncodecModel, trained: int, basis: torch.Tensor | None
) -> list[Row]:
    old, new, levels = source.config.codebook_size, codec.config.codebook_size, codec.config.num_codebooks
    used, entry = min(trained, levels), codec.quantizer.layers[0].embed.shape[1]
    rows = []
    if used:
        notes = [] if basis is None else [f"{basis.shape[1]} dimensions projected on {entry}"]
        notes += [f"{old} entries, {new - old} split beside them"] if new > old else []
        how = "; ".join([f"{used} of {trained} levels", *notes, "old codes decode alike"])
        generator = torch.Generator().manual_seed(0)
        difference = relative_difference(*decoded_by_both(codec, source, used, basis, generator))
        status = "adapted" if notes else "carried"
        rows.append(
            Row(f"quantizer.layers.0-{used - 1}", status, how, 3 * used, used * new * entry, difference)
        )
        rows.append(
            Row("latents' mean, deviation", "adapted", "computed from the codebooks", 2, 2 * entry, None)
        )
    if used < levels:
        why = "the source's is untrained" if trained < len(source.quantizer.layers) else "the source has none"
        fresh = levels - used
        rows.append(
            Row(f"quantizer.layers.{used}-{levels - 1}", "fresh", why, 3 * fresh, fresh * new * entry, None)
        )
    return rows


# --- all of it ------------------------------------------------------------------------------------------------
def codec_config(args: argparse.Namespace, source: EncodecModel) -> RealTimeJazzCodecConfig:
    """Sizes of the codec; raises ValueError for options that do not fit the source."""
    given = source.config
    strides, most = list(given.upsampling_ratios), MAX_GROWTH * given.codebook_size
    if given.sampling_rate == 24_000:
        strides[-1] *= 2
    if given.sampling_rate == 2 * FRAME_RATE * given.hop_length:
        strides[0] *= 2
    if not given.codebook_size <= args.codebook_size <= most:
        raise ValueError(f"--codebook-size {args.codebook_size} must be from {given.codebook_size} to {most}")
    latent_dim = given.hidden_size if args.latent_dim is None else args.latent_dim
    if not 1 <= latent_dim <= given.hidden_size:
        raise ValueError(f"--latent-dim {latent_dim} must be from 1 to {given.hidden_size}, the source's")
    if args.calibration and not needs_calibration(given):
        raise ValueError("--calibration is for a source with time_group_norm or normalize; this one has none")
    return RealTimeJazzCodecConfig(
        backbone="seanet",
        hop_length=48_000 // FRAME_RATE,
        latent_dim=latent_dim,
        codebook_size=args.codebook_size,
        num_codebooks=args.num_codebooks,
        seanet_filters=given.num_filters,
        seanet_strides=tuple(strides),
        seanet_lstm=not args.drop_lstm,
        seanet_audio_dilation=48_000 // given.sampling_rate,
    )


def convert_model(args: argparse.Namespace) -> tuple[RealTimeJazzCodec, EncodecModel, list[Row]]:
    source = load_encodec(args.source)
    config = codec_config(args, source)
    torch.manual_seed(0)  # levels that start fresh
    codec = RealTimeJazzCodec(config).eval()
    entries, shares = trained_codebooks(source)
    basis, kept = None, 1.0
    if config.latent_dim < source.config.hidden_size:
        if not entries:
            raise ValueError("--latent-dim needs the source's codebooks, and they are untrained")
        basis, kept = principal_basis(entries, shares, config.latent_dim)
        print(f"{config.latent_dim} components keep {kept:.4f} of the latents' power")
    rms = 1.0
    if needs_calibration(source.config):
        rms = fix_statistics(source, calibration_segments(args.calibration, source.config))
    plan = Plan(
        mono=source.config.audio_channels == 1,
        stretched=source.config.sampling_rate == 24_000,
        halved=source.config.sampling_rate == 2 * FRAME_RATE * source.config.hop_length,
        looks_ahead=not source.config.use_causal_conv,
        fixed_norms=source.config.norm_type == "time_group_norm",
        rms=rms,
        basis=basis,
    )
    rows: list[Row] = []
    for side in ("encoder", "decoder"):
        theirs, ours = getattr(source, side).layers, getattr(codec, side).layers
        for index, target in enumerate(ours):
            row = convert_layer(plan, theirs, index, target, f"{side}.layers.{index}")
            rows += [] if row is None else [row]
            if row is not None and row.status == "dropped":
                theirs[index] = nn.Identity()
    if plan.whole_is_exact:
        rows += whole_rows(plan, source, codec)
    write_codebooks(codec, entries, shares, basis)
    rows += codebook_rows(codec, source, len(entries), basis)
    return codec, source, rows


def format_table(rows: list[Row]) -> str:
    lines = [f"{'group':<24} {'status':<8} {'tensors':>7} {'parameters':>11} {'difference':>10}  how"]
    for row in rows:
        difference = "-" if row.difference is None else f"{row.difference:.1e}"
        lines.append(f"{row.group:<24} {row.status:<8} {row.tensors:>7} {row.parameters:>11,} {difference:>10}"
                     f"  {row.how}")  # fmt: skip
    return "\n".join(lines)


def check_parity(rows: list[Row]) -> float:
    """The largest difference; raises ValueError where one is above the tolerance, or not a number."""
    failed = [row for row in rows if row.difference is not None and not row.difference <= TOLERANCE]
    if failed:
        said = ", ".join(f"{row.group} ({row.difference:.2g})" for row in failed[:3])
        raise ValueError(f"{said} differ by more than {TOLERANCE:g} from the source; nothing was written")
    return max(row.difference for row in rows if row.difference is not None)


def check_output(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OSError(f"{folder} is a file; give the folder to write")
    if not overwrite:
        raise OSError(f"{folder} exists; give --overwrite to replace it")
    model_type = None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # none, or none that can be read
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    if any(folder.iterdir()) and model_type != RealTimeJazzCodecConfig.model_type:
        raise OSError(f"{folder} holds something other than a codec and is left alone; give another folder")


def save_codec(codec: RealTimeJazzCodec, folder: Path, name: str, table: str) -> None:
    """Write the codec and a card; raises ValueError where it does not load as it is."""
    codec.save_pretrained(folder)
    (folder / "README.md").write_text(
        f"# A codec from EnCodec\n\nMade of `{name}` by RealTimeJazz's `conversion/convert_encodec.py`: a warm "
        "start for `training/train_codec.py`, not\ntrained at this rate yet. The licence of the weights is that "
        f"of their source.\n\n```\n{table}\n```\n",
        encoding="utf-8",
    )
    loaded, info = RealTimeJazzCodec.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    there, here = loaded.state_dict(), codec.state_dict()
    if any(info.values()) or any(not torch.equal(here[name], there[name]) for name in here):
        raise ValueError(f"the saved codec does not load as it is ({info}); nothing was written")


def write_json(
    path: Path, source: EncodecModel, name: str, codec: RealTimeJazzCodec, rows: list[Row]
) -> None:
    kept = ("sampling_rate", "audio_channels", "hidden_size", "num_filters", "upsampling_ratios", "norm_type",
            "use_causal_conv", "normalize", "codebook_size")  # fmt: skip
    report = {
        "source": {"name": name, **{key: getattr(source.config, key) for key in kept}},
        "codec": codec.config.to_diff_dict(),
        "tolerance": TOLERANCE,
        "rows": [asdict(row) for row in rows],
    }
    write_text(path, json.dumps(report, indent=2) + "\n")


def convert(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    if args.json:
        check_output_path(args.json, (".json",), args.overwrite)
    codec, source, rows = convert_model(args)
    table, name = format_table(rows), args.source.resolve().name
    print(table)
    difference = check_parity(rows)
    with atomic_folder(args.output) as partial:
        save_codec(codec, partial, name, table)
    if args.json:
        write_json(args.json, source, name, codec, rows)
    print(
        f"{args.output}: {codec.num_parameters() / 1e6:.2f} M parameters, largest difference {difference:.1e}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(lambda: convert(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
