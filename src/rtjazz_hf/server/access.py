"""Who may come in, and with how much: API keys, origins, sizes of bodies, headers of security."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from uvicorn.middleware.proxy_headers import _TrustedHosts

from .metrics import Metrics

log = logging.getLogger("rtjazz.server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PROTOCOL = "rtjazz"  # of the WebSocket
KEY_PROTOCOL = "rtjazz.key."  # a page cannot set headers of a WebSocket: the key follows this
MIN_KEY_LENGTH = 16
_BODY_SECONDS = 10.0  # for a whole body
_PUBLIC = ("/", "/player/", "/healthz", "/readyz", "/openapi.json")

# The player's page needs itself and its WebSocket, and nothing from elsewhere.
_SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def read_api_keys(path: Path) -> list[str]:
    """Keys of a file, one a line; empty lines and those that begin with # are passed over.

    Raises:
        OSError: as it comes. ValueError: no key, or one that is too short or has characters that headers have not;
            the line is named, never the key.
    """
    keys = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < MIN_KEY_LENGTH or not all(c.isascii() and (c.isalnum() or c in "-_.~") for c in key):
            raise ValueError(
                f"line {number} of {path} is no key: give {MIN_KEY_LENGTH} or more letters, digits, -, _, . or ~, "
                'such as python -c "import secrets; print(secrets.token_urlsafe(32))" makes'
            )
        keys.append(key)
    if not keys:
        raise ValueError(f"{path} holds no key; give one a line")
    return keys


CHARTS_PATH = "/v1/charts"  # takes files, which are larger than messages


def key_of(headers: Mapping[str, str]) -> str:
    """The key that a request shows: a bearer token, `X-API-Key`, or a sub-protocol of a WebSocket; or nothing."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    if key := headers.get("x-api-key", ""):
        return key.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(KEY_PROTOCOL):
            return protocol.strip().removeprefix(KEY_PROTOCOL)
    return ""


def is_known(key: str, keys: Sequence[str]) -> bool:
    """Whether it is one of them, in a time that does not tell how much of it is right."""
    known = [hmac.compare_digest(key.encode("utf-8", "replace"), each.encode()) for each in keys]
    return any(known)


def is_own_origin(headers: Mapping[str, str], allowed: Sequence[str]) -> bool:
    """Whether a WebSocket comes from a page of this server, an allowed one, or from no page at all.

    Browsers let every page open WebSockets to everywhere, this machine included. Capitals and a port that is the
    scheme's own make no difference.
    """
    origin = headers.get("origin", "")
    if not origin or origin in allowed:
        return True
    parts = _split(origin)
    if parts is None or not parts.netloc:
        return False
    host = _split(f"{parts.scheme}://{headers.get('host', '')}")
    own = [host, *(_split(each) for each in allowed)]
    return (parts.scheme, *_place(parts)) in [
        (each.scheme, *_place(each)) for each in own if each is not None
    ]


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # no address, such as http://[::1
        return None
    return parts


def _place(parts: SplitResult) -> tuple[str | None, int | None]:
    return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def check_public_url(url: str) -> str:
    """The address of the server as its listeners see it: scheme, host and perhaps a port.

    Raises:
        ValueError: it is none.
    """
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"public URL {url!r}: give scheme and host, such as https://jazz.example.org")
    return url.rstrip("/")


class ForwardedHost:
    """Around the application: the name that a listener asked for, where a proxy that is known passes it on."""

    def __init__(self, app: Callable, trusted: Sequence[str]):
        self.app, self.trusted = app, _TrustedHosts(list(trusted))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (scope.get("client") or ("",))[0] in self.trusted:
            headers = dict(reversed(scope["headers"]))
            if host := headers.get(b"x-forwarded-host", b"").split(b",")[0].strip():
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope = {**scope, "headers": [(b"host", host), *others]}
        await self.app(scope, receive, send)


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


class Gate:
    """Keys, sizes, security headers, and one line in the log for each request; around the whole application.

    The log names routes, never addresses as they were sent: a key may stand in one by mistake.
    """

    def __init__(
        self,
        app: Callable,
        *,
        keys: Sequence[str],
        origins: Sequence[str],
        max_body: int,
        max_requests: int,
        metrics: Metrics,
        max_chart: int = 0,
    ):
        self.app, self.keys, self.origins = app, list(keys), list(origins)
        self.max_body, self.max_requests, self.metrics = max_body, max_requests, metrics
        self.max_chart = max(max_chart, max_body)
        self.running = 0  # requests and WebSockets, other than for health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        if scope.get("method") == "HEAD":  # the answer is GET's, of which uvicorn sends the head
            scope = {**scope, "method": "GET"}
        counted = not _is_public(scope["path"])
        self.running += counted

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                names = {name.lower() for name, _ in message.get("headers", ())}
                message = {**message, "headers": [*message.get("headers", ())] + [
                    (name.encode(), value.encode())
                    for name, value in _SECURITY_HEADERS.items() if name.encode() not in names
                ]}  # fmt: skip
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await _refuse(scope, answer, *refusal)
            elif counted and self.running > self.max_requests:
                await _refuse(scope, answer, 503, "too many requests at once; try again in a moment")
            elif scope["type"] == "http":
                await self.app(scope, await self._read_body(receive, self._most(scope)), answer)
            else:
                await self.app(scope, receive, answer)
        except _Refused as refused:
            await _refuse(scope, answer, *refused.args)
        finally:
            self.running -= counted
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, str(status)).inc()
            fields = {
                "method": scope.get("method", "WEBSOCKET"),
                "route": route,
                "status": status,
                "seconds": round(time.perf_counter() - began, 4),
                "client": (scope.get("client") or [""])[0],
            }
            log.info("request", extra={"fields": fields})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers, public = headers_of(scope), _is_public(scope["path"])
        if "transfer-encoding" in headers and (
            "content-length" in headers or scope.get("http_version", "1.1") == "1.0"
        ):  # RFC 9112, 6.1 and 6.3: somebody on the way may take its end for another place
            return 400, "the message has two lengths: send Content-Length or Transfer-Encoding"
        preflight = scope.get("method") == "OPTIONS"
        if self.keys and not (public or preflight) and not is_known(key_of(headers), self.keys):
            return 401, "an API key is needed: send it as 'Authorization: Bearer KEY'"
        if scope["type"] == "websocket" and not is_own_origin(headers, self.origins):
            return 403, "this page is from elsewhere; the server's operator can allow it with --cors-origin"
        length = headers.get("content-length", "0")
        most = self._most(scope)
        if length.isdigit() and int(length) > most:
            return 413, _too_large(most)
        return None

    def _most(self, scope: Scope) -> int:
        """Bytes that a body may have."""
        return self.max_chart if scope["path"] == CHARTS_PATH else self.max_body

    async def _read_body(self, receive: Receive, most: int) -> Receive:
        """A `receive` that has the whole body at hand."""
        body, more, until = b"", True, time.monotonic() + _BODY_SECONDS
        while more:
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except TimeoutError:
                raise _Refused(408, f"the body did not come within {_BODY_SECONDS:g} seconds") from None
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise _Refused(413, _too_large(most))
        told = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay


def _is_public(path: str) -> bool:
    return path in _PUBLIC or path.startswith("/player/")


class _Refused(Exception):
    pass


def _too_large(limit: int) -> str:
    return f"the body is too large: at most {limit} bytes"


async def _refuse(scope: Scope, send: Send, status: int, detail: str) -> None:
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    # the body was not read: what comes of it would be taken for the next request
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = json.dumps({"detail": detail}).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
