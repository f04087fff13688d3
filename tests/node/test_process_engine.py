"""The zygote and its containers, without pods: starting, signals, execs, and sudden ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from kubarium.node.runtimes.process.engine import (
    ExitStatus,
    ProcessEngine,
    ProcessSpec,
    StartError,
)
from kubarium.node.runtimes.process.zygote import PLAIN, ROOT, USER_NAMESPACE

from .conftest import RealClock, none_left


class Bench:
    """An engine and what it has reported."""

    def __init__(self, folder):
        self.folder, self.exits = folder, {}
        self.engine = ProcessEngine(RealClock(), self._exited)

    def _exited(self, ident, status):
        assert ident not in self.exits, "an exit is reported once"
        self.exits[ident] = status

    async def start(self, ident, *argv, sandbox="pod"):
        spec = ProcessSpec(
            list(argv),
            {"PATH": os.environ["PATH"]},
            "/",
            str(self.folder / f"{ident}.log"),
            None,
            None,
        )
        return await self.engine.start_container(ident, sandbox, spec)

    async def exit_of(self, ident):
        for _ in range(2000):
            if ident in self.exits:
                return self.exits[ident]
            await asyncio.sleep(0.005)
        raise AssertionError(f"{ident} has not ended")

    def log(self, ident):
        lines = (self.folder / f"{ident}.log").read_text().splitlines()
        return [line.split(" ", 3)[3] for line in lines]


@asynccontextmanager
async def bench(level=PLAIN):
    with tempfile.TemporaryDirectory(prefix="kubarium-test-") as folder:
        found = Bench(Path(folder))
        await found.engine.start((level,))
        await found.engine.create_sandbox("pod", "pod-name", [])
        try:
            yield found
        finally:
            pid = found.engine.pid
            await found.engine.close()
            assert not psutil.pid_exists(pid)


def test_exit_codes_signals_and_output():
    async def main():
        async with bench() as b:
            await b.start("a", "sh", "-c", "echo one; echo two >&2; exit 5")
            await b.start("b", "sh", "-c", "kill -TERM $$")
            assert await b.exit_of("a") == ExitStatus(5, 0)
            assert await b.exit_of("b") == ExitStatus(143, 15)
            assert sorted(b.log("a")) == ["one", "two"]

    asyncio.run(main())


@pytest.mark.parametrize("level", [PLAIN, ROOT])
def test_how_a_command_ends_is_heard_however_late_its_fork_is_told_of(level, request, monkeypatch):
    if level == ROOT:
        request.getfixturevalue("needs_root")
    started = subprocess.Popen

    def slow(argv, **options):
        slowly = (
            "import time; from kubarium.node.runtimes.process.zygote import Zygote;"
            "note = Zygote._note;"
            "Zygote._note = lambda *given: (time.sleep(0.3), note(*given)); main()"
        )
        argv = [slowly.join(a.rsplit("main()", 1)) if "main()" in a else a for a in argv]
        return started(argv, **options)

    async def main():
        monkeypatch.setattr(subprocess, "Popen", slow)
        async with bench(level) as b:
            await b.start("killed", "sh", "-c", "kill -9 $$")
            assert await b.exit_of("killed") == ExitStatus(137, 9)

    asyncio.run(main())


def test_a_program_that_cannot_be_run_is_an_error_not_an_exit():
    async def main():
        async with bench() as b:
            with pytest.raises(StartError, match=r'exec: "nope": executable file not found'):
                await b.start("a", "nope")
            with pytest.raises(StartError, match=r'exec: "echo": argument list too long'):
                await b.start("long", "echo", "x" * 200_000)
            with pytest.raises(StartError, match="no sandbox other"):
                await b.start("b", "true", sandbox="other")
            assert b.exits == {}

    asyncio.run(main())


def test_signals_reach_the_group_and_kill_reaches_everything():
    marker = f"sleep 6{os.getpid()}0"

    async def main():
        async with bench() as b:
            await b.start("a", "sh", "-c", f"(setsid {marker} &) ; {marker}; echo survived")
            await b.engine.send_signal("a", signal.SIGKILL)
            assert await b.exit_of("a") == ExitStatus(137, 9)
            assert await none_left(marker)

    asyncio.run(main())


def test_execs_run_beside_the_command_and_can_time_out():
    async def main():
        async with bench() as b:
            await b.start("a", "sleep", "100")
            result = await b.engine.execute("a", ["sh", "-c", "echo hi; exit 4"], 5)
            assert (result.code, result.output) == (4, "hi\n")
            slow = await b.engine.execute("a", ["sleep", "50"], 0.1)
            assert slow.code == 124
            assert (await b.engine.execute("a", ["nope"], 5)).code == 126
            long = await b.engine.execute("a", ["sh", "-c", "head -c 100000 /dev/zero"], 5)
            assert 0 < len(long.output) <= 2000
            assert (await b.engine.execute("zzz", ["true"], 5)).code == 126

    asyncio.run(main())


def test_an_exec_ends_with_its_container():
    async def main():
        async with bench() as b:
            await b.start("a", "sleep", "100")
            run = asyncio.create_task(b.engine.execute("a", ["sleep", "50"], None))
            await asyncio.sleep(0.05)
            await b.engine.send_signal("a", signal.SIGTERM)
            assert (await run).code in (126, 137)

    asyncio.run(main())


def test_the_end_of_one_container_does_not_touch_others():
    async def main():
        async with bench() as b:
            for number in range(20):
                await b.start(f"short-{number}", "true")
                script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.01; done; exit 7"
                await b.start(f"long-{number}", "sh", "-c", script)
            for number in range(20):
                assert await b.exit_of(f"long-{number}") == ExitStatus(7, 0)

    asyncio.run(main())


def test_orphans_of_a_killed_init_are_killed():
    marker = f"sleep 4{os.getpid()}0"

    async def main():
        async with bench() as b:
            pid = await b.start("a", "sh", "-c", f"(setsid {marker} &) ; {marker}")
            await asyncio.sleep(0.1)
            os.kill(pid, signal.SIGKILL)
            assert (await b.exit_of("a")).code == 137
            assert await none_left(marker)

    asyncio.run(main())


@pytest.mark.parametrize("level", [PLAIN, USER_NAMESPACE, ROOT])
def test_a_killed_zygote_takes_all_with_it_and_is_replaced(level, request):
    if level == ROOT:
        request.getfixturevalue("needs_root")
    if level == USER_NAMESPACE:
        request.getfixturevalue("needs_namespaces")
    marker = f"sleep 5{os.getpid()}0"

    async def main():
        async with bench(level) as b:
            await b.start("a", *marker.split())
            first = b.engine.pid
            os.kill(first, signal.SIGKILL)
            assert await b.exit_of("a") == ExitStatus(137, 9)
            await b.start("b", "sh", "-c", "echo back")
            assert await b.exit_of("b") == ExitStatus(0, 0)
            assert b.engine.pid != first
            assert await none_left(marker)

    asyncio.run(main())


def test_a_stopped_init_is_killed_nevertheless():
    async def main():
        async with bench() as b:
            pid = await b.start("a", "sleep", "100")
            os.kill(pid, signal.SIGSTOP)
            await b.engine.send_signal("a", signal.SIGKILL)
            assert (await b.exit_of("a")).code == 137

    asyncio.run(main())


def test_much_output_is_kept_whole():
    async def main():
        async with bench() as b:
            await b.start(
                "a", "sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"
            )
            await b.exit_of("a")
            assert b.log("a") == [f"line {n}" for n in range(3000)]

    asyncio.run(main())


def test_descriptors_do_not_leak_into_containers():
    async def main():
        async with bench() as b:
            await b.start("a", "sleep", "100")
            await b.start("b", "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '")
            await b.exit_of("b")
            # ls itself opens one descriptor, on the directory that it lists.
            assert b.log("b")[0].split() == ["0", "1", "2", "3"]

    asyncio.run(main())


# Signals 32 and 33 are the C library's own: its posix_spawn (which make uses) has them ignored in
# children, and it refuses to let a program reset them.
LIBC_SIGNALS = 1 << 31 | 1 << 32


def test_containers_get_default_signal_dispositions():
    async def main():
        async with bench() as b:
            await b.start("a", "grep", "-E", "Sig(Ign|Blk)", "/proc/self/status")
            await b.exit_of("a")
            masks = [int(line.split("\t")[1], 16) for line in b.log("a")]
            assert len(masks) == 2
            assert {mask & ~LIBC_SIGNALS for mask in masks} == {0}

    asyncio.run(main())
