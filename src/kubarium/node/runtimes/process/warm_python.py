"""Run a Python program in a process that was forked, as a fresh interpreter would have run it.

What a program can see of its start is made anew: environment, arguments, paths, standard streams,
signals, descriptors, random numbers, ``__main__``. What is not made anew, because it cannot be: the
command line that others see in /proc, and that the heavy modules are imported already.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import os
import runpy
import shutil
import signal
import sys
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, SourceFileLoader
from traceback import format_exception_only
from types import TracebackType
from typing import Any

from kubarium.node.runtimes.process import linux

_FLUSH_FAILED = 120  # CPython's exit status for output that could not be written


@dataclass(frozen=True, slots=True)
class Program:
    """What an interpreter is asked to run. ``kind``: "code" (-c), "module" (-m) or "script"."""

    kind: str
    what: str
    arguments: tuple[str, ...]
    unbuffered: bool = False


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


def can_run(program: Program, argv: list[str], environment: Mapping[str, str]) -> bool:
    """Whether the command means our own interpreter to this user in here, and a script is a plain
    file: folders and archives are the interpreter's to open."""
    if shutil.which(argv[0], path=environment.get("PATH", "")) != sys.executable:
        return False
    return program.kind != "script" or (
        os.path.isfile(program.what) and not program.what.endswith((".pyc", ".zip", ".pyz"))
    )


@dataclass(frozen=True, slots=True)
class Fresh:
    """What an interpreter of this environment has right after its start."""

    path: list[str]
    added_environment: dict[str, str]


def run(
    program: Program,
    argv: list[str],
    environment: Mapping[str, str],
    fresh: Fresh,
    started: Callable[[], None],
) -> None:
    """Become the program and end with it. ``started`` is called when nothing can fail any more;
    who returns from here could not begin, and is to start an interpreter."""
    try:
        os.environ.clear()
        os.environ.update({**fresh.added_environment, **environment})
        if sys.platform == "linux":
            linux.make_dumpable()
        _forget_ourselves()
        _reseed()
        _open_streams(program.unbuffered)
        sys.orig_argv = list(argv)
        main = _main_of(program, fresh)
    except Exception:
        return
    started()
    _close_descriptors()
    _set_signals()
    os._exit(_finish(_run_main(main)))


# before


def _forget_ourselves() -> None:
    """A program that imports Kubarium gets it as it is there, not as the agent had it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kubarium"]:
        del sys.modules[name]


def _close_descriptors() -> None:
    try:
        held = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc in here
        held = list(range(1024))
    for number in held:
        if number > 2:
            with contextlib.suppress(OSError):
                os.close(number)


def _set_signals() -> None:
    """Python's own: the rest is as the container's start has left it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def _open_streams(unbuffered: bool) -> None:
    """Standard streams over descriptors 0 to 2, as CPython's ``create_stdio`` makes them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        mode = "rb" if number == 0 else "wb"
        raw = unbuffered and number > 0
        binary: Any = io.open(number, mode, buffering=0 if raw else -1, closefd=False)  # noqa: UP020, SIM115
        stream = io.TextIOWrapper(
            binary,
            encoding=getattr(old, "encoding", "utf-8"),
            errors="backslashreplace" if number == 2 else getattr(old, "errors", "strict"),
            newline=None if number == 0 else "\n",
            line_buffering=(number == 2 or binary.isatty()) and not raw,
            write_through=unbuffered,
        )
        stream.mode = "r" if number == 0 else "w"  # type: ignore[misc]
        (binary if raw else binary.raw).name = f"<{name}>"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _reseed() -> None:
    """``random`` does so by itself; NumPy's old generator was seeded when it was imported."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _main_of(program: Program, fresh: Fresh) -> Callable[[], object]:
    """``__main__``, ready to be run."""
    main = types.ModuleType("__main__")
    space = main.__dict__
    space.update(__builtins__=builtins, __annotations__={}, __package__=None, __spec__=None)
    sys.modules["__main__"] = main
    sys.path[:] = fresh.path
    if program.kind == "module":
        sys.argv = ["-m", *program.arguments]
        sys.path.insert(0, os.getcwd())
        run_module: Callable[[str], object] = runpy._run_module_as_main  # type: ignore[attr-defined]
        return lambda: run_module(program.what)
    if program.kind == "code":
        sys.argv = ["-c", *program.arguments]
        sys.path.insert(0, "")
        space["__loader__"] = BuiltinImporter
        return lambda: exec(compile(program.what, "<string>", "exec", dont_inherit=True), space)
    path = os.path.abspath(program.what)
    sys.argv = [program.what, *program.arguments]
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    space.update(__file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path))

    def run_script() -> None:
        with open(path, "rb") as file:
            source = file.read()
        exec(compile(source, path, "exec", dont_inherit=True), space)

    return run_script


# the program, and after


def _run_main(main: Callable[[], object]) -> int:
    """The exit status; a traceback shows the program's frames only."""
    try:
        main()
    except SystemExit as end:
        return _status_of(end)
    except KeyboardInterrupt as error:
        _show(error)
        return -signal.SIGINT
    except BaseException as error:
        _show(error)
        return 1
    return 0


def _status_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    with contextlib.suppress(Exception):
        print(end.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    traceback = error.__traceback__
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    sys.excepthook(type(error), error.with_traceback(traceback), traceback)


def _is_ours(traceback: TracebackType) -> bool:
    return traceback.tb_frame.f_code.co_filename == __file__


def _finish(code: int) -> int:
    """What an interpreter does at its end: threads, exit handlers, output."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError) as error:
            code = _FLUSH_FAILED
            if stream is sys.stdout:
                with contextlib.suppress(Exception):
                    text = "".join(format_exception_only(error))
                    print(f"Exception ignored in: {stream!r}\n{text}", end="", file=sys.stderr)
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code & 0xFF
