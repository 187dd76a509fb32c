"""Files that musicians own: what is read, and what is refused."""

from __future__ import annotations

import random

import pytest
from files import CHORDPRO, GRID, OVER_WORDS, TUNES, harmony, measure, midi, musicxml, mxl
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.charts import chart_text, looks_like_file, read_chart, read_tunes, sent_text, to_link
from rtjazz_hf.charts.musicxml import MAX_XML_BYTES
from rtjazz_hf.music import Chord, parse_chart
from rtjazz_hf.music.practice import Ramp, cut, in_all_keys, semitones_of, transposed

pytest.importorskip("defusedxml", reason="reads MusicXML (the charts extra)")
pytest.importorskip("mido", reason="reads MIDI (the charts extra)")


def bars(chart):
    return [" ".join(f"{span.chord}:{span.beats:g}" for span in bar) for bar in chart.bars]


def sign(where, inside):
    return f'<barline location="{where}">{inside}</barline>'


def words(text):
    return f"<direction><direction-type><words>{text}</words></direction-type></direction>"


class TestIReal:
    @pytest.mark.parametrize("text", TUNES)
    def test_a_chart_comes_back_from_its_link(self, text):
        chart = parse_chart(text)
        again = read_chart(to_link(chart))
        assert (again.spans, again.metres) == (chart.spans, chart.metres)

    @given(st.lists(st.sampled_from(["C", "Dm7 G7", "Bbmaj7 Eb7 Am7b5", "F#m7 . . B7", "N.C.", "<Ab13>", "G7sus4b9"]),
                    min_size=1, max_size=30).map(" | ".join), st.sampled_from(["4/4", "3/4", "5/4"]))  # fmt: skip
    def test_any_chart_comes_back(self, text, metre):
        try:
            chart = parse_chart(f"title: Mine\nkey: Bbm\ntempo: 90\n{metre} {text}")
        except ValueError:
            return  # slashes of another metre
        again = read_chart(to_link(chart))
        assert (again.spans, again.title, again.key, again.tempo) == (chart.spans, "Mine", "Bbm", 90)

    def test_playlists_in_pages(self):
        links = [to_link(parse_chart(f"title: {name}\n{text}")) for name, text in zip("ABC", TUNES)]
        joined = "irealb://" + "===".join(
            link.removeprefix("irealb://").replace("%3D", "=") for link in links
        )
        page = f'<!DOCTYPE html><html><a href="{joined}">x</a></html>'
        tunes = read_tunes(page.encode())
        assert [tune.title for tune in tunes] == ["A", "B", "C"]
        assert read_chart(page, "b").title == "B" and read_chart(page, 3).title == "C"
        with pytest.raises(ValueError, match="there are 3 tunes: choose one"):
            read_chart(page)
        with pytest.raises(ValueError, match="no tune is called 'zebra'"):
            read_chart(page, "zebra")

    def test_the_plain_links_of_old(self):
        music = "T44*A{C^7 |A-7 |D-9 |G7#5 }|F6 E-7|x |r|W/C n |f(Db7)Bb7 Q|[*BG7 <Fine>Z"
        chart = read_chart(f"irealbook://Mine=Me=Swing=C=n={music}")
        assert bars(chart)[:10] == [
            "Cmaj7:4", "Am7:4", "Dm9:4", "G7#5:4", "Cmaj7:4", "Am7:4", "Dm9:4", "G7#5:4", "F6:2 Em7:2", "F6:2 Em7:2",
        ]  # fmt: skip
        assert bars(chart)[10:] == ["F6:2 Em7:2", "F6:2 Em7:2", "Em7/C:2 N.C.:2", "Bb7:4", "G7:4"]

    @pytest.mark.parametrize(
        ("music", "wanted"),
        [
            ("T44[C^7   |A-7   |r   |    |D-7   |G7   Z", "Cmaj7 Am7 Cmaj7 Am7 Dm7 G7"),
            ("T44{C   |F   |    r|    }[G   |    Z", "C F C F C F C F G G"),  # played twice; an empty bar goes on
            ("T44[C   |F   |r|    ]*B[G   |Bb  Z", "C F C F G Bb"),
            ("T44[C   | n  |F   Z", "C N.C. F"),
            ("T44[C   |F   [        [*BG   |    |Bb  Z", "C F G G Bb"),  # the rest of a row, and a bar that goes on
            ("T44{C   |N1F   | x  |N1G   |    }|N2Bb  |A   Z", "C F F G G C Bb A"),  # an ending's sign twice
        ],
    )
    def test_signs_that_take_more_than_a_bar(self, music, wanted):
        chart = read_chart(f"irealbook://Mine=Me=Swing=C=n={music}")
        assert " ".join(span.chord.symbol for bar in chart.bars for span in bar) == wanted

    @pytest.mark.parametrize(
        ("music", "wanted", "said"),
        [
            ("T44{<3x>C   |F   }", "C F C F C F", ""),  # wherever in the repeat it stands
            ("T44{C   |{F   }|G   }", "C F F G C F F G", ""),
            ("T44{C   ]{F   }|G   Z", "C F F G", ""),  # opened and never closed
            ("T44{C   |N1F   }|N1G   Z", "C F C G", "taken for the second"),
            ("T44{C   |N1F   }|N2G   ][*BA   |D   }|E   Z", "C F C G A D A D E", "no sign opens this repeat"),
            ("T44{C   |N1F   }|N2G   ][*BA   |D<D.C. al 3rd ending>   ]|N3E   |B   Z", "C F C G A D C E B", ""),
            ("T44{C   |N1F   }|N2G<Fine>   |A<D.C. al 2nd ending>   Z", "C F C G A C G", ""),
            ("T44[C   |F<Fine>   |G<After solos, D.C. al Fine>   Z", "C F G C F", "in every chorus"),
            ("T44[C   |F<Fine>   |G<D.S. al Fine>   Z", "C F G C F", "no segno is marked"),
            ("T44[C   |F   |r|  Q ][G<D.C. al Coda>   ][QA   Z", "C F C F G C F C F A", ""),
            ("T44[C   |F<Fine>   |G<D.C. al Fine>   |A   Z", "C F G A C F", ""),  # words that begin early, to fit
            ("T44{C   |F  Q |G   }[QA   Z", "C F G C F A", "the last time that its repeat is played"),
            ("T44[C   |<4x>F   Z", "C F", "'4x' is not played"),
        ],
    )
    def test_forms_as_players_write_them(self, music, wanted, said):
        chart = read_chart(f"irealbook://Mine=Me=Swing=C=n={music}")
        assert " ".join(bar[0].chord.symbol for bar in chart.bars) == wanted
        assert said in "; ".join(chart.remarks) and bool(said) == bool(chart.remarks)

    def test_a_section_s_name_in_words_is_no_remark(self):
        chart = read_chart("irealbook://Mine=Me=Swing=C=n=T44[<*74Verse>C   |F   ][<Chorus>G   |<shout>C   Z")
        assert chart.remarks == ("bar 4: 'shout' is not played",)

    @pytest.mark.parametrize(
        "link", ["irealb://", "irealb://x", "irealbook://a=b", "irealb://" + "A" * 1_000_000]
    )
    def test_broken_links_are_refused(self, link):
        with pytest.raises(ValueError, match=r"iReal|empty chart"):
            read_chart(link)


class TestMusicXML:
    def test_chords_degrees_and_bass(self):
        chart = read_chart(
            musicxml(
                measure(harmony("C", "major-seventh"), harmony("A", "dominant", (9, -1, "add"), offset=2),
                        attributes="<time><beats>4</beats><beat-type>4</beat-type></time>"),
                measure(harmony("F#", "half-diminished"),
                        harmony("G", "suspended-fourth", (7, 0, "add"), bass="B", offset=1)),
                measure(),
                measure(harmony("Bb", "major", (9, 0, "add")), harmony("C", "dominant", (5, 1, "alter"), offset=3)),
                measure("<harmony><kind>none</kind></harmony>"),
            )
        )  # fmt: skip
        assert bars(chart) == [
            "Cmaj7:2 A7b9:2", "F#m7b5:1 G7sus4/B:3", "G7sus4/B:4", "Bbadd9:3 C7#5:1", "N.C.:4",
        ]  # fmt: skip
        assert (chart.title, chart.composer) == ("Made Up", "Nobody")

    def test_form_and_metres(self):
        chart = read_chart(
            musicxml(
                measure(harmony("G", "dominant"), beats=1, implicit=True),
                measure(sign("left", '<repeat direction="forward"/>'), harmony("C", "major")),
                measure(sign("left", '<ending number="1" type="start"/>'), harmony("F", "major"),
                        sign("right", '<ending number="1" type="stop"/><repeat direction="backward"/>')),
                measure(sign("left", '<ending number="2" type="start"/>'), harmony("G", "major"),
                        sign("right", '<ending number="2" type="discontinue"/>')),
                measure(harmony("A", "minor"), words("To Coda"), beats=3,
                        attributes="<time><beats>3</beats><beat-type>4</beat-type></time>"),
                measure(harmony("B", "diminished"), words("D.C. al Coda"), beats=3),
                measure("<direction><direction-type><coda/></direction-type></direction>",
                        harmony("E", "minor"), beats=3),
            )
        )  # fmt: skip
        assert bars(chart) == [
            "G7:1", "C:4", "F:4", "C:4", "G:4", "Am:3", "Bdim:3", "G7:1", "C:4", "G:4", "Am:3", "Em:3",
        ]  # fmt: skip
        assert [str(metre) for metre in chart.metres][:6] == ["1/4", "4/4", "4/4", "4/4", "4/4", "3/4"]

    def test_a_repeat_says_in_words_how_often_it_is_played(self):
        close = sign("right", "<repeat direction='backward'/>")
        chart = read_chart(musicxml(measure(harmony("C", "major"), words("3x"), close), measure(harmony("F", "major"))))
        assert bars(chart) == ["C:4"] * 3 + ["F:4"]

    def test_functions_and_key(self):
        key = "<key><fifths>-2</fifths><mode>major</mode></key>"
        five = "<harmony><function>V</function><kind>dominant</kind></harmony>"
        two = "<harmony><numeral><numeral-root>2</numeral-root></numeral><kind>minor-seventh</kind></harmony>"
        chart = read_chart(musicxml(measure(two, attributes=key), measure(five)))
        assert bars(chart) == ["Cm7:4", "F7:4"] and chart.key == "Bb"

    @pytest.mark.parametrize("text", TUNES)
    def test_what_music21_writes_comes_back(self, text):
        music21 = pytest.importorskip("music21")
        from through_music21 import write_musicxml

        chart = parse_chart(text)
        again = read_chart(write_musicxml(music21, chart))
        assert (again.spans, again.metres) == (chart.spans, chart.metres)

    def test_archives_follow_their_container(self):
        good, other = musicxml(measure(harmony("C", "major"))), musicxml(measure(harmony("D", "major")))
        assert bars(read_chart(mxl(good, more={"a.xml": other}))) == ["C:4"]
        assert bars(read_chart(mxl(good, name="sheet/deep.musicxml"))) == ["C:4"]
        assert bars(read_chart(mxl(good, container=False))) == ["C:4"]

    @pytest.mark.parametrize(
        "data, message",
        [
            (b"<?xml version='1.0'?><score-partwise><part/></score-partwise>", "no chord symbols"),
            (b"<?xml version='1.0'?><score-timewise/>", "by parts"),
            (b"<?xml version='1.0'?><html/>", "begins with <html>"),
            (b"<?xml version='1.0'?><score", "not well-formed"),
            (mxl(b"x" * (MAX_XML_BYTES + 10)), "unpacks to more than"),
            (mxl(b"", name="a.txt", container=False), "no MusicXML in it"),
            (mxl(b"<a/>")[:60], "cannot be unpacked"),
        ],
        ids=["no chords", "timewise", "html", "not well-formed", "too large", "no score", "cut"],  # bytes hold a time
    )
    def test_what_is_none_is_refused(self, data, message):
        with pytest.raises(ValueError, match=message):
            read_chart(data)

    def test_entities_are_not_read_and_nothing_outside_is_opened(self, tmp_path):
        secret = tmp_path / "secret"
        secret.write_text("Dm7")
        bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        outside = f'<!DOCTYPE x [<!ENTITY a SYSTEM "file://{secret}">]>'
        for head in (bomb, outside):
            with pytest.raises(ValueError, match="entities"):
                read_chart(musicxml(measure(harmony("C", "major")), head=f'<?xml version="1.0"?>{head}'))
        public = (
            '<?xml version="1.0"?><!DOCTYPE score-partwise PUBLIC "-//x" "http://127.0.0.1:9/partwise.dtd">'
        )
        assert bars(read_chart(musicxml(measure(harmony("C", "major")), head=public))) == ["C:4"]

    def test_too_many_bars_are_refused(self):
        with pytest.raises(ValueError, match="more than 512 bars"):
            read_chart(musicxml(*[measure(harmony("C", "major"))] * 10_000))


class TestMidi:
    def test_markers(self):
        chart = read_chart(
            midi(markers=[(0, "Dm7"), (4, "G7"), (6, "C7"), (8, "Fmaj7")], title="Mine", tempo=150)
        )
        assert bars(chart)[:3] == ["Dm7:4", "G7:2 C7:2", "Fmaj7:4"]
        assert chart.tempo == pytest.approx(150, abs=0.1) and chart.title == "Mine"

    def test_other_metres(self):
        chart = read_chart(midi(markers=[(0, "Am7"), (5, "D7"), (10, "Am7")], metre=(5, 4), last=5))
        assert bars(chart)[:2] == ["Am7:5", "D7:5"] and str(chart.metre) == "5/4"

    @pytest.mark.parametrize("quality", ["", "m", "7", "maj7", "m7", "m7b5", "dim7", "sus4", "aug"])
    @pytest.mark.parametrize("root", ["C", "Eb", "F#", "Bb"])
    def test_chords_that_are_played_are_named(self, root, quality):
        wanted = Chord.parse(root + quality)
        notes = [48 + wanted.root, *(60 + tone for tone in wanted.pitch_classes)]
        chart = read_chart(midi([(0.0, notes), (4.0, [43, 62, 65, 71]), (8.0, notes)]))
        assert chart.spans[0].chord.root == wanted.root
        assert set(chart.spans[0].chord.pitch_classes) == set(wanted.pitch_classes)
        assert any("track 1" in remark for remark in chart.remarks)

    @pytest.mark.parametrize(
        "data, message",
        [
            (b"MThd", "not a MIDI file"),
            (b"MThd\x00\x00\x00\x06\x00\x01\x00\x00\x00\x60", "empty|no chords"),
            (b"MThd\x00\x00\x00\x06\x00\x02\x00\x00\x00\x60", "type 2"),
            (b"MThd\x00\x00\x00\x06\x00\x01\x00\x00\xe7\x28", "SMPTE|empty"),
            (b"MThd" + b"\x00" * 600_000, "at most"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, data, message):
        with pytest.raises(ValueError, match=message):
            read_chart(data)

    def test_a_tune_without_chords_is_refused(self):
        with pytest.raises(ValueError, match="no chords"):
            read_chart(midi([(float(at), [60 + at % 12]) for at in range(16)]))


class TestSheetsOfWords:
    def test_chordpro(self):
        chart = read_chart(CHORDPRO)
        assert bars(chart) == ["G:4", "C:4", "D7:4", "Em:4", "Am7:4"]
        assert (chart.title, chart.key, chart.tempo) == ("Made Up", "G", 96)
        assert [name for _, name in chart.labels] == ["Verse", "Chorus"]
        assert "no bar lines" in " ".join(chart.remarks)

    def test_grids(self):
        chart = read_chart(GRID)
        assert bars(chart) == ["G7:4", "G7:4", "C7:2 D7:2", "G7:4", "C7:4", "G7:4", "C7:4", "G7:4"]
        assert chart.title == "A Grid"

    def test_chords_over_words(self):
        chart = read_chart(OVER_WORDS)
        assert (
            bars(chart) == ["C:4", "Am7:4", "Dm7:4", "G7:4"] and chart.title == "A Song" and chart.key == "C"
        )


class TestOpening:
    def test_by_what_is_in_it(self, tmp_path):
        score = musicxml(measure(harmony("C", "major")))
        for name, data in (
            ("a.musicxml", score), ("b.mxl", mxl(score)), ("c.mid", midi(markers=[(0, "C"), (4, "C7")])),
            ("d.txt", b"C | F"), ("e.cho", CHORDPRO.encode()), ("f.html", to_link(parse_chart("C | F")).encode()),
            ("g.txt", "C | F".encode("utf-16")), ("h.dat", b"C | F"),
        ):  # fmt: skip
            path = tmp_path / name
            path.write_bytes(data)
            assert read_chart(path).spans[0].chord.root in (0, 7)
            assert read_tunes(path)[0].title

    def test_only_files_that_were_given_as_such_are_opened(self, tmp_path, monkeypatch):
        (tmp_path / "tune.txt").write_text("C | F")
        monkeypatch.chdir(tmp_path)
        assert (
            looks_like_file("tune.txt") and not looks_like_file("C | F") and not looks_like_file("C.txt | F")
        )
        assert parse_chart(chart_text("tune.txt")).spans == parse_chart("C | F").spans
        with pytest.raises(ValueError, match="name of a file"):
            sent_text("tune.txt")
        with pytest.raises(ValueError):
            read_chart("tune.txt")
        with pytest.raises(OSError):
            chart_text("missing.musicxml")
        assert sent_text("C | F") == chart_text("C | F") == "C | F"

    @pytest.mark.parametrize(
        "data", [b"", b"\x89PNG\r\n\x1a\n\x00\x00", b"<html>nothing</html>", b"RIFF\x00\x00WAVE"]
    )
    def test_what_is_no_chart_is_refused(self, data):
        with pytest.raises(ValueError):
            read_chart(data)


class TestPractice:
    def test_keys(self):
        chart = parse_chart("key: C\nDm7 | G7 | Cmaj7 | N.C.")
        assert (
            semitones_of("+2", chart) == 2
            and semitones_of("Bb", chart) == -2
            and semitones_of("F#", chart) == -6
        )
        assert parse_chart(transposed(chart, 3).to_text()).key == "Eb"
        assert transposed(transposed(chart, 3), -3).bars == chart.bars
        rounds = in_all_keys(chart)
        roots = [bar[0].chord.root for bar in rounds.bars[::4]]
        assert sorted(roots) == list(range(12)) and (roots[1] - roots[0]) % 12 == 5
        assert parse_chart(rounds.to_text()).bars == rounds.bars
        with pytest.raises(ValueError, match="give semitones"):
            semitones_of("up", chart)

    def test_a_ramp_goes_from_tempo_to_tempo(self):
        up, down = Ramp.parse("120:133/4"), Ramp.parse("200:190+4")
        assert [up.tempo(chorus) for chorus in (0, 3, 4, 8, 12, 99)] == [120, 120, 125, 130, 133, 133]
        assert [down.tempo(chorus) for chorus in (0, 1, 2, 3)] == [200, 196, 192, 190]
        for text in ("120", "120:900", "120:180/0", "a:b", "120:180+0"):
            with pytest.raises(ValueError, match=r"ramp|tempo"):
                Ramp.parse(text)

    def test_some_of_the_bars(self):
        chart = parse_chart("C | 3/4 F | G | A")
        part = cut(chart, 2, 3)
        assert bars(part) == ["F:3", "G:3"] and parse_chart(part.to_text()).bars == part.bars
        with pytest.raises(ValueError, match="bars 1 to 4"):
            cut(chart, 3, 9)


SEEDS = {
    "ireal": to_link(parse_chart(TUNES[2])).encode(),
    "irealbook": b"irealbook://A=B=Swing=C=n=T44*A{C^7 |A-7 |D-9 |N1G7#5 }|N2F6 E-7|x |r|W/C n |"
    b"f(Db7)Bb7 Q|[*BG7 <Fine>Z",
    "musicxml": musicxml(
        measure(harmony("C", "major-seventh", (9, 1, "add")), words("D.C. al Coda"),
                sign("right", "<repeat direction='backward'/>")),
        measure(harmony("F", "minor"), attributes="<time><beats>3</beats><beat-type>4</beat-type></time>"),
    ),
    "mxl": mxl(musicxml(measure(harmony("C", "major")))),
    "midi": midi([(0.0, [48, 52, 55, 58]), (4.0, [43, 47, 50, 53])], [(0, "C7"), (4, "G7")]),
    "chordpro": (CHORDPRO + GRID).encode(),
    "text": "\n".join(f"[A] {text}" for text in TUNES).encode(),
    "words": OVER_WORDS.encode(),
}  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(out)) if out else 0
        what = rng.randrange(5)
        if what == 0 and out:
            out[at] = rng.randrange(256)
        elif what == 1:
            out[at:at] = rng.choice(
                [b"|", b":|", b"<", b"&a;", b"\x00", b"9" * 30, b"D.S. ", b"[1 ", b"%%", b"(", b"/" * 9]
            )
        elif what == 2:
            del out[at : at + rng.randint(1, 30)]
        elif what == 3:
            piece = out[at : at + rng.randint(1, 60)]
            out[at:at] = piece * rng.randint(1, 20)
        else:
            out = out[:at]
    return bytes(out)


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files_are_read_or_refused(kind):
    rng = random.Random(kind)
    for _ in range(60):
        data = mutated(SEEDS[kind], rng)
        try:
            chart = read_chart(data, 1)
        except ValueError as error:
            assert str(error)
            continue
        assert 1 <= len(chart.bars) <= 512
        assert parse_chart(chart.to_text(header=False)).spans == chart.spans


@pytest.mark.parametrize(
    "text",
    ["A" * 39_000, "/" * 39_000, "x " * 19_000, "(A7 " * 9_000, "C" + "(" * 500, "AMA" * 12_000,
     "[A7] " * 7_000, "C | " * 9_000,
     "irealb://T=C==S=C==1r34LbKcu7" + "C " * 300_000 + "=="],
    ids=lambda text: text[:9],
)  # fmt: skip
def test_hostile_texts_are_refused_in_few_words(text):
    with pytest.raises(ValueError) as error:
        read_chart(text)
    assert len(str(error.value)) < 700
