"""Augmentation: what each change does to the sound, and what all of them leave as it is."""

import numpy as np
import pytest

from rtjazz_hf.corpus.augment import AugmentSettings, augment, limit_peak

pytest.importorskip("scipy", reason="pip install 'rtjazz-hf[corpus]'")

CHANGES = ("gain", "eq", "width", "swap", "reverb", "noise")


def only(name: str, **ranges) -> AugmentSettings:
    """That change alone, always."""
    return AugmentSettings(**{f"{other}_probability": float(other == name) for other in CHANGES}, **ranges)


@pytest.fixture
def audio():
    return 0.1 * np.random.default_rng(0).standard_normal((2, 24_000)).astype(np.float32)


def level_db(audio: np.ndarray) -> float:
    return 10 * np.log10(np.mean(audio**2))


class TestEveryChange:
    @pytest.mark.parametrize("name", CHANGES)
    def test_shape_type_and_peak_stay_and_the_sound_changes(self, audio, name):
        before = audio.copy()
        out = augment(audio, np.random.default_rng(1), only(name))
        assert out.shape == audio.shape and out.dtype == np.float32 and out.flags["C_CONTIGUOUS"]
        assert np.isfinite(out).all() and np.abs(out).max() <= 1
        assert not np.allclose(out, audio) and np.array_equal(audio, before)

    def test_the_generator_decides_alone(self, audio):
        draws = [augment(audio, np.random.default_rng(seed), AugmentSettings()) for seed in (3, 3, 4)]
        assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])

    def test_nothing_chosen_changes_nothing(self, audio):
        assert np.array_equal(augment(audio, np.random.default_rng(0), only("none")), audio)

    def test_loud_sound_is_turned_down_not_clipped(self, audio):
        loud = augment(audio * 8, np.random.default_rng(0), only("gain", gain_db=(6, 6)))
        assert 0.99 < np.abs(loud).max() <= 1
        assert np.allclose(loud / np.abs(loud).max(), audio / np.abs(audio).max(), atol=1e-5)

    @pytest.mark.parametrize("samples", [1, 100])
    def test_very_short_sound(self, samples):
        everything = AugmentSettings(**{f"{name}_probability": 1.0 for name in CHANGES})
        out = augment(np.full((2, samples), 0.1, np.float32), np.random.default_rng(0), everything)
        assert out.shape == (2, samples) and np.isfinite(out).all()


class TestOneByOne:
    def test_gain(self, audio):
        out = augment(audio, np.random.default_rng(0), only("gain", gain_db=(-6, -6)))
        assert np.allclose(out, audio * 10 ** (-6 / 20), atol=1e-6)

    def test_swap(self, audio):
        assert np.array_equal(augment(audio, np.random.default_rng(0), only("swap")), audio[::-1])

    def test_width_scales_the_side_alone(self, audio):
        mono = augment(audio, np.random.default_rng(0), only("width", width=(0, 0)))
        wide = augment(audio, np.random.default_rng(0), only("width", width=(1.5, 1.5)))
        assert np.allclose(mono[0], mono[1])
        assert np.allclose(wide.sum(0), audio.sum(0), atol=1e-6)
        assert np.allclose(wide[0] - wide[1], 1.5 * (audio[0] - audio[1]), atol=1e-6)

    def test_equaliser_stays_in_its_range_and_flat_at_zero(self, audio):
        flat = augment(audio, np.random.default_rng(0), only("eq", eq_db=(0, 0)))
        assert np.allclose(flat, audio, atol=1e-5)
        impulse = np.zeros((2, 48_000), np.float32)
        impulse[:, 0] = 0.01
        for seed in range(10):
            out = augment(impulse, np.random.default_rng(seed), only("eq", eq_db=(-8, 8)))
            curve = 20 * np.log10(np.abs(np.fft.rfft(out[0]) / 0.01))
            assert np.abs(curve).max() < 3 * 8 + 0.1 and np.ptp(curve) > 1
            # the far ends belong to one shelf each
            assert abs(curve[2]) < 8.5 and abs(curve[-1]) < 8.5

    def test_reverb_is_a_tail_of_its_level_after_the_sound(self):
        burst = np.zeros((2, 48_000), np.float32)
        burst[:, :4800] = 0.1 * np.random.default_rng(0).standard_normal((2, 4800))
        out = augment(burst, np.random.default_rng(2), only("reverb", reverb_s=(0.4, 0.4), wet_db=(-10, -10)))
        wet = out - burst
        assert np.array_equal(out[:, :90], burst[:, :90])  # the direct sound comes first
        assert level_db(wet) - level_db(burst) == pytest.approx(-10, abs=2)
        early, late = wet[:, 6000:9000], wet[:, 15_600:18_600]  # 0.2 s: half of 60 dB
        assert level_db(early) - level_db(late) == pytest.approx(30, abs=4)
        assert abs(np.corrcoef(wet[0, 6000:], wet[1, 6000:])[0, 1]) < 0.3

    def test_noise_has_its_level_white_or_pink(self):
        silence, slopes = np.zeros((2, 48_000), np.float32), []
        for seed in range(8):
            out = augment(silence, np.random.default_rng(seed), only("noise", noise_dbfs=(-60, -60)))
            assert level_db(out) == pytest.approx(-60, abs=0.5)
            power = np.abs(np.fft.rfft(out[0])) ** 2
            slopes.append(10 * np.log10(power[100:200].mean() / power[10_000:20_000].mean()))
        assert {round(slope / 20) for slope in slopes} == {0, 1}  # 100 times the frequency: 20 dB, or none


class TestSettings:
    @pytest.mark.parametrize(
        "bad",
        [
            {"gain_probability": 1.5},
            {"noise_probability": float("nan")},
            {"eq_db": (3, -3)},
            {"gain_db": (0, float("inf"))},
            {"width": (-1, 1)},
            {"reverb_s": (0, 1)},
        ],
    )
    def test_bad_settings(self, bad):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}.*choose"):
            AugmentSettings(**bad)

    def test_silence_stays_silence_at_the_limit(self):
        assert not limit_peak(np.zeros((2, 5), np.float32)).any()
