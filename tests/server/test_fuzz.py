"""Whatever is sent, the server answers, says what was wrong, and plays on. RTJAZZ_FUZZ=2000 sends more of it."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import WAIT, hear_block, say
from websockets.exceptions import ConnectionClosed

schemathesis = pytest.importorskip(
    "schemathesis", reason="sends what the OpenAPI document allows (the dev extra)"
)

checks = schemathesis.checks
EXAMPLES = int(os.environ.get("RTJAZZ_FUZZ", "50"))
MANY = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def operations(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    return [result.ok() for result in schema.get_all_operations()]


@MANY
@given(data=st.data())
def test_requests(operations, data):
    operation = data.draw(st.sampled_from(operations))
    mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    if isinstance(case.body, dict) and isinstance(case.body.get("duration", 10), (int, float)):
        case.body["duration"] = min(case.body.get("duration", 10), 0.1)  # long clips tell no more
    answer = case.call(timeout=WAIT)
    assert answer.status_code < 500 or answer.status_code == 503
    case.validate_response(
        answer, checks=[checks.response_schema_conformance, checks.content_type_conformance]
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("type", "prompt", "chords", "tempo", "key", "mood", "instruments", "seed", "adapter", "adapter_scale",
          "session", "resume", "encoding")  # fmt: skip
STARTS = st.fixed_dictionaries(
    {"type": st.just("start"), "prompt": st.just("swing")}, optional=dict.fromkeys(FIELDS[2:], VALUES)
)
WRONG = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5) | STARTS | VALUES
MESSAGES = st.text(max_size=200) | st.binary(max_size=200) | WRONG.map(json.dumps)


@MANY
@given(messages=st.lists(MESSAGES, min_size=1, max_size=3), playing=st.booleans())
def test_messages(server, messages, playing):
    with server.live() as listener:
        if playing:
            say(listener, "start", prompt="swing")
            hear_block(listener)
        try:
            for message in messages:
                listener.send(message)
            while True:  # an error, a block, or the end: something comes
                answer = listener.recv(timeout=WAIT)
                if isinstance(answer, bytes) or json.loads(answer)["type"] in ("error", "updated"):
                    break
        except ConnectionClosed as closed:
            assert closed.rcvd is None or closed.rcvd.code not in (1006, 1011)


def test_it_plays_on(server):
    assert server.get("/healthz").status_code == 200 and server.metric("failures_total") == 0
    with server.live() as listener:
        say(listener, "start", prompt="swing")
        hear_block(listener)
