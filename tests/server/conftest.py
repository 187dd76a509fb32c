"""A server on the tiny pipeline that the tests of a file share."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the web API (the serve extra)")

from served import running


@pytest.fixture(scope="module")
def server(tiny_pipeline):
    with running(tiny_pipeline) as server:
        yield server
