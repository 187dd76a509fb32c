"""`rtjazz serve`: the web API and its player."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import Refused, add_command, add_engine, check_engine_options, choose_device, load_pipeline

_HELP = """\
Serve clips (POST /v1/generate), live sessions (WebSocket /v1/live) and a player in the browser (/); /openapi.json
describes it. As many sessions play as keep up with real time on this machine; the next one is refused.
SIGTERM ends it well: clips are finished, live sessions are kept (--state) and can be resumed.
--on ray starts as many servers as are asked for, on this machine or the cluster of RAY_ADDRESS.

example:
  rtjazz serve                                    # then open http://127.0.0.1:8000/
  rtjazz serve --host 0.0.0.0 --port 80 --api-key-file keys.txt --adapters styles/ --state state/
  rtjazz serve --on ray --replicas 2 --max-replicas 8
  curl -d '{"prompt": "bossa nova", "duration": 10, "format": "ogg"}' -H 'Content-Type: application/json' \\
      http://127.0.0.1:8000/v1/generate -o bossa.ogg
"""


def add_serve(commands: Any) -> None:
    parser = add_command(commands, "serve", _HELP, run_serve, "unused: requests have theirs")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one (default: %(default)s)")
    parser.add_argument("--adapters", type=Path, metavar="DIR",
                        help="personal styles that may be asked for: its folders, by name")  # fmt: skip
    parser.add_argument("--state", type=Path, metavar="DIR", help="keep live sessions there when stopped")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="keys, one a line, of those who may use it"
    )
    parser.add_argument("--cors-origin", action="append", default=[], metavar="URL",
                        help="a page from elsewhere that may use it, such as https://example.org")  # fmt: skip
    parser.add_argument("--public-url", action="append", default=[], metavar="URL",
                        help="the server's address as its listeners see it, behind a proxy")  # fmt: skip
    parser.add_argument("--proxy", action="append", default=[], metavar="ADDRESS",
                        help="of a proxy, or a network of them, whose X-Forwarded headers are believed")  # fmt: skip
    parser.add_argument("--load", type=float, default=0.7, metavar="FRACTION",
                        help="of real time that all sessions together may take (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--block-frames", type=int, metavar="N", help="6, 12, 24, 36 or 48 (default: the model's)"
    )
    parser.add_argument(
        "--max-sessions", type=int, default=64, help="at a time, at most (default: %(default)s)"
    )
    parser.add_argument("--idle-limit", type=float, default=3600, metavar="SECONDS",
                        help="a live session without a control ends (default: %(default)g)")  # fmt: skip
    parser.add_argument("--length-limit", type=float, default=21600, metavar="SECONDS",
                        help="of a live session (default: %(default)g)")  # fmt: skip
    parser.add_argument("--drain-limit", type=float, default=60, metavar="SECONDS",
                        help="for clips to be finished when stopped (default: %(default)g)")  # fmt: skip
    add_engine(parser)
    scale = parser.add_argument_group("many servers (--on ray; pip install 'rtjazz-hf[serve,scale]')")
    scale.add_argument("--on", choices=("local", "ray"), default="local",
                       help="one process, or replicas on Ray Serve (default: %(default)s)")  # fmt: skip
    scale.add_argument("--replicas", type=int, default=1, metavar="N", help="at least (default: %(default)s)")
    scale.add_argument("--max-replicas", type=int, metavar="N", help="at most: more come with the sessions")
    scale.add_argument("--replica-sessions", type=float, default=4, metavar="N",
                       help="that one is meant for, when more may come (default: %(default)g)")  # fmt: skip
    scale.add_argument("--replica-cpus", type=float, default=1, metavar="N",
                       help="CPUs, and threads, of each (default: %(default)g)")  # fmt: skip


def run_serve(args: argparse.Namespace) -> int:
    try:
        from ..server.access import read_api_keys
        from ..server.app import create_app
        from ..server.logs import set_up_logs
        from ..server.running import bind, serve
        from ..server.settings import ServerSettings
    except ImportError as error:
        raise Refused(f"serve needs {error.name}; run: pip install 'rtjazz-hf[serve]'") from error
    try:
        _check(args)
        settings = ServerSettings(
            model=args.model, adapters=args.adapters, state=args.state,
            api_keys=read_api_keys(args.api_key_file) if args.api_key_file else (),
            **_limits(args),
        )  # fmt: skip
        device = choose_device(args.device)
        sock = bind(args.host, args.port)
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from error

    host, port = sock.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def ready() -> None:
        print(f"rtjazz: {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        if not settings.api_keys and host not in ("127.0.0.1", "::1"):
            print(
                "rtjazz: anybody who reaches this address may use it; --api-key-file asks for a key",
                file=sys.stderr,
            )
        if args.json:
            print(json.dumps({"url": address, "model": str(args.model)}), flush=True)

    if args.on == "ray":
        sock.close()  # it is free: Serve's own proxy takes it
        _run_on_ray(args, device, host, port, ready)
        return 0
    set_up_logs()
    app = create_app(settings, lambda: load_pipeline(args))
    serve(app, sock, settings.max_connections, ready)
    return 0


def _run_on_ray(
    args: argparse.Namespace, device: str, host: str, port: int, ready: Callable[[], None]
) -> None:
    try:
        from ..server.ray_deployment import RayOptions, run
        from ..server.schemas import first_error
    except ImportError as error:
        raise Refused(
            f"serve --on ray needs {error.name}; run: pip install 'rtjazz-hf[serve,scale]'"
        ) from error
    paths = {name: getattr(args, name) for name in ("adapters", "state", "api_key_file")}
    model = Path(args.model)
    try:
        options = RayOptions(
            replicas=args.replicas, max_replicas=args.max_replicas, sessions_per_replica=args.replica_sessions,
            cpus=args.replica_cpus, gpus=float(device.startswith("cuda")), dtype=args.dtype,
            engine=args.engine, engine_precision=args.engine_precision,
            # replicas have a working folder of their own
            model=str(model.resolve()) if model.is_dir() else args.model,
            **{name: path and path.resolve() for name, path in paths.items()},
            **_limits(args),
        )  # fmt: skip
    except ValueError as error:  # pydantic's
        raise Refused(first_error(error)) from error
    run(options, host, port, ready)


def _limits(args: argparse.Namespace) -> dict[str, Any]:
    """What a server of either kind is told of who may come and how much it may do."""
    names = ("load", "block_frames", "max_sessions", "idle_limit", "length_limit", "drain_limit")
    from ..server.access import check_public_url

    public = tuple(map(check_public_url, args.public_url))
    named = {"cors_origins": tuple(args.cors_origin), "public_urls": public, "proxies": tuple(args.proxy)}
    return {**named, **{name: getattr(args, name) for name in names}}


def _check(args: argparse.Namespace) -> None:
    from ..prompts import check_settings

    check_settings(block_frames=args.block_frames)
    check_engine_options(args)
    if not 0 < args.load <= 0.95:
        raise Refused(f"--load {args.load:g}: choose more than 0 and at most 0.95 of real time")
    if not 0 <= args.port <= 65535:
        raise Refused(f"--port {args.port}: choose 0 to 65535")
    for option, folder in (("--adapters", args.adapters), ("--state", args.state)):
        if folder is not None and not folder.is_dir():
            raise Refused(f"{option}: there is no folder '{folder}'; make it first")
