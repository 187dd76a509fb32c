"""Train the flow transformer (stage 2) on latents.

    accelerate launch training/train_flow.py --config mini --takes data/corpus --data data/latents \\
        --codec runs/codec/final --style-encoder runs/style/final --output-dir runs/flow

Takes are encoded once into the latent store `--data`; what is there already is kept, and `prepare_latents.py` fills it
in several processes. The sequence is [clean | noisy] in blocks of a random size: a noisy block hears a random length
of clean past, none included, and style and lead sheet are dropped at random for guidance. A share of the batches has
full attention and no past. In `--own-context-rate` of the others the past is partly the model's own, so that its
faults do not add up live.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rtjazz_hf.codec import RealTimeJazzCodec
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import fill_takes
from rtjazz_hf.corpus.latent_store import open_stores
from rtjazz_hf.hub import load_codec, load_style_encoder
from rtjazz_hf.trainers.evaluation import FlowEvaluation
from rtjazz_hf.trainers.flow import (
    FlowBatches,
    FlowTrainConfig,
    build_model,
    channel_weights,
    flow_groups,
    flow_loss,
    save_samples,
    validate,
)
from rtjazz_hf.trainers.monitor import batch_sizes
from rtjazz_hf.trainers.run import (
    TrainingRun,
    disk_errors,
    input_errors,
    model_card,
    parse_config,
)

CONFIGS = Path(__file__).parent / "configs"


def fill_store(config: FlowTrainConfig, codec: RealTimeJazzCodec, codes: bool, run: TrainingRun) -> None:
    """Encode and embed the takes that the latent store lacks, each process its part of them."""
    style, tokenizer = load_style_encoder(config.style_encoder)
    takes = load_takes(config.takes)[run.accelerator.process_index :: run.accelerator.num_processes]
    fill_takes(codec, style.to(run.device), tokenizer, takes, config.data, codes, styles=config.styles,
               progress=run.is_main)  # fmt: skip
    run.accelerator.wait_for_everyone()


@disk_errors
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_config(FlowTrainConfig, "flow", CONFIGS, description=__doc__, argv=argv)
    codes = config.model.get("prediction_type") == "codebook"
    with input_errors():
        codec = load_codec(config.codec)
        if config.takes:
            load_takes(config.takes)  # refused before anything is written
        run = TrainingRun(config)
        for setting, as_it_was in (("score", False), ("noisy_rate", 0.0)):
            if run.begun_without(setting):  # a run that began before flows were told notes goes on as it was
                setattr(config, setting, as_it_was)
        if config.own_context_rate and "FSDP" in str(run.accelerator.distributed_type):
            raise ValueError(
                "own context is made by some processes alone; set own_context_rate: 0 with FSDP."
            )
        codec.to(run.device)
        if config.takes:
            fill_store(config, codec, codes, run)
        train, test = open_stores(config.data, codec, codes, config.styles)
        run.print(f"{len(train)} takes, {train.hours:.1f} hours; {len(test)} held out")
        model = build_model(config, codec, train[0])
        sizes = model.config.block_sizes, model.config.window_frames, model.config.score_dim
        batches = FlowBatches(train, config, *sizes)
        held_out = FlowBatches(test if len(test) else train, config, *sizes)
        if config.evaluate_every:
            evaluation = FlowEvaluation.of(run, codec)
    prepared, optimizer = run.prepare_model(model, flow_groups)
    weights = channel_weights(model)
    run.resume()

    def denoise(*inputs, **named):
        """What plays: the averaged weights, in the precision of the run."""
        with run.accelerator.autocast():
            return run.weights(prepared)(*inputs, **named)

    per_batch = batch_sizes(config.batch_size, config.crop_frames, model.config.patch_size)
    for batch in run.batches(batches, per_batch):
        with run.accelerator.accumulate(prepared):
            loss = flow_loss(prepared, batch, config, weights, denoiser=denoise)
            run.backward(loss, prepared, optimizer)
        run.log(loss=loss)
        if run.due(config.validate_every):
            with run.accelerator.autocast():
                losses = validate(run.weights(prepared), held_out, config, weights, run.device)
            run.log_now(**losses)
            run.print(f"step {run.step + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in losses.items()))
        if run.due(config.evaluate_every):
            evaluation(run.weights(prepared))
        if run.due(config.sample_every) and len(test):
            save_samples(run, prepared, codec, test.takes[:2])

    card = model_card("RealTimeJazz flow transformer", "Latents of jazz, block by block, from a chart and words.",
                      config, run.metrics, f"{len(train)} takes, {train.hours:.1f} hours")  # fmt: skip
    run.save_model(run.weights(prepared), card=card)
    run.finish()


if __name__ == "__main__":
    main()
