"""RealTimeJazzPipeline: whole clips with `pipe(...)`, endless music with `pipe.live(...)`."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput

from . import hub
from .adapters import AdapterBank, AdapterMixin
from .aligned_weights import align_weights
from .audio import HOP_LENGTH, SAMPLE_RATE
from .charts import chart_text, sent_text
from .codec import RealTimeJazzCodec
from .flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
from .live.context import prepare_context
from .live.engine import BLOCK_SIZES, BlockStream, draw_noise
from .live.group import SessionGroup
from .live.latency import choose_block_frames, measure_block_seconds
from .live.plan import first_plan
from .live.session import LiveSession
from .live.snapshot import load_session
from .music import LEAD_SHEET_DIM, LeadSheet
from .music.band_leader import NotPlayed, told, write_lead_sheet
from .precision import bfloat16_is_fast
from .prompts import Prompt, check_duration, check_settings, mix_of, words_of
from .publishing import push_adapter, push_folder
from .quantization import quantize
from .style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer, mix_styles

OUTPUT_TYPES = ("np", "pt", "codes", "latents")
_DECODE_FRAMES = 750  # decoded at a time: 10 s


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
    """

    audios: np.ndarray | torch.Tensor | None
    lead_sheets: list[LeadSheet]
    latents: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class RealTimeJazzPipeline(AdapterMixin, DiffusionPipeline):
    """Jazz from words, a clip or a chord chart, at 48 kHz in stereo.

    Args:
        codec: sound to latents and back. transformer: noise to latents, block after block.
        style_encoder, tokenizer: words or a clip to a style embedding.
        scheduler: times and steps of the flow.
        num_inference_steps, guidance_scale: defaults of a call; what the model was found to play best with.
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
        num_inference_steps: int = 8,
        guidance_scale: float = 2.0,
        block_frames: int = 36,
        window_frames: int = 300,
    ):
        super().__init__()
        self._adapters = AdapterBank()
        if codec.config.latent_dim != transformer.config.latent_dim:
            raise ValueError(
                f"the codec's latents have {codec.config.latent_dim} channels, the transformer's "
                f"{transformer.config.latent_dim}: they were not made for each other"
            )
        if transformer.config.lead_sheet_dim != LEAD_SHEET_DIM:
            raise ValueError(
                f"the transformer reads {transformer.config.lead_sheet_dim} lead sheet features a frame, "
                f"this version of the package writes {LEAD_SHEET_DIM}"
            )
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
        self._warm: set[tuple] = set()  # see `warm_up`
        self._block_seconds: dict[tuple, float] = {}  # see `block_frames_for`

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
        `{"default": torch.bfloat16, "codec": torch.bfloat16}` overrules that. Other keywords are those of
        `DiffusionPipeline.from_pretrained`.

        Raises:
            OSError: not found, not reachable, or a file is missing or cut short.
            ValueError: a config that is wrong, or does not belong to its weights.
        """
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or torch.float32
        if not isinstance(dtype, dict):
            dtype = {"default": _as_dtype(dtype), "codec": torch.float32}
        kwargs["dtype"] = dtype
        kwargs.setdefault("use_safetensors", True)
        source, is_local = hub.resolve_pretrained(pretrained_model_name_or_path)
        folder = source if is_local else hub.download_pipeline(cls, source, kwargs)
        hub.check_pipeline_folder(folder)
        try:
            pipe = super().from_pretrained(folder, **kwargs)
        except OSError:
            raise
        except Exception as error:  # strict configs, safetensors and torch each have their own
            raise ValueError(f"the pipeline in {folder} does not load: {error}") from error
        if kwargs.get("quantization_config") is None:
            hub.check_loaded_weights(pipe, folder)
        if pipe.transformer.dtype == torch.bfloat16 and not bfloat16_is_fast():
            warnings.warn(
                "this CPU has no fast bfloat16 and plays it many times slower than float32: load with "
                "dtype=torch.float32",
                stacklevel=2,
            )
        pipe.transformer.pack_weights()  # here rather than before the first note
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipe

    def quantize(self, precision: str = "int8") -> None:
        """Hold the transformer's weights in fewer bits: "int8" or "nf4" (4 bits). Saves memory, not time.

        Needs bitsandbytes (`rtjazz-hf[quant]`). While loading, diffusers' `quantization_config` does the same
        without the whole weights ever being in memory.

        Raises:
            ValueError: another precision, an adapter that is attached or fused, or quantised already.
            ImportError: bitsandbytes is not installed.
        """
        if self._adapters.fused:
            raise ValueError(
                "adapters are fused: unload_lora_weights, which leaves them in the weights for good, or unfuse_lora "
                "before the pipeline is quantised"
            )
        self.transformer = quantize(self.transformer, precision)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write a folder that `from_pretrained` reads, with a model card if it has none.

        Raises:
            ValueError: an adapter is loaded, and not fused, or attached: a folder saved so would lack it, or not load.
        """
        self._check_saveable()
        for name, component in self.components.items():
            if getattr(component, "_hf_peft_config_loaded", False) or hasattr(component, "peft_config"):
                raise ValueError(
                    f"an adapter is attached to {name!r}: fuse it or unload it before the pipeline is saved, "
                    f"and save the adapter on its own"
                )
        if kwargs.pop("push_to_hub", False):
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
            kwargs = {}
        super().save_pretrained(str(save_directory), **kwargs)
        card = Path(save_directory) / "README.md"
        if not card.exists():
            source = str(self.config.get("_name_or_path") or save_directory)
            name = Path(save_directory).name if Path(source).exists() or source.count("/") > 1 else source
            card.write_text(hub.model_card(self, name), encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        model_card: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Upload the pipeline to the Hub; the address of the commit.

        Unlike diffusers' own, it does not put an empty card over what the repository says: `model_card` is
        written if it is given, and a card made from the pipeline if the repository has none.

        Args:
            repo_id: "user/name", or "name" under the token's user; made if it is not there.
            private: of a repository that is made now. revision: branch to push to, made if it is not there.
            token: the one of `hf auth login` or `HF_TOKEN` by default.
            kwargs: for `save_pretrained`.

        Raises:
            ValueError: an impossible `repo_id` or `revision`, or an adapter that is attached.
            PermissionError: no token, or one that may not write there.
            ConnectionError: the Hub is not reachable, or was lost on the way: what had been pushed is told, and
                pushing again is safe.
        """
        hub.check_repo_id(repo_id)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            (Path(folder) / "README.md").write_text(
                model_card or hub.model_card(self, repo_id), encoding="utf-8"
            )
            return push_folder(
                folder, repo_id, revision=revision, private=private, token=token, create_pr=create_pr,
                commit_message=commit_message or f"Upload {type(self).__name__}", keep_card=model_card is None,
            )  # fmt: skip

    def push_adapter_to_hub(
        self,
        repo_id: str,
        adapter: str | Path | None = None,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        model_card: str | None = None,
        **card_values: Any,
    ) -> str:
        """Upload an adapter of a few megabytes to the Hub, for `load_lora_weights(repo_id)`; the commit's address.

        Args:
            adapter: its folder, in PEFT's format, or the name of one that is loaded; the loaded one by default.
            revision, private, token: as of `push_to_hub`.
            model_card: the README.md's text, or a template such as `model_cards/adapter.md`, for whose further
                places `card_values` are.

        Raises:
            ValueError: an impossible `repo_id`, a pickle among the files, or no such adapter.
            PermissionError, ConnectionError: as of `push_to_hub`.
            OSError: a folder without a whole adapter.
        """
        hub.check_repo_id(repo_id)
        settings = {"revision": revision, "private": private, "token": token, "commit_message": commit_message,
                    "model_card": model_card, **card_values}  # fmt: skip
        if adapter is not None and (isinstance(adapter, Path) or os.sep in adapter or Path(adapter).is_dir()):
            return push_adapter(self, repo_id, adapter, **settings)
        save = getattr(self, "save_lora_weights", None)
        if save is None:
            raise ValueError(f"adapter {adapter!r} is no folder; give the one that the adapter was saved in")
        with tempfile.TemporaryDirectory() as folder:
            save(folder, **({} if adapter is None else {"adapter_name": adapter}))
            return push_adapter(self, repo_id, folder, **settings)

    # -- steps ---------------------------------------------------------------------------------------------
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

    def _encode_one(self, part: str | torch.Tensor) -> torch.Tensor:
        # one at a time, so that a prompt's embedding does not depend on how long its neighbours are
        if isinstance(part, str):
            return self._encode_words(part, self._encode_text)
        clip = part[None].to(self._execution_device, self.style_encoder.dtype)  # (1, 2, samples)
        return self.style_encoder.encode_audio(clip).float()

    def _encode_text(self, words: str) -> torch.Tensor:
        limit = self.style_encoder.config.max_position_embeddings
        tokens = self.tokenizer(words, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(self._execution_device)
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
        all. Without it, and where the words name none, a learnt style that they call brings its own. What words and
        charts ask for and nobody plays is told by a `NotPlayed` warning each.
        """
        prompts = prompt if isinstance(prompt, list) else [prompt]
        if lead_sheet is not None:
            sheets = [lead_sheet] if isinstance(lead_sheet, LeadSheet) else list(lead_sheet)
            return sheets * len(prompts) if len(sheets) == 1 else sheets
        chords = _each_chart(chords, sent_text)
        wishes = {"chords": chords, "tempo": tempo, "key": key, "mood": mood}
        for name, value in wishes.items():
            if isinstance(value, (list, tuple)) and len(value) != len(prompts):
                raise ValueError(
                    f"{len(value)} values of {name} for {len(prompts)} prompts: give one, or one for each"
                )
        sheets = []
        for row, item in enumerate(prompts):
            words, band = self.called_band(words_of(item))
            for line in told(words, chords[row] if isinstance(chords, (list, tuple)) else chords):
                warnings.warn(f"not played: {line}", NotPlayed, stacklevel=3)
            sheets.append(
                write_lead_sheet(
                    words,
                    **{name: v[row] if isinstance(v, (list, tuple)) else v for name, v in wishes.items()},
                    instruments=instruments,
                    regulars=band,
                    duration=duration,
                    seed=seeds[row] if seeds is not None else 0,
                )
            )
        return sheets

    def prepare_features(
        self, lead_sheets: Sequence[LeadSheet], start_frame: int, num_frames: int
    ) -> torch.Tensor:
        """What the transformer sees of the lead sheets: `(batch, frames, LEAD_SHEET_DIM)` float32."""
        rows = np.stack([sheet.features(start_frame, num_frames) for sheet in lead_sheets])
        return torch.from_numpy(rows).to(self._execution_device)

    def prepare_generators(
        self, generator: torch.Generator | Sequence[torch.Generator] | None, batch_size: int
    ) -> list[torch.Generator]:
        """One generator a row; one for all is drawn from in turn; without any, the seeds are random."""
        if generator is None:
            generators = [torch.Generator() for _ in range(batch_size)]
            for each in generators:
                each.seed()
            return generators
        if isinstance(generator, torch.Generator):
            return [generator] * batch_size
        generators = list(generator)
        if len(generators) != batch_size or not all(isinstance(g, torch.Generator) for g in generators):
            raise ValueError(
                f"generator: give one torch.Generator, or a list of {batch_size}, one for each prompt"
            )
        return generators

    def prepare_latents(self, generators: Sequence[torch.Generator], num_frames: int) -> torch.Tensor:
        """Noise `(batch, channels, frames)`, as the blocks draw it."""
        return draw_noise(
            generators, num_frames, self.transformer.config.num_channels, self._execution_device
        )

    def prepare_stream(
        self,
        generators: Sequence[torch.Generator],
        block_frames: int | None = None,
        window_frames: int | None = None,
        transformer: RealTimeJazzFlowTransformer | None = None,
    ) -> BlockStream:
        """An empty performance, one row a generator, by the active adapters' transformer unless another is given."""
        return BlockStream(
            transformer or self.transformer_for(self.active_mix),
            self.codec,
            self.scheduler,
            generators=generators,
            block_frames=block_frames or self.config.block_frames,
            window_frames=window_frames or self.config.window_frames,
            device=self._execution_device,
        )

    def decode_latents(self, stream: BlockStream, latents: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Latents `(batch, latent_dim, frames)` to sound `(batch, 2, num_samples)`, in pieces."""
        pieces = [stream.decode(piece) for piece in latents.split(_DECODE_FRAMES, dim=-1)]
        return torch.cat(pieces, dim=-1)[..., :num_samples]

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
        return_dict: bool = True,
        adapter: str | Mapping[str, float] | None = None,
        adapter_scale: float = 1.0,
    ) -> RealTimeJazzPipelineOutput | tuple:
        """Play.

        Args:
            prompt: words, a clip `(2, samples)` at 48 kHz, a weighted mix, or a list of any of these (a
            batch).
            duration: seconds, more than 0 and at most 600.
            chords: a chart such as "Dm7 | G7 | Cmaj7 | %", an iReal Pro link, or a file: a `Path`, or its name
                ("tune.musicxml"). tempo: 40 to 320 beats per minute.
            key, mood, instruments: as the music room names them; "-piano" among the instruments leaves the
            piano out.
                What is not given follows from the prompt. One for all prompts, or (save instruments) one
                for each.
            num_inference_steps, guidance_scale, block_frames, window_frames: see `generation_defaults`.
            generator: seeds the noise and the band leader's choices; a list gives each prompt its own.
            output_type: "np", "pt", "codes" (through the codec's quantizer) or "latents".
            lead_sheet: followed as it is, and wins over chords, tempo, key, mood and instruments.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": block_latents})`,
            steps counted
                over all blocks; a dict with "latents" that it returns replaces them.
            return_dict: False returns the tuple `(audios or codes or latents, lead_sheets)`.
            adapter: a loaded adapter, or several and their strengths `{"a": 0.7, "b": 0.3}`; `{}` plays without.
                By default the active ones. adapter_scale: times their strengths; both from 0 to 1.

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        # 1. Check, and fill in defaults
        self.check_inputs(
            prompt,
            duration=duration,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            block_frames=block_frames,
            window_frames=window_frames,
            lead_sheet=lead_sheet,
            output_type=output_type,
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
            chords=_each_chart(chords, chart_text),
            tempo=tempo,
            key=key,
            mood=mood,
            instruments=instruments,
            duration=duration,
            lead_sheet=lead_sheet,
            seeds=_seeds_of(generators),
        )
        style = self.encode_prompt(prompt)  # (batch, style_dim)

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
                return (callback_on_step_end(self, step, t, {"latents": latents}) or {}).get("latents")

            for _ in range(num_blocks):
                latents = stream.denoise(
                    self.prepare_latents(generators, stream.block_frames),
                    style,
                    self.prepare_features(lead_sheets, stream.frame, stream.block_frames),
                    num_inference_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    on_step_end=on_step_end,
                )
                stream.append(latents)
                blocks.append(stream.without_cues(latents))
        latents = torch.cat(blocks, dim=-1)[..., :num_frames]  # (batch, latent_dim, frames)

        # 4. Latents -> sound, or codes
        audios = codes = None
        if output_type == "codes":
            codes = self.codec.latents_to_codes(latents.to(self.codec.dtype))
        elif output_type != "latents":
            audios = self.decode_latents(stream, latents, num_samples)
            audios = audios.cpu().numpy() if output_type == "np" else audios

        if not return_dict:
            return {"codes": codes, "latents": latents}.get(output_type, audios), lead_sheets
        return RealTimeJazzPipelineOutput(
            audios=audios, lead_sheets=lead_sheets, latents=latents, codes=codes
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
        seed: int = 0,
        adapter: str | Mapping[str, float] | None = None,
        adapter_scale: float = 1.0,
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
            adapter: a loaded adapter, or several and their strengths; `{}` plays without. By default those that are
                active now: which are later is nothing to a session that has begun.
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
        if target_latency is not None and block_frames is not None:
            raise ValueError(
                f"block_frames {block_frames} and target_latency {target_latency}: give one of them"
            )
        if first_block_frames is not None and first_block_frames not in BLOCK_SIZES:
            raise ValueError(
                f"first_block_frames {first_block_frames!r}: choose from {', '.join(map(str, BLOCK_SIZES))}"
            )
        defaults = self.generation_defaults
        given = {
            "block_frames": block_frames,
            "window_frames": window_frames,
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
        }
        settings = {name: defaults[name] if value is None else value for name, value in given.items()}
        window_frames = settings.pop("window_frames")
        self.check_inputs(prompt, window_frames=window_frames, **settings)
        if context is not None:
            context = prepare_context(context, context_sampling_rate)
        asked = {"prompt": prompt, "chords": _each_chart(chords, chart_text), "tempo": tempo, "key": key, "mood": mood,
                 "instruments": instruments, "lead_sheet": lead_sheet, "seed": seed, "adapter": adapter,
                 "adapter_scale": adapter_scale, **settings}  # fmt: skip
        plan = first_plan(self, asked, start_beat)

        begun = time.perf_counter()  # what is done once for all sessions
        if target_latency is not None:
            block_frames = self.block_frames_for(
                target_latency, plan.num_inference_steps, plan.guidance_scale, window_frames
            )
            plan = dataclasses.replace(plan, asked={**plan.asked, "block_frames": block_frames})
        self.warm_up(min(first_block_frames or plan.block_frames, plan.block_frames))
        started += time.perf_counter() - begun

        return LiveSession(
            self, plan, window_frames=window_frames, first_block_frames=first_block_frames, overlap=overlap,
            context=context, started=started,
        )  # fmt: skip

    def live_group(self) -> SessionGroup:
        """Sessions that join and leave at any time, their blocks made in one batch."""
        return SessionGroup(self)

    def resume_live(self, source: str | os.PathLike | bytes, *, overlap: bool | None = None) -> LiveSession:
        """The session that `session.save(path)` wrote or `session.to_bytes()` gave; it plays on as that one does.

        To the bit on the same kind of device, in the same type. Statistics start anew.

        Raises:
            FileNotFoundError: no such file. ValueError: no session, cut short, damaged, of a newer version of
            the format, of other models than this pipeline's, or such as none of its sessions saves.
        """
        return load_session(self, source, overlap=overlap)

    def warm_up(self, block_frames: int | None = None) -> None:
        """Make a block and throw it away, if none of this size was made yet, so that no listener waits for
        what a first block costs: tables, kernels that are chosen or compiled. `live` calls it."""
        block_frames = block_frames or self.config.block_frames
        check_settings(block_frames=block_frames)
        key = (block_frames, str(self._execution_device), self.transformer.dtype, self.codec.dtype)
        if key not in self._warm:
            measure_block_seconds(self, block_frames, num_inference_steps=1, guidance_scale=2.0,
                                  window_frames=block_frames, blocks=1)  # fmt: skip
            self._warm.add(key)

    def block_frames_for(
        self,
        target_latency: float,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        window_frames: int | None = None,
    ) -> int:
        """The largest block size that answers a control within `target_latency` seconds on this machine.

        Blocks are timed, each size once for the settings given. See `live.latency.choose_block_frames`.
        """
        given = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "window_frames": window_frames,
        }
        settings = {n: self.generation_defaults[n] if v is None else v for n, v in given.items()}
        check_settings(**settings)
        place = (str(self._execution_device), self.transformer.dtype, self.codec.dtype)

        def block_seconds(frames: int) -> float:
            key = (frames, *settings.values(), *place)
            if key not in self._block_seconds:
                self._block_seconds[key] = measure_block_seconds(self, frames, **settings)
            return self._block_seconds[key]

        return choose_block_frames(target_latency, block_seconds)


def _each_chart(chords: Any, read: Callable[[str], str]) -> Any:
    """Charts as text in the chart language, one or a list of them; files are opened where `read` does."""
    if isinstance(chords, (list, tuple)):
        return [_each_chart(each, read) for each in chords]
    if isinstance(chords, Path):
        return chart_text(chords)
    return chords if chords is None else read(chords)


def _seeds_of(generators: Sequence[torch.Generator]) -> list[int]:
    """A seed a row for the band leader; rows that share a generator get neighbouring ones."""
    shared = len(generators) > 1 and all(generator is generators[0] for generator in generators)
    return [(g.initial_seed() + (row if shared else 0)) % 2**63 for row, g in enumerate(generators)]


def _as_dtype(dtype: Any) -> torch.dtype:
    value = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(f"dtype {dtype!r}: choose from float32, bfloat16, float16")
    return value
