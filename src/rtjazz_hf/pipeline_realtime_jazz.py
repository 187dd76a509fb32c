"""RealTimeJazzPipeline: whole clips with `pipe(...)`, endless music with `pipe.live(...)`."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput

from . import hub
from .adapters import AdapterBank, AdapterMixin
from .audio import HOP_LENGTH, SAMPLE_RATE
from .band import Band, Score
from .charts import chart_text
from .codec import RealTimeJazzCodec
from .flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
from .hub.parts import check_parts, for_the_transformer
from .hub.publishing import PushMixin
from .hub.saving import SavingMixin
from .live.models import LiveModels
from .live.opening import SessionsMixin, open_session
from .live.session import LiveSession
from .live.steps import PlayingSteps, draw_seed, each_chart, seeds_of
from .music import LeadSheet
from .prompts import (
    Prompt,
    changed_by_callback,
    check_callback_inputs,
    check_settings,
    refuse_others,
    repeat_rows,
)
from .runtime.aligned_weights import align_weights
from .runtime.engines import EngineMixin, check_engine, is_installed
from .runtime.precision import as_dtype, bfloat16_is_fast
from .style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer


@dataclass
class RealTimeJazzPipelineOutput(BaseOutput):
    """What a call of the pipeline gives back.

    Attributes:
        audios: `(batch, 2, samples)` float32 at 48 kHz, numpy or torch by `output_type`; None for codes and
        latents.
        lead_sheets: the lead sheet that each row followed.
        latents: `(batch, latent_dim, frames)` float32 tensor, 75 frames a second, normalised as the codec's
        are.
        codes: `(batch, codebooks, frames)` int64 tensor, with `output_type="codes"`.
        scores: the notes that the transformer was told for each row; what a score does not tell it made up.
        seeds: what each row's generator was seeded with: `torch.Generator().manual_seed(seed)` plays it again, alone.
            None where one generator was given for several rows, as those after the first begin in its middle.
    """

    audios: np.ndarray | torch.Tensor | None
    lead_sheets: list[LeadSheet]
    latents: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    scores: list[Score] | None = None
    seeds: list[int] | None = None


class RealTimeJazzPipeline(
    PlayingSteps, SessionsMixin, AdapterMixin, EngineMixin, PushMixin, SavingMixin, DiffusionPipeline
):
    """Jazz from words, a clip or a chord chart, at 48 kHz in stereo.

    Args:
        codec: sound to latents and back. transformer: noise to latents, block after block.
        style_encoder, tokenizer: words or a clip to a style embedding.
        scheduler: times and steps of the flow.
        num_inference_steps, guidance_scale: defaults of a call; what the model was found to play best with. Where
            nothing is said, those that a distilled transformer was made for, else 8 and 2.
        block_frames: frames that are generated at once (6, 12, 24, 36 or 48; 36 are 0.48 s).
        window_frames: how far back a new block hears, in frames (300 are 4 s).
    """

    def __init__(
        self,
        codec: RealTimeJazzCodec,
        transformer: RealTimeJazzFlowTransformer,
        style_encoder: RealTimeJazzStyleEncoder,
        tokenizer: RealTimeJazzTokenizer,
        scheduler: FlowMatchScheduler,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        block_frames: int | None = 36,
        window_frames: int | None = 300,
    ):
        super().__init__()
        self._adapters = AdapterBank()
        check_parts(
            codec=codec, transformer=transformer, style_encoder=style_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        best = transformer.config.sampling_defaults
        num_inference_steps = best["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        guidance_scale = best["guidance_scale"] if guidance_scale is None else guidance_scale
        block_frames = 36 if block_frames is None else block_frames
        window_frames = 300 if window_frames is None else window_frames
        for model in (codec, transformer, style_encoder):
            align_weights(model)
        self.register_modules(
            codec=codec,
            transformer=transformer,
            style_encoder=style_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        defaults = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "block_frames": block_frames,
            "window_frames": window_frames,
        }
        check_settings(**defaults)
        self.register_to_config(**defaults)
        self._models = LiveModels(
            codec, transformer, style_encoder, tokenizer, scheduler, self.generation_defaults,
            adapter_bank=self._adapters, find_device=self._find_device,
        )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        if name in hub.COMPONENTS and "_models" in self.__dict__:
            check_parts(**{**self.components, name: value})
            setattr(self._models, name, value)  # the sessions hear of it
        super().__setattr__(name, value)

    model_cpu_offload_seq = "style_encoder->transformer->codec"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]
    _interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether the call that is being answered ends with the block in the making."""
        return self._interrupt

    @property
    def models(self) -> LiveModels:
        """What live sessions hold of the pipeline."""
        self._models.generation_defaults, self._models.name_or_path = (
            self.generation_defaults,
            self.name_or_path,
        )
        return self._models

    @property
    def adapter_bank(self) -> AdapterBank:
        """The adapters that are loaded."""
        return self._adapters

    @property
    def execution_device(self) -> torch.device:
        """Where the models compute: the device that they lie on, or are brought to for it."""
        return self._find_device()

    def _find_device(self) -> torch.device:
        if not torch.accelerator.is_available():
            return torch.device("cpu")  # there is no other; diffusers looks at every module, 3 ms a block
        return self._execution_device

    @property
    def sampling_rate(self) -> int:
        """48,000 Hz."""
        return SAMPLE_RATE

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """Settings that a call uses where it is not told otherwise; saved with the pipeline."""
        return {
            name: self.config[name]
            for name in ("num_inference_steps", "guidance_scale", "block_frames", "window_frames")
        }

    # -- loading and saving --------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> RealTimeJazzPipeline:
        """Load a bundled pipeline ("rtjazz-mini", no network), a folder, or a pipeline from the Hub.

        Weights load as float32 unless `dtype` (`torch.bfloat16`, "bfloat16", ...) says otherwise. The codec
        stays float32 even then: it carries phases from block to block, which 16 bits blur. A dict such as
        `{"default": torch.bfloat16, "codec": torch.bfloat16}` overrules that. `quantization_config` (diffusers'
        `PipelineQuantizationConfig`) holds the transformer's layers in 8 or 4 bits. Other keywords are those of
        `DiffusionPipeline.from_pretrained`.

        Args:
            engine: what computes the flow's steps on a CPU: "openvino", "onnx", "torch", or "auto", which is OpenVINO
                where it is installed, pays, and no GPU is to be had. engine_precision: "float32" or, with OpenVINO,
                "bfloat16" or "int8"; "auto" chooses, unless `dtype` is given. See `use_engine`.

        Raises:
            OSError: not found, not reachable, or a file is missing or cut short.
            ValueError: a config that is wrong, or does not belong to its weights; or an unknown engine.
            ImportError: the engine is not installed.
        """
        engine, precision = kwargs.pop("engine", "auto"), kwargs.pop("engine_precision", "auto")
        check_engine(engine, precision)
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
        if dtype is not None and precision == "auto":
            precision = "float32"  # with weights of another type no engine computes
        dtype = dtype or torch.float32
        if not isinstance(dtype, dict):
            dtype = {"default": as_dtype(dtype)}
        maps = (
            engine in ("auto", "openvino")
            and is_installed("openvino")
            and not torch.accelerator.is_available()
            and dtype.keys() <= {"default", "codec"}
            and as_dtype(dtype.get("default") or torch.float32) == torch.float32
            and kwargs.keys() <= {*hub.COMPONENTS, *hub.PLACES}
        )
        codec_dtype = as_dtype(dtype.get("codec") or torch.float32)
        kwargs["dtype"] = {**dtype, "codec": torch.float32}
        kwargs["quantization_config"] = for_the_transformer(kwargs.get("quantization_config"))
        kwargs.setdefault("use_safetensors", True)
        source, is_local = hub.resolve_pretrained(pretrained_model_name_or_path)
        folder = source if is_local else hub.download_pipeline(cls, source, kwargs)
        hub.check_pipeline_folder(folder)
        handed_in = {name: kwargs[name] for name in hub.COMPONENTS if name in kwargs}
        check_parts(**handed_in)
        try:
            if maps:
                for part in {"codec", "transformer", "style_encoder"} - handed_in.keys():
                    if (model := hub.load_mapped_part(Path(folder), part)) is not None:
                        kwargs[part] = model
            pipe = super().from_pretrained(folder, **kwargs)
        except OSError:
            raise
        except Exception as error:  # strict configs, safetensors and torch each have their own
            raise ValueError(f"the pipeline in {folder} does not load: {error}") from error
        if codec_dtype != torch.float32:
            pipe.codec.to(codec_dtype)
        if kwargs["quantization_config"] is None:
            hub.check_loaded_weights(pipe.models, folder, handed_in=handed_in)
        if pipe.transformer.dtype == torch.bfloat16 and not bfloat16_is_fast():
            warnings.warn(
                "this CPU has no fast bfloat16 and plays it many times slower than float32: load with "
                "dtype=torch.float32",
                stacklevel=2,
            )
        pipe.use_engine(engine, precision)  # here rather than before the first note
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipe

    # -- whole clips ---------------------------------------------------------------------------------------
    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompt | list[Prompt],
        duration: float = 10.0,
        chords: str | Path | Sequence[str | Path] | None = None,
        tempo: float | Sequence[float] | None = None,
        key: str | Sequence[str] | None = None,
        mood: str | Sequence[str] | None = None,
        instruments: Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "np",
        lead_sheet: LeadSheet | Sequence[LeadSheet] | None = None,
        block_frames: int | None = None,
        window_frames: int | None = None,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
        adapter: str | Mapping[str, float] | None = None,
        adapter_scale: float = 1.0,
        melody: Score | str | os.PathLike | None = None,
        score: Score | Sequence[Score] | None = None,
        parts: str | None = None,
        num_waveforms_per_prompt: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        **others: Any,
    ) -> RealTimeJazzPipelineOutput | tuple:
        """Play.

        Args:
            prompt: words, a clip `(2, samples)` at 48 kHz, or `(rate, samples)` of another rate, or the `Path` of a
            sound file, a weighted mix, or a list of any of these (a
            batch).
            duration: seconds, more than 0 and at most 600.
            chords: a chart such as "Dm7 | G7 | Cmaj7 | %", an iReal Pro link, or a file: a `Path`, or its name
                ("tune.musicxml"). tempo: 40 to 320 beats per minute.
            key, mood, instruments: as the music room names them; "-piano" among the instruments leaves the
            piano out.
                What is not given follows from the prompt. One for all prompts, or one
                for each.
            num_inference_steps, guidance_scale, block_frames, window_frames: see `generation_defaults`.
            generator: seeds the noise and the band leader's choices; a list gives each prompt its own. By default the
                seeds are drawn from torch's global generator (`torch.manual_seed`); the output tells them.
            output_type: "np", "pt", "codes" (through the codec's quantizer) or "latents".
            lead_sheet: followed as it is, and wins over chords, tempo, key, mood and instruments.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": block_latents})`,
            steps counted
                over all blocks; a dict with "latents" that it returns replaces them. It may set `pipe._interrupt`:
                the music then ends with the block that is being made. callback_on_step_end_tensor_inputs: ("latents",)
                or (), what it is given.
            num_waveforms_per_prompt: takes of each prompt, which lie side by side; each draws noise of its own.
            prompt_embeds: `(rows, style_dim)`, as `encode_prompt` gives them, in place of the prompt's sound; the
                prompt still says what the band leader reads of it.
            return_dict: False returns the tuple `(audios or codes or latents, lead_sheets)`.
            adapter: a loaded adapter, or several and their strengths `{"a": 0.7, "b": 0.3}`; `{}` plays without.
                By default the active ones. adapter_scale: times their strengths; both from -2 to 2.
            parts: "band": a band writes what everybody plays, by the generator's seed, and the model plays it; "free":
                no notes are told, and the model makes them up. By default "band" where the model reads notes.
            melody: somebody's own part, a `Score` or a file of notes, that is played in place of the band's, from the
                first bar line of the chart on; see `band.Tune`. With parts="free" it is all that is told.
            score: told as it is, instead of a band's, one or one a row; roles that it does not tell are the model's.

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        # 1. Check, and fill in defaults
        refuse_others(others)
        check_callback_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        if num_waveforms_per_prompt != 1:
            prompt, chords, tempo, key, mood, lead_sheet, score = repeat_rows(
                num_waveforms_per_prompt, prompt, chords, tempo, key, mood, lead_sheet, score
            )
        self.check_inputs(
            prompt,
            duration=duration,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            block_frames=block_frames,
            window_frames=window_frames,
            lead_sheet=lead_sheet,
            output_type=output_type,
            melody=melody,
            score=score,
            parts=parts,
        )
        mix = self.adapter_mix(dict(self.active_mix) if adapter is None else adapter, adapter_scale)
        if num_inference_steps is None:
            num_inference_steps = self.config.num_inference_steps
        if guidance_scale is None:
            guidance_scale = self.config.guidance_scale
        generators = self.prepare_generators(generator, len(prompt) if isinstance(prompt, list) else 1)

        # 2. Say what is played
        lead_sheets = self.prepare_lead_sheet(
            prompt,
            chords=each_chart(chords, chart_text),
            tempo=tempo,
            key=key,
            mood=mood,
            instruments=instruments,
            duration=duration,
            lead_sheet=lead_sheet,
            seeds=seeds_of(generators),
        )
        tellers = self.prepare_parts(
            lead_sheets,
            seeds_of(generators),
            melody=self.prepare_melody(melody),
            score=score,
            parts=parts,
            instruments=instruments,
            prompt=prompt,
        )
        if prompt_embeds is None:
            style = self.encode_prompt(prompt)  # (batch, style_dim)
        else:
            style = self._check_embeds(prompt_embeds, len(generators))

        # 3. Play block after block: noise -> latents, against what was played
        stream = self.prepare_stream(generators, block_frames, window_frames, self.transformer_for(mix))
        num_samples = max(1, round(duration * SAMPLE_RATE))
        num_frames = math.ceil(num_samples / HOP_LENGTH)
        num_blocks = math.ceil(num_frames / stream.block_frames)
        steps_a_block = len(stream.set_timesteps(num_inference_steps))
        blocks = []
        with self.progress_bar(total=num_blocks * steps_a_block) as progress:

            def on_step_end(index: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
                progress.update()
                if callback_on_step_end is None:
                    return None
                step = len(blocks) * steps_a_block + index
                given = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                return changed_by_callback(callback_on_step_end(self, step, t, given))

            self._interrupt = False
            for _ in range(num_blocks):
                if self._interrupt and blocks:
                    break
                with self._models.making(stream.block_frames, clip=True):
                    latents = stream.denoise(
                        self.prepare_latents(generators, stream.block_frames),
                        style,
                        self.prepare_features(lead_sheets, stream.frame, stream.block_frames, tellers),
                        num_inference_steps=num_inference_steps,
                        guidance_scale=guidance_scale,
                        on_step_end=on_step_end,
                    )
                if stream.broken is not None:
                    raise ValueError(
                        f"block {len(blocks)} was not finite (NaN or infinite values): the weights are damaged, or a "
                        "callback or 16 bits went too far; nothing was played"
                    )
                stream.append_later(latents)
                blocks.append(stream.without_cues(latents))
        latents = torch.cat(blocks, dim=-1)[..., :num_frames]  # (batch, latent_dim, frames)
        num_samples = min(num_samples, latents.shape[-1] * HOP_LENGTH)

        # 4. Latents -> sound, or codes
        audios = codes = None
        if output_type == "codes":
            codes = self.codec.latents_to_codes(latents.to(self.codec.dtype))
        elif output_type != "latents":
            audios = self.decode_latents(stream, latents, num_samples)
            audios = audios.cpu().numpy() if output_type == "np" else audios
        self.maybe_free_model_hooks()

        if not return_dict:
            return {"codes": codes, "latents": latents}.get(output_type, audios), lead_sheets
        return RealTimeJazzPipelineOutput(
            audios=audios,
            lead_sheets=lead_sheets,
            latents=latents,
            codes=codes,
            scores=[
                part.write(sheet.beat_at(duration)).described(sheet)
                if isinstance(part, Band)
                else part or Score(told=())
                for part, sheet in zip(tellers, lead_sheets)
            ],
            seeds=None if len(set(map(id, generators))) < len(generators) else [g.initial_seed() for g in generators],
        )

    # -- live ----------------------------------------------------------------------------------------------
    def live(
        self,
        prompt: Prompt,
        chords: str | Path | None = None,
        tempo: float | None = None,
        key: str | None = None,
        mood: str | None = None,
        instruments: Sequence[str] | None = None,
        lead_sheet: LeadSheet | None = None,
        block_frames: int | None = None,
        window_frames: int | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        seed: int | None = None,
        adapter: str | Mapping[str, float] | None = None,
        adapter_scale: float = 1.0,
        melody: Score | str | os.PathLike | None = None,
        parts: str | None = None,
        *,
        first_block_frames: int | None = None,
        target_latency: float | None = None,
        context: np.ndarray | torch.Tensor | None = None,
        context_sampling_rate: float = SAMPLE_RATE,
        start_beat: float = 0.0,
        overlap: bool | None = None,
    ) -> LiveSession:
        """Endless music: a context manager and an iterator of `LiveBlock`, steered with
        `session.update(...)`.

        Takes what a call takes; with the same seed and lead sheet it plays what the call plays.

        Args:
            seed: a whole number. By default it is drawn from torch's global generator, as for a call; `session.seed`
                tells it.
            adapter: a loaded adapter, or several and their strengths; `{}` plays without. By default those that are
                active now: which are later is nothing to a session that has begun.
            melody, parts: as of a call; every block tells its notes, as `LiveBlock.notes`.
            first_block_frames: a first block smaller than `block_frames` (6 is the smallest) starts the music
                sooner; the blocks after it double up to `block_frames`.
            target_latency: instead of `block_frames`, seconds within which a control is to be heard: the
                largest block that does it is chosen, after timing this machine (once for each setting).
            context: a clip to go on from ("continue what I played"): `(2, samples)`, `(1, samples)` or
                `(samples,)`, numpy or torch, at `context_sampling_rate` Hz. As much of its end as the window
                holds is heard; `session.context_audio` is the clip with its end joined to what follows.
            start_beat: the beat of the chart that the music starts at. A clip whose end is not a bar line is
                gone on from in phase with the beat in the bar that it had reached.
            overlap: see `LiveSession`.

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        started = time.perf_counter()
        seed = draw_seed() if seed is None else seed
        settings = {"block_frames": block_frames, "guidance_scale": guidance_scale,
                    "num_inference_steps": num_inference_steps}  # fmt: skip
        asked = {"prompt": prompt, "chords": each_chart(chords, chart_text), "tempo": tempo, "key": key, "mood": mood,
                 "instruments": instruments, "lead_sheet": lead_sheet, "seed": seed, "adapter": adapter,
                 "adapter_scale": adapter_scale, "melody": melody, "parts": parts, **settings}  # fmt: skip
        return open_session(
            self.models, asked, window_frames=window_frames, first_block_frames=first_block_frames,
            target_latency=target_latency, context=context, context_sampling_rate=context_sampling_rate,
            start_beat=start_beat, overlap=overlap, started=started,
        )  # fmt: skip
