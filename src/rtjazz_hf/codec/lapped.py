"""The lapped backbone: a transform to start from, and causal residual blocks that learn the rest.

With `phase="free"` the encoder measures the energy of every semitone (long windows), of every ERB band (short
windows), of the side signal and its pan; the latents start as principal components of these. The decoder turns
them into the levels of a bank of tones that run on in phase for ever and of band-wise noise, both in frames that
overlap by `overlap` samples. No latent carries a phase, so what a chord chart says moves the mean of the latents.

With `phase="kept"` the latents start as principal components of signed MDCT coefficients instead: closer to the
waveform, and much harder to predict from a chart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from rtjazz_hf.runtime.graphs import unless_stale
from rtjazz_hf.runtime.mapped_weights import forget
from rtjazz_hf.runtime.offload import modules_inside, wants_calls
from rtjazz_hf.runtime.packed_linear import drop_stale, pack, unpack

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .deviations import unpool_deviations
from .lapped_encoder import LEVEL_WINDOW, NOISE_WINDOW, WINDOWS, LappedEncoder
from .residual_block import ResidualBlock, run_blocks
from .streaming import StreamingState
from .tone_bank import moving_tones, still_tones
from .transforms import FLOOR, banded_product, constant

if TYPE_CHECKING:
    from .engine_network import EngineNetwork

MOST_RAISED, MOST_LOWERED = 3.0, 6.0  # log power that one pass may add or take: 13 and 26 dB
FLUTTER = 1.0  # log power by which what a pass corrects may flutter; an attack changes it by more
LOUDEST = 1.0  # log power that a fine band is ever brought to; a sine at full scale has 0
SHARPENED_SEMITONES = 2  # how near a louder tone lowers a weaker one
ENVELOPE_POINTS = 6  # of the gain inside a frame, 3 ms apart: attacks are shorter than a frame


class LappedDecoder(nn.Module):
    """Un-normalised latents to audio; the state holds the frame counter, the overlaps and the blocks' past.

    With `phase="free"`, what tones and noise add up to is chance in part: tones beat, noise is now louder, now softer
    than asked. So the sum is measured as the encoder measured the original, and each fine band is brought to the
    level that the latents ask for; `level_passes` times, since neighbouring frames and bands share what they hold
    (the idea of Griffin and Lim, 1984, with the past as it was played: a stream cannot go back).
    """

    def __init__(self, config: RealTimeJazzCodecConfig):
        super().__init__()
        self.config = config
        base, _ = LappedEncoder.feature_sizes(config)
        width = config.decoder_hidden_size
        bands = 2 * config.num_bands
        free = config.phase == "free"
        fine = config.num_fine_bands * 3 // 2
        controls = 2 * config.num_tones + bands + fine + 2 * ENVELOPE_POINTS if free else base + bands
        self.components = nn.Linear(config.energy_dim, base)
        self.noise_offset = nn.Parameter(torch.zeros(bands))  # what tones leave to the noise, in log power
        if free:
            self.noise_shape = nn.Parameter(torch.zeros(NOISE_WINDOW // 2 + 1))  # inside the bands, log power
            self.level_share = nn.Parameter(torch.ones(config.level_passes, fine))  # of what is missing
        if free and config.level_memory:  # how much of it is what was missing 1, 2, ... frames before
            self.level_past = nn.Parameter(torch.zeros(config.level_passes, config.level_memory, fine))
        self.project_in = nn.Linear(config.energy_dim, width)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.kernel_size, config.expansion) for _ in range(config.decoder_layers)
        )
        self.project_out = nn.Linear(width, controls)
        self.engine: EngineNetwork | None = None  # `RealTimeJazzCodec.use_engine` makes it

    def init_state(self, batch_size: int, device=None) -> StreamingState:
        """A stream at frame 0."""
        config = self.config
        overlap = torch.zeros(batch_size, 2, config.overlap, device=device)
        state = StreamingState(
            {"frame": torch.zeros(batch_size, dtype=torch.int64, device=device), "tail": overlap}
        )
        if config.phase == "free":
            past = torch.zeros(
                batch_size, 2, LEVEL_WINDOW - config.hop_length - config.overlap, device=device
            )
            for index in range(config.level_passes):
                state[f"level_tail_{index}"], state[f"level_past_{index}"] = overlap.clone(), past.clone()
                if config.level_memory:
                    missing = (batch_size, config.level_memory, config.num_fine_bands * 3 // 2)
                    state[f"level_missing_{index}"] = torch.zeros(missing, device=device)
        if config.num_deviations:
            state["turned"] = torch.zeros(batch_size, config.num_tones, dtype=torch.int64, device=device)
        for index, block in enumerate(self.blocks):
            state[f"block_{index}"] = block.depthwise.init_state(
                batch_size, device, self.project_in.weight.dtype
            )
        return state

    def network(
        self, latents: torch.Tensor, state: StreamingState, new: StreamingState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (batch, frames, energy_dim) -> decoded features and controls (batch, frames, size), float32."""
        start = self.components(latents).float()
        x = run_blocks(self.blocks, self.project_in(latents / 3), state, new)
        return start, self.project_out(x).float()

    def pack_weights(self) -> None:
        """Copy the largest weights into the layout that a CPU multiplies fastest; used while gradients are off."""
        for layer in self._large_linears():
            pack(layer)
            forget(layer.parameters())

    def unpack_weights(self) -> None:
        for layer in self._large_linears():
            unpack(layer)

    def _drop_stale_weights(self) -> None:
        if wants_calls(modules_inside(self)):
            self.unpack_weights()
        for layer in self._large_linears():
            drop_stale(layer)

    def _large_linears(self) -> list[nn.Module]:
        return [layer for block in self.blocks for layer in (block.expand, block.contract)]

    def _usable_engine(self, latents: torch.Tensor) -> EngineNetwork | None:
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if self.engine is None or torch.is_grad_enabled() or latents.dtype != torch.float32 or traced:
            return None
        if wants_calls(modules_inside(self)):
            return None
        self.engine = unless_stale(self.engine, self)
        return self.engine

    def _noise(self, log_power: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """Log band power (batch, 2, frames, bands) -> noise (batch, 2, frames, hop + overlap), not faded: a frame and
        the next are filtered from the same table, so they agree where they overlap."""
        config, device = self.config, log_power.device
        length = config.hop_length + config.overlap
        # What white noise of unit variance has in a band of the encoder's analysis.
        unit = constant(
            "unit_noise", NOISE_WINDOW, WINDOWS[NOISE_WINDOW], config.num_bands, config.sampling_rate, device=device
        )
        amplitude = torch.exp(0.5 * (log_power - unit).clamp(-25, 6))
        gains = banded_product(amplitude, "band_pairs", config.num_bands, NOISE_WINDOW, config.sampling_rate)
        if config.phase == "free":
            gains = gains * torch.exp(0.5 * self.noise_shape).repeat_interleave(2)
        margin = (NOISE_WINDOW - length) // 2
        return self._irfft(self._noise_spectra(frame) * gains, NOISE_WINDOW)[..., margin : margin + length]

    # Spectra are real and imaginary parts one after the other, (..., 2 * bins): a gain of both is one real product,
    # several times faster than one of complex numbers. `conversion/export_onnx.py` has its own of the next three.
    def _rfft(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.fft.rfft(windows)).flatten(-2)

    def _irfft(self, spectrum: torch.Tensor, length: int) -> torch.Tensor:
        return torch.fft.irfft(torch.view_as_complex(spectrum.unflatten(-1, (-1, 2))), length)

    def _exp2(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp2(x)  # `exp` is left to MKL, which takes three times as long on AMD

    def _noise_spectra(self, frame: torch.Tensor) -> torch.Tensor:
        """White noise around frames (batch, frames) of the stream, (batch, 2, frames, 2 * bins)."""
        config = self.config
        table = constant(
            "noise_spectra", config.noise_frames, config.hop_length, NOISE_WINDOW, device=frame.device
        )
        places = (frame % config.noise_frames).flatten()
        return table.index_select(1, places).unflatten(1, frame.shape).transpose(0, 1)

    def _overlap_add(self, frames: torch.Tensor, tail: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames (batch, 2, frames, hop + overlap) -> (batch, 2, frames, hop), what the next piece starts with."""
        hop, overlap = self.config.hop_length, self.config.overlap
        tails = torch.cat([tail[:, :, None].to(frames), frames[..., hop:]], dim=2)
        whole = torch.cat([frames[..., :overlap] + tails[:, :, :-1], frames[..., overlap:hop]], dim=-1)
        return whole, tails[:, :, -1].clone()

    def _level(self, frames, asked: torch.Tensor, index: int, state, new) -> torch.Tensor:
        """One pass: frames (batch, 2, frames, samples) that fall within the overlap -> the same with their fine bands
        (batch, frames, mid and side) moved towards `asked`."""
        config, device = self.config, frames.device
        hop, overlap = config.hop_length, config.overlap
        whole, new[f"level_tail_{index}"] = self._overlap_add(
            frames * constant("join_window", hop, overlap, device=device), state[f"level_tail_{index}"]
        )
        past = state[f"level_past_{index}"].to(whole)
        heard = torch.cat([past, whole.flatten(2)], dim=-1)
        new[f"level_past_{index}"] = heard[..., -past.shape[-1] :].clone()
        # What comes after this frame is not known yet: its own continuation stands for it.
        heard = heard.unfold(-1, past.shape[-1] + hop, hop)
        windows = torch.cat([heard.transpose(1, 2), frames[..., hop:].transpose(1, 2)], dim=-1)
        windows.mul_(constant("flat_window", LEVEL_WINDOW, hop, overlap, device=device))
        spectrum = self._rfft(windows).flatten(2)  # (batch, frames, parts of mid and side)
        bands = (config.num_fine_bands, config.sampling_rate)
        power = banded_product(spectrum.square(), "level_pool", LEVEL_WINDOW, hop, overlap, *bands)
        missing = asked - torch.log(power + FLOOR)
        if config.level_memory:
            missing = self._steady(missing, index, state, new)
        missing = (missing * self.level_share[index]).clamp(-MOST_LOWERED, MOST_RAISED) * (0.5 * math.log2(math.e))
        gains = self._exp2(banded_product(missing, "level_spread", LEVEL_WINDOW, *bands))
        played = self._irfft((spectrum * gains).unflatten(2, (2, -1)), LEVEL_WINDOW)
        return played[..., -(hop + overlap) :].transpose(1, 2)

    def _steady(self, missing: torch.Tensor, index: int, state, new) -> torch.Tensor:
        """What is missing (batch, frames, bands), drawn towards what was missing in the frames before: a gain that
        flutters puts a tone's energy 75 Hz beside it, and fills what lies between partials."""
        frames, memory = missing.shape[1], self.config.level_memory
        heard = torch.cat([state[f"level_missing_{index}"].to(missing), missing], dim=1)
        new[f"level_missing_{index}"] = heard[:, frames:].clone()
        steady = missing
        for past in range(1, memory + 1):
            before = heard[:, memory - past : memory - past + frames]
            change = (before - missing).clamp(-FLUTTER, FLUTTER)
            steady = torch.addcmul(steady, self.level_past[index, past - 1], change, value=3)
        return steady

    def _play(self, tones, pan, noise, envelope, moved, frame, state, new) -> torch.Tensor:
        """Levels of tones (batch, frames, tones) and noise (batch, 2, frames, bands), and the latents of deviations ->
        frames of samples that fall within the overlap."""
        config = self.config
        amplitude = torch.exp(0.5 * tones.clamp(-25, 2))
        amplitudes = torch.stack([amplitude, amplitude * pan], dim=1)
        if config.num_deviations:
            cents = unpool_deviations(config, moved)
            played, new["turned"] = moving_tones(config, amplitudes, cents, frame, state["turned"])
        else:
            played = still_tones(config, amplitudes, frame)
        parts = (played, self._noise(noise, frame))
        fall = constant("fall_window", config.hop_length, config.overlap, device=tones.device)
        envelope = envelope * fall
        return torch.addcmul(parts[0] * envelope[:, None, :, 0], parts[1], envelope[:, None, :, 1])

    def _sharpened(self, level: torch.Tensor) -> torch.Tensor:
        """Levels of tones (batch, frames, tones) in log power, those near a louder one lowered: what a window leaks
        beside a partial fills the valleys between partials, in which notes are told apart."""
        if not self.config.tone_sharpening:
            return level
        reach = SHARPENED_SEMITONES * self.config.tones_per_note
        loudest = F.max_pool1d(level, 2 * reach + 1, stride=1, padding=reach)
        return level - self.config.tone_sharpening * (loudest - level)

    def _free_frames(self, start, control, moved, frame, state, new) -> torch.Tensor:
        """Decoded features (batch, frames, base) and controls of the blocks -> frames (batch, 2, frames, samples)."""
        config, device = self.config, start.device
        notes, bands, tones = config.num_notes, 2 * config.num_bands, config.num_tones
        fine = config.num_fine_bands * 3 // 2
        level, noise, pan, asked = start.split([notes, bands, config.num_pan_bands, fine], dim=-1)
        control = control.split([tones, tones, bands, fine, 2 * ENVELOPE_POINTS], dim=-1)
        # A partial leaks into its neighbours' filters: what is weaker than a neighbour is pushed down.
        beside = F.pad(level, (1, 1))
        neighbour = torch.maximum(beside[..., :-2], beside[..., 2:])
        level = level - 1.5 * F.relu(neighbour - level)
        if config.tones_per_note > 1:
            spread = constant("tone_spread", config.tones_per_note, device=device)
            level = (level[..., None] + spread).flatten(-2)
        level = self._sharpened(level + 3 * control[0])
        place = constant("band_index", config.num_pan_bands, config.lowest_note, notes, device=device)
        pan = (pan[..., place.repeat_interleave(config.tones_per_note)] / 4 + control[1]).clamp(-1.2, 1.2)
        noise = (noise + 3 * control[2] + self.noise_offset).unflatten(-1, (2, -1)).transpose(1, 2)
        points = constant(
            "envelope_points", ENVELOPE_POINTS, config.hop_length + config.overlap, device=device
        )
        envelope = torch.exp(2 * torch.tanh(control[4].unflatten(-1, (2, -1)))) @ points
        frames = self._play(level, pan, noise, envelope, moved, frame, state, new)
        asked = (asked + control[3]).clamp(max=LOUDEST)
        for index in range(config.level_passes):
            frames = self._level(frames, asked, index, state, new)
        return frames * constant("join_window", config.hop_length, config.overlap, device=device)

    def forward(
        self, latents: torch.Tensor, state: StreamingState | None = None
    ) -> tuple[torch.Tensor, StreamingState]:
        """latents (batch, latent_dim, frames) -> audio (batch, 2, frames * hop_length), state."""
        config, batch = self.config, latents.shape[0]
        if state is None:
            state = self.init_state(batch, latents.device)
        if latents.shape[-1] == 0:
            return latents.new_zeros(batch, 2, 0), state
        new = StreamingState()
        z = latents.transpose(1, 2).to(self.project_in.weight.dtype)
        z, moved = z.split([config.energy_dim, config.num_deviations], dim=-1)
        frame = state["frame"][:, None] + torch.arange(z.shape[1], device=z.device)
        new["frame"] = state["frame"] + z.shape[1]
        engine = self._usable_engine(z)
        if engine is None and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._drop_stale_weights()
        start, control = (self if engine is None else engine).network(z, state, new)
        with torch.autocast(control.device.type, enabled=False):
            if config.phase == "kept":
                frames = self._kept_frames(start, control, frame)
            else:
                frames = self._free_frames(start, control, moved.float(), frame, state, new)
        mid_side, new["tail"] = self._overlap_add(frames, state["tail"])
        mid, side = mid_side.flatten(2).unbind(1)
        return torch.stack([mid + side, mid - side], dim=1), new

    def _kept_frames(self, start, control, frame) -> torch.Tensor:
        """The same for signed MDCT coefficients."""
        config = self.config
        base = start.shape[-1]
        signed = (start + control[..., :base]).unflatten(-1, (2, -1)).transpose(1, 2)
        signed = signed / LappedEncoder.emphasis(self, start.device)
        noise = (3 * control[..., base:] + self.noise_offset).unflatten(-1, (2, -1)).transpose(1, 2)
        mdct = constant("mdct_basis", config.hop_length, config.overlap, device=start.device)
        hop, overlap, device = config.hop_length, config.overlap, start.device
        fade = constant("join_window", hop, overlap, device=device) * constant(
            "fall_window", hop, overlap, device=device
        )
        return signed @ mdct + self._noise(noise, frame) * fade


@torch.no_grad()
def fit_components(encoder: LappedEncoder, decoder: LappedDecoder, audio: list[torch.Tensor]) -> float:
    """Set the transform start: principal components of the features of `audio`, a list of (batch, 2, samples).

    Returns the share of the weighted variance that the latents keep.
    """
    config = encoder.config
    pairs = []
    for clip in audio:
        windows, _ = encoder.windows(clip.float(), encoder.init_state(clip.shape[0]), flush=True)
        pairs.append([feature.flatten(0, 1) for feature in encoder.features(windows)[:2]])
    base, extra = (torch.cat(parts) for parts in zip(*pairs))
    weights = torch.ones(base.shape[-1])
    if config.phase == "free":  # what the ear forgives counts less: bands, side, pan
        notes, bands = config.num_notes, config.num_bands
        weights[:notes] = 0.7
        weights[notes : notes + bands] = 0.6
        weights[notes + bands : notes + 2 * bands] = 0.4
        weights[notes + 2 * bands :][: config.num_pan_bands] = 0.6
        weights[len(weights) - config.num_fine_bands // 2 :] = 0.7
    mean = base.mean(0) if config.phase == "free" else torch.zeros(base.shape[-1])
    scaled = (base - mean) * weights
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    vectors = vectors[:, -config.energy_dim :].flip(1)  # strongest first
    encoder.base_mean.copy_(mean)
    encoder.components.weight.copy_((vectors * weights[:, None]).T)
    encoder.extra_mean.copy_(extra.mean(0))
    encoder.extra_scale.copy_(extra.std(0) + 1e-3)
    decoder.components.weight.copy_(vectors / weights[:, None])
    decoder.components.bias.copy_(mean)
    if config.phase == "free":
        # Where tones reach, noise starts 4 dB (log power 0.9) and more below the band.
        edges = constant("band_matrix", 1024, config.num_bands, config.sampling_rate)
        centre = (edges * torch.linspace(0, config.sampling_rate / 2, 513)).sum(-1) / edges.sum(-1)
        offset = torch.where(centre < 1500, -4.0, torch.where(centre < 5000, -2.5, 0.0))
        decoder.noise_offset.copy_(offset.repeat(2))
    else:
        # Inaudible until it is learnt: at a log power of -8 it drowned half of the pitches on quiet takes.
        decoder.noise_offset.fill_(math.log(FLOOR))
    return (values[-config.energy_dim :].sum() / values.sum()).item()
