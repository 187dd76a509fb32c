"""Configuration of the RealTimeJazz flow transformer."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from rtjazz_hf.runtime.bundled import BundledMixin
from rtjazz_hf.runtime.configs import PlainConfig


@strict
class RealTimeJazzFlowTransformerConfig(BundledMixin, PlainConfig):
    r"""
    Sizes and behaviour of [`RealTimeJazzFlowTransformer`].

    Args:
        latent_dim (`int`, defaults to 128):
            Channels of the codec's normalised latents.
        cue_channels (`int`, defaults to 0):
            Extra channels that live beside the latents inside the flow only (dropped before decoding).
        lead_sheet_dim (`int`, defaults to 115):
            Features a frame of the lead sheet; `0` builds a model without one.
        score_dim (`int`, defaults to 0):
            Features a frame of the score (metre and notes), which follow the lead sheet's; `0` builds a model that is
            told no notes (layout 1).
        score_hidden (`int`, defaults to 192):
            Width of the score's embedding of one frame.
        style_dim (`int`, defaults to 512):
            Width of the style embedding.
        num_style_tokens (`int`, defaults to 4):
            Tokens the style embedding is projected to for cross-attention.
        num_style_heads (`int`, *optional*, defaults to `num_attention_heads`):
            Heads of the cross-attention; fewer make small models cheaper.
        patch_size (`int`, defaults to 1):
            Frames a transformer token holds: 1, 2, 3 or 6, so that every block size is whole tokens.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`):
            The transformer. Widths are multiples of 64, which keeps 4-bit quantisation possible.
        adaln_rank (`int`, defaults to 64):
            Rank of each layer's own part of the time and style modulation; the full-rank part is shared.
        prediction_type (`str`, defaults to `"velocity"`):
            `"velocity"`, or `"codebook"`: logits over the codes of every level, whose expected code vector
            gives the velocity. Cue channels are velocity in both.
        num_codebooks, codebook_size (`int`):
            The codec's residual quantiser; used by `"codebook"` only.
        window_frames (`int`, defaults to 300):
            Frames of clean context a block may see (4 s); at most `max_window_frames`.
        block_frames (`int`, defaults to 36):
            Default size of a block of generation, one of `block_sizes`.
        channel_weights (`tuple[float, ...]`, *optional*):
            Loss weight of each of the `latent_dim + cue_channels` channels.
        rope_theta (`float`, defaults to 10000.0):
            Base of the rotary position embedding, whose unit is a frame.
        distilled_steps (`int`, *optional*):
            Steps that a distilled model was taught to take, guidance folded in; `None` if it was not distilled.
        distilled_shift (`float`, defaults to 1.0):
            `shift` of the scheduler whose steps those are.
    """

    model_type = "realtime_jazz_flow"
    bundled_part: ClassVar[str] = "transformer"

    latent_dim: int = 128
    cue_channels: int = 0
    lead_sheet_dim: int = 115
    score_dim: int = 0
    score_hidden: int = 192
    style_dim: int = 512
    num_style_tokens: int = 4
    num_style_heads: int | None = None
    patch_size: int = 1
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 2304
    adaln_rank: int = 64
    time_embedding_dim: int = 256
    prediction_type: str = "velocity"
    num_codebooks: int = 4
    codebook_size: int = 2048
    window_frames: int = 300
    max_window_frames: int = 750
    block_frames: int = 36
    block_sizes: tuple[int, ...] | list[int] = (6, 12, 24, 36, 48)
    channel_weights: tuple[float | int, ...] | list[float | int] | None = None
    rope_theta: float | int = 10000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    distilled_steps: int | None = None
    distilled_shift: float | int = 1.0

    def __post_init__(self, **kwargs):
        if self.num_style_heads is None:
            self.num_style_heads = self.num_attention_heads
        self.block_sizes = tuple(self.block_sizes)
        if self.channel_weights is not None:
            self.channel_weights = tuple(float(weight) for weight in self.channel_weights)
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // max(1, self.num_attention_heads)  # asked for before anything is validated

    @property
    def num_channels(self) -> int:
        """Channels of the flow's state: latents, then cues."""
        return self.latent_dim + self.cue_channels

    @property
    def feature_dim(self) -> int:
        """Width of a frame of conditions: lead sheet, then score."""
        return self.lead_sheet_dim + self.score_dim

    @property
    def sampling_defaults(self) -> dict[str, float]:
        """How it is played where nothing else is said: `num_inference_steps`, `guidance_scale` and `shift`."""
        if self.distilled_steps is None:
            return {"num_inference_steps": 8, "guidance_scale": 2.0, "shift": 1.0}
        steps, shift = self.distilled_steps, float(self.distilled_shift)
        return {"num_inference_steps": steps, "guidance_scale": 1.0, "shift": shift}

    @classmethod
    def base(cls, **kwargs) -> "RealTimeJazzFlowTransformerConfig":
        """The flow of `rtjazz-base`: 12 layers, 768 wide, 12 heads, about 129M parameters."""
        return cls(**kwargs)

    @classmethod
    def mini(cls, **kwargs) -> "RealTimeJazzFlowTransformerConfig":
        """The flow of `rtjazz-mini`: 8 layers, 384 wide, 6 heads, about 18M parameters."""
        sizes = {
            "hidden_size": 384,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_style_heads": 2,
            "intermediate_size": 1024,
            "adaln_rank": 16,
        }
        return cls(**(sizes | kwargs))

    def validate_flow_sizes(self):
        """Part of `@strict` validation: everything that must fit together."""
        for name in (
            "latent_dim", "style_dim", "num_style_tokens", "num_style_heads", "num_hidden_layers",
            "num_attention_heads", "score_hidden", "adaln_rank", "num_codebooks", "codebook_size", "time_embedding_dim",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("cue_channels", "lead_sheet_dim", "score_dim"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.score_dim and not self.lead_sheet_dim:
            raise ValueError(f"score_dim is {self.score_dim} without a lead sheet; give lead_sheet_dim too.")
        for name in ("hidden_size", "intermediate_size"):
            if getattr(self, name) < 64 or getattr(self, name) % 64:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a multiple of 64.")
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {self.num_attention_heads} heads "
                "of even width."
            )
        if self.patch_size not in (1, 2, 3, 6):
            raise ValueError(f"patch_size is {self.patch_size}; allowed are 1, 2, 3 and 6.")
        if not 0 < self.rope_theta < float("inf"):
            raise ValueError(f"rope_theta is {self.rope_theta}; it must be positive.")
        if self.time_embedding_dim % 2:
            raise ValueError(f"time_embedding_dim is {self.time_embedding_dim}; it must be even.")
        if any(size < 1 or size % self.patch_size for size in self.block_sizes):
            raise ValueError(
                f"block_sizes {self.block_sizes} must be multiples of patch_size {self.patch_size}."
            )
        if self.block_frames not in self.block_sizes:
            raise ValueError(f"block_frames is {self.block_frames}; allowed are {self.block_sizes}.")
        if not 0 <= self.window_frames <= self.max_window_frames:
            raise ValueError(
                f"window_frames is {self.window_frames}; it must be between 0 and "
                f"max_window_frames = {self.max_window_frames}."
            )
        if self.prediction_type not in ("velocity", "codebook"):
            raise ValueError(
                f"prediction_type is {self.prediction_type!r}; allowed are 'velocity' and 'codebook'."
            )
        if self.distilled_steps is not None and self.distilled_steps < 1:
            raise ValueError(f"distilled_steps is {self.distilled_steps}; it must be at least 1.")
        if not self.distilled_shift > 0:
            raise ValueError(f"distilled_shift is {self.distilled_shift}; it must be positive.")
        if self.channel_weights is not None and len(self.channel_weights) != self.num_channels:
            raise ValueError(
                f"channel_weights has {len(self.channel_weights)} entries; the state has "
                f"{self.num_channels} channels."
            )


__all__ = ["RealTimeJazzFlowTransformerConfig"]
