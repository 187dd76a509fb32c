"""PortAudio's interface with sound cards that a test makes."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np


class Card:
    """PortAudio with one sound card, faster than real time; `lose_after` calls it ends, `hang_after` it is silent."""

    def __init__(self, speed=20.0, lose_after=None, hang_after=None, cards=1):
        self.speed, self.lose_after, self.hang_after, self.cards = speed, lose_after, hang_after, cards
        self.heard: list[np.ndarray] = []

    def query_devices(self):
        return [{"name": "Speakers", "max_output_channels": 2}] * self.cards

    def OutputStream(self, samplerate, channels, dtype, device, callback, finished_callback):
        if not self.cards or device == "Piano":
            raise OSError("Error querying device -1")
        assert (samplerate, channels, dtype) == (48_000, 2, "float32")
        return CardStream(self, callback, finished_callback)


class CardStream:
    latency = 0.01

    def __init__(self, card, callback, finished):
        self.card, self.callback, self.finished = card, callback, finished
        self.ended = threading.Event()

    def start(self):
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        calls = 0
        while not self.ended.wait(480 / 48_000 / self.card.speed):
            calls += 1
            if self.card.hang_after is not None and calls > self.card.hang_after:
                continue
            if self.card.lose_after is not None and calls > self.card.lose_after:
                self.finished()
                return
            out = np.empty((480, 2), dtype=np.float32)
            self.callback(out, 480, SimpleNamespace(outputBufferDacTime=1.01, currentTime=1.0), None)
            self.card.heard.append(out)

    def close(self):
        self.ended.set()
