"""Train the flow transformer (stage 2) on latents.

    accelerate launch training/train_flow.py --config mini --takes data/corpus --data data/latents \\
        --codec runs/codec/final --style-encoder runs/style/final --output-dir runs/flow

Takes are encoded once into the latent store `--data` (what is there already is kept). The sequence is
[clean | noisy] in blocks of a random size: a noisy block hears a random length of clean past, none included, and
style and lead sheet are dropped at random for guidance. A share of the batches has full attention and no past.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rtjazz_hf.codec import RealTimeJazzCodec
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_store import LatentStore, embed_takes, encode_takes
from rtjazz_hf.flow import FlowMatchScheduler, RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig
from rtjazz_hf.flow.losses import (
    codebook_loss,
    corrupt_context,
    drop_rows,
    flow_matching_loss,
    sample_timesteps,
    velocity_target,
)
from rtjazz_hf.live.engine import BlockStream
from rtjazz_hf.music import LEAD_SHEET_DIM
from rtjazz_hf.style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer
from rtjazz_hf.training_utils import TrainConfig, TrainingRun, model_card, parameter_groups, parse_config

CONFIGS = Path(__file__).parent / "configs"


@dataclass
class FlowTrainConfig(TrainConfig):
    data: str = ""  # the latent store
    takes: str | None = None  # a corpus to encode into it first
    codec: str = ""
    style_encoder: str = ""
    model: dict = field(default_factory=dict)
    batch_size: int = 8
    crop_frames: int = 432  # 5.76 s, whole blocks of every size
    full_attention_rate: float = 0.5  # share of batches without blocks
    style_dropout: float = 0.2
    lead_sheet_dropout: float = 0.1
    audio_style_rate: float = 0.4  # share of rows whose style comes from the audio tower
    context_noise: float = 0.2
    no_context_rate: float = 0.15
    channel_weight_power: float = (
        1.0  # loss weight of a channel: its deviation before normalisation, to this power
    )
    time_distribution: str = "logit_normal"
    time_mean: float = -0.4  # under zero: more noise, where the chart decides
    validate_every: int = 250


class Batches:
    """Random crops of the store with their conditions."""

    def __init__(self, store: LatentStore, config: FlowTrainConfig, block_sizes: tuple[int, ...]):
        self.store, self.config = store, config
        self.block_sizes = [size for size in block_sizes if config.crop_frames % size == 0]
        self.usable = np.array([i for i in range(len(store)) if store[i].num_frames >= config.crop_frames])
        if len(self.usable) == 0:
            raise ValueError(f"no take in {store.folder} is as long as crop_frames={config.crop_frames}.")
        if not self.block_sizes:
            raise ValueError(f"crop_frames={config.crop_frames} is no multiple of any of {block_sizes}.")

    def __call__(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        config, rows = self.config, []
        for index in rng.choice(self.usable, config.batch_size):
            take = self.store[index]
            row = take.crop(int(rng.integers(take.num_frames - config.crop_frames + 1)), config.crop_frames)
            styles = take.audio if rng.random() < config.audio_style_rate else take.text
            row["style"] = styles[rng.integers(len(styles))]
            rows.append(row)
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        size = int(rng.choice(self.block_sizes))
        full = rng.random() < config.full_attention_rate
        context = rng.integers(0, 1 + 300 // size, config.batch_size) * size
        context[rng.random(config.batch_size) < config.no_context_rate] = 0
        batch["window_frames"] = torch.from_numpy(context)
        batch["block_frames"] = torch.tensor(0 if full else size)
        return batch


def flow_loss(model, batch: dict, config: FlowTrainConfig, weights: torch.Tensor, train: bool = True):
    """Loss of one batch at freshly drawn noise and times."""
    clean, block = batch["latents"], int(batch["block_frames"])
    rows, _, frames = clean.shape
    blocks = frames // block if block else 1
    timestep = sample_timesteps((rows, blocks), config.time_distribution, mean=config.time_mean).to(clean)
    noise = torch.randn(clean.shape).to(clean)
    per_frame = timestep.repeat_interleave(frames // blocks, dim=1)[:, None]
    sample = (1 - per_frame) * noise + per_frame * clean
    style, lead_sheet = batch["style"], batch["lead_sheet"]
    if train:
        style, lead_sheet = (
            drop_rows(style, config.style_dropout),
            drop_rows(lead_sheet, config.lead_sheet_dropout),
        )
    if block:
        context = corrupt_context(clean, config.context_noise) if train else clean
        out = model(sample, timestep, lead_sheet=lead_sheet, style=style, context=context, block_frames=block,
                    window_frames=batch["window_frames"])  # fmt: skip
    else:
        out = model(sample, timestep[:, 0], lead_sheet=lead_sheet, style=style)
    if out.logits is not None:
        return codebook_loss(out.logits, batch["codes"])
    return flow_matching_loss(out.sample, velocity_target(clean, noise), weights)


@torch.no_grad()
def validate(
    model, batches: Batches, config: FlowTrainConfig, weights: torch.Tensor, device, count: int = 6
) -> dict:
    """Held-out loss with the true chart, the same chart a tritone away, and no chart; same noise for all three."""
    totals = {"true": 0.0, "rotated": 0.0, "none": 0.0}
    for index in range(count):
        batch = batches(np.random.default_rng([99, index]))
        batch["block_frames"] = torch.tensor(36 if 36 in batches.block_sizes else batches.block_sizes[-1])
        batch["window_frames"] = torch.full((config.batch_size,), 144)
        batch = {name: value.to(device) for name, value in batch.items()}
        sheets = {"true": batch["lead_sheet"], "none": torch.zeros_like(batch["lead_sheet"])}
        sheets["rotated"] = rotate_chords(batch["lead_sheet"], 6)
        for name, sheet in sheets.items():
            torch.manual_seed(index)
            loss = flow_loss(model, {**batch, "lead_sheet": sheet}, config, weights, train=False)
            totals[name] += loss.item() / count
    return {f"val_{name}": value for name, value in totals.items()}


def rotate_chords(features: torch.Tensor, semitones: int) -> torch.Tensor:
    """Transpose every pitch-class part of lead sheet features."""
    from rtjazz_hf.music import FEATURE_SLICES

    rotated = features.clone()
    for name, part in FEATURE_SLICES.items():
        if part.stop - part.start == 12:
            rotated[..., part] = features[..., part].roll(semitones, dims=-1)
    return rotated


@torch.no_grad()
def sample_take(model, codec, take, seconds: float = 12.0, steps: int = 8, guidance_scale: float = 2.0):
    """Play a held-out take's lead sheet as a live session would: (2, samples)."""
    stream = BlockStream(model, codec, FlowMatchScheduler(), generators=[torch.Generator().manual_seed(0)],
                         block_frames=36, window_frames=model.config.window_frames, device=model.device)  # fmt: skip
    audio = []
    for index in range(int(seconds * 75 / 36)):
        sheet = torch.from_numpy(take.lead_sheet.features(index * 36, 36))[None].to(model.device)
        latents = stream.denoise(stream.prepare_latents(), take.text[:1].to(model.device), sheet,
                                 num_inference_steps=steps, guidance_scale=guidance_scale)  # fmt: skip
        stream.append(latents)
        audio.append(stream.decode(stream.without_cues(latents)))
    return torch.cat(audio, -1)[0].cpu().numpy()


def main() -> None:
    config = parse_config(FlowTrainConfig, "flow", CONFIGS, description=__doc__)
    codec = RealTimeJazzCodec.from_pretrained(config.codec, dtype=torch.float32).eval()
    run = TrainingRun(config)
    codec.to(run.device)
    if config.takes:
        style = RealTimeJazzStyleEncoder.from_pretrained(config.style_encoder, dtype=torch.float32).eval()
        tokenizer = RealTimeJazzTokenizer.from_pretrained(config.style_encoder)
        with run.accelerator.main_process_first():
            takes, codes = load_takes(config.takes), config.model.get("prediction_type") == "codebook"
            encode_takes(codec, takes, config.data, codes=codes)
            embed_takes(style.to(run.device), tokenizer, takes, config.data)
    train, test = LatentStore(config.data, "train"), LatentStore(config.data, "test")
    run.print(f"{len(train)} takes, {train.hours:.1f} hours; {len(test)} held out")

    if config.init_from:
        model = RealTimeJazzFlowTransformer.from_pretrained(config.init_from, dtype=torch.float32)
    else:
        sizes = {"latent_dim": codec.config.latent_dim, "lead_sheet_dim": LEAD_SHEET_DIM,
                 "style_dim": train[0].text.shape[-1], "codebook_size": codec.config.codebook_size,
                 "num_codebooks": codec.config.num_codebooks}  # fmt: skip
        weights = torch.tensor(codec.config.latents_std) ** config.channel_weight_power
        sizes["channel_weights"] = tuple((weights / weights.mean()).tolist())
        model = RealTimeJazzFlowTransformer(RealTimeJazzFlowTransformerConfig(**(sizes | config.model)))
        if model.config.prediction_type == "codebook":
            model.set_codebooks(codec.codebooks, codec.latents_offset)
    weights = torch.tensor(model.config.channel_weights or 1.0, device=run.device).expand(
        model.config.num_channels
    )
    batches = Batches(train, config, model.config.block_sizes)
    held_out = Batches(test if len(test) else train, config, model.config.block_sizes)
    model.to(run.device).train()
    run.make_ema(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )
    prepared, optimizer = run.prepare(model, optimizer)
    run.resume()

    for batch in run.batches(batches):
        with run.accelerator.accumulate(prepared):
            loss = flow_loss(prepared, batch, config, weights)
            run.backward(loss, prepared, optimizer)
        run.log(loss=loss)
        if run.due(config.validate_every):
            with run.accelerator.autocast():
                losses = validate(run.weights(prepared), held_out, config, weights, run.device)
            run.log_now(**losses)
            run.print(f"step {run.step + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in losses.items()))
        if run.due(config.sample_every):
            for index in range(min(2, len(test))):
                audio = sample_take(run.weights(prepared).eval(), codec, test[index])
                run.save_sample(f"sample_{index}", audio, test[index].lead_sheet)
            prepared.train()

    card = model_card("RealTimeJazz flow transformer", "Latents of jazz, block by block, from a chart and words.",
                      config, run.metrics, f"{len(train)} takes, {train.hours:.1f} hours")  # fmt: skip
    run.save_model(run.weights(prepared), card=card)
    run.finish()


if __name__ == "__main__":
    main()
