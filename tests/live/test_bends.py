"""Bends that a score tells: what is written into the latents is what the encoder would have heard."""

import numpy as np
import pytest
import torch

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.audio import SAMPLE_RATE
from rtjazz_hf.band.score import Score, ScoreControl, ScoreNote
from rtjazz_hf.evaluation.measures.tuning import asked_pitch_error, make_tone
from rtjazz_hf.hub import load_codec
from rtjazz_hf.live.bends import VIBRATO_HZ, VIBRATO_SEMITONES, ToldBends
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.features import FRAME_RATE, LEAD_SHEET_DIM
from rtjazz_hf.music.score_features import SCORE_DIM, SCORE_SLICES

FRAMES = 72


@pytest.fixture(scope="module")
def codec():
    return load_codec("rtjazz-mini")


@pytest.fixture(scope="module")
def bends(codec):
    return ToldBends.of(codec.config, codec.config.latent_dim, SCORE_DIM)


def told(key=67, frames=FRAMES, **columns):
    """Features of a lead note that is held; columns by name, a number or one a frame."""
    features = torch.zeros(1, frames, LEAD_SHEET_DIM + SCORE_DIM)
    score = features[..., LEAD_SHEET_DIM:]
    score[..., SCORE_SLICES["lead_sounding"].start + key - 21] = 0.8
    for name, value in columns.items():
        score[..., SCORE_SLICES[name].start] = torch.as_tensor(value, dtype=torch.float32)
    return features


class TestWhatIsWritten:
    @pytest.mark.parametrize("cents", [50.0, -35.0, 120.0])
    def test_is_what_the_encoder_hears(self, codec, bends, cents):
        """Where the encoder finds the tone's pitch classes, it finds them as far beside their notes."""
        tone = make_tone(67, np.full(2 * SAMPLE_RATE, cents))
        heard = codec.encode(torch.from_numpy(tone.audio)[None], return_codes=False).latents[0, bends.channels]
        latents, share = bends(told(lead_bend=cents / 100), torch.zeros(1, dtype=torch.long))
        heard, latents = ((each * bends.unit[:, None])[:, 40:70] for each in (heard, latents[0]))
        sure = share[0, :, 40:70] > 0.9
        assert sure.any(-1).sum() >= 4
        assert float((heard - latents)[sure].abs().median()) < 4.0  # cents

    def test_what_is_not_bent_stays(self, bends, codec):
        drawn = torch.randn(1, codec.config.latent_dim + 3, FRAMES)  # cues behind the latents
        assert bends.write(drawn, told(), [0]) is drawn
        half = torch.zeros(FRAMES)
        half[FRAMES // 2 :] = 0.5
        out = bends.write(drawn, told(lead_bend=half), [0])
        moved = (out != drawn).any(1)[0]
        assert not moved[: FRAMES // 2].any() and moved[FRAMES // 2 :].all()
        every = range(drawn.shape[1])
        kept = [channel for channel in every if channel not in every[bends.channels]]
        assert torch.equal(out[:, kept], drawn[:, kept])

    def test_a_pitch_class_that_others_play_too_is_bent_in_part(self, bends):
        alone = bends(told(lead_bend=0.5), torch.zeros(1, dtype=torch.long))[1]
        features = told(lead_bend=0.5)
        features[..., LEAD_SHEET_DIM + SCORE_SLICES["comp_sounding"].start + 67 - 21] = 1.0
        shared = bends(features, torch.zeros(1, dtype=torch.long))[1]
        channel = 67 % 12
        assert 0.3 < float(shared[0, channel, 0]) < 0.8 < float(alone[0, channel, 0])

    def test_vibrato_turns_evenly_wherever_a_stream_is_cut(self, bends):
        features = told(lead_vibrato=1.0, frames=FRAMES)
        whole = bends(features, torch.tensor([1000]))[0]
        cuts = range(0, FRAMES, 12)
        parts = [bends(features[:, at : at + 12], torch.tensor([1000 + at]))[0] for at in cuts]
        assert torch.allclose(whole, torch.cat(parts, -1), atol=1e-5)
        cents = (whole[0] * bends.unit[:, None])[67 % 12]
        assert float(cents.abs().max()) == pytest.approx(100 * VIBRATO_SEMITONES, rel=0.05)
        turns = int(((cents[1:] > 0) & (cents[:-1] <= 0)).sum())
        assert turns == pytest.approx(VIBRATO_HZ * FRAMES / FRAME_RATE, abs=1)

    def test_rows_have_their_own_places(self, bends):
        features = torch.cat([told(lead_vibrato=1.0), told(lead_bend=0.4)])
        both = bends(features, torch.tensor([500, 20]))
        for row, start in enumerate((500, 20)):
            alone = bends(features[row : row + 1], torch.tensor([start]))
            for one, all_rows in zip(alone, both):
                assert torch.allclose(one[0], all_rows[row], atol=1e-6)

    def test_nothing_to_write_for_a_flow_that_is_told_no_notes(self, codec):
        assert ToldBends.of(codec.config, codec.config.latent_dim, 0) is None
        assert ToldBends.of(codec.config, codec.config.energy_dim, SCORE_DIM) is None  # every tone on its note


def test_a_quarter_tone_that_is_asked_for_is_played():
    pipe = RealTimeJazzPipeline.from_pretrained("rtjazz-mini", engine="torch")
    pipe.set_progress_bar_config(disable=True)
    sheet = LeadSheet.from_chart("Cm7 | %", tempo=120, genre="ballad", instruments=("alto_sax",))
    score = Score(
        (ScoreNote(0.0, 7.5, 67, 90, "alto_sax", "lead"),), (ScoreControl(0.0, "bend", 0.5, "alto_sax", "lead"),)
    )
    generator = torch.Generator().manual_seed(3)
    audio = pipe("alto sax alone", duration=3.6, lead_sheet=sheet, score=score, generator=generator).audios[0]
    hertz = np.full(audio.shape[-1], 440.0 * 2 ** ((67.5 - 69) / 12))
    hertz[: SAMPLE_RATE // 2] = np.nan
    assert asked_pitch_error(audio, hertz) < 5.0
