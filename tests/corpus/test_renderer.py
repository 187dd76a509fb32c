import dataclasses

import numpy as np
import pytest

from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.expression import SEMITONE
from rtjazz_hf.band.grooves import SWIRL
from rtjazz_hf.band.performance import PITCH_BEND, Control, Note, Take, Touch
from rtjazz_hf.corpus.mixing import band_share
from rtjazz_hf.corpus.renderer import (
    LOUDNESS_RANGE,
    SOUND_FONTS,
    Renderer,
    RendererUnavailable,
    find_soundfont,
    strokes,
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


class TestMoving:
    """Players with a touch: a wheel of their own for each of two notes in turn, and sweeps of brushes."""

    @pytest.fixture(scope="class")
    def moving(self):
        line = (Note(0.2, 0.6, 64, 100, "lead"), Note(0.82, 0.5, 60, 100, "lead"))
        bends = [(0.2, -2.0), (0.3, 0.0), (0.5, 0.0), (0.55, 5.0), (0.82, 0.0)]
        controls = tuple(Control(time, PITCH_BEND, round(bend * SEMITONE)) for time, bend in bends)
        notes = {"alto_sax": line, "brushes": (Note(0.2, 1.0, SWIRL, 90, "drums"),)}
        touches = {"alto_sax": Touch(5.0, 30.0), "brushes": Touch(0.0, 0.0)}
        return Take(LeadSheet.from_chart("C", instruments=tuple(notes)), notes, {"alto_sax": controls}, 2.0, touches)

    def test_a_font_bends_as_it_is_told(self, renderer, moving):
        sax = renderer.render(moving, np.random.default_rng(1), stems=True).stems["alto_sax"].sum(axis=0)
        for start, key in ((0.36, 64), (0.6, 69), (0.95, 60)):
            piece = sax[round(start * 48_000) :][:6_000]
            power = np.abs(np.fft.rfft(piece * np.hanning(6_000), 1 << 18)) ** 2
            hertz = 440 * 2 ** ((key - 69) / 12)
            near = slice(*(round(hertz * 2 ** (side / 12) * (1 << 18) / 48_000) for side in (-1, 1)))
            found = (near.start + int(np.argmax(power[near]))) * 48_000 / (1 << 18)
            assert abs(1200 * np.log2(found / hertz)) < 25

    def test_a_sweep_goes_on_as_long_as_its_note(self, renderer, moving):
        assert len(strokes(moving.notes["brushes"])) > 20
        sound = renderer.render(moving, np.random.default_rng(1), stems=True).stems["brushes"]
        level = [float(np.abs(sound[:, at : at + 4_800]).mean()) for at in range(9_600, 57_600, 4_800)]
        assert min(level) > 0.1 * max(level)
        still = dataclasses.replace(moving, touches={})
        once = renderer.render(still, np.random.default_rng(1), stems=True).stems["brushes"]
        assert np.abs(once[:, 40_000:50_000]).mean() < 0.1 * np.abs(once[:, 9_600:20_000]).mean()


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
