"""Bring the mean of what a flow plays back to that of music, channel by channel.

    python training/centre_flow.py --model runs/flow/final --data data/latents --codec runs/codec/final -o runs/centred

Live, a flow hears itself, and what it plays settles a little beside what it learnt from: a mean of 0.1 to 0.3
deviations in a few channels, which is 1 to 3 dB of some bands. So the model plays takes of the training part as it will
play, with the steps and the guidance that it is used with (a teacher: those that it is distilled with), the mean of
every channel is compared with that of the takes, and the bias of the last layer, which is a constant velocity, is moved
against it, a little at a time: what it plays comes back to it as context. The round that came nearest is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch

from rtjazz_hf.codec import RealTimeJazzCodec
from rtjazz_hf.corpus.latent_store import StoredTake, open_stores
from rtjazz_hf.flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
from rtjazz_hf.hub import load_codec, load_part, part_folder
from rtjazz_hf.live.engine import BlockStream
from rtjazz_hf.trainers.config import input_errors
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
        if not takes:
            raise ValueError(f"no take in {args.data} lasts {args.seconds:g} s; give fewer --seconds.")
    own = model.config.sampling_defaults
    how = (
        own["num_inference_steps"] if args.steps is None else args.steps,
        own["guidance_scale"] if args.guidance is None else args.guidance,
        own["shift"] if args.shift is None else args.shift,
    )
    centre(model, lambda: mean_shift(model, codec, takes, frames, *how), args.rounds)
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
