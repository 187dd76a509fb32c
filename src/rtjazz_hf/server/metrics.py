"""What Prometheus may read of a server."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_BLOCK_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0, 2.0)  # seconds


class Metrics:
    """Counters and gauges of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"rtjazz_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"rtjazz_{name}", text, registry=self.registry)

        self.requests = counter("requests", "HTTP requests, and WebSockets", "route", "status")
        self.refused = counter("refused", "Sessions and clips that were refused", "reason")
        self.sessions = gauge("sessions", "Live sessions that play")
        self.waiting = gauge("waiting", "Listeners who wait for a live session to begin")
        self.sockets = gauge("sockets", "WebSockets that are open")
        self.clips = gauge("clips", "Clips that are being made")
        self.tasks = gauge("tasks", "Tasks of the event loop")
        self.started = counter("sessions_started", "Live sessions that were started")
        self.ended = counter("sessions_ended", "Live sessions that ended", "reason")
        self.controls = counter("controls", "Changes of live sessions", "outcome")
        self.blocks = counter("blocks", "Blocks that were made", "kind")
        self.under_runs = counter(
            "under_runs", "Live blocks that came after the sound before them had run out"
        )
        self.dropped = counter("dropped_blocks", "Live blocks that a slow reader did not get")
        self.failures = counter("failures", "Steps of the engine that failed")
        self.step_seconds = Histogram(
            "rtjazz_step_seconds", "Time to make the next block of all live sessions", buckets=_BLOCK_BUCKETS,
            registry=self.registry,
        )  # fmt: skip

    def render(self) -> bytes:
        """The text format of Prometheus; called in the event loop."""
        self.tasks.set(len(asyncio.all_tasks()))
        return generate_latest(self.registry)
