"""Give a codec of the first two versions tones that move: channels beside its latents, and a decoder that follows them.

    python conversion/add_deviations.py rtjazz-mini --takes data/corpus -o runs/codec-3
    python conversion/add_deviations.py rtjazz-mini -o runs/codec-3-start    # its old codes, which tell of no movement

The channels that were there keep their meaning to the bit, so latents of a corpus stay right as far as they go, and a
flow that was trained on them goes on. With deviations of zero the new codec plays what the old one did: it is compared
before the folder appears. `--takes` (prepare_corpus.py) gives the music that the new channels are normalised by and
all codebooks are fitted to anew; without it channels are normalised by 16 cents, and the old codebooks say nothing of
them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rtjazz_hf.training_utils import atomic_folder, input_errors

from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzCodecConfig, hub
from rtjazz_hf.codec.deviations import UNIT
from rtjazz_hf.corpus.crops import AudioCrops
from rtjazz_hf.corpus.dataset import load_takes

REGISTERS = (60, 78)  # C4, F#5; a bass line whose tones move is heard less clearly
USUAL_CENTS = 16.0
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
    parser.add_argument("--clips", type=int, default=200, help="of the corpus (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip (default: %(default)s)")
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
    settings = {key: value for key, value in config.to_diff_dict().items() if key in vars(RealTimeJazzCodecConfig())}
    for name in ("dtype", "architectures", "transformers_version", "model_type"):
        settings.pop(name, None)
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


@torch.no_grad()
def fit_deviations(codec: RealTimeJazzCodec, clips: list[torch.Tensor]) -> None:
    """Set the scale of the new channels to what they have in `clips`; the others keep theirs."""
    config, moved = codec.config, codec.config.energy_dim
    latents = torch.cat(
        [codec.encode(clip, return_codes=False).latents[:, moved:].transpose(1, 2).flatten(0, 1) for clip in clips]
    )
    scale = latents.square().mean(0).sqrt().clamp(min=1e-3)
    std = torch.tensor(config.latents_std[moved:]) * scale.cpu()
    config.latents_std = (*config.latents_std[:moved], *std.tolist())


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
        old = hub.load_codec(args.codec)
        if args.takes is not None:
            takes = load_takes(args.takes, split="train") or load_takes(args.takes)
            clips = AudioCrops(takes, round(75 * args.seconds)).clips(args.clips, args.seconds)
        new = add_deviations(old, args.registers, args.levels)
        difference = check(old, new)
        print(f"tones that stand still: channels equal to the bit, samples within {difference:.1e}")
        if args.takes is not None:
            fit_deviations(new, clips)
            left = new.fit_codes(clips, generator=torch.Generator().manual_seed(0))
            print(f"{len(clips)} clips; variance left after each level: {', '.join(f'{x:.3f}' for x in left)}")
        with atomic_folder(args.output) as folder:
            new.save_pretrained(folder)
        print(f"wrote {args.output}: {new.config.num_deviations} channels of deviations beside {new.config.energy_dim}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
