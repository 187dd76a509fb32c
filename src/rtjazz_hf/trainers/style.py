"""
What the training of a style encoder is made of: settings, what people type, crops, losses, measures. The loop is in
`training/train_style.py`.

Beside CLIP's contrastive loss, a linear head reads from either tower's unit vector what the take is (who plays, who
leads, genre, mood, tempo). It is thrown away at the end; what it asks for stays in the embedding, where evaluation's
probes and the flow look for it. The contrastive loss alone hears an instrument only as far as captions of one batch
differ by it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..audio import SAMPLE_RATE, read_audio
from ..corpus.captions import caption
from ..corpus.dataset import TakeRecord
from ..music import GENRES, INSTRUMENTS, KEYS, MOODS, ROLES, LeadSheet, parse_tags
from ..runtime.files import whole_or_not_at_all
from ..style import (
    RealTimeJazzStyleEncoder,
    RealTimeJazzStyleEncoderConfig,
    RealTimeJazzTokenizer,
    contrastive_loss,
)
from .run import TrainConfig, step_rng

RETRIEVAL_SIZE = 8
EVALUATION_CROP_SECONDS = 5.0
SILENT_MEL = -8.0  # what the front end gives for silence
_tags = functools.cache(parse_tags)
# Names people type; `parse_tags` knows what each stands for, and so which takes may be called so.
PLAYERS = (
    "Bill Evans", "John Coltrane", "Miles Davis", "McCoy Tyner", "Wayne Shorter", "Bobby Hutcherson",
    "Charlie Parker", "Dizzy Gillespie", "Thelonious Monk", "Bud Powell", "J.J. Johnson", "Art Blakey",
    "Horace Silver", "Lee Morgan", "Sonny Rollins", "Cannonball Adderley", "Jimmy Smith", "Grant Green",
    "Chet Baker", "Dave Brubeck", "Lee Konitz", "Milt Jackson", "Jim Hall", "Jobim", "Stan Getz",
    "Wes Montgomery", "Oscar Peterson", "Benny Goodman", "Lester Young", "Count Basie",
    "Duke Ellington",
)  # fmt: skip
# A mean and a deviation of log2(BPM) that bring the tempi of jazz near unit variance.
_TEMPO_CENTRE, _TEMPO_SPREAD = 7.0, 0.5
# The facts and their widths, in the order of the head's outputs.
_FACTS = {
    "playing": len(INSTRUMENTS),
    "leading": len(INSTRUMENTS),
    "genre": len(GENRES),
    "mood": len(MOODS),
    "tempo": 1,
}


@dataclass
class StyleTrainConfig(TrainConfig):
    """The shared settings and the style encoder's own."""

    data: str = ""  # folder of takes made by prepare_corpus.py
    size: str = "mini"  # mini or base
    model: dict = field(default_factory=dict)  # changes to that size
    batch_size: int = 64  # pairs per process; every other pair of the batch is a negative
    min_crop_seconds: float = 3.0  # each batch has crops of one length, drawn from here to crop_seconds
    crop_seconds: float = 8.0
    facts_weight: float = 0.3  # of the head that reads band, lead, genre, mood and tempo; 0 = contrast alone
    equalizer_db: float = 4.0  # deviation of a random tone control of 6 bands, on each crop
    mask_rate: float = (
        0.5  # share of crops that lose a band of frequencies and a stretch of time (SpecAugment)
    )
    keep_space: bool = True  # with init_from: turn the space back to the starting model's, see `align_space`
    # With init_from: share of the starting model's weights in those that are kept, see `mix_weights`; 0 for none.
    start_share: float = 0.0
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
        if not 0.5 <= self.min_crop_seconds <= self.crop_seconds <= 30:
            raise ValueError(
                "0.5 <= min_crop_seconds <= crop_seconds <= 30 must hold, "
                f"got {self.min_crop_seconds} and {self.crop_seconds}."
            )
        if not 0 <= self.start_share <= 1:
            raise ValueError(f"start_share must be in 0..1, got {self.start_share}.")
        for name in ("facts_weight", "equalizer_db"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if not 0 <= self.mask_rate <= 1:
            raise ValueError(f"mask_rate must be in 0..1, got {self.mask_rate}.")


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


def facts_of(lead_sheet: LeadSheet, start: float = 0.0, duration: float | None = None) -> np.ndarray:
    """What the head is to read, float32 `(60,)`: for each of `INSTRUMENTS` the share of the time that it plays,
    then that it leads; genre and mood one-hot; log2 of the tempo, near unit variance.

    `start` and `duration` (s) name a part of the take; without a duration, an instrument that plays at any time
    counts 1: so a caption speaks of a take.
    """
    playing, leading = np.zeros((2, len(INSTRUMENTS)), np.float32)
    begin = lead_sheet.beat_at(start)
    end = lead_sheet.beat_at(start + duration) if duration else math.inf
    for section in lead_sheet.sections:
        inside = min(end, section.end_beat) - max(begin, section.start_beat)
        if inside <= 0:
            continue
        share = inside / (end - begin) if duration else 1.0
        names = [INSTRUMENTS.index(name) for name in section.instruments]
        playing[names] += share
        if section.lead is not None:
            leading[INSTRUMENTS.index(section.lead)] += share
    one_hot = np.zeros(len(GENRES) + len(MOODS), np.float32)
    one_hot[GENRES.index(lead_sheet.genre)] = one_hot[len(GENRES) + MOODS.index(lead_sheet.mood)] = 1.0
    tempo = (math.log2(lead_sheet.tempo) - _TEMPO_CENTRE) / _TEMPO_SPREAD
    return np.concatenate([playing.clip(0, 1), leading.clip(0, 1), one_hot, [np.float32(tempo)]])


def facts_loss(predicted: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
    """The sum of cross-entropies (binary ones for who plays and leads) and the squared error of the tempo, of
    `(batch, facts)` outputs against `facts_of`; mean over the batch."""
    predicted, facts = predicted.float(), facts.float()
    widths = list(_FACTS.values())
    total = predicted.new_zeros(())
    for name, guess, truth in zip(
        _FACTS, predicted.split(widths, dim=1), facts.split(widths, dim=1), strict=True
    ):
        if name in ("playing", "leading"):
            total = total + nn.functional.binary_cross_entropy_with_logits(
                guess, truth, reduction="sum"
            ) / len(guess)
        elif name == "tempo":
            total = total + nn.functional.mse_loss(guess, truth)
        else:
            total = total + nn.functional.cross_entropy(guess, truth)
    return total


class StyleLearner(nn.Module):
    """A style encoder with the head that reads the facts from both towers, and what training does to crops.

    `forward` takes a batch of `make_batch_function` and gives `loss` (to descend), `contrast`, `facts`, and the
    similarities `logits_per_text`.
    """

    def __init__(self, encoder: RealTimeJazzStyleEncoder, config: StyleTrainConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.projection_dim, sum(_FACTS.values()))
        self.facts_weight = config.facts_weight
        self.equalizer_db, self.mask_rate = config.equalizer_db, config.mask_rate

    def read_facts(self, embeds: torch.Tensor) -> torch.Tensor:
        """Unit vectors `(batch, dim)` to logits, and the tempo, `(batch, facts)`."""
        return self.head(embeds * math.sqrt(embeds.shape[-1]))  # of unit variance, as a linear layer likes it

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        ignore_mask: torch.Tensor,
        clip_facts: torch.Tensor,
        take_facts: torch.Tensor,
        audio_lengths: torch.Tensor,
        log_mel: torch.Tensor | None = None,
        audio: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        if log_mel is None:
            log_mel = self.encoder.audio_front_end(audio)
        if self.training:
            log_mel = augment_log_mel(log_mel, self.equalizer_db, self.mask_rate)
        output = self.encoder(input_ids, attention_mask, log_mel=log_mel, audio_lengths=audio_lengths)
        contrast = contrastive_loss(output.logits_per_text, ignore_mask)
        facts = facts_loss(self.read_facts(output.audio_embeds), clip_facts)
        facts = facts + facts_loss(self.read_facts(output.text_embeds), take_facts)
        loss = contrast + self.facts_weight * facts
        return {
            "loss": loss,
            "contrast": contrast,
            "facts": facts,
            "logits_per_text": output.logits_per_text,
        }


def augment_log_mel(log_mel: torch.Tensor, equalizer_db: float, mask_rate: float) -> torch.Tensor:
    """Crops `(batch, frames, bands)` of log10 power as another desk or another room would give them.

    A smooth random tone control over the bands; and on a share of the crops, one band of up to an eighth of the
    bands and one stretch of up to a fifth of the time fall silent (SpecAugment, Park et al. 2019).
    """
    batch, frames, bands = log_mel.shape
    device = log_mel.device
    knobs = torch.randn(batch, 1, 6, device=device) * equalizer_db / 10
    log_mel = log_mel + nn.functional.interpolate(knobs, size=bands, mode="linear", align_corners=True)
    for dim, size, most in ((2, bands, bands // 8), (1, frames, frames // 5)):
        width = torch.rand(batch, 1, device=device) * most
        width = width * (torch.rand(batch, 1, device=device) < mask_rate)
        place = torch.arange(size, device=device) - torch.rand(batch, 1, device=device) * (size - width)
        silent = (place >= 0) & (place < width)  # (batch, size)
        log_mel = log_mel.masked_fill(silent[:, None] if dim == 2 else silent[..., None], SILENT_MEL)
    return log_mel


def cache_log_mels(
    takes: Sequence[TakeRecord], model: RealTimeJazzStyleEncoder, folder: Path, share: slice = slice(None)
) -> list[Path]:
    """The files of the log-mel spectrograms `(frames, bands)` float16 of the takes, made where missing.

    Args:
        share: which of the missing ones this process makes.
    """
    config = model.config
    folder = folder / f"log_mel_{config.n_fft}_{config.hop_length}_{config.num_mel_bins}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{Path(take.path).parent.name}.npy" for take in takes]
    missing = [(take, file) for take, file in zip(takes, files, strict=True) if not file.is_file()][share]
    for take, file in tqdm(missing, desc="spectrograms", unit="take", disable=not missing):
        log_mel = model.audio_front_end(torch.from_numpy(read_audio(take.path))[None].to(model.device))[0]
        with whole_or_not_at_all(file) as partial:
            np.save(partial, log_mel.cpu().numpy().astype(np.float16))
    return files


def make_batch_function(
    takes: Sequence[TakeRecord],
    tokenizer: RealTimeJazzTokenizer,
    config: StyleTrainConfig,
    model_config: RealTimeJazzStyleEncoderConfig,
    log_mels: Sequence[np.ndarray] | None,
) -> Callable[[np.random.Generator], dict[str, torch.Tensor]]:
    """`make_batch(rng)`: crops (spectrograms if cached, else sound) with captions and facts; short takes are
    padded."""
    hop = model_config.hop_length
    hop_seconds = hop / SAMPLE_RATE

    def make_batch(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        rows = rng.choice(len(takes), config.batch_size, replace=config.batch_size > len(takes))
        captions = [draw_caption(takes[row], rng) for row in rows]
        crop_frames = round(rng.uniform(config.min_crop_seconds, config.crop_seconds) / hop_seconds)
        if log_mels is not None:
            name, empty = "log_mel", np.full((crop_frames, model_config.num_mel_bins), SILENT_MEL, np.float32)
        else:
            name, empty = "audio", np.zeros((2, crop_frames * hop), np.float32)
        clips, lengths, clip_facts = np.stack([empty] * len(rows)), [], []
        for clip, row in zip(clips, rows, strict=True):
            if log_mels is not None:
                first = int(rng.integers(0, max(1, len(log_mels[row]) - crop_frames + 1)))
                part, start = log_mels[row][first : first + crop_frames], first * hop_seconds
                clip[: len(part)] = part
                lengths.append(len(part) * hop)
            else:
                part, start = read_crop(takes[row], crop_frames * hop, rng)
                clip[:, : part.shape[1]] = part
                lengths.append(part.shape[1])
            clip_facts.append(facts_of(takes[row].lead_sheet, start, lengths[-1] / SAMPLE_RATE))
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        names = np.array([" ".join(sorted(text.lower().replace(",", " ").split())) for text in captions])
        same = (names[:, None] == names[None]) | (rows[:, None] == rows[None])
        return {
            "input_ids": tokens.input_ids,
            "attention_mask": tokens.attention_mask,
            "ignore_mask": torch.from_numpy(same),
            "clip_facts": torch.from_numpy(np.stack(clip_facts)),
            "take_facts": torch.from_numpy(np.stack([facts_of(takes[row].lead_sheet) for row in rows])),
            "audio_lengths": torch.tensor(lengths),
            name: torch.from_numpy(clips),
        }

    return make_batch


def read_crop(take: TakeRecord, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A random part of a take's file, `(2, samples)` or shorter, without decoding the rest; and its start
    (s)."""
    import soundfile

    seconds = soundfile.info(take.path).duration
    start = rng.uniform(0.0, max(0.0, seconds - samples / SAMPLE_RATE))
    return read_audio(take.path, start=start, duration=samples / SAMPLE_RATE)[:, :samples], start


@torch.no_grad()
def evaluate(
    learner: StyleLearner,
    tokenizer: RealTimeJazzTokenizer,
    takes: Sequence[TakeRecord],
    log_mels: Sequence[np.ndarray],
    seed: int,
) -> tuple[dict[str, float], np.ndarray]:
    """Measures on held-out takes, and a picture of the similarities of eight.

    Retrieval among 8 takes, both ways (chance 0.125): `retrieval_by_text` and `retrieval_by_audio` hear whole
    takes, `retrieval_of_crops` finds a crop of 5 s by its text. `instruments_heard` and `instruments_gone`: of the
    crops with an instrument, and of those without, the share that the head says so of; mean over instruments.
    """
    encoder, device = learner.encoder, learner.head.weight.device
    texts = [draw_caption(take, step_rng(seed, index, 3)) for index, take in enumerate(takes)]
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
    text_embeds = encoder.encode_text(**tokens)
    frames = round(EVALUATION_CROP_SECONDS * encoder.config.frame_rate)
    audio_embeds, crop_embeds, playing = [], [], []
    for take, log_mel in zip(takes, log_mels, strict=True):
        whole = torch.from_numpy(np.array(log_mel, np.float32)).to(device)
        starts = [max(0, len(whole) - frames) * part // 4 for part in (1, 3)]
        crops = torch.stack([whole[start : start + frames] for start in starts])
        audio_embeds.append(encoder.encode_audio(log_mel=whole[None]))
        crop_embeds.append(encoder.encode_audio(log_mel=crops))
        for start in starts:
            facts = facts_of(take.lead_sheet, start / encoder.config.frame_rate, EVALUATION_CROP_SECONDS)
            playing.append(facts[: len(INSTRUMENTS)])
    similarity = (text_embeds @ torch.cat(audio_embeds).T).float().cpu()
    of_crops = (text_embeds @ torch.stack(crop_embeds)[:, 0].T).float().cpu()
    rng = step_rng(seed, 4)
    size = min(RETRIEVAL_SIZE, len(takes))
    hits, group, truth = [], np.arange(size), torch.arange(size)
    for _ in range(200):
        group = rng.choice(len(takes), size, replace=False)
        part, crop_part = (matrix[group][:, group] for matrix in (similarity, of_crops))
        found = [part.argmax(1), part.argmax(0), crop_part.argmax(1)]
        hits.append([(each == truth).float().mean().item() for each in found])
    names = ("retrieval_by_text", "retrieval_by_audio", "retrieval_of_crops")
    metrics = {name: float(value) for name, value in zip(names, np.mean(hits, axis=0), strict=True)}
    says = learner.read_facts(torch.cat(crop_embeds))[:, : len(INSTRUMENTS)].cpu().numpy() > 0
    metrics |= instrument_shares(says, np.stack(playing) > 0.5)
    picture = similarity[group][:, group].numpy()
    return metrics, np.kron((picture + 1) / 2, np.ones((16, 16), np.float32))


def instrument_shares(says: np.ndarray, plays: np.ndarray) -> dict[str, float]:
    """`instruments_heard` and `instruments_gone` of two bool arrays `(crops, instruments)`: mean over those
    instruments that play in some crops and not in others; 0 where there is none."""
    judged = plays.any(axis=0) & ~plays.all(axis=0)
    says, plays = says[:, judged], plays[:, judged]
    if not judged.any():
        return {"instruments_heard": 0.0, "instruments_gone": 0.0}
    heard = (says & plays).sum(axis=0) / plays.sum(axis=0)
    gone = (~says & ~plays).sum(axis=0) / (~plays).sum(axis=0)
    return {"instruments_heard": float(heard.mean()), "instruments_gone": float(gone.mean())}


@torch.no_grad()
def mix_weights(model: nn.Module, start: nn.Module, share: float) -> None:
    """Give `model`, in place, `share` of the weights of `start`, which it was learnt on from (Wortsman et al., 2022,
    "Robust fine-tuning of zero-shot models"): it hears what is new to it nearly as well, and unlearns less of what the
    takes that it went on with lack."""
    old = start.state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(old[name].to(tensor), share)


@torch.no_grad()
def align_space(
    model: RealTimeJazzStyleEncoder, embeds: torch.Tensor, reference: torch.Tensor
) -> torch.Tensor:
    """Turn a model's space so that its `embeds` `(items, dim)` lie as near as can be to `reference`, the same items
    in another model's space; the turned embeddings.

    The orthogonal Procrustes solution (Schönemann 1966), folded into both projections: similarities within the
    model stay what they are, and a flow trained on the other model's styles finds them near their old places.
    """
    left, _, right = torch.linalg.svd(embeds.double().T @ reference.double())
    turn = (left @ right).to(embeds.dtype)  # (dim, dim)
    for projection in (model.text_projection, model.audio_projection):
        projection.weight.copy_((turn.T.double() @ projection.weight.double()).to(projection.weight.dtype))
    return embeds @ turn
