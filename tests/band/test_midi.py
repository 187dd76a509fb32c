"""Scores and MIDI files: what is written comes back; what others write is read right, or said, or refused."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

from rtjazz_hf.band.band_leader import random_lead_sheet
from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.midi import midi_bytes, read_midi
from rtjazz_hf.band.parts import ScoreWarning
from rtjazz_hf.band.score import Score, ScoreControl, ScoreNote

mido = pytest.importorskip("mido")


def midi(*tracks, ticks=480, kind=1):
    """The bytes of a file; a track is a list of messages with absolute ticks as their times."""
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    for messages in tracks:
        track, at = mido.MidiTrack(), 0
        for message in sorted(messages, key=lambda message: message.time):
            track.append(message.copy(time=message.time - at))
            at = message.time
        file.tracks.append(track)
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def on(tick, note, velocity=80, channel=0):
    return mido.Message("note_on", note=note, velocity=velocity, channel=channel, time=tick)


def off(tick, note, channel=0):
    return mido.Message("note_off", note=note, channel=channel, time=tick)


def line(*notes, channel=0, length=480, start=0):
    starts = [start + i * length for i in range(len(notes))]
    begun = [on(at, note, channel=channel) for at, note in zip(starts, notes)]
    return begun + [off(at + length - 10, note, channel=channel) for at, note in zip(starts, notes)]


def named(name):
    return mido.MetaMessage("track_name", name=name)


def program(number, channel=0):
    return mido.Message("program_change", program=number, channel=channel)


def read_quietly(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_midi(data)


def spans(score, role=None):
    return [(n.start, round(n.start + n.beats, 3), n.midi) for n in score.notes if role in (None, n.role)]


class TestOwnFiles:
    @pytest.mark.parametrize("seed", range(4))
    def test_a_take_comes_back(self, seed):
        rng = np.random.default_rng(seed)
        score = Score.of_take(compose(random_lead_sheet(rng), rng))
        back = read_quietly(midi_bytes(score))
        assert back.players == score.players
        assert (back.metre, back.key) == (score.metre, score.key)
        assert back.tempo == pytest.approx(score.tempo, rel=1e-4)
        assert len(back.notes) >= 0.99 * len(score.notes)  # a key struck twice at one tick is one note
        for role in ("lead", "second", "bass", "comp", "drums"):
            ours, theirs = ([n for n in s.notes if n.role == role] for s in (score, back))
            struck = {(round(n.start, 2), n.midi, n.velocity, n.player) for n in ours}
            known = [n for n in theirs if (round(n.start, 2), n.midi, n.velocity, n.player) in struck]
            assert len(known) >= 0.9 * len(theirs)  # rounding moves some over the second decimal
        kinds = [sum(c.kind == "bend" for c in s.controls) for s in (score, back)]
        assert kinds[0] == kinds[1]

    def test_everything_of_a_note_and_bends(self):
        score = Score(
            (ScoreNote(0.0, 1.5, 60, 90, "piano", "lead"), ScoreNote(0.0, 4.0, 48, 70, "piano", "comp")),
            (ScoreControl(0.5, "bend", -0.5, "piano", "lead"), ScoreControl(0.75, "vibrato", 1.0, "piano", "lead")),
            ("lead", "comp"), tempo=200.0, metre="3/4", key="Bbm", title="Two hands",
        )  # fmt: skip
        back = read_quietly(midi_bytes(score))
        assert back.notes == score.notes
        assert back.controls == score.controls  # of the lead alone: each role has its channel
        assert (back.metre, back.key, back.title) == ("3/4", "Bbm", "Two hands")

    def test_bends_beyond_two_semitones(self):
        fall = tuple(ScoreControl(0.5 + 0.1 * step, "bend", -1.5 * step, "trumpet", "lead") for step in range(4))
        score = Score((ScoreNote(0.0, 1.0, 60, 90, "trumpet", "lead"),), fall, ("lead",))
        back = read_quietly(midi_bytes(score)).controls
        assert [control.value for control in back] == pytest.approx([0.0, -1.5, -3.0, -4.5], abs=1e-3)

    def test_a_pick_up_stays_before_the_bar_line(self):
        score = Score(
            (ScoreNote(-1.0, 1.0, 67, 80, "flute", "lead"), ScoreNote(0.0, 2.0, 72, 80, "flute", "lead"))
        )
        assert [n.start for n in read_quietly(midi_bytes(score)).notes] == [-1.0, 0.0]

    def test_one_track_a_player(self, tmp_path):
        score = Score(
            (ScoreNote(0.0, 1.0, 60, 90, "piano", "lead"), ScoreNote(0.0, 4.0, 48, 70, "piano", "comp"),
             ScoreNote(0.0, 4.0, 40, 70, "bass", "bass"), ScoreNote(0.0, 0.5, 51, 70, "drums", "drums"))
        )  # fmt: skip
        file = mido.MidiFile(score.to_midi(tmp_path / "take.mid"))
        assert file.type == 1
        assert [track.name for track in file.tracks] == ["", "piano", "bass", "drums"]
        with pytest.raises(FileExistsError, match="overwrite"):
            score.to_midi(tmp_path / "take.mid")
        assert Score.from_file(tmp_path / "take.mid").notes == score.notes
        assert [path.name for path in tmp_path.iterdir()] == ["take.mid"]


class TestNotes:
    def test_two_of_one_pitch_that_overlap(self):
        score = read_quietly(
            midi([on(0, 60), on(480, 60), off(960, 60), off(1440, 60), on(1920, 60), off(2400, 60)])
        )
        assert spans(score) == [(0.0, 1.0, 60), (1.0, 3.0, 60), (4.0, 5.0, 60)]

    def test_an_unended_note_moves_no_other(self):
        with pytest.warns(ScoreWarning, match="1 notes of 'chords' are never ended"):
            score = read_midi(midi([named("chords"), on(0, 60), on(0, 67), off(480, 67), on(960, 60), off(1440, 60),
                                    on(1920, 60), off(2400, 60), on(2880, 72)]))  # fmt: skip
        assert {(4.0, 5.0, 60), (2.0, 3.0, 60)} <= set(spans(score))
        assert max(end for _, end, _ in spans(score)) == 10.0  # 4 beats at most

    def test_velocity_nought_is_an_end(self):
        score = read_quietly(midi([on(0, 60), on(480, 60, velocity=0), on(960, 62), off(1440, 62)]))
        assert spans(score) == [(0.0, 1.0, 60), (2.0, 3.0, 62)]

    def test_the_pedal_holds(self):
        def pedal(tick, value):
            return mido.Message("control_change", control=64, value=value, time=tick)

        score = read_quietly(
            midi([named("piano chords"), pedal(0, 127), on(10, 60), off(100, 60), pedal(970, 0)])
        )
        assert score.notes[0].beats == 2.0

    def test_fast_runs_stay_runs(self):
        run = [note for i in range(24) for note in (on(i * 20, 60 + i % 12), off(i * 20 + 19, 60 + i % 12))]
        score = read_quietly(midi([named("lead"), *run]))
        assert len({note.start for note in score.notes}) == 24 and {n.role for n in score.notes} == {"lead"}

    def test_bends_by_their_range(self):
        rpn = [mido.Message("control_change", control=c, value=v) for c, v in ((101, 0), (100, 0), (6, 12))]
        bend = mido.Message("pitchwheel", pitch=4096, time=240)
        score = read_quietly(midi([named("lead"), *rpn, bend, *line(60, 62)]))
        assert [(c.kind, c.value, c.start) for c in score.controls] == [("bend", 6.0, 0.5)]


class TestTime:
    def test_tempo_changes_in_any_track_move_no_beat(self):
        tempo = [mido.MetaMessage("set_tempo", tempo=round(6e7 / bpm), time=tick)
                 for tick, bpm in ((0, 120), (480, 90), (48_000, 60))]  # fmt: skip
        notes = [named("lead"), *line(*([60, 62, 64, 65] * 25))]
        with pytest.warns(ScoreWarning, match="most of the file has 90"):
            score = read_midi(midi([named("song")], [*notes, *tempo]))
        assert [n.start for n in score.notes] == list(range(100))
        assert score.tempo == 90

    def test_pick_up_bar_of_its_own(self):
        signs = [
            mido.MetaMessage("time_signature", numerator=n, denominator=4, time=t)
            for t, n in ((0, 1), (480, 4))
        ]
        score = read_quietly(midi(signs, [named("lead"), *line(67, 72, 74)]))
        assert [n.start for n in score.notes] == [-1.0, 0.0, 1.0] and score.metre == "4/4"

    def test_changes_of_metre_are_said(self):
        signs = [
            mido.MetaMessage("time_signature", numerator=n, denominator=4, time=t)
            for t, n in ((0, 4), (1920, 3))
        ]
        with pytest.warns(ScoreWarning, match="from 4/4 to 3/4"):
            read_midi(midi(signs, [named("lead"), *line(67, 72)]))


class TestRoles:
    def test_by_name_program_and_channel(self):
        score = read_quietly(
            midi(
                [named("song")],
                [named("Melody"), program(66, 1), *line(60, 62, channel=1)],
                [named("Upright"), program(32, 2), *line(40, 43, channel=2)],
                [named(""), *line(36, 42, channel=9)],
                [
                    named("Keys"),
                    program(0, 3),
                    *line(60, channel=3),
                    *line(64, channel=3),
                    *line(67, channel=3),
                ],
            )
        )
        assert {(n.role, n.player) for n in score.notes} == {
            ("lead", "tenor_sax"), ("bass", "bass"), ("drums", "drums"), ("comp", "piano")
        }  # fmt: skip
        assert score.title == "song"

    @pytest.mark.parametrize(
        "name, player",
        [("Tenor Sax 1", "tenor_sax"), ("lead guitar", "guitar"), ("Double Bass", "bass"), ("Vibes", "vibraphone"),
         ("Bass Clarinet", "clarinet"), ("Brushes", "brushes"), ("Bass Drum", "drums"), ("Acoustic Bass", "bass")],
    )  # fmt: skip
    def test_instruments_by_name(self, name, player):
        assert read_quietly(midi([named(name), *line(60, 62)])).players == (player,)

    def test_a_single_line_without_a_name_is_the_lead(self):
        score = read_quietly(midi(line(60, 62, 64)))
        assert {n.role for n in score.notes} == {"lead"} and score.told == ("lead", "second")

    def test_one_file_one_track_all_channels(self):
        messages = [
            program(65, 0),
            *line(72, 74),
            program(33, 1),
            *line(40, 43, channel=1),
            *line(42, 42, channel=9),
        ]
        score = read_quietly(midi(messages, kind=0))
        assert {(n.role, n.player) for n in score.notes} == {
            ("lead", "alto_sax"), ("bass", "bass"), ("drums", "drums")
        }  # fmt: skip

    def test_the_program_may_stand_in_another_track(self):
        score = read_quietly(midi([program(73, 4)], [named("x"), *line(74, 76, channel=4)]))
        assert score.players == ("flute",)

    def test_two_melodies_at_once(self):
        with pytest.warns(ScoreWarning, match="2 melodies at once: 'one' is the lead, 'two'"):
            score = read_midi(
                midi([named("one"), program(56), *line(72, 74)], [named("two"), program(56), *line(64, 65)])
            )
        assert [n.midi for n in score.notes if n.role == "lead"] == [72, 74]
        assert [n.midi for n in score.notes if n.role == "second"] == [64, 65]

    def test_chords_under_a_tune_in_one_track(self):
        chords = [m for note in (48, 52, 55) for m in (on(0, note), off(1900, note))]
        with pytest.warns(ScoreWarning, match="the highest notes are the lead, 3 others chords under it"):
            score = read_midi(midi([*line(72, 74, 76, 77), *chords]))
        assert [n.midi for n in score.notes if n.role == "lead"] == [72, 74, 76, 77]

    def test_legato_is_one_line(self):
        notes = [m for i, n in enumerate((60, 62, 59, 64)) for m in (on(i * 480, n), off(i * 480 + 520, n))]
        score = read_quietly(midi(notes))
        assert {n.role for n in score.notes} == {"lead"}

    def test_instruments_that_are_not_known_are_said(self):
        with pytest.warns(ScoreWarning, match="'fiddle': not among the instruments .* played by clarinet"):
            read_midi(midi([named("fiddle"), program(40), *line(70, 72)]))

    def test_forty_tracks(self):
        tracks = [
            [named(f"line {i}"), program(56, i % 9), *line(60 + i % 12, 62, channel=i % 9)] for i in range(40)
        ]
        with (
            pytest.warns(ScoreWarning, match="40 parts: they are played as 1 lead, 39 second"),
            pytest.warns(ScoreWarning, match="40 melodies at once"),
        ):
            score = read_midi(midi(*tracks))
        assert len(score.notes) == 80

    def test_notes_outside_any_instrument(self):
        with pytest.warns(ScoreWarning, match="outside the reach of flute: played 3 octaves higher"):
            score = read_midi(midi([named("flute"), *line(30, 32, 34)]))
        assert [n.midi for n in score.notes] == [66, 68, 70]
        with pytest.warns(ScoreWarning, match="1 notes of 'flute' lie outside"):
            score = read_midi(midi([named("flute"), *line(70, 72, 120)]))
        assert [n.midi for n in score.notes] == [70, 72, 96]


class TestRefused:
    def test_no_notes(self):
        with pytest.raises(ValueError, match="has no notes"):
            read_midi(midi([named("empty")]))

    def test_several_pieces(self):
        with pytest.raises(ValueError, match="format 2"):
            read_midi(midi(line(60), kind=2))

    def test_smpte(self):
        data = bytearray(midi(line(60)))
        data[12:14] = (0x10000 - 25 * 256 + 40).to_bytes(2, "big")  # 25 frames of 40 parts
        with pytest.raises(ValueError, match="SMPTE"):
            read_midi(bytes(data))

    def test_every_cut_is_refused_or_read(self):
        data = midi([named("lead"), *line(60, 62, 64)])
        for length in range(len(data)):
            with pytest.raises(ValueError, match=r"cut short|not a MIDI file|damaged|no notes"):
                read_midi(data[:length])

    def test_other_files(self, tmp_path):
        with pytest.raises(ValueError, match="not a MIDI file"):
            read_midi(b"RIFF....")
        with pytest.raises(ValueError, match="by its suffix"):
            Score.from_file(tmp_path / "tune.wav")
        with pytest.raises(FileNotFoundError):
            Score.from_file(tmp_path / "none.mid")

    def test_too_large(self):
        with pytest.raises(ValueError, match="MiB"):
            read_midi(b"MThd" + bytes(5 * 2**20))
