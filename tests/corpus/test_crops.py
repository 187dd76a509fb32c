"""Crops for the codec's training: where they come from, that they repeat, and broken files among them."""

import numpy as np
import pytest
import torch
from synthetic_takes import write_takes

from rtjazz_hf.audio import read_audio, write_audio
from rtjazz_hf.corpus.augment import AugmentSettings
from rtjazz_hf.corpus.crops import SHARES, AudioCrops
from rtjazz_hf.corpus.dataset import load_takes

pytest.importorskip("scipy", reason="pip install 'rtjazz-hf[corpus]'")

FRAMES = 15
TONES = {"piano": 3000.0, "bass": 5000.0, "drums": 7000.0}  # Hz


def tone(hertz: float, seconds: float = 2.0) -> np.ndarray:
    time = np.arange(round(seconds * 48_000)) / 48_000
    return np.tile(0.05 * np.sin(2 * np.pi * hertz * time), (2, 1)).astype(np.float32)


def spectrum(crop: torch.Tensor) -> dict[str, float]:
    """The amplitude of each stem's tone in a crop."""
    audio = crop[0].numpy() * np.hanning(crop.shape[-1]) * 4 / crop.shape[-1]
    time = np.arange(crop.shape[-1]) / 48_000
    return {name: float(abs(audio @ np.exp(-2j * np.pi * hertz * time))) for name, hertz in TONES.items()}


@pytest.fixture
def takes(tmp_path):
    return load_takes(write_takes(tmp_path / "corpus", held_out=0))


@pytest.fixture
def stems(tmp_path):
    """Two takes whose stems are single tones."""
    root = write_takes(tmp_path / "stems", count=2, held_out=0)
    for folder in (root / "takes").iterdir():
        (folder / "stems").mkdir()
        for name, hertz in TONES.items():
            write_audio(folder / "stems" / f"{name}.flac", tone(hertz))
    return load_takes(root)


@pytest.fixture
def real(tmp_path):
    """Recorded music, one of it at another rate and in one channel."""
    write_audio(tmp_path / "one.flac", tone(440.0, 1.0))
    write_audio(tmp_path / "two.ogg", tone(880.0, 1.0)[0], sampling_rate=44_100)
    return [tmp_path / "one.flac", tmp_path / "two.ogg"]


def draws(crops: AudioCrops, count: int = 24, seed: int = 0) -> torch.Tensor:
    return crops.draw(np.random.default_rng(seed), count)


class TestDraw:
    def test_shape_and_repeatable(self, takes, stems, real):
        crops = AudioCrops(takes, FRAMES, stems=stems, real=real)
        batch = draws(crops)
        assert batch.shape == (24, 2, FRAMES * 640) and batch.dtype == torch.float32
        assert batch.isfinite().all() and batch.abs().max() <= 1
        assert crops.shares == SHARES and not crops.skipped
        # another sampler, as in a resumed run, and one that has drawn before
        assert torch.equal(draws(AudioCrops(takes, FRAMES, stems=stems, real=real)), batch)
        assert torch.equal(draws(crops), batch)
        assert not torch.equal(draws(crops, seed=1), batch)

    def test_mixes_are_cut_from_the_files(self, takes):
        crops = AudioCrops(takes[:1], FRAMES, augment=None)
        mix = torch.from_numpy(read_audio(takes[0].path))
        windows = mix[0].unfold(0, FRAMES * 640, 1)
        for crop in draws(crops, 4):
            start = int((windows[:, :8] == crop[0, :8]).all(1).nonzero()[0])
            assert torch.equal(mix[:, start : start + FRAMES * 640], crop)

    def test_stems_are_mixed_anew_and_sometimes_alone(self, takes, stems):
        crops = AudioCrops(takes, FRAMES, stems=stems, augment=None, shares={"stems": 1})
        levels = [spectrum(crop) for crop in draws(crops, 60)]
        heard = [sum(level > 0.002 for level in row.values()) for row in levels]
        assert set(heard) == {1, 2, 3}
        pianos = [20 * np.log10(row["piano"] / 0.05) for row in levels if row["piano"] > 0.002]
        assert -12.5 < min(pianos) < -6 and 1 < max(pianos) < 6.5

    def test_takes_own_stems_are_used_unless_told_otherwise(self, stems):
        assert set(AudioCrops(stems, FRAMES).sounds) == {"mix", "stems"}
        assert set(AudioCrops(stems, FRAMES, stems=()).sounds) == {"mix"}

    def test_shares(self, takes, real):
        crops = AudioCrops(takes, FRAMES, real=real, shares={"mix": 3, "real": 1})
        assert crops.shares == {"mix": 0.75, "real": 0.25}
        only_real = AudioCrops(takes, FRAMES, real=real, shares={"real": 1}, augment=None)
        assert set(only_real.sounds) == {"real"}
        assert torch.allclose(draws(only_real).abs().amax((1, 2)), torch.tensor(0.05), atol=0.005)

    def test_augmentation(self, takes):
        quiet = AugmentSettings(gain_probability=1, gain_db=(-40, -40))
        peaks = [draws(AudioCrops(takes, FRAMES, augment=settings)).abs().max() for settings in (None, quiet)]
        assert peaks[1] < 0.1 * peaks[0]

    def test_silent_places_are_avoided(self, tmp_path):
        sound = np.concatenate([np.zeros((2, 96_000), np.float32), tone(440.0, 1.0)], axis=1)
        write_audio(tmp_path / "late.flac", sound)
        write_audio(tmp_path / "never.flac", np.zeros((2, 48_000)))
        late = AudioCrops([], FRAMES, real=[tmp_path / "late.flac"], augment=None)
        assert (draws(late).abs().amax((1, 2)) > 0).float().mean() > 0.8  # without: about 0.4
        assert not draws(AudioCrops([], FRAMES, real=[tmp_path / "never.flac"], augment=None), 2).any()


class TestClips:
    def test_the_middle_of_every_kind(self, takes, stems, real):
        crops = AudioCrops(takes, FRAMES, stems=stems, real=real)
        clips = crops.clips(6, seconds=0.5)
        assert [tuple(clip.shape) for clip in clips] == [(1, 2, 23_680)] * 6  # 3, 2 and 1
        assert all(torch.equal(a, b) for a, b in zip(clips, crops.clips(6, seconds=0.5)))
        first = read_audio(takes[0].path)
        start = (first.shape[1] - 23_680) // 2 // 640 * 640
        assert torch.equal(clips[0][0], torch.from_numpy(first[:, start : start + 23_680]))

    def test_no_more_than_there_is_and_short_sounds_whole(self, takes):
        clips = AudioCrops(takes, FRAMES).clips(50, seconds=100.0)
        assert [clip.shape[-1] for clip in clips] == [read_audio(take.path).shape[1] for take in takes]


class TestBrokenFiles:
    def cut(self, path, share=0.5):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    def damage(self, path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
        path.write_bytes(data)

    def test_cut_short_empty_text_and_missing(self, takes, real, tmp_path):
        self.cut(takes[0].path)
        takes[1].path.write_text("not a sound")
        real[0].write_bytes(b"")
        with pytest.warns(UserWarning) as warned:
            crops = AudioCrops(takes, FRAMES, real=[*real, tmp_path / "gone.flac"])
            draws(crops)
        broken = {takes[0].path, takes[1].path, real[0], tmp_path / "gone.flac"}
        assert set(crops.skipped) == broken and len(warned) == 4
        assert all(any(str(path) in str(warning.message) for warning in warned) for path in broken)
        assert crops.shares["real"] > 0 and len(crops.sounds["mix"]) == 1

    def test_damage_within_is_found_on_the_way_and_does_not_change_what_is_drawn(self, takes):
        noise = 0.1 * np.random.default_rng(0).standard_normal((2, 300_000))
        write_audio(takes[0].path, noise, overwrite=True)
        self.damage(takes[0].path)
        crops = AudioCrops(takes, FRAMES)
        assert not crops.skipped
        with pytest.warns(UserWarning, match="1 so far") as warned:
            batch = draws(crops, 60)
        assert set(crops.skipped) == {takes[0].path} and len(warned) == 1
        again = draws(crops, 60)  # the file is known as broken by now
        assert torch.equal(again, batch) and batch.isfinite().all()

    def test_a_broken_stem_leaves_its_take_out(self, takes, stems):
        self.cut(stems[0].stems["bass"])
        with pytest.warns(UserWarning, match="bass"):
            crops = AudioCrops(takes, FRAMES, stems=stems)
        assert len(crops.sounds["stems"]) == 1

    def test_nothing_left(self, takes):
        for take in takes:
            self.cut(take.path)
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="of 3 given, 3 cannot be read"):
            AudioCrops(takes, FRAMES)

    def test_broken_after_the_start(self, takes):
        crops = AudioCrops(takes, FRAMES)
        for take in takes:
            take.path.unlink()
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="in a row"):
            draws(crops)
        with pytest.raises(ValueError, match="none of the clips"):
            crops.clips(3)


class TestSettings:
    def test_nothing_long_enough(self, takes):
        with pytest.raises(ValueError, match="as long as 4000 frames"):
            AudioCrops(takes, 4000)

    @pytest.mark.parametrize("shares", [{"mixes": 1}, {"mix": -1}, {"mix": 0}, {"mix": float("nan")}])
    def test_shares(self, takes, shares):
        with pytest.raises(ValueError, match=r"shares.*choose"):
            AudioCrops(takes, FRAMES, shares=shares)

    def test_frames(self, takes):
        with pytest.raises(ValueError, match="frames 0"):
            AudioCrops(takes, 0)
