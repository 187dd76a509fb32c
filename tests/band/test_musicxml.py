"""Scores from MusicXML: sounding pitch, repeats, ties, pick-ups, chord symbols, containers."""

from __future__ import annotations

import io
import warnings
import zipfile

import pytest

from rtjazz_hf.band.musicxml import read_musicxml
from rtjazz_hf.band.parts import ScoreWarning
from rtjazz_hf.band.score import Score

pytest.importorskip("music21")

_ATTRIBUTES = (
    "<attributes><divisions>2</divisions><key><fifths>{fifths}</fifths></key>"
    "<time><beats>{beats}</beats><beat-type>4</beat-type></time>{transpose}</attributes>"
)


def note(step, octave, length, extra="", alter=0):
    pitch = f"<pitch><step>{step}</step>{f'<alter>{alter}</alter>' if alter else ''}<octave>{octave}</octave></pitch>"
    return f"<note>{extra if extra in ('<grace/>', '<chord/>') else ''}{pitch}" + (
        "" if extra == "<grace/>" else f"<duration>{length}</duration>"
    ) + f"{extra if extra not in ('<grace/>', '<chord/>') else ''}</note>"  # fmt: skip


def xml(*measures, name="Melody", beats=4, fifths=0, transpose="", program=None):
    bars = "".join(
        f'<measure number="{number}"{extra}>{body}</measure>' for number, extra, body in measures
    ).replace("ATTRIBUTES", _ATTRIBUTES.format(beats=beats, fifths=fifths, transpose=transpose))
    instrument = (
        f'<score-instrument id="P1-I1"><instrument-name>{name}</instrument-name></score-instrument>'
        f'<midi-instrument id="P1-I1"><midi-program>{program}</midi-program></midi-instrument>'
        if program is not None
        else ""
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><score-partwise version="4.0"><work><work-title>Tune</work-title></work>'
        f'<part-list><score-part id="P1"><part-name>{name}</part-name>{instrument}</score-part></part-list>'
        f'<part id="P1">{bars}</part></score-partwise>'
    ).encode()


def read(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScoreWarning)
        return read_musicxml(data)


def pitches(score):
    return [(n.start, n.beats, n.midi) for n in score.notes]


PLAIN = ("1", "", "ATTRIBUTES" + note("C", 5, 4) + note("D", 5, 4))


class TestNotes:
    def test_pitch_key_metre_title(self):
        score = read(xml(PLAIN, fifths=-2))
        assert pitches(score) == [(0.0, 2.0, 72), (2.0, 2.0, 74)]
        assert (score.metre, score.key, score.title, score.told) == ("4/4", "Bb", "Tune", ("lead", "second"))

    def test_transposing_instruments_sound_where_they_sound(self):
        down = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
        score = read(xml(PLAIN, name="Trumpet in Bb", transpose=down))
        assert [n.midi for n in score.notes] == [70, 72] and score.players == ("trumpet",)

    def test_ties_are_one_note_and_chord_symbols_none(self):
        harmony = "<harmony><root><root-step>G</root-step></root><kind>dominant</kind></harmony>"
        tied = harmony + note("C", 5, 8, '<tie type="start"/>')
        score = read(xml(("1", "", "ATTRIBUTES" + tied), ("2", "", note("C", 5, 8, '<tie type="stop"/>'))))
        assert pitches(score) == [(0.0, 8.0, 72)]

    def test_a_pick_up_stays_before_the_bar_line(self):
        score = read(
            xml(("0", ' implicit="yes"', "ATTRIBUTES" + note("G", 4, 2)), ("1", "", note("C", 5, 8)))
        )
        assert pitches(score) == [(-1.0, 1.0, 67), (0.0, 4.0, 72)]

    def test_chords_under_a_tune(self):
        body = "ATTRIBUTES" + note("G", 5, 8) + note("E", 5, 8, "<chord/>") + note("C", 5, 8, "<chord/>")
        with pytest.warns(ScoreWarning, match="more than one line"):
            score = read_musicxml(xml(("1", "", body)))
        assert [n.midi for n in score.notes if n.role == "lead"] == [79]

    def test_grace_notes_are_said(self):
        with pytest.warns(ScoreWarning, match="1 grace notes"):
            score = read_musicxml(
                xml(("1", "", "ATTRIBUTES" + note("B", 4, 0, "<grace/>") + note("C", 5, 8)))
            )
        assert pitches(score) == [(0.0, 4.0, 72)]


class TestRepeats:
    def test_endings(self):
        def bar(style, ending, kind):
            return (
                f'<barline location="right"><bar-style>{style}</bar-style>{ending}'
                f"{'<repeat direction=' + chr(34) + 'backward' + chr(34) + '/>' if kind else ''}</barline>"
            )

        def begins(number):
            return f'<barline location="left"><ending number="{number}" type="start"/></barline>'

        measures = (
            ("1", "", "ATTRIBUTES" + note("C", 5, 8)),
            (
                "2",
                "",
                begins(1) + note("D", 5, 8) + bar("light-heavy", '<ending number="1" type="stop"/>', True),
            ),
            (
                "3",
                "",
                begins(2) + note("E", 5, 8) + bar("light-light", '<ending number="2" type="stop"/>', False),
            ),
        )
        assert [n.midi for n in read(xml(*measures)).notes] == [72, 74, 72, 76]

    @staticmethod
    def words(text):
        return f"<direction><direction-type><words>{text}</words></direction-type></direction>"

    def test_da_capo(self):
        fine, da_capo = self.words("Fine"), self.words("D.C. al Fine")
        measures = (PLAIN, ("2", "", note("E", 5, 8) + fine), ("3", "", note("F", 5, 8) + da_capo))
        assert [n.midi for n in read(xml(*measures)).notes] == [72, 74, 76, 77, 72, 74, 76]

    def test_endings_with_da_capo_play_the_last_one(self):
        """Which music21 plays both of, the second time."""
        repeat = '<barline location="right"><ending number="1" type="stop"/><repeat direction="backward"/></barline>'
        second = '<barline location="right"><ending number="2" type="stop"/></barline>'
        begins = '<barline location="left"><ending number="{}" type="start"/></barline>'
        measures = (
            PLAIN,
            ("2", "", begins.format(1) + note("E", 5, 8) + repeat),
            ("3", "", begins.format(2) + note("F", 5, 8) + self.words("Fine") + second),
            ("4", "", note("G", 5, 8) + self.words("D.C. al Fine")),
        )  # fmt: skip
        played = [n.midi for n in read(xml(*measures)).notes]
        assert played == [72, 74, 76, 72, 74, 77, 79, 72, 74, 77]

    def test_a_tie_into_a_bar_that_is_not_played_next_ends_with_its_own(self):
        tied = note("E", 5, 8, '<tie type="start"/>'), note("E", 5, 8, '<tie type="stop"/>')
        to_fine = (PLAIN, ("2", "", tied[0] + self.words("Fine")), ("3", "", tied[1] + self.words("D.C. al Fine")))
        assert [(n.midi, n.beats) for n in read(xml(*to_fine)).notes][2::3] == [(76, 8.0), (76, 4.0)]

    def test_a_form_that_cannot_be_is_said(self):
        measures = (PLAIN, ("2", "", note("E", 5, 8) + self.words("D.S. al Coda")))
        with pytest.warns(ScoreWarning, match="played as they stand"):
            assert len(read_musicxml(xml(*measures)).notes) == 3


class TestContainers:
    @staticmethod
    def packed(*files, rootfile="music/tune.xml"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, data in files:
                archive.writestr(name, data)
            archive.writestr(
                "META-INF/container.xml",
                f'<container><rootfiles><rootfile full-path="{rootfile}"/></rootfiles></container>',
            )
        return stream.getvalue()

    def test_the_score_that_the_container_names(self, tmp_path):
        other = xml(("1", "", "ATTRIBUTES" + note("A", 3, 8)))
        (tmp_path / "tune.mxl").write_bytes(self.packed(("first.xml", other), ("music/tune.xml", xml(PLAIN))))
        assert [n.midi for n in Score.from_file(tmp_path / "tune.mxl").notes] == [72, 74]

    @pytest.mark.parametrize(
        "data, message",
        [
            (b"PK\x03\x04rubbish", "not compressed MusicXML"),
            (b"<html></html>", "not MusicXML"),
            (b'<?xml version="1.0"?><score-partwise><part', "damaged"),
            (b'<!DOCTYPE x [<!ENTITY a "b">]><score-partwise/>', "entities"),
            (xml(("1", "", "ATTRIBUTES<note><rest/><duration>8</duration></note>")), "has no notes"),
        ],
    )
    def test_refused(self, data, message):
        with pytest.raises(ValueError, match=message):
            read_musicxml(data)
