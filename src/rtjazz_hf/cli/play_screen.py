"""The terminal of `rtjazz play`: what is playing, and keys that change it."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..live.playback import Player

TEMPO_STEP = 2.0  # beats per minute
MIX_STEP = 0.1
HELP = (
    "+ - tempo   t tempo…   k j key up, down   p prompt…   < > mix   1-9 mute   a adapter   q quit",
    "c chords… (C at once), of which b only bars 9-16…   r rests piano/2…   s swing 0-1…   f all keys; - for none",
)
_ASKED = {
    "p": "prompt", "t": "tempo", "c": "chords", "C": "chords at once", "b": "only bars", "r": "rests", "s": "swing",
}  # fmt: skip


def parse_mix(text: str) -> str | dict[str, float]:
    """A prompt as people type it: words, or "0.7 hard bop + 0.3 bossa nova".

    Raises:
        ValueError: a part without words.
    """
    parts: dict[str, float] = {}
    for part in re.split(r"\s\+(?:\s|$)", text.strip()):
        weight, words = re.fullmatch(r"\s*(?:(\d*\.?\d+)\s+(?=\D))?(.*)", part, re.DOTALL).groups()
        if not words.strip():
            raise ValueError(
                f"the prompt {text!r} has a part without words; write '0.7 hard bop + 0.3 bossa nova'"
            )
        parts[words.strip()] = parts.get(words.strip(), 0.0) + (1.0 if weight is None else float(weight))
    return next(iter(parts)) if len(parts) == 1 else parts


class Controls:
    """Keys to `session.update`. A wrong wish is told, and the music plays on as it was.

    Args:
        prompt: as `parse_mix` gave it. chords: the chart that was asked for, if any.
        instruments: the band that was asked for, if any. adapters: names that the key "a" goes round, and
            their strengths.
        set_tempo: instead of `session.update(tempo=...)`, where a clock has the tempo.
    """

    def __init__(
        self,
        player: Player,
        prompt: str | dict[str, float],
        *,
        chords: str | None = None,
        instruments: Sequence[str] | None = None,
        adapters: Mapping[str, float] | None = None,
        set_tempo: Callable[[float], None] | None = None,
    ):
        self.player, self.session = player, player.session
        self.mix = dict(prompt) if isinstance(prompt, dict) else {prompt: 1.0}
        self.band = list(player.session.lead_sheet.instruments)  # whoever may be muted
        self.muted: set[str] = set()
        self._strengths = dict(adapters or {})
        self.adapters = list(self._strengths)
        self.adapter = self.adapters[0] if self.adapters else None
        self.message = ""
        self.asking: str | None = None  # the field whose new value is being typed
        self.typed = ""
        self._chords = chords  # the whole chart, in the key that it is in by now
        self.practice: dict[str, str] = {}  # what is made of it: "only bars", "rests", "swing", "all keys"
        self._instruments = list(instruments or ())
        self._set_tempo = set_tempo or (lambda tempo: self.session.update(tempo=tempo))

    def press(self, key: str) -> None:
        """Take one key."""
        try:
            if self.asking is not None:
                self._type(key)
            elif key in _ASKED:
                self.asking, self.typed = _ASKED[key], ""
            elif key in "+=":
                self._tempo(self.session.lead_sheet.tempo + TEMPO_STEP)
            elif key == "-":
                self._tempo(self.session.lead_sheet.tempo - TEMPO_STEP)
            elif key in "kj":
                self._transpose(1 if key == "k" else -1)
            elif key in "<>":
                self._shift_mix(MIX_STEP if key == ">" else -MIX_STEP)
            elif key.isdigit() and key != "0":
                self._mute(int(key) - 1)
            elif key == "f":
                self._practise("all keys", "-" if "all keys" in self.practice else "fourths")
            elif key == "a":
                self._next_adapter()
            elif key == "q":
                self.player.stop()
        except (ValueError, OSError) as error:
            self.message = " ".join(str(error).split())

    def _type(self, key: str) -> None:
        if key in "\r\n":
            field, text, self.asking = self.asking, self.typed.strip(), None
            if text:
                self._change(field, text)
        elif key == "\x1b":
            self.asking = None
        elif key in "\x7f\b":
            self.typed = self.typed[:-1]
        elif key.isprintable():
            self.typed += key

    def _change(self, field: str, text: str) -> None:
        if field == "tempo":
            try:
                tempo = float(text)
            except ValueError:
                raise ValueError(f"tempo {text!r}: give beats per minute") from None
            self._tempo(tempo)
        elif field in ("chords", "chords at once"):
            self.session.update(chords=text, at=None if field == "chords" else "now")
            self._chords, self.practice, self.message = text, {}, self._when("new chart")
        elif field in ("only bars", "rests", "swing"):
            self._practise(field, text)
        else:
            mix = parse_mix(text)
            # a band that nobody fixed is the prompt's; mutes were of the band before
            self.session.update(prompt=mix, **({} if self._instruments else {"instruments": []}))
            self.mix = dict(mix) if isinstance(mix, dict) else {mix: 1.0}
            self.message = "new prompt"
            if not self._instruments:
                self.muted, self.band = set(), list(self.session.lead_sheet.instruments)

    def _tempo(self, tempo: float) -> None:
        self._set_tempo(round(tempo, 3))
        self.message = f"tempo {tempo:g}"

    def _transpose(self, semitones: int) -> None:
        newest = self.session.lead_sheet if self.session.coming is None else self.session.coming[1]
        sheet = newest.rotated(semitones)
        if self._chords is None:
            self.session.update(key=sheet.key)
        else:  # the band leader does not transpose a chart that somebody gave
            from ..charts import sent_text
            from ..music import parse_chart
            from ..music.practice import transposed

            chart = transposed(parse_chart(sent_text(self._chords)), semitones).to_text()
            self.session.update(chords=_practised(chart, self.practice), key=sheet.key)
            self._chords = chart
        self.message = self._when(f"key {sheet.key}")

    def _practise(self, name: str, value: str) -> None:
        """Make something of the chart; `-` takes it back."""
        if self._chords is None:
            raise ValueError(f"{name}: there is no chart; type one with c")
        practice = {key: each for key, each in self.practice.items() if key != name}
        if value != "-":
            practice[name] = value
        self.session.update(chords=_practised(self._chords, practice))
        self.practice = practice
        self.message = self._when(f"{name} {value}" if value != "-" else f"{name}: as the chart has it")

    def _when(self, text: str) -> str:
        return f"{text} at the next bar line" if self.session.coming else text

    def _shift_mix(self, step: float) -> None:
        """Weight from the first prompt to the last, or back."""
        if len(self.mix) < 2:
            raise ValueError("one prompt has no mix; type another with p: '0.5 hard bop + 0.5 bossa nova'")
        total = sum(self.mix.values())
        mix = {words: weight / total for words, weight in self.mix.items()}
        first, *_, last = mix
        step = min(max(step, -mix[last]), mix[first])
        mix[first], mix[last] = mix[first] - step, mix[last] + step
        self.session.update(prompt=mix)
        self.mix, self.message = mix, "mix changed"

    def _mute(self, number: int) -> None:
        if number >= len(self.band):
            raise ValueError(f"there is no instrument {number + 1}: the band has {len(self.band)}")
        name = self.band[number]
        muted = self.muted ^ {name}
        if len(muted) == len(self.band):
            raise ValueError(f"{name} is the last that plays")
        # all by name: with nothing but names to leave out, the band leader may find somebody to fill the place
        names = [each for each in self.band if each not in muted]
        self.session.update(instruments=names)
        self.muted = muted
        self.message = f"{name} {'rests' if name in muted else 'plays'}"

    def _next_adapter(self) -> None:
        if not self.adapters:
            raise ValueError("no adapters: name some with --adapter")
        at = self.adapters.index(self.adapter) if self.adapter in self.adapters else -1
        name = self.adapters[(at + 1) % len(self.adapters)]
        self.session.update(adapter={name: self._strengths[name]})
        self.adapter, self.message = name, f"adapter {name}"


def _practised(chords: str, practice: Mapping[str, str]) -> str:
    """A chart with lines above it that say what is made of it to practise."""
    from ..charts import sent_text
    from ..music.practice import lines_above

    return lines_above(sent_text(chords), practice)


class Screen:
    """What is playing, drawn by rich four times a second; use as a context manager."""

    def __init__(self, player: Player, controls: Controls, title: str):
        from rich.console import Console
        from rich.live import Live

        self._player, self._controls, self._title = player, controls, title
        self._live = Live(
            get_renderable=self.render,
            console=Console(stderr=True),
            refresh_per_second=8,
            redirect_stdout=False,
            transient=True,
        )

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def render(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        lines = [Text(line) for line in self.lines()]
        lines[0].stylize("bold")
        for line in lines[-len(HELP) :]:
            line.stylize("dim")
        return Panel(Group(*lines), title=Text(self._title), border_style="cyan")

    def lines(self) -> list[str]:
        """The screen as plain lines."""
        player, controls = self._player, self._controls
        sheet, stats, heard = player.session.lead_sheet, player.session.stats(), player.heard()
        if heard is None:
            place, chart = "waiting", ""
        else:
            place = f"bar {heard.bar}  beat {int(heard.beat)}  {heard.chord}"
            chart = chart_line(sheet, heard.seconds)
        mix = "   ".join(
            f"{words} {bar(weight / sum(controls.mix.values()))}" for words, weight in controls.mix.items()
        )
        band = "  ".join(
            f"{number}:{name}{' (muted)' if name in controls.muted else ''}"
            for number, name in enumerate(controls.band, 1)
        )
        lines = [
            f"{place}    {sheet.tempo:.1f} BPM in {sheet.key}",
            f"chart       {chart}",
            f"prompt      {mix}",
            f"band        {band}" + (f"    adapter {controls.adapter}" if controls.adapter else ""),
            f"real time   factor {stats.real_time_factor:.2f}, slowest 5% of blocks {1000 * stats.p95:.0f} ms, "
            f"under-runs {player.under_runs}",
        ]
        if controls.practice:
            lines.append("practice    " + "   ".join(f"{name} {value}" for name, value in controls.practice.items()))
        if player.recorder is not None:
            lines.append(f"recording   {player.recorder.path}  {player.recorder.duration:.1f} s")
        if player.follower is not None and player.follower.error == player.follower.error:
            lines.append(f"clock       {1000 * player.follower.error:+.1f} ms")
        asked = f"{controls.asking}: {controls.typed}_" if controls.asking else controls.message
        return [*lines, asked, *HELP]


def bar(share: float, width: int = 10) -> str:
    """A share of 1 as a bar of characters."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    return "█" * filled + "░" * (width - filled) + f" {100 * share:.0f}%"


def chart_line(sheet: Any, seconds: float, bars: int = 4) -> str:
    """The bar of `seconds` and those after it, the present one in brackets."""
    first = sheet.bar_at(sheet.beat_at(seconds))[0]
    cells = []
    for number in range(max(first, 0), max(first, 0) + bars):
        start = sheet.time_of(sheet.bar_start(number))
        chords = sheet.chord_segments(start, sheet.metre_of(number).beats * 60.0 / sheet.tempo)
        text = " ".join(chord.symbol for begin, end, chord in chords if end - begin > 1e-6)
        cells.append(f"[{text}]" if number == first else text)
    return " | ".join(cells)


@contextmanager
def keys(press: Callable[[str], None], stream: Any = None):
    """Call `press` with every key that is typed, from a thread, without waiting for Enter.

    Nothing happens where `stream` (stdin) is no terminal, or the system has no termios.
    """
    stream = stream or sys.stdin
    if stream is None:  # closed
        yield
        return
    try:
        import select
        import termios
        import tty

        descriptor = stream.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            if select.select([descriptor], [], [], 0.1)[0]:
                for key in os.read(descriptor, 64).decode("utf-8", "ignore"):
                    press(key)

    tty.setcbreak(descriptor)
    thread = threading.Thread(target=listen, name="rtjazz-keys", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1.0)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
