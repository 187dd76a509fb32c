"""Train the style encoder: captions and crops of takes, drawn together (CLIP's contrastive loss), and a head that
reads from either who plays, who leads, genre, mood and tempo (see `rtjazz_hf.trainers.style`).

    python training/train_style.py --config mini --data data/takes10h --output-dir runs/style-mini
    accelerate launch --multi_gpu training/train_style.py --config base --data data/takes --output-dir
    runs/style-base

Every setting of the config is an option too (`--max-minutes 10`, `--learning-rate 5e-4`). A killed run goes
on where it stopped when started again; `--init-from FOLDER` goes on from another run's model and stays in its
space; `--start-share 0.5` keeps half of that model's weights, for a corpus that is smaller than the one it was
taught on. OUTPUT_DIR/final is a folder for `RealTimeJazzStyleEncoder.from_pretrained` and
`AutoTokenizer.from_pretrained`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtjazz_hf.corpus.dataset import TakeRecord, load_takes
from rtjazz_hf.runtime.files import atomic_folder
from rtjazz_hf.style import (
    RealTimeJazzStyleEncoder,
    RealTimeJazzStyleEncoderConfig,
    RealTimeJazzTokenizer,
    train_tokenizer,
)
from rtjazz_hf.trainers.run import (
    TrainingRun,
    build_config,
    disk_errors,
    input_errors,
    model_card,
    parse_config,
)
from rtjazz_hf.trainers.style import (
    RETRIEVAL_SIZE,
    StyleLearner,
    StyleTrainConfig,
    align_space,
    cache_log_mels,
    evaluate,
    make_batch_function,
    mix_weights,
    tokenizer_texts,
)

CONFIGS = Path(__file__).parent / "configs"


def load_log_mels(
    takes: Sequence[TakeRecord], model: RealTimeJazzStyleEncoder, run: TrainingRun
) -> list[np.ndarray]:
    """The takes' spectrograms, from files in the run's folder that its processes make together."""
    share = slice(run.accelerator.process_index, None, run.accelerator.num_processes)
    files = cache_log_mels(takes, model, run.output_dir, share)
    run.accelerator.wait_for_everyone()
    return [np.load(file, mmap_mode="r") for file in files]


@torch.no_grad()
def return_to_space(
    model: RealTimeJazzStyleEncoder,
    tokenizer: RealTimeJazzTokenizer,
    start: RealTimeJazzStyleEncoder,
    takes: Sequence[TakeRecord],
    log_mels: Sequence[np.ndarray],
) -> float:
    """Turn the space back to the starting model's, by captions and takes alike; the mean cosine between new and
    old."""
    texts = tokenizer([take.caption for take in takes], padding=True, truncation=True, return_tensors="pt")
    clips = [torch.from_numpy(np.array(mel, np.float32))[None].to(model.device) for mel in log_mels]
    new, old = (
        torch.cat(
            [each.encode_text(**texts.to(each.device)), *(each.encode_audio(log_mel=clip) for clip in clips)]
        )
        for each in (model, start)
    )
    return torch.nn.functional.cosine_similarity(align_space(model, new, old), old).mean().item()


def load_or_train_tokenizer(
    config: StyleTrainConfig, takes: Sequence[TakeRecord], vocab_size: int, run: TrainingRun
) -> RealTimeJazzTokenizer:
    """The run's own tokenizer if it has one, the starting model's, or a new one learnt from the captions."""
    folder = run.output_dir / "tokenizer"
    if run.is_main and not folder.is_dir():
        if config.init_from:
            tokenizer = RealTimeJazzTokenizer.from_pretrained(config.init_from)
        else:
            tokenizer = train_tokenizer(tokenizer_texts(takes, config.seed), vocab_size)
        with atomic_folder(folder) as partial:
            tokenizer.save_pretrained(partial)
    run.accelerator.wait_for_everyone()
    return RealTimeJazzTokenizer.from_pretrained(folder)


@disk_errors
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train; the last measures (for tests and notebooks)."""
    config = parse_config(StyleTrainConfig, "style", CONFIGS, description=__doc__, argv=argv)
    with input_errors():
        takes, held_out = load_takes(config.data, split="train"), load_takes(config.data, split="test")
    if not held_out:  # a corpus of one's own may have no test part
        cut = max(1, len(takes) // 20)
        takes, held_out = takes[:-cut], takes[-cut:]
    if len(takes) < 2:
        raise SystemExit(f"'{config.data}' holds {len(takes)} training takes; at least 2 are needed.")
    held_out = held_out[: config.eval_takes]
    with input_errors():
        run = TrainingRun(config)
        if config.init_from:
            encoder = RealTimeJazzStyleEncoder.from_pretrained(config.init_from, dtype=torch.float32)
        else:
            make_config = getattr(RealTimeJazzStyleEncoderConfig, config.size)
            encoder = RealTimeJazzStyleEncoder(build_config(make_config, config.model))
    learner = StyleLearner(encoder, config).to(run.device)
    tokenizer = load_or_train_tokenizer(config, takes, encoder.config.vocab_size, run)
    run.print(
        f"{encoder.num_parameters() / 1e6:.2f}M parameters, {len(tokenizer)} tokens, {len(takes)} takes"
    )
    held_out_mels = load_log_mels(held_out, encoder, run)
    log_mels = load_log_mels(takes, encoder, run) if config.cache_features else None
    make_batch = make_batch_function(takes, tokenizer, config, encoder.config, log_mels)

    learner, optimizer = run.prepare_model(learner)
    run.resume()
    learner.train()
    for batch in run.batches(make_batch, {"samples": config.batch_size}):
        with run.accelerator.accumulate(learner):
            output = learner(**batch)
            run.backward(output["loss"], learner, optimizer)
        similarity = output.pop("logits_per_text").detach()
        hits = similarity.masked_fill(batch["ignore_mask"], -torch.inf).amax(dim=1)
        run.log(**output, accuracy=(similarity.diagonal() >= hits).float().mean())
        if run.due(config.eval_every):
            metrics, picture = evaluate(
                run.weights(learner).eval(), tokenizer, held_out, held_out_mels, config.seed
            )
            run.log_now(**metrics)
            run.log_picture("similarity", picture)
            learner.train()

    best = run.weights(learner).eval()
    if config.init_from:
        start = RealTimeJazzStyleEncoder.from_pretrained(config.init_from, dtype=torch.float32).to(run.device).eval()
        if config.keep_space:
            cosine = return_to_space(best.encoder, tokenizer, start, held_out, held_out_mels)
            run.log_now(cosine_to_start=cosine)
        mix_weights(best.encoder, start, config.start_share)
    run.log_now(**evaluate(best, tokenizer, held_out, held_out_mels, config.seed)[0])
    run.print(", ".join(f"{name} {value:.3f}" for name, value in run.metrics.items()))
    card = model_card(
        f"RealTimeJazz style encoder ({config.size})",
        "Words or a clip of music to one unit vector of 512 numbers; both towers share the space. "
        f"`retrieval_by_text` is the share of held-out captions that find their take among {RETRIEVAL_SIZE} "
        "(chance 0.125), `retrieval_by_audio` the other way round, `retrieval_of_crops` by 5 seconds of it; "
        "`instruments_heard` and `instruments_gone` are the shares of crops with an instrument, and without, of "
        "which a linear head says so.",
        config, run.metrics, f"{len(takes)} composed takes with captions, {len(held_out)} held out",
    )  # fmt: skip
    # as it was learnt: one that was used carries the padding of its last batch
    fresh = RealTimeJazzTokenizer.from_pretrained(run.output_dir / "tokenizer")
    run.save_model(best.encoder, extras=[fresh], card=card)
    run.finish()
    return run.metrics


if __name__ == "__main__":
    main()
