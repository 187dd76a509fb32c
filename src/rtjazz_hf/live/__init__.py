"""Live: the engine that makes music block by block, and the sessions that listeners steer."""

from __future__ import annotations

from .group import SessionGroup
from .session import LiveBlock, LiveSession
from .stats import Latency, LiveStats

__all__ = ["Latency", "LiveBlock", "LiveSession", "LiveStats", "SessionGroup"]
