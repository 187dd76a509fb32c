"""Give a codec of the first two versions tones that move: channels beside its latents, and a decoder that follows them.

    python conversion/add_deviations.py rtjazz-mini --takes data/corpus --real data/recorded -o runs/codec-3
    python conversion/add_deviations.py rtjazz-mini -o runs/codec-3-start    # its old codes, which tell of no movement

The channels that were there keep their meaning to the bit, so latents of a corpus stay right as far as they go, and a
flow that was trained on them goes on. With deviations of zero the new codec plays what the old one did: it is compared
before the folder appears. `--takes` and `--real` (prepare_corpus.py) give the music that the new channels are
normalised by, and from which the levels that predict learn what tones do; without it channels are normalised by 16
cents, and the codes say nothing of them. Fonts are tuned to A = 440 Hz and bands are not, so a share of the clips is
tuned elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzCodecConfig, hub
from rtjazz_hf.audio import HOP_LENGTH, SAMPLE_RATE, resample
from rtjazz_hf.codec.deviations import UNIT
from rtjazz_hf.codec.predictive_fit import fit_closed_loop, fit_prediction
from rtjazz_hf.corpus.crops import AudioCrops
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.real_music import load_real_music
from rtjazz_hf.runtime.configs import settings_of
from rtjazz_hf.runtime.files import atomic_folder
from rtjazz_hf.trainers.config import input_errors

REGISTERS = (60, 78)  # C4, F#5; a bass line whose tones move is heard less clearly
USUAL_CENTS = 16.0
DETUNED_CENTS = 60.0
ITERATIONS = 10
JUDGED_FRAMES = 20_000
LARGEST_DIFFERENCE = 1e-4  # of samples, between the old codec and the new one whose tones stand still


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codec", help="pipeline or codec: bundled name, folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the new codec")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder that is there")
    parser.add_argument(
        "--registers", type=int, nargs="+", default=list(REGISTERS), metavar="NOTE",
        help="lowest MIDI note of each register, which has 12 channels (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--takes", help="corpus that normalisation and codebooks are fitted to")
    parser.add_argument("--real", help="recorded music that they are fitted to beside it")
    parser.add_argument("--clips", type=int, default=200, help="of both (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip (default: %(default)s)")
    parser.add_argument(
        "--detuned", type=float, default=0.25, metavar="SHARE",
        help=f"of the clips that are tuned anew, up to {DETUNED_CENTS:g} cents each way (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--weight", type=float, default=1.0,
        help="of a cent in the codes: with more, tones are in tune and the rest is coarser (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--levels", type=int, help="levels of codes that there are (the old codec's)")
    return parser.parse_args(argv)


def add_deviations(old: RealTimeJazzCodec, registers: Sequence[int], levels: int | None = None) -> RealTimeJazzCodec:
    """A codec with the weights of `old`, and channels for deviations, which its codebooks hold at zero.

    Raises:
        ValueError: it has such channels already, is not of the free lapped backbone, or has fewer levels.
    """
    config = old.config
    if config.num_deviations:
        raise ValueError(f"the codec follows {config.num_deviations} channels of deviations already")
    settings = settings_of(config)
    total = levels or config.total_codebooks
    if not config.num_codebooks <= total <= config.total_codebooks:
        raise ValueError(
            f"--levels {total} is not in {config.num_codebooks}..{config.total_codebooks}, those of this codec"
        )
    new = 12 * len(registers)
    dims = [layer.embed.shape[1] for layer in old.quantizer.layers[:total]]
    settings |= {
        "deviation_registers": tuple(registers),
        "latent_dim": config.latent_dim + new,
        "codebook_dim": [dim + new if dim == config.latent_dim else dim for dim in dims],
        "max_codebooks": total,
    }
    if config.latents_std is not None:
        settings["latents_mean"] = (*config.latents_mean, *[0.0] * new)
        settings["latents_std"] = (*config.latents_std, *[USUAL_CENTS / UNIT] * new)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**settings))
    weights = old.state_dict()
    for name, tensor in codec.state_dict().items():
        source = weights[name]
        if tensor.shape == source.shape:
            tensor.copy_(source)
        else:  # of the quantiser: the channels that were there come first
            tensor.fill_(1.0 if name.endswith("channel_scale") else 0.0)
            tensor[tuple(slice(0, size) for size in source.shape)] = source
    return codec.eval()


def choose_clips(args: argparse.Namespace) -> list[torch.Tensor]:
    """The clips to fit to, (1, 2, samples) each; every so many of them is tuned anew."""
    takes = load_takes(args.takes, split="train") or load_takes(args.takes)
    real = None if args.real is None else load_real_music(args.real, split="train")
    clips = AudioCrops(takes, round(75 * args.seconds), real=real).clips(args.clips, args.seconds)
    rng = np.random.default_rng(0)
    for place in range(len(clips)):
        if int((place + 1) * args.detuned) > int(place * args.detuned):
            clips[place] = detune(clips[place], rng.uniform(-DETUNED_CENTS, DETUNED_CENTS))
    return clips


def detune(clip: torch.Tensor, cents: float) -> torch.Tensor:
    """(1, 2, samples) played so much faster that it sounds `cents` higher, cut to whole frames."""
    audio = torch.from_numpy(resample(clip[0].numpy(), round(SAMPLE_RATE * 2 ** (cents / 1200))))[None]
    return audio[..., : audio.shape[-1] // HOP_LENGTH * HOP_LENGTH]


@torch.no_grad()
def fit_codes(codec: RealTimeJazzCodec, latents: list[torch.Tensor], weight: float) -> list[float]:
    """Let the levels that predict learn what the new channels do, from the entries that they have: what they say of
    the others changes little, and further levels stay as they are.

    Args:
        latents: of the codec, (frames, latent_dim) each.
        weight: of a cent against the same step of another channel, before normalisation.

    Returns:
        The share of the variance left after each of these levels.
    """
    quantizer, config = codec.quantizer, codec.config
    moved, std = config.energy_dim, torch.tensor(config.latents_std)
    step = (quantizer.channel_scale[:moved] / std[:moved]).median()
    quantizer.channel_scale[moved:] = step * weight**0.5 * std[moved:]
    sequences = [(row - quantizer.offset) * quantizer.channel_scale for row in latents]
    quantizer.prediction[moved:] = fit_prediction([row[:, moved:] for row in sequences])
    left, _ = fit_closed_loop(
        list(quantizer.layers[: config.prediction_levels]), quantizer.prediction, quantizer.start, sequences,
        ITERATIONS, JUDGED_FRAMES, torch.Generator().manual_seed(0), anew=False,
    )  # fmt: skip
    variance = torch.cat(sequences).square().mean().item()
    return [error / variance for error in left]


@torch.no_grad()
def fit_deviations(codec: RealTimeJazzCodec, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """Set the scale of the new channels to what they have in `clips`; the others keep theirs.

    Returns:
        The latents of the clips, (frames, latent_dim) each.
    """
    config, moved = codec.config, codec.config.energy_dim
    latents = [codec.encode(clip, return_codes=False).latents[0].T.float() for clip in clips]
    scale = torch.cat(latents)[:, moved:].square().mean(0).sqrt().clamp(min=1e-3)
    std = torch.tensor(config.latents_std[moved:]) * scale
    config.latents_std = (*config.latents_std[:moved], *std.tolist())
    return [torch.cat([row[:, :moved], row[:, moved:] / scale], dim=1) for row in latents]


@torch.no_grad()
def check(old: RealTimeJazzCodec, new: RealTimeJazzCodec) -> float:
    """Largest difference of samples between both codecs while tones stand still, on three seconds of plucked tones.

    Raises:
        ValueError: it is too large, or a channel that was there has changed.
    """
    time = torch.arange(3 * old.config.sampling_rate) / old.config.sampling_rate
    tones = sum(torch.sin(6.2832 * hertz * time) for hertz in (55, 220, 277, 330, 988)) * torch.exp(-3 * (time % 0.5))
    audio = torch.stack([tones, 0.7 * tones])[None] / 10
    before = old.encode(audio, return_codes=False).latents
    after = new.encode(audio, return_codes=False).latents[:, : before.shape[1]]
    if not torch.equal(before, after):
        raise ValueError(
            f"the channels that were there have changed by {(before - after).abs().max():.1e}; please report this"
        )
    difference = (old.decode(latents=before).audio - new.decode(latents=after).audio).abs().max().item()
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(f"with tones that stand still the sound has changed by {difference:.1e}; please report this")
    return difference


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with input_errors():
        if args.output.exists() and not args.overwrite:
            raise ValueError(f"'{args.output}' is there; give another folder, or --overwrite")
        if not 0 <= args.detuned <= 1 or not args.weight > 0:
            raise ValueError(
                f"--detuned {args.detuned:g} --weight {args.weight:g}: a share of 0 to 1, and a number above 0"
            )
        if args.real is not None and args.takes is None:
            raise ValueError("--real stands beside takes; give --takes too")
        old = hub.load_codec(args.codec)
        if args.takes is not None and not old.config.prediction_levels:
            raise ValueError("the codes of this codec do not predict; it can be converted without --takes")
        if args.takes is not None:
            clips = choose_clips(args)
        new = add_deviations(old, args.registers, args.levels)
        difference = check(old, new)
        print(f"tones that stand still: channels equal to the bit, samples within {difference:.1e}")
        if args.takes is not None:
            latents = fit_deviations(new, clips)
            left = fit_codes(new, latents, args.weight)
            print(f"{len(clips)} clips; variance left after each level: {', '.join(f'{x:.3f}' for x in left)}")
        with atomic_folder(args.output) as folder:
            new.save_pretrained(folder)
        print(f"wrote {args.output}: {new.config.num_deviations} channels of deviations beside {new.config.energy_dim}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
