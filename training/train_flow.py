"""Train the flow transformer (stage 2) on latents.

    accelerate launch training/train_flow.py --config mini --takes data/corpus --data data/latents \\
        --codec runs/codec/final --style-encoder runs/style/final --output-dir runs/flow

Takes are encoded once into the latent store `--data` (what is there already is kept). The sequence is
[clean | noisy] in blocks of a random size: a noisy block hears a random length of clean past, none included, and
style and lead sheet are dropped at random for guidance. A share of the batches has full attention and no past.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from rtjazz_hf.music import LEAD_SHEET_DIM, rotated_chords, without_chords
from rtjazz_hf.style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer
from rtjazz_hf.training_utils import (
    TrainConfig,
    TrainingRun,
    build_config,
    input_errors,
    model_card,
    parameter_groups,
    parse_config,
)

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
    chord_dropout: float = 0.1  # share of rows that keep beat and band and lose the chords
    audio_style_rate: float = 0.4  # share of rows whose style comes from the audio tower
    context_noise: float = 0.2
    no_context_rate: float = 0.15
    channel_weight_power: float = (
        1.0  # loss weight of a channel: its deviation before normalisation, to this power
    )
    time_distribution: str = "logit_normal"
    time_mean: float = -0.4  # under zero: more noise, where the chart decides
    validate_every: int = 250

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data is missing: give --data, the folder of latents (made from --takes).")
        if not self.codec:
            raise ValueError(
                "codec is missing: give --codec, the folder of the codec that makes the latents."
            )
        if self.takes and not self.style_encoder:
            raise ValueError(
                "style_encoder is missing: --takes are encoded with --codec and --style-encoder."
            )


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
        style = drop_rows(style, config.style_dropout)
        keep_chords = torch.rand(rows, 1, 1).to(lead_sheet) >= config.chord_dropout
        lead_sheet = torch.where(keep_chords, lead_sheet, without_chords(lead_sheet))
        lead_sheet = drop_rows(lead_sheet, config.lead_sheet_dropout)
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
        sheet = batch["lead_sheet"]
        sheets = {"true": sheet, "rotated": rotated_chords(sheet, 6), "none": without_chords(sheet)}
        for name, sheet in sheets.items():
            torch.manual_seed(index)
            loss = flow_loss(model, {**batch, "lead_sheet": sheet}, config, weights, train=False)
            totals[name] += loss.item() / count
    return {f"val_{name}": value for name, value in totals.items()}


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


def open_stores(config: FlowTrainConfig, codec: RealTimeJazzCodec, run: TrainingRun) -> list[LatentStore]:
    """The store's training and test part, after encoding what is missing and a check that it is this codec's."""
    codes = config.model.get("prediction_type") == "codebook"
    if config.takes:
        takes = load_takes(config.takes)
        style = RealTimeJazzStyleEncoder.from_pretrained(config.style_encoder, dtype=torch.float32).eval()
        tokenizer = RealTimeJazzTokenizer.from_pretrained(config.style_encoder)
        with run.accelerator.main_process_first():
            encode_takes(codec, takes, config.data, codes=codes)
            embed_takes(style.to(run.device), tokenizer, takes, config.data)
    stores = [LatentStore(config.data, "train"), LatentStore(config.data, "test")]
    stores[0].check_codec(codec)
    if len(stores[0]) == 0:
        raise ValueError(f"{config.data} holds no take of the training part.")
    if codes and stores[0][0].codes is None:
        raise ValueError(
            f"{config.data} holds no codes, which prediction_type codebook learns; make another."
        )
    return stores


def build_model(
    config: FlowTrainConfig, codec: RealTimeJazzCodec, style_dim: int
) -> RealTimeJazzFlowTransformer:
    if config.init_from:
        return RealTimeJazzFlowTransformer.from_pretrained(config.init_from, dtype=torch.float32)
    sizes = {"latent_dim": codec.config.latent_dim, "lead_sheet_dim": LEAD_SHEET_DIM, "style_dim": style_dim,
             "codebook_size": codec.config.codebook_size, "num_codebooks": codec.config.num_codebooks}  # fmt: skip
    weights = torch.tensor(codec.config.latents_std) ** config.channel_weight_power
    sizes["channel_weights"] = tuple((weights / weights.mean()).tolist())
    model = RealTimeJazzFlowTransformer(build_config(RealTimeJazzFlowTransformerConfig, sizes | config.model))
    if model.config.prediction_type == "codebook":
        model.set_codebooks(codec.codebooks, codec.latents_offset)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_config(FlowTrainConfig, "flow", CONFIGS, description=__doc__, argv=argv)
    with input_errors():
        codec = RealTimeJazzCodec.from_pretrained(config.codec, dtype=torch.float32).eval()
        if config.takes:
            load_takes(config.takes)  # refused before anything is written
        run = TrainingRun(config)
        train, test = open_stores(config, codec.to(run.device), run)
        run.print(f"{len(train)} takes, {train.hours:.1f} hours; {len(test)} held out")
        model = build_model(config, codec, train[0].text.shape[-1])
        batches = Batches(train, config, model.config.block_sizes)
        held_out = Batches(test if len(test) else train, config, model.config.block_sizes)
    weights = torch.tensor(model.config.channel_weights or 1.0, device=run.device).expand(
        model.config.num_channels
    )
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
