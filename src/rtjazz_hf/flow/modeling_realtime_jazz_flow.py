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

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from rtjazz_hf.runtime.aligned_weights import AlignedWeightsMixin
from rtjazz_hf.runtime.packed_linear import drop_stale, linear, pack

from .cache import CacheView, FlowCache
from .conditions import FlowConditions
from .configuration_realtime_jazz_flow import RealTimeJazzFlowTransformerConfig
from .layers import (
    BlockAttention,
    FlowLayer,
    FlowRMSNorm,
    PastStates,
    fold_rotary,
    modulate_layers,
    rms_norm,
    scaled_linear,
    step_norm,
    style_states,
)
from .steps import CudaGraphs, denoise_step, hear_step

# 1 - t is kept above this in the codebook head's division; a schedule never gets closer to 1 than 1/steps.
MIN_TIME_LEFT = 1e-3
# On a CPU, attention in block-causal training runs in chunks of about this many tokens: a third faster than
# masking the whole sequence, most of which would be hidden.
CPU_CHUNK_TOKENS = 96


@dataclass
class FlowTransformerOutput(ModelOutput):
    """
    Args:
        sample: Velocity `(batch, channels, frames)` in the input's type; `None` if it was not asked for.
        logits: Of a codebook model, `(batch, codebooks, frames, codebook_size)`; else `None`.
    """

    sample: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None


class FlowTimeEmbedding(nn.Module):
    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.width = config.time_embedding_dim
        self.linear_1 = nn.Linear(config.time_embedding_dim, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, timestep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        half = self.width // 2
        frequencies = torch.arange(half, device=timestep.device, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10000.0) / half * frequencies)
        angles = 1000.0 * timestep.float()[..., None] * frequencies  # (..., half)
        embedding = torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)
        return self.linear_2(F.silu(self.linear_1(embedding)))


class FlowLeadSheetEmbedding(nn.Module):
    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        # A gain of 2 gives the sparse features as loud a voice as the latents they are added to.
        self.linear_1 = scaled_linear(config.patch_size * config.lead_sheet_dim, config.hidden_size, gain=2.0)
        self.linear_2 = scaled_linear(config.hidden_size, config.hidden_size, gain=2.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class FlowScoreEmbedding(nn.Module):
    """Metre and notes, frame by frame with the same weights, then the frames of a token together.

    Without biases, so that a frame of zeros adds nothing; the last layer starts at zero, so that a trained model plays
    as it did until it learns to read.
    """

    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.score_dim, config.score_hidden, bias=False)
        self.linear_1.initializer_std = 0.15  # a few of hundreds of inputs are on at a time
        self.linear_2 = nn.Linear(config.patch_size * config.score_hidden, config.hidden_size, bias=False)
        self.linear_2.initializer_std = 0.0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, patch, score_dim) -> (batch, tokens, hidden)"""
        return self.linear_2(F.silu(self.linear_1(features)).flatten(-2))


class FlowHead(nn.Module):
    """Velocity of each channel, or logits of each codebook level (and velocity of the cue channels)."""

    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.config = config
        self.eps = config.rms_norm_eps
        self.modulation = scaled_linear(config.hidden_size, 2 * config.hidden_size, gain=0.0)
        if config.prediction_type == "codebook":
            self.num_logits = config.num_codebooks * config.codebook_size
            outputs = self.num_logits + config.cue_channels
            codebooks = torch.zeros(config.num_codebooks, config.codebook_size, config.latent_dim)
            self.register_buffer("codebooks", codebooks)
            self.register_buffer("latents_offset", torch.zeros(config.latent_dim))
        else:
            outputs = config.num_channels
        self.proj = scaled_linear(config.hidden_size, config.patch_size * outputs, gain=0.0)

    def modulate(self, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift and 1 + scale, each (..., 1, hidden), of the condition (..., hidden)."""
        shift, scale = self.modulation(condition).unsqueeze(-2).chunk(2, dim=-1)
        return shift, 1 + scale

    def forward(self, hidden, modulation, sample, timestep, return_sample: bool) -> FlowTransformerOutput:
        """`hidden` (batch, blocks, tokens, hidden), `modulation` of `modulate`, `timestep` (batch, blocks)"""
        output = self.proj(torch.addcmul(modulation[0], rms_norm(hidden, self.eps), modulation[1]))
        velocity, logits = self.velocity(output.flatten(1, 2), sample, timestep, return_sample)
        return FlowTransformerOutput(sample=velocity, logits=logits)

    def step(self, hidden, modulation, sample, timestep, return_sample: bool) -> tuple:
        """Velocity and logits of one block, as `forward` to rounding: `hidden` (batch, tokens, hidden)."""
        normed = torch.addcmul(modulation[0], step_norm(hidden, self.eps), modulation[1])
        return self.velocity(linear(normed, self.proj), sample, timestep, return_sample)

    def velocity(self, output, sample, timestep, return_sample: bool) -> tuple:
        """`output` of the projection (batch, tokens, patch * outputs) -> velocity or None, logits or None"""
        output = output.unflatten(-1, (self.config.patch_size, -1)).flatten(1, 2)  # (batch, frames, outputs)
        if self.config.prediction_type == "velocity":
            return output.transpose(1, 2).to(sample.dtype), None

        logits = output[..., : self.num_logits].unflatten(-1, (self.config.num_codebooks, -1)).transpose(1, 2)
        velocity = None
        if return_sample:
            expected = self.latents_offset.float()[None, :, None]
            for level in range(self.config.num_codebooks):
                vectors = logits[:, level].float().softmax(-1) @ self.codebooks[level].float()
                expected = expected + vectors.transpose(1, 2)  # (batch, latent_dim, frames)
            left = (1 - timestep.float()).clamp_min(MIN_TIME_LEFT)
            left = left.repeat_interleave(sample.shape[-1] // left.shape[1], dim=1)  # (batch, frames)
            velocity = (expected - sample[:, : self.config.latent_dim].float()) / left[:, None]
            cues = output[..., self.num_logits :].transpose(1, 2)
            velocity = torch.cat((velocity, cues.float()), dim=1).to(sample.dtype)
        return velocity, logits


class RealTimeJazzFlowTransformer(AlignedWeightsMixin, PreTrainedModel):
    """
    Velocity field of the latents, conditioned on a lead sheet, a style and what was played before.

    Three ways to call it:

    - a whole clip: `forward(sample, timestep, lead_sheet, style)`, every frame attends to every other;
    - training in blocks: `forward(..., context=clean, block_frames=36)`, the sequence [clean | noisy];
    - live: `cache = init_cache(batch)`, then for each block some `forward(..., cache=cache)` and one
      `append_to_cache(clean_block, cache)`.
    """

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
        self._denoise_step, self._hear_step = denoise_step, hear_step  # `compile` puts others in their place
        self._fixed_shapes = False
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
        if prediction_levels:
            raise ValueError(
                f"this codec's codes depend on the frames before (prediction_levels={prediction_levels}), which a "
                "codebook model cannot follow yet; use prediction_type='velocity', or a codec with "
                "prediction_levels=0."
            )
        if self.config.prediction_type != "codebook":
            raise ValueError("This model predicts velocity; codebooks need prediction_type='codebook'.")
        if codebooks.shape != self.head.codebooks.shape:
            raise ValueError(
                f"codebooks has shape {tuple(codebooks.shape)}; the config asks for "
                f"{tuple(self.head.codebooks.shape)}."
            )
        self.head.codebooks.copy_(codebooks.detach())
        if latents_offset is not None:
            self.head.latents_offset.copy_(latents_offset.detach())

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
        conditions: FlowConditions | None = None,
        step: int = 0,
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
            conditions: What `prepare_conditions` made of timesteps, lead sheet and style, in their place; `step`
                is the number of the timestep.
        """
        if conditions is not None:
            if any(given is not None for given in (timestep, lead_sheet, style, context)):
                raise ValueError(
                    "conditions hold the timesteps, lead sheet and style; do not give timestep, lead_sheet, style "
                    "or context beside them."
                )
            output = self._forward_prepared(sample, conditions, step, cache, return_sample)
            return output if return_dict else output.to_tuple()
        if timestep is None:
            raise ValueError("Neither timestep nor conditions were given; give one of them.")
        if context is not None:
            if cache is not None:
                raise ValueError(
                    "context and cache were both given; training takes context, generation takes cache."
                )
            return self.forward_blocks(
                sample, timestep, context, lead_sheet, style,
                block_frames=block_frames, window_frames=window_frames, context_start=context_start,
                return_sample=return_sample, return_dict=return_dict,
            )  # fmt: skip
        timestep, lead_sheet, style = self._check_inputs(sample, timestep, lead_sheet, style)
        hidden = self._embed(sample, lead_sheet)
        hidden = hidden.unflatten(1, (timestep.shape[1], -1))  # (batch, blocks, tokens, hidden)
        condition, style_tokens = self._condition(timestep, style)
        view = self._view(cache, sample, hidden.dtype)
        rotary = self._rotary(self._positions(sample.shape[-1], cache, sample.shape[0]), hidden.dtype)
        modulation = self.modulation(condition)
        for index, layer in enumerate(self.layers):
            past = None if view is None else PastStates(view.keys[index], view.values[index], view.mask)
            hidden = layer(hidden, condition, modulation, style_tokens, rotary, past=past)
        output = self.head(hidden, self.head.modulate(condition), sample, timestep, return_sample)
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def prepare_conditions(
        self,
        timesteps: torch.Tensor,
        lead_sheet: torch.Tensor | None = None,
        style: torch.Tensor | None = None,
        cache: FlowCache | None = None,
        frames: int | None = None,
    ) -> FlowConditions:
        """
        Compute what does not depend on the sample once for all steps of a block.

        `forward(sample, conditions=conditions, step=i, cache=cache)` then equals
        `forward(sample, timesteps[i], lead_sheet, style, cache=cache)` to rounding. Without gradients.

        Args:
            timesteps: Of every step, `(steps,)`, or `(steps, batch)`.
            lead_sheet: `(batch, frames, feature_dim)`. style: `(batch, style_dim)`.
            cache: The one that the steps will be given, for the frames that it stands at.
            frames: Of the block; only needed without a lead sheet.

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
        _, lead_sheet, style = self._check_inputs(like, timesteps[0], lead_sheet, style)
        timesteps = timesteps.reshape(len(timesteps), -1, 1)  # (steps, rows or 1, 1 block)

        self._drop_stale_weights()
        sheet = None if lead_sheet is None else self._embed_lead_sheet(lead_sheet)
        condition, style_tokens = self._condition(timesteps, style)  # (steps, rows, 1, hidden)
        modulation, clean_modulation = self._modulations(condition.squeeze(2))
        style_keys, style_values = style_states(style_tokens, [layer.cross_attn for layer in self.layers])
        return FlowConditions(
            timesteps=timesteps.expand(-1, rows, -1),
            frames=frames,
            positions=None if cache is None else cache.positions,
            lead_sheet=sheet,
            modulation=modulation,
            clean_modulation=clean_modulation,
            head=torch.stack(self.head.modulate(condition.squeeze(2))),
            style_keys=style_keys,
            style_values=style_values,
            rotary=self._folded_rotary(frames, cache, rows, condition.dtype),
        )

    def _modulations(self, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all layers, for conditions (steps, rows, hidden) and for a finished block: see `FlowConditions`."""
        steps, rows, _ = condition.shape
        every = torch.cat((condition.flatten(0, 1), self._clean_condition(condition)[0]))
        layers = modulate_layers(every, linear(every, self.modulation), self.layers)
        return layers[:, :, :-1].unflatten(2, (steps, rows)), layers[:, :, -1:]

    @torch.compiler.disable(recursive=False)
    def _forward_prepared(self, sample, conditions, step, cache, return_sample) -> FlowTransformerOutput:
        self._check_sample(sample)
        conditions.check(sample.shape[0], sample.shape[-1], None if cache is None else cache.positions)
        if not 0 <= step < conditions.num_steps:
            raise ValueError(f"step is {step}; the conditions are for steps 0 to {conditions.num_steps - 1}.")
        view = self._view(cache, sample, conditions.head.dtype)
        velocity, logits = self._denoise_step(
            self,
            sample=sample,
            timestep=conditions.timesteps[step],
            lead_sheet=conditions.lead_sheet,
            modulation=conditions.modulation[:, :, step],
            head=conditions.head[:, step],
            style_keys=conditions.style_keys,
            style_values=conditions.style_values,
            cos=conditions.rotary[0],
            sin=conditions.rotary[1],
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
        timestep, lead_sheet, style = self._check_inputs(sample, timestep, lead_sheet, style)
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
        plan = self._plan_blocks(blocks, block_frames, window_frames, context_start, sample.device)

        hidden = torch.cat((self._embed(clean), self._embed(sample, lead_sheet)), dim=1)
        hidden = hidden.unflatten(1, (2 * blocks, -1))  # (batch, clean then noisy blocks, tokens, hidden)
        condition, style_tokens = self._condition(timestep, style)
        clean_condition = self._clean_condition(sample).expand(sample.shape[0], blocks, -1)
        both = torch.cat((clean_condition, condition), dim=1)
        modulation = self.modulation(both)
        positions = self._positions(frames)
        rotary = self._rotary(torch.cat((positions, positions), dim=1), hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, both, modulation, style_tokens, rotary, plan=plan, context_blocks=blocks)
        output = self.head(hidden[:, blocks:], self.head.modulate(condition), sample, timestep, return_sample)
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def append_to_cache(
        self, clean: torch.Tensor, cache: FlowCache, conditions: FlowConditions | None = None
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
        self._check_sample(clean)
        rows, frames = clean.shape[0], clean.shape[-1]
        if rows != cache.batch_size:
            raise ValueError(f"The block has {rows} rows; the cache has {cache.batch_size}.")
        if conditions is None or not conditions.are_of(frames, cache.positions):
            self._drop_stale_weights()
            like = self._clean_condition(clean)
            modulation = self._modulations(like[:0])[1]
            cos, sin = self._folded_rotary(frames, cache, rows, like.dtype)
        else:
            modulation = conditions.clean_modulation
            cos, sin = (table[:, :rows] for table in conditions.rotary)  # with guidance there are more rows
        view = self._view(cache, clean, modulation.dtype)
        self._hear_step(
            self, sample=clean, modulation=modulation, cos=cos, sin=sin, mask=view.mask, keys=view.keys,
            values=view.values,
        )  # fmt: skip
        cache.advance(view)
        return cache

    def compile(self, *, backend: str = "inductor", mode: str | None = None, **kwargs) -> None:
        """
        Compile the steps of generation: `forward` with `conditions`, and `append_to_cache`.

        Takes what `torch.compile` takes. Shapes stay the same while the cache fills, so the compiler runs for
        the first block, when the window is full, and whenever block size, rows or window change. Packed
        weights are for steps that are not compiled. Training is compiled with `torch.compile(transformer)`.

        Args:
            backend: `"inductor"`; `"cudagraphs"` replays the steps as they are as CUDA graphs; `"eager"` undoes it.
            mode: As for `torch.compile`; `"reduce-overhead"` replays the compiled steps as CUDA graphs.

        Raises:
            ValueError: CUDA graphs were asked for on another device.
        """
        graphs = backend == "cudagraphs" or mode == "reduce-overhead"
        if graphs and self.device.type != "cuda":
            raise ValueError(
                f"backend {backend!r} and mode {mode!r} need CUDA graphs; the model is on {self.device}. Use "
                "backend='inductor' without this mode, or move the model to a CUDA device first."
            )
        steps = [denoise_step, hear_step]
        if backend not in ("eager", "cudagraphs"):
            options = {"dynamic": False, "backend": backend, "mode": None if graphs else mode} | kwargs
            steps = [torch.compile(step, **options) for step in steps]
        if graphs:
            steps = [CudaGraphs(step) for step in steps]
        self._denoise_step, self._hear_step = steps
        self._fixed_shapes = backend != "eager"

    def pack_weights(self) -> None:
        """
        Copy the weights of a step into the layout that a CPU multiplies fastest; `forward` with `conditions`
        and `append_to_cache` use the copies while gradients are off.

        Takes as much memory as the layers' weights. Weights that have changed are seen and not used; call it
        again to pack them anew. The one change it cannot see by itself is an edit through `weight.data`: call it
        after that too. Does nothing on other devices, for compiled steps, and where torch has no such layout.
        """
        if self._fixed_shapes:
            return
        for layers in self._step_linears():
            pack(*layers)

    def _drop_stale_weights(self) -> None:
        for layers in self._step_linears():
            drop_stale(*layers)

    def _step_linears(self) -> list[tuple[nn.Module, ...]]:
        groups = [group for layer in self.layers for group in layer.linears()]
        styles = [
            each for layer in self.layers for each in (layer.cross_attn.k_proj, layer.cross_attn.v_proj)
        ]
        downs = [layer.adaln_down for layer in self.layers]
        return [
            (self.input_proj,),
            *groups,
            (self.head.proj,),
            (self.modulation,),
            tuple(styles),
            tuple(downs),
        ]

    def _view(self, cache: FlowCache | None, sample: torch.Tensor, dtype: torch.dtype) -> CacheView | None:
        """What the block `sample` hears of the past."""
        if cache is None:
            return None
        if sample.shape[0] % cache.batch_size:
            raise ValueError(
                f"The sample has {sample.shape[0]} rows and the cache {cache.batch_size}; "
                "the sample's must be a multiple."
            )
        implementation = self.config._attn_implementation
        flash = "flash" in (implementation or "")
        view = cache.view(sample.shape[0], sample.shape[-1], dtype, fixed=self._fixed_shapes and not flash)
        if view.mask is not None and flash:
            raise ValueError(
                f"attn_implementation is {implementation!r}, which takes no mask, and the rows of this cache have "
                "heard pasts of different lengths: use 'sdpa' or 'eager', or play these rows one by one."
            )
        return view

    def _check_sample(self, sample: torch.Tensor) -> None:
        config = self.config
        if sample.ndim != 3 or sample.shape[1] != config.num_channels:
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}; expected (batch, {config.num_channels}, frames)."
            )
        frames = sample.shape[-1]
        if frames < 1 or frames % config.patch_size:
            raise ValueError(
                f"sample has {frames} frames; expected a multiple of patch_size {config.patch_size}."
            )

    def _check_inputs(self, sample, timestep, lead_sheet, style):
        self._check_sample(sample)
        config, (batch, _, frames) = self.config, sample.shape
        timestep = torch.as_tensor(timestep, device=sample.device, dtype=torch.float32)
        if timestep.ndim < 2:
            timestep = timestep.reshape(-1, 1)
        if timestep.shape[0] not in (1, batch) or (frames // config.patch_size) % timestep.shape[1]:
            raise ValueError(
                f"timestep has shape {tuple(timestep.shape)}; expected a number, ({batch},), or "
                f"({batch}, blocks) with blocks of equal size in {frames} frames."
            )
        timestep = timestep.expand(batch, -1)  # (batch, blocks)
        if lead_sheet is None and config.lead_sheet_dim:
            lead_sheet = sample.new_zeros(1, frames, config.feature_dim)
        if lead_sheet is not None and lead_sheet.shape[1:] != (frames, config.feature_dim):
            raise ValueError(
                f"lead_sheet has shape {tuple(lead_sheet.shape)}; expected "
                f"({batch}, {frames}, {config.feature_dim})."
            )
        if style is None:
            style = sample.new_zeros(1, config.style_dim)
        if style.ndim != 2 or style.shape[1] != config.style_dim:
            raise ValueError(f"style has shape {tuple(style.shape)}; expected ({batch}, {config.style_dim}).")
        return timestep, lead_sheet, style.expand(batch, -1)

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
        sheet = frames[..., : self.config.lead_sheet_dim]
        embedded = self.lead_sheet_embedding(sheet.flatten(2))
        if self.score_embedding is None:
            return embedded
        return embedded + self.score_embedding(frames[..., self.config.lead_sheet_dim :])

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

    def _positions(self, frames: int, cache: FlowCache | None = None, batch: int = 1) -> torch.Tensor:
        """Absolute first frame of every token, (rows, tokens) int64."""
        positions = torch.arange(0, frames, self.config.patch_size, device=self.device)[None]
        if cache is None:
            return positions
        return cache.position.repeat(batch // cache.batch_size)[:, None] + positions

    def _rotary(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        device = positions.device
        if device.type == "mps":  # which has no float64
            positions = positions.cpu()
        half = self.config.head_dim // 2
        exponents = torch.arange(half, device=positions.device, dtype=torch.float64) / half
        angles = positions[..., None, None].double() / self.config.rope_theta**exponents
        return angles.cos().to(dtype).to(device), angles.sin().to(dtype).to(device)  # (rows, tokens, 1, half)

    def _folded_rotary(self, frames: int, cache: FlowCache | None, rows: int, dtype: torch.dtype):
        """What `fold_rotary` makes of the next block, of 1 row where all rows of the cache stand alike."""
        alike = cache is None or len(set(cache.positions)) == 1
        positions = self._positions(frames, cache, rows)[: 1 if alike else rows]
        cos, sin = self._rotary(positions, torch.float32)
        return fold_rotary(cos, sin, [layer.self_attn for layer in self.layers], dtype)

    def _plan_blocks(self, blocks, block_frames, window_frames, context_start, device) -> BlockAttention:
        """The cache's rule as masks over [clean | noisy] blocks, cut into chunks where that pays."""
        implementation = self.config._attn_implementation
        if implementation is not None and "flash" in implementation:
            raise ValueError(
                f"attn_implementation is {implementation!r}, which takes no mask; block-causal training "
                "needs one: use 'sdpa', 'flex_attention' or 'eager'. Generation works with any."
            )
        # Of every row: how many blocks back it sees, and the first block that is heard.
        reach = torch.as_tensor(window_frames, device=device).reshape(-1, 1, 1) // block_frames
        start = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
        if context_start is not None:
            start = -(-torch.as_tensor(context_start, device=device).reshape(-1, 1, 1) // block_frames)
        index = torch.arange(blocks, device=device)
        query, key = index[:, None], index[None]
        past = (key < query) & (query - key <= reach) & (key >= start)  # (rows, blocks, blocks)
        own = (key == query).expand_as(past)
        clean = torch.cat((past | own, torch.zeros_like(past)), dim=2)
        noisy = torch.cat((past, own), dim=2)

        tokens = block_frames // self.config.patch_size
        chunk = blocks
        if device.type == "cpu" and implementation != "flex_attention":
            chunk = min(blocks, max(1, round(CPU_CHUNK_TOKENS / tokens)))
        ends = [min(first + chunk, blocks) for first in range(0, blocks, chunk)]
        sizes, seen, masks = [], [], []
        for number, end in enumerate(ends):
            begin = number * chunk
            low = 0 if chunk == blocks else max(0, begin - int(reach.max())) // chunk
            columns = torch.cat((index[low * chunk : end], blocks + index[begin:end]))
            mask = torch.cat((clean[:, begin:end], noisy[:, begin:end]), dim=1)[:, :, columns]
            mask = mask.repeat_interleave(tokens, dim=1).repeat_interleave(tokens, dim=2)[:, None]
            sizes.append((end - begin) * tokens)
            seen.append(low)
            masks.append(self._flex_mask(mask) if implementation == "flex_attention" else mask)
        return BlockAttention(sizes, seen, masks)

    @staticmethod
    def _flex_mask(mask: torch.Tensor):
        from torch.nn.attention.flex_attention import create_block_mask

        rows, _, queries, keys = mask.shape
        return create_block_mask(
            lambda batch, head, query, key: mask[batch % rows, 0, query, key],
            B=None if rows == 1 else rows, H=None, Q_LEN=queries, KV_LEN=keys, device=mask.device,
        )  # fmt: skip


__all__ = ["FlowTransformerOutput", "RealTimeJazzFlowTransformer"]
