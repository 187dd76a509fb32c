"""The steps from what was asked for to what is played: checks, style, lead sheet, features, noise, a stream.

Whole clips and live sessions take the same ones: the pipeline has them, and so has the bundle of models that a session
holds.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..band import Band, PhraseMemory, Score, check_parts, conditions_of, fit_melody
from ..band.band_leader import NotPlayed, told, write_lead_sheet
from ..band.parts import tell
from ..charts import chart_text, sent_text
from ..music import LeadSheet
from ..music.vocabulary import canonical_instrument
from ..prompts import Prompt, check_duration, check_settings, mix_of, words_of
from ..style import mix_styles
from .engine import BlockStream, draw_noise

if TYPE_CHECKING:
    from ..adapters import AdapterBank
    from ..codec import RealTimeJazzCodec
    from ..flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
    from ..style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer

OUTPUT_TYPES = ("np", "pt", "codes", "latents")
_DECODE_FRAMES = 750  # decoded at a time: 10 s


def bands_of(instruments: Any, rows: int) -> list[Any]:
    """The band that each row asks for: one for all, or a list of lists, one for each prompt."""
    several = isinstance(instruments, (list, tuple)) and any(isinstance(band, (list, tuple)) for band in instruments)
    if not several:
        return [instruments] * rows
    if len(instruments) != rows or not all(isinstance(band, (list, tuple)) for band in instruments):
        raise ValueError(f"instruments {instruments!r} for {rows} prompts: give one band, or a list of one for each")
    return list(instruments)


def _left_out(instruments: Sequence[str] | str | None) -> list[str]:
    names = instruments.split(",") if isinstance(instruments, str) else instruments or ()
    return [canonical_instrument(name.strip()[1:]) for name in names if name.strip().startswith("-")]


class PlayingSteps:
    """The steps, for whoever has the models, the loaded adapters, the settings and a device."""

    codec: RealTimeJazzCodec
    transformer: RealTimeJazzFlowTransformer
    style_encoder: RealTimeJazzStyleEncoder
    tokenizer: RealTimeJazzTokenizer
    scheduler: FlowMatchScheduler
    adapter_bank: AdapterBank
    generation_defaults: dict[str, Any]
    execution_device: torch.device

    def check_inputs(
        self,
        prompt: Prompt | list[Prompt],
        *,
        duration: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        block_frames: int | None = None,
        window_frames: int | None = None,
        lead_sheet: LeadSheet | Sequence[LeadSheet] | None = None,
        output_type: str = "np",
        melody: Score | str | os.PathLike | None = None,
        score: Score | Sequence[Score] | None = None,
        parts: str | None = None,
        **sheet_wishes: Any,
    ) -> None:
        """Refuse what cannot be played, before anything is computed; lead sheets check the `sheet_wishes`
        themselves.

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        batch = prompt if isinstance(prompt, list) else [prompt]
        if not batch:
            raise ValueError("prompt is an empty list; give at least one prompt")
        for item in batch:
            mix_of(item)
        if duration is not None:
            check_duration(duration)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}: choose from {', '.join(OUTPUT_TYPES)}")
        check_settings(num_inference_steps, guidance_scale, block_frames, window_frames)
        sheets = [lead_sheet] if isinstance(lead_sheet, LeadSheet) else lead_sheet
        if sheets is not None and not (
            isinstance(sheets, (list, tuple)) and all(isinstance(s, LeadSheet) for s in sheets)
        ):
            raise ValueError(f"lead_sheet {lead_sheet!r}: give a LeadSheet, or one for each prompt")
        if sheets is not None and len(sheets) not in (1, len(batch)):
            raise ValueError(
                f"{len(sheets)} lead sheets for {len(batch)} prompts: give one, or one for each prompt"
            )
        self._check_notes(melody, score, parts, len(batch))
        if training := [n for n in ("codec", "transformer", "style_encoder") if getattr(self, n).training]:
            warnings.warn(
                f"{', '.join(training)} is in training mode and sounds otherwise: pipe.{training[0]}.eval()",
                stacklevel=3,
            )

    def _check_notes(self, melody: Any, score: Any, parts: Any, rows: int) -> None:
        if parts is not None:
            check_parts(parts)
        if not (melody is None or isinstance(melody, (Score, str, os.PathLike))):
            raise ValueError(f"melody {melody!r}: give a Score, or the path of a file of notes")
        scores = [score] if isinstance(score, Score) else score
        if scores is not None and not (
            isinstance(scores, (list, tuple)) and scores and all(isinstance(each, Score) for each in scores)
        ):
            raise ValueError(f"score {score!r}: give a Score, or one for each prompt")
        if scores is not None and len(scores) not in (1, rows):
            raise ValueError(f"{len(scores)} scores for {rows} prompts: give one, or one for each prompt")
        if score is not None and (melody is not None or parts is not None):
            raise ValueError(
                "score says all that is told: leave melody and parts out, or give the melody alone and let the band "
                "write the rest"
            )
        if not self.transformer.config.score_dim:
            wishes = {"melody": melody is not None, "score": score is not None, "parts='band'": parts == "band"}
            if asked := [name for name, given in wishes.items() if given]:
                raise ValueError(
                    f"{', '.join(asked)}: this model reads chords and no notes (its score_dim is 0); load one that was "
                    "trained with notes, or leave them out (parts='free')"
                )

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt | list[Prompt]) -> torch.Tensor:
        """Words, clips and mixes of them to style embeddings `(batch, style_dim)` of unit length, float32.

        "in the style of <name>" in the words calls the learnt style of a loaded adapter, where there is one.
        """
        rows = []
        for item in prompt if isinstance(prompt, list) else [prompt]:
            parts, weights = zip(*mix_of(item))
            rows.append(mix_styles(torch.cat([self._encode_one(part) for part in parts]), weights))
        return torch.stack(rows)

    def _check_embeds(self, embeds: torch.Tensor, rows: int) -> torch.Tensor:
        """Style embeddings that were given, one for all rows or one each, where the models compute."""
        width = self.style_encoder.config.projection_dim
        good = isinstance(embeds, torch.Tensor) and embeds.ndim == 2 and embeds.shape[1] == width
        if not good or len(embeds) not in (1, rows) or not torch.isfinite(embeds).all():
            shape = tuple(embeds.shape) if isinstance(embeds, torch.Tensor) else type(embeds).__name__
            raise ValueError(f"prompt_embeds {shape}: give finite ({rows}, {width}), as encode_prompt does")
        return embeds.to(self.execution_device, torch.float32).expand(rows, -1)

    def _encode_one(self, part: str | torch.Tensor) -> torch.Tensor:
        # one at a time, so that a prompt's embedding does not depend on how long its neighbours are
        if isinstance(part, str):
            return self.adapter_bank.encode_words(part, self._encode_text, self.execution_device)
        clip = part[None].to(self.execution_device, self.style_encoder.dtype)  # (1, 2, samples)
        return self.style_encoder.encode_audio(clip).float()

    def _encode_text(self, words: str) -> torch.Tensor:
        limit = self.style_encoder.config.max_position_embeddings
        tokens = self.tokenizer(words, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(self.execution_device)
        return self.style_encoder.encode_text(tokens["input_ids"], tokens["attention_mask"]).float()

    def prepare_lead_sheet(
        self,
        prompt: Prompt | list[Prompt],
        *,
        chords: str | Path | Sequence[str | Path] | None = None,
        tempo: float | Sequence[float] | None = None,
        key: str | Sequence[str] | None = None,
        mood: str | Sequence[str] | None = None,
        instruments: Sequence[str] | None = None,
        duration: float | None = None,
        lead_sheet: LeadSheet | Sequence[LeadSheet] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[LeadSheet]:
        """One lead sheet a prompt: those given, or written by the band leader from the prompt and the wishes.

        chords, tempo, key and mood are one for all, or one for each prompt; `instruments` is the band for
        all, or a list of bands, one for each. Without it, and where the words name none, a learnt style that they call
        brings its own. What words and charts ask for and nobody plays is told by a `NotPlayed` warning each.
        """
        prompts = prompt if isinstance(prompt, list) else [prompt]
        if lead_sheet is not None:
            sheets = [lead_sheet] if isinstance(lead_sheet, LeadSheet) else list(lead_sheet)
            return sheets * len(prompts) if len(sheets) == 1 else sheets
        chords = each_chart(chords, sent_text)
        wishes = {"chords": chords, "tempo": tempo, "key": key, "mood": mood}
        for name, value in wishes.items():
            if isinstance(value, (list, tuple)) and len(value) != len(prompts):
                raise ValueError(
                    f"{len(value)} values of {name} for {len(prompts)} prompts: give one, or one for each"
                )
        bands = bands_of(instruments, len(prompts))
        sheets = []
        for row, item in enumerate(prompts):
            words, band = self.adapter_bank.called_band(words_of(item))
            for line in told(words, chords[row] if isinstance(chords, (list, tuple)) else chords):
                warnings.warn(f"not played: {line}", NotPlayed, stacklevel=3)
            sheets.append(
                write_lead_sheet(
                    words,
                    **{name: v[row] if isinstance(v, (list, tuple)) else v for name, v in wishes.items()},
                    instruments=bands[row],
                    regulars=band,
                    duration=duration,
                    seed=seeds[row] if seeds is not None else 0,
                )
            )
        return sheets

    @property
    def default_parts(self) -> str:
        """What `parts` is where it is not given: "band" where the transformer reads notes, else "free"."""
        return "band" if self.transformer.config.score_dim else "free"

    def prepare_melody(self, melody: Score | str | os.PathLike | None) -> Score | None:
        """A melody as a score, in the precision that files keep."""
        if melody is None:
            return None
        score = melody if isinstance(melody, Score) else Score.from_file(melody)
        if not score.notes:
            raise ValueError("the melody has no notes: give a Score, or a file, that has some")
        return Score.from_dict(score.to_dict())

    def prepare_phrases(self, prompt: Prompt) -> PhraseMemory | None:
        """The habits of the player whose learnt style the words of a prompt call; None where nobody's are known."""
        return self.adapter_bank.called_phrases(words_of(prompt))

    def prepare_parts(
        self,
        lead_sheets: Sequence[LeadSheet],
        seeds: Sequence[int],
        *,
        melody: Score | None = None,
        score: Score | Sequence[Score] | None = None,
        parts: str | None = None,
        instruments: Sequence[str] | None = None,
        prompt: Prompt | list[Prompt] | None = None,
    ) -> list[Band | Score | None]:
        """Who tells the transformer which notes are played, for each row: a band that goes by the row's seed, the score
        that was given, without the players whom `instruments` leaves out, or nobody. The solos of a band lean to the
        player whose learnt style the prompt calls."""
        if score is not None:
            scores = [score] if isinstance(score, Score) else list(score)
            scores = scores * len(lead_sheets) if len(scores) == 1 else scores
            bands = bands_of(instruments, len(scores))
            return [each.without_players(_left_out(band)) for each, band in zip(scores, bands)]
        parts = parts or self.default_parts
        if parts == "free" and melody is None:
            return [None] * len(lead_sheets)
        prompts = prompt if isinstance(prompt, list) else [prompt] * len(lead_sheets)
        bands = []
        for sheet, seed, words in zip(lead_sheets, seeds, prompts, strict=True):
            tune, said = (None, []) if melody is None else fit_melody(melody, sheet)
            phrases = None if words is None else self.prepare_phrases(words)
            for text in said:
                tell(text, None)
            bands.append(Band(sheet, seed, melody=tune, parts=parts, phrases=phrases))
        return bands

    def prepare_features(
        self,
        lead_sheets: Sequence[LeadSheet],
        start_frame: int,
        num_frames: int,
        parts: Sequence[Band | Score | None] | None = None,
    ) -> torch.Tensor:
        """What the transformer sees: `(batch, frames, feature_dim)` float32, of the lead sheets and, where it reads
        notes, of the `parts`."""
        score_dim, parts = self.transformer.config.score_dim, parts or [None] * len(lead_sheets)
        rows = [
            conditions_of(sheet, part, start_frame, num_frames, score_dim) for sheet, part in zip(lead_sheets, parts)
        ]
        return torch.from_numpy(np.stack(rows)).to(self.execution_device)

    def prepare_latents(self, generators: Sequence[torch.Generator], num_frames: int) -> torch.Tensor:
        """Noise `(batch, channels, frames)`, as the blocks draw it."""
        channels, sigma = self.transformer.config.num_channels, self.scheduler.init_noise_sigma
        return draw_noise(generators, num_frames, channels, self.execution_device, sigma)

    def prepare_stream(
        self,
        generators: Sequence[torch.Generator],
        block_frames: int | None = None,
        window_frames: int | None = None,
        transformer: RealTimeJazzFlowTransformer | None = None,
    ) -> BlockStream:
        """An empty performance, one row a generator, by the active adapters' transformer unless another is given."""
        return BlockStream(
            self.adapter_bank.model(self.transformer, self.adapter_bank.active_mix)
            if transformer is None  # a compiled model cannot be asked whether it is true
            else transformer,
            self.codec,
            self.scheduler,
            generators=generators,
            block_frames=block_frames or self.generation_defaults["block_frames"],
            window_frames=window_frames or self.generation_defaults["window_frames"],
            device=self.execution_device,
        )

    def prepare_generators(
        self, generator: torch.Generator | Sequence[torch.Generator] | None, batch_size: int
    ) -> list[torch.Generator]:
        """One generator a row; one for all is drawn from in turn; without any, torch's global one draws the seeds."""
        if generator is None:
            return [torch.Generator().manual_seed(draw_seed()) for _ in range(batch_size)]
        if isinstance(generator, torch.Generator):
            return [generator] * batch_size
        generators = list(generator) if isinstance(generator, (list, tuple)) else []
        if len(generators) != batch_size or not all(isinstance(g, torch.Generator) for g in generators):
            raise ValueError(
                f"generator {generator!r}: give one torch.Generator, such as torch.Generator().manual_seed(42), or a "
                f"list of {batch_size}, one for each prompt"
            )
        return generators

    def decode_latents(self, stream: BlockStream, latents: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Latents `(batch, latent_dim, frames)` to sound `(batch, 2, num_samples)`, in pieces."""
        pieces = [stream.decode(piece) for piece in latents.split(_DECODE_FRAMES, dim=-1)]
        return torch.cat(pieces, dim=-1)[..., :num_samples]


def draw_seed() -> int:
    """A seed from torch's global generator, small enough for every door (JavaScript's too)."""
    return int(torch.randint(2**53, ()))


def seeds_of(generators: Sequence[torch.Generator]) -> list[int]:
    """A seed a row for the band leader; rows that share a generator get neighbouring ones."""
    shared = len(generators) > 1 and all(generator is generators[0] for generator in generators)
    return [(g.initial_seed() + (row if shared else 0)) % 2**63 for row, g in enumerate(generators)]


def each_chart(chords: Any, read: Callable[[str], str]) -> Any:
    """Charts as text in the chart language, one or a list of them; files are opened where `read` does."""
    if isinstance(chords, (list, tuple)):
        return [each_chart(each, read) for each in chords]
    if isinstance(chords, Path):
        return chart_text(chords)
    return chords if chords is None else read(chords)
