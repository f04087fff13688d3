"""Which commands of containers are Python programs, and what environment those begin with.

A command is the interpreter itself (``python3 train.py``), a launcher beside it (``torchrun``, a
script whose first line names the interpreter), or a shell that calls one of them (``bash -c``, as
Kubeflow's SDK sends it). Pure, but for looking programs up in ``PATH``.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass

# Scripts and modules that start Python programs in processes of their own.
LAUNCHER_SCRIPTS = ("torchrun", "accelerate")
LAUNCHER_MODULES = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands.launch",
)
# What torchrun sets for its workers where there are several and nobody has said otherwise.
THREADS = "OMP_NUM_THREADS"
# A first line longer than this names no interpreter: the kernel's own limit.
_MAX_FIRST_LINE = 256

# Variables that differ between the ranks of a job, or that a shell sets, and that no library reads
# while it is imported.
_OF_RANK = re.compile(
    r"PET_.*|KUBERNETES_.*|KUBEFLOW_.*|KUBARIUM_.*|DMLC_.*|TORCHELASTIC_.*|JOB_COMPLETION_INDEX|"
    r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|HOSTNAME|POD_.*|"
    r"NODE_NAME|TORCH_NCCL_ASYNC_ERROR_HANDLING|_|PWD|OLDPWD|SHLVL|"
    r".*_SERVICE_(HOST|PORT)(_.*)?|.*_PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?"
)
_SHELL_OPTIONS = re.compile(r"-[eu]*c[eu]*")
_MENTIONED = re.compile(r"\b(torchrun|accelerate|python[0-9.]*)\b")
_WORKERS = re.compile(r"--nproc[-_]per[-_]node[=\s]+['\"]?(\w+)")


@dataclass(frozen=True, slots=True)
class Program:
    """What an interpreter is asked to run. ``kind``: "code" (-c), "module" (-m) or "script"."""

    kind: str
    what: str
    arguments: tuple[str, ...]
    unbuffered: bool = False

    @property
    def is_launcher(self) -> bool:
        """Whether it is known to start other Python programs."""
        if self.kind == "module":
            return self.what in LAUNCHER_MODULES
        return self.kind == "script" and os.path.basename(self.what) in LAUNCHER_SCRIPTS


@dataclass(frozen=True, slots=True)
class Command:
    """``python``: the interpreter's path, as found. ``program`` is None for a shell's script that
    mentions Python. ``line``: the interpreter's own command line."""

    python: str
    program: Program | None
    line: tuple[str, ...]


def parse(argv: list[str], environment: Mapping[str, str]) -> Program | None:
    """The program of a Python command line; None if it is no such line, or says more to the
    interpreter than we know to follow.

    >>> parse(["python3", "-u", "train.py", "--lr", "1"], {})
    Program(kind='script', what='train.py', arguments=('--lr', '1'), unbuffered=True)
    """
    if not argv or not _is_python(argv[0]):
        return None
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    rest = argv[1:]
    while rest and rest[0] == "-u":
        unbuffered, rest = True, rest[1:]
    if not rest or rest[0] == "-":
        return None
    if rest[0] in ("-c", "-m"):
        kind = "code" if rest[0] == "-c" else "module"
        return Program(kind, rest[1], tuple(rest[2:]), unbuffered) if len(rest) > 1 else None
    if rest[0].startswith("-"):
        return None
    return Program("script", rest[0], tuple(rest[1:]), unbuffered)


def _is_python(command: str) -> bool:
    name = os.path.basename(command)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return name in ("python", "python3", f"python{version}")


def resolve(argv: list[str], environment: Mapping[str, str]) -> Command | None:
    """What a container's command means on the file system that we see; None if no Python."""
    if not argv:
        return None
    path = environment.get("PATH", "")
    program = parse(argv, environment)
    if program is not None:
        return _command(shutil.which(argv[0], path=path), program, argv)
    if os.path.basename(argv[0]) in LAUNCHER_SCRIPTS:
        return _script(argv, environment)
    if is_shell(argv, environment):
        for name in ("torchrun", "python3", "python"):
            python = interpreter_of(name, path)
            if python is not None:
                return _command(python, None, argv)
    return None


def _command(python: str | None, program: Program | None, line: list[str]) -> Command | None:
    if python is None or not os.path.isabs(python):
        return None
    return Command(python, program, tuple(line))


def _script(argv: list[str], environment: Mapping[str, str]) -> Command | None:
    """A script that the kernel gives to the interpreter in its first line."""
    path = environment.get("PATH", "")
    script = shutil.which(argv[0], path=path)
    interpreter = _first_line(script) if script else []
    if script is None or not interpreter:
        return None
    line = [*interpreter, script, *argv[1:]]
    program = parse(line, environment)
    return None if program is None else _command(shutil.which(line[0], path=path), program, line)


def _first_line(path: str) -> list[str]:
    """The interpreter that a script asks for, ``env`` looked through; [] if none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = os.read(descriptor, _MAX_FIRST_LINE) if is_file else b""
        finally:
            os.close(descriptor)
    except OSError:
        return []
    first, end, _ = data.partition(b"\n")
    if not end or not first.startswith(b"#!"):
        return []
    words = os.fsdecode(first[2:]).split(None, 1)
    words = [word.strip() for word in words]
    return words[1:] if words and os.path.basename(words[0]) == "env" else words


def interpreter_of(name: str, path: str) -> str | None:
    """The absolute path of the interpreter that runs ``name`` (itself one, or a script)."""
    found = shutil.which(name, path=path)
    if found is None or not os.path.isabs(found):
        return None
    if _is_python(name):
        return found
    line = _first_line(found)
    python = shutil.which(line[0], path=path) if len(line) == 1 else None
    return python if python and _is_python(python) and os.path.isabs(python) else None


def is_shell(argv: list[str], environment: Mapping[str, str]) -> bool:
    """Whether it is ``bash -c`` with a script that mentions Python, so that we may offer it ours.
    A bash that reads start files of its own is left alone."""
    return (
        len(argv) > 2
        and os.path.basename(argv[0]) == "bash"
        and _SHELL_OPTIONS.fullmatch(argv[1]) is not None
        and "BASH_ENV" not in environment
        and _MENTIONED.search(argv[2]) is not None
    )


def same_interpreter(one: str, other: str) -> bool:
    """Whether two paths are names of one interpreter in one environment: ``python`` and
    ``python3``, side by side."""
    if one == other:
        return True
    beside = os.path.dirname(one) == os.path.dirname(other)
    return beside and os.path.realpath(one) == os.path.realpath(other)


def shared_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the parent's environment must say for its children to be like fresh interpreters."""
    return {k: v for k, v in sorted(environment.items()) if not _OF_RANK.fullmatch(k)}


def parents_environment(command: Command, environment: Mapping[str, str]) -> dict[str, str]:
    """What a parent is to import with, so that what the command starts can be forked from it.

    A launcher's workers have one thread each where there are several of them: a parent with more
    could not stand in. This is a guess that costs time if it is wrong, and never a result: who is
    forked compares.
    """
    shared = shared_environment(environment)
    if command.program is None:
        text = command.line[2] if _MENTIONED.search(command.line[2]) else ""
        launches = "torchrun" in text or any(module in text for module in LAUNCHER_MODULES)
    else:
        text = " ".join(command.program.arguments)
        launches = command.program.is_launcher
    found = _WORKERS.search(text)
    workers = found[1] if found else environment.get("PET_NPROC_PER_NODE", "1")
    count = int(workers) if workers.isdigit() else os.cpu_count() or 1
    if launches and count > 1 and THREADS not in shared:
        shared[THREADS] = "1"
    return shared
