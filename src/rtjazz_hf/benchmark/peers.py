"""What others run on the same machine: their published sizes with random weights, which cost what trained ones do.

Nothing is downloaded. The tables hold what the configurations on the Hub say; what they do not name is the class's
default, which is the published value too.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .settings import Case
from .timing import peak_memory, timed

# https://huggingface.co/facebook/musicgen-small/blob/main/config.json (Copet et al., 2023).
# The text encoder is t5-base, the audio encoder facebook/encodec_32khz.
MUSICGEN_SMALL: dict[str, Any] = {
    "text_encoder": {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 3072,
        "num_layers": 12,
        "num_heads": 12,
    },
    "audio_encoder": {
        "model_type": "encodec",
        "sampling_rate": 32000,
        "audio_channels": 1,
        "normalize": False,
        "target_bandwidths": [2.2],
        "upsampling_ratios": [8, 5, 4, 4],
        "num_filters": 64,
        "hidden_size": 128,
        "codebook_size": 2048,
        "num_lstm_layers": 2,
        "use_causal_conv": False,
        "use_conv_shortcut": False,
    },
    "decoder": {
        "vocab_size": 2048,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "ffn_dim": 4096,
        "num_codebooks": 4,
        "max_position_embeddings": 2048,
        "pad_token_id": 2048,
        "bos_token_id": 2048,
    },
}
# .../musicgen-small/blob/main/generation_config.json
MUSICGEN_GENERATION = {
    "bos_token_id": 2048,
    "decoder_start_token_id": 2048,
    "pad_token_id": 2048,
    "do_sample": True,
    "guidance_scale": 3.0,
}
MUSICGEN_PROMPT_TOKENS = 12

# https://huggingface.co/stabilityai/stable-audio-open-1.0/blob/main/transformer/config.json (Evans et al., 2024),
# and the defaults of diffusers' StableAudioPipeline.
STABLE_AUDIO_OPEN: dict[str, Any] = {
    "sample_size": 1024,
    "in_channels": 64,
    "out_channels": 64,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "num_key_value_attention_heads": 12,
    "cross_attention_dim": 768,
    "cross_attention_input_dim": 768,
    "global_states_input_dim": 1536,
    "time_proj_dim": 256,
}
STABLE_AUDIO_STEPS = 100
STABLE_AUDIO_ROWS = 2  # guidance 7: with and without the prompt
STABLE_AUDIO_TOKENS = 130  # 128 of the text, one each for where the clip starts and ends
STABLE_AUDIO_HOP, STABLE_AUDIO_RATE = 2048, 44100


class MusicgenContender:
    """MusicGen as it ships: words in, whole clip out; text encoder, decoder with guidance 3, and EnCodec."""

    def __init__(self, case: Case):
        from transformers import MusicgenConfig, MusicgenForConditionalGeneration

        self.case = case
        config = MusicgenConfig(**(case.config or MUSICGEN_SMALL))
        with random_weights(case):
            self.model = MusicgenForConditionalGeneration(config).eval().to(case.device)
        self.model.generation_config.update(**MUSICGEN_GENERATION)
        audio = config.audio_encoder
        self.rate = audio.sampling_rate
        # The codebooks are delayed by one step each: so many steps more than frames.
        self.tokens = round(case.seconds * self.rate / audio.hop_length) + config.decoder.num_codebooks
        generator = torch.Generator().manual_seed(case.seed)
        tokens = torch.randint(
            3, config.text_encoder.vocab_size, (1, MUSICGEN_PROMPT_TOKENS), generator=generator
        )
        self.prompt = tokens.to(case.device)
        self.factors: list[float] = []

    def warm_up(self) -> None:
        self._generate(8)

    def round(self) -> None:
        seconds, samples = timed(lambda: self._generate(self.tokens), self.case.device)
        self.audio_seconds = samples / self.rate
        self.factors.append(seconds / self.audio_seconds)

    def result(self) -> dict[str, Any]:
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "audio_seconds": self.audio_seconds,
            "guidance_scale": MUSICGEN_GENERATION["guidance_scale"],
            **_factors(self.factors),
            "peak_memory_mb": peak_memory(self.case.device),
        }

    @torch.inference_mode()
    def _generate(self, tokens: int) -> int:
        """Samples of the clip."""
        mask = torch.ones_like(self.prompt)
        audio = self.model.generate(input_ids=self.prompt, attention_mask=mask, max_new_tokens=tokens)
        return audio.shape[-1]


class StableAudioContender:
    """Stable Audio Open's diffusion transformer: a step is timed, and scaled to 100 steps of a 47 s clip.

    Text encoder, sampler and autoencoder are not counted, which is in its favour.
    """

    def __init__(self, case: Case):
        from diffusers import StableAudioDiTModel
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        self.case = case
        with random_weights(case):
            self.model = StableAudioDiTModel(**(case.config or STABLE_AUDIO_OPEN)).eval().to(case.device)
            config = self.model.config
            rows, width = STABLE_AUDIO_ROWS, config.cross_attention_input_dim
            inputs = {
                "hidden_states": torch.randn(rows, config.in_channels, config.sample_size),
                "timestep": torch.full((1,), 0.5),
                "encoder_hidden_states": torch.randn(rows, STABLE_AUDIO_TOKENS, width),
                "global_hidden_states": torch.randn(rows, 1, config.global_states_input_dim),
            }
        self.inputs: dict[str, Any] = {name: value.to(case.device) for name, value in inputs.items()}
        rotary = get_1d_rotary_pos_embed(
            config.attention_head_dim // 2,
            config.sample_size + 1,
            use_real=True,
            repeat_interleave_real=False,
        )
        self.inputs["rotary_embedding"] = tuple(part.to(case.device) for part in rotary)
        self.audio_seconds = config.sample_size * STABLE_AUDIO_HOP / STABLE_AUDIO_RATE
        self.times: list[float] = []

    def warm_up(self) -> None:
        self._step()

    def round(self) -> None:
        self.times.append(timed(self._step, self.case.device)[0])

    def result(self) -> dict[str, Any]:
        factors = [STABLE_AUDIO_STEPS * seconds / self.audio_seconds for seconds in self.times]
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "audio_seconds": self.audio_seconds,
            "steps": STABLE_AUDIO_STEPS,
            "steps_timed": len(self.times),
            "step_ms": 1000 * statistics.median(self.times),
            **_factors(factors),
            "note": f"the diffusion transformer alone: {len(self.times)} steps timed, scaled to {STABLE_AUDIO_STEPS}",
            "peak_memory_mb": peak_memory(self.case.device),
        }

    @torch.inference_mode()
    def _step(self) -> None:
        self.model(**self.inputs)


@contextmanager
def random_weights(case: Case) -> Iterator[None]:
    """Weights that are made in the type of the case, from its seed; the process's own stay as they were."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        torch.set_default_dtype(getattr(torch, case.dtype))
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _factors(factors: list[float]) -> dict[str, float]:
    return {"real_time_factor": statistics.median(factors), "least_real_time_factor": min(factors)}


class CodecContender:
    """Our codec beside EnCodec at 48 kHz: one call of `benchmark_codec`, which takes turns by itself."""

    def __init__(self, case: Case):
        from transformers import EncodecConfig

        from rtjazz_hf.hub import load_codec

        self.case = case
        self.codec = load_codec(case.source).to(case.device)
        self.encodec = EncodecConfig(**case.config) if case.config else True

    def warm_up(self) -> None:
        self.done: dict[str, Any] | None = None

    def round(self) -> None:
        """All of it, in the first round."""
        if self.done is None:
            from .codec import benchmark_codec

            self.done = benchmark_codec(
                self.codec, self.case.seconds, repeats=self.case.rounds, encodec=self.encodec
            )

    def result(self) -> dict[str, Any]:
        return {**(self.done or {}), "peak_memory_mb": peak_memory(self.case.device)}
