"""Sessions that a stop has ended: their files, by tokens, and what may be gone on with."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompts import mix_of
from .schemas import Music, first_error

if TYPE_CHECKING:
    from ..live import LiveSession

# Kept sessions: the start of their files' names; how long.
_KEPT, _KEPT_SECONDS = "rtjazz-session-", 24 * 3600.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class KeptSessions:
    """The files in a server's folder of states; none where it has no folder."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.forget_old()

    def file(self, token: str) -> Path:
        if self.folder is None or not _TOKEN.fullmatch(token):
            raise ValueError("resume: this server keeps no sessions; start a new one")
        return self.folder / f"{_KEPT}{token}.safetensors"

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
