"""What may be asked for: prompts and their mixes, durations, settings of generation, and the checks of
each."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from .audio import HOP_LENGTH, SAMPLE_RATE, read_audio, resample

BLOCK_SIZES = (6, 12, 24, 36, 48)  # frames
MAX_WINDOW_FRAMES = 750  # 10 s: the longest context of training
MAX_DURATION = 600.0  # seconds in one call; `live` has no end
MAX_INFERENCE_STEPS = 1000
_SOUND_FILES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".m4a", ".opus")
MAX_GUIDANCE_SCALE = 5.0  # beyond it most of the notes that are asked for are lost

# Words, a clip at 48 kHz `(2, samples)` or of another rate (see `_is_recording`),
# or a weighted mix: {"bebop": 0.7, "bossa": 0.3}, or, where a clip
# takes part, a tuple of pairs: (("bebop", 0.7), (clip, 0.3)).
Prompt: TypeAlias = "str | np.ndarray | torch.Tensor | dict[str, float] | tuple[tuple[Any, float], ...]"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_duration(duration: Any) -> None:
    """More than 0 and at most 600 seconds, or ValueError."""
    if not (_is_number(duration) and 0 < duration <= MAX_DURATION):
        raise ValueError(
            f"duration {duration!r}: choose more than 0 and at most {MAX_DURATION:g} seconds "
            f"(for music without an end use `live`)"
        )


def check_settings(
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    block_frames: int | None = None,
    window_frames: int | None = None,
) -> None:
    steps, scale, block, window = num_inference_steps, guidance_scale, block_frames, window_frames
    if steps is not None and not (_is_whole(steps) and 1 <= steps <= MAX_INFERENCE_STEPS):
        raise ValueError(
            f"num_inference_steps {steps!r}: choose a whole number from 1 to {MAX_INFERENCE_STEPS}"
        )
    if scale is not None and not (_is_number(scale) and 0 <= scale <= MAX_GUIDANCE_SCALE):
        raise ValueError(
            f"guidance_scale {scale!r}: choose a number from 0 to {MAX_GUIDANCE_SCALE:g}; 1 is no guidance"
        )
    if block is not None and block not in BLOCK_SIZES:
        raise ValueError(f"block_frames {block!r}: choose from {', '.join(map(str, BLOCK_SIZES))}")
    if window is not None and not (_is_whole(window) and 1 <= window <= MAX_WINDOW_FRAMES):
        raise ValueError(
            f"window_frames {window!r}: choose a whole number from 1 to {MAX_WINDOW_FRAMES} (75 are a second)"
        )


def mix_of(prompt: Prompt) -> list[tuple[str | torch.Tensor, float]]:
    """A prompt as weighted parts: words, and clips as float32 tensors `(2, samples)`."""
    if isinstance(prompt, (str, np.ndarray, torch.Tensor)) or _is_recording(prompt):
        parts: list[tuple[Any, Any]] = [(prompt, 1.0)]
    elif isinstance(prompt, dict):
        parts = list(prompt.items())
    elif isinstance(prompt, tuple) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in prompt
    ):
        parts = [tuple(pair) for pair in prompt]
    else:
        raise ValueError(
            f"prompt of type {type(prompt).__name__}: give words, a clip, a mix such as "
            f"{{'bebop': 0.7, 'bossa': 0.3}}, a tuple of (prompt, weight) pairs, or a list of prompts"
        )
    if not parts:
        raise ValueError("the prompt is an empty mix; give at least one prompt and its weight")
    for part, weight in parts:
        if not (_is_number(weight) and weight >= 0):
            raise ValueError(f"the weight {weight!r} in a prompt mix: choose a number of 0 or more")
        if isinstance(part, str) and not part.strip():
            raise ValueError("the prompt is empty; describe the music, such as 'medium swing piano trio'")
        if isinstance(part, str) and " " not in part and Path(part).suffix.lower() in _SOUND_FILES:
            raise ValueError(
                f"the prompt {part!r} is the name of a sound file, and a string is read as words: give "
                f"pathlib.Path({part!r}) to have it heard (`rtjazz generate --like {part}`)"
            )
    if not sum(weight for _, weight in parts) > 0:
        raise ValueError("all weights of the prompt mix are 0; give at least one that is more")
    return [(part if isinstance(part, str) else _as_clip(part), float(weight)) for part, weight in parts]


def _is_recording(part: Any) -> bool:
    """A file's path, `(rate, samples)` as Gradio has it, or one of datasets' forms: `{"array": ..., "sampling_rate":
    ...}`, `{"path": ..., "bytes": ...}` (`Audio(decode=False)`), or a decoder."""
    if isinstance(part, tuple):
        return len(part) == 2 and _is_number(part[0]) and isinstance(part[1], (np.ndarray, torch.Tensor))
    if isinstance(part, Mapping):
        return {"array", "sampling_rate"} <= part.keys() or {"path", "bytes"} == part.keys()
    return isinstance(part, os.PathLike) or hasattr(part, "get_all_samples")


def _at_our_rate(part: Any) -> np.ndarray:
    """A recording as `(2 or 1, samples)` float32 at 48 kHz."""
    if isinstance(part, os.PathLike):
        return read_audio(part)
    if isinstance(part, Mapping) and "bytes" in part:
        return _read_bytes(part["bytes"], part["path"])
    if hasattr(part, "get_all_samples"):  # of torchcodec
        decoded = part.get_all_samples()
        part = (decoded.sample_rate, decoded.data)
    rate, samples = part if isinstance(part, tuple) else (part["sampling_rate"], part["array"])
    if not (_is_number(rate) and 8_000 <= rate <= 192_000):
        raise ValueError(f"a prompt clip's rate {rate!r}: choose from 8,000 to 192,000 Hz")
    samples = np.asarray(samples)
    if np.issubdtype(samples.dtype, np.integer):  # PCM, as Gradio gives it
        samples = samples / -float(np.iinfo(samples.dtype).min or -128)
    if samples.ndim == 2 and samples.shape[0] > 2 >= samples.shape[1]:  # Gradio's (samples, channels)
        samples = samples.T
    return resample(np.atleast_2d(samples).astype(np.float32), rate)


def _read_bytes(content: Any, path: Any) -> np.ndarray:
    """A sound file's content, as datasets holds it; a name alone is not opened: such a dict may come from anywhere."""
    if not isinstance(content, bytes):
        raise ValueError(
            f"a prompt clip {{'path': {path!r}, 'bytes': {type(content).__name__}}} holds no sound: give "
            "pathlib.Path of it"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"clip{Path(str(path or '')).suffix}"
        file.write_bytes(content)
        return read_audio(file)


def _as_clip(part: Any) -> torch.Tensor:
    if _is_recording(part):
        part = _at_our_rate(part)
    if not isinstance(part, (np.ndarray, torch.Tensor)):
        raise ValueError(
            f"a prompt part of type {type(part).__name__}: give words, or a clip as an array (2, samples)"
        )
    clip = torch.as_tensor(part).float()
    if clip.ndim == 1:
        clip = clip[None]
    if clip.ndim == 2 and clip.shape[0] == 1:
        clip = clip.expand(2, -1)
    if clip.ndim != 2 or clip.shape[0] != 2 or clip.shape[1] < HOP_LENGTH:
        raise ValueError(
            f"a prompt clip of shape {tuple(part.shape)}: give (2, samples) at {SAMPLE_RATE} Hz, "
            f"{HOP_LENGTH} samples or more"
        )
    if not torch.isfinite(clip).all():
        raise ValueError("a prompt clip holds NaN or infinite samples")
    return clip


def words_of(prompt: Prompt) -> str:
    """What the band leader reads of a prompt: the heaviest words of a mix; nothing of a clip."""
    words = [(weight, part) for part, weight in mix_of(prompt) if isinstance(part, str)]
    return max(words, key=lambda pair: pair[0])[1] if words else ""


# -- keywords that users of diffusers' pipelines bring along ------------------------------------------------------
_INSTEAD = {
    "negative_prompt": "guidance here pushes away from the same music without its chords; mix prompts by weight",
    "negative_prompt_embeds": "guidance here pushes away from the same music without its chords",
    "latents": "the noise is drawn block by block: give generator, and change it in callback_on_step_end",
    "audio_length_in_s": "give duration",
    "audio_end_in_s": "give duration",
    "audio_duration": "give duration",
    "audio_start_in_s": "music begins at its beginning; `live(start_beat=...)` begins elsewhere in the chart",
    "initial_audio_waveforms": "give a clip as the prompt, or `live(context=...)` to go on from it",
    "lyrics": "nobody sings",
    "eta": "the steps draw no noise",
    "callback": "give callback_on_step_end",
    "callback_steps": "callback_on_step_end hears of every step",
    "seed": "give generator=torch.Generator().manual_seed(seed)",
    "num_images_per_prompt": "give num_waveforms_per_prompt",
    "cross_attention_kwargs": 'give adapter_scale for the "scale" of adapters',
    "joint_attention_kwargs": 'give adapter_scale for the "scale" of adapters',
    "attention_kwargs": 'give adapter_scale for the "scale" of adapters',
    "audio_duration_s": "give duration",
    "bpm": "give tempo, in beats per minute",
    "keyscale": "give key",
    "timesignature": 'write the metre into the chart: "3/4 Dm7 | G7"',
    "batch_size": "give a list of prompts, or num_waveforms_per_prompt",
    "steps": "give num_inference_steps",
    "timesteps": "the scheduler has them: FlowMatchScheduler(shift=...), and num_inference_steps",
    "shift": "it is the scheduler's: pipe.scheduler = FlowMatchScheduler(shift=...)",
    "noise": "the noise is drawn block by block: give generator",
    "step_generator": "the steps draw no noise: give generator",
    "vocal_language": "nobody sings",
    "transcription": "nobody sings",
    "max_lyric_length": "nobody sings",
    "instruction": "say it in the prompt",
    "task_type": "a clip goes on by `live(context=...)`; parts are left out by instruments=['-piano']",
    "track_name": "name who plays in instruments",
    "complete_track_classes": "name who plays in instruments",
    **dict.fromkeys(
        ("initial_audio_sampling_rate", "reference_audio", "audio_file", "raw_audio", "audio", "src_audio"),
        "give a clip as the prompt, (rate, samples) or a pathlib.Path, or `live(context=...)` to go on from it",
    ),
    **dict.fromkeys(
        ("mask", "mask_start_secs", "mask_end_secs", "mask_start_seconds", "mask_end_seconds", "repainting_start",
         "repainting_end", "slice", "start_step", "init_noise_level", "audio_cover_strength",
         "silence_padding_duration"),
        "nothing is painted over: music goes on from a clip by `live(context=...)`",
    ),
    **dict.fromkeys(
        ("attention_mask", "negative_attention_mask", "encoder_attention_mask", "negative_encoder_attention_mask",
         "generated_prompt_embeds", "negative_generated_prompt_embeds", "encoding", "max_text_length",
         "max_new_tokens"),
        "words become one embedding, without a mask: give prompt_embeds",
    ),
    **dict.fromkeys(
        ("cfg_interval_start", "cfg_interval_end", "logsnr_min", "logsnr_max"),
        "guidance and times are the same for the whole of a block: guidance_scale, FlowMatchScheduler(shift=...)",
    ),
    "audio_codes": "codes come out by output_type='codes'; a codec decodes them",
}  # fmt: skip


def refuse_others(others: Mapping[str, Any]) -> None:
    """Refuse keywords that a call does not take, saying what does it here.

    Raises:
        TypeError: one that no pipeline has. ValueError: one of diffusers' that is not None.
    """
    for name, value in others.items():
        if name not in _INSTEAD:
            raise TypeError(f"RealTimeJazzPipeline got an unexpected keyword argument {name!r}")
        if value is not None:
            raise ValueError(f"{name} is not taken: {_INSTEAD[name]}")


def check_callback_inputs(names: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse tensors that a callback cannot be given."""
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise ValueError(f"callback_on_step_end_tensor_inputs {unknown}: choose from {', '.join(allowed)}")


def changed_by_callback(returned: Any) -> torch.Tensor | None:
    """The latents that a callback gives back in a dict, if it does."""
    if returned is None:
        return None
    if not isinstance(returned, Mapping):
        raise ValueError(
            f"callback_on_step_end returned a {type(returned).__name__}: return a dict, such as {{'latents': latents}} "
            "to change them, or {}"
        )
    return returned.get("latents")


def repeat_rows(times: int, prompt: Any, *wishes: Any) -> list[Any]:
    """Every prompt `times` times, side by side, and what was given for each prompt with it."""
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ValueError(f"num_waveforms_per_prompt {times!r}: choose a whole number of 1 or more")
    prompts = prompt if isinstance(prompt, list) else [prompt]

    def repeated(values: Any) -> Any:
        if not isinstance(values, (list, tuple)) or (len(values) in (1, len(prompts) * times) and len(prompts) != 1):
            return values
        return [value for value in values for _ in range(times)] if len(values) == len(prompts) else values

    return [[each for each in prompts for _ in range(times)], *(repeated(values) for values in wishes)]
