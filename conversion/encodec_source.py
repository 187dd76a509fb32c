"""An `EncodecModel` to convert: loaded, checked, and with fixed statistics where it takes those of a segment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import EncodecConfig, EncodecModel

from encodec_layers import FixedNorm
from rtjazz_hf import hub
from rtjazz_hf.audio import read_audio, resample

SAMPLING_RATES = (24_000, 48_000)
FRAME_RATES = (75, 150)
# What both published models have, and our SEANet is built with.
FIXED_SIZES = {"kernel_size": 7, "last_kernel_size": 7, "residual_kernel_size": 3, "num_residual_layers": 1,
               "compress": 2, "num_lstm_layers": 2, "use_conv_shortcut": True, "trim_right_ratio": 1.0}  # fmt: skip
SILENCE = 1e-4  # RMS of a segment that is left out of the statistics
MAX_SEGMENTS = 120  # of one second


def load_encodec(folder: Path) -> EncodecModel:
    """The model in float32, in eval mode, with zeros before the start of a signal.

    Raises:
        OSError: no such folder, no config.json, weights missing or cut short.
        ValueError: another model, sizes that our codec cannot have, or weights that do not fit the config.
    """
    config = read_config(folder)
    check_sizes(config)
    hub.weight_names(folder)  # refuses a file that was cut short
    config.pad_mode = "constant"
    model, info = EncodecModel.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    faults = {what: sorted(map(str, names))[:3] for what, names in info.items() if names}
    if faults:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {faults}")
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{folder}: {name} holds NaN or infinite numbers")
    return model.eval().requires_grad_(False)


def read_config(folder: Path) -> EncodecConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise OSError(
            f"{folder} is no folder of an EncodecModel: it has no config.json. Get one with "
            "`hf download facebook/encodec_24khz --local-dir encodec_24khz`, say"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        model_type = values.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a configuration ({error})") from error
    if model_type != EncodecConfig.model_type:
        raise ValueError(f"{folder} holds a {model_type!r}; {EncodecConfig.model_type!r} is wanted")
    try:
        return EncodecConfig.from_dict(values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no EnCodec configuration ({error})") from error


def check_sizes(config: EncodecConfig) -> None:
    """Raises ValueError that names the size, what it is and what is allowed."""
    allowed = {name: (value,) for name, value in FIXED_SIZES.items()}
    allowed |= {
        "sampling_rate": SAMPLING_RATES,
        "audio_channels": (1, 2),
        "codebook_dim": (config.hidden_size,),
    }
    for name, values in allowed.items():
        value = getattr(config, name)
        if value not in values:
            raise ValueError(
                f"{name}={value} is not supported; it must be {' or '.join(map(str, values))}, as in "
                "facebook/encodec_24khz and facebook/encodec_48khz"
            )
    strides = config.upsampling_ratios
    if len(strides) < 2 or min(strides) < 2:
        raise ValueError(
            f"upsampling_ratios={strides} are not supported; two or more of at least 2 are wanted"
        )
    if config.sampling_rate / config.hop_length not in FRAME_RATES:
        raise ValueError(
            f"upsampling_ratios={strides} at {config.sampling_rate} Hz make "
            f"{config.sampling_rate / config.hop_length:g} frames a second; "
            f"{' or '.join(map(str, FRAME_RATES))} are wanted"
        )


# --- statistics of a segment, fixed ---------------------------------------------------------------------------
def needs_calibration(config: EncodecConfig) -> bool:
    return config.norm_type == "time_group_norm" or config.normalize


@torch.no_grad()
def fix_statistics(model: EncodecModel, segments: Sequence[torch.Tensor]) -> float:
    """Put a `FixedNorm` in place of every group norm, with the mean of its statistics over `segments`.

    segments: each (1, audio_channels, samples) at the model's rate. Returns the RMS that the model divides
    segments by (of the squares' mean), 1 where it does not.
    """
    sums: dict[nn.Module, torch.Tensor] = {}

    def measure(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0].double()
        sums[norm] = sums.get(norm, 0.0) + torch.stack([x.mean(), x.var(correction=0)])

    layers = [module for module in model.modules() if isinstance(getattr(module, "norm", None), nn.GroupNorm)]
    hooks = [layer.norm.register_forward_pre_hook(measure) for layer in layers]
    powers = []
    for segment in segments:
        powers.append(segment.mean(dim=1).square().mean().item() if model.config.normalize else 1.0)
        model.decoder(model.encoder(segment / powers[-1] ** 0.5))
    for hook in hooks:
        hook.remove()
    for layer in layers:
        mean, variance = (sums[layer.norm] / len(segments)).tolist()
        layer.norm = FixedNorm(layer.norm, mean, variance)
    return float(np.sqrt(np.mean(powers)))


def calibration_segments(paths: Sequence[Path], config: EncodecConfig) -> list[torch.Tensor]:
    """Seconds of `paths`, or of synthetic audio where there are none, that are not silent.

    Raises ValueError where all is silent, and what `read_audio` raises.
    """
    takes = [read_audio(path) for path in paths] or [synthetic_audio()]
    seconds = []
    for take in takes:
        audio = torch.from_numpy(resample(take, 48_000, config.sampling_rate))
        if config.audio_channels == 1:
            audio = audio.mean(dim=0, keepdim=True)
        seconds += [part for part in audio.split(config.sampling_rate, dim=-1)
                    if part.shape[-1] == config.sampling_rate and part.mean(dim=0).std() > SILENCE]  # fmt: skip
    if not seconds:
        raise ValueError("the calibration audio has no second that is not silent; give some music")
    chosen = np.unique(np.linspace(0, len(seconds) - 1, MAX_SEGMENTS).astype(int))
    return [seconds[index][None] for index in chosen]


def synthetic_audio(seconds: int = 8) -> np.ndarray:
    """Decaying chords, left and right a little apart, over pink noise: (2, samples) float32 at 48 kHz."""
    rng = np.random.default_rng(0)
    time = np.arange(seconds * 48_000) / 48_000
    noise = np.fft.rfft(rng.standard_normal((2, len(time))))
    noise = np.fft.irfft(noise / np.sqrt(np.maximum(np.arange(noise.shape[1]), 20.0)), len(time))
    audio = 0.02 * noise / noise.std()
    for start in np.arange(0, seconds, 0.5):
        inside = time >= start
        decay = np.exp(-4 * (time[inside] - start))
        for note in rng.choice(np.arange(36, 84), 4, replace=False):
            for side, detune in enumerate((0.0, 0.03)):
                hertz = 440 * 2 ** ((note + detune - 69) / 12)
                audio[side, inside] += 0.06 * decay * np.sin(2 * np.pi * hertz * (time[inside] - start))
    return audio.astype(np.float32)
