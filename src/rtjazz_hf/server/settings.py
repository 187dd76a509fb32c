"""What an operator sets, and the limits that hold for everybody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_BODY_BYTES = 64 * 1024  # of a JSON body, or a WebSocket message
MAX_CHART_BYTES = 1 << 20  # of a file of chords
MAX_STATE_BYTES = 32 * 2**20  # of a session's state: 2.4 MB of mini, some 8 of base
MAX_CONTROLS_PER_SECOND = 10  # of one session; what comes faster waits in the network
UPDATE_SHARE = 0.1  # of a processor that the updates of all sessions together may take, in the long run


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server. Times are in seconds.

    Attributes:
        name: of this server among those that share the work; its sessions are told.
        model: bundled name, folder or Hub id. device, dtype: as of `rtjazz generate`.
        adapters: folder whose sub-folders are the adapters that may be asked for, by name.
        state: folder in which sessions that a drain ends are kept for a day, to be resumed.
        api_keys: those that may use the API; empty: everybody may.
        cors_origins: web pages from elsewhere that may use it.
        public_urls: the server's addresses as its listeners see them, where a proxy gives it other names.
        proxies: addresses or networks whose X-Forwarded-For, -Proto and -Host are believed.
        load: how much of a block's length the blocks of all sessions may take to make, at the 95th percentile,
            for one more to be admitted.
        buffer: sound that listeners have in hand at least, by the server's clock.
        block_frames: of all live sessions, which share batches; None: the model's own.
        queue: sound that waits for a slow reader at most. slow_limit: a reader that falls behind for so long is
            sent away.
        patience: of a listener who comes while it is yet to be seen what those cost who came before.
        start_limit: from the connection to the message that starts the music. idle_limit: without a control.
        length_limit: of one live session.
        max_sessions, max_clips, max_connections: at a time, whatever the machine could do.
        clip_patience: a clip that the live sessions leave no time for is given up.
        drain_limit: for clips that are being made when the server is told to stop.
    """

    name: str = ""
    model: str | Path = "rtjazz-mini"
    device: str = "auto"
    dtype: str = "float32"
    adapters: Path | None = None
    state: Path | None = None
    api_keys: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    public_urls: Sequence[str] = ()
    proxies: Sequence[str] = ()
    load: float = 0.7
    buffer: float = 0.5
    block_frames: int | None = None
    queue: float = 4.0
    slow_limit: float = 6.0
    patience: float = 15.0
    start_limit: float = 10.0
    idle_limit: float = 3600.0
    length_limit: float = 6 * 3600.0
    max_sessions: int = 64
    max_clips: int = 4
    max_connections: int = 256
    clip_patience: float = 30.0
    drain_limit: float = 60.0

    def __post_init__(self) -> None:
        if not self.load > 0:
            raise ValueError(f"load {self.load:g}: choose more than 0; from 1 on, sessions stutter")
        if not 0.1 <= self.buffer <= 5:
            raise ValueError(f"buffer {self.buffer:g}: choose 0.1 to 5 seconds")
        for name in ("idle_limit", "length_limit", "drain_limit"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} {value:g}: choose a positive number of seconds")
        for name in ("max_sessions", "max_clips", "max_connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: choose 1 or more")
