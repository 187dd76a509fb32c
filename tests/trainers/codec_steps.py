"""Twenty steps of the codec with its discriminators, on rows that are shared out over the processes.

python tests/trainers/codec_steps.py OUT float64        run by test_two_processes, alone and by torchrun
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from tiny_models import TINY_CODEC, plucked_clip

from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.codec import transforms
from rtjazz_hf.trainers.codec import CodecLoss, CodecTrainConfig
from rtjazz_hf.trainers.run import TrainingRun, parameter_groups, step_rng

FRAMES, ROWS = 26, 4


class Rows:
    """Four rows of tones a step, of which each process gets its part."""

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def numbered(self, number: int, rng: np.random.Generator) -> torch.Tensor:
        step, part = divmod(number, self.processes)
        rng = step_rng(1, step)
        time = np.arange(FRAMES * 640) / 48_000
        tones = rng.uniform(100, 2000, (ROWS, 2, 3, 1))
        audio = 0.1 * np.sin(2 * np.pi * tones * time).sum(2) + 0.01 * rng.standard_normal(
            (ROWS, 2, len(time))
        )
        return torch.from_numpy(audio[part :: self.processes]).to(torch.get_default_dtype())


def compute_in_float64() -> None:
    """Everything, also what the losses compute in float32 whatever the model's precision is."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    constant = transforms._constant

    def in_float64(*named) -> torch.Tensor:
        made = constant(*named)
        return made.double() if made.is_floating_point() else made

    transforms._constant = in_float64


def main(out: str, precision: str) -> None:
    if precision == "float64":
        compute_in_float64()
    # No latent noise and no excerpts: what is drawn by chance is drawn by each process for itself.
    config = CodecTrainConfig(
        output_dir=out, data="none", max_steps=20, warmup_steps=2, schedule="constant", learning_rate=1e-4,
        log_every=1, save_every=100, mixed_precision="no", ema_decay=0.9, crop_frames=FRAMES,
        discriminator_frames=FRAMES, adversarial_from=2, adversarial_warmup=4,
        discriminator={"num_filters": 4, "n_ffts": [512], "periods": [3]},
    )  # fmt: skip
    run = TrainingRun(config)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**TINY_CODEC))
    codec.fit_start([plucked_clip()])
    codec.train()
    run.make_ema(codec)
    optimizer = torch.optim.AdamW(parameter_groups(codec, config.weight_decay), lr=config.learning_rate)
    model, optimizer = run.prepare(codec, optimizer)
    codec_loss = CodecLoss(run, config)
    for audio in run.batches(Rows(run.accelerator.num_processes)):
        with run.accelerator.accumulate(model):
            start = torch.zeros(len(audio), dtype=torch.long)
            estimate = model(audio, levels=None, latent_noise=0.0, start_frame=start).audio
            run.backward(codec_loss(estimate, audio), model, optimizer)
        run.log(reconstruction=codec_loss.reconstruction)
    run.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
