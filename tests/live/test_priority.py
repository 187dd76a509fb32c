"""A player's priority: raised where that is allowed, given back, and not touched where somebody gave it."""

from __future__ import annotations

import sys

import psutil
import pytest

from rtjazz_hf.live.priority import running_first


class Process:
    """psutil's, of a system that lets nobody below `least`."""

    def __init__(self, nice=0, least=0, error=None):
        self.value, self.least, self.error = nice, least, error or psutil.AccessDenied()

    def nice(self, value=None):
        if value is None:
            return self.value
        if value < self.least:
            raise self.error
        self.value = value


@pytest.mark.skipif(sys.platform == "win32", reason="classes in place of numbers")
@pytest.mark.parametrize("least,meanwhile,told", [(-20, -10, 0), (-5, -5, 0), (-3, -1, 0), (0, 0, 1)])
def test_the_best_that_is_allowed(least, meanwhile, told):
    process, said, switch = Process(least=least), [], sys.getswitchinterval()
    with pytest.raises(KeyError), running_first(said.append, process):
        assert process.value == meanwhile and sys.getswitchinterval() < 0.001
        raise KeyError
    assert process.value == 0 and sys.getswitchinterval() == switch and len(said) == told


def test_a_priority_that_was_given_stays():
    said = []
    with running_first(said.append, Process(nice=10)) as _:
        assert said == []


def test_a_system_that_knows_none():
    said = []
    with running_first(said.append, Process(least=0, error=OSError("not here"))):
        assert "not here" in said[0] and len(said) == 1
