"""The server on Ray Serve: a replica is a process with one model and the live sessions that play on it.

serve run rtjazz_hf.server.ray_deployment:app replicas=2 model=rtjazz-mini

Serve's proxies share the connections out; Serve starts replicas as sessions come, and ends those that are no longer
needed. A WebSocket stays at its replica. When that stops, its listeners are sent the sessions' states, and when it is
killed they have the last ones that they were sent (`state_every`): any other replica goes on from them.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ray import serve

from ..hub import quiet_libraries
from .access import read_api_keys
from .app import create_app
from .logs import set_up_logs
from .relay import Relayed
from .schemas import first_error
from .settings import ServerSettings

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

NAME = "rtjazz"  # of the application
# Where Serve's proxies find `Relay`: to be set where Ray is started, unless `deploy` starts Serve.
PROXY_CALLBACK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "rtjazz_hf.server.relay:proxy_middlewares")
_HTTP_REQUESTS = 32  # clips and questions of a replica at a time, beside its sessions
_QUEUED = 16  # connections that wait for a replica with room at each proxy; the next is refused with 503
_SCALE_DOWN_SECONDS = 300.0
_LOOK_SECONDS = 0.25


class RayOptions(BaseModel):
    """Settings of the deployment, then those of each replica's server (`ServerSettings`, by the same names).

    Attributes:
        replicas: at least so many. max_replicas: at most; None: always `replicas`.
        sessions_per_replica: that Serve aims at when it chooses between the two.
        cpus, gpus: of each replica; a GPU may be shared (0.25). With none, it plays on the CPU.
        api_key_file: read by each replica, at its own machine, like `model`, `adapters` and `state`.
    """

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(1, ge=1)
    max_replicas: int | None = None
    sessions_per_replica: float = Field(4.0, gt=0)
    cpus: float = Field(1.0, ge=0)
    gpus: float = Field(0.0, ge=0)
    model: str = "rtjazz-mini"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    engine: Literal["auto", "torch", "openvino", "onnx"] = "auto"
    engine_precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    adapters: Path | None = None
    state: Path | None = None
    api_key_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    public_urls: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    load: float = ServerSettings.load
    block_frames: int | None = ServerSettings.block_frames
    max_sessions: int = ServerSettings.max_sessions
    idle_limit: float = ServerSettings.idle_limit
    length_limit: float = ServerSettings.length_limit
    drain_limit: float = ServerSettings.drain_limit

    @model_validator(mode="after")
    def _check(self) -> RayOptions:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas}: choose {self.replicas} (replicas) or more")
        self.server_settings()
        return self

    def server_settings(self, **more: Any) -> ServerSettings:
        """Those of a replica's server, without its name and keys."""
        own = set(ServerSettings.__dataclass_fields__)
        return ServerSettings(**{name: value for name, value in self if name in own}, **more)


def app(args: Mapping[str, Any]) -> serve.Application:
    """The application for `serve run`, `serve deploy` and `serve.run`; `args` are those of `RayOptions`.

    Raises:
        ValueError: an unknown name, or a value that is out of range.
    """
    try:
        options = RayOptions.model_validate(dict(args))
    except ValidationError as error:
        raise ValueError(f"{first_error(error)}; known are {', '.join(RayOptions.model_fields)}") from None
    if options.max_replicas in (None, options.replicas):
        scale: dict[str, Any] = {"num_replicas": options.replicas}
    else:
        autoscaling = {
            "min_replicas": options.replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.sessions_per_replica,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": _SCALE_DOWN_SECONDS,
        }
        scale = {"autoscaling_config": autoscaling}
    return Replica.options(
        **scale,
        max_ongoing_requests=options.max_sessions + _HTTP_REQUESTS,
        max_queued_requests=_QUEUED,
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=options.drain_limit + 15.0,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
    ).bind(options.model_dump(mode="json"))


@serve.deployment(name="RealTimeJazz")
@serve.ingress()
class Replica:
    """The application of `rtjazz serve`, once its model is loaded."""

    async def __init__(self, options: dict[str, Any]):
        set_up_logs()
        options = RayOptions.model_validate(options)
        settings = options.server_settings(
            name=serve.get_replica_context().replica_id.unique_id,
            api_keys=read_api_keys(options.api_key_file) if options.api_key_file else (),
        )
        self._application = create_app(settings, lambda: _load_pipeline(options))
        self._server = self._application.state.server
        await asyncio.to_thread(self._server.start)
        if self._server.engine is None:
            raise RuntimeError(self._server.problem)  # Serve says so, and tries again
        self._ending = asyncio.create_task(self._drain_when_stopped())

    def __serve_build_asgi_app__(self) -> Relayed:
        return Relayed(self._application)

    def check_health(self) -> None:
        """Serve replaces a replica in which nothing plays any more."""
        if not self._server.engine.alive:
            raise RuntimeError("the thread that plays has ended")

    async def _drain_when_stopped(self) -> None:
        while not _is_stopping():
            await asyncio.sleep(_LOOK_SECONDS)
        await self._server.drain()


def _load_pipeline(options: RayOptions) -> RealTimeJazzPipeline:
    quiet_libraries()  # before they are imported
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

    pipe = RealTimeJazzPipeline.from_pretrained(
        options.model,
        **({} if options.dtype == "float32" else {"dtype": options.dtype}),  # given, it would say the engine's too
        engine="torch" if options.gpus else options.engine,
        engine_precision="float32" if options.gpus else options.engine_precision,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if options.gpus else "cpu")


def _is_stopping() -> bool:
    """Whether Serve lets this replica end.

    Serve tells the code inside when the last request has ended, and live sessions end after hours: so this looks where
    Serve itself notes it. With a Ray that notes it elsewhere, sessions play on until the replica is killed.
    """
    actors = getattr(ray._private.worker.global_worker, "actors", {}).values()
    replicas = (getattr(actor, "_replica_impl", None) for actor in actors)
    return any(getattr(replica, "_shutting_down", False) for replica in replicas)


def deploy(options: RayOptions, host: str, port: int) -> None:
    """Start Ray and Serve, unless they run (RAY_ADDRESS names a cluster), and the application; until it can play.

    Raises:
        RuntimeError: no replica can be started.
    """
    os.environ.setdefault(*PROXY_CALLBACK)
    if "RAY_ADDRESS" in os.environ:
        ray.init(ignore_reinit_error=True)
    elif not ray.is_initialized():
        asked = math.ceil(options.cpus * (options.max_replicas or options.replicas))
        ray.init(num_cpus=max(os.cpu_count() or 1, asked), include_dashboard=False)
    # proxies are children of the controller, and have its environment
    environment = {"runtime_env": {"env_vars": dict([PROXY_CALLBACK])}}
    serve.start(http_options={"host": host, "port": port}, controller_options=environment)
    serve.run(app(options.model_dump(exclude_unset=True)), name=NAME, route_prefix="/")


def run(options: RayOptions, host: str, port: int, ready: Callable[[], None]) -> None:
    """`deploy`, until SIGTERM or Ctrl-C (KeyboardInterrupt, afterwards); then sessions and clips end well."""
    ended = threading.Event()
    before = signal.getsignal(signal.SIGTERM)
    try:
        deploy(options, host, port)
        # now: Ray puts a handler of its own in place, which ends the process within 3 seconds
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        ready()
        while not ended.wait(0.5):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
        if ray.is_initialized():
            serve.delete(NAME)  # the replicas drain
            if "RAY_ADDRESS" not in os.environ:
                serve.shutdown()
                ray.shutdown()
