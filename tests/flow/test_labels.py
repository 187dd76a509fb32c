"""Labels and a loss, as transformers' models have them."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TINY_FLOW

from rtjazz_hf import RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig
from rtjazz_hf.flow.losses import codebook_loss, flow_matching_loss, velocity_target

FRAMES = 12


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return RealTimeJazzFlowTransformer(RealTimeJazzFlowTransformerConfig(**TINY_FLOW))


def given(rows=2):
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, rows, 64, FRAMES, generator=generator)
    times = torch.rand(rows, generator=generator)
    mixed = (1 - times[:, None, None]) * noise + times[:, None, None] * clean
    return {"sample": mixed, "timestep": times}, velocity_target(clean, noise), clean


def test_the_loss_is_that_of_training(model):
    inputs, target, clean = given()
    for how in ({}, {"context": clean, "block_frames": 6}):
        plain = model(**inputs, **how)
        output = model(**inputs, **how, labels=target)
        assert plain.loss is None and torch.equal(output.sample, plain.sample)
        torch.testing.assert_close(output.loss, flow_matching_loss(plain.sample, target))
        loss, sample = model(**inputs, **how, labels=target, return_dict=False)
        assert torch.equal(loss, output.loss) and torch.equal(sample, output.sample)
    conditions = model.prepare_conditions(torch.tensor([0.5]), frames=FRAMES)
    inputs["sample"] = inputs["sample"][:1]
    output = model(inputs["sample"], conditions=conditions, labels=target[:1])
    assert output.loss == flow_matching_loss(output.sample, target[:1])


def test_of_codes():
    model = RealTimeJazzFlowTransformer(RealTimeJazzFlowTransformerConfig(**TINY_FLOW, prediction_type="codebook"))
    inputs, _, _ = given()
    codes = torch.randint(0, 64, (2, 4, FRAMES))
    output = model(**inputs, labels=codes)
    torch.testing.assert_close(output.loss, codebook_loss(output.logits, codes))


@pytest.mark.parametrize("prediction_type", ["velocity", "codebook"])
def test_other_shapes_are_refused(prediction_type):
    model = RealTimeJazzFlowTransformer(
        RealTimeJazzFlowTransformerConfig(**TINY_FLOW, prediction_type=prediction_type)
    )
    with pytest.raises(ValueError, match=r"labels|codes"):
        model(**given()[0], labels=torch.zeros(2, 3, FRAMES))


def test_transformers_trainer_trains_it(model, tmp_path):
    from transformers import Trainer, TrainingArguments

    inputs, target, _ = given(rows=4)
    rows = [{**{name: value[row] for name, value in inputs.items()}, "labels": target[row]} for row in range(4)]
    arguments = TrainingArguments(
        tmp_path, max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, use_cpu=True, report_to=[],
        logging_steps=1, save_strategy="no", disable_tqdm=True, eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert trainer.state.log_history[-2]["eval_loss"] > 0
