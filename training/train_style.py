"""Train the style encoder: captions and 5-second crops of takes, drawn together (CLIP's contrastive loss).

    python training/train_style.py --config mini --data data/takes10h --output-dir runs/style-mini
    accelerate launch --multi_gpu training/train_style.py --config base --data data/takes --output-dir
    runs/style-base

Every setting of the config is an option too (`--max-minutes 10`, `--learning-rate 5e-4`). A killed run goes
on where it stopped when started again. OUTPUT_DIR/final is a folder for
`RealTimeJazzStyleEncoder.from_pretrained` and `AutoTokenizer.from_pretrained`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from rtjazz_hf.audio import SAMPLE_RATE, read_audio, whole_or_not_at_all
from rtjazz_hf.corpus.captions import caption
from rtjazz_hf.corpus.dataset import TakeRecord, load_takes
from rtjazz_hf.music import GENRES, INSTRUMENTS, KEYS, MOODS, ROLES, LeadSheet, parse_tags
from rtjazz_hf.style import (
    RealTimeJazzStyleEncoder,
    RealTimeJazzStyleEncoderConfig,
    RealTimeJazzTokenizer,
    train_tokenizer,
)
from rtjazz_hf.training_utils import (
    TrainConfig,
    TrainingRun,
    atomic_folder,
    build_config,
    input_errors,
    model_card,
    parameter_groups,
    parse_config,
    step_rng,
)

_tags = functools.cache(parse_tags)
CONFIGS = Path(__file__).parent / "configs"
RETRIEVAL_SIZE = 8
# Names people type; `parse_tags` knows what each stands for, and so which takes may be called so.
PLAYERS = (
    "Bill Evans", "John Coltrane", "Miles Davis", "McCoy Tyner", "Wayne Shorter", "Bobby Hutcherson",
    "Charlie Parker", "Dizzy Gillespie", "Thelonious Monk", "Bud Powell", "J.J. Johnson", "Art Blakey",
    "Horace Silver", "Lee Morgan", "Sonny Rollins", "Cannonball Adderley", "Jimmy Smith", "Grant Green",
    "Chet Baker", "Dave Brubeck", "Lee Konitz", "Milt Jackson", "Jim Hall", "Jobim", "Stan Getz",
    "Wes Montgomery", "Oscar Peterson", "Benny Goodman", "Lester Young", "Count Basie",
    "Duke Ellington",
)  # fmt: skip


@dataclass
class StyleTrainConfig(TrainConfig):
    """The shared settings and the style encoder's own."""

    data: str = ""  # folder of takes made by prepare_corpus.py
    size: str = "mini"  # mini or base
    model: dict = field(default_factory=dict)  # changes to that size
    batch_size: int = 64  # pairs per process; every other pair of the batch is a negative
    crop_seconds: float = 5.0
    cache_features: bool = True  # keep spectrograms on disk (0.6 MB a minute), else read crops as they come
    eval_every: int = 100
    eval_takes: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError(
                "data is missing: give --data, a folder of takes (see training/prepare_corpus.py)."
            )
        if self.size not in ("mini", "base"):
            raise ValueError(f"size must be mini or base, got {self.size!r}.")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, to have a contrast; got {self.batch_size}.")
        if not 0.5 <= self.crop_seconds <= 30:
            raise ValueError(f"crop_seconds must be in 0.5..30, got {self.crop_seconds}.")


def short_prompt(lead_sheet: LeadSheet, rng: np.random.Generator) -> str:
    """A few words as people type them: some of mood, tempo, genre, key, instruments, a player, in any
    order."""
    playing = sorted({name for section in lead_sheet.sections for name in section.instruments})
    words = [
        lead_sheet.genre,
        lead_sheet.mood,
        f"{lead_sheet.tempo:.0f} bpm",
        f"in {lead_sheet.key}",
        *playing,
    ]
    for player in PLAYERS:
        tags = _tags(player)
        if tags.genre == lead_sheet.genre and set(tags.instruments or ()) <= set(playing):
            words += [player, player]
    # the genre says most about a style: half of the prompts name it
    weights = np.array([4.0, 1.5, 1.0, 0.3] + [1.0] * (len(words) - 4))
    count = min(len(words), int(rng.integers(1, 5)))
    chosen = [words[i] for i in rng.choice(len(words), count, replace=False, p=weights / weights.sum())]
    return (", " if rng.random() < 0.5 else " ").join(dict.fromkeys(chosen)).replace("_", " ")


def draw_caption(take: TakeRecord, rng: np.random.Generator) -> str:
    """One of the take's own captions, a newly worded one, or a short prompt."""
    kind = rng.random()
    if kind < 0.35 and take.captions:
        return str(rng.choice(take.captions))
    return caption(take.lead_sheet, rng) if kind < 0.65 else short_prompt(take.lead_sheet, rng)


def tokenizer_texts(takes: Sequence[TakeRecord], seed: int) -> list[str]:
    """What the tokenizer learns from: captions, re-drawn ones, and every word the band leader knows."""
    texts = [text for take in takes for text in take.captions]
    for index, take in enumerate(takes):
        rng = step_rng(seed, index, 2)
        texts += [caption(take.lead_sheet, rng), short_prompt(take.lead_sheet, rng)]
    vocabulary = [
        word.replace("_", " ") for words in (INSTRUMENTS, GENRES, MOODS, ROLES, KEYS) for word in words
    ]
    return texts + [*vocabulary, *PLAYERS] * 3


def cache_log_mels(
    takes: Sequence[TakeRecord], model: RealTimeJazzStyleEncoder, folder: Path, run: TrainingRun
) -> list[np.ndarray]:
    """The log-mel spectrogram `(frames, bands)` float16 of each take, from disk; the missing ones are made
    first."""
    config = model.config
    folder = folder / f"log_mel_{config.n_fft}_{config.hop_length}_{config.num_mel_bins}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{Path(take.path).parent.name}.npy" for take in takes]
    missing = [(take, file) for take, file in zip(takes, files) if not file.is_file()]
    mine = missing[run.accelerator.process_index :: run.accelerator.num_processes]
    for take, file in tqdm(mine, desc="spectrograms", unit="take", disable=not run.is_main or not mine):
        log_mel = model.audio_front_end(torch.from_numpy(read_audio(take.path))[None].to(run.device))[0]
        with whole_or_not_at_all(file) as partial:
            np.save(partial, log_mel.cpu().numpy().astype(np.float16))
    run.accelerator.wait_for_everyone()
    return [np.load(file, mmap_mode="r") for file in files]


def make_batch_function(
    takes: Sequence[TakeRecord],
    tokenizer: RealTimeJazzTokenizer,
    config: StyleTrainConfig,
    model_config: RealTimeJazzStyleEncoderConfig,
    log_mels: list[np.ndarray] | None,
) -> Callable[[np.random.Generator], dict[str, torch.Tensor]]:
    """`make_batch(rng)`: crops (spectrograms if cached, else sound) with captions; short takes are padded."""
    crop_frames = round(config.crop_seconds * model_config.frame_rate)
    crop_samples = crop_frames * model_config.hop_length

    def make_batch(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        rows = rng.choice(len(takes), config.batch_size, replace=config.batch_size > len(takes))
        captions = [draw_caption(takes[row], rng) for row in rows]
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        names = np.array([" ".join(sorted(text.lower().replace(",", " ").split())) for text in captions])
        same = (names[:, None] == names[None]) | (rows[:, None] == rows[None])
        batch = {
            "input_ids": tokens.input_ids,
            "attention_mask": tokens.attention_mask,
            "ignore_mask": torch.from_numpy(same),
        }
        lengths = []
        if log_mels is not None:
            clips = np.full((len(rows), crop_frames, model_config.num_mel_bins), -8.0, np.float32)
            for clip, row in zip(clips, rows):
                start = int(rng.integers(0, max(1, len(log_mels[row]) - crop_frames + 1)))
                part = log_mels[row][start : start + crop_frames]
                clip[: len(part)] = part
                lengths.append(len(part) * model_config.hop_length)
            batch["log_mel"] = torch.from_numpy(clips)
        else:
            clips = np.zeros((len(rows), 2, crop_samples), np.float32)
            for clip, row in zip(clips, rows):
                part = read_crop(takes[row], crop_samples, rng)
                clip[:, : part.shape[1]] = part
                lengths.append(part.shape[1])
            batch["audio"] = torch.from_numpy(clips)
        return {**batch, "audio_lengths": torch.tensor(lengths)}

    return make_batch


def read_crop(take: TakeRecord, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of a take's file, `(2, samples)` or shorter, without decoding the rest."""
    import soundfile

    seconds = soundfile.info(take.path).duration
    start = rng.uniform(0.0, max(0.0, seconds - samples / SAMPLE_RATE))
    return read_audio(take.path, start=start, duration=samples / SAMPLE_RATE)[:, :samples]


@torch.no_grad()
def evaluate(
    model: RealTimeJazzStyleEncoder,
    tokenizer: RealTimeJazzTokenizer,
    takes: Sequence[TakeRecord],
    log_mels: list[np.ndarray],
    seed: int,
) -> tuple[dict[str, float], np.ndarray]:
    """Retrieval among 8 held-out takes, both ways (chance 0.125), and a picture of one such group."""
    device = next(model.parameters()).device
    texts = [draw_caption(take, step_rng(seed, index, 3)) for index, take in enumerate(takes)]
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
    text_embeds = model(**tokens).text_embeds
    clips = [torch.from_numpy(np.array(log_mel, np.float32))[None].to(device) for log_mel in log_mels]
    audio_embeds = torch.cat([model(log_mel=clip).audio_embeds for clip in clips])
    similarity = (text_embeds @ audio_embeds.T).float().cpu()
    rng = step_rng(seed, 4)
    size = min(RETRIEVAL_SIZE, len(takes))
    by_text, by_audio, group = [], [], np.arange(size)
    for _ in range(200):
        group = rng.choice(len(takes), size, replace=False)
        part, truth = similarity[group][:, group], torch.arange(size)
        by_text.append((part.argmax(1) == truth).float().mean().item())
        by_audio.append((part.argmax(0) == truth).float().mean().item())
    metrics = {"retrieval_by_text": float(np.mean(by_text)), "retrieval_by_audio": float(np.mean(by_audio))}
    picture = similarity[group][:, group].numpy()
    return metrics, np.kron((picture + 1) / 2, np.ones((16, 16), np.float32))


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
            model = RealTimeJazzStyleEncoder.from_pretrained(config.init_from)
        else:
            make_config = getattr(RealTimeJazzStyleEncoderConfig, config.size)
            model = RealTimeJazzStyleEncoder(build_config(make_config, config.model))
    model.to(run.device)
    model_config = model.config
    tokenizer = load_or_train_tokenizer(config, takes, model_config.vocab_size, run)
    run.print(f"{model.num_parameters() / 1e6:.2f}M parameters, {len(tokenizer)} tokens, {len(takes)} takes")
    held_out_mels = cache_log_mels(held_out, model, run.output_dir, run)
    log_mels = cache_log_mels(takes, model, run.output_dir, run) if config.cache_features else None

    run.make_ema(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )
    model, optimizer = run.prepare(model, optimizer)
    run.resume()
    model.train()
    for batch in run.batches(make_batch_function(takes, tokenizer, config, model_config, log_mels)):
        with run.accelerator.accumulate(model):
            output = model(**batch, return_loss=True)
            run.backward(output.loss, model, optimizer)
        hits = output.logits_per_text.detach().masked_fill(batch["ignore_mask"], -torch.inf).amax(dim=1)
        accuracy = (output.logits_per_text.detach().diagonal() >= hits).float().mean()
        run.log(loss=output.loss, accuracy=accuracy)
        if run.due(config.eval_every):
            metrics, picture = evaluate(run.weights(model), tokenizer, held_out, held_out_mels, config.seed)
            run.log_now(**metrics)
            run.log_picture("similarity", picture)
            model.train()

    best = run.weights(model).eval()
    run.log_now(**evaluate(best, tokenizer, held_out, held_out_mels, config.seed)[0])
    run.print(", ".join(f"{name} {value:.3f}" for name, value in run.metrics.items()))
    card = model_card(
        f"RealTimeJazz style encoder ({config.size})",
        "Words or a clip of music to one unit vector of 512 numbers; both towers share the space. "
        f"`retrieval_by_text` is the share of held-out captions that find their take among {RETRIEVAL_SIZE} "
        "(chance 0.125), `retrieval_by_audio` the other way round.",
        config, run.metrics, f"{len(takes)} composed takes with captions, {len(held_out)} held out",
    )  # fmt: skip
    run.save_model(best, extras=[tokenizer], card=card)
    run.finish()
    return run.metrics


if __name__ == "__main__":
    main()
