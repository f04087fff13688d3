"""torchrun and its workers, forked, do what they do when each is an interpreter of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys

import psutil
import pytest

from kubarium.node.runtimes.process.engine import ExitStatus
from kubarium.node.runtimes.process.forkserver import HEAVY
from kubarium.node.runtimes.process.zygote import PLAIN, ROOT

from . import test_forkserver
from .test_forkserver import LOOK, bench, until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="fork servers exist on Linux only"),
    pytest.mark.torch,
    pytest.mark.timeout(300),
]
RUN = ["torchrun"]
WORKERS = "--nproc-per-node=2"
# A sandbox without a network has a name that nobody resolves.
HERE = "--local-addr=127.0.0.1"
WORKER = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([1.0 + dist.get_rank()])
dist.all_reduce(total)
fork = b"warm_" + b"parent" in open("/proc/self/cmdline", "rb").read()
line = f"{dist.get_rank()} {dist.get_world_size()} {total.item()} {torch.get_num_threads()}"
os.write(1, f"{line} fork {fork}\\n".encode())  # at once: another worker writes to the same pipe
dist.destroy_process_group()
"""
# What differs from run to run.
VARYING = re.compile(
    r"(?<=process )[0-9]+|(?<=pid: )[0-9]+|"
    r"\b[0-9]{2,}\b|/tmp/torchelastic\S*|none_\w+|\d\d:\d\d:\d\d\.?\d*|[0-9a-f]{8}-[0-9a-f-]{27}|"
    r"localhost:\d+|time +: \S+|0x…"
)


@pytest.fixture(autouse=True)
def torch_is_heavy(monkeypatch):
    monkeypatch.setattr(test_forkserver, "MODULES", HEAVY["torch"])


def plain(found):
    """Sorted, since workers write when they like."""
    status, lines = found
    same = [re.sub(r"([EWI][0-9]{4} \S+ )[0-9]+(?= torch/)", r"\1…", line) for line in lines]
    same = [line.replace("fork False", "fork True") for line in same]
    return status, sorted(VARYING.sub("…", line) for line in same)


def both(*argv, files, level=PLAIN, forks=True):
    async def main():
        async with bench(level) as b:
            for name, text in files.items():
                (b.folder / name).write_text(text)
                (b.folder / name).chmod(0o755)
            cold, warm = await b.both(*argv, cwd=str(b.folder))
            assert plain(warm) == plain(cold)
            assert "fork False" in "".join(cold[1]) or not forks
            assert ("fork False" not in "".join(warm[1])) or not forks
            return warm

    return asyncio.run(main())


@pytest.mark.parametrize("level", [PLAIN, ROOT])
@pytest.mark.parametrize(
    "command",
    [
        [*RUN, HERE, WORKERS, "worker.py"],
        ["python3", "-m", "torch.distributed.run", HERE, WORKERS, "worker.py"],
        ["bash", "-c", f"torchrun {HERE} {WORKERS} worker.py"],
    ],
    ids=["torchrun", "module", "bash"],
)
def test_workers_reduce_together(command, level):
    status, lines = both(*command, files={"worker.py": WORKER}, level=level)
    assert status == ExitStatus(0, 0)
    assert sorted(line for line in lines if "fork" in line) == [
        f"stdout: {rank} 2 3.0 1 fork True" for rank in (0, 1)
    ]
    assert any("Setting OMP_NUM_THREADS" in line for line in lines)


def test_a_worker_sees_the_same_start(tmp_path):
    look = LOOK.replace(
        "print(json", "found['ppid is the launcher'] = os.getppid() != 1\nprint(json"
    )
    (tmp_path / "look.py").write_text("import torch\n" + look + "\nprint('fork', " + IS_FORK + ")")

    async def main():
        async with bench() as b:
            argv = ["torchrun", "--standalone", "look.py", "--lr", "1"]
            found = []
            for _, lines in await b.both(*argv, cwd=str(tmp_path)):
                [line] = [line for line in lines if "argv" in line]
                found.append(json.loads(line.removeprefix("stdout: ")))
                found[-1]["fork"] = "stdout: fork True" in lines
            cold, warm = found
            assert (cold.pop("fork"), warm.pop("fork")) == (False, True)
            for one in found:
                for name in ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE"):
                    assert one["environ"].pop(name) is not None
            # A worker's own interpreter finds LC_CTYPE in its environment, where its launcher's
            # has put it, instead of the C locale: it says that it is not in UTF-8 mode, and is.
            for one in found:
                one["flags"] = re.sub("utf8_mode=.", "", one["flags"])
            assert warm == cold

    asyncio.run(main())


IS_FORK = "b'warm_' + b'parent' in open('/proc/self/cmdline', 'rb').read()"
FAILS = {
    "raises": "raise ValueError('no data')",
    "exits": "raise SystemExit(3)",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "recorded": (
        "from torch.distributed.elastic.multiprocessing.errors import record\n"
        "@record\ndef main():\n    raise ValueError('no data')\nmain()"
    ),
    "is no Python": "this is none",
}


@pytest.mark.parametrize("how", FAILS)
def test_failures_are_reported_the_same(how):
    status, lines = both(*RUN, "fails.py", files={"fails.py": FAILS[how]}, forks=False)
    assert status == ExitStatus(1, 0)
    assert any("fails.py FAILED" in line for line in lines)


def test_restarts_redirects_and_modules_are_the_same():
    text = (
        "import os, sys, time\nprint('attempt', os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        f"print('fork', {IS_FORK}, flush=True)\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    if os.environ['RANK'] == '1':\n        open('ready', 'w')\n        time.sleep(100)\n"
        "    while not os.path.exists('ready'):\n        time.sleep(0.1)\n"
        "    os.remove('ready')\n    sys.exit(1)"
    )
    options = ["--max-restarts=1", "--redirects=0", "--tee=3", "--log-dir=logs"]
    status, lines = both(*RUN, *options, WORKERS, "-m", "again", files={"again.py": text})
    assert status == ExitStatus(0, 0)
    assert sum("attempt 1" in line for line in lines) == 2


def test_what_cannot_be_forked_starts_as_ever():
    shell = "#!/bin/sh\necho fork $RANK\n"
    both(*RUN, "--no-python", "./plain.sh", files={"plain.sh": shell}, forks=False)
    both(*RUN, "not_there.py", files={}, forks=False)
    files = {"random.py": "raise RuntimeError('mine')", "uses.py": "import random"}
    both(*RUN, "uses.py", files=files, forks=False)


def test_sigterm_ends_the_workers(tmp_path):
    (tmp_path / "waits.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(0)))\n"
        f"print('fork', {IS_FORK}, flush=True)\ntime.sleep(100)"
    )

    async def main():
        async with bench() as b:
            found = []
            for warm in (False, True):
                ident = await b.start([*RUN, WORKERS, "waits.py"], warm, cwd=str(tmp_path))
                for _ in range(6):
                    with contextlib.suppress(AssertionError):
                        await until(lambda i=ident: sum("fork" in line for line in b.log(i)) == 2)
                        break
                below = psutil.Process(b.engine.pid_of(ident)).children(recursive=True)
                await b.engine.send_signal(ident, signal.SIGTERM)
                found.append(plain((await b.exit_of(ident), b.log(ident))))
                await until(lambda found=below: not any(p.is_running() for p in found))
            # Where in its code the launcher is told, and how often it warns, is chance.
            said = ("told", "death signal, shutting down workers", "got signal: 15")
            cold, warm = (
                (status, [any(text in line for line in lines) for text in said])
                for status, lines in found
            )
            assert cold == warm
            assert sum("told" in line for line in found[1][1]) == 2

    asyncio.run(main())
