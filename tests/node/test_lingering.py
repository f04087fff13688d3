"""Pods without an agent: they go on for a while, for the next one to find, and not for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from kubarium.node.runtimes.process.engine import ProcessEngine, end_lingering

from .conftest import RealClock, processes_with

# An agent's engine with one container, in a process of its own that can be killed.
AGENT = """
import asyncio, sys, time
from kubarium.node.runtimes.process.engine import LEVELS, ProcessEngine, ProcessSpec
class Clock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)
async def main():
    name, linger_s, marker, folder = sys.argv[1:]
    engine = ProcessEngine(Clock(), lambda ident, status: None, name, float(linger_s))
    found = await engine.reattach()
    if not found:
        await engine.start(("plain",))
        await engine.create_sandbox("pod", "host", [], None)
        argv = ["sh", "-c", f"sleep {marker} & sleep {marker}; sleep 1000"]
        env = {"PATH": "/usr/bin:/bin"}
        spec = ProcessSpec(argv, env, "/", folder + "/log", None, None)
        await engine.start_container("c", "pod", spec)
    print("found" if found else "started", flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@pytest.fixture
def agent(tmp_path):
    marker, name = f"{50_000_000 + os.getpid()}", f"kubarium-test-{os.getpid()}-{tmp_path.name}"
    running = []

    def start(linger_s):
        command = [sys.executable, "-c", AGENT, name, str(linger_s), marker, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process, process.stdout.readline().strip()

    yield start, f"sleep {marker}"
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()
    end_lingering(name)


def test_pods_that_nobody_comes_for_end_when_their_time_is_over(agent):
    start, marker = agent
    process, said = start(3.0)
    assert said == "started"
    while len(processes_with(marker)) < 3:  # the shell and both
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    process.wait()
    while processes_with(marker):
        assert time.monotonic() - killed < 15, "they go on for ever"
        time.sleep(0.05)
    assert time.monotonic() - killed > 2.5, "the next agent had time to come"
    assert start(3.0)[1] == "started", "nothing is left to be found"


def test_an_agent_that_comes_in_time_stops_the_clock(agent):
    start, marker = agent
    first, _ = start(3.0)
    while len(processes_with(marker)) < 3:
        time.sleep(0.02)
    first.kill()
    first.wait()
    time.sleep(1.0)
    second, said = start(3.0)
    assert said == "found"
    time.sleep(3.0)
    assert len(processes_with(marker)) == 3
    second.kill()
    second.wait()
    killed = time.monotonic()
    while processes_with(marker):
        assert time.monotonic() - killed < 15
        time.sleep(0.05)
    assert time.monotonic() - killed > 2.5, "its own time, from the beginning"


def test_an_agent_that_comes_just_as_their_time_is_over_begins_anew():
    name = f"kubarium-test-{os.getpid()}-ending"

    async def main():
        engine = ProcessEngine(RealClock(), lambda ident, status: None, name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ending:
            ending.bind(f"\0{name}")
            ending.listen(4)
            ending.settimeout(10)
            asking = asyncio.create_task(engine.reattach())
            for _ in range(2):  # as a zygote that ends while somebody is at its door
                peer, _ = await asyncio.to_thread(ending.accept)
                peer.close()
        assert await asking is False

    asyncio.run(main())
