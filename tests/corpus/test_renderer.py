import numpy as np
import pytest

from rtjazz_hf.band.composer import compose
from rtjazz_hf.corpus.mixing import band_share
from rtjazz_hf.corpus.renderer import (
    LOUDNESS_RANGE,
    SOUND_FONTS,
    Renderer,
    RendererUnavailable,
    find_soundfont,
)
from rtjazz_hf.music import LeadSheet

BAND = ("piano", "bass", "drums", "tenor_sax")


@pytest.fixture(scope="module")
def take():
    sheet = LeadSheet.from_chart("Dm7 | G7 | Cmaj7 | %", tempo=180, instruments=BAND)
    return compose(sheet, np.random.default_rng(2))


class TestRender:
    def test_mix_is_sound_in_shape_and_level(self, renderer, take):
        rendering = renderer.render(take, np.random.default_rng(3))
        assert (
            rendering.mix.shape == (2, round(take.duration_s * 48_000)) and rendering.mix.dtype == np.float32
        )
        assert np.isfinite(rendering.mix).all() and np.abs(rendering.mix).max() < 0.99
        assert LOUDNESS_RANGE[0] - 1 <= rendering.loudness <= LOUDNESS_RANGE[1] + 1
        assert rendering.low_share == pytest.approx(band_share(rendering.mix)) and rendering.low_share <= 0.45
        assert np.abs(rendering.mix[0] - rendering.mix[1]).max() > 1e-3  # stereo

    def test_same_state_same_sound_whatever_was_rendered_before(self, renderer, take):
        one = renderer.render(take, np.random.default_rng(5)).mix
        renderer.render(take, np.random.default_rng(6))
        assert np.array_equal(one, renderer.render(take, np.random.default_rng(5)).mix)

    def test_stems_sum_to_the_mix(self, renderer, take):
        rendering = renderer.render(take, np.random.default_rng(7), stems=True)
        assert set(rendering.stems) == set(BAND)
        assert np.allclose(sum(rendering.stems.values()), rendering.mix, atol=1e-5)
        assert all(np.abs(stem).max() > 1e-3 for stem in rendering.stems.values())

    def test_first_note_sounds_at_beat_zero(self, renderer, take):
        envelope = np.abs(renderer.render(take, np.random.default_rng(8)).mix).max(axis=0)
        onset = np.flatnonzero(envelope > 0.05 * envelope.max())[0] / 48_000
        assert onset == pytest.approx(take.lead_sheet.time_of(0.0), abs=0.05)


class TestFonts:
    def test_the_held_out_font_plays_every_player(self, take):
        try:
            renderer = Renderer("timgm6mb")
        except RendererUnavailable as error:
            pytest.skip(str(error))
        rendering = renderer.render(take, np.random.default_rng(7), stems=True)
        levels = [10 * np.log10(np.mean(stem**2)) for stem in rendering.stems.values()]
        assert set(rendering.stems) == set(BAND) and min(levels) > max(levels) - 20

    def test_unknown_font(self):
        with pytest.raises(ValueError, match="musescore, fluid"):
            find_soundfont("steinway")

    def test_missing_fonts_say_what_to_install(self, monkeypatch):
        monkeypatch.setattr("rtjazz_hf.corpus.renderer._FONT_FOLDERS", ())
        monkeypatch.delenv("RTJAZZ_SOUNDFONTS", raising=False)
        for name in SOUND_FONTS:
            with pytest.raises(RendererUnavailable, match="apt-get install fluidsynth"):
                find_soundfont(name)

    def test_folder_from_the_environment(self, monkeypatch, tmp_path):
        (tmp_path / "FluidR3_GM.sf2").touch()
        monkeypatch.setenv("RTJAZZ_SOUNDFONTS", str(tmp_path))
        assert find_soundfont("fluid") == tmp_path / "FluidR3_GM.sf2"
