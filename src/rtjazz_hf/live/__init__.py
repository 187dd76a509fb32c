"""Live: the engine that makes music block by block, and the session that a listener steers."""

from __future__ import annotations

from .session import LiveBlock, LiveSession, LiveStats

__all__ = ["LiveBlock", "LiveSession", "LiveStats"]
