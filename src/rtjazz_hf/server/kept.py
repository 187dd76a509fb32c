"""Sessions that a stop has ended: their files, by tokens, and what may be gone on with."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompts import mix_of
from .schemas import Music, Start, first_error, wishes
from .settings import MAX_STATE_BYTES

if TYPE_CHECKING:
    from ..live import LiveSession
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

log = logging.getLogger("rtjazz.server")

# Kept sessions: the start of their files' names; how long.
_KEPT, _KEPT_SECONDS = "rtjazz-session-", 24 * 3600.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def state_of(session: LiveSession) -> bytes:
    """What another server, or this one, goes on from; for a worker thread.

    Raises:
        ValueError: larger than any server takes.
    """
    state = session.to_bytes()
    if len(state) > MAX_STATE_BYTES:
        raise ValueError(f"a state of {len(state)} bytes: at most {MAX_STATE_BYTES} are taken")
    return state


class KeptSessions:
    """The files in a server's folder of states; none where it has no folder."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.forget_old()

    def file(self, token: str) -> Path:
        if self.folder is None or not _TOKEN.fullmatch(token):
            raise ValueError("resume: this server keeps no sessions; start a new one")
        return self.folder / f"{_KEPT}{token}.safetensors"

    def keep(self, session: LiveSession) -> str:
        """Write a session's state; the token that it is gone on with.

        Raises:
            OSError: as `LiveSession.save`.
        """
        token = secrets.token_urlsafe(24)
        session.save(self.file(token))
        return token

    def resume(
        self, pipe: RealTimeJazzPipeline, start: Start, state: bytes | None, block_frames: int
    ) -> LiveSession:
        """The session that `start` names by its token, or that of a `state`, in blocks of so many frames.

        Raises:
            ValueError: there is none, it does not load here, or more is asked for than that it goes on.
        """
        word = "resume" if state is None else "state"
        if wishes(start) or (state is not None and start.resume is not None):
            raise ValueError(f"{word}: a kept session goes on as it was; ask for changes when it plays")
        source = self.file(start.resume) if state is None else state
        try:
            session = pipe.resume_live(source, overlap=False)
            check_resumed(session, pipe.generation_defaults)
        except FileNotFoundError:
            raise ValueError("resume: no session is kept under this token; start a new one") from None
        except (OSError, ValueError) as error:
            log.warning("a kept session does not load", extra={"fields": {"reason": str(error)[:500]}})
            raise ValueError(
                f"{word}: the session does not load on this server's model; start a new one"
            ) from None
        if session.asked["block_frames"] != block_frames:
            session.update(block_frames=block_frames)
        if state is None:
            self._take_out(source, session)
        return session

    def _take_out(self, source: Path, session: LiveSession) -> None:
        """A token is good for one listener.

        Raises:
            ValueError: its file cannot be removed: another would go on with it too.
        """
        try:
            source.unlink(missing_ok=True)
        except OSError as error:
            session.close()
            log.error("a kept session cannot be taken out", extra={"fields": {"reason": str(error)}})
            raise ValueError(
                "resume: this server cannot take the session out of its folder, which may be read-only; "
                "start a new one"
            ) from None

    def forget_old(self) -> None:
        since = time.time() - _KEPT_SECONDS
        for path in self.folder.glob(f"{_KEPT}*.safetensors") if self.folder else ():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < since:
                    path.unlink()


def check_resumed(session: LiveSession, defaults: dict[str, Any]) -> None:
    """Refuse what could not have been asked for here: a state comes from outside.

    Raises:
        ValueError: what it is.
    """
    asked = session.asked
    words = mix_of(asked["prompt"])
    if not all(isinstance(part, str) for part, _ in words):
        raise ValueError("a prompt with a clip, which this server does not take")
    music = {name: asked[name] for name in Music.model_fields if name in asked}
    try:
        Music.model_validate({**music, "prompt": dict(words)})
    except ValueError as error:  # pydantic's
        raise ValueError(first_error(error)) from None
    own = {name: defaults[name] for name in ("num_inference_steps", "guidance_scale")}
    rest = {name: value for name, value in asked.items() if name not in (*music, "block_frames")}
    if rest != own or session.window_frames != defaults["window_frames"]:
        raise ValueError("settings that are not this server's")
