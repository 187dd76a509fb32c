"""Train the codec (stage 1) on a corpus made by prepare_corpus.py.

    accelerate launch training/train_codec.py --config mini --data data/corpus --output-dir runs/codec

The run has two parts. Until `freeze_encoder_at`, encoder and decoder learn together on un-quantised, slightly
noisy latents. Then the encoder is frozen, its latents are normalised, the quantiser is fitted to them, and the
decoder goes on alone on quantised and un-quantised latents: what a flow model learned on these latents stays good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from rtjazz_hf.audio import HOP_LENGTH, SAMPLE_RATE
from rtjazz_hf.codec import (
    RealTimeJazzCodec,
    RealTimeJazzCodecConfig,
    pitch_contrast_loss,
    spectral_loss,
    waveform_loss,
)
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.training_utils import (
    TrainConfig,
    TrainingRun,
    build_config,
    input_errors,
    latest_checkpoint,
    model_card,
    parameter_groups,
    parse_config,
)

CONFIGS = Path(__file__).parent / "configs"


@dataclass
class CodecTrainConfig(TrainConfig):
    data: str = ""
    model: dict = field(default_factory=dict)
    batch_size: int = 6
    crop_frames: int = 90  # at least 13 frames: the longest window of the loss
    latent_noise: float = 0.05  # standard deviation, relative to each channel's own
    pitch_weight: float = 2.0
    waveform_weight: float = 0.0
    freeze_encoder_at: int = 1000
    fit_clips: int = 100  # clips of 10 s for the transform start and the quantiser

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError(
                "data is missing: give --data, a folder of takes (see training/prepare_corpus.py)."
            )


class Crops:
    """Random crops of the mixes of a corpus."""

    def __init__(self, takes: list, frames: int):
        self.paths = [take.path for take in takes]
        self.lengths = [sf.info(path).frames for path in self.paths]
        self.samples = frames * HOP_LENGTH
        long_enough = [i for i, length in enumerate(self.lengths) if length >= self.samples]
        if not long_enough:
            raise ValueError(f"no take is as long as crop_frames={frames} ({self.samples} samples).")
        self.indices = np.array(long_enough)

    def read(self, index: int, start: int, samples: int) -> torch.Tensor:
        audio, _ = sf.read(self.paths[index], start=start, frames=samples, dtype="float32", always_2d=True)
        return torch.from_numpy(np.ascontiguousarray(audio.T))

    def draw(self, rng: np.random.Generator, count: int) -> torch.Tensor:
        """(count, 2, samples), each with its own gain, and sides swapped half of the time."""
        crops = []
        for index in rng.choice(self.indices, count):
            start = int(rng.integers(self.lengths[index] - self.samples + 1))
            crop = self.read(index, start, self.samples) * 10 ** (rng.uniform(-6, 2) / 20)
            crops.append(crop.flip(0) if rng.random() < 0.5 else crop)
        return torch.stack(crops)

    def clips(self, count: int, seconds: float = 10.0) -> list[torch.Tensor]:
        """The middle of `count` takes spread over the corpus: list of (1, 2, samples)."""
        chosen = np.unique(np.linspace(0, len(self.paths) - 1, count).astype(int))
        samples = int(seconds * SAMPLE_RATE) // HOP_LENGTH * HOP_LENGTH
        starts = [max(0, (self.lengths[i] - samples) // 2) for i in chosen]
        return [self.read(i, start, samples)[None] for i, start in zip(chosen, starts)]


class LatentStatistics:
    """Keeps the latents' statistics, which live in the config, in the checkpoints."""

    def __init__(self, *models: RealTimeJazzCodec):
        self.models = models

    def state_dict(self) -> dict:
        config = self.models[0].config
        return {"mean": config.latents_mean, "std": config.latents_std}

    def load_state_dict(self, state: dict) -> None:
        for model in self.models:
            model.config.latents_mean, model.config.latents_std = state["mean"], state["std"]


def freeze_encoder(run: TrainingRun, codec: RealTimeJazzCodec, crops: Crops, fit_clips: int) -> None:
    """Fix the latents: averaged weights, statistics, quantiser; both copies of the model get them."""
    if run.ema is not None:
        codec.load_state_dict(run.ema.module.state_dict())
    clips = [clip.to(run.device) for clip in crops.clips(4 * fit_clips)]
    codec.fit_statistics(clips)
    left = codec.fit_codes(clips, generator=torch.Generator().manual_seed(0))
    run.print(f"encoder frozen; variance left after each level: {[round(x, 3) for x in left]}")
    if run.ema is not None:
        run.ema.module.load_state_dict(codec.state_dict())
        run.ema.module.config.latents_mean = codec.config.latents_mean
        run.ema.module.config.latents_std = codec.config.latents_std


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_config(CodecTrainConfig, "codec", CONFIGS, description=__doc__, argv=argv)
    with input_errors():
        takes, held_out = load_takes(config.data, split="train"), load_takes(config.data, split="test")
        crops, test_crops = Crops(takes, config.crop_frames), Crops(held_out or takes, config.crop_frames)
        run = TrainingRun(config)
        if config.init_from:
            codec = RealTimeJazzCodec.from_pretrained(config.init_from, dtype=torch.float32)
        else:
            codec = RealTimeJazzCodec(build_config(RealTimeJazzCodecConfig, config.model))
    if not config.init_from and not (config.resume and latest_checkpoint(config.output_dir)):
        kept = codec.fit_start(crops.clips(config.fit_clips))
        run.print(f"transform start keeps {kept:.3f} of the variance of the features")
    codec.to(run.device).train()
    ema = run.make_ema(codec)
    run.accelerator.register_for_checkpointing(LatentStatistics(codec, *([ema.module] if ema else [])))
    optimizer = torch.optim.AdamW(
        parameter_groups(codec, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )
    model, optimizer = run.prepare(codec, optimizer)
    run.resume()

    def make_batch(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        start_frame = rng.integers(codec.config.noise_frames, size=config.batch_size)
        return {
            "audio": crops.draw(rng, config.batch_size),
            "start_frame": torch.from_numpy(start_frame),
        }

    # The encoder's first frames look into silence, which no clip begins with in the middle of a take.
    skip = min(6, config.crop_frames // 4) * HOP_LENGTH
    for batch in run.batches(make_batch):
        frozen = run.step >= config.freeze_encoder_at
        if frozen and next(codec.encoder.parameters()).requires_grad:
            # Also where a trained codec went on learning: its codes are of the latents it had before.
            if run.step == config.freeze_encoder_at > 0 or not codec.quantizer.is_initialized:
                freeze_encoder(run, codec, crops, config.fit_clips)
            codec.encoder.requires_grad_(False)
            codec.quantizer.requires_grad_(False)
        codec.quantizer.train(False)
        with run.accelerator.accumulate(model):
            # Half the rows through the quantiser, half not: the decoder serves both.
            audio, half = batch["audio"], config.batch_size // 2
            out = model(audio, quantize=False, latent_noise=config.latent_noise,
                        start_frame=batch["start_frame"], codes_rows=half if frozen else 0)  # fmt: skip
            loss = spectral = spectral_loss(out.audio[..., skip:], audio[..., skip:])
            if config.pitch_weight:
                pitch = pitch_contrast_loss(out.audio[..., skip:], audio[..., skip:])
                loss = loss + config.pitch_weight * pitch
                run.log(pitch=pitch)
            if config.waveform_weight:
                waveform = waveform_loss(out.audio, audio)
                loss = loss + config.waveform_weight * waveform
                run.log(waveform=waveform)
            run.backward(loss, model, optimizer)
        run.log(spectral=spectral)
        if run.due(config.sample_every):
            judge = run.weights(model)
            for index, clip in enumerate(test_crops.clips(3)):
                latents = judge.encode(clip.to(run.device), return_codes=False).latents
                audio = judge.decode(latents=latents).audio[..., : clip.shape[-1]]
                run.log_now(**{f"test_spectral_{index}": spectral_loss(audio, clip.to(run.device)).item()})
                run.save_sample(f"original_{index}", clip[0].numpy())
                run.save_sample(f"round_trip_{index}", audio[0].cpu().numpy())

    final = run.weights(model)
    if not final.quantizer.is_initialized:
        run.print("the run ended before freeze_encoder_at: its codec has no codes yet")
    card = model_card("RealTimeJazz codec", "48 kHz stereo, 75 frames a second, 4 x 2,048 codes.", config,
                      run.metrics, f"{len(takes)} composed takes")  # fmt: skip
    run.save_model(final, card=card)
    run.finish()


if __name__ == "__main__":
    main()
