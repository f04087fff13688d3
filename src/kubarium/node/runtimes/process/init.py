"""The first process of each container: it holds the namespaces, the logs and the leash.

It starts the container's command, reaps orphans, writes output in the CRI log format, forwards
signals to the command's process group, runs commands for probes and hooks in the same sandbox, and
reports. Its control pipe is also a lifeline: when the other end goes, everything in here is killed.

Control messages and events are JSON lines; an event stays below PIPE_BUF so that writes of many
inits into one pipe never mix.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kubarium.base.descriptors import receive
from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.rootfs import Bind, RootFs, build
from kubarium.node.runtimes.process.warm_commands import is_shell
from kubarium.node.runtimes.process.warm_nursery import for_shell
from kubarium.node.runtimes.process.warm_python import Fresh, run_command

MAX_EVENT_BYTES = 4000
# Output of an exec that is kept; kubelet keeps 10 KiB of a probe's, an event has to fit a pipe.
MAX_EXEC_OUTPUT = 2000
# CRI runtimes split longer lines into partial ones.
MAX_LOG_LINE = 16 * 1024
# kubelet's containerLogMaxSize and containerLogMaxFiles.
MAX_LOG_BYTES, MAX_LOG_FILES = 10 << 20, 5
# How the command ended is kept in a file of this suffix beside the log.
OUTCOME = ".exit"
_READ_BYTES = 64 * 1024
# How long output is still read after the command has ended.
_DRAIN_S = 0.2
# Bytes of output that may wait for one attached client; what does not fit is not shown to it.
_TAP_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_MAX_DESCRIPTORS = 16


def send_event(descriptor: int, event: dict[str, Any]) -> None:
    """One event, atomically. A reader that is gone is no error: the lifeline handles it."""
    data = json.dumps(event).encode() + b"\n"
    if len(data) > MAX_EVENT_BYTES:
        event = event | {"message": str(event.get("message", ""))[:1000]}
        data = json.dumps(event).encode() + b"\n"
    try:
        os.write(descriptor, data)
    except OSError:
        return


class LogFile:
    """Lines as ``<time> <stream> <F|P> <text>``, the CRI log format that kubelet reads.

    Past ``max_bytes`` the file is put aside as ``<name>.1``, ``<name>.2``, … and a new one begun;
    so many of those are kept that there are MAX_LOG_FILES in all."""

    def __init__(self, path: str, max_bytes: int = MAX_LOG_BYTES) -> None:
        folder, self._name = os.path.split(path)
        # Stays good when the container's own root has taken the place of the machine's.
        self._folder = os.open(folder or ".", os.O_RDONLY | os.O_CLOEXEC)
        self._max_bytes = max_bytes
        self._rotations = 0
        self._open()
        self._rest: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._name, flags, 0o640, dir_fd=self._folder)
        self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        os.close(self._file)
        self._rotations += 1
        aside = f"{self._name}.{self._rotations}"
        os.rename(self._name, aside, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        with contextlib.suppress(FileNotFoundError):
            last = self._rotations - MAX_LOG_FILES + 1
            os.unlink(f"{self._name}.{last}", dir_fd=self._folder)
        self._open()

    def write_beside(self, suffix: str, data: bytes) -> None:
        """A small file next to the log, whole or not at all."""
        stem = self._name.removesuffix(".log")
        temporary = f".{stem}{suffix}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o640, dir_fd=self._folder)
        try:
            os.write(file, data)
        finally:
            os.close(file)
        target = f"{stem}{suffix}"
        os.rename(temporary, target, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def feed(self, stream: str, data: bytes) -> None:
        lines = (self._rest[stream] + data).split(b"\n")
        rest = lines.pop()
        prefix = self._stamp() + stream.encode()
        out = [piece for line in lines for piece in self._pieces(prefix, line, b"F")]
        while len(rest) >= MAX_LOG_LINE:
            out.append(prefix + b" P " + rest[:MAX_LOG_LINE] + b"\n")
            rest = rest[MAX_LOG_LINE:]
        self._rest[stream] = rest
        if out:
            self._write(b"".join(out))

    def close(self) -> None:
        for stream, rest in self._rest.items():
            if rest:
                self._write(self._stamp() + stream.encode() + b" F " + rest + b"\n")
        os.close(self._file)
        os.close(self._folder)

    def _pieces(self, prefix: bytes, line: bytes, last: bytes) -> list[bytes]:
        cuts = range(0, max(len(line), 1), MAX_LOG_LINE)
        parts = [line[at : at + MAX_LOG_LINE] for at in cuts]
        marks = [b"P"] * (len(parts) - 1) + [last]
        return [
            b"%s %s %s\n" % (prefix, mark, part) for mark, part in zip(marks, parts, strict=True)
        ]

    def _write(self, data: bytes) -> None:
        self._size += len(data)
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if self._size >= self._max_bytes:
                self._rotate()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    @staticmethod
    def _stamp() -> bytes:
        nanoseconds = time.time_ns()
        seconds, fraction = divmod(nanoseconds, 1_000_000_000)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{text}.{fraction:09d}Z ".encode()


@dataclass(slots=True)
class _Exec:
    """A command running beside the main one, and what it has printed."""

    ident: str
    pid: int
    output: bytearray = field(default_factory=bytearray)
    reader: int = -1


@dataclass(frozen=True, slots=True)
class _Terminal:
    """Both ends of a pseudo-terminal of the container's own."""

    master: int
    slave: int

    @staticmethod
    def open(user: dict[str, Any] | None) -> _Terminal:
        terminal = _Terminal(*os.openpty())
        if user and not user.get("map"):
            with contextlib.suppress(OSError):
                os.fchown(terminal.slave, user["uid"], user["gid"])
        return terminal


class Init:
    """The life of one container, from namespaces to the last report."""

    def __init__(
        self,
        ident: str,
        spec: dict[str, Any],
        control: socket.socket,
        events: int,
        limits: dict[str, tuple[int, int]] | None = None,
        fresh: Fresh | None = None,
    ) -> None:
        """``limits`` (of ``RLIMIT_…``) are given back to the command. ``fresh``: a fork server has
        forked us, and we can run a Python program ourselves."""
        self._limits = limits or {}
        self._fresh = fresh
        self._ident = ident
        self._spec = spec
        self._control = control
        self._descriptors: list[int] = []
        self._stdin = -1
        self._taps: list[tuple[str, int]] = []
        self._joins: list[int] = []
        self._events = events
        self._main = 0
        self._execs: dict[int, _Exec] = {}
        self._streams: dict[int, str] = {}
        self._pending = b""
        self._status: int | None = None

    def run(self, namespaces: list[tuple[int, int]]) -> NoReturn:
        """Set up, start, serve, report, end. Never returns."""
        try:
            self._log = LogFile(self._spec["log"])
            self._joins = [os.open(path, os.O_WRONLY) for path in self._spec.get("joins", ())]
            self._wakeup = self._catch_signals()
            self._enter(namespaces)
            self._start_main()
        except (OSError, ValueError) as error:
            self._report("failed", message=getattr(error, "strerror", None) or str(error))
            os._exit(1)
        self._report("started")
        try:
            while self._status is None:
                self._serve(None)
            self._finish()
            os._exit(0)
        finally:
            os._exit(1)  # an error that nobody foresaw: the container has not succeeded

    def _report(self, event: str, **values: Any) -> None:
        send_event(self._events, {"event": event, "id": self._ident} | values)

    def _catch_signals(self) -> int:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        return read

    def _enter(self, namespaces: list[tuple[int, int]]) -> None:
        if sys.platform == "linux":
            linux.die_with_parent(signal.SIGKILL)
            linux.become_subreaper()
        for descriptor, kind in namespaces:
            linux.setns(descriptor, kind)
        root = self._spec.get("root")
        if root is None:
            return
        linux.unshare(linux.CLONE_NEWNS)
        binds = [Bind(**bind) for bind in root["binds"]]
        build(RootFs(**(root | {"binds": binds, "owner": tuple(root["owner"])})))

    # Starting ----------------------------------------------------------------------------------

    def _start_main(self) -> None:
        if self._spec.get("tty"):
            self._start_on_terminal()
            return
        streams = {name: os.pipe() for name in ("stdout", "stderr")}
        outputs = tuple(write for _, write in streams.values())
        stdin = -1
        if self._spec.get("stdin"):
            stdin, self._stdin = os.pipe()
        self._main = self._fork(self._spec["argv"], (stdin, *outputs))
        if stdin >= 0:
            os.close(stdin)
        for name, (read, write) in streams.items():
            os.close(write)
            self._streams[read] = name

    def _start_on_terminal(self) -> None:
        self._main, master = self._fork_on_terminal(self._spec["argv"])
        self._streams[master] = "stdout"
        if self._spec.get("stdin"):
            self._stdin = os.dup(master)

    def _fork_on_terminal(self, argv: list[str]) -> tuple[int, int]:
        """Like :meth:`_fork`, with a new terminal: (process, our end of it)."""
        terminal = _Terminal.open(self._spec.get("user"))
        try:
            return self._fork(argv, (terminal.slave,) * 3, terminal=True), terminal.master
        except OSError:
            os.close(terminal.master)
            raise
        finally:
            os.close(terminal.slave)

    def _fork(self, argv: list[str], streams: tuple[int, ...], terminal: bool = False) -> int:
        """Start ``argv`` as the container's user with these as its standard streams (-1: none);
        OSError in the words of a container runtime."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._become(argv, streams, write, terminal)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            problem = pipe.read()
        if problem:
            os.waitpid(pid, 0)
            raise OSError(0, problem.decode())
        return pid

    def _become(
        self, argv: list[str], streams: tuple[int, ...], problems: int, terminal: bool
    ) -> NoReturn:
        try:
            os.setsid()
            for descriptor in self._joins:
                os.write(descriptor, b"0")
            null = os.open("/dev/null", os.O_RDWR)
            for number, stream in enumerate(streams):
                os.dup2(stream if stream >= 0 else null, number)
            if terminal:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.set_wakeup_fd(-1)
            # Python ignores SIGPIPE and SIGXFSZ, whoever started us perhaps SIGHUP: start clean.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            os.umask(0o022)
            _change_directory(self._spec["cwd"])
            for name, limits in (self._limits | self._spec.get("rlimits", {})).items():
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), tuple(limits))
            self._restrict()
            if self._spec.get("root") is None and sys.platform == "linux":
                linux.die_with_parent(signal.SIGKILL)
            _execute(argv, self._run_warm(argv, problems))
        except Exception as error:  # a limit that the machine refuses is a ValueError
            os.write(problems, (getattr(error, "strerror", "") or str(error)).encode())
        finally:
            os._exit(127)

    def _run_warm(self, argv: list[str], problems: int) -> dict[str, str]:
        """The main command in this very process, if it is a Python program that we can run. A
        shell is given an environment in which its Python programs can be forked."""
        environment: dict[str, str] = self._spec["env"]
        if self._fresh is None or argv is not self._spec["argv"]:
            return environment
        self._control.detach()  # all descriptors are closed next, and this one only once
        run = functools.partial(run_command, fresh=self._fresh)
        if is_shell(argv, environment):
            return for_shell(environment, sys.executable, self._fresh.shim, run)
        run(argv, environment, lambda: os.close(problems))
        return environment

    def _restrict(self) -> None:
        """User, capabilities, privileges, system calls. The filter takes a privilege to install
        that most users lack afterwards, and forbids what mapping a user takes."""
        user, program = self._spec.get("user"), bytes.fromhex(self._spec.get("seccomp") or "")
        if self._spec.get("no_new_privileges"):
            linux.forbid_new_privileges()
        first = program and not (user and user.get("map"))
        if first:
            linux.install_filter(program)
        self._change_user()
        if program and not first:
            linux.install_filter(program)

    def _change_user(self) -> None:
        user = self._spec.get("user")
        if user is None:
            return
        uid, gid = user["uid"], user["gid"]
        if user.get("map"):
            outer = (os.geteuid(), os.getegid())
            linux.unshare(linux.CLONE_NEWUSER)
            linux.map_single_user(uid, gid, *outer)
            return
        kept = frozenset(linux.CAPABILITIES[name] for name in user["capabilities"])
        linux.limit_capabilities(kept)
        os.setgroups(user["groups"])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        linux.set_capabilities(kept if uid == 0 else frozenset())

    # Serving -----------------------------------------------------------------------------------

    def _serve(self, timeout_s: float | None) -> bool:
        """One round of the loop; false if nothing happened within ``timeout_s``."""
        control = self._control.fileno()
        readers = [control, self._wakeup, *self._streams]
        readers += [run.reader for run in self._execs.values() if run.reader >= 0]
        poller = select.poll()  # select(2) knows no descriptor above 1023
        for descriptor in readers:
            poller.register(descriptor, select.POLLIN)
        ready = poller.poll(None if timeout_s is None else timeout_s * 1000)
        for descriptor, _ in ready:
            if descriptor == control:
                self._read_control()
            elif descriptor == self._wakeup:
                os.read(descriptor, 512)
            elif descriptor in self._streams:
                self._read_stream(descriptor)
            else:
                self._read_exec(descriptor)
        self._reap()
        return bool(ready)

    def _read_control(self) -> None:
        data, found = receive(self._control, _READ_BYTES, _MAX_DESCRIPTORS)
        self._descriptors += found
        if not data:
            self._kill_everything()
            os._exit(1)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, message: dict[str, Any]) -> None:
        if message["op"] == "exec" and message.get("stream"):
            with socket.socket(fileno=self._descriptors.pop(0)) as peer:
                self._start_streamed(message, peer)
        elif message["op"] == "exec":
            self._start_exec(message)
        elif message["op"] == "attach":
            with socket.socket(fileno=self._descriptors.pop(0)) as peer:
                self._attach(message, peer)
        elif message["op"] == "signal" and message.get("exec"):
            for run in self._execs.values():
                if run.ident == message["exec"]:
                    _kill_group(run.pid, message["signal"])
        elif message["op"] == "signal" and self._status is None:
            if message["signal"] == signal.SIGKILL:
                self._kill_everything()
            else:
                _kill_group(self._main, message["signal"])

    def _start_exec(self, message: dict[str, Any]) -> None:
        read, write = os.pipe()
        try:
            pid = self._fork(message["argv"], (-1, write, write))
        except OSError as error:
            os.close(read)
            self._exec_failed(message, error)
            return
        finally:
            os.close(write)
        self._execs[pid] = _Exec(message["exec"], pid, reader=read)

    def _exec_failed(self, message: dict[str, Any], error: OSError) -> None:
        text = error.strerror or str(error)
        self._report("exec", exec=message["exec"], code=126, message=text)

    def _start_streamed(self, message: dict[str, Any], peer: socket.socket) -> None:
        """A command whose streams somebody else serves: their other ends go through ``peer``."""
        given: dict[str, int] = {}
        streams: list[int] = []
        try:
            if message["tty"]:
                pid, given["terminal"] = self._fork_on_terminal(message["argv"])
            else:
                for name in ("stdin", "stdout", "stderr"):
                    read, write = os.pipe() if name in message["streams"] else (-1, -1)
                    inner, outer = (read, write) if name == "stdin" else (write, read)
                    streams.append(inner)
                    given[name] = outer
                pid = self._fork(message["argv"], tuple(streams))
            self._execs[pid] = _Exec(message["exec"], pid)
            _give(peer, given)
        except OSError as error:
            self._exec_failed(message, error)
        finally:
            for descriptor in {*streams, *given.values()} - {-1}:
                os.close(descriptor)

    def _attach(self, message: dict[str, Any], peer: socket.socket) -> None:
        """Show the main command's output from now on, and perhaps give its standard input."""
        given: dict[str, int] = {}
        for name in ("stdout", "stderr"):
            if name in message["streams"] and not (name == "stderr" and self._spec.get("tty")):
                given[name], tap = os.pipe()
                os.set_blocking(tap, False)
                with contextlib.suppress(OSError):
                    fcntl.fcntl(tap, _F_SETPIPE_SZ, _TAP_BYTES)
                self._taps.append((name, tap))
        if "stdin" in message["streams"] and self._stdin >= 0:
            given["terminal" if self._spec.get("tty") else "stdin"] = self._stdin
            if self._spec.get("stdin_once"):
                self._stdin = -1  # theirs now: their end is the command's end of input
            else:
                self._stdin = os.dup(self._stdin)
        try:
            _give(peer, given)
        except OSError:
            pass  # the client has gone again
        finally:
            for descriptor in given.values():
                os.close(descriptor)

    def _read_stream(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except OSError:  # a terminal that nobody holds any more
            data = b""
        name = self._streams[descriptor]
        if data:
            self._log.feed(name, data)
            for tap in [tap for tap in self._taps if tap[0] == name]:
                self._show(tap, data)
        else:
            os.close(descriptor)
            del self._streams[descriptor]

    def _show(self, tap: tuple[str, int], data: bytes) -> None:
        try:
            os.write(tap[1], data)
        except BlockingIOError:
            return
        except OSError:
            os.close(tap[1])
            self._taps.remove(tap)

    def _read_exec(self, descriptor: int) -> None:
        run = next(run for run in self._execs.values() if run.reader == descriptor)
        data = os.read(descriptor, _READ_BYTES)
        run.output += data[: MAX_EXEC_OUTPUT - len(run.output)]
        if not data:
            os.close(descriptor)
            run.reader = -1

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._main:
                self._status = status
            elif pid in self._execs:
                self._end_exec(self._execs.pop(pid), status)

    def _end_exec(self, run: _Exec, status: int) -> None:
        if run.reader >= 0:
            os.set_blocking(run.reader, False)
            with contextlib.suppress(BlockingIOError):
                run.output += os.read(run.reader, MAX_EXEC_OUTPUT)[:MAX_EXEC_OUTPUT]
            os.close(run.reader)
        text = bytes(run.output[:MAX_EXEC_OUTPUT]).decode(errors="replace")
        code, _ = exit_code(status)
        self._report("exec", exec=run.ident, code=code, message=text)

    # Ending ------------------------------------------------------------------------------------

    def _finish(self) -> None:
        assert self._status is not None
        self._kill_everything()
        while self._streams and self._serve(_DRAIN_S):
            pass
        code, number = exit_code(self._status)
        with contextlib.suppress(OSError):  # for an agent that is not there to hear the event
            self._log.write_beside(
                OUTCOME, json.dumps([code, number, time.time_ns() / 1e9]).encode()
            )
        self._log.close()
        self._report("exited", code=code, signal=number)

    def _kill_everything(self) -> None:
        """Every process in this container but this one; what reappears is killed again."""
        if os.getpid() == 1:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                return
            return
        # Those below first: where orphans do not become ours they would be lost with their parent.
        kill_descendants(os.getpid(), spare=frozenset())
        _kill_group(self._main, signal.SIGKILL)


def _give(peer: socket.socket, streams: dict[str, int]) -> None:
    """Send descriptors (-1: none) and their names. OSError if nobody is there to take them."""
    there = {name: descriptor for name, descriptor in streams.items() if descriptor >= 0}
    socket.send_fds(peer, [json.dumps(list(there)).encode()], list(there.values()))


def exit_code(status: int) -> tuple[int, int]:
    """(exit code as a shell says it, signal or 0) of a wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return 128 + number, number
    return os.WEXITSTATUS(status), 0


def kill_descendants(ancestor: int, spare: frozenset[int]) -> None:
    """SIGKILL all processes below ``ancestor``, again and again until a look finds none new."""
    seen: set[int] = set(spare)
    for _ in range(50):
        found = [pid for pid in descendants(ancestor) if pid not in seen]
        if not found:
            return
        for pid in found:
            seen.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def descendants(ancestor: int) -> list[int]:
    """Process ids below ``ancestor``."""
    table = _children_by_parent()
    found: list[int] = []
    heads = [ancestor]
    while heads:
        heads = [child for head in heads for child in table.get(head, ())]
        found += heads
    return found


def children(parent: int) -> list[int]:
    """Process ids right below ``parent``."""
    return _children_by_parent().get(parent, [])


def _children_by_parent() -> dict[int, list[int]]:
    if not os.path.isdir("/proc/self"):
        return _children_by_ps()
    table: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        table.setdefault(parent, []).append(int(name))
    return table


def _children_by_ps() -> dict[int, list[int]]:
    """The same where there is no /proc; ps itself is left out."""
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE) as asked:
        assert asked.stdout is not None
        rows = [line.split() for line in asked.stdout]
    table: dict[int, list[int]] = {}
    for pid, parent in ((int(row[0]), int(row[1])) for row in rows if len(row) == 2):
        if pid != asked.pid:
            table.setdefault(parent, []).append(pid)
    return table


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise OSError(error.errno, f"chdir to cwd ({path!r}): {error.strerror}") from None


def _execute(argv: list[str], environment: dict[str, str]) -> None:
    """execvpe whose errors read like runc's, which is what users search for."""
    name = argv[0]
    try:
        os.execvpe(name, argv, environment)
    except OSError as error:
        if error.errno == errno.E2BIG:
            reason = "argument list too long: args and env have too many bytes"
        elif "/" not in name:
            reason = "executable file not found in $PATH"
        else:
            reason = f"stat {name}: {(error.strerror or '').lower()}"
        raise OSError(error.errno, f"exec: {json.dumps(name)}: {reason}: unknown") from None
