"""MusicXML and .mxl lead sheets: chord symbols, metres, repeats, endings and jumps.

Only what the file itself holds is read: entities are refused, nothing outside is opened. The order in which bars are
played is this package's own (`music.unfolding`): libraries play endings together with D.C. otherwise than written.
"""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

from ..music.chart import ParsedChart
from ..music.chart_header import Header
from ..music.chart_reader import partial_metre
from ..music.chords import Chord
from ..music.metre import Metre
from ..music.unfolding import MAX_BARS, WrittenBar, unfold
from ..music.vocabulary import MAJOR_KEYS, MAX_TEMPO, MIN_TEMPO, MINOR_KEYS
from .written import Placed, bar_of, last_span, spans_of, take_words, times_in, without_segno

MAX_XML_BYTES = 16 << 20
MAX_MEASURES = 4096  # of a score of notes
_MAX_ENTRIES = 200

_KINDS = {
    "major": "", "minor": "m", "augmented": "aug", "diminished": "dim", "dominant": "7", "major-seventh": "maj7",
    "minor-seventh": "m7", "diminished-seventh": "dim7", "augmented-seventh": "7#5", "half-diminished": "m7b5",
    "major-minor": "m(maj7)", "major-sixth": "6", "minor-sixth": "m6", "dominant-ninth": "9", "major-ninth": "maj9",
    "minor-ninth": "m9", "dominant-11th": "11", "major-11th": "maj11", "minor-11th": "m11", "dominant-13th": "13",
    "major-13th": "maj13", "minor-13th": "m13", "suspended-second": "sus2", "suspended-fourth": "sus4", "power": "5",
    "Neapolitan": "", "augmented-ninth": "9#5", "minor-major": "m(maj7)", "dominant-seventh": "7",
}  # fmt: skip
_STEPS = "CDEFGAB"
_NATURAL = (0, 2, 4, 5, 7, 9, 11)


def unpack_mxl(data: bytes) -> bytes:
    """The MusicXML in an .mxl, as META-INF/container.xml says which.

    Raises:
        ValueError: no such archive, no MusicXML in it, or one that unpacks to more than `MAX_XML_BYTES`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > _MAX_ENTRIES:
                raise ValueError(f"an .mxl with more than {_MAX_ENTRIES} files in it is not read")
            names = archive.namelist()
            wanted = None
            if "META-INF/container.xml" in names:
                container = _parse_xml(_unzip(archive, "META-INF/container.xml"))
                roots = [each for each in container.iter() if _local(each) == "rootfile"]
                kinds = ("", "application/vnd.recordare.musicxml+xml", "application/xml", "text/xml")
                wanted = next(
                    (root.get("full-path") for root in roots if (root.get("media-type") or "") in kinds), None
                )
            scores = [name for name in names if name.lower().endswith((".xml", ".musicxml"))]
            wanted = wanted or next((name for name in scores if "META-INF" not in name), None)
            if wanted not in names:
                raise ValueError("the .mxl has no MusicXML in it")
            return _unzip(archive, str(wanted))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"this .mxl cannot be unpacked ({error})") from error


def _unzip(archive: zipfile.ZipFile, name: str) -> bytes:
    import zlib

    try:
        with archive.open(name) as file:
            data = file.read(MAX_XML_BYTES + 1)
    except zlib.error as error:
        raise ValueError(f"this .mxl cannot be unpacked ({error})") from error
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"the .mxl unpacks to more than {MAX_XML_BYTES >> 20} MB: that is no lead sheet")
    return data


def _parse_xml(data: bytes) -> Any:
    try:
        import defusedxml.ElementTree as safe
        from defusedxml.common import DefusedXmlException
    except ImportError as error:
        raise ImportError("MusicXML needs defusedxml; run: pip install 'rtjazz-hf[charts]'") from error
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"a MusicXML file of {len(data)} bytes: at most {MAX_XML_BYTES} are read")
    try:
        return safe.fromstring(data)
    except DefusedXmlException as error:
        raise ValueError(
            f"the MusicXML declares entities, which are not read ({type(error).__name__})"
        ) from None
    except (safe.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"this is not well-formed MusicXML: {error}") from None


def _local(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _text(element: Any, name: str) -> str:
    found = element.find(name)
    return (found.text or "").strip() if found is not None else ""


def _number(text: str | None, fallback: float) -> float:
    try:
        value = float(text or "")
    except ValueError:
        return fallback
    return value if abs(value) < 1e7 else fallback


def read_musicxml(data: bytes) -> ParsedChart:
    """The chart of the first part that has chord symbols.

    Raises:
        ValueError: no MusicXML, no chords, or a form that cannot be played, naming the bar.
    """
    root = _parse_xml(data)
    for element in root.iter():
        element.tag = _local(element)
    if root.tag == "score-timewise":
        raise ValueError(
            "this MusicXML is ordered by time (score-timewise): save it by parts (score-partwise)"
        )
    if root.tag != "score-partwise":
        raise ValueError(f"this is not MusicXML: it begins with <{root.tag[:40]}>, not with <score-partwise>")
    part = next((each for each in root.iter("part") if each.find(".//harmony") is not None), None)
    if part is None:
        raise ValueError(
            "the MusicXML has no chord symbols (<harmony>): only what is written as chords can be played"
        )
    header = _header(root)
    reader = _PartReader(header)
    for measure in part.iter("measure"):
        if len(reader.bars) >= MAX_BARS:
            raise ValueError(f"the chart has more than {MAX_BARS} bars: shorten it, charts loop anyway")
        reader.read(measure)
    if not reader.bars:
        raise ValueError("empty chart: the MusicXML has no bars")
    reader.remarks += without_segno(reader.bars)
    return ParsedChart.of(reader.bars, header, reader.remarks)


def order_of_bars(data: bytes) -> tuple[list[int], list[str]]:
    """The measures of a MusicXML score in the order in which they are played, counted from 0, and what had to be
    understood. Repeats and jumps are those of the part that has most of them.

    Raises:
        ValueError: no MusicXML, or a form that cannot be played. ImportError: defusedxml is missing.
    """
    root = _parse_xml(data)
    for element in root.iter():
        element.tag = _local(element)
    forms = []
    for part in root.iter("part"):
        reader = _PartReader(Header())
        for measure in part.iter("measure"):
            if len(reader.bars) >= MAX_MEASURES:
                raise ValueError(f"the score has more than {MAX_MEASURES} measures")
            reader.read(measure)
        forms.append(reader.bars)
    if not forms:
        raise ValueError("the MusicXML has no parts")
    bars = max(forms, key=lambda bars: sum(not bar.is_plain for bar in bars))
    remarks = without_segno(bars)
    order, more = unfold(bars)
    return order, [*remarks, *more]


def _header(root: Any) -> Header:
    header = Header(title=_text(root, "work/work-title") or _text(root, "movement-title"))
    for creator in root.iter("creator"):
        if creator.get("type") in ("composer", None) and creator.text:
            header.composer = " ".join(creator.text.split())
            break
    return header


class _PartReader:
    def __init__(self, header: Header) -> None:
        self.header = header
        self.bars: list[WrittenBar] = []
        self.remarks: list[str] = []
        self.metre = Metre(4, 4)
        self.divisions = 1.0
        self.fifths, self.minor = 0, False
        self._simile = 0
        self._times = 0  # "4x" in words: of the repeat that ends next
        self._silences: list[float] = []  # beats of the measure at which words say N.C.

    def read(self, measure: Any) -> None:
        bar = bar_of((), self.metre, self.bars)
        placed: list[Placed] = []
        self._silences = []
        at = longest = 0.0
        for element in measure:
            kind = element.tag
            if kind == "attributes":
                self._take_attributes(element)
                bar.metre = self.metre
            elif kind == "note":
                if element.find("grace") is None and element.find("chord") is None:
                    at += self._duration(element)
            elif kind == "backup":
                at = max(0.0, at - self._duration(element))
            elif kind == "forward":
                at += self._duration(element)
            elif kind == "harmony":
                offset = _number(_text(element, "offset"), 0.0) / self.divisions
                placed += [(at + offset, chord, "play") for chord in self._chords(element, bar)]
            elif kind == "barline":
                self._take_barline(element, bar)
            elif kind in ("direction", "sound"):
                self._take_direction(element, bar, at)
            longest = max(longest, at)
        placed += [(each, Chord.no_chord(), "rest") for each in self._silences]
        beats = self._length(measure, longest)
        if abs(beats - bar.metre.beats) > 1e-6:
            bar.metre = partial_metre(beats)
        if self._simile and not placed and len(self.bars) >= self._simile:
            bar.spans = self.bars[-self._simile].spans
        if not bar.spans or abs(sum(span.beats for span in bar.spans) - beats) > 1e-6:
            bar.spans = spans_of(placed, beats, last_span(self.bars))
        self.bars.append(bar)

    def _duration(self, element: Any) -> float:
        return max(0.0, _number(_text(element, "duration"), 0.0)) / self.divisions

    def _length(self, measure: Any, longest: float) -> float:
        """Beats of the measure: the metre's, or those of its notes where it is a pick-up or says that it is short."""
        full = self.metre.beats
        short = 0.0 < longest < full - 1e-6
        if short and (measure.get("implicit") == "yes" or not self.bars):
            try:
                return partial_metre(longest).beats
            except ValueError:
                return full
        return full

    def _take_attributes(self, element: Any) -> None:
        divisions = _number(_text(element, "divisions"), self.divisions)
        self.divisions = divisions if divisions > 0 else self.divisions
        key = element.find("key")
        if key is not None and key.find("fifths") is not None:
            self.fifths = int(max(-7, min(7, _number(_text(key, "fifths"), 0.0))))
            self.minor = _text(key, "mode") == "minor"
            tonic = (self.fifths * 7 + (9 if self.minor else 0)) % 12
            if self.header.key is None and key.find("mode") is not None:
                self.header.key = (MINOR_KEYS if self.minor else MAJOR_KEYS)[tonic]
        time = element.find("time")
        if time is not None and time.find("beats") is not None:
            counts = [each.text or "" for each in time.findall("beats")]
            units = [each.text or "" for each in time.findall("beat-type")]
            written = "+".join(counts) + "/" + (units[0] if units else "4")
            self.metre = Metre.parse(written)
        repeat = element.find("measure-style/measure-repeat")
        if repeat is not None:
            self._simile = int(_number(repeat.text, 1.0)) if repeat.get("type") == "start" else 0
            if self._simile not in (0, 1, 2, 4):
                where = f"bar {len(self.bars) + 1} of the chart"
                raise ValueError(f"{where} repeats {self._simile} bars: 1, 2 or 4 are read")

    def _take_barline(self, element: Any, bar: WrittenBar) -> None:
        repeat, ending = element.find("repeat"), element.find("ending")
        left = element.get("location") == "left"
        if repeat is not None and repeat.get("direction") == "forward":
            bar.opens = True
        elif repeat is not None:
            times = int(_number(repeat.get("times"), self._times or 2.0))
            self._times = 0
            bar.closes = max(2, min(times, MAX_BARS))
        if ending is not None and ending.get("type") == "start":
            numbers = {int(each) for each in re.findall(r"\d{1,2}", ending.get("number") or "1")}
            bar.endings = frozenset(each for each in numbers if each) or frozenset({1})
        elif ending is not None:
            bar.double = True
        if _text(element, "bar-style") in ("light-light", "light-heavy", "heavy-heavy") and not left:
            bar.double = True
        for sign in ("segno", "coda"):
            if element.find(sign) is not None:
                self._take_sign(sign, bar, 0.0 if left else 1.0)

    def _take_sign(self, sign: str, bar: WrittenBar, at: float) -> None:
        if sign == "segno":
            bar.segno = True
        elif at > 0.0 and not bar.to_coda:
            bar.to_coda = True
        else:
            bar.coda = True

    def _take_direction(self, element: Any, bar: WrittenBar, at: float) -> None:
        sound = element if element.tag == "sound" else element.find("sound")
        words = " ".join((each.text or "") for each in element.findall("direction-type/words")).strip()
        if re.fullmatch(r"\(?[Nn]\.?\s?[Cc]\.?\)?", words):  # written as words by some programs
            self._silences.append(at)
        elif words and not take_words(words, bar):
            self._take_other_words(words, bar)
        rehearsal = element.find("direction-type/rehearsal")
        if rehearsal is not None and (rehearsal.text or "").strip():
            bar.label = " ".join((rehearsal.text or "").split())[:40]
        if sound is not None:
            self._take_sound(sound, bar)
        says_leaving = sound is not None and sound.get("tocoda") is not None
        if element.find("direction-type/segno") is not None:
            bar.segno = True
        if element.find("direction-type/coda") is not None and not bar.to_coda and not says_leaving:
            self._take_sign("coda", bar, at)
        per_minute = _text(element, "direction-type/metronome/per-minute")
        if per_minute and self.header.tempo is None:
            unit = _text(element, "direction-type/metronome/beat-unit")
            dotted = element.find("direction-type/metronome/beat-unit-dot") is not None
            quarters = {"half": 2.0, "quarter": 1.0, "eighth": 0.5}.get(unit, 1.0) * (1.5 if dotted else 1.0)
            self._take_tempo((_number(re.sub(r"[^\d.].*", "", per_minute), 0.0)) * quarters)

    def _take_tempo(self, tempo: float) -> None:
        if MIN_TEMPO <= tempo <= MAX_TEMPO:
            self.header.tempo = tempo
        elif tempo:
            self.remarks.append(f"the tempo {tempo:g} is not played: {MIN_TEMPO:g} to {MAX_TEMPO:g} are")

    def _take_sound(self, sound: Any, bar: WrittenBar) -> None:
        if sound.get("tempo") and self.header.tempo is None:
            self._take_tempo(_number(sound.get("tempo"), 0.0))
        if sound.get("dacapo") == "yes" and bar.jump is None:
            take_words("D.C.", bar)
        if sound.get("dalsegno") is not None and bar.jump is None:
            take_words("D.S.", bar)
        bar.fine = bar.fine or sound.get("fine") is not None
        bar.to_coda = bar.to_coda or sound.get("tocoda") is not None
        bar.segno = bar.segno or sound.get("segno") is not None
        bar.coda = bar.coda or (sound.get("coda") is not None and not bar.to_coda)

    def _take_other_words(self, words: str, bar: WrittenBar) -> None:
        if times := times_in(words):
            self._times = times
        elif not self.bars and not self.header.style:
            self.header.style = " ".join(words.split())[:80]
        elif re.match(r"(?i)d\.?\s?[cs]\.?\b", words):
            raise ValueError(f"bar {bar.number} of the chart says {words!r}, which is not understood")
        else:
            self.remarks.append(f"bar {bar.number}: {' '.join(words.split())[:60]!r} is not played")

    # ------------------------------------------------------------------------------------------------------
    # chords
    # ------------------------------------------------------------------------------------------------------
    def _chords(self, harmony: Any, bar: WrittenBar) -> list[Chord]:
        root, kind = harmony.find("root"), harmony.find("kind")
        name = (kind.text or "").strip() if kind is not None else ""
        if name == "none" or (
            root is None and kind is not None and (kind.get("text") or "").strip() in ("N.C.", "NC")
        ):
            return [Chord.no_chord()]
        text = (kind.get("text") or "").strip() if kind is not None else ""
        letter = self._root(harmony, bar)
        bass = harmony.find("bass")
        below = ""
        if bass is not None and _text(bass, "bass-step") in tuple(_STEPS):
            below = f"/{_text(bass, 'bass-step')}{_sign(_number(_text(bass, 'bass-alter'), 0.0))}"
        symbol = letter + self._quality(harmony, name, text, bar) + below
        if name == "pedal":
            symbol = below or f"/{letter}"
        try:
            return [Chord.parse(symbol)]
        except ValueError as error:
            raise ValueError(f"bar {bar.number} of the chart: {error}") from None

    def _root(self, harmony: Any, bar: WrittenBar) -> str:
        root = harmony.find("root")
        if root is not None:
            step = _text(root, "root-step").upper()
            if step in tuple(_STEPS):
                return step + _sign(_number(_text(root, "root-alter"), 0.0))
        numeral = _text(harmony, "numeral/numeral-root")
        alter = _number(_text(harmony, "numeral/numeral-alter"), 0.0)
        function = _text(harmony, "function")
        if function and not numeral:
            match = re.match(r"([b#♭♯]?)(VII|VI|IV|V|III|II|I)", function, re.IGNORECASE)
            if match:
                numeral = str(("I", "II", "III", "IV", "V", "VI", "VII").index(match.group(2).upper()) + 1)
                alter = {"b": -1, "♭": -1, "#": 1, "♯": 1}.get(match.group(1), 0)
        if numeral.isdigit() and 1 <= int(numeral) <= 7:
            fifths = int(
                max(-7, min(7, _number(_text(harmony, "numeral/numeral-key/numeral-fifths"), self.fifths)))
            )
            tonic = (fifths * 7 + (9 if self.minor else 0)) % 12
            scale = (0, 2, 3, 5, 7, 8, 10) if self.minor else _NATURAL
            return MAJOR_KEYS[int(tonic + scale[int(numeral) - 1] + alter) % 12]
        raise ValueError(f"bar {bar.number} of the chart has a chord without a root")

    def _quality(self, harmony: Any, name: str, text: str, bar: WrittenBar) -> str:
        if name not in _KINDS and name not in ("pedal", ""):
            if name == "other" and text:
                return text
            if name in ("Italian", "French", "German", "Tristan"):
                self.remarks.append(f"bar {bar.number}: a {name} sixth is played as a dominant seventh")
                return "7"
            raise ValueError(
                f"bar {bar.number} of the chart has a chord of the kind {name[:30]!r}, which is not known"
            )
        quality = _KINDS.get(name, "")
        for degree in harmony.findall("degree"):
            value = int(_number(_text(degree, "degree-value"), 0.0))
            alter = int(_number(_text(degree, "degree-alter"), 0.0))
            what = _text(degree, "degree-type")
            if value not in (1, 2, 3, 4, 5, 6, 7, 9, 11, 13) or abs(alter) > 1:
                raise ValueError(
                    f"bar {bar.number} of the chart has a chord with a degree {value} ({alter:+d})"
                )
            quality = _with_degree(quality, what, value, alter)
        return quality


def _with_degree(quality: str, what: str, value: int, alter: int) -> str:
    sign = {-1: "b", 0: "", 1: "#"}[alter]
    if what == "subtract":
        return f"{quality}no{value}"
    if value == 7:
        seventh = "maj7" if alter > 0 else "7"
        if quality.startswith("sus"):
            return seventh + quality
        head = re.match(r"m?(?!aj)", quality)
        return (
            quality + seventh
            if head is not None and quality in ("", "m", "dim", "aug")
            else f"{quality}add{value}"
        )
    if what == "add" and not sign:
        return f"{quality}add{value}" if value not in (2, 4) or quality else f"{quality}add{value + 7}"
    return f"{quality}({sign}{value})" if sign else quality


def _sign(alter: float) -> str:
    return {-2: "bb", -1: "b", 1: "#", 2: "##"}.get(round(alter), "")
