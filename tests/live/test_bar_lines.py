"""A new chart begins at the next bar line, or at once: what is played, told, saved and counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tiny_models import plucked_clip

from rtjazz_hf import Chord, LeadSheet
from rtjazz_hf.prompts import BLOCK_SIZES

CHART, OTHER = "Dm7 | G7 | Cmaj7 | %", "Ebm7 | Ab7 | Db6 | %"
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "window_frames": 36, "seed": 1}


def take(session, count):
    return [next(session) for _ in range(count)]


def live(pipe, tempo=125, **options):
    return pipe.live("swing", chords=CHART, tempo=tempo, **{**FAST, **options})


@pytest.fixture
def told(monkeypatch):
    """Of a session: the features of every frame that it plays from now on."""

    def listen(session):
        found, denoise = [], session.stream.denoise

        def listening(noise, style, features, **options):
            found.append(features[0].numpy().copy())
            return denoise(noise, style, features, **options)

        monkeypatch.setattr(session.stream, "denoise", listening)
        return found

    return listen


def test_a_new_chart_waits_for_the_bar_line(tiny_pipeline):
    session = live(tiny_pipeline)  # a beat is a block of 36 frames
    take(session, 2)
    before = session.lead_sheet
    session.update(chords=OTHER)
    assert session.lead_sheet is before and session.coming[0] == pytest.approx(1.92)
    blocks = take(session, 7)
    assert [block.chord.symbol for block in blocks] == ["Dm7"] * 2 + ["Ebm7"] * 4 + ["Ab7"]
    assert [block.beat for block in blocks] == pytest.approx([3, 4, 1, 2, 3, 4, 1])
    assert [block.bar for block in blocks] == [1, 1, 2, 2, 2, 2, 3]  # counted on
    assert [block.chart_bar for block in blocks] == [1, 1, 1, 1, 1, 1, 2]
    assert take(session, 12)[-1].chorus == 2 and blocks[-1].chorus == 1
    assert session.coming is None and session.stats().updates == 0  # it did not wait for the session


@pytest.mark.parametrize(("tempo", "played"), [(97, 1), (133, 2), (211, 3)])
def test_every_frame_from_the_line_on_is_of_the_new_chart(tiny_pipeline, told, tempo, played):
    session = live(tiny_pipeline, tempo)
    take(session, played)
    features, first = told(session), session.position
    old = session.lead_sheet
    session.update(chords="3/4 " + OTHER)
    line, new = session.coming
    assert old.beat_at(line) / 4 == pytest.approx(round(old.beat_at(line) / 4)) and new.beat_at(line) == 0.0
    blocks = []
    while not blocks or blocks[-1].lead_sheet is old:
        blocks += take(session, 1)
    start, turn = round(first * 75), math.ceil(line * 75 - 1e-6)
    heard = np.concatenate(features)
    wanted = np.concatenate([old.features(start, turn - start), new.features(turn, start + len(heard) - turn)])
    np.testing.assert_array_equal(heard, wanted)
    last = blocks[-1]
    assert 0 <= line - last.start < 6 / 75 and (last.chart_bar, last.beat) == (1, 1.0)
    assert last.chord == last.chords[0][1] == Chord.parse("Ebm7") and last.chords[0][0] == 0.0
    assert {block.latents.shape[-1] for block in blocks} <= set(BLOCK_SIZES)


def test_updates_that_wait_become_one(tiny_pipeline):
    session = live(tiny_pipeline)
    take(session, 1)
    session.update(chords="C6 | F7", guidance_scale=2.5)
    session.update(chords=OTHER)
    session.update(tempo=150)  # now: what waits comes the sooner
    assert session.lead_sheet.tempo == 150 and session.lead_sheet.spans[0].chord == Chord.parse("Dm7")
    line, sheet = session.coming
    assert line == pytest.approx(0.48 + 3 * 0.4) and sheet.spans[0].chord == Chord.parse("Ebm7")
    session.align(125, 1.0, session.position)  # a clock
    assert session.coming[0] == pytest.approx(1.92)
    assert next(session).tempo == 125 and session.asked["guidance_scale"] == 2.5
    session.update(key="Eb", chords=CHART)  # what is played already
    assert session.coming is None and next(session).chord == Chord.parse("Dm7")


def test_at_says_when(tiny_pipeline):
    session = live(tiny_pipeline)
    take(session, 1)
    session.update(instruments=["piano"], at="bar")
    assert "bass" in session.lead_sheet.instruments and session.coming[1].instruments == ("piano",)
    block = take(session, 4)[-1]
    assert block.lead_sheet.instruments == ("piano",)
    assert (block.bar, block.chart_bar, block.beat, block.chord.symbol) == (2, 2, pytest.approx(1.0), "G7")
    session.update(chords=OTHER)
    session.update(chords="C6 | F7", at="now")
    assert session.coming is None
    block = next(session)
    assert (block.bar, block.chart_bar, block.beat, block.chord.symbol) == (2, 1, pytest.approx(2.0), "C6")
    with pytest.raises(ValueError, match="at 'later': choose 'bar'"):
        session.update(tempo=100, at="later")


def test_a_chart_before_the_first_block_is_the_first(tiny_pipeline):
    session = live(tiny_pipeline)
    session.update(chords=OTHER)
    assert session.coming is None and next(session).chord == Chord.parse("Ebm7")


@pytest.mark.parametrize("blocks", [1, 6])
def test_saved_while_it_waits(tiny_pipeline, blocks):
    session = live(tiny_pipeline, 133, block_frames=12)
    take(session, 3)
    clip = plucked_clip(0.5)[0]
    session.update(prompt=(("ballad", 0.5), (clip, 0.5)), chords=OTHER, seed=7)
    take(session, blocks)
    resumed = tiny_pipeline.resume_live(session.to_bytes())
    assert resumed.coming == session.coming and resumed.lead_sheet == session.lead_sheet
    for want, got in zip(take(session, 9), take(resumed, 9)):
        assert np.array_equal(want.audio, got.audio)
        assert (want.bar, want.chart_bar, want.chord) == (got.bar, got.chart_bar, got.chord)
    assert want.chord == Chord.parse("Ebm7")


def test_what_waits_is_in_a_group_too(tiny_pipeline):
    alone, group = live(tiny_pipeline, 133), tiny_pipeline.live_group()
    joined = [group.join("swing", chords=CHART, tempo=133, **FAST) for _ in range(2)]
    take(alone, 1), group.step()
    for session in (alone, joined[0]):
        session.update(lead_sheet=LeadSheet.from_chart(OTHER, tempo=133))
    while alone.coming:
        block, others = next(alone), group.step([joined[0]])
        np.testing.assert_allclose(others[joined[0]].audio, block.audio, rtol=0, atol=1e-4)
    assert joined[0].coming is None and joined[1].lead_sheet.spans[0].chord == Chord.parse("Dm7")
