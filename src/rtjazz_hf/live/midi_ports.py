"""MIDI ports by name, through mido."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chord_keys import ChordKeys
    from .clock import MidiClock


def import_mido() -> Any:
    try:
        import mido
    except ImportError as error:
        raise ImportError("MIDI ports need mido; run: pip install 'rtjazz-hf[live]'") from error
    return mido


def port_names(kind: str, backend: Any = None) -> list[str]:
    """Names of the MIDI ports of `kind`, "input" or "output".

    Raises:
        OSError: this machine has no MIDI system. ImportError: mido, or what it reaches ports with, is missing.
    """
    backend = backend or import_mido()
    try:
        return list(dict.fromkeys(getattr(backend, f"get_{kind}_names")()))
    except ImportError as error:
        raise ImportError("MIDI ports need python-rtmidi; run: pip install 'rtjazz-hf[live]'") from error
    except Exception as error:  # rtmidi's own kinds
        raise OSError(f"this machine's MIDI ports cannot be listed ({error})") from error


def choose_port(name: str, kind: str, backend: Any = None) -> str:
    """The port of `kind` that `name` means: its whole name, or a part that no other has.

    Raises:
        ValueError: no such port, or several: the message lists those there are. OSError: as `port_names`.
    """
    names = port_names(kind, backend)
    found = [each for each in names if each == name] or [
        each for each in names if name.lower() in each.lower()
    ]
    if name and len(found) == 1:
        return found[0]
    there = ", ".join(repr(each) for each in names) or "none"
    what = "is the name of no" if not (name and found) else "is part of the names of several"
    raise ValueError(f"{name!r} {what} MIDI {kind} port; there are: {there}")


class MidiInput:
    """An open MIDI input that feeds a `MidiClock`, or the keys of a keyboard.

    Raises:
        as `choose_port`; OSError where the port cannot be opened.
    """

    def __init__(self, name: str, clock: MidiClock | ChordKeys, backend: Any = None):
        self._backend = backend or import_mido()
        self.name = choose_port(name, "input", self._backend)
        clock.port = self
        try:
            self._port = self._backend.open_input(self.name, callback=clock.receive)
        except Exception as error:
            raise OSError(f"the MIDI port {self.name!r} cannot be opened ({error})") from error

    @property
    def gone(self) -> bool:
        """Whether the port was taken away."""
        try:
            return self.name not in port_names("input", self._backend)
        except (OSError, ImportError):
            return True

    def close(self) -> None:
        self._port.close()


def open_midi_output(name: str, backend: Any = None) -> Any:
    """An open MIDI output, with `send(message)` and `close()`.

    Raises:
        as `choose_port`; OSError where the port cannot be opened.
    """
    backend = backend or import_mido()
    name = choose_port(name, "output", backend)
    try:
        return backend.open_output(name)
    except Exception as error:
        raise OSError(f"the MIDI port {name!r} cannot be opened ({error})") from error
