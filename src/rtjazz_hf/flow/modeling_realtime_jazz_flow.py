"""
The RealTimeJazz flow transformer: noise, lead sheet and style in, velocity of the latents out.

Block-causal with clean context: a block of noisy frames attends to itself and to the clean blocks played
before it. Clean blocks are modulated with t = 1 and no style, and see no lead sheet, so their keys and values
depend on nothing but the past, and are computed once (`append_to_cache`). Training sees both kinds of block
in one sequence `[clean | noisy]` whose mask follows the cache's rule, so the two paths agree to rounding.

Sources: adaLN-zero from DiT (arXiv:2212.09748), its sharing across layers from PixArt-alpha
(arXiv:2310.00426), RoPE (arXiv:2104.09864), SwiGLU (arXiv:2002.05202), QK-norm (arXiv:2302.05442), flow
matching (arXiv:2210.02747).
"""

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from rtjazz_hf.runtime.aligned_weights import AlignedWeightsMixin
from rtjazz_hf.runtime.mapped_weights import forget
from rtjazz_hf.runtime.offload import execution_device, follows_offload
from rtjazz_hf.runtime.packed_linear import linear, weights_stamp

from .block_plan import plan_blocks, view_of
from .cache import FlowCache
from .called_steps import has_to_be_called, hear_called
from .conditions import CalledConditions, FlowConditions
from .configuration_realtime_jazz_flow import RealTimeJazzFlowTransformerConfig
from .embeddings import FlowLeadSheetEmbedding, FlowScoreEmbedding, FlowTimeEmbedding

from .embeddings import check_inputs, check_sample, rotary_tables  # isort: skip
from .fast_steps import FastStepsMixin
from .head import FlowHead, FlowTransformerOutput
from .layers import (
    FlowLayer,
    FlowRMSNorm,
    PastStates,
    fold_rotary,
    modulate_layers,
    norm_weights,
    scaled_linear,
    style_states,
)

_LARGE = 8_000_000  # bytes of weights; to bring back fewer takes longer than they are worth


class RealTimeJazzFlowTransformer(FastStepsMixin, AlignedWeightsMixin, PreTrainedModel):
    """
    Velocity field of the latents, conditioned on a lead sheet, a style and what was played before.

    Three ways to call it:

    - a whole clip: `forward(sample, timestep, lead_sheet, style)`, every frame attends to every other;
    - training in blocks: `forward(..., context=clean, block_frames=36)`, the sequence [clean | noisy];
    - live: `cache = init_cache(batch)`, then for each block some `forward(..., cache=cache)` and one
      `append_to_cache(clean_block, cache)`.
    """

    bundled_part = "transformer"
    can_be_quantized = True
    config_class = RealTimeJazzFlowTransformerConfig
    base_model_prefix = ""
    main_input_name = "sample"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["FlowLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__(config)
        width = config.hidden_size
        self.input_proj = scaled_linear(config.patch_size * config.num_channels, width, gain=1.0)
        self.lead_sheet_embedding = FlowLeadSheetEmbedding(config) if config.lead_sheet_dim else None
        self.score_embedding = FlowScoreEmbedding(config) if config.score_dim else None
        self.time_embedding = FlowTimeEmbedding(config)
        self.style_embedding = scaled_linear(config.style_dim, width, gain=1.0)
        self.style_tokens = scaled_linear(config.style_dim, config.num_style_tokens * width, gain=1.0)
        self.modulation = scaled_linear(width, 7 * width, gain=0.0)
        self.layers = nn.ModuleList([FlowLayer(config) for _ in range(config.num_hidden_layers)])
        self.head = FlowHead(config)
        self.gradient_checkpointing = False
        self._set_plain_steps()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            std = getattr(module, "initializer_std", self.config.initializer_range)
            if std > 0:
                init.trunc_normal_(module.weight, std=std)
            else:
                init.zeros_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, FlowRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, FlowHead) and self.config.prediction_type == "codebook":
            init.zeros_(module.codebooks)
            init.zeros_(module.latents_offset)

    def set_codebooks(
        self,
        codebooks: torch.Tensor,
        latents_offset: torch.Tensor | None = None,
        prediction_levels: int = 0,
    ) -> None:
        """
        Give a codebook model the codec's vectors, in normalised latent space.

        Args:
            codebooks: `(num_codebooks, codebook_size, latent_dim)`; the chosen vectors of all levels plus
                `latents_offset` `(latent_dim,)` are the latents.
            prediction_levels: The codec's (`codec.config.prediction_levels`). Codes of a codec that predicts
                frames from the ones before mean nothing by themselves, and are refused.
        """
        self.head.set_codebooks(codebooks, latents_offset, prediction_levels)

    @property
    def device(self) -> torch.device:
        """Where it computes, wherever its weights lie meanwhile."""
        return execution_device(self, super().device)

    def init_cache(
        self, batch_size: int = 1, window_frames: int | None = None, start_frame: int = 0
    ) -> FlowCache:
        """An empty cache of `batch_size` streams that stand at `start_frame`."""
        window_frames = self.config.window_frames if window_frames is None else window_frames
        if not 0 <= window_frames <= self.config.max_window_frames:
            raise ValueError(
                f"window_frames is {window_frames}; it must be between 0 and {self.config.max_window_frames}."
            )
        return FlowCache(
            num_layers=self.config.num_hidden_layers,
            num_heads=self.config.num_attention_heads,
            head_dim=self.config.head_dim,
            patch_size=self.config.patch_size,
            window_frames=window_frames,
            positions=(start_frame,) * batch_size,
            device=self.device,
            block_frames=max(self.config.block_sizes),
        )

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | None = None,
        lead_sheet: torch.Tensor | None = None,
        style: torch.Tensor | None = None,
        cache: FlowCache | None = None,
        context: torch.Tensor | None = None,
        block_frames: int | None = None,
        window_frames: int | torch.Tensor | None = None,
        context_start: torch.Tensor | None = None,
        return_sample: bool = True,
        return_dict: bool = True,
        conditions: FlowConditions | CalledConditions | None = None,
        step: int = 0,
        labels: torch.Tensor | None = None,
    ) -> FlowTransformerOutput | tuple:
        """
        Args:
            sample: Noisy state `(batch, channels, frames)`; frames a multiple of `patch_size`.
            timestep: In [0, 1], 0 is noise: a number, `(batch,)`, or `(batch, blocks)` for equal blocks.
            lead_sheet: Features `(batch, frames, feature_dim)`: lead sheet, then score where `score_dim` is not 0; a
                frame of zeros, or `None`, is "none".
            style: Embedding `(batch, style_dim)` of unit norm; a row of zeros, or `None`, is "no style".
            cache: What was played; read, never written. Row r serves rows r, r + rows, ... of the sample.
            context: Clean state of the same shape as `sample`: block-causal training, see `forward_blocks`.
            return_sample: `False` saves a codebook model the velocity when only its logits are wanted.
            conditions: What `prepare_conditions` made of timesteps, lead sheet and style; `step`: which of those times.
            labels: What `losses.labelled_loss` takes; the output then has a `loss`, as `transformers.Trainer` wants it.
        """
        if conditions is not None:
            if any(given is not None for given in (timestep, lead_sheet, style, context)):
                raise ValueError(
                    "conditions hold the timesteps, lead sheet and style; do not give timestep, lead_sheet, style "
                    "or context beside them."
                )
            output = self._forward_prepared(sample, conditions, step, cache, return_sample)
            return output.finished(labels, return_dict)
        if timestep is None:
            raise ValueError("Neither timestep nor conditions were given; give one of them.")
        if context is not None:
            if cache is not None:
                raise ValueError(
                    "context and cache were both given; training takes context, generation takes cache."
                )
            output = self.forward_blocks(
                sample, timestep, context, lead_sheet, style,
                block_frames=block_frames, window_frames=window_frames, context_start=context_start,
                return_sample=return_sample,
            )  # fmt: skip
            return output.finished(labels, return_dict)
        timestep, lead_sheet, style = check_inputs(self.config, sample, timestep, lead_sheet, style)
        hidden = self._embed(sample, lead_sheet)
        hidden = hidden.unflatten(1, (timestep.shape[1], -1))  # (batch, blocks, tokens, hidden)
        condition, style_tokens = self._condition(timestep, style)
        view = view_of(self.config, cache, sample, hidden.dtype, self._fixed_shapes)
        rotary = rotary_tables(
            self.config, self._positions(sample.shape[-1], cache, sample.shape[0]), hidden.dtype
        )
        modulation = self.modulation(condition)
        for index, layer in enumerate(self.layers):
            past = None if view is None else PastStates(view.keys[index], view.values[index], view.mask)
            hidden = layer(hidden, condition, modulation, style_tokens, rotary, past=past)
        output = self.head(hidden, self.head.modulate(condition), sample, timestep, return_sample)
        return output.finished(labels, return_dict)

    @torch.no_grad()
    @follows_offload
    def prepare_conditions(
        self,
        timesteps: torch.Tensor,
        lead_sheet: torch.Tensor | None = None,
        style: torch.Tensor | None = None,
        cache: FlowCache | None = None,
        frames: int | None = None,
        previous: FlowConditions | CalledConditions | None = None,
        ahead: int = 0,
    ) -> FlowConditions | CalledConditions:
        """
        Compute what does not depend on the sample once for all steps of a block.

        `forward(sample, conditions=conditions, step=i, cache=cache)` then equals
        `forward(sample, timesteps[i], lead_sheet, style, cache=cache)` to rounding. Without gradients.

        Args:
            timesteps: Of every step, `(steps,)`, or `(steps, batch)`.
            lead_sheet: `(batch, frames, feature_dim)`. style: `(batch, style_dim)`.
            cache: The one that the steps will be given, for the frames that it stands at.
            frames: Of the block; only needed without a lead sheet.
            previous: Those of an earlier block: what they hold of timesteps and style is taken from there where these,
                and the weights, are the same (`pack_weights` tells what is not seen).
            ahead: Frames that join the cache before the steps: see `append_and_forward`.

        Raises:
            ValueError: Shapes that do not fit together.
        """
        timesteps = torch.as_tensor(timesteps, device=self.device, dtype=torch.float32)
        if frames is None and lead_sheet is not None and lead_sheet.ndim == 3:
            frames = lead_sheet.shape[1]
        if frames is None or timesteps.ndim not in (1, 2):
            raise ValueError(
                f"timesteps has shape {tuple(timesteps.shape)} and frames is {frames}; expected (steps,) or "
                "(steps, batch), and a lead sheet (batch, frames, features) or the number of frames."
            )
        rows = max(t.shape[0] for t in (timesteps[:1].flatten(), lead_sheet, style) if t is not None)
        like = timesteps.new_empty(rows, self.config.num_channels, frames)
        _, lead_sheet, style = check_inputs(self.config, like, timesteps[0], lead_sheet, style)
        timesteps = timesteps.reshape(len(timesteps), -1, 1)  # (steps, rows or 1, 1 block)
        positions = None if cache is None else tuple(position + ahead for position in cache.positions)
        if has_to_be_called(self):
            return CalledConditions(timesteps.expand(-1, rows, -1), frames, positions, lead_sheet, style)

        stamp = weights_stamp(self)
        self._drop_stale_weights(stamp)
        sheet = None if lead_sheet is None else self._embed_lead_sheet(lead_sheet)
        timesteps, stamp = timesteps.expand(-1, rows, -1), (id(self), *stamp)
        same_weights = isinstance(previous, FlowConditions) and stamp == previous.stamp
        norms = previous.norms if same_weights else norm_weights([layer.self_attn for layer in self.layers])
        place = {
            "frames": frames,
            "positions": positions,
            "lead_sheet": sheet,
            "norms": norms,
            "rotary": self._folded_rotary(frames, cache, rows, self.dtype, ahead, norms),
        }
        if same_weights and previous.same_style(timesteps, style):
            return dataclasses.replace(previous, **place)
        condition, style_tokens = self._condition(timesteps, style)  # (steps, rows, 1, hidden)
        modulation, clean_modulation = self._modulations(condition.squeeze(2))
        self._put_away(self.modulation)
        style_keys, style_values = self._style_states(style_tokens)
        return FlowConditions(
            timesteps=timesteps,
            modulation=modulation,
            clean_modulation=clean_modulation,
            head=torch.stack(self.head.modulate(condition.squeeze(2))),
            style_keys=style_keys,
            style_values=style_values,
            style=style,
            stamp=stamp,
            **place,
        )

    def _style_states(self, style_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the style tokens (rows, tokens, hidden) for all layers, a layer at a time, each
        `(layers, rows, heads, tokens, head_dim)`."""
        states = []
        for layer in self.layers:
            states.append(style_states(style_tokens, layer.cross_attn))
            self._put_away(layer.cross_attn)
        keys, values = (torch.stack(each) for each in zip(*states))
        return keys, values

    def _put_away(self, module: nn.Module) -> None:
        """Forget large weights that only a new style asks for; not where torch plays, whose steps ask for them too."""
        if self._engine is not None:
            forget(module.parameters(), least=_LARGE)

    def _modulations(self, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all layers, for conditions (steps, rows, hidden) and for a finished block: see `FlowConditions`."""
        steps, rows, _ = condition.shape
        every = torch.cat((condition.flatten(0, 1), self._clean_condition(condition)[0]))
        layers = modulate_layers(every, linear(every, self.modulation), self.layers)
        return layers[:, :, :-1].unflatten(2, (steps, rows)), layers[:, :, -1:]

    @torch.compiler.disable(recursive=False)
    def _forward_prepared(self, sample, conditions, step, cache, return_sample) -> FlowTransformerOutput:
        check_sample(self.config, sample)
        conditions.check(sample.shape[0], sample.shape[-1], None if cache is None else cache.positions)
        if not 0 <= step < conditions.num_steps:
            raise ValueError(f"step is {step}; the conditions are for steps 0 to {conditions.num_steps - 1}.")
        if isinstance(conditions, CalledConditions):
            asked = conditions.timesteps[step, :, 0], conditions.lead_sheet, conditions.style
            return self.forward(sample, *asked, cache=cache, return_sample=return_sample)
        engine = self._usable_engine(cache, conditions.head.dtype)
        fixed_shapes = self._fixed_shapes or engine is not None
        view = view_of(self.config, cache, sample, conditions.head.dtype, fixed_shapes)
        if engine is not None:
            return FlowTransformerOutput(sample=engine.velocity(self, sample, conditions, step, view))
        velocity, logits = self._denoise_step(
            self,
            sample=sample,
            timestep=conditions.timesteps[step],
            **conditions.of_step(step),
            mask=None if view is None else view.mask,
            keys=None if view is None else view.keys,
            values=None if view is None else view.values,
            return_sample=return_sample,
        )
        return FlowTransformerOutput(sample=velocity, logits=logits)

    def forward_blocks(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        clean: torch.Tensor,
        lead_sheet: torch.Tensor | None = None,
        style: torch.Tensor | None = None,
        *,
        block_frames: int | None = None,
        window_frames: int | torch.Tensor | None = None,
        context_start: torch.Tensor | None = None,
        return_sample: bool = True,
        return_dict: bool = True,
    ) -> FlowTransformerOutput | tuple:
        """
        Every block of a clip at once, each from the clean blocks before it: equals the cached path.

        Under DDP call it through `forward(..., context=clean)`.

        Args:
            sample, clean: Noisy and clean state `(batch, channels, frames)`, frames a multiple of
                `block_frames`.
            timestep: `(batch,)` or, one a block, `(batch, blocks)`.
            block_frames: Size of a block; the config's by default.
            window_frames: Context a block may see, of which whole blocks count: an int, or `(batch,)` for one
                a row. Zero is none.
            context_start: `(batch,)` frames; clean blocks that begin before it are unheard, as if the stream
                began there.
        """
        timestep, lead_sheet, style = check_inputs(self.config, sample, timestep, lead_sheet, style)
        block_frames = self.config.block_frames if block_frames is None else block_frames
        frames, patch = sample.shape[-1], self.config.patch_size
        if block_frames < 1 or block_frames % patch or frames % block_frames:
            raise ValueError(
                f"block_frames is {block_frames}; it must be a multiple of patch_size {patch} and divide the "
                f"{frames} frames of the sample."
            )
        if clean.shape != sample.shape:
            raise ValueError(f"context has shape {tuple(clean.shape)}; the sample has {tuple(sample.shape)}.")
        blocks = frames // block_frames
        if timestep.shape[1] == 1:
            timestep = timestep.expand(-1, blocks)
        elif timestep.shape[1] != blocks:
            raise ValueError(
                f"timestep has {timestep.shape[1]} blocks; the sample has {blocks} of {block_frames} frames."
            )
        window_frames = self.config.window_frames if window_frames is None else window_frames
        plan = plan_blocks(self.config, blocks, block_frames, window_frames, context_start, sample.device)

        hidden = torch.cat((self._embed(clean), self._embed(sample, lead_sheet)), dim=1)
        hidden = hidden.unflatten(1, (2 * blocks, -1))  # (batch, clean then noisy blocks, tokens, hidden)
        condition, style_tokens = self._condition(timestep, style)
        clean_condition = self._clean_condition(sample).expand(sample.shape[0], blocks, -1)
        both = torch.cat((clean_condition, condition), dim=1)
        modulation = self.modulation(both)
        positions = self._positions(frames)
        rotary = rotary_tables(self.config, torch.cat((positions, positions), dim=1), hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, both, modulation, style_tokens, rotary, plan=plan, context_blocks=blocks)
        output = self.head(hidden[:, blocks:], self.head.modulate(condition), sample, timestep, return_sample)
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    @follows_offload
    def append_to_cache(
        self, clean: torch.Tensor, cache: FlowCache, conditions: FlowConditions | CalledConditions | None = None
    ) -> FlowCache:
        """
        Let the cache hear a finished block: one pass at t = 1 without style or lead sheet; old ones fall out.

        Args:
            clean: `(batch, channels, frames)`, the block as it was played.
            cache: Changed in place and returned.
            conditions: Those that the block's steps were given, which save the pass some work; those of another
                block are of no use, and not used.

        Raises:
            ValueError: Shapes that do not fit together.
        """
        check_sample(self.config, clean)
        rows, frames = clean.shape[0], clean.shape[-1]
        if rows != cache.batch_size:
            raise ValueError(f"The block has {rows} rows; the cache has {cache.batch_size}.")
        if has_to_be_called(self):
            hear_called(self, clean, cache)
            return cache
        if not isinstance(conditions, FlowConditions) or not conditions.are_of(frames, cache.positions):
            self._drop_stale_weights()
            modulation = self._modulations(self._clean_condition(clean)[:0])[1]
        else:
            modulation = conditions.clean_modulation
        cos, sin = self._heard_rotary(clean, cache, modulation.dtype, conditions)
        engine = self._usable_engine(cache, modulation.dtype)
        fixed_shapes = self._fixed_shapes or engine is not None
        view = view_of(self.config, cache, clean, modulation.dtype, fixed_shapes)
        if engine is not None:
            engine.hear(self, clean, modulation, (cos, sin), view)
        else:
            self._hear_step(
                self, sample=clean, modulation=modulation, cos=cos, sin=sin, mask=view.mask, keys=view.keys,
                values=view.values,
            )  # fmt: skip
        cache.advance(view)
        return cache

    def _embed(self, sample: torch.Tensor, lead_sheet: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, channels, frames) [+ (batch, frames, features)] -> (batch, tokens, hidden)"""
        hidden = self.input_proj(self._patches(sample))
        return hidden if lead_sheet is None else hidden + self._embed_lead_sheet(lead_sheet)

    def _patches(self, sample: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) -> (batch, tokens, patch * channels)"""
        return sample.transpose(1, 2).unflatten(1, (-1, self.config.patch_size)).flatten(2).to(self.dtype)

    def _embed_lead_sheet(self, lead_sheet: torch.Tensor) -> torch.Tensor:
        # (batch, tokens, patch, features)
        frames = lead_sheet.unflatten(1, (-1, self.config.patch_size)).to(self.dtype)
        sheet, score = frames.split((self.config.lead_sheet_dim, self.config.score_dim), dim=-1)
        embedded = self.lead_sheet_embedding(sheet.flatten(2))
        return embedded if self.score_embedding is None else embedded + self.score_embedding(score)

    def _condition(self, timestep: torch.Tensor, style: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Time and style of every block (..., batch, blocks, hidden); style tokens (batch, tokens, hidden)."""
        style = style.to(self.dtype) * self.config.style_dim**0.5  # unit norm -> unit variance
        time = self.time_embedding(timestep, self.dtype)
        condition = F.silu(time + self.style_embedding(style)[:, None])
        tokens = self.style_tokens(style).unflatten(-1, (self.config.num_style_tokens, -1))
        return condition, tokens

    def _clean_condition(self, like: torch.Tensor) -> torch.Tensor:
        """The condition of context, (1, 1, hidden): t = 1 and no style."""
        one = torch.ones(1, 1, device=like.device)
        return self._condition(one, torch.zeros(1, self.config.style_dim, device=like.device))[0]

    def _positions(
        self, frames: int, cache: FlowCache | None = None, batch: int = 1, ahead: int = 0
    ) -> torch.Tensor:
        """Absolute first frame of every token, (rows, tokens) int64."""
        positions = torch.arange(ahead, ahead + frames, self.config.patch_size, device=self.device)[None]
        if cache is None:
            return positions
        return cache.position.repeat(batch // cache.batch_size)[:, None] + positions

    def _folded_rotary(
        self,
        frames: int,
        cache: FlowCache | None,
        rows: int,
        dtype: torch.dtype,
        ahead: int = 0,
        norms: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `fold_rotary` makes of the next block, of 1 row where all rows of the cache stand alike; `norms`, the
        `norm_weights` of the layers, where they are known."""
        alike = cache is None or len(set(cache.positions)) == 1
        positions = self._positions(frames, cache, rows, ahead)[: 1 if alike else rows]
        cos, sin = rotary_tables(self.config, positions, torch.float32)
        norms = norm_weights([layer.self_attn for layer in self.layers]) if norms is None else norms
        return fold_rotary(cos, sin, norms, dtype)


__all__ = ["FlowTransformerOutput", "RealTimeJazzFlowTransformer"]
