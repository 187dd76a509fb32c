"""Reads the text of a chart into written bars: lines, tokens, beats."""

from __future__ import annotations

import math
import re

from .chart_header import Header
from .chart_tokens import TOKENS, is_chord, is_chordlike, is_music, plain_line, split_alternative, split_words
from .chords import Chord
from .metre import Metre
from .spans import ChordSpan
from .unfolding import MAX_BARS, Jump, WrittenBar, unbalanced

MAX_CHORDS_PER_BAR = 8
_SIMILES = {"%": 1, "𝄎": 1, "./.": 1, "x": 1, "%%": 2, "𝄏": 2, "r": 2}
_SECTION = re.compile(
    r"(?i:(?:[a-z][1-4]?'{0,2}|(?:pre-?|post-?)?(?:intro(?:duction)?|verse|chorus|refrain|bridge|outro|"
    r"middle(?: eight| 8)?|interlude|"
    r"head(?: in| out)?|solos?(?: changes)?|tag|vamp|ending|end|turnaround|release|theme|chords|changes|"
    r"shout(?: chorus)?|breakdown|hook|send-?off|backgrounds?|coda|section|part|form|trading|break)"
    r"(?:\s*(?:section|part))?(?:\s+[a-z\d]{1,3})?))"
)
_LETTER = re.compile(r"\s*[A-Z][1-4]?'{0,2}[.:)]?\s*")


def _names_what_follows(line: str, following: list[str]) -> bool:
    """Whether a letter on a line of its own is a section's: bars with bar lines follow, or it can be no chord."""
    after = next((each for each in following if each.strip()), "")
    return "|" in after or line.strip()[0] > "G"


class ChartReader:
    """Takes the lines of a chart one by one; `bars` are those read so far."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.bars: list[WrittenBar] = []
        self.remarks: list[str] = []
        self.metre = header.metre or Metre(4, 4)
        self.says_metre = False
        self._words: list[str] = []
        self._brackets: list[tuple[int, str]] = []  # alternatives of the bar, and where they stand
        self._kind = "play"
        self._start: dict[str, object] = {}  # marks of the bar that is to come
        self._open_at: int | None = None  # bar number at which a repeat was opened
        self._line_start = 0  # first bar of the line
        self._after_line = True  # a bar line here closes no bar
        self._harte = False

    # ------------------------------------------------------------------------------------------------------
    # lines
    # ------------------------------------------------------------------------------------------------------
    def read(self, text: str) -> None:
        """Read a chart's text, header and all."""
        lines = text.splitlines()
        plain = [plain_line(line) for line in lines]
        music = [is_music(line, self.header.notation) for line in plain]
        has_bars = any("|" in line for line, yes in zip(plain, music) if yes)
        if not any(music):  # a slip in the only line of chords is a chord's error, not a title
            music = [bool(line) for line in plain]
        first = music.index(True) if True in music else len(plain)
        self._harte = bool(re.search(r"[A-G][b#]*:(?:maj|min|dim|aug|hdim|sus)", text))
        titled = False
        for number, (line, is_chords) in enumerate(zip(plain, music), 1):
            if not line:
                self._new_line()
            elif (
                self.header.take_field(line)
                if not ("|" in line and is_chords and number > first + 1)
                else False
            ):
                if self.header.metre is not None:
                    self.metre = self.header.metre if number <= first + 1 or not self.bars else self.metre
            elif number <= first:
                if (_SECTION.fullmatch(line.strip("[]():. ")) and line[:1] in "[(") or line.rstrip().endswith(
                    ":"
                ):
                    self._start["label"] = line.strip("[](): ")
                else:
                    self.header.take_words(line, first=not titled and not self.header.title)
                    titled = True
                    self.metre = self.header.metre or self.metre
            elif _LETTER.fullmatch(line) and has_bars and _names_what_follows(line, plain[number:]):
                self._label(line.strip(" .:)"))
            elif is_chords:
                self._read_line(line, number)
            elif _SECTION.fullmatch(line.strip().strip("[]()").rstrip(":.").strip()):
                self._label(line.strip().strip("[](): .") if line.strip() else "")
            elif line.strip().endswith(":") and len(line) < 40:
                self._label(line.strip().rstrip(":"))
            else:
                self.remarks.append(f"line {number} was not read: {line.strip()[:60]!r}")
        self._new_line()

    def _label(self, name: str) -> None:
        self._new_line()
        self._start["label"] = name

    def _new_line(self) -> None:
        self._close_bar()
        self._after_line = True

    def _read_line(self, line: str, number: int) -> None:
        self._new_line()
        self._line_start = len(self.bars)
        if match := re.match(r"\s*\(?\[?(\d{1,3})\)?\]?[.:)]?\s*(?=\|(?!\s*\d))", line):
            line = line[match.end() :]  # a bar number before the first bar line
        if match := re.match(rf"\s*({_SECTION.pattern})\s*[:)](?:\s+(?!\])|$)", line):
            if not re.match(r"\s*[A-G]:(?:maj|min|dim|aug|hdim|sus|\d)", line):
                self._label(match.group(1).strip())
                line = line[match.end() :]
        elif match := re.match(r"\s*\(([A-Z]\d?'{0,2})\)\s*(?=\S)", line):
            self._label(match.group(1))
            line = line[match.end() :]
        at = 0
        while at < len(line):
            found = TOKENS.match(line, at)
            assert found is not None, "every character is a token"
            self._take(found, line)
            at = found.end()
        self._new_line()

    # ------------------------------------------------------------------------------------------------------
    # tokens
    # ------------------------------------------------------------------------------------------------------
    def _take(self, match: re.Match[str], line: str) -> None:
        kind = next(name for name in TOKENS_ORDER if match.group(name) is not None)
        token = match.group().strip()
        getattr(self, f"_take_{kind}")(token, match, line)

    def _take_space(self, token: str, match: re.Match[str], line: str) -> None:
        pass

    def _take_word(self, token: str, match: re.Match[str], line: str) -> None:
        slots = token.count(",") + 1  # of four, one in brackets is a beat on which the chord goes on
        for word in split_words(token):
            chord, alternative = split_alternative(word, self.header.notation)
            if not chord and (slots == 1 or not self._words):
                chord, alternative = word, ""  # (Dm7) on its own
            if chord:
                self._words.append(chord)
            if alternative:
                self._brackets.append((len(self._words), alternative))
            if not chord and slots == 4:
                self._words.append("/")
        self._after_line = False

    def _take_bar(self, token: str, match: re.Match[str], line: str) -> None:
        if not self._words and not self._brackets and not self._after_line:
            raise ValueError(
                f"bar {len(self.bars) + 1} of the chart is empty: write a chord, or % to repeat one"
            )
        self._close_bar()

    def _take_double(self, token: str, match: re.Match[str], line: str) -> None:
        self._close_bar()
        if self.bars:
            self.bars[-1].double = True
        self._after_line = True

    def _take_open(self, token: str, match: re.Match[str], line: str) -> None:
        self._close_bar()
        if self._open_at is not None:
            raise unbalanced(max(len(self.bars), 1), f"'{token}' opens a repeat inside another")
        self._start["opens"], self._after_line = True, True
        self._open_at = len(self.bars) + 1

    def _take_close(self, token: str, match: re.Match[str], line: str) -> None:
        self._close_bar()
        if not self.bars or self._start.get("opens") or self.bars[-1].closes:
            raise unbalanced(max(len(self.bars), 1), "the repeat has no bars")
        self.bars[-1].closes, self._after_line = 2, True
        self._open_at = None
        if token.endswith(("|:", "{", "[:", ":||:", ":|:")) and len(token) > 2:
            self._take_open(token, match, line)

    def _take_times(self, token: str, match: re.Match[str], line: str) -> None:
        times = int(re.search(r"\d+", token).group())  # type: ignore[union-attr]  # the token has one
        if not 1 <= times <= MAX_BARS:
            raise ValueError(f"a repeat played {times} times: expected 1 to {MAX_BARS}")
        if not self._words and self.bars and self.bars[-1].closes and not self._start:
            self.bars[-1].closes = times
            return
        if line[match.end() :].strip(" |]"):
            raise ValueError(
                f"{token!r} in bar {len(self.bars) + 1} of the chart: it stands after ':|' or at the end of a line"
            )
        self._close_bar()
        played = self.bars[self._line_start :]
        if not played or self._open_at is not None or any(not bar.is_plain for bar in played):
            raise ValueError(f"{token!r} after bar {len(self.bars)} of the chart: write '|: .. :| x{times}'")
        played[0].opens, played[-1].closes = True, times

    def _take_ending(self, token: str, match: re.Match[str], line: str) -> None:
        self._close_bar()
        numbers: set[int] = set()
        for part in re.split(r"[,&.\s]+", re.sub(r"(?i)[^\d,&\s.–-]|st|nd|rd|th", "", token).strip(" .,")):
            first, _, last = part.replace("–", "-").partition("-")
            if first:
                numbers |= set(range(int(first), int(last or first) + 1))
        if not numbers or min(numbers) < 1:
            raise unbalanced(len(self.bars) + 1, f"{token!r} is no ending")
        self._start["endings"] = frozenset(numbers)
        self._open_at, self._after_line = None, True

    def _take_jump(self, token: str, match: re.Match[str], line: str) -> None:
        words = re.sub(r"\s+", " ", token.strip('[]()<>"“” '))
        goal = (match.group("goal") or "").lower()
        number = re.search(r"\d", goal)
        goal = (
            number.group()
            if number
            else "fine"
            if "fine" in goal
            else "coda"
            if re.search("coda|⊕|𝄌", goal)
            else ""
        )
        to_sign = re.match(r"(?i)d\.?\s*s|dal", words) is not None
        repeats = bool(match.group("rep")) and not re.search(r"(?i)no|senza|without", match.group("rep"))
        bar = self._bar_before(words)
        if bar.jump is not None:
            raise ValueError(
                f"bar {bar.number} of the chart goes back twice: {bar.jump.words!r} and {words!r}"
            )
        bar.jump = Jump(to_sign, goal, repeats, words)

    def _bar_before(self, what: str) -> WrittenBar:
        """The bar that a sign at its end belongs to."""
        self._close_bar()
        self._after_line = True
        if not self.bars:
            raise ValueError(f"the chart begins with {what!r}: it stands after a bar")
        return self.bars[-1]

    def _take_sign(self, token: str, match: re.Match[str], line: str) -> None:
        word = re.sub(r"[^a-z𝄋𝄌⊕§ ]", "", token.lower()).strip()
        if word in ("to coda", "to 𝄌", "to ⊕", "al coda", "to coda 𝄌", "to coda ⊕"):
            self._bar_before(token).to_coda = True
        elif word == "fine":
            if self._words or not re.match(r"\s*[^\s|]", line[match.end() :]):
                self._bar_before(token).fine = True
            else:  # over the bar that it ends
                self._start["fine"] = True
        elif word in ("segno", "𝄋", "§"):
            self._close_bar()
            self._start["segno"], self._after_line = True, True
        else:
            self._close_bar()
            self._start["coda"], self._after_line = True, True

    def _take_metre(self, token: str, match: re.Match[str], line: str) -> None:
        if self._words:
            raise ValueError(
                f"bar {len(self.bars) + 1} of the chart changes its metre to {token} in the middle: "
                f"a metre stands at the beginning of a bar"
            )
        try:
            self.metre, self.says_metre = Metre.parse(token), True
        except ValueError as error:
            raise ValueError(f"bar {len(self.bars) + 1} of the chart: {error}") from None

    def _take_bracket(self, token: str, match: re.Match[str], line: str) -> None:
        inside = token[1:-1].strip()
        lower = inside.lower().strip(". ")
        if token[0] == "<" and lower not in ("break", "hold", "fermata", "rest", "tacet", "stop"):
            words = split_words(inside)
            if words and all(is_chordlike(word, self.header.notation) for word in words):
                self._words += [f"<{word}>" for word in words]
                self._after_line = False
            else:
                self._remark_words(inside)
        elif lower in ("hold", "fermata", "𝄐", "held"):
            self._mark_last("hold")
        elif lower in ("stop", "hit", "choke"):
            self._mark_last("stop")
        elif lower in ("break", "solo break", "stop time", "stop-time"):
            self._kind = "break"
        elif lower in ("rest", "tacet", "silence"):
            self._words.append("N.C.")
            self._after_line = False
        elif token[0] == "[" and _SECTION.fullmatch(inside):
            self._close_bar()
            self._start["label"], self._after_line = inside, True
        elif re.fullmatch(r"(?i)n\.?\s?c\.?|no chord", inside):
            self._words.append("N.C.")
            self._after_line = False
        elif inside and all(is_chordlike(word, self.header.notation) for word in split_words(inside)):
            self._brackets.append((len(self._words), inside))
        elif token[0] == "[" and re.fullmatch(r"[A-Za-z][\w\s'&.,/#-]{0,30}", inside):
            self._close_bar()
            self._start["label"], self._after_line = inside, True
        elif re.fullmatch(r"(?i)pick-?up|anacrusis|\d{1,3}", inside):
            pass  # the length of the bar says so; a bar number
        else:
            self._remark_words(inside)

    def _remark_words(self, words: str) -> None:
        if words:
            self.remarks.append(f"bar {len(self.bars) + 1}: {words!r} is not played")

    def _mark_last(self, how: str) -> None:
        if self._words and self._words[-1].rstrip("/.") and not self._words[-1].startswith("<"):
            word = self._words[-1]
            self._words[-1] = f"<{word}>" if how == "hold" else f"{word}!"
        else:
            self._kind = how

    def _take_stray(self, token: str, match: re.Match[str], line: str) -> None:
        raise ValueError(f"unexpected {token!r} in bar {len(self.bars) + 1} of the chart")

    # ------------------------------------------------------------------------------------------------------
    # bars
    # ------------------------------------------------------------------------------------------------------
    def finish(self) -> list[WrittenBar]:
        self._close_bar()
        if self._open_at is not None:
            raise unbalanced(max(len(self.bars), 1), "'|:' is never closed")
        if not self.bars:
            raise ValueError("empty chart: it has no chords. Write e.g. 'Dm7 | G7 | Cmaj7 | %'")
        first = self.bars[0]
        if len(self.bars) == 1 and sum(span.beats for span in first.spans) < self.metre.beats - 1e-6:
            raise ValueError(
                f"bar 1 of the chart: chords that name their beats must all do so and fill {self.metre.beats:g} beats"
            )
        if self._start.get("segno") or self._start.get("coda") or self._start.get("endings"):
            raise ValueError("the chart ends with a sign that begins something: no bar follows it")
        if (
            self.header.metre is None
            and [span.chord.symbol for span in first.spans][:1] == ["C"]
            and len(first.spans) == 2
            and all(len(bar.spans) == 1 for bar in self.bars[1:])
            and len(self.bars) > 2
        ):
            self.remarks.append("bar 1 is read as two chords, C and another; common time is written 4/4 or 𝄴")
        return self.bars

    def _close_bar(self) -> None:
        if self._words or self._brackets:
            words, self._words = self._words, []
            brackets, self._brackets = self._brackets, []
            number = len(self.bars) + 1
            if number > MAX_BARS:
                raise ValueError(f"the chart has more than {MAX_BARS} bars: shorten it, charts loop anyway")
            for spans in self._read_bar(words, brackets, f"bar {number} of the chart"):
                metre = self.metre
                if spans and not math.isclose(sum(span.beats for span in spans), metre.beats, abs_tol=1e-6):
                    metre = partial_metre(sum(span.beats for span in spans))
                bar = WrittenBar(spans, metre, len(self.bars) + 1, alternatives=tuple(brackets))
                for name, value in self._start.items():
                    setattr(bar, name, value)
                self._start = {}
                self.bars.append(bar)
            self._kind = "play"
        self._after_line = False

    def _read_bar(
        self, words: list[str], brackets: list[tuple[int, str]], where: str
    ) -> list[tuple[ChordSpan, ...]]:
        """The spans of the bar that the words say, or of the two of a two-bar simile."""
        bars = len(self.bars)
        if len(words) == 1 and words[0] in _SIMILES:
            count = _SIMILES[words[0]]
            if bars < count:
                raise ValueError(
                    f"{where} is {words[0]!r}, but there {'is no bar' if count == 1 else 'are no two bars'} "
                    f"before it to repeat"
                )
            return [bar.spans for bar in self.bars[-count:]]
        if simile := next((word for word in words if word in _SIMILES), None):
            raise ValueError(
                f"{where} mixes {simile!r} with chords: it stands alone and repeats the whole bar before"
            )
        if brackets and self.header.alternatives:
            words = with_alternatives(words, brackets)
        if not words:  # nothing but chords in brackets: the chord before goes on
            if not bars:
                raise ValueError(
                    f"{where} has only chords in brackets, {brackets[0][1]!r}, which are not played: "
                    f"take the brackets away, or write 'alternatives: yes' above the chart"
                )
            words = ["/"]
        # A chord and the beats it names for itself; no chord where a slash lets the one before sound on.
        entries: list[tuple[Chord | None, float | None, str]] = []
        for word in words:
            if word in ("/", ".", "-"):
                if not entries and not self.bars:
                    raise ValueError(f"{where} begins with {word!r}: no chord sounds there yet")
                going_on = self.bars[-1].spans[-1] if not entries else None
                entries.append(
                    (going_on.chord if going_on else None, None, going_on.kind if going_on else "")
                )
            else:
                entries.append(self._read_chord(word, entries, where))
        slashes = any(word in ("/", ".", "-") for word in words)
        return [self._time_bar(entries, slashes, where)]

    def _read_chord(
        self, word: str, entries: list[tuple[Chord | None, float | None, str]], where: str
    ) -> tuple[Chord, float | None, str]:
        kind = self._kind
        name, length = word, None
        if word[:1] == "<" and word[-1:] == ">":
            name, kind = word[1:-1], "hold"
        timed = re.fullmatch(r"(.+?):(\d+(?:\.\d*)?(?:e-?\d+)?)(!?)", name)
        if timed and not (self._harte and not re.search(r"[:.]\d*\.", word)):
            name, length = timed.group(1) + timed.group(3), float(timed.group(2))
        for ending, meaning in (("...", "hold"), ("𝄐", "hold"), ("!", "stop")):
            if name.endswith(ending) and len(name) > len(ending):
                name, kind = name.removesuffix(ending), meaning
        try:
            chord = Chord.parse(name, self.header.notation)
        except ValueError as error:
            stem = word.partition(":")[0]
            timed_badly = ":" in word and stem and not self._harte and is_chord(stem, self.header.notation)
            reason = f"{word!r} is not a chord and its beats" if timed_badly else str(error)
            raise ValueError(f"{where}: {reason}") from None
        if chord.is_bass_alone:
            before = next((entry[0] for entry in reversed(entries) if entry[0] is not None), None)
            before = before or (self.bars[-1].spans[-1].chord if self.bars else None)
            if before is not None and not before.is_no_chord:
                chord = before.over(chord.symbol[1:])
        if chord.is_no_chord and kind in ("play", "hold", "stop"):
            kind = "rest"
        return chord, length, kind

    def _time_bar(
        self, entries: list[tuple[Chord | None, float | None, str]], slashes: bool, where: str
    ) -> tuple[ChordSpan, ...]:
        metre = self.metre
        timed = [beats for _, beats, _ in entries if beats is not None]
        if timed:
            total = sum(timed)
            short = not self.bars and total < metre.beats - 1e-6  # a pick-up
            if len(timed) < len(entries) or not (short or math.isclose(total, metre.beats, abs_tol=1e-6)):
                raise ValueError(
                    f"{where}: chords that name their beats must all do so and fill {metre.beats:g} beats"
                )
            lengths = timed
        elif slashes:
            lengths = self._beats_of_slashes(len(entries), where)
        else:
            if len(entries) > MAX_CHORDS_PER_BAR:
                raise ValueError(f"{where} has {len(entries)} chords: at most {MAX_CHORDS_PER_BAR} fit")
            lengths = list(metre.share(len(entries)))
        spans: list[ChordSpan] = []
        pulse = metre.pulses[0][1]
        for (chord, _, kind), beats in zip(entries, lengths):
            if chord is None:
                spans[-1] = ChordSpan(spans[-1].chord, spans[-1].beats + beats, spans[-1].kind)
            elif kind == "stop":
                hit = min(pulse, beats)
                spans.append(ChordSpan(chord, hit))
                if beats - hit > 1e-6:
                    spans.append(ChordSpan(Chord.no_chord(), beats - hit, "rest"))
            else:
                spans.append(ChordSpan(chord, beats, kind))
        return tuple(spans)

    def _beats_of_slashes(self, count: int, where: str) -> list[float]:
        """How long each of `count` chords and slashes lasts: a felt beat, the last one to the end of the bar."""
        metre = self.metre
        felt = [length for _, length, _, _ in metre.pulses]
        if count in (metre.count, 2 * len(felt)) and count != len(felt):
            return [metre.beats / count] * count
        if count > len(felt):
            raise ValueError(
                f"{where} has {count} beats of chords and slashes: a {metre} bar needs {len(felt)}"
            )
        return felt[: count - 1] + [sum(felt[count - 1 :])]


def with_alternatives(words: list[str], brackets: list[tuple[int, str]]) -> list[str]:
    """The bar with each chord in brackets in the place of the one that it stands after."""
    out = list(words)
    for place, inside in reversed(brackets):
        out[max(place - 1, 0) : place] = split_words(inside)
    return out


def partial_metre(beats: float) -> Metre:
    """The metre of a bar that lasts `beats` quarter notes, whatever the chart's metre is."""
    for unit in (4, 8, 16):
        count = beats * unit / 4
        if math.isclose(count, round(count), abs_tol=1e-6) and 1 <= round(count) <= 15:
            groups = (1, 2) if round(count) == 3 and unit == 8 else ()
            return Metre(round(count), unit, groups)
    raise ValueError(f"a bar of {beats:g} beats is not in any metre: give halves or quarters of a beat")


TOKENS_ORDER = (
    "space", "times", "jump", "sign", "bracket", "close", "open", "ending", "metre", "double", "bar", "word", "stray",
)  # fmt: skip
