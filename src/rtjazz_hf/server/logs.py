"""Logs: one JSON object a line, on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time

LOGGER = "rtjazz.server"


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, what happened, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs(level: int = logging.INFO) -> None:
    """Our events, and uvicorn's warnings: at its other levels it writes addresses and headers as they were sent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, least in ((LOGGER, level), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)
