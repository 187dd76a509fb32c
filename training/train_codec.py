"""Train the codec (stage 1) on a corpus made by prepare_corpus.py.

    accelerate launch training/train_codec.py --config mini --data data/corpus --output-dir runs/codec

The run has two parts. Until `freeze_encoder_at`, encoder and decoder learn together on un-quantised, slightly
noisy latents, from `quantize_from` on with the quantiser in between. Then the encoder is frozen, its latents are
normalised, the quantiser is fitted to them, and the decoder goes on alone on quantised and un-quantised latents: what
a flow model learned on these latents stays good. Discriminators join at `adversarial_from`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig, mel_loss, pitch_contrast_loss
from rtjazz_hf.corpus.augment import AugmentSettings
from rtjazz_hf.corpus.crops import AudioCrops
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.real_music import load_real_music
from rtjazz_hf.trainers.codec import (
    CodecLoss,
    CodecTrainConfig,
    CodecWatch,
    LatentStatistics,
    codec_step,
    fit_quantizer,
    freeze_encoder,
)
from rtjazz_hf.trainers.evaluation import CodecEvaluation
from rtjazz_hf.trainers.monitor import batch_sizes
from rtjazz_hf.trainers.run import (
    TrainingRun,
    build_config,
    disk_errors,
    input_errors,
    model_card,
    parse_config,
)

CONFIGS = Path(__file__).parent / "configs"


def open_crops(config: CodecTrainConfig) -> tuple[AudioCrops, AudioCrops]:
    """Crops to learn from, and crops of what is held out, not augmented."""
    crops = []
    for split, augment in (("train", AugmentSettings() if config.augment else None), ("test", None)):
        takes = load_takes(config.data, split=split) or load_takes(config.data)
        stems = load_takes(config.stems, split=split) if config.stems else None
        real = load_real_music(config.real, split) if config.real else None
        sources = dict(stems=stems, real=real, augment=augment, shares=config.shares or None)
        crops.append(AudioCrops(takes, config.crop_frames, **sources))
    return tuple(crops)


@disk_errors
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_config(CodecTrainConfig, "codec", CONFIGS, description=__doc__, argv=argv)
    with input_errors():
        crops, test_crops = open_crops(config)
        run = TrainingRun(config)
        if config.evaluate_every:
            evaluation = CodecEvaluation(run, config.data, config.evaluate_takes, config.evaluate_seconds)
        if config.init_from:
            # What `model` asks for otherwise, a quantiser of more levels say, starts anew.
            codec = RealTimeJazzCodec.from_pretrained(
                config.init_from, dtype=torch.float32, ignore_mismatched_sizes=True, **config.model
            )
        else:
            codec = RealTimeJazzCodec(build_config(RealTimeJazzCodecConfig, config.model))
    if not config.init_from and run.checkpoint is None:
        kept = codec.fit_start(crops.clips(config.fit_clips))
        run.print(f"transform start keeps {kept:.3f} of the variance of the features")
    model, optimizer = run.prepare_model(codec)
    averaged = [run.ema.module] if run.ema else []
    run.accelerator.register_for_checkpointing(LatentStatistics(codec, *averaged))
    codec_loss = CodecLoss(run, config)
    run.resume()
    watch = CodecWatch(run, codec.config.codebook_size)

    def make_batch(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        start_frame = rng.integers(codec.config.noise_frames, size=config.batch_size)
        return {
            "audio": crops.draw(rng, config.batch_size),
            "start_frame": torch.from_numpy(start_frame),
        }

    per_batch = batch_sizes(config.batch_size, config.crop_frames)
    for batch in run.batches(make_batch, per_batch):
        frozen = run.step >= config.freeze_encoder_at
        together = config.quantize_from is not None and run.step >= config.quantize_from and not frozen
        if together and not codec.quantizer.is_initialized:
            fit_quantizer(run, codec, crops.clips(4 * config.fit_clips))
        if frozen and next(codec.encoder.parameters()).requires_grad:
            # Also where a trained codec went on learning: its codes are of the latents it had before.
            if run.step == config.freeze_encoder_at > 0 or not codec.quantizer.is_initialized:
                freeze_encoder(run, codec, crops.clips(4 * config.fit_clips))
            codec.encoder.requires_grad_(False)
            codec.quantizer.requires_grad_(False)
        codec.quantizer.train(together)
        codes = codec_step(run, model, optimizer, codec_loss, batch, frozen, together)
        watch.see(codec_loss.reconstruction, codes)
        if run.due(config.watch_every):
            watch.look()
        if run.due(config.evaluate_every):
            evaluation(run.weights(model))
        if run.due(config.sample_every):
            judge = run.weights(model)
            for index, clip in enumerate(test_crops.clips(4, seconds=6.0)):
                clip = clip.to(run.device)
                audio = judge.decode(latents=judge.encode(clip, return_codes=False).latents).audio
                audio = audio[..., : clip.shape[-1]]
                run.log_now(**{f"test_mel_{index}": mel_loss(audio, clip).item(),
                               f"test_pitch_{index}": pitch_contrast_loss(audio, clip).item()})  # fmt: skip
                run.save_sample(f"original_{index}", clip[0].cpu().numpy())
                run.save_sample(f"round_trip_{index}", audio[0].cpu().numpy())

    final = run.weights(model)
    if not final.quantizer.is_initialized:
        run.print("the run ended before freeze_encoder_at: its codec has no codes yet")
    if crops.skipped:
        run.print(f"{len(crops.skipped)} files were left out: {', '.join(map(str, crops.skipped))}")
    levels, kbits = final.config.num_codebooks, final.bitrate() / 1000
    summary = f"48 kHz stereo, 75 frames a second, {levels} levels are {kbits:.1f} kbit/s."
    card = model_card("RealTimeJazz codec", summary, config, run.metrics,
                      f"composed takes{' and recorded music' if config.real else ''}")  # fmt: skip
    run.save_model(final, card=card)
    run.finish()


if __name__ == "__main__":
    main()
