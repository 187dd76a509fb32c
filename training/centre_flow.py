"""Bring the mean of what a flow plays back to that of music, channel by channel.

    python training/centre_flow.py --model runs/flow/final --data data/latents --codec runs/codec/final -o runs/centred

Live, a flow hears itself, and what it plays settles a little beside what it learnt from: a mean of 0.1 to 0.3
deviations in a few channels, which is 1 to 3 dB of some bands. So the model plays takes of the training part as it will
play, with the steps and the guidance that it is used with (a teacher: those that it is distilled with), the mean of
every channel is compared with that of the takes, and the bias of the last layer, which is a constant velocity, is moved
against it, a little at a time: what it plays comes back to it as context. The round that came nearest is kept.

`--gain-db -1 --corpus data/corpus` moves the bias by what a dB is in the codec's latents instead, for a flow that plays
too loud by ear or by `rtjazz evaluate --only notes`. Heard again as context, 0.4 dB become about 0.9.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch

from rtjazz_hf.codec import RealTimeJazzCodec
from rtjazz_hf.corpus.dataset import TakeRecord, load_takes
from rtjazz_hf.corpus.latent_store import StoredTake, open_stores
from rtjazz_hf.flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
from rtjazz_hf.hub import load_codec, load_part, part_folder
from rtjazz_hf.live.engine import BlockStream
from rtjazz_hf.trainers.config import disk_errors, input_errors
from rtjazz_hf.trainers.flow import take_conditions

BLOCK = 36  # frames
PART = 0.3  # of the shift that is taken back in a round


@torch.no_grad()
def mean_shift(
    model: RealTimeJazzFlowTransformer,
    codec: RealTimeJazzCodec,
    takes: Sequence[StoredTake],
    frames: int,
    steps: int,
    guidance_scale: float,
    shift: float,
) -> torch.Tensor:
    """By how many deviations the mean of each channel, `(channels,)`, lies beside that of the takes."""
    generators = [torch.Generator().manual_seed(row) for row in range(len(takes))]
    stream = BlockStream(model, codec, FlowMatchScheduler(shift=shift), generators=generators, block_frames=BLOCK,
                         window_frames=model.config.window_frames, device=model.device)  # fmt: skip
    style = torch.cat([take.text[:1] for take in takes])
    total = torch.zeros(model.config.num_channels)
    for start in range(0, frames, BLOCK):
        told = [take_conditions(take, start, BLOCK, model.config.score_dim) for take in takes]
        latents = stream.denoise(stream.prepare_latents(), style, torch.from_numpy(np.stack(told)),
                                 num_inference_steps=steps, guidance_scale=guidance_scale)  # fmt: skip
        stream.append(latents)
        total += latents.float().sum((0, 2))
    true = sum(take.crop(0, frames)["latents"].sum(-1) for take in takes)
    return (total - true) / (len(takes) * frames)


@torch.no_grad()
def centre(model: RealTimeJazzFlowTransformer, measure: Callable[[], torch.Tensor], rounds: int) -> None:
    """Move the bias of the last layer against the shift that `measure` tells, and keep the nearest of the rounds."""
    bias = model.head.proj.bias.view(model.config.patch_size, -1)
    best, kept = float("inf"), bias.clone()
    for number in range(rounds + 1):
        shift = measure()
        size = float(shift.square().mean().sqrt())
        print(f"round {number}: mean shift {size:.3f} deviations, largest {shift.abs().max():.3f}", flush=True)
        if size < best:
            best, kept = size, bias.clone()
        bias -= PART * shift
    bias.copy_(kept)


@torch.no_grad()
def latents_of_gain(codec: RealTimeJazzCodec, takes: Sequence[TakeRecord], gain_db: float) -> torch.Tensor:
    """What a change of level is in the latents, `(channels,)`: the mean over a few seconds of each take."""
    moved = []
    for take in takes:
        audio = torch.from_numpy(take.audio(2.0, 8.0))[None]
        louder, plain = (
            codec.encode(audio * scale, return_codes=False).latents for scale in (10 ** (gain_db / 20), 1.0)
        )
        moved.append((louder - plain).mean((0, 2)))
    return torch.stack(moved).mean(0)


@disk_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a flow, or of a pipeline")
    parser.add_argument("--data", required=True, help="latent store; takes of its training part are played")
    parser.add_argument("--codec", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--shift", type=float, help="default: the model's own")
    parser.add_argument("--takes", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gain-db", type=float, default=0.0, help="change the level instead; needs --corpus")
    parser.add_argument("--corpus", help="takes that --gain-db is measured on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with input_errors():
        codec = load_codec(args.codec)
        model = load_part(part_folder(args.model, "transformer"), "transformer").eval()
        if model.config.prediction_type != "velocity":
            raise ValueError(
                f"{args.model} predicts codes; a constant velocity is added to velocity models alone."
            )
        train, _ = open_stores(args.data, codec, codes=False)
        frames = int(args.seconds * 75) // BLOCK * BLOCK
        takes = [take for take in train if take.num_frames >= frames][: args.takes]
        if args.gain_db and not args.corpus:
            raise ValueError("--gain-db is measured on takes: give --corpus, a folder that prepare_corpus.py made.")
        records = load_takes(args.corpus, "train")[: args.takes] if args.corpus else []
        if not takes:
            raise ValueError(f"no take in {args.data} lasts {args.seconds:g} s; give fewer --seconds.")
    own = model.config.sampling_defaults
    how = (
        own["num_inference_steps"] if args.steps is None else args.steps,
        own["guidance_scale"] if args.guidance is None else args.guidance,
        own["shift"] if args.shift is None else args.shift,
    )
    if args.gain_db:
        with torch.no_grad():
            bias = model.head.proj.bias.view(model.config.patch_size, -1)
            bias[:, : codec.config.latent_dim] += latents_of_gain(codec, records, args.gain_db)
    else:
        centre(model, lambda: mean_shift(model, codec, takes, frames, *how), args.rounds)
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
