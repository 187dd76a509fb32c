"""Trainings at tiny sizes: what they let hear is short too."""

from __future__ import annotations

import pytest

from rtjazz_hf.trainers import flow


@pytest.fixture(scope="session", autouse=True)
def short_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "SAMPLE_SECONDS", 1.0)
        yield
