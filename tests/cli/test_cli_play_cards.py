"""`rtjazz play` through a sound card and in time with a clock: what is played, and what is said when one is lost."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from sound_cards import Card

from rtjazz_hf.live.clock import ClockFollower, MidiClock
from rtjazz_hf.live.outputs import OutputLost, PacedOutput, SoundCardOutput, grow_buffer
from rtjazz_hf.live.playback import Player, clicks
from rtjazz_hf.live.recording import Recorder
from rtjazz_hf.music.metre import Metre

CHART = "Dm7 | G7 | Cmaj7 | %"
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "window_frames": 36}


class TestSoundCard:
    def test_plays_what_the_session_makes(self, play, tiny_pipeline):
        card = Card()
        code, _, err = play(
            "--duration", "1.0", "--seed", "3", "--tempo", "140", "--record", "a.flac", card=card
        )
        assert code == 0, err
        heard = np.concatenate(card.heard).T
        session = tiny_pipeline.live("swing", tempo=140, seed=3, num_inference_steps=1, guidance_scale=1.0)
        want = np.concatenate([next(session).audio for _ in range(3)], axis=1)[:, :48_000]
        start = int(np.flatnonzero(np.abs(heard).max(axis=0))[0])
        first = int(np.flatnonzero(np.abs(want).max(axis=0))[0])
        np.testing.assert_allclose(heard[:, start - first :][:, :19_200], want[:, :19_200], atol=1e-6)
        assert soundfile.info("a.flac").frames == 48_000

    def test_under_runs_are_counted_and_move_what_follows(self):
        output = SoundCardOutput(api=Card(speed=1.0), buffer=0.0)
        output.write(np.full((2, 4_800), 0.1, dtype=np.float32))
        time.sleep(0.2)
        later = output.heard_at(4_800)
        assert later >= time.perf_counter()
        output.write(np.full((2, 4_800), 0.1, dtype=np.float32))
        assert output.under_runs >= 1
        assert output.played == 9_600
        output.close(drain=False)

    def test_a_machine_that_slept_has_not_lost_its_card(self):
        now, card = [0.0], Card(hang_after=0)
        output = SoundCardOutput(api=card, buffer=0.0, clock=lambda: now[0], sleep=lambda seconds: None)
        slept = []

        def sleep(seconds):
            now[0] += seconds if slept else 3600.0  # in the first look at the card
            slept.append(seconds)
            if len(slept) == 5:  # the driver is awake again
                output._callback(np.empty((480, 2), np.float32), 480, SimpleNamespace(outputBufferDacTime=1.01,
                                 currentTime=1.0), None)  # fmt: skip

        output._sleep = sleep
        output.write(np.full((2, 480), 0.1, dtype=np.float32))
        assert output.played == 480 and len(slept) == 5
        output.close(drain=False)

    def test_more_is_kept_in_hand_after_the_sound_ran_out(self, tiny_pipeline):
        now, said = [0.0], []

        def pass_time(seconds):
            now[0] += seconds

        def late(block):
            now[0] += 1.0 if len(said) < 2 else 0.0  # than all that is in hand

        output = PacedOutput(buffer=0.4, clock=lambda: now[0], sleep=pass_time)
        player = Player(
            tiny_pipeline.live("swing", **FAST), output, duration=4.0, say=said.append, on_block=late
        )
        player.run()
        assert player.under_runs >= 2 and output.buffer == pytest.approx(0.9) and len(said) == 2
        assert "the sound ran out: 0.6 s" in said[0] and "0.9 s" in said[1]
        for _ in range(20):
            grow_buffer(output)
        assert output.buffer == 3.0 and not grow_buffer(output)

    def test_none_is_refused_with_what_to_do(self, play):
        code, _, err = play("--duration", "0.5", card=Card(cards=0))
        assert code == 2 and "no sound card" in err and "--output out.wav" in err and os.listdir() == []

    def test_none_with_a_recording_goes_on_at_real_time_pace(self, play):
        begun = time.perf_counter()
        code, _, err = play("--duration", "0.6", "--record", "a.wav", card=Card(cards=0))
        assert code == 0 and "no sound card" in err and time.perf_counter() - begun > 0.6
        assert soundfile.info("a.wav").frames == 28_800

    def test_unknown_name_lists_the_cards(self, play):
        code, _, err = play("--sound-card", "Piano", card=Card())
        assert code == 2 and "'Piano'" in err and "0: Speakers" in err

    @pytest.mark.parametrize("how", [{"lose_after": 60}, {"hang_after": 60}])
    def test_lost_in_play(self, tiny_pipeline, tmp_path, how):
        said = []
        session = tiny_pipeline.live("swing", **FAST)
        output = SoundCardOutput(api=Card(speed=4.0, **how), lost_after=0.3)
        player = Player(session, output, recorder=Recorder(tmp_path / "a.wav"), duration=1.5, say=said.append)
        player.run()
        assert "the sound card is lost" in said[0] and "recording goes on" in said[0]
        assert soundfile.info(tmp_path / "a.wav").frames == 72_000

    def test_lost_in_play_without_a_recording(self, play):
        code, _, err = play("--duration", "5", card=Card(lose_after=60, speed=4.0))
        assert code == 1 and "the sound card is lost" in err.splitlines()[-1] and "Traceback" not in err
        with pytest.raises(OutputLost):
            output = SoundCardOutput(api=Card(hang_after=0), buffer=0.0, lost_after=0.2)
            output.write(np.zeros((2, 480), dtype=np.float32))


class TestClocks:
    def test_waits_counts_in_and_enters_at_bar_one(self, tiny_pipeline, tmp_path):
        mido = pytest.importorskip("mido")
        now = [0.0]
        clock = MidiClock(clock=lambda: now[0])
        tick, sent, said = 60 / (24 * 240), [0], []

        def pass_time(seconds):
            until = now[0] + seconds
            while sent[0] * tick < until:
                now[0] = sent[0] * tick
                if sent[0] == 48:  # the set starts after half a second
                    clock.receive(mido.Message("start"))
                clock.receive(mido.Message("clock"))
                sent[0] += 1
            now[0] = until

        output = PacedOutput(buffer=0.1, clock=lambda: now[0], sleep=pass_time)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=100, **FAST)
        follower = ClockFollower(clock, count_in=4)
        blocks = []
        player = Player(
            session, output, follower=follower, recorder=Recorder(tmp_path / "a.wav"), duration=1.9,
            say=said.append, on_block=lambda block: blocks.append((block, output.heard_at(player._handed))),
        )  # fmt: skip
        player.run()
        assert said[0] == "waiting for the clock" and any(
            "following the clock at 240.0" in text for text in said
        )
        first, ends = blocks[0]
        assert (first.bar, first.beat) == (1, pytest.approx(1.0, abs=0.01))
        band_starts = ends - first.duration
        assert band_starts == pytest.approx(48 * tick + 1.0, abs=0.001)  # four beats after the set's start
        assert blocks[1][0].tempo == pytest.approx(240, rel=0.01)

    def test_what_is_heard_stands_while_the_clock_does(self, tiny_pipeline):
        mido = pytest.importorskip("mido")
        now, sent = [0.0], [0]
        clock, tick, seen = MidiClock(clock=lambda: now[0]), 60 / (24 * 120), []
        orders = {24: "start", 24 * 9: "stop", 24 * 17: "continue"}  # by tick

        def pass_time(seconds):
            until = now[0] + seconds
            while sent[0] * tick < until:
                now[0] = sent[0] * tick
                if sent[0] in orders:
                    clock.receive(mido.Message(orders[sent[0]]))
                clock.receive(mido.Message("clock"))
                sent[0] += 1
            now[0] = until
            seen.append((until, player.heard()))
            if until > 10.0:
                player.stop()

        output = PacedOutput(buffer=0.1, clock=lambda: now[0], sleep=pass_time)
        player = Player(
            tiny_pipeline.live("swing", chords=CHART, tempo=120, **FAST),
            output,
            follower=ClockFollower(clock),
        )
        player.run()
        standing = {heard.seconds for at, heard in seen if 5.5 < at < 8.5}
        assert len(standing) == 1
        assert all(heard is None for at, heard in seen if at < 0.5)
        moving = [heard.seconds for at, heard in seen if at > 9.0]
        assert moving == sorted(set(moving)) and moving[0] > standing.pop()

    @pytest.mark.parametrize("option", ["--follow", "--lead"])
    def test_unknown_port_lists_those_there_are(self, play, option):
        midi = SimpleNamespace(
            get_input_names=lambda: ["Drum Machine"], get_output_names=lambda: ["Synth"], Message=None
        )
        code, _, err = play(option, "Kazoo", "--output", "a.wav", midi=midi)
        assert code == 2 and "'Kazoo'" in err and ("Drum Machine" in err or "Synth" in err)
        assert os.listdir() == []

    def test_leads_a_port(self, play):
        pytest.importorskip("mido")
        sent = []
        port = SimpleNamespace(send=lambda message: sent.append(message.type), close=lambda: None)
        midi = SimpleNamespace(get_output_names=lambda: ["Synth"], open_output=lambda name: port)
        options = ["--output", "a.wav", "--duration", "1", "--tempo", "240", "--count-in", "1"]
        code, _, _ = play("--lead", "Synth", *options, midi=midi)
        assert code == 0 and sent[-1] == "stop"
        assert sent.index("start") == 96 and sent.count("clock") >= 96 + 60

    def test_alone_in_a_link_session_the_tempo_is_the_bands(self, play):
        pytest.importorskip("aalink")
        code, out, err = play(
            "--follow", "link", "--output", "a.wav", "--duration", "1", "--tempo", "97", "--json"
        )
        assert code == 0 and "following the clock at 97.0 BPM" in err
        # On a busy machine the first blocks are late, and the band makes up for it by a tempo that is a little off.
        assert json.loads(out)["tempo"] == pytest.approx(97, rel=0.1)
        assert soundfile.info("a.wav").frames == 48_000

    def test_clicks_join_without_a_seam(self):
        whole = clicks(-4.0, 132.0, 96_000, Metre(4, 4))
        start = -4.0 + 33_333 * 132.0 / 60 / 48_000
        np.testing.assert_allclose(clicks(start, 132.0, 62_667, Metre(4, 4)), whole[:, 33_333:], atol=1e-4)
