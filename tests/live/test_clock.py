"""Clocks on a simulated timeline: the band's beat is the set's, through jitter, changes of tempo and jumps."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest

from rtjazz_hf import LeadSheet
from rtjazz_hf.live.clock import ClockFollower, ClockLeader, MidiClock, fit_ticks
from rtjazz_hf.live.clock_check import check_clock, check_orders, simulated_ticks
from rtjazz_hf.live.link import LinkClock
from rtjazz_hf.live.midi_ports import MidiInput, choose_port, open_midi_output

mido = pytest.importorskip("mido")
Message = mido.Message
CHART = "Dm7 | G7 | Cmaj7 | %"
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "window_frames": 36}


class Time:
    """A clock that stands where it is put."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def clock_with(ticks: int, tempo: float = 120.0, start: float = 0.0, jitter: float = 0.0, play: bool = True):
    now = Time()
    clock = MidiClock(now)
    if play:
        clock.receive(Message("start"), start)
    rng = np.random.default_rng(1)
    for number in range(ticks):
        now.now = start + number * 60 / (24 * tempo) + float(rng.normal(0, jitter))
        clock.receive(Message("clock"), now.now)
    return clock, now


def feed(clock: MidiClock, now: Time, ticks: int, tempo: float) -> None:
    at = now.now
    for number in range(1, ticks + 1):
        now.now = at + number * 60 / (24 * tempo)
        clock.receive(Message("clock"), now.now)


class TestMidiClock:
    @pytest.mark.parametrize("tempo", [40, 97.3, 120, 320])
    def test_tempo_and_phase_of_a_steady_clock(self, tempo):
        clock, _ = clock_with(100, tempo, start=3.0)
        assert clock.running and clock.tempo == pytest.approx(tempo)
        assert clock.beat_at(3.0) == pytest.approx(0, abs=1e-6)
        assert clock.beat_at(3.0 + 4 * 60 / tempo) == pytest.approx(4)

    def test_jitter_is_averaged_out(self):
        clock, now = clock_with(400, 120, jitter=0.002)
        assert clock.tempo == pytest.approx(120, rel=2e-3)
        assert abs(clock.beat_at(now.now + 0.5) - 2 * (now.now + 0.5)) * 0.5 < 0.002

    def test_a_hiccup_of_one_tick_is_left_out(self):
        numbers = np.arange(200.0)
        times = numbers * 0.02
        times[195] += 0.1
        slope, number, at = fit_ticks(numbers, times)
        assert slope == pytest.approx(0.02) and at == pytest.approx(0.02 * number)

    def test_a_change_of_tempo_is_followed_within_half_a_beat(self):
        clock, now = clock_with(400, 120, jitter=0.002)
        feed(clock, now, 24, 126)
        assert clock.tempo == pytest.approx(126, rel=0.03)
        feed(clock, now, 96, 126)
        assert clock.tempo == pytest.approx(126, rel=0.003)

    def test_nothing_is_known_before_six_ticks(self):
        clock, _ = clock_with(5)
        assert clock.tempo is None and not clock.running and math.isnan(clock.beat_at(1.0))

    def test_ticks_without_a_start_tell_the_tempo_alone(self):
        clock, now = clock_with(48, play=False)
        assert clock.tempo == pytest.approx(120) and not clock.running
        clock.receive(Message("start"), now.now + 0.01)
        at = now.now + 60 / (24 * 120)  # the next tick
        assert clock.running and clock.beat_at(at) == pytest.approx(0, abs=1e-6)

    def test_stop_continue_and_song_position(self):
        clock, now = clock_with(49)  # the next tick would be number 49
        clock.receive(Message("stop"), now.now)
        assert not clock.running
        feed(clock, now, 30, 120)  # while it stands, ticks go on
        location = clock.location
        clock.receive(Message("continue"), now.now)
        assert clock.running and clock.location != location
        at = now.now + 60 / (24 * 120)
        assert clock.beat_at(at) == pytest.approx(49 / 24)
        clock.receive(Message("stop"), now.now)
        clock.receive(Message("songpos", pos=32), now.now)
        clock.receive(Message("continue"), now.now)
        assert clock.beat_at(at) == pytest.approx(8)
        clock.receive(Message("songpos", pos=0), now.now)  # while it plays
        assert clock.beat_at(at) == pytest.approx(0, abs=1e-6)
        clock.receive(Message("note_on", note=60), now.now)  # not of the clock

    @pytest.mark.parametrize("silent", [0.2, 3.0, 30.0])
    @pytest.mark.parametrize("order", ["start", "continue"])
    def test_a_pause_without_ticks_is_no_time(self, order, silent):
        clock, now = clock_with(24 * 4)
        clock.receive(Message("stop"), now.now)
        now.now += silent
        clock.receive(Message(order), now.now)
        assert not clock.running  # nobody knows yet when it begins
        now.now += 0.3
        place = 0 if order == "start" else 4
        for number in range(3):
            clock.receive(Message("clock"), now.now + number / 48)
            assert clock.running
            assert clock.beat_at(now.now + 0.5) == pytest.approx(place + 1)
        assert clock.tempo == pytest.approx(120)

    def test_ticks_that_were_held_up_are_none_that_were_lost(self):
        late, now = clock_with(200)
        at = now.now
        for number in range(1, 20):  # nothing for 8 ticks, then all at once
            late.receive(Message("clock"), at + max(number, 8) / 48)
        assert late.beat_at(at + 19 / 48) == pytest.approx((199 + 19) / 24, abs=0.1)
        lost, now = clock_with(200)
        at = now.now + 8 / 48
        for number in range(12):
            lost.receive(Message("clock"), at + number / 48)
        assert lost.beat_at(at + 11 / 48) == pytest.approx((200 + 11) / 24, abs=0.01)
        assert lost.tempo == pytest.approx(120)

    def test_continue_while_it_plays_changes_nothing(self):
        clock, now = clock_with(49)
        location = clock.location
        clock.receive(Message("continue"), now.now)
        assert clock.location == location and clock.beat_at(now.now) == pytest.approx(2)

    def test_a_clock_that_falls_silent_runs_on_and_says_so(self):
        clock, now = clock_with(48)
        assert clock.problem is None
        now.now += 0.6
        assert not clock.alive and clock.running and clock.problem == "the MIDI clock has fallen silent"
        clock.receive(Message("clock"), now.now)  # back; what counts is the ticks
        feed(clock, now, 12, 90)
        assert clock.tempo == pytest.approx(90) and clock.beat_at(now.now) == pytest.approx(60 / 24)


class TestFollowing:
    def test_jitter_and_a_change_of_tempo(self, tiny_pipeline):
        with tiny_pipeline.live("swing", chords=CHART, tempo=120, **FAST) as session:
            report = check_clock(session, seconds=90, tempos=(120, 126), change_at=30, jitter=0.002)
        assert report.beats > 170
        assert report.median < 0.010 and report.p95 < 0.010 and abs(report.drift) < 0.001
        assert report.worst_after_change < 0.060 and report.settled < 3.0

    @pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
    def test_forty_orders_in_any_order(self, tiny_pipeline, seed):
        with tiny_pipeline.live("swing", chords=CHART, tempo=120, block_frames=36, **FAST) as session:
            report = check_orders(session, orders=40, seed=seed)
        assert len(report.orders) == 7 and report.beats > 300
        assert report.late == [] and report.wrong == 0 and report.largest < 0.010
        assert report.missed == 0 and report.wandering == 0

    def test_bar_one_is_bar_one(self, tiny_pipeline):
        clock, now = clock_with(24 * 6 + 1)  # the set stands at beat 6
        session = tiny_pipeline.live("swing", chords=CHART, tempo=95)
        assert ClockFollower(clock).align(session, now.now + 0.5)
        block = next(session)
        assert (block.bar, block.beat) == (2, pytest.approx(4.0)) and block.tempo == pytest.approx(120)

    def test_offset_and_count_in(self, tiny_pipeline):
        clock, now = clock_with(24 * 8 + 1)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        follower = ClockFollower(clock, offset=0.25, count_in=4)
        follower.align(session, now.now + 0.5)  # beat 9 there, for who hears no latency
        assert session.lead_sheet.beat_at(0.0) == pytest.approx(9 - 0.5 - 4)
        with pytest.raises(ValueError, match="clock offset nan"):
            ClockFollower(clock, offset=math.nan)

    def test_a_small_error_moves_no_beat_a_large_one_does(self, tiny_pipeline):
        clock, now = clock_with(97)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        follower = ClockFollower(clock)
        follower.align(session, now.now)
        beat = session.lead_sheet.beat_at(0.0)
        assert beat == pytest.approx(4)
        follower.align(session, now.now + 0.02)
        assert session.lead_sheet.beat_at(0.0) == beat and 120 < session.lead_sheet.tempo < 130
        assert follower.error == pytest.approx(0.02)
        follower.align(session, now.now + 0.2)
        assert session.lead_sheet.beat_at(0.0) == pytest.approx(4.4) and session.lead_sheet.tempo == 120

    def test_a_listener_who_lost_bars_is_brought_to_the_bar_of_the_set(self, tiny_pipeline):
        clock, now = clock_with(24 * 10 + 1)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        follower = ClockFollower(clock)
        follower.align(session, now.now)
        feed(clock, now, 24 * 8, 120)  # nothing was played for two bars: the machine hung
        follower.align(session, now.now)
        assert session.lead_sheet.beat_at(0.0) == pytest.approx(18)

    def test_a_chart_that_is_changed_starts_at_its_own_top(self, tiny_pipeline):
        clock, now = clock_with(24 * 10 + 1)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        follower = ClockFollower(clock)
        follower.align(session, now.now)
        session.update(chords="Ebm7 | Ab7")
        follower.align(session, now.now)
        assert session.coming[0] == pytest.approx(1.0)  # the bar line of the set
        session.update(chords="Ebm7 | Ab7", at="now")
        follower.align(session, now.now)
        assert session.lead_sheet.beat_at(0.0) == pytest.approx(
            2
        )  # of bar 1, as the set is at beat 2 of bar 3
        clock.receive(Message("songpos", pos=0), now.now)  # the set is put somewhere: there the band goes too
        follower.align(session, now.now + 60 / 120 + 60 / (24 * 120))
        assert session.lead_sheet.beat_at(0.0) == pytest.approx(1)

    @pytest.mark.parametrize("tempo", [30, 400])
    def test_a_tempo_out_of_range_is_told_and_the_band_plays_on(self, tiny_pipeline, tempo):
        clock, now = clock_with(97, tempo)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=111)
        follower = ClockFollower(clock)
        assert not follower.align(session, now.now)
        assert f"{tempo:.1f} BPM; the band follows 40 to 320" in follower.problem
        assert session.lead_sheet.tempo == 111

    def test_a_clock_that_stands_is_told(self, tiny_pipeline):
        clock, now = clock_with(97)
        clock.receive(Message("stop"), now.now)
        follower = ClockFollower(clock)
        assert not follower.align(tiny_pipeline.live("swing", tempo=111), now.now)
        assert "stands still" in follower.problem

    @pytest.mark.parametrize(
        "wrong", [{"tempo": 10}, {"tempo": math.nan}, {"beat": math.inf}, {"at": math.nan}]
    )
    def test_align_refuses_what_is_no_place(self, tiny_pipeline, wrong):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        before = session.lead_sheet
        with pytest.raises(ValueError):
            session.align(**{"tempo": 120, "beat": 0.0, "at": 0.0, **wrong})
        assert session.lead_sheet is before

    def test_another_key_of_the_same_tune_goes_on_in_place(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        session.align(120, 9.0, 0.0)
        sheet = LeadSheet.from_chart(CHART).rotated(3)
        session.update(chords=sheet.to_text(), key=sheet.key)
        line, coming = session.coming
        assert line == pytest.approx(1.5) and coming.beat_at(line) == pytest.approx(12)
        session.update(chords=sheet.to_text(), at="now")
        assert session.lead_sheet.beat_at(0.0) == pytest.approx(9)
        assert session.lead_sheet.spans[0].chord.root == (2 + 3) % 12


class TestLeading:
    def blocks(self, sheets, duration=0.48, leader=None, heard_from=10.0):
        leader = leader or ClockLeader(lambda message: None)
        messages = []
        for number, sheet in enumerate(sheets):
            start = number * duration
            messages += leader.messages(sheet, start, duration, heard_from + start)
        return messages

    def test_a_follower_hears_the_leader(self):
        sheet = LeadSheet.from_chart(CHART, tempo=133)
        messages = self.blocks([sheet] * 20)
        assert messages[0][1].type == "start" and messages[0][0] == pytest.approx(10.0)
        now = Time()
        clock = MidiClock(now)
        for now.now, message in messages:
            clock.receive(message)
        assert clock.tempo == pytest.approx(133) and clock.beat_at(15.0) == pytest.approx(sheet.beat_at(5.0))

    def test_no_tick_is_lost_or_doubled_where_the_tempo_changes(self):
        slow = LeadSheet.from_chart(CHART, tempo=120)
        at = 10 * 0.48
        fast = dataclasses.replace(slow, tempo=126.0, beat_offset=slow.beat_at(at) - at * 126 / 60)
        times = [at for at, message in self.blocks([slow] * 10 + [fast] * 10) if message.type == "clock"]
        gaps = np.diff(times)
        assert gaps.min() > 0.0198 - 1e-4 and gaps.max() < 0.0209

    def test_count_in_ticks_come_before_start(self):
        sheet = dataclasses.replace(LeadSheet.from_chart(CHART, tempo=125), beat_offset=-4.0)
        kinds = [message.type for _, message in self.blocks([sheet] * 5)]
        assert kinds.index("start") == 96 and kinds.count("start") == 1

    def test_in_the_middle_it_continues_at_a_song_position(self):
        sheet = dataclasses.replace(LeadSheet.from_chart(CHART, tempo=125), beat_offset=5.1)
        messages = [message for _, message in self.blocks([sheet])]
        kinds = [message.type for message in messages]
        assert kinds[kinds.index("songpos") + 1 :][:2] == ["continue", "clock"]
        assert messages[kinds.index("songpos")].pos == 21  # beat 5.25

    def test_sends_in_time_and_stops(self):
        sent = []
        leader = ClockLeader(lambda message: sent.append((time.perf_counter(), message.type)))
        begun = time.perf_counter()
        leader.block(LeadSheet.from_chart(CHART, tempo=240), 0.0, 0.12, begun + 0.05)
        time.sleep(0.3)
        leader.close()
        assert [kind for _, kind in sent] == ["start"] + ["clock"] * 12 + ["stop"]
        assert all(at >= begun + 0.05 for at, _ in sent)

    def test_a_port_that_fails_is_told(self):
        def fails(message):
            raise OSError("unplugged")

        leader = ClockLeader(fails)
        leader.block(LeadSheet.from_chart(CHART, tempo=240), 0.0, 0.12, time.perf_counter())
        time.sleep(0.1)
        leader.close()
        assert "unplugged" in leader.problem


class Backend:
    """MIDI ports of a machine that has some."""

    def __init__(self):
        self.inputs = ["Drum Box:0", "Drum Box:1", "Mixer"]
        self.outputs = ["Mixer"]

    def get_input_names(self):
        return self.inputs

    def get_output_names(self):
        return self.outputs

    def open_input(self, name, callback):
        self.callback = callback
        return self

    def open_output(self, name):
        raise OSError("busy")

    def close(self):
        pass


class TestPorts:
    def test_a_name_or_a_part_of_it(self):
        assert choose_port("Mixer", "input", Backend()) == "Mixer"
        assert choose_port("box:1", "input", Backend()) == "Drum Box:1"

    @pytest.mark.parametrize(
        ("name", "words"), [("Piano", "no MIDI input port"), ("Drum", "several"), ("", "no MIDI input port")]
    )
    def test_a_wrong_name_lists_the_ports(self, name, words):
        with pytest.raises(ValueError, match=words) as error:
            choose_port(name, "input", Backend())
        assert "'Drum Box:0', 'Drum Box:1', 'Mixer'" in str(error.value)

    def test_input_feeds_the_clock_and_notices_that_it_is_gone(self):
        backend, clock = Backend(), MidiClock()
        port = MidiInput("Mixer", clock, backend)
        backend.callback(Message("start"))
        assert clock.location == 1 and not port.gone
        for _ in range(8):
            backend.callback(Message("clock"))
        backend.inputs = []
        assert port.gone
        time.sleep(0.55)
        assert clock.problem == "the MIDI port 'Mixer' is gone"

    def test_a_port_that_does_not_open(self):
        with pytest.raises(OSError, match="'Mixer' cannot be opened \\(busy\\)"):
            open_midi_output("Mixer", Backend())

    def test_no_midi_system(self):
        backend = Backend()
        backend.get_input_names = lambda: 1 / 0
        with pytest.raises(OSError, match="cannot be listed"):
            choose_port("Mixer", "input", backend)


class TestLink:
    def test_alone_in_a_session(self):
        pytest.importorskip("aalink")
        clock = LinkClock(tempo=127)
        try:
            assert clock.running and clock.tempo == pytest.approx(127)
            now = time.perf_counter()
            assert clock.beat_at(now + 60 / 127) - clock.beat_at(now) == pytest.approx(1, abs=0.02)
            assert clock.beat_at(now) < 5
            clock.tempo = 90
            assert clock.num_peers == 0
        finally:
            clock.close()

    def test_joins_a_set_that_plays_and_obeys_its_transport(self):
        class Link:
            beat, tempo, playing, num_peers = 13.5, 120.0, False, 1
            start_stop_sync_enabled = False

            def __setattr__(self, name, value):
                assert name != "playing" or not self.start_stop_sync_enabled  # the peers would hear it
                super().__setattr__(name, value)

        link = Link()
        clock = LinkClock(start_stop=True, link=link, clock=lambda: 0.0)
        assert clock.running and link.start_stop_sync_enabled and clock.beat_at(0.0) == 1.5
        object.__setattr__(link, "playing", False)  # a peer's stop, and its start
        assert not clock.running
        object.__setattr__(link, "playing", True)
        assert clock.running and clock.location == 2

    def test_real_peers(self):
        aalink = pytest.importorskip("aalink")
        peer = LinkClock(tempo=100, start_stop=True, joins_playing=False)
        try:
            peer._link.playing = True
            joined = LinkClock(start_stop=True)
            try:
                assert joined.running
                deadline = time.monotonic() + 5.0
                while joined.num_peers == 0 and time.monotonic() < deadline:
                    time.sleep(0.05)
                if joined.num_peers == 0:
                    pytest.skip("Link's peers do not find one another on this machine")
                assert joined.running and aalink is not None
                peer._link.playing = False
                while joined.running and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert not joined.running
            finally:
                joined.close()
        finally:
            peer.close()

    def test_waits_for_the_transport(self):
        class Link:
            beat, tempo, playing, num_peers = 13.5, 120.0, False, 1

        link = Link()
        clock = LinkClock(start_stop=True, joins_playing=False, link=link, clock=lambda: 0.0)
        assert not clock.running and link.start_stop_sync_enabled
        link.playing = True
        assert clock.running and clock.location == 1
        assert clock.beat_at(0.0) == 1.5 and clock.beat_at(1.0) == 3.5


def test_simulated_ticks_change_tempo_once():
    true, heard = simulated_ticks(10.0, (120.0, 126.0), 5.0, 0.002)
    periods = np.diff(true)
    assert periods[:200] == pytest.approx(60 / (24 * 120)) and periods[-100:] == pytest.approx(
        60 / (24 * 126)
    )
    assert 0.0015 < np.std(heard - true) < 0.0025 and (np.diff(heard) >= 0).all()
