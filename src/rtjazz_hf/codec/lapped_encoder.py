"""The encoder of the lapped backbone: what is measured of a stream, and the blocks that learn what to keep of it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .deviations import measure_deviations, pool_deviations
from .residual_block import ResidualBlock, run_blocks
from .streaming import StreamingState
from .transforms import FLOOR, banded_product, constant

WINDOWS = {8192: 1024, 4096: 1024, 1024: 256}  # analysis windows and how quickly each falls
CHUNK_FRAMES = 64
LONG_BINS = 65  # of the longest window, from the sixth on, that the blocks see
ATTACK_BLOCKS = 7  # of 128 samples: where in the newest frame the energy lies
LEVEL_WINDOW = 2048  # of the fine bands: past, one hop, and the overlap in which it falls
NOISE_WINDOW = 1024  # of the coarse bands, which say when
PRE_EMPHASIS_HZ = 1000.0  # phase="kept": coefficients above this weigh as those at it, lower ones less


def fine_bands(config: RealTimeJazzCodecConfig, power: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Power (batch, mid/side, frames, bins) of a level window -> log power of the fine bands of mid and side, each
    (batch, frames, bands); the side has half as many."""
    fine = config.num_fine_bands
    pooled = [
        banded_product(part, "mean_mel_matrix", LEVEL_WINDOW, bands, config.sampling_rate, transposed=True)
        for part, bands in zip(power.unbind(1), (fine, fine // 2))
    ]
    return tuple(torch.log(bands + FLOOR) for bands in pooled)


class LappedEncoder(nn.Module):
    """Audio to un-normalised latents, frame by frame, with the past of the stream in the state."""

    def __init__(self, config: RealTimeJazzCodecConfig):
        super().__init__()
        self.config = config
        base, extra = self.feature_sizes(config)
        width = config.encoder_hidden_size
        # Statistics of the features and the principal components: fitted once, then learnt on.
        self.base_mean = nn.Parameter(torch.zeros(base))
        self.extra_mean = nn.Parameter(torch.zeros(extra))
        self.extra_scale = nn.Parameter(torch.ones(extra))
        self.components = nn.Linear(base, config.energy_dim, bias=False)
        self.project_in = nn.Linear(base + extra, width)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.kernel_size, config.expansion) for _ in range(config.encoder_layers)
        )
        self.project_out = nn.Linear(width, config.energy_dim)
        # Where what is measured ahead stands in the rows of features, and by how many frames it is.
        middle = base + min(48, config.num_notes) - 36
        bins = middle + 24
        long, short = config.look_ahead
        self.ahead = (
            (long, (slice(0, 36), slice(base, middle), slice(bins, bins + LONG_BINS))),
            (short, (slice(36, 60), slice(middle, middle + 12))),
        )

    @staticmethod
    def feature_sizes(config: RealTimeJazzCodecConfig) -> tuple[int, int]:
        """Sizes of the features that start as latents, and of those the blocks see beside them."""
        bands = 2 * config.num_bands
        if config.phase == "kept":
            return 2 * config.hop_length, bands
        low = min(48, config.num_notes)
        extra = (low - 36) + 12 + 12 + LONG_BINS + 2 * ATTACK_BLOCKS
        return config.num_notes + bands + config.num_pan_bands + config.num_fine_bands * 3 // 2, extra

    def init_state(self, batch_size: int, device=None, low_delay: bool = False) -> StreamingState:
        """The silence before a stream; with `low_delay` nothing is measured ahead in it."""
        config = self.config
        past = config.analysis_length - config.hop_length - config.overlap
        state = StreamingState({"audio": torch.zeros(batch_size, 2, past, device=device)})
        if config.frames_ahead and not low_delay:  # features that wait for those after them
            size = sum(self.feature_sizes(config)) + config.num_deviations
            state["waiting"] = torch.zeros(batch_size, 0, size, device=device)
        for index, block in enumerate(self.blocks):
            state[f"block_{index}"] = block.depthwise.init_state(
                batch_size, device, self.project_in.weight.dtype
            )
        return state

    def windows(self, audio: torch.Tensor, state: StreamingState, flush: bool, beyond: int = 0):
        """All analysis windows that are complete: (batch, mid/side, frames, analysis_length), and the rest; those of
        the end of a stream, and of `beyond` frames of silence after it, with `flush`."""
        config = self.config
        mid_side = torch.stack([audio[:, 0] + audio[:, 1], audio[:, 0] - audio[:, 1]], dim=1) / 2
        mid_side = torch.cat([state["audio"], mid_side], dim=-1)
        if flush:  # to the end of the frame, wherever pieces were cut, and what its overlap would see
            past = config.analysis_length - config.hop_length - config.overlap
            missing = -(mid_side.shape[-1] - past) % config.hop_length
            mid_side = F.pad(mid_side, (0, missing + beyond * config.hop_length + config.overlap))
        frames = max(0, (mid_side.shape[-1] - config.analysis_length) // config.hop_length + 1)
        rest = mid_side[..., frames * config.hop_length :].clone()
        if frames == 0:
            return mid_side.new_zeros(audio.shape[0], 2, 0, config.analysis_length), rest
        return mid_side.unfold(-1, config.analysis_length, config.hop_length)[:, :, :frames], rest

    def features(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Windows (batch, 2, frames, analysis_length) -> base and extra features, and the latents that say how far
        tones stand beside their notes: (batch, frames, size) each."""
        config, device = self.config, windows.device
        rate = config.sampling_rate

        def spectrum(size: int, channels: slice = slice(None)) -> torch.Tensor:
            window = constant("asymmetric_window", size, WINDOWS[size], device=device)
            return torch.fft.rfft(windows[:, channels, :, -size:] * window)

        def power_of(spectrum: torch.Tensor) -> torch.Tensor:
            return spectrum.real.square() + spectrum.imag.square()  # a sum over an axis of two is slow

        def decibel(power: torch.Tensor) -> torch.Tensor:
            return torch.log(power + FLOOR)

        power = power_of(spectrum(NOISE_WINDOW))
        bands = power @ constant("band_matrix", NOISE_WINDOW, config.num_bands, rate, device=device).T
        bands = decibel(bands)  # (batch, 2, frames, bands)
        bands = torch.cat([bands[:, 0], bands[:, 1]], dim=-1)
        if config.phase == "kept":
            basis = constant("mdct_basis", config.hop_length, config.overlap, device=device)
            coefficients = windows[..., -basis.shape[1] :] @ basis.T * self.emphasis(device)
            return torch.cat([coefficients[:, 0], coefficients[:, 1]], dim=-1), bands, bands[..., :0]

        # Longer windows where semitones lie closer together.
        low, end = config.lowest_note, config.lowest_note + config.num_notes
        low_end = min(low + 48, end)
        mid = slice(0, 1)
        long_spectrum, middle_spectrum = spectrum(8192, mid)[:, 0], spectrum(4096, mid)[:, 0]
        long, middle = power_of(long_spectrum), power_of(middle_spectrum)
        window = constant(
            "level_window", LEVEL_WINDOW, config.hop_length, config.overlap, False, device=device
        )
        fine = torch.fft.rfft(windows[..., -LEVEL_WINDOW:] * window)
        fine_power = power_of(fine)

        def semitones(power: torch.Tensor, size: int, first: int, last: int) -> torch.Tensor:
            matrix = constant("semitone_matrix", size, first, last, rate, 0.5, device=device)
            return decibel(power @ matrix.T)

        notes_long = semitones(long, 8192, low, low_end)
        notes_middle = semitones(middle, 4096, low + 24, low + 60)
        notes_fine = semitones(fine_power[:, 0], LEVEL_WINDOW, low + 48, end)
        tones = torch.cat([notes_long[..., :36], notes_middle[..., 12:36], notes_fine[..., 12:]], dim=-1)
        pool = constant("band_matrix", LEVEL_WINDOW, config.num_pan_bands, rate, device=device).T
        together = (fine[:, 0] * fine[:, 1].conj()).real @ pool
        pan = (together / (fine_power[:, 0] @ pool + FLOOR)).clamp(-1, 1)
        base = torch.cat([tones, bands, 4 * pan, *fine_bands(config, fine_power)], dim=-1)
        extra = [notes_long[..., 36:], notes_middle[..., :12], notes_fine[..., :12]]
        extra.append(decibel(long[..., 5 : 5 + LONG_BINS]))
        newest = windows[:, 0, :, -(config.hop_length + config.overlap + 1) :]
        for signal in (newest[..., 1:], newest.diff()):  # all, and what is high
            extra.append(decibel(signal.unflatten(-1, (ATTACK_BLOCKS, -1)).square().mean(-1)))
        spectra = {8192: long_spectrum, 4096: middle_spectrum, LEVEL_WINDOW: fine[:, 0]}
        return base, torch.cat(extra, dim=-1), self.deviations(windows[:, 0], spectra)

    def deviations(self, mid: torch.Tensor, spectra: dict[int, torch.Tensor]) -> torch.Tensor:
        """The end of the latents (batch, frames, num_deviations), from windows of the middle signal (batch, frames,
        analysis_length) and the spectra of their ends by size."""
        config = self.config
        if not config.num_deviations:
            return mid[..., :0]
        slopes = {size: ("asymmetric_slope", size, WINDOWS[size]) for size in (8192, 4096)}
        slopes[LEVEL_WINDOW] = ("level_slope", LEVEL_WINDOW, config.hop_length, config.overlap)
        edges = [config.lowest_note + notes for notes in (0, 36, 60, config.num_notes)]
        parts = []
        for (size, slope), first, last in zip(slopes.items(), edges, edges[1:]):
            first = max(first, config.deviation_registers[0])
            if first < last:
                derived = torch.fft.rfft(mid[..., -size:] * constant(*slope, device=mid.device))
                parts.append(measure_deviations(config, size, first, last, spectra[size], derived))
        return pool_deviations(config, *(torch.cat(part, dim=-1) for part in zip(*parts)))

    def _measured_ahead(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (batch, frames, size) -> those of all but the last frames, whose tones come from later windows, and
        what waits. A long window that ends now has its middle a twentieth of a second ago: bass lines would lag."""
        frames = max(0, rows.shape[1] - self.config.frames_ahead)
        parts = rows[:, :frames].clone()
        for ahead, places in self.ahead:
            for place in places:
                parts[..., place] = rows[:, ahead : ahead + frames, place]
        return parts, rows[:, frames:].clone()

    def emphasis(self, device) -> torch.Tensor:
        """phase="kept": weight of each MDCT coefficient, for bass would fill every component."""
        config = self.config
        place = (torch.arange(config.hop_length, device=device) + 0.5) / config.hop_length
        hertz = place * config.sampling_rate / 2
        return 10 * (hertz / PRE_EMPHASIS_HZ).clamp(max=1).sqrt()

    def forward(
        self, audio: torch.Tensor, state: StreamingState | None = None, flush: bool = True
    ) -> tuple[torch.Tensor, StreamingState]:
        """audio (batch, 2, samples) -> latents (batch, latent_dim, frames), state.

        `flush` ends the stream: the last frame is padded with silence. Where tones are measured ahead, a frame comes
        once `config.frames_ahead` others have.
        """
        if state is None:
            state = self.init_state(audio.shape[0], audio.device)
        new = StreamingState()
        waiting = state.entries.get("waiting")
        beyond = 0 if waiting is None else self.config.frames_ahead
        windows, new["audio"] = self.windows(audio.float(), state, flush, beyond)
        if windows.shape[2] == 0:
            latents = windows.new_zeros(audio.shape[0], self.config.latent_dim, 0)
            return latents, StreamingState({**state.entries, "audio": new["audio"]})
        # Overlapping windows are 13 times the audio: in pieces they stay in the cache, and hours in memory.
        with torch.autocast(windows.device.type, enabled=False):  # powers span 90 dB
            pieces = [self.features(piece) for piece in windows.split(CHUNK_FRAMES, dim=2)]
        rows = torch.cat([torch.cat(parts, dim=-1) for parts in pieces], dim=1)
        if waiting is not None:
            rows, new["waiting"] = self._measured_ahead(torch.cat([waiting, rows], dim=1))
            if rows.shape[1] == 0:
                latents = rows.new_zeros(audio.shape[0], self.config.latent_dim, 0)
                return latents, StreamingState({**state.entries, **new.entries})
        base, extra, moved = rows.split([*self.feature_sizes(self.config), self.config.num_deviations], dim=-1)
        base = (base - self.base_mean).to(self.components.weight.dtype)
        extra = ((extra - self.extra_mean) / self.extra_scale).to(base.dtype)
        x = self.project_in(torch.cat([base / 3, extra], dim=-1))
        x = run_blocks(self.blocks, x, state, new)
        latents = self.components(base) + 3 * self.project_out(x)
        latents = torch.cat([latents, moved.to(latents.dtype)], dim=-1)
        return latents.transpose(1, 2), new


__all__ = ["LEVEL_WINDOW", "NOISE_WINDOW", "WINDOWS", "LappedEncoder"]
