"""Stands before a rank's command: starts it with its rank, and again in place with a new one.

    python -m kubarium.train.launch -- python train.py --lr 0.1

Kubarium puts it there for pods that ask for spares or an elastic gang; the command itself needs to
know nothing of it. It imports what the command's module imports (of installed packages, so that
nothing of the user's own runs ahead of time), says "Waiting" and waits at the rendezvous: a file
that the node keeps, ``world.json``, with the attempt, this pod's rank, the number of ranks and the
address of rank 0. Each new attempt ends the command that runs and starts it anew, forked from
here, with the usual variables of launchers and a port of its own, so that no attempt meets the
store of the one before. How it goes is written to ``launch.json``.

    Waiting → Running → Failed | Stopped | Succeeded → (next attempt) Running …

A command that succeeds waits for all others to do so: until then the gang may have to go back.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import re
import signal
import site
import sys
import sysconfig
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubarium.train.progress import FOLDER_VARIABLE

WORLD_FILE, STATE_FILE = "world.json", "launch.json"
WAITING, RUNNING, FAILED = "Waiting", "Running", "Failed"
STOPPED, SUCCEEDED = "Stopped", "Succeeded"
STOPPED_CODE = 143
LOOK_S = 0.02
# A command that is asked to make way for a new attempt has this long to save its step.
GENTLE_S = 15.0
# Ports of attempts: the one that the job names, and this many after it, in turn.
PORTS = 64
DEFAULT_PORT = 29500
_PR_SET_PDEATHSIG = 1


def environment(world: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """What changes in the command's variables with an attempt.

    Those of other launchers (PET_*, JAX_*, DMLC_*) are set only where the job has them.
    """
    rank, size = str(int(world["rank"])), str(int(world["world"]))
    attempt, address = int(world["attempt"]), str(world["master"])
    base = next((v for k in ("MASTER_PORT", "PET_MASTER_PORT") if (v := given.get(k, ""))), "")
    port = str((int(base) if base.isdecimal() else DEFAULT_PORT) + (attempt - 1) % PORTS)
    found = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "JOB_COMPLETION_INDEX": rank,
        "KUBARIUM_ATTEMPT": str(attempt),
    }
    if world.get("hostname"):
        found["HOSTNAME"] = str(world["hostname"])
    of_others = {
        "PET_NODE_RANK": rank,
        "PET_NNODES": size,
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": port,
        "JAX_PROCESS_ID": rank,
        "JAX_NUM_PROCESSES": size,
        "JAX_COORDINATOR_ADDRESS": f"{address}:{port}",
        "DMLC_TASK_ID": rank,
        "DMLC_NUM_WORKER": size,
        "DMLC_TRACKER_URI": address,
        "DMLC_TRACKER_PORT": port,
    }
    return found | {name: value for name, value in of_others.items() if name in given}


# What the command is -----------------------------------------------------------------------------


def python_call(argv: Sequence[str]) -> tuple[str, str, list[str], bool] | None:
    """``(kind, what, rest, unbuffered)`` of a command that this interpreter can run: kind is "-m",
    "-c" or "script". None for other programs and for options of the interpreter but ``-u``."""
    name = Path(argv[0]).name
    if name != Path(sys.executable).name and not re.fullmatch(r"python(\d+(\.\d+)?)?", name):
        return None
    rest, unbuffered = list(argv[1:]), False
    while rest and rest[0] == "-u":
        rest, unbuffered = rest[1:], True
    if rest[:1] in (["-m"], ["-c"]) and len(rest) > 1:
        return rest[0], rest[1], rest[2:], unbuffered
    if rest and not rest[0].startswith("-") and Path(rest[0]).is_file():
        return "script", rest[0], rest[1:], unbuffered
    return None


def _source(kind: str, what: str) -> str:
    if kind == "-c":
        return what
    if kind == "script":
        return Path(what).read_text()
    spec = importlib.util.find_spec(what)
    return Path(spec.origin).read_text() if spec and spec.origin else ""


def installed_imports(source: str) -> list[str]:
    """The modules that ``source`` imports at its top and that are installed packages or Python's
    own; with torch comes torch._dynamo, which the first optimizer would import."""
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    found = [name for name in names if _is_installed(name.partition(".")[0])]
    if any(name.partition(".")[0] == "torch" for name in found):
        found.append("torch._dynamo")
    return list(dict.fromkeys(found))


def _is_installed(top: str) -> bool:
    if top in sys.builtin_module_names:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    folders = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")]
    return bool(spec and spec.origin and any(spec.origin.startswith(f) for f in folders))


def warm_up(argv: Sequence[str]) -> list[str]:
    """Import ahead what the command will import; what cannot be is left to it to fail on."""
    call = python_call(argv)
    if call is None:
        return []
    try:
        wanted = installed_imports(_source(call[0], call[1]))
    except (OSError, SyntaxError, ValueError, ImportError):
        return []
    done = []
    for name in wanted:
        try:
            importlib.import_module(name)
            done.append(name)
        except Exception:
            continue
    return done


def run_command(argv: Sequence[str]) -> None:
    """In the forked child: become the command. Python runs in this interpreter."""
    call = python_call(argv)
    if call is None:
        try:
            os.execvp(argv[0], list(argv))
        except OSError as error:
            print(f"{argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
            raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None
    kind, what, rest, unbuffered = call
    if unbuffered:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.argv = [what if kind == "script" else kind, *rest]
    sys.path[0] = str(Path(what).resolve().parent) if kind == "script" else os.getcwd()
    if kind == "-m":
        importlib.import_module("runpy").run_module(what, run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    if kind == "script":
        main.__file__ = what
    sys.modules["__main__"] = main
    exec(compile(_source(kind, what), what if kind == "script" else "<string>", "exec"), vars(main))


# The launcher ------------------------------------------------------------------------------------


class Launcher:
    """One pod's rank; ``run`` returns the exit code, in the parent only."""

    def __init__(self, folder: Path, argv: Sequence[str]) -> None:
        self._folder, self._argv = folder, argv
        self._child = 0
        self._world: dict[str, Any] = {}
        self._asked_to_end = False
        self._last_code = 0

    def run(self) -> int | Callable[[], None]:
        """The exit code; in a forked child, what it is to do."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # What stands there is of a launcher before this one: its peers have gone on.
        seen = int(self._read().get("attempt", 0))
        self._say(WAITING)
        while True:
            world = self._read()
            if self._asked_to_end and not self._child:
                return self._last_code or STOPPED_CODE
            if world.get("done"):
                return 0
            if world.get("giveUp"):
                self._end_child(0)
                return self._last_code or 1
            if int(world.get("attempt", 0)) > seen and not self._asked_to_end:
                seen = int(world["attempt"])
                self._end_child(GENTLE_S if world.get("gentle") else 0)
                self._world = world
                child = None if self._is_over() else self._start()
                if child is not None:
                    return child
            self._reap()
            time.sleep(LOOK_S)

    def _is_over(self) -> bool:
        """Whether a signal has ended us meanwhile."""
        return self._asked_to_end

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads((self._folder / WORLD_FILE).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _say(self, state: str, code: int = 0) -> None:
        attempt = int(self._world.get("attempt", 0))
        text = json.dumps({"attempt": attempt, "state": state, "code": code, "at": time.time()})
        beside = self._folder / f".{STATE_FILE}"
        beside.write_text(text)
        beside.rename(self._folder / STATE_FILE)

    def _start(self) -> Callable[[], None] | None:
        """Fork; in the child the work it has to do, in the parent None."""
        for name in ("stop.json", "save.json"):
            (self._folder / name).unlink(missing_ok=True)
        self._say(RUNNING)
        sys.stdout.flush()
        sys.stderr.flush()
        self._child = os.fork()
        if self._child:
            os.setpgid(self._child, self._child)
            return None
        with contextlib.suppress(AttributeError):  # it goes with us, where the kernel can see to it
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(environment(self._world, os.environ))
        return lambda: run_command(self._argv)

    def _reap(self) -> None:
        if not self._child:
            return
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
            self._ended(status)

    def _ended(self, status: int) -> None:
        self._kill(signal.SIGKILL)  # what it has left behind
        self._child = 0
        code = os.waitstatus_to_exitcode(status)
        self._last_code = 128 - code if code < 0 else code
        state = {0: SUCCEEDED, STOPPED_CODE: STOPPED}.get(self._last_code, FAILED)
        self._say(state, self._last_code)

    def _end_child(self, grace_s: float) -> None:
        """Have the command end: in ``grace_s`` seconds by itself, then at once."""
        if not self._child:
            return
        if grace_s:
            self._kill(signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while self._child and time.monotonic() < deadline:
                self._reap()
                time.sleep(LOOK_S)
        if self._child:
            self._kill(signal.SIGKILL)
            _, status = os.waitpid(self._child, 0)
            self._ended(status)

    def _kill(self, number: int) -> None:
        try:
            os.killpg(self._child, number)
        except (ProcessLookupError, PermissionError):
            return

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._asked_to_end = True
        if self._child:
            self._kill(signal.SIGTERM)


def _command(arguments: Sequence[str]) -> Iterator[str]:
    yield from arguments[1:] if arguments[:1] == ["--"] else arguments


def main() -> None:
    argv = list(_command(sys.argv[1:]))
    if not argv:
        sys.exit("usage: python -m kubarium.train.launch -- COMMAND [ARGUMENT…]")
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:  # not in a pod of ours: the command alone
        run_command(argv)
        return
    warm_up(argv)
    found = Launcher(Path(folder), argv).run()
    if isinstance(found, int):
        sys.exit(found)
    try:
        found()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
