"""The style encoder: words or a clip to one unit vector of 512 numbers (after CLIP, Radford et al. 2021,
section 2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from rtjazz_hf.runtime.aligned_weights import AlignedWeightsMixin
from rtjazz_hf.runtime.mapped_weights import forget
from rtjazz_hf.runtime.offload import follows_offload

from .configuration_realtime_jazz_style import RealTimeJazzStyleEncoderConfig

# log10 of power, below a clip's mean level, at which the spectrogram is floored
_FLOOR = -7.0


@dataclass
class StyleEncoderOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor` of shape `()`): Symmetric contrastive loss, where asked for.
        logits_per_text (`torch.Tensor` of shape `(texts, clips)`): Scaled cosine similarities.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`): Unit vectors.
        audio_embeds (`torch.Tensor` of shape `(clips, projection_dim)`): Unit vectors.
    """

    loss: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None


def contrastive_loss(logits_per_text: torch.Tensor, ignore_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Symmetric InfoNCE over `(batch, batch)` logits whose diagonal holds the true pairs (CLIP, figure 3).

    `ignore_mask` (the same shape, bool) marks pairs that are no honest negatives, such as two takes of one
    caption; they leave the softmax. The diagonal always stays.
    """
    targets = torch.arange(len(logits_per_text), device=logits_per_text.device)
    if ignore_mask is not None:
        diagonal = torch.eye(len(targets), dtype=torch.bool, device=logits_per_text.device)
        logits_per_text = logits_per_text.masked_fill(ignore_mask & ~diagonal, -torch.inf)
    by_text = nn.functional.cross_entropy(logits_per_text, targets)
    by_audio = nn.functional.cross_entropy(logits_per_text.T, targets)
    return (by_text + by_audio) / 2


def mix_styles(embeddings: torch.Tensor, weights: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """The unit vector between style embeddings `(styles, dim)` by their weights: words, clips, or both.

    Raises ValueError where the weights do not match, are negative or not finite, or all are zero.
    """
    weights = torch.as_tensor(weights, dtype=embeddings.dtype, device=embeddings.device)
    if weights.shape != embeddings.shape[:1]:
        raise ValueError(f"{embeddings.shape[0]} styles need as many weights, got {tuple(weights.shape)}.")
    if not torch.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(f"style weights must be >= 0 and not all zero, got {weights.tolist()}.")
    mixed = (weights[:, None] * embeddings).sum(dim=0) / weights.sum()
    return nn.functional.normalize(mixed, dim=-1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch, heads, queries, keys)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class StyleAttention(nn.Module):
    """Bidirectional multi-head attention."""

    def __init__(self, config: RealTimeJazzStyleEncoderConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.num_key_value_groups = 1
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        batch, length, _ = hidden_states.shape
        split = (batch, length, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(split).transpose(1, 2)
        key = self.k_proj(hidden_states).view(split).transpose(1, 2)
        value = self.v_proj(hidden_states).view(split).transpose(1, 2)  # (batch, heads, length, head_dim)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.dropout if self.training else 0.0
        attended, _ = attention(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout
        )
        return self.out_proj(attended.reshape(batch, length, -1))


class StyleEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(
        self, config: RealTimeJazzStyleEncoderConfig, hidden_size: int, num_heads: int, intermediate_size: int
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = StyleAttention(config, hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        attended = self.attention(self.norm1(hidden_states), attention_mask)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.fc2(self.activation(self.fc1(self.norm2(hidden_states)))))


def _embedding(entries: int, width: int) -> nn.Embedding:
    weight = torch.empty(entries, width)
    if weight.is_meta:  # weights are to be loaded: torch would import SymPy to fill nothing
        return nn.Embedding.from_pretrained(weight, freeze=False)
    return nn.Embedding(entries, width)


class StyleTextTower(nn.Module):
    """Tokens to one vector: embeddings, pre-norm transformer, mean over the tokens that are not padding."""

    def __init__(self, config: RealTimeJazzStyleEncoderConfig):
        super().__init__()
        self.config = config
        width = config.text_hidden_size
        self.token_embedding = _embedding(config.vocab_size, width)
        self.position_embedding = _embedding(config.max_position_embeddings, width)
        self.layers = nn.ModuleList(
            StyleEncoderLayer(config, width, config.text_num_heads, config.text_intermediate_size)
            for _ in range(config.text_num_layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        # counted over real tokens: padding on either side changes nothing
        positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        hidden_states = self.token_embedding(input_ids) + self.position_embedding(
            positions
        )  # (batch, tokens, width)
        mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask)
            forget(layer.parameters())  # a prompt is heard once; the next one may be minutes away
        return masked_mean(self.final_norm(hidden_states), attention_mask)  # (batch, width)


class StyleAudioFrontEnd(nn.Module):
    """Stereo to the log-mel spectrogram of the mid signal; in float32 whatever the model's type."""

    def __init__(self, config: RealTimeJazzStyleEncoderConfig):
        super().__init__()
        self.config = config
        # Not in the checkpoint: `_init_weights` of the model fills them in again after loading. Not on the meta device:
        # to bring them from there, torch would import SymPy.
        window = torch.empty(config.n_fft, device="cpu")
        filterbank = torch.empty(config.n_fft // 2 + 1, config.num_mel_bins, device="cpu")
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", filterbank, persistent=False)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The Hann window `(n_fft,)` and the triangular mel filters `(bins, bands)`, of unit sum per band."""
        config = self.config
        bins = torch.linspace(0.0, config.sampling_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (config.min_frequency, config.max_frequency))
        edges = 700 * (
            10 ** (torch.linspace(low, high, config.num_mel_bins + 2, dtype=torch.float64) / 2595) - 1
        )
        # a band is never narrower than a bin, else the lowest bands would be empty
        width = (edges[1:] - edges[:-1]).clamp(min=config.sampling_rate / config.n_fft)
        rise = (bins[:, None] - (edges[1:-1] - width[:-1])) / width[:-1]
        fall = ((edges[1:-1] + width[1:]) - bins[:, None]) / width[1:]
        filters = torch.minimum(rise, fall).clamp(min=0)
        filters = filters / filters.sum(dim=0, keepdim=True).clamp(min=1e-8)
        return torch.hann_window(config.n_fft), filters.float()

    @torch.no_grad()
    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, samples)` to log10 band power `(batch, ceil(samples / hop_length), bands)`."""
        config = self.config
        with torch.autocast(audio.device.type, enabled=False):
            mid = audio.float().mean(dim=1)  # (batch, samples)
            frames = -(-mid.shape[-1] // config.hop_length)
            left = (config.n_fft - config.hop_length) // 2
            right = (frames - 1) * config.hop_length + config.n_fft - left - mid.shape[-1]
            spectrum = torch.stft(
                nn.functional.pad(mid, (left, right)), config.n_fft, config.hop_length,
                window=self.window.float(), center=False, return_complex=True,
            )  # fmt: skip
            power = spectrum.real.square() + spectrum.imag.square()  # (batch, bins, frames)
            return torch.log10(power.transpose(1, 2) @ self.filterbank.float() + 1e-8)


class StyleAudioTower(nn.Module):
    """Log-mel spectrogram to one vector: three convolutions (4x down), pre-norm transformer, mean over time.

    It has no positions: a style is the same wherever the clip is cut, and any length can be heard.
    """

    def __init__(self, config: RealTimeJazzStyleEncoderConfig):
        super().__init__()
        self.config = config
        width = config.audio_hidden_size
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.activation = ACT2FN[config.hidden_act]
        self.layers = nn.ModuleList(
            StyleEncoderLayer(config, width, config.audio_num_heads, config.audio_intermediate_size)
            for _ in range(config.audio_num_layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, log_mel: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """`log_mel` `(batch, frames, bands)` and its mask of real frames `(batch, frames)` to `(batch,
        width)`."""
        # Level is not style: measure against the clip's own mean power.
        level = torch.log10(
            masked_mean((10.0 ** log_mel.float()).mean(dim=2, keepdim=True), frame_mask) + 1e-8
        )
        features = ((log_mel.float() - level[:, None]).clamp(min=_FLOOR) + 2.0) / 2.0
        # Masked before each convolution, so that what pads a clip in a batch is as if it were not there.
        hidden_states = (features * frame_mask[..., None]).transpose(1, 2).to(self.conv1.weight.dtype)
        hidden_states = self.activation(self.conv1(hidden_states)) * frame_mask[:, None].to(
            hidden_states.dtype
        )
        frame_mask = frame_mask[:, ::2]
        hidden_states = self.activation(self.conv2(hidden_states)) * frame_mask[:, None].to(
            hidden_states.dtype
        )
        frame_mask = frame_mask[:, ::2]
        hidden_states = self.activation(self.conv3(hidden_states)).transpose(
            1, 2
        )  # (batch, frames / 4, width)
        mask = create_bidirectional_mask(self.config, hidden_states, frame_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask)
            forget(layer.parameters())  # a prompt is heard once; the next one may be minutes away
        return masked_mean(self.final_norm(hidden_states), frame_mask)


class RealTimeJazzStyleEncoderPreTrainedModel(AlignedWeightsMixin, PreTrainedModel):
    config: RealTimeJazzStyleEncoderConfig
    bundled_part = "style_encoder"
    base_model_prefix = "style_encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["StyleEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, StyleAudioFrontEnd):
            window, filterbank = module.tables()
            init.copy_(module.window, window)
            init.copy_(module.filterbank, filterbank)
        elif isinstance(module, RealTimeJazzStyleEncoder):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class RealTimeJazzStyleEncoder(RealTimeJazzStyleEncoderPreTrainedModel):
    """Two towers, one space: `encode_text` and `encode_audio` give unit vectors that agree where the style
    does."""

    def __init__(self, config: RealTimeJazzStyleEncoderConfig):
        super().__init__(config)
        self.text_tower = StyleTextTower(config)
        self.text_projection = nn.Linear(config.text_hidden_size, config.projection_dim, bias=False)
        self.audio_front_end = StyleAudioFrontEnd(config)
        self.audio_tower = StyleAudioTower(config)
        self.audio_projection = nn.Linear(config.audio_hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_tower.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_tower.token_embedding = value

    @follows_offload
    def encode_text(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens `(batch, tokens)` to unit vectors `(batch, projection_dim)`.

        Raises ValueError for more tokens than `max_position_embeddings`.
        """
        limit = self.config.max_position_embeddings
        if input_ids.ndim != 2 or input_ids.shape[1] > limit:
            raise ValueError(
                f"input_ids must be (batch, tokens) of at most {limit} tokens, got {tuple(input_ids.shape)}; "
                "tokenize with truncation=True."
            )
        pooled = self.text_tower(input_ids, attention_mask)
        return nn.functional.normalize(self.text_projection(pooled).float(), dim=-1)

    @follows_offload
    def encode_audio(
        self,
        audio: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        log_mel: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sound `(batch, channels, samples)` at 48 kHz, of any level and length, to unit vectors `(batch,
        dim)`.

        `audio_lengths` `(batch,)` are the real samples of clips padded with zeros at the end. `log_mel`
        `(batch, frames, bands)`, from `audio_front_end`, may stand for the audio. Clips longer than
        `max_audio_seconds` are heard in windows whose unit vectors are averaged.
        """
        if log_mel is None:
            if audio is None or audio.ndim != 3 or audio.shape[-1] == 0:
                got = None if audio is None else tuple(audio.shape)
                raise ValueError(f"audio must have the shape (batch, channels, samples), got {got}.")
            log_mel = self.audio_front_end(audio)
        batch, frames, _ = log_mel.shape
        valid = torch.full((batch,), frames, device=log_mel.device)
        if audio_lengths is not None:
            valid = -(-audio_lengths.to(log_mel.device) // self.config.hop_length)
        frame_mask = torch.arange(frames, device=log_mel.device) < valid[:, None]  # (batch, frames)
        window = round(self.config.max_audio_seconds * self.config.frame_rate)
        if frames <= window:
            return self._embed_audio(log_mel, frame_mask)
        starts = range(0, frames, window)
        total = torch.zeros(batch, self.config.projection_dim, device=log_mel.device)
        for start in starts:
            part = frame_mask[:, start : start + window]
            # a last sliver counts by its length, an empty one not at all
            share = part.float().mean(dim=1, keepdim=True) * part.shape[1] / window
            embeds = self._embed_audio(log_mel[:, start : start + window], part)
            total = total + torch.where(share > 0, share * embeds, 0.0)
        return nn.functional.normalize(total, dim=-1)

    def _embed_audio(self, log_mel: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        pooled = self.audio_tower(log_mel, frame_mask)
        return nn.functional.normalize(self.audio_projection(pooled).float(), dim=-1)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        audio: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        log_mel: torch.Tensor | None = None,
        ignore_mask: torch.Tensor | None = None,
        return_loss: bool = False,
        return_dict: bool = True,
    ) -> StyleEncoderOutput | tuple:
        """Embed texts, clips or both; with both, their similarities, and with `return_loss` the contrastive
        loss.

        Arguments as in `encode_text`, `encode_audio` and `contrastive_loss`. Raises ValueError where a loss
        is asked for without as many texts as clips.
        """
        has_audio = audio is not None or log_mel is not None
        text_embeds = self.encode_text(input_ids, attention_mask) if input_ids is not None else None
        audio_embeds = self.encode_audio(audio, audio_lengths, log_mel) if has_audio else None
        if text_embeds is None and audio_embeds is None:
            raise ValueError("nothing to encode: give input_ids, or audio (or log_mel), or both.")
        logits = loss = None
        if text_embeds is not None and audio_embeds is not None:
            scale = self.logit_scale.float().exp().clamp(max=self.config.max_logit_scale)
            with torch.autocast(text_embeds.device.type, enabled=False):
                logits = scale * text_embeds @ audio_embeds.T  # (texts, clips)
        if return_loss:
            if logits is None or logits.shape[0] != logits.shape[1]:
                raise ValueError(
                    "the loss needs as many texts as clips, in pairs: give both input_ids and audio."
                )
            loss = contrastive_loss(logits, ignore_mask)
        output = StyleEncoderOutput(loss, logits, text_embeds, audio_embeds)
        return output if return_dict else output.to_tuple()


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `(batch, length, width)` over the places where `mask` `(batch, length)` is true."""
    weights = mask.to(values.dtype)[..., None]
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


__all__ = [
    "RealTimeJazzStyleEncoder",
    "RealTimeJazzStyleEncoderPreTrainedModel",
    "StyleEncoderOutput",
    "contrastive_loss",
    "mix_styles",
]
