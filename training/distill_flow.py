"""Distil a trained flow transformer (stage 2) to a few steps a block, guidance folded in.

    accelerate launch training/distill_flow.py --config mini --data data/latents --codec runs/codec/final \\
        --teacher runs/flow/final --output-dir runs/flow_4
    accelerate launch training/distill_flow.py --config mini --data data/latents --codec runs/codec/final \\
        --teacher runs/flow/final --init-from runs/flow_4/final --steps 2 --batch-size 4 --output-dir runs/flow_2
    accelerate launch training/distill_flow.py --config mini --data data/latents --codec runs/codec/final \\
        --teacher runs/flow_2/final --steps 1 --batch-size 8 --output-dir runs/flow_1

The student starts from the teacher (or from `--init-from`), and learns to go in each of its steps where several
guided steps of the teacher lead. A student can be a teacher in turn: cheaper, for it plays in few steps of one row,
and its faults are handed on. The folder it ends with says how it is played; conversion/assemble_pipeline.py
makes that the pipeline's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rtjazz_hf.corpus.latent_store import flow_state, open_stores
from rtjazz_hf.hub import load_codec
from rtjazz_hf.trainers.distillation import (
    Distiller,
    FlowDistillConfig,
    distill_losses,
    load_flow,
    score_loss,
)
from rtjazz_hf.trainers.evaluation import FlowEvaluation
from rtjazz_hf.trainers.flow import FlowBatches, channel_weights, save_samples
from rtjazz_hf.trainers.monitor import batch_sizes
from rtjazz_hf.trainers.run import (
    TrainingRun,
    disk_errors,
    input_errors,
    model_card,
    parse_config,
)

CONFIGS = Path(__file__).parent / "configs"


@disk_errors
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_config(FlowDistillConfig, "distill", CONFIGS, description=__doc__, argv=argv)
    with input_errors():
        codec = load_codec(config.codec)
        train, test = open_stores(config.data, codec, codes=False, styles=config.styles)
        channels = flow_state(train[0].crop(0, 1)).shape[-2]
        teacher = load_flow(config.teacher, channels)
        model = load_flow(config.init_from or config.teacher, channels)
        distiller = Distiller(teacher, codec, config)
        sizes = distiller.block_sizes, distiller.window_frames, teacher.config.score_dim
        batches = FlowBatches(train, config, *sizes)
        held_out = FlowBatches(test if len(test) else train, config, *sizes)
        run = TrainingRun(config)
        if "FSDP" in str(run.accelerator.distributed_type):
            raise ValueError(
                "the student plays while it learns, which wants whole weights on each process: use DDP."
            )
        if config.evaluate_every:
            evaluation = FlowEvaluation.of(run, codec)
    model.config.distilled_steps, model.config.distilled_shift = config.steps, distiller.shift
    codec.to(run.device)
    distiller.to(run.device)
    prepared, optimizer = run.prepare_model(model)
    weights = channel_weights(model)
    run.resume()
    run.print(
        f"{len(train)} takes, {train.hours:.1f} hours; {len(test)} held out; {distiller.teacher_steps} steps "
        f"with guidance {distiller.guidance_scale:g} to {config.steps} without, shift {distiller.shift:g}"
    )

    def validate() -> None:
        measures = distiller.validate(run.weights(prepared), held_out, weights)
        run.log_now(**measures)
        run.print(f"step {run.step + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in measures.items()))

    if config.validate_every and run.step == 0:
        validate()  # where it begins
    per_batch = batch_sizes(config.batch_size, config.crop_frames, model.config.patch_size)
    for batch in run.batches(batches, per_batch):
        pairs = distiller.make_pairs(run.weights(prepared), batch)
        with run.accelerator.accumulate(prepared):
            losses = distill_losses(prepared, pairs, weights, config.steps)
            loss = losses.mean()
            if config.score_weight:
                score = score_loss(
                    prepared, batch, weights, config.steps, distiller.shift, config.context_noise
                )
                loss = loss + config.score_weight * score
                run.log(score=score)
            run.backward(loss, prepared, optimizer)
        run.log(loss=losses, **{f"loss_step_{index}": loss for index, loss in enumerate(losses)})
        if run.due(config.validate_every):
            validate()
        if run.due(config.evaluate_every):
            evaluation(run.weights(prepared))
        if run.due(config.sample_every) and len(test):
            save_samples(run, prepared, codec, test.takes[:2])

    card = model_card(f"RealTimeJazz flow transformer, {config.steps} steps",
                      "Latents of jazz, block by block, from a chart and words; guidance is folded in: play it with "
                      f"{config.steps} steps, shift {distiller.shift:g} and guidance_scale 1.",
                      config, run.metrics, f"{len(train)} takes, {train.hours:.1f} hours")  # fmt: skip
    run.save_model(run.weights(prepared), card=card)
    run.finish()


if __name__ == "__main__":
    main()
