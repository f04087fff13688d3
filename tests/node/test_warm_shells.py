"""Python programs that a shell starts are forked too, and neither they nor the shell can tell.

As in test_forkserver: every case is run by fresh interpreters and by forks, and compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys

import psutil
import pytest

from kubarium.node.runtimes.process.engine import ExitStatus
from kubarium.node.runtimes.process.warm_commands import is_shell, parents_environment, resolve
from kubarium.node.runtimes.process.zygote import PLAIN

from .test_forkserver import ENV, LEVELS, LOOK, bench, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork servers exist on Linux only")
IS_FORK = "print(b'warm_' + b'parent' in open('/proc/self/cmdline', 'rb').read())"
# A program in a shell of its own leads a process group of its own, if it is a fork.
SEEN = LOOK.replace('"leader": os.getpid() == os.getpgrp() == os.getsid(0),', "")


def without_ids(found):
    status, lines = found
    return status, [re.sub(r"line 1: +[0-9]+ ", "line 1: 1 ", line) for line in lines]


def both(script, level=LEVELS[0], *more, forked=True, **options):
    """What the script did, either way."""

    async def main():
        async with bench(level) as b:
            cold, warm = await b.both("bash", "-c", script, *more, **options)
            assert without_ids(warm) == without_ids(cold)
            if forked:
                _, lines = await b.run(["bash", "-c", f'python3 -c "{IS_FORK}"'], warm=True)
                assert lines == ["stdout: True"]
            return warm

    return asyncio.run(main())


@pytest.mark.parametrize("level", LEVELS)
def test_a_program_in_a_shell_sees_the_same_start(level, tmp_path):
    folder = str(tmp_path) if level == PLAIN else "/"
    script = f"cat > ./look.py <<'EOM'\n{SEEN}\nEOM\npython3 ./look.py a 'b c'"
    status, [line] = both(script, level, cwd=folder)
    found = json.loads(line.removeprefix("stdout: "))
    assert status == ExitStatus(0, 0)
    assert found["argv"] == ["./look.py", "a", "b c"]
    assert found["environ"]["SHLVL"]
    assert found["environ"]["_"].endswith("/python3")
    assert "BASH_ENV" not in found["environ"]


@pytest.mark.parametrize(
    "script",
    [
        "python3 -c 'import sys; sys.exit(7)'; echo $?",
        "python3 -c 'import sys; sys.exit(7)'",
        "exec python3 -c 'import sys; sys.exit(7)'",
        "python3 -c 'import os; os.kill(os.getpid(), 15)'; echo $?",
        "python3 -c 'import os; os.kill(os.getpid(), 9)' 2>/dev/null; echo $?",
        "python3 -c '1/0'",
        "echo a b | python3 -c 'print(input().upper())' | tr A z",
        "X=$(python3 -c 'print(40 + 2)'); echo $X",
        "python3 - <<'EOM'\nprint('from input')\nEOM",
        "python3 -c 'import os; print(os.environ[\"MINE\"])'; true",
        "MINE=2 python3 -c 'import os; print(os.environ[\"MINE\"])'",
        "cd /tmp && umask 077 && ulimit -n 99 && python3 -c 'import os, resource;"
        "print(os.getcwd(), oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_NOFILE))'",
        "trap '' INT; python3 -c 'import signal; print(signal.getsignal(2))'",
        "python3 -c 'import signal; print(signal.getsignal(2))' & wait $!; echo $?",
        "python3 -c 'import time; time.sleep(60)' & sleep 0.7; kill -TERM $!; wait $!; echo $?",
        "python3 -c 'import time; time.sleep(60)' & sleep 0.7; kill -KILL $!; wait $!; echo $?",
        "python3 -c 'import os; print(os.path.exists(\"/proc/self/fd/7\"))' 7</dev/null",
        "python3 -V; python3 -O -c 'print(__debug__)'; python3 /not/there.py; echo $?",
        "which python3; echo $PATH; env | grep -c BASH_ENV; python3 -c pass; echo ${BASH_ENV-none}",
        "set -eu; python3 -c 'raise SystemExit(3)'; echo not reached",
        "python3 -c 'print(1)' > out.txt; cat out.txt; rm out.txt",
        "python -c 'import sys; print(sys.executable, sys.orig_argv)'",
        "(python3 -c 'print(1)'; python3 -c 'print(2)') && echo done",
        "for i in 1 2 3; do python3 -c \"print($i)\"; done",
        "PATH=/nowhere; python3 -c 'print(1)'; echo $?",
        "python3 -m not_there; echo $?",
    ],
)  # fmt: skip
def test_a_shell_ends_the_same(script, tmp_path):
    both(script, cwd=str(tmp_path), env={"MINE": "1"})


def test_arguments_and_options_of_the_shell_are_its_own():
    both('echo $0 "$@"; python3 -c "import sys; print(sys.argv)" "$@"', LEVELS[0], "zero", "o n e")


@pytest.mark.parametrize("name", ["numpy.py", "select.py"])
def test_a_program_that_brings_a_module_of_ours_gets_its_own(name, tmp_path):
    (tmp_path / name).write_text("print('mine')")
    (tmp_path / "main.py").write_text(f"import {name[:-3]} as m; print(m.__file__)")
    _, lines = both("python3 main.py", cwd=str(tmp_path))
    assert lines[-1] == f"stdout: {tmp_path / name}" or name == "select.py"


def test_what_pip_has_changed_since_is_imported_anew(tmp_path):
    text = "class random: seed = staticmethod(lambda: None)\nVERSION = %s\n"
    (tmp_path / "numpy.py").write_text(text % 1)
    env = {"PYTHONPATH": str(tmp_path)}
    change = f"echo '{text % 22}' > {tmp_path}/numpy.py; "
    show = "python3 -c 'import numpy; print(numpy.VERSION)'"

    async def main():
        async with bench() as b:
            _, lines = await b.run(["bash", "-c", show + "; " + change + show], True, env=env)
            assert lines == ["stdout: 1", "stdout: 22"]
            _, lines = await b.run(["python3", "-c", IS_FORK], True, env=env)
            assert lines == ["stdout: False"]  # the old parent ends with this one
            _, lines = await b.run(["bash", "-c", show], True, env=env)
            assert lines == ["stdout: 22"]
            _, lines = await b.run(["python3", "-c", IS_FORK], True, env=env)
            assert lines == ["stdout: True"]

    asyncio.run(main())


@pytest.mark.parametrize("level", LEVELS)
def test_kill_reaches_everything_below_a_shell(level):
    marker = f"7{os.getpid()}2"
    script = f'python3 -c \'import subprocess; subprocess.run(["sleep", "{marker}"])\'; echo x'

    def sleepers():
        found = psutil.process_iter(["cmdline"])
        return [p for p in found if (p.info["cmdline"] or [])[-1:] == [marker]]

    async def main():
        async with bench(level) as b:
            ident = await b.start(["bash", "-c", script], warm=True)
            await until(sleepers)
            await b.engine.send_signal(ident, signal.SIGKILL)
            assert await b.exit_of(ident) == ExitStatus(137, 9)
            await until(lambda: not sleepers())
            assert b.log(ident) == []

    asyncio.run(main())


def test_a_shell_without_its_nursery_runs_the_real_programs():
    script = "sleep 1; python3 -c 'print(1)'"

    async def main():
        async with bench() as b:
            ident = await b.start(["bash", "-c", script], warm=True)
            init = psutil.Process(b.engine.pid_of(ident))
            [nursery] = [p for p in init.children() if "warm_parent" in " ".join(p.cmdline())]
            nursery.kill()
            assert await b.exit_of(ident) == ExitStatus(0, 0)
            assert b.log(ident) == ["stdout: 1"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("argv", "env", "yes"),
    [
        (["bash", "-c", "torchrun a.py"], {}, True),
        (["/bin/bash", "-ec", "python a.py"], {}, True),
        (["bash", "-c", "sleep 1"], {}, False),
        (["bash", "-lc", "python a.py"], {}, False),
        (["bash", "-xc", "python a.py"], {}, False),
        (["bash", "a.sh"], {}, False),
        (["sh", "-c", "python a.py"], {}, False),
        (["bash", "-c", "python a.py"], {"BASH_ENV": "/x"}, False),
    ],
)
def test_which_shells_are_offered_forks(argv, env, yes):
    assert is_shell(argv, env) is yes


@pytest.mark.parametrize(
    ("argv", "env", "threads"),
    [
        (["python3", "-m", "torch.distributed.run", "--nproc-per-node=4", "a.py"], {}, "1"),
        (["python3", "-m", "torch.distributed.run", "--nproc_per_node", "4", "a.py"], {}, "1"),
        (["python3", "-m", "torch.distributed.run", "a.py"], {}, None),
        (["python3", "-m", "torch.distributed.run", "a.py"], {"PET_NPROC_PER_NODE": "2"}, "1"),
        (["bash", "-c", "python3 -m torch.distributed.run --nproc-per-node=2 a"], {}, "1"),
        (["bash", "-c", "python3 -m train"], {"PET_NPROC_PER_NODE": "2"}, None),
        (["python3", "a.py"], {"PET_NPROC_PER_NODE": "2"}, None),
        (["python3", "-m", "torch.distributed.run", "--nproc-per-node=4"],
         {"OMP_NUM_THREADS": "3"}, "3"),
    ],
)  # fmt: skip
def test_workers_of_a_launcher_get_as_many_threads_as_it_would_give_them(argv, env, threads):
    command = resolve(argv, {**ENV, **env})
    assert parents_environment(command, env).get("OMP_NUM_THREADS") == threads
