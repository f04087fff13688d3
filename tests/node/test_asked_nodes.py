"""Nodes of one agent are served side by side: one that fails holds up no other."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kubarium.base.errors import ApiError
from kubarium.node.agent_nodes import AskedNodes
from kubarium.runtime import virtual

NODES = {
    name: SimpleNamespace(spec=SimpleNamespace(name=name)) for name in ("first", "second", "third")
}


def served(story, action):
    """The story, beside nodes that are served by the action."""

    async def main():
        clock = virtual.VirtualClock()
        asked = AskedNodes(clock, NODES, lambda node: action(clock, node.spec.name))
        task = asyncio.create_task(asked.run())
        await story(clock, asked)
        task.cancel()

    virtual.run(main())


@pytest.mark.parametrize("error", [ApiError(503, "ServiceUnavailable", "down"), KeyError("x")])
def test_a_node_that_fails_is_tried_again_and_holds_up_no_other(error):
    tries = {name: [] for name in NODES}

    async def action(clock, name):
        tries[name].append(clock.monotonic())
        if name == "first" and clock.monotonic() < 20:
            raise error

    async def story(clock, asked):
        for name in NODES:
            asked.ask(name)
        await clock.sleep(0.1)
        assert [len(times) for times in tries.values()] == [1, 1, 1]
        await clock.sleep(60)
        pauses = [b - a for a, b in zip(tries["first"], tries["first"][1:], strict=False)]
        assert pauses == sorted(pauses)
        assert tries["first"][-1] >= 20
        assert len(tries["second"]) == 1

    served(story, action)


def test_a_node_is_served_by_one_at_a_time_and_once_more_if_asked_meanwhile():
    at_work, done = {}, []

    async def action(clock, name):
        assert name not in at_work
        at_work[name] = True
        await clock.sleep(1)
        del at_work[name]
        done.append(name)

    async def story(clock, asked):
        asked.ask("first")
        await clock.sleep(0.5)
        for _ in range(5):
            asked.ask("first")
        asked.ask("second")
        await clock.sleep(10)
        assert sorted(done) == ["first", "first", "second"]
        asked.ask("first")
        await clock.sleep(2)
        assert done[-1] == "first"
        assert len(done) == 4

    served(story, action)
