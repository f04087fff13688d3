"""Run a Python program in a process that was forked, as a fresh interpreter would have run it.

What a program can see of its start is made anew: environment, arguments, paths, standard streams,
signals, descriptors, random numbers, ``__main__``. What is not made anew, because it cannot be: the
command line that others see in /proc, and that the heavy modules are imported already.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import io
import linecache
import os
import runpy
import signal
import sys
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import BuiltinImporter, SourceFileLoader
from traceback import format_exception_only
from types import TracebackType
from typing import Any

from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.warm_commands import (
    THREADS,
    Command,
    Program,
    resolve,
    same_interpreter,
    shared_environment,
)
from kubarium.node.runtimes.process.warm_launcher import fork_workers_of
from kubarium.node.runtimes.process.warm_nursery import beside_launcher, close_descriptors

_FLUSH_FAILED = 120  # CPython's exit status for output that could not be written


@dataclass(frozen=True, slots=True)
class Fresh:
    """What an interpreter of this environment has right after its start, and what we have imported
    since. ``modules``: of each top-level module its file, with its time and size then."""

    path: list[str]
    added_environment: dict[str, str]
    environment: dict[str, str]
    shim: bytes = b""
    modules: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def note_modules(self) -> None:
        """Everything is imported now."""
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if "." not in name and name not in ("__main__", "kubarium") and file:
                with contextlib.suppress(OSError):
                    self.modules[name] = (file, *_stamp(file))

    def is_stale(self) -> bool:
        """Whether a fresh interpreter would import something else by now (pip has run)."""
        try:
            return any(_stamp(file) != (when, size) for file, when, size in self.modules.values())
        except OSError:
            return True

    def is_hidden_by(self, folder: str) -> bool:
        """Whether a program that looks in ``folder`` first finds another module of a name."""
        if folder in self.path:
            return False
        try:
            with os.scandir(folder) as entries:
                return any(self._is_ours(entry) for entry in entries)
        except OSError:
            return False

    def _is_ours(self, entry: os.DirEntry[str]) -> bool:
        stem, dot, suffix = entry.name.partition(".")
        if stem not in self.modules:
            return False
        if dot:
            return suffix.endswith(("py", "pyc", "so"))
        return os.path.isfile(os.path.join(entry.path, "__init__.py"))


def _stamp(file: str) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_mtime_ns, found.st_size


def can_run(command: Command, environment: Mapping[str, str], fresh: Fresh) -> bool:
    """Whether a fresh interpreter, started by this user in here, would have what we have: it is
    ours, in the same environment, and finds the same modules. A script must be a plain file:
    folders and archives are the interpreter's to open."""
    program = command.program
    if program is None or not same_interpreter(command.python, sys.executable):
        return False
    if program.kind == "script" and (
        not os.path.isfile(program.what) or program.what.endswith((".pyc", ".zip", ".pyz"))
    ):
        return False
    # A Python that started this one has made its additions already.
    ours = fresh.added_environment | fresh.environment
    theirs = fresh.added_environment | shared_environment(environment)
    if program.is_launcher:  # which computes nothing itself
        ours.pop(THREADS, None)
        theirs.pop(THREADS, None)
    folder = os.path.dirname(os.path.realpath(program.what)) if program.kind == "script" else "."
    return ours == theirs and not fresh.is_stale() and not fresh.is_hidden_by(folder)


def run_command(
    argv: list[str], environment: Mapping[str, str], started: Callable[[], None], fresh: Fresh
) -> None:
    """``run`` for a command line, if it is a program that we can run."""
    command = resolve(argv, environment)
    if command is not None and can_run(command, environment, fresh):
        run(command, environment, fresh, started)


def run(
    command: Command, environment: Mapping[str, str], fresh: Fresh, started: Callable[[], None]
) -> None:
    """Become the program and end with it. ``started`` is called when nothing can fail any more;
    who returns from here could not begin, and is to start an interpreter."""
    program, nursery = command.program, None
    assert program is not None
    try:
        os.environ.clear()
        os.environ.update({**fresh.added_environment, **environment})
        if sys.platform == "linux":
            linux.make_dumpable()
        _forget_ourselves()
        _reseed()
        _open_streams(program.unbuffered)
        _name_interpreter(command)
        if program.is_launcher and sys.platform == "linux":
            nursery = beside_launcher(functools.partial(run_command, fresh=fresh))
        main = _main_of(program, fresh)
    except Exception:
        return
    started()
    close_descriptors({nursery.fileno()} if nursery else set())
    _set_signals()
    if nursery is not None:
        fork_workers_of(nursery)
    os._exit(_finish(_run_main(main)))


# before


def _forget_ourselves() -> None:
    """A program that imports Kubarium gets it as it is there, not as the agent had it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kubarium"]:
        del sys.modules[name]


def _name_interpreter(command: Command) -> None:
    """As the command says it: ``python`` and ``python3`` are the same one by other names."""
    sys.orig_argv = list(command.line)
    if command.python != sys.executable:
        base = os.path.dirname(sys._base_executable)  # type: ignore[attr-defined]
        beside = os.path.join(base, os.path.basename(command.python))
        if os.path.exists(beside):
            sys._base_executable = beside  # type: ignore[attr-defined]
        sys.executable = command.python


def _set_signals() -> None:
    """Python's own: the rest is as the container's start has left it."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
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
        _forget(program.what)
        sys.argv = ["-m", *program.arguments]
        sys.path.insert(0, os.getcwd())
        run_module: Callable[[str], object] = runpy._run_module_as_main  # type: ignore[attr-defined]
        return lambda: run_module(program.what)
    if program.kind == "code":
        sys.argv = ["-c", *program.arguments]
        sys.path.insert(0, "")
        space["__loader__"] = BuiltinImporter

        def run_code() -> None:
            code = compile(program.what, "<string>", "exec", dont_inherit=True)
            _show_lines_of(code, program.what)
            exec(code, space)

        return run_code
    path = program.what
    if not os.path.isabs(path):  # joined as CPython does it, which tidies nothing
        path = f"{os.getcwd()}/{path}"
    sys.argv = [program.what, *program.arguments]
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    space.update(__file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path))

    def run_script() -> None:
        with open(path, "rb") as file:
            source = file.read()
        exec(compile(source, path, "exec", dont_inherit=True), space)

    return run_script


def _show_lines_of(code: types.CodeType, source: str) -> None:
    """Since 3.13 tracebacks show the lines of ``python -c``; those of this process are others."""
    register = getattr(linecache, "_register_code", None)
    if register is not None:
        by_code = hasattr(linecache, "_interactive_cache")  # 3.13.1; by name before
        register(code if by_code else code.co_filename, source, code.co_filename)


def _forget(module: str) -> None:
    """A module that is about to be run is not imported yet."""
    if module in sys.modules and not hasattr(sys.modules[module], "__path__"):
        del sys.modules[module]
        package, _, name = module.rpartition(".")
        if package in sys.modules and hasattr(sys.modules[package], name):
            delattr(sys.modules[package], name)


def _not_flushed(stream: object) -> str:
    is_new = sys.version_info >= (3, 13)
    return f"Exception ignored {'on flushing sys.stdout:' if is_new else f'in: {stream!r}'}"


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
                    print(f"{_not_flushed(stream)}\n{text}", end="", file=sys.stderr)
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code & 0xFF
