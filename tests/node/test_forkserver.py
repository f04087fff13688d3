"""A program that a fork server starts must not be able to tell, but for the time it took.

Every case is run twice, by a fresh interpreter and by a fork, and what comes out is compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
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
    User,
)
from kubarium.node.runtimes.process.forkserver import (
    HEAVY,
    MAX_PARENTS,
    modules_for,
)
from kubarium.node.runtimes.process.machine_files import folders_in_tmp, impassable_folders
from kubarium.node.runtimes.process.rootfs import RootFs
from kubarium.node.runtimes.process.warm_commands import (
    Program,
    parse,
    shared_environment,
)
from kubarium.node.runtimes.process.zygote import PLAIN, ROOT, USER_NAMESPACE

from .conftest import RealClock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork servers exist on Linux only")
ENV = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "HOME": "/root"}
LEVELS = [PLAIN, USER_NAMESPACE, ROOT]
MODULES = ["numpy"]


class Bench:
    """An engine, a sandbox, and programs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.exits = folder, {}
        self.engine = ProcessEngine(RealClock(), self._exited)
        self._count = 0

    def _exited(self, ident, status):
        self.exits[ident] = status

    async def start(self, argv, warm, env=None, user=None, stdin=False, cwd="/", passable=True):
        self._count += 1
        ident = f"c{self._count}"
        root = None
        if self.engine.level != PLAIN:
            place = self.folder / f"root-{ident}"
            place.mkdir()
            passable = impassable_folders() if passable else []
            root = RootFs(
                str(place),
                working_dir="/",
                kept_tmp=[str(self.folder), *folders_in_tmp()],
                passable=passable,
            )
        spec = ProcessSpec(
            list(argv),
            {**ENV, **(env or {})},
            cwd,
            str(self.folder / f"{ident}.log"),
            user,
            root,
            stdin=stdin,
            warm=list(MODULES) if warm else [],
        )
        await self.engine.start_container(ident, "pod", spec)
        return ident

    async def run(self, argv, warm, **options):
        """(exit status, lines of output) of a program."""
        ident = await self.start(argv, warm, **options)
        return await self.exit_of(ident), self.log(ident)

    async def both(self, *argv, **options):
        """What a fresh interpreter did, and what a fork did."""
        cold = await self.run(argv, warm=False, **options)
        return cold, await self.run(argv, warm=True, **options)

    async def exit_of(self, ident):
        for _ in range(6000):
            if ident in self.exits:
                return self.exits[ident]
            await asyncio.sleep(0.005)
        raise AssertionError(f"{ident} has not ended")

    def log(self, ident):
        """Standard output and then standard error, without addresses of objects."""
        text = re.sub(r"0x[0-9a-f]{6,}", "0x…", (self.folder / f"{ident}.log").read_text())
        lines = [line.split(" ", 3) for line in text.splitlines()]
        return sorted((f"{line[1]}: {line[3]}" for line in lines), key=lambda t: t[:6] != "stdout")

    async def is_forked(self, **options):
        """Whether programs of this environment come from a fork server: the command line tells."""
        code = "print(b'warm_' + b'parent' in open('/proc/self/cmdline', 'rb').read())"
        _, lines = await self.run(["python3", "-c", code], warm=True, **options)
        return lines == ["stdout: True"]

    def parents(self):
        """The fork servers."""
        found = []
        inits = {self.engine.pid_of(f"c{number}") for number in range(1, self._count + 1)}
        for process in psutil.Process(self.engine.pid).children():
            with contextlib.suppress(psutil.Error):
                is_warm = "warm_parent" in " ".join(process.cmdline())
                if is_warm and process.pid not in inits:
                    found.append(process)
        return found


@asynccontextmanager
async def bench(level=PLAIN):
    with tempfile.TemporaryDirectory(prefix="kubarium-test-") as folder:
        os.chmod(folder, 0o755)
        found = Bench(Path(folder))
        try:
            await found.engine.start((level,))
        except StartError as error:
            pytest.skip(f"{level}: {error}")
        await found.engine.create_sandbox("pod", "pod-name", [])
        try:
            yield found
        finally:
            pids = [found.engine.pid, *(p.pid for p in found.parents())]
            await found.engine.close()
            assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def until(question):
    for _ in range(1000):
        if question():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


def same(story_argv, level=PLAIN, **options):
    async def main():
        async with bench(level) as b:
            cold, warm = await b.both(*story_argv, **options)
            assert warm == cold
            assert await b.is_forked(**options)
            return warm

    return asyncio.run(main())


LOOK = """
import json, os, resource, signal, sys, threading
found = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": str(sys.flags),
    "executable": sys.executable, "prefix": sys.prefix, "environ": dict(os.environ),
    "cwd": os.getcwd(), "umask": os.umask(0o22), "ids": [os.getresuid(), os.getresgid()],
    "groups": os.getgroups(), "leader": os.getpid() == os.getpgrp() == os.getsid(0),
    "hostname": os.uname().nodename, "threads": threading.active_count(),
    "main thread": threading.current_thread() is threading.main_thread(),
    "signals": {s: str(signal.getsignal(s)) for s in signal.valid_signals() if s < 32},
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "limits": {n: resource.getrlimit(getattr(resource, n))
               for n in dir(resource) if n.startswith("RLIMIT")},
    "streams": [(s.encoding, s.errors, s.line_buffering, s.write_through, s.fileno(), s.mode,
                 s.isatty(), s.newlines) for s in (sys.stdin, sys.stdout, sys.stderr)],
    "same streams": sys.stdout is sys.__stdout__,
    "main": sorted(k for k in globals() if k.startswith("__")),
    "file": globals().get("__file__"), "name": __name__, "spec": str(__spec__ and __spec__.name),
    "package": __package__, "loader": str(type(__loader__)), "builtins": str(type(__builtins__)),
    "kubarium": [n for n in sys.modules if n.startswith("kubarium")],
    "interrupt": sys.getswitchinterval(), "recursion": sys.getrecursionlimit(),
    "own /proc": os.stat("/proc/self/status").st_uid == os.geteuid(),
    "descriptors": [n for n in os.listdir("/proc/self/fd")
                    if os.path.exists("/proc/self/fd/" + n) and int(n) > 2],
    # Signals 32 and 33 are the C library's own.
    "status": [(k, int(v, 16) & ~(3 << 31) if k.startswith("Sig") else v)
               for k, v in (l.split(":") for l in open("/proc/self/status"))
               if k.startswith(("Cap", "NoNew", "Sig")) and k != "SigQ"],
    "nice": os.nice(0), "affinity": sorted(os.sched_getaffinity(0)),
}
print(json.dumps(found, sort_keys=True))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_a_program_sees_the_same_start(level):
    _, [line] = same(["python3", "-c", LOOK, "one", "--two"], level)
    found = json.loads(line.removeprefix("stdout: "))
    assert found["argv"] == ["-c", "one", "--two"]
    assert found["descriptors"] == []
    assert found["kubarium"] == []


def test_scripts_and_modules_see_the_same_start_too(tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    same(["python3", "look.py", "x"], cwd=str(tmp_path))
    same(["python3", str(tmp_path / "look.py")])
    same(["python3", "-m", "look", "x"], cwd=str(tmp_path))
    same(["python3", "-u", "look.py"], cwd=str(tmp_path))


def test_another_user_sees_the_same_start():
    if os.geteuid() != 0:
        pytest.skip("only root may change users")
    user = User(1234, 1234, [1234, 4321], [])
    _, [line] = same(["python3", "-c", LOOK], ROOT, user=user)
    found = json.loads(line.removeprefix("stdout: "))
    assert found["ids"][0] == [1234, 1234, 1234]
    assert found["own /proc"] is True


def test_a_user_who_cannot_reach_our_interpreter_gets_the_machines():
    if os.geteuid() != 0:
        pytest.skip("only root may change users")

    async def main():
        async with bench(ROOT) as b:
            user = User(1234, 1234, [1234], [])
            argv = ["python3", "-c", "import sys; print(sys.executable)"]
            cold, warm = await b.both(*argv, user=user, passable=False)
            assert warm == cold

    asyncio.run(main())


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONUNBUFFERED": "1"},
        {"PYTHONPATH": "/tmp/of-the-user"},
        {"PYTHONHASHSEED": "7"},
        {"PYTHONOPTIMIZE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        {"LC_ALL": "C", "OMP_NUM_THREADS": "1"},
        {"PYTHONIOENCODING": "latin-1:replace"},
        {"RANK": "3", "PET_NODE_RANK": "3", "WEB_SERVICE_HOST": "127.0.0.1"},
    ],
)
def test_variables_mean_the_same(env):
    same(["python3", "-c", LOOK + "\nprint(hash('a') if 'PYTHONHASHSEED' in os.environ else 0)"],
         env=env)  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit(300)",
        "import sys; sys.exit('no data')",
        "raise SystemExit(None)",
        "import os; os._exit(9)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "raise KeyboardInterrupt",
        "1 / 0",
        "def f():\n    raise ValueError('deep')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    f()",
        "this is no Python",
        "import sys; sys.excepthook = lambda *a: print('hook', a[0].__name__); 1 / 0",
        "import sys; sys.stdout.write('not flushed'); sys.stderr.write('nor this')",
        "import atexit; atexit.register(print, 'a'); atexit.register(print, 'b'); print('main')",
        "import atexit; atexit.register(lambda: 1 / 0); print('main')",
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "print('main')",
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nprint('main')",
        "import sys; sys.stdout.close()",
        "import os; os.close(1); print('x')",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'])",
        "import subprocess; print(subprocess.run(['sh', '-c', 'ls /proc/$$/fd'],"
        " capture_output=True, text=True).stdout)",
        "import multiprocessing as m\nprint(m.get_context('fork').Pool(2).map(abs, [-1, 2]))",
        "import warnings; warnings.warn('careful')",
        "import numpy; print(numpy.arange(3).sum(), numpy.random.default_rng(1).integers(9))",
        "print(sum(1 for _ in open(0)))",
        "import asyncio; asyncio.run(asyncio.sleep(0)); print('done')",
        "import logging; logging.warning('x')",
        "import __main__; x = 1; print(__main__.x)",
        "import pickle\nclass C: pass\nprint(pickle.loads(pickle.dumps(C())).__class__.__module__)",
    ],
)
def test_a_program_ends_the_same(code):
    same(["python3", "-c", code])


def test_tracebacks_of_scripts_and_modules_are_the_same(tmp_path):
    (tmp_path / "breaks.py").write_text("def f(x):\n    return 1 / x\n\nf(0)\n")
    same(["python3", "breaks.py"], cwd=str(tmp_path))
    same(["python3", "-m", "breaks"], cwd=str(tmp_path))
    same(["python3", "-m", "not_there"], cwd=str(tmp_path))


@pytest.mark.parametrize(
    "argv",
    [
        ["python3", "-O", "-c", "print(__debug__)"],
        ["python3", "-I", "-c", "import sys; print(sys.flags.isolated)"],
        ["python3", "--version"],
        ["python3", "/not/there.py"],
        ["python3", "."],
        ["sh", "-c", "echo $0"],
    ],
)
def test_what_a_fork_cannot_do_starts_afresh(argv, tmp_path):
    (tmp_path / "__main__.py").write_text("print('of a folder')")

    async def main():
        async with bench() as b:
            cold, warm = await b.both(*argv, cwd=str(tmp_path))
            assert warm == cold

    asyncio.run(main())


def test_ranks_draw_different_random_numbers():
    code = "import random, numpy; print(random.random(), numpy.random.random())"

    async def main():
        async with bench() as b:
            assert await b.is_forked()
            first, second = [await b.run(["python3", "-c", code], warm=True) for _ in range(2)]
            for one, other in zip(first[1][0].split(), second[1][0].split(), strict=True):
                assert one == other == "stdout:" or one != other

    asyncio.run(main())


def test_input_and_signals_reach_a_fork():
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )

    async def main():
        async with bench() as b:
            ident = await b.start(["python3", "-c", code], warm=True)
            await until(lambda: b.log(ident))
            await b.engine.send_signal(ident, signal.SIGTERM)
            assert await b.exit_of(ident) == ExitStatus(7, 0)

    asyncio.run(main())


@pytest.mark.parametrize("level", LEVELS)
def test_kill_reaches_everything_below_a_fork(level):
    marker = f"6{os.getpid()}1"
    code = f"import subprocess; subprocess.run(['sleep', '{marker}'])"

    async def main():
        async with bench(level) as b:
            ident = await b.start(["python3", "-c", code], warm=True)
            await b.engine.send_signal(ident, signal.SIGKILL)
            assert await b.exit_of(ident) == ExitStatus(137, 9)
            left = [p for p in psutil.process_iter(["cmdline"]) if marker in str(p.info)]
            assert [p for p in left if p.info["cmdline"][:1] == ["sleep"]] == []

    asyncio.run(main())


def test_containers_of_one_environment_share_a_parent_and_others_do_not():
    async def main():
        async with bench() as b:
            for rank in range(3):
                await b.run(["python3", "-c", "pass"], warm=True, env={"RANK": str(rank)})
            assert len(b.parents()) == 1
            for threads in range(MAX_PARENTS + 2):
                env = {"OMP_NUM_THREADS": str(threads + 1)}
                status, _ = await b.run(["python3", "-c", "pass"], warm=True, env=env)
                assert status == ExitStatus(0, 0)
            assert len(b.parents()) == MAX_PARENTS

    asyncio.run(main())


def test_containers_start_without_a_parent_that_was_killed():
    async def main():
        async with bench() as b:
            await b.run(["python3", "-c", "pass"], warm=True)
            [parent] = b.parents()
            running = await b.start(["python3", "-c", "input()"], warm=True, stdin=True)
            parent.kill()
            status, lines = await b.run(["python3", "-c", "print(1)"], warm=True)
            assert (status, lines) == (ExitStatus(0, 0), ["stdout: 1"])
            assert running not in b.exits
            await b.engine.send_signal(running, signal.SIGKILL)
            await b.exit_of(running)

    asyncio.run(main())


def test_a_container_killed_while_its_parent_imports_never_starts(tmp_path):
    marker = tmp_path / "ran"

    async def main():
        async with bench() as b:
            slow = {"PYTHONPATH": str(tmp_path)}
            (tmp_path / "numpy.py").write_text("import time; time.sleep(1.5)")
            code = f"open({str(marker)!r}, 'w')"
            start = asyncio.create_task(b.start(["python3", "-c", code], warm=True, env=slow))
            await until(b.parents)
            await b.engine.send_signal("c1", signal.SIGKILL)
            with pytest.raises(StartError, match="killed before it started"):
                await start
            await asyncio.sleep(2)
            assert not marker.exists()

    asyncio.run(main())


def test_nobody_waits_for_a_parent_that_imports(tmp_path):
    """Not even when more is asked of it than fits into a socket."""
    (tmp_path / "numpy.py").write_text("import time; time.sleep(3)")

    async def main():
        async with bench() as b:
            large = {"PYTHONPATH": str(tmp_path), "KUBARIUM_LARGE": "x" * 16_000}
            argv = ["python3", "-c", "pass"]
            starts = [asyncio.create_task(b.start(argv, warm=True, env=large)) for _ in range(40)]
            await until(b.parents)
            await b.run(["true"], warm=False)
            assert not any(start.done() for start in starts)
            for ident in await asyncio.gather(*starts):
                assert await b.exit_of(ident) == ExitStatus(0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("level", LEVELS)
def test_fork_servers_end_with_the_zygote(level):
    async def main():
        async with bench(level) as b:
            await b.run(["python3", "-c", "pass"], warm=True)
            [parent] = b.parents()
            os.kill(b.engine.pid, signal.SIGKILL)
            await until(lambda: not parent.is_running())

    asyncio.run(main())


def test_modules_that_start_threads_or_fail_are_left_to_the_program(tmp_path):
    async def main():
        async with bench() as b:
            for number, text in enumerate(
                ("x = 1",  # nothing that could be seeded
                 "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()",
                 "raise ImportError('broken')"),
            ):  # fmt: skip
                folder = tmp_path / str(number)
                folder.mkdir()
                (folder / "numpy.py").write_text(text)
                env = {"PYTHONPATH": str(folder)}
                status, lines = await b.run(["python3", "-c", "print(2)"], warm=True, env=env)
                assert (status, lines) == (ExitStatus(0, 0), ["stdout: 2"])

    asyncio.run(main())


# what is forked at all


def test_only_images_with_heavy_modules_are_and_not_when_told_off():
    assert modules_for(("torch",), {}) == list(HEAVY["torch"])
    assert modules_for((), {}) == []
    for text in ("off", "false", "Off", "0"):
        assert modules_for(("torch",), {"kubarium.dev/fork-server": text}) == []


def test_what_differs_between_ranks_does_not_part_them():
    ranks = {
        "RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "PET_NNODES": "2",
        "HOSTNAME": "job-node-0-1", "KUBERNETES_PORT_443_TCP": "x", "DB_SERVICE_PORT_HTTP": "1",
        "DB_PORT": "tcp://1", "JOB_COMPLETION_INDEX": "1", "KUBEFLOW_TRAINER_SERVER_URL": "u",
    }  # fmt: skip
    kept = {"PATH": "/bin", "OMP_NUM_THREADS": "1", "LD_PRELOAD": "x.so", "TORCH_HOME": "/t"}
    assert shared_environment({**ranks, **kept}) == dict(sorted(kept.items()))


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["python3", "a.py", "-x"], Program("script", "a.py", ("-x",))),
        (["/usr/bin/python", "-c", "pass", "-u"], Program("code", "pass", ("-u",))),
        (["python3", "-u", "-m", "mod"], Program("module", "mod", (), unbuffered=True)),
        (["python3"], None),
        (["python3", "-"], None),
        (["python3", "-c"], None),
        (["python3", "-X", "dev", "a.py"], None),
        (["python2", "a.py"], None),
        (["torchrun", "a.py"], None),
        ([], None),
    ],
)
def test_command_lines_are_understood_or_left_alone(argv, program):
    assert parse(argv, {}) == program
