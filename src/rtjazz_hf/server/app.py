"""The FastAPI application: clips, live sessions, what there is to play, health, metrics, and the player."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from .. import __version__
from ..charts import choose_tune, read_tunes
from ..hub.adapter_folder import adapter_name_of, is_adapter_folder
from ..music import GENRES, INSTRUMENTS, MOODS
from .access import CHARTS_PATH, ForwardedHost, Gate
from .encoding import CLIP_FORMATS, LIVE_ENCODINGS, ClipEncoder, has_opus
from .live_socket import LiveConnection
from .memory import keep_what_is_there
from .metrics import Metrics
from .notes import MIDI_MEDIA
from .schemas import ClipRequest, Health, ModelInfo, ModelList, Problem, ReadChart, first_error, not_played
from .seats import Clip, Unavailable
from .sessions import SessionEngine
from .settings import MAX_BODY_BYTES, MAX_CHART_BYTES, ServerSettings

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

log = logging.getLogger("rtjazz.server")

_PLAYER = Path(__file__).with_name("player")
_DESCRIPTION = """\
Jazz in real time. `POST /v1/generate` makes a clip. `WS /v1/live` plays without an end: the first message is
`{"type": "start", "prompt": "bossa nova", "encoding": "f32"}`, later ones are `{"type": "update", "tempo": 126}` or
`{"type": "stop"}`; each block comes as a JSON text message and a binary one of interleaved stereo PCM at 48 kHz.
With `"encoding": "opus"` the binary one holds Opus packets of 20 ms, whose sizes are the block's `packets`; the first
`pre_skip` samples that they decode to, told in `started`, are none of the music.
With `"state_every": 30` in the first message the session's state comes every 30 seconds, in pieces between the blocks:
a JSON text message `{"type": "state", "offset": 0, "bytes": 2441000}` and a binary one each. With it the music goes on,
at any server of the same model: `{"type": "start", "state": 2441000}`, then the state, 64 KiB at most a binary message.
Close codes: 1000 stopped, or over; 1008 refused; 1009 too large a message; 1011 failed; 1012 the server stops, or is
gone: go on with the state, or with the token of the message `drained`; 1013 no room: try again later."""
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No API key, or a wrong one"},
    408: {"model": Problem, "description": "The body came too slowly"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "What was asked for cannot be played"},
    503: {"model": Problem, "description": "Not now: see Retry-After"},
}


class ServerState:
    """What the routes share: the engine, once the model is loaded, or why there is none."""

    def __init__(self, settings: ServerSettings, load: Callable[[], RealTimeJazzPipeline]):
        self.settings = settings
        self.metrics = Metrics()
        self.engine: SessionEngine | None = None
        self.problem: str | None = "the model is being loaded"
        # openings and updates; the engine lets them in one by one
        self.worker = ThreadPoolExecutor(4, "rtjazz-requests")
        self.sockets = 0
        self._load = load

    def start(self) -> None:
        """Load the model and begin to play; for a worker thread."""
        try:
            pipe = self._load()
            load_adapters(pipe, self.settings.adapters)
            self.engine = SessionEngine(pipe, self.settings, self.metrics)
            self.problem = None
            keep_what_is_there()
        except Exception as error:  # the server stays, and says why it cannot play
            text = " ".join(str(error).split()) or type(error).__name__
            self.problem = f"the model {str(self.settings.model)!r} does not load: {text}"
            log.error("the model does not load", extra={"fields": {"reason": text}})
        else:
            fields = {"model": str(self.settings.model), "engine": pipe.engine,
                      "block_seconds": round(self.engine.times.alone, 4)}  # fmt: skip
            log.info("ready", extra={"fields": fields})

    def ready(self) -> SessionEngine:
        """The engine.

        Raises:
            Unavailable: the model is not loaded, or the server is stopping.
        """
        if self.engine is None:
            raise Unavailable(self.problem or "no model is loaded", "not_ready")
        if self.engine.draining:
            raise Unavailable("the server is stopping", "draining")
        return self.engine

    async def drain(self) -> None:
        """Let live sessions end, with their state kept, and clips be finished."""
        if self.engine is not None and not self.engine.draining:
            log.info("draining", extra={"fields": {"sessions": len(self.engine.seats)}})
            await asyncio.get_running_loop().run_in_executor(None, self.engine.drain)
            for _ in range(200):  # what is on its way is sent, states too: at most 10 s
                if not self.sockets:
                    break
                await asyncio.sleep(0.05)


def load_adapters(pipe: RealTimeJazzPipeline, folder: Path | None) -> None:
    """Load the adapters in a folder's sub-folders under their names; those that do not load are told and left out.

    The folder may be one adapter's own too, such as `rtjazz adapt` writes."""
    paths = {path.name: path for path in sorted(folder.iterdir())} if folder else {}
    if folder and is_adapter_folder(folder):
        paths = {adapter_name_of(folder): folder}
    for name, path in paths.items():
        if not path.is_dir() or name.startswith("."):
            continue
        try:
            pipe.load_lora_weights(path, name)
        except (ValueError, OSError) as error:
            log.error(
                "an adapter does not load", extra={"fields": {"adapter": name, "reason": str(error)}}
            )
    pipe.set_adapters([])  # none, unless it is asked for


def create_app(settings: ServerSettings, load: Callable[[], RealTimeJazzPipeline]) -> FastAPI:
    """The application; `load` gives the pipeline, and is called when the server starts.

    `app.state.server` is its `ServerState`, whose `start` may be called before: then it can play from the start.
    """
    server = ServerState(settings, load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = None
        if server.engine is None:
            loading = asyncio.get_running_loop().run_in_executor(None, server.start)
        try:
            yield
        finally:
            await server.drain()
            if loading is not None:
                await loading
            if server.engine is not None:
                server.engine.stop()
            server.worker.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="RealTimeJazz", version=__version__, description=_DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None,  # their pages are made of scripts from elsewhere
    )  # fmt: skip
    app.state.server = server
    _add_errors(app)
    _add_routes(app, server)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"], expose_headers=["x-rtjazz-seed"],
        )  # fmt: skip
    app.add_middleware(
        Gate, keys=settings.api_keys, origins=(*settings.cors_origins, *settings.public_urls),
        max_body=MAX_BODY_BYTES, max_requests=2 * settings.max_connections, metrics=server.metrics,
        max_chart=MAX_CHART_BYTES,
    )  # fmt: skip
    if settings.proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.proxies))
        app.add_middleware(ForwardedHost, trusted=settings.proxies)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": first_error(error)}, 422)

    @app.exception_handler(Unavailable)
    async def unavailable(request: Request, error: Unavailable) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": str(error.retry_after)})


def _read_chart(data: bytes, wanted: str | None) -> ReadChart:
    tunes = read_tunes(data)
    chart = choose_tune(tunes, wanted).chart()
    return ReadChart(
        tunes=[each.title for each in tunes], title=chart.title, composer=chart.composer, style=chart.style,
        key=chart.key, tempo=chart.tempo, bars=len(chart.bars), chart=chart.to_text(), remarks=list(chart.remarks),
    )  # fmt: skip


def _add_routes(app: FastAPI, server: ServerState) -> None:
    settings, metrics = server.settings, server.metrics

    @app.post(
        CHARTS_PATH, summary="Read a file of chords", response_model=ReadChart, responses={**_PROBLEMS},
        openapi_extra={"requestBody": {"required": True, "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
    )  # fmt: skip
    async def read_file(request: Request, tune: str | None = Query(None, max_length=200)) -> Any:
        """MusicXML, .mxl, MIDI, iReal Pro, ChordPro or text, as the body; `tune` chooses one of several."""
        data = await request.body()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(None, _read_chart, data, tune)
        except (ValueError, ImportError) as error:
            return JSONResponse({"detail": str(error)}, 422)

    @app.post(
        "/v1/generate",
        summary="Make a clip",
        response_class=Response,
        responses={
            **_PROBLEMS,
            200: {
                "description": "The clip, sent while it is made",
                "content": {media: {"schema": {"type": "string", "format": "binary"}}
                            for media in (*(media for media, *_ in CLIP_FORMATS.values()), MIDI_MEDIA)},
            },
        },
    )  # fmt: skip
    async def generate(request: ClipRequest) -> Response:
        engine, loop = server.ready(), asyncio.get_running_loop()
        try:
            if request.format == "mid":
                data, seed = await loop.run_in_executor(server.worker, engine.make_midi, request)
                named = {"Content-Disposition": f'attachment; filename="rtjazz-{seed}.mid"'}
                return Response(data, media_type=MIDI_MEDIA, headers={"X-RTJazz-Seed": str(seed), **named})
            clip = await loop.run_in_executor(server.worker, engine.make_clip, request, loop)
        except ValueError as error:
            return JSONResponse({"detail": str(error)}, 422)
        try:
            first = await clip.queue.get()  # so that what fails at once can still say so
            if first is None:
                raise Unavailable(clip.failure or "the clip could not be made", "failed")
        except BaseException:
            engine.end_clip(clip)
            raise
        sheet = clip.session.lead_sheet
        return _ClipResponse(
            engine, clip,
            _encoded(engine, clip, first, request.format),
            media_type=CLIP_FORMATS[request.format][0],
            headers={
                "X-RTJazz-Seed": str(clip.seed),
                "X-RTJazz-Tempo": f"{sheet.tempo:g}",
                "X-RTJazz-Key": sheet.key,
                "X-RTJazz-Not-Played": "; ".join(not_played(request)).encode("ascii", "replace").decode()[:2000],
                "Content-Disposition": f'attachment; filename="rtjazz-{clip.seed}.{request.format}"',
            },
        )  # fmt: skip

    @app.websocket("/v1/live")
    async def live(websocket: WebSocket) -> None:
        try:
            engine = server.ready()
            if server.sockets >= settings.max_connections:
                raise Unavailable("too many connections", "connections")
        except Unavailable as error:
            metrics.refused.labels(error.reason).inc()
            retry = {"Retry-After": str(error.retry_after)}
            await websocket.send_denial_response(JSONResponse({"detail": str(error)}, 503, retry))
            return
        server.sockets += 1
        try:
            await LiveConnection(websocket, engine, settings, metrics, server.worker).run()
        finally:
            server.sockets -= 1

    @app.get(
        "/v1/models", summary="What there is to play", responses={401: _PROBLEMS[401], 503: _PROBLEMS[503]}
    )
    async def models() -> ModelList:
        engine = server.ready()
        pipe, defaults = engine.pipe, engine.pipe.generation_defaults
        parts = (pipe.codec, pipe.transformer, pipe.style_encoder)
        info = ModelInfo(
            name=str(settings.model),
            parameters=sum(p.numel() for part in parts for p in part.parameters()),
            sampling_rate=pipe.sampling_rate,
            block_seconds=engine.block_seconds,
            num_inference_steps=defaults["num_inference_steps"],
            guidance_scale=defaults["guidance_scale"],
            adapters=pipe.list_adapters(),
            encodings=[name for name in LIVE_ENCODINGS if name != "opus" or has_opus()],
            instruments=list(INSTRUMENTS),
            genres=list(GENRES),
            moods=list(MOODS),
            reads_notes=bool(pipe.transformer.config.score_dim),
        )
        return ModelList(models=[info])

    @app.get("/healthz", summary="Whether the server answers")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get("/readyz", summary="Whether it can play", responses={503: {"model": Health}})
    async def readyz() -> Any:
        try:
            server.ready()
        except Unavailable as error:
            return JSONResponse({"status": "not ready", "detail": str(error)}, 503)
        return Health(status="ready")

    @app.get("/metrics", summary="For Prometheus", response_class=Response, responses={401: _PROBLEMS[401]})
    async def prometheus() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def player() -> FileResponse:
        return FileResponse(_PLAYER / "index.html")

    app.mount("/player", StaticFiles(directory=_PLAYER), name="player")


class _ClipResponse(StreamingResponse):
    """Ends its clip however it ends: of a listener who is gone at once, the first piece is never asked for."""

    def __init__(self, engine: SessionEngine, clip: Clip, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._end = lambda: engine.end_clip(clip)

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            self._end()


async def _encoded(engine: SessionEngine, clip: Clip, first: Any, file_format: str) -> AsyncIterator[bytes]:
    encoder, block, sent = ClipEncoder(file_format, clip.samples), first, 0
    try:
        while block is not None:
            yield encoder.encode(block)  # milliseconds
            sent += block.shape[1]
            block = await clip.queue.get()
        if sent < clip.samples:  # the listener must not take it for whole: the connection breaks
            raise ConnectionAbortedError(clip.failure or "the clip was not finished")
        yield encoder.finish()
    finally:
        engine.end_clip(clip)
        encoder.finish()
