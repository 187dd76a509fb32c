"""Finish a distilled flow transformer (stage 2) adversarially, on what it plays itself.

    accelerate launch training/finish_flow.py --config mini --data data/latents --codec runs/codec/final \\
        --teacher runs/flow/final --init-from runs/flow_2/final --output-dir runs/finish
    accelerate launch training/finish_flow.py --config mini --data data/latents --codec runs/codec/final \\
        --teacher runs/flow/final --init-from runs/flow_2/final --steps 1 --output-dir runs/finish_1

The student (`--init-from`, by default the teacher itself, if it is distilled) plays from nothing but noise and its own
past; a discriminator that begins as a copy of the teacher learns to tell that from the takes, and the student to be
taken for them, while it stays near what it was. A short run: look at `rtjazz evaluate --only notes judge` before and
after. The folder it ends with is one of distill_flow.py's kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rtjazz_hf.corpus.latent_store import flow_state, open_stores
from rtjazz_hf.hub import load_codec
from rtjazz_hf.trainers.adversarial import Finisher, FlowFinishConfig, Judge
from rtjazz_hf.trainers.distillation import load_flow
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
    config = parse_config(FlowFinishConfig, "finish", CONFIGS, description=__doc__, argv=argv)
    with input_errors():
        codec = load_codec(config.codec)
        train, test = open_stores(config.data, codec, codes=False, styles=config.styles)
        channels = flow_state(train[0].crop(0, 1)).shape[-2]
        teacher = load_flow(config.teacher, channels)
        model = load_flow(config.init_from or config.teacher, channels)
        finisher = Finisher(model, codec, config)
        sizes = finisher.block_sizes, finisher.window_frames, model.config.score_dim
        batches = FlowBatches(train, config, *sizes)
        held_out = FlowBatches(test if len(test) else train, config, *sizes)
        run = TrainingRun(config)
        if "FSDP" in str(run.accelerator.distributed_type):
            raise ValueError(
                "the student plays while it learns, which wants whole weights on each process: use DDP."
            )
        if config.evaluate_every:
            evaluation = FlowEvaluation.of(run, codec)
        model.config.distilled_steps, model.config.distilled_shift = finisher.steps, finisher.shift
        prepared, optimizer = run.prepare_model(model)
        judge = Judge(run, teacher, config)
    del teacher
    codec.to(run.device)
    finisher.to(run.device)
    weights = channel_weights(model)
    run.resume()
    run.print(
        f"{len(train)} takes, {train.hours:.1f} hours; {len(test)} held out; {finisher.steps} steps, shift "
        f"{finisher.shift:g}; the discriminator reads after layers {', '.join(map(str, judge.layers))}"
    )

    def validate() -> None:
        measures = finisher.validate(run.weights(prepared), judge, held_out, weights)
        run.log_now(**measures)
        run.print(f"step {run.step + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in measures.items()))

    per_batch = batch_sizes(config.batch_size, config.crop_frames, model.config.patch_size)
    for batch in run.batches(batches, per_batch):
        rolled = finisher.roll_out(run.accelerator.unwrap_model(prepared), batch)
        with run.accelerator.accumulate(prepared, judge.discriminator):
            if run.step < config.head_start:
                judge.learn(rolled, rolled["made"])
            else:
                ends = finisher.ends(prepared, rolled)
                judge.learn(rolled, ends)
                adversarial, keep = judge.loss(rolled, ends), finisher.keep_loss(ends, rolled, weights)
                loss = config.adversarial_weight * adversarial + config.keep_weight * keep
                run.backward(loss, prepared, optimizer)
                run.log(loss=loss, adversarial=adversarial, keep=keep)
        if run.due(config.validate_every):
            validate()
        if run.due(config.evaluate_every):
            evaluation(run.weights(prepared))
        if run.due(config.sample_every) and len(test):
            save_samples(run, prepared, codec, test.takes[:2])

    card = model_card(f"RealTimeJazz flow transformer, {finisher.steps} steps, finished",
                      "Latents of jazz, block by block, from a chart and words; guidance is folded in: play it with "
                      f"{finisher.steps} steps, shift {finisher.shift:g} and guidance_scale 1.",
                      config, run.metrics, f"{len(train)} takes, {train.hours:.1f} hours")  # fmt: skip
    run.save_model(run.weights(prepared), card=card)
    run.finish()


if __name__ == "__main__":
    main()
