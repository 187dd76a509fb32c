"""A Gradio Space: jazz without an end, changed while it plays.

python pipelines/space/app.py    # then open http://127.0.0.1:7860/

Gradio has the controls. The sound goes through a WebSocket to a player of its own (stream.js); README.md says why.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from rtjazz_hf import RealTimeJazzPipeline, server
from rtjazz_hf.adapters import adapter_name_of
from rtjazz_hf.audio import AUDIO_CHANNELS, read_audio
from rtjazz_hf.charts import choose_tune, chorus_bars, read_tunes, sent_text
from rtjazz_hf.cli.common import choose_device, quiet_libraries
from rtjazz_hf.live import LiveBlock
from rtjazz_hf.live.outputs import to_pcm
from rtjazz_hf.live.recording import Recorder
from rtjazz_hf.music import INSTRUMENTS
from rtjazz_hf.music.grid import chart_grid
from rtjazz_hf.music.practice import ORDERS, Ramp, lines_above

HERE = Path(__file__).parent
PLAYER = Path(server.__file__).parent / "player"  # the worklet that plays blocks without gaps

AHEAD = 0.5  # seconds of sound that are sent before they are heard
FIRST_BLOCK_FRAMES = 24  # 0.32 s: the least that the player begins with (0.25 s), so that one block is enough
LONGEST = 600.0  # seconds of a take: the machine is everybody's
KEPT_TAKES = 8  # recordings on disk, the oldest goes first
STYLE_SECONDS = 10.0  # of an uploaded clip: more does not tell more
SHOWN = 6.0  # seconds of the chart that are shown before they are heard
CHARTS = [
    ["Dm7 | G7 | Cmaj7 | %"],
    ["Bb7 | Eb7 | Bb7 | % | Eb7 | Edim7 | Bb7 | G7b9 | Cm7 | F7 | Bb7 G7 | Cm7 F7"],
    ["Cm7 | F7 | Bbmaj7 | Ebmaj7 | Am7b5 | D7b9 | Gm6 | %"],
    ["3/4 Gm7 | C7 | Fmaj7 | Dm7"],
    ["|: Dm7 | % | % | % :| Ebm7 | % | % | % | Dm7 | % | % | %"],
]
PRACTICE = ("only bars", "transpose", "all keys", "rests", "swing")
HEAD = """<link rel="stylesheet" href="/player/stand.css">
<script src="/player/stand.js" defer></script>
<script src="/player/stream.js" defer></script>
<style>#play { background: #1b5e8c; color: #fff; } .upload-container .or { color: inherit; }</style>"""
PICTURE = """<ol id="rtjazz-grid" class="stand" aria-label="Chart: the bar that sounds is marked"></ol>
<canvas id="rtjazz-picture" width="1200" height="300" style="width:100%" role="img"
 aria-label="The chart going by, and the spectrum of what sounds"></canvas>"""
HELP = (
    "Live, a player is in or out (-piano): how loud each is cannot be set, the model plays them as one sound. "
    "`rtjazz generate --levels bass=-3` mixes a take anew."
)


class Wishes(NamedTuple):
    """What the page asks for, in the order of its controls."""

    first: str
    second: str
    mix: float  # of the second prompt, 0 to 1
    clip: str | None  # file
    clip_weight: float  # of the clip, 0 to 1
    chords: str
    tempo: float | None  # 0 as well is the band's own: Gradio's empty box
    instruments: list[str]
    adapter: str | None
    only_bars: str = ""
    transpose: str = ""
    all_keys: str = ""
    rests: str = ""
    swing: str = ""
    at_once: bool = False  # a new chart, not at the next bar line
    ramp: str = ""  # of the tempo, such as 120:180/4
    melody: str | None = None  # file of notes

    def tempo_of(self, chorus: int) -> float | None:
        """What the ramp has for a chorus of the chart, or what is asked for throughout.

        Raises:
            ValueError: no ramp, or one without a chart.
        """
        if not (self.ramp or "").strip():  # a box that was never opened gives None
            return self.tempo or None
        if not self.chords.strip():
            raise ValueError("ramp: there is no chart whose choruses could be counted; write or upload one")
        return Ramp.parse(self.ramp).tempo(chorus)

    @property
    def chart(self) -> str | None:
        """The chart with what is made of it to practise; None for the band's own tune.

        Raises:
            ValueError: something to practise, and no chart.
        """
        practice = {name: getattr(self, name.replace(" ", "_")) for name in PRACTICE}
        if self.chords.strip():
            return lines_above(sent_text(self.chords.strip()), practice)
        if asked := [name for name, value in practice.items() if value]:
            raise ValueError(f"{', '.join(asked)}: there is no chart to practise; write or upload one")
        return None

    @property
    def prompt(self) -> tuple[tuple[Any, float], ...]:
        """The mix, as the pipeline takes it.

        Raises:
            ValueError: a file that is no sound. OSError: one that cannot be read.
        """
        words = [(self.first.strip(), 1.0 - self.mix), (self.second.strip(), self.mix)]
        words = [(text, weight) for text, weight in words if text]
        words = words if len(words) == 2 else [(text, 1.0) for text, _ in words]
        if self.clip is None:
            return tuple(words) or (("", 1.0),)  # refused by the pipeline, which says what to do
        share = self.clip_weight if words else 1.0
        return *((text, weight * (1.0 - share)) for text, weight in words), (read_style(self.clip), share)

    def played_by(self, pipe: RealTimeJazzPipeline, seed: int, chorus: int = 0) -> dict[str, Any]:
        """What `pipe.live` and `session.update` are asked for; raises ValueError where that cannot be played."""
        prompt = self.prompt
        sheet = pipe.prepare_lead_sheet(
            prompt, chords=self.chart, tempo=self.tempo_of(chorus), instruments=self.instruments,
            seeds=[seed],
        )[0]  # fmt: skip
        return {"prompt": prompt, "lead_sheet": sheet, "adapter": self.adapter or {}}


def read_charts(path: str | None, tune: str | None = None) -> tuple[str, str, list[str]]:
    """An uploaded file of chords: the chart of one of its tunes, what to show, and the tunes."""
    if path is None:
        return "", "", []
    try:
        tunes = read_tunes(Path(path))
        titles = [f"{number} {each.title}".strip() for number, each in enumerate(tunes, 1)]
        chart = choose_tune(tunes, int(tune.split()[0]) if tune else 1).chart()
    except (ValueError, OSError, ImportError) as error:
        return "", f"The chart is not read: {error}", []
    told = "".join(f"\nnot played: {remark}" for remark in chart.remarks)
    return chart.to_text(), f"{chart.title or 'A chart'}, {len(chart.bars)} bars{told}", titles


@lru_cache(maxsize=8)
def read_style(path: str) -> np.ndarray:
    """The beginning of an uploaded clip, `(2, samples)` at 48 kHz."""
    return read_audio(path, duration=STYLE_SECONDS)


class Take:
    """What one listener plays: a live session at the pace of real time, recorded as it is sent."""

    def __init__(self, pipe: RealTimeJazzPipeline, wishes: Wishes, path: Path):
        seed = secrets.randbelow(2**31)
        self.pipe, self.path = pipe, path
        self.session = pipe.live(
            **wishes.played_by(pipe, seed), seed=seed, melody=wishes.melody, first_block_frames=FIRST_BLOCK_FRAMES
        )
        self.playing, self.chart, self.wishes, self.chorus = False, wishes.chart, wishes, 0

    def change(self, wishes: Wishes) -> None:
        """Follow other wishes from the next block on, another chart from the next bar line on unless it is asked for at
        once; raises ValueError, and plays on as before, where it cannot."""
        waits = wishes.chart != self.chart or self.session.coming is not None
        at = "now" if wishes.at_once or not waits else None
        chorus = self.chorus if wishes.chart == self.chart else 0
        # it begins again when it is told
        tune = {} if wishes.melody == self.wishes.melody else {"melody": wishes.melody}
        self.session.update(at=at, **wishes.played_by(self.pipe, self.session.seed, chorus), **tune)
        self.chart, self.wishes = wishes.chart, wishes

    def _ramp(self, block: LiveBlock) -> None:
        """The tempo goes with the chorus, where that is asked for."""
        chorus = 0 if self.chart is None else max(0, block.chart_bar - 1) // chorus_bars(self.chart)
        if chorus != self.chorus:
            self.chorus = chorus
            if (self.wishes.ramp or "").strip():
                self.session.update(tempo=self.wishes.tempo_of(chorus))

    def blocks(self) -> Iterator[tuple[LiveBlock, bytes]]:
        """The music and its PCM (16 bits, interleaved), `AHEAD` seconds before it is heard, until it is closed."""
        self.playing = True
        try:
            with self.session, Recorder(self.path) as recorder:
                for block in self.session:
                    pcm = to_pcm(block.audio, "s16le")
                    sent = np.frombuffer(pcm, "<i2").reshape(-1, AUDIO_CHANNELS).T
                    recorder.write(sent / np.float32(32768))  # to the bit what is sent
                    yield block, pcm
                    self._ramp(block)
                    if self.session.position >= LONGEST:
                        break
                    while not self.session.closed and (left := self.session.seconds_ahead - AHEAD) > 0:
                        time.sleep(min(left, 0.1))
        finally:
            self.playing = False


class Studio:
    """What the buttons of the page do.

    Args:
        folder: for recordings. seats: takes that may play at a time; the machine must keep up with all of them.
    """

    def __init__(self, pipe: RealTimeJazzPipeline, folder: Path, seats: int = 2):
        self.pipe, self.folder, self.seats = pipe, folder, seats
        self.takes: dict[str, Take] = {}

    def play(self, name: str, *values: Any) -> tuple[str, str]:
        """End the listener's take and prepare another: its name, which the player asks for, and what to show."""
        self.stop(name)
        if sum(take.playing and not take.session.closed for take in self.takes.values()) >= self.seats:
            return (
                "",
                f"All {self.seats} seats are taken: try again in some minutes, or duplicate this Space.",
            )
        name = secrets.token_urlsafe(12)
        try:
            take = Take(self.pipe, Wishes(*values), self.folder / f"{name}.flac")
        except (ValueError, OSError) as error:
            return "", f"Not played: {error}"
        self.takes[name] = take
        over = [each for each, take in self.takes.items() if not take.playing]
        for old in over[:-KEPT_TAKES]:
            self.takes.pop(old).path.unlink(missing_ok=True)
        return name, playing(take)

    def change(self, name: str, *values: Any) -> Any:
        """Have the listener's take follow the controls; before the first Play there is none."""
        if not name:
            return gr.skip()  # a Play may be under way, whose words are to stay
        take = self.takes.get(name)
        if take is None or take.session.closed:
            return "Press Play."
        try:
            take.change(Wishes(*values))
        except (ValueError, OSError) as error:
            return f"Not changed, the music plays on: {error}"
        return playing(take)

    def change_chart(self, name: str, told: str, *values: Any) -> str:
        """As `change`, after a file was read; what was told of it stays to be seen."""
        if told.startswith("The chart is not read"):
            return told
        return f"{told}\n{self.change(name, *values)}" if name else told

    def stop(self, name: str) -> str:
        if name in self.takes:
            self.takes[name].session.close()
        return "Stopped."

    def recording(self, name: str) -> str | None:
        """The file of what the listener has heard so far."""
        take = self.takes.get(name)
        return str(take.path) if take is not None and take.path.exists() else None


def playing(take: Take) -> str:
    sheet = take.session.lead_sheet if take.session.coming is None else take.session.coming[1]
    told = "".join(f"\n{remark}" for remark in take.session.remarks)  # of the melody: "clarinet plays it as ..."
    return (
        f"{sheet.genre}, {sheet.key}, {sheet.tempo:g} BPM, {', '.join(sheet.instruments)}{told}\n{sheet.to_text()}"
    )


def describe(block: LiveBlock) -> dict[str, Any]:
    """What the page shows from a block on: its chart, and chords and bars (as the chart counts them) in seconds of the
    take."""
    sheet = block.lead_sheet
    beats = sheet.beat_times(block.start, SHOWN).tolist()
    places = [(time, *sheet.bar_at(sheet.beat_at(time) + 1e-6)) for time in beats]
    return {
        "start": block.start,
        "chords": [(begin, chord.symbol) for begin, _, chord in sheet.chord_segments(block.start, SHOWN)],
        "bars": [(time, bar + 1) for time, bar, beat in places if beat < 1e-3],
        "grid": chart_grid(sheet),
    }


def show_charts(path: str | None, tune: str | None = None) -> tuple[Any, str, Any]:
    """What an upload does to the page: the chart's box, the status, the tunes to choose from."""
    chart, told, titles = read_charts(path, tune)
    first = titles[0] if titles else None
    tunes = gr.skip() if tune else gr.Dropdown(choices=titles, value=first, visible=len(titles) > 1)
    return chart if chart else gr.skip(), told, tunes


def build_page(studio: Studio) -> gr.Blocks:
    with gr.Blocks(title="RealTimeJazz", delete_cache=(3600, 3600)) as page:
        gr.Markdown(
            "# RealTimeJazz\nPress Play, and change anything while it plays. "
            "What you leave empty, the band decides."
        )
        take = gr.Textbox(visible="hidden")  # the name; a gr.State never reaches the player
        with gr.Row():
            play = gr.Button("Play", variant="primary", elem_id="play")
            stop = gr.Button("Stop", elem_id="stop")
            keep = gr.Button("Download the take", elem_id="keep")
        gr.HTML(PICTURE)
        # Two lines, and the rest by scrolling: a long chart would push the controls off a telephone.
        status = gr.Textbox(label="On the stand", lines=2, max_lines=2, interactive=False, elem_id="status")
        with gr.Row():
            first = gr.Textbox("medium swing piano trio", label="Prompt")
            mix = gr.Slider(0, 1, 0, step=0.05, label="Mix: this one … that one", elem_id="mix")
            second = gr.Textbox("bossa nova, nylon guitar", label="Second prompt")
        chords = gr.Textbox(
            label="Chart", lines=2, placeholder="Dm7 | G7 | Cmaj7 | %", elem_id="chords", max_length=4000
        )
        charts = gr.Examples(CHARTS, [chords], label="Charts to try")
        with gr.Row():
            upload = gr.File(label="A chart file", type="filepath", elem_id="chart-file", height=120)
            tune = gr.Dropdown([], label="Tune of the file", visible=False)
        with gr.Accordion("Practise the chart", open=False), gr.Row():
            only_bars = gr.Textbox(label="Only bars", placeholder="9-16", max_length=9)
            transpose = gr.Textbox(label="Transpose", placeholder="+2, or Bb", max_length=8)
            all_keys = gr.Dropdown([("no", ""), *((f"by {name}", name) for name in ORDERS)], value="", label="All keys")
            count_in = gr.Number(0, label="Count-in, bars (wants a tempo)", minimum=0, maximum=4, elem_id="count-in")
            rests = gr.Textbox(label="Rests", placeholder="piano/2: every second chorus", max_length=200)
            swing = gr.Textbox(label="Swing, 0 to 1", placeholder="as usual", max_length=5)
            ramp = gr.Textbox(label="Tempo up or down", placeholder="120:180/4: by 5 every 4 choruses", max_length=24)
            at_once = gr.Checkbox(False, label="A new chart at once, not at the next bar line")
        with gr.Row():
            tempo = gr.Number(None, label="Tempo, 40 to 320; 0: the band's own", elem_id="tempo")
            tap = gr.Button("Tap the tempo", elem_id="tap")
            band = gr.Dropdown(
                [*INSTRUMENTS, *(f"-{name}" for name in INSTRUMENTS)], value=[], multiselect=True,
                label="Band; -piano leaves the piano to you",
            )  # fmt: skip
            styles = [("none", ""), *((name, name) for name in studio.pipe.list_adapters())]
            adapter = gr.Dropdown(styles, value="", label="Personal style")
        gr.Markdown(HELP)
        with gr.Row(visible=bool(studio.pipe.transformer.config.score_dim)):
            melody = gr.File(
                label="Melody (MIDI file)", type="filepath", file_types=[".mid", ".midi"], elem_id="melody", height=120
            )
        with gr.Row():
            clip = gr.Audio(type="filepath", sources=["upload", "microphone"], label="A clip to sound like")
            clip_weight = gr.Slider(0, 1, 0.5, step=0.05, label="How much of it")
        file = gr.File(label="The take", interactive=False, elem_id="file", height=120)

        practice = [only_bars, transpose, all_keys, rests, swing, at_once, ramp, melody]
        controls = [first, second, mix, clip, clip_weight, chords, tempo, band, adapter, *practice]
        # A page may begin to sound only in a click, so the player opens its sound before the server answers.
        play.click(None, js="() => rtjazzStream.open()")
        play.click(studio.play, [take, *controls], [take, status], show_progress="hidden").then(
            None, [take, count_in, tempo, chords], js="(...asked) => rtjazzStream.play(...asked)"
        )
        stop.click(studio.stop, [take], [status], show_progress="hidden")
        stop.click(None, js="() => rtjazzStream.stop()")
        keep.click(studio.recording, [take], [file])
        tapped = tap.click(None, [tempo], [tempo], js="(tempo) => rtjazzStream.tap(tempo)")
        tapped.then(studio.change, [take, *controls], [status], show_progress="hidden", trigger_mode="always_last")
        boxes = (first, second, chords, tempo, only_bars, transpose, rests, swing, ramp)
        typed = [event for box in boxes for event in (box.submit, box.blur)]
        chosen = [mix.release, clip_weight.release]
        chosen += [each.change for each in (clip, band, adapter, all_keys, melody)]
        gr.on(
            [*typed, *chosen], studio.change, [take, *controls], [status],
            show_progress="hidden", trigger_mode="always_last",
        )  # fmt: skip
        read = [
            upload.upload(show_charts, [upload], [chords, status, tune]),
            tune.input(show_charts, [upload, tune], [chords, status, tune]),
        ]
        for event in read:  # where it is read, it is played; else what was wrong stays to be seen
            event.then(studio.change_chart, [take, status, *controls], [status], show_progress="hidden")
        charts.load_input_event.then(studio.change, [take, *controls], [status], show_progress="hidden")
    return page


def build_app(studio: Studio) -> FastAPI:
    """The page, its player, and the streams of the takes."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.websocket("/takes/{name}")
    async def stream(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        take = studio.takes.get(name)
        if take is None or take.playing or take.session.closed:
            await websocket.close(1008, "this take is over or plays elsewhere: press Play")
            return
        blocks = take.blocks()
        try:
            async for block, pcm in iterate_in_threadpool(blocks):
                await websocket.send_json(describe(block))
                await websocket.send_bytes(pcm)
            await websocket.close()
        except WebSocketDisconnect:
            pass  # the listener has left
        finally:
            take.session.close()
            await run_in_threadpool(blocks.close)

    @app.get("/player/stream.js", include_in_schema=False)
    def script() -> FileResponse:
        return FileResponse(HERE / "stream.js", media_type="text/javascript")

    app.mount("/player", StaticFiles(directory=PLAYER))
    page = build_page(studio).queue(default_concurrency_limit=8)
    return gr.mount_gradio_app(app, page, path="/", head=HEAD, show_error=True, ssr_mode=False)


def load_pipeline(model: str, adapters: list[str]) -> RealTimeJazzPipeline:
    """The model, and personal styles by the last part of their folder's or repository's name."""
    pipe = RealTimeJazzPipeline.from_pretrained(model).to(choose_device("auto"))
    for adapter in adapters:
        pipe.load_lora_weights(adapter, adapter_name_of(adapter))
    pipe.set_adapters([])  # none, unless it is asked for
    with pipe.live("swing", first_block_frames=FIRST_BLOCK_FRAMES) as session:
        next(session)  # so that the first listener does not wait for what a first block costs
    return pipe


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    quiet_libraries()
    styles = os.environ.get("RTJAZZ_ADAPTERS", "").replace(",", " ").split()
    pipe = load_pipeline(os.environ.get("RTJAZZ_MODEL", "rtjazz-mini"), styles)
    seats = int(os.environ.get("RTJAZZ_SEATS", "2" if pipe.device.type == "cpu" else "8"))
    with tempfile.TemporaryDirectory(prefix="rtjazz-") as folder:
        app = build_app(Studio(pipe, Path(folder), seats))
        host, port = os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "7860"))
        uvicorn.run(app, host=host, port=port, ws_per_message_deflate=False, log_level="warning")


if __name__ == "__main__":
    main()
