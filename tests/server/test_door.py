"""The door: who comes while it is yet to be seen what others cost waits, in a line, and is let in or told why not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from served import hear, hear_block, running, say, wait_for

from rtjazz_hf.server.seats import BlockQueue, Seat, Unavailable, mix_key

WISH = {"prompt": "swing", "chords": "Dm7 | G7", "tempo": 120}
NONE = mix_key(None, None)


@contextlib.contextmanager
def at_the_door(pipe, **settings):
    """The engine of a server at which somebody is being taken in, of whom nobody knows what it will cost."""
    with running(pipe, **settings) as server:
        server.engine.times.alone = 1e12
        asyncio.run(server.engine.admit("first", NONE))
        yield server.engine
        server.engine._opening.clear()


async def outcome(coroutine):
    try:
        return await coroutine
    except (Unavailable, ValueError) as error:
        return error


def test_those_who_come_at_once_are_let_in_one_after_another(tiny_pipeline):
    with running(tiny_pipeline, load=20.0, patience=1e9) as server, contextlib.ExitStack() as stack:
        # As measured beside busy programs: beside one there would be no room, if one were to go by it.
        server.engine.times.alone = 2.0
        listeners = [stack.enter_context(server.live()) for _ in range(6)]
        for seed, listener in enumerate(listeners):
            say(listener, "start", seed=seed, **WISH)
        for listener in listeners:
            hear(listener, "started")
            hear_block(listener)
        assert len(server.engine.seats) == 6
        assert server.metric("refused_total") == 0 and server.metric("waiting") == 0


def test_the_first_comes_first(tiny_pipeline):
    async def come(engine):
        tasks = [asyncio.create_task(engine.admit(name, NONE)) for name in ("a", "b", "c", "d")]
        await asyncio.sleep(0)
        assert engine.metrics.waiting._value.get() == 4 and list(engine._opening) == ["first"]
        tasks[1].cancel()  # its listener is gone
        await asyncio.sleep(0)
        engine.times.alone = 1e-9  # it is seen what one costs
        await asyncio.gather(tasks[0], tasks[2], tasks[3])
        assert list(engine._opening) == ["first", "a", "c", "d"] and not engine._line

    with at_the_door(tiny_pipeline) as engine:
        asyncio.run(come(engine))


def test_one_who_goes_as_it_is_let_in_keeps_no_place(tiny_pipeline):
    async def go(engine):
        task = asyncio.create_task(engine.admit("a", NONE))
        await asyncio.sleep(0)
        engine.times.alone = 1e-9
        wait_for(lambda: "a" in engine._opening)  # the event loop has not heard of it
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert "a" not in engine._opening and not engine._line

    with at_the_door(tiny_pipeline) as engine:
        asyncio.run(go(engine))


def test_patience_has_an_end(tiny_pipeline):
    with at_the_door(tiny_pipeline, patience=0.1) as engine:
        refusal = asyncio.run(outcome(engine.admit("a", NONE)))
        assert "no room for one session more beside 1" in str(refusal) and refusal.retry_after > 0
        assert not engine._line and list(engine._opening) == ["first"]


def test_the_line_is_no_longer_than_there_are_places(tiny_pipeline):
    async def come(engine):
        waiting = asyncio.create_task(engine.admit("a", NONE))
        await asyncio.sleep(0)
        third, taken = await outcome(engine.admit("b", NONE)), await outcome(engine.admit("a", NONE))
        waiting.cancel()
        return third, taken

    with at_the_door(tiny_pipeline, max_sessions=2) as engine:
        third, taken = asyncio.run(come(engine))
    assert third.reason == "full" and "is the most that this server takes" in str(third)
    assert "'a' has a controller already" in str(taken)


def test_a_server_that_stops_sends_the_line_away(tiny_pipeline):
    async def come(engine):
        waiting = asyncio.create_task(outcome(engine.admit("a", NONE)))
        await asyncio.sleep(0)
        engine.draining = True
        return await waiting

    with at_the_door(tiny_pipeline) as engine:
        assert asyncio.run(come(engine)).reason == "draining"
        engine.draining = False


def test_a_full_server_says_so_at_once(tiny_pipeline):
    with running(tiny_pipeline, load=1e-9, patience=1e9) as server, server.live() as one:
        say(one, "start", **WISH)
        wait_for(lambda: server.engine.times.knows(1))
        with pytest.raises(Unavailable, match="no room for one session more beside 1"):
            asyncio.run(server.engine.admit("a", NONE))
        with pytest.raises(Unavailable, match="no room"):
            server.engine.check_room()


def test_nobody_waits_long_for_one_who_is_still_being_made(tiny_pipeline):
    with running(tiny_pipeline) as server, server.live() as listener:
        asyncio.run(server.engine.admit("slow", NONE))  # whose chart takes its time
        say(listener, "start", **WISH)
        hear_block(listener), hear_block(listener)
        server.engine._opening.clear()


def test_who_begins_where_blocks_take_long_begins_with_two(tiny_pipeline):
    with running(tiny_pipeline, load=0.7) as server, server.live() as listener:
        server.engine.times.alone = 100.0
        say(listener, "start", **WISH)
        first, _ = hear_block(listener)
        assert server.engine.seats[0].session.position >= 2 * first["samples"] / 48_000
        second, _ = hear_block(listener)
        assert first["start"] == 0.0 and second["start"] == pytest.approx(first["samples"] / 48_000)


def test_what_is_held_is_handed_out_at_the_end(tiny_pipeline):
    async def close(engine):
        seat = Seat("a", tiny_pipeline.live("swing"), BlockQueue(4, asyncio.get_running_loop()))
        seat.held.extend(["one", "two"])
        engine.close(seat, "stopped")
        return [await seat.queue.get() for _ in range(3)]

    with at_the_door(tiny_pipeline) as engine:
        assert asyncio.run(close(engine)) == ["one", "two", None]
