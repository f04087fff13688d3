"""The fork server inside a container: forks the Python programs that a launcher or a shell starts.

It is itself a fork of the container's fork server, made before the container's command has done
anything, with one thread and nothing of the command's. Two kinds of customers: a launcher
(``torchrun``), which asks through a socket of its own and gets its workers as its own children; and
the stand-ins of a shell (``warm_shim``), which stand for programs that are the nursery's children.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kubarium.base.descriptors import receive as receive_descriptors
from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.warm_commands import (
    LAUNCHER_SCRIPTS,
    interpreter_of,
    resolve,
    same_interpreter,
)
from kubarium.node.runtimes.process.warm_shim import HEADER_BYTES, REFUSED, STARTED, receive

# Standard streams, working folder, and a launcher's answer.
_DESCRIPTORS = 5
_MAX_REQUEST = 1 << 24
_SHELL_NAMES = ("python3", "python", *LAUNCHER_SCRIPTS)

# Runs a program in the process that calls it, as ``warm_python.run_command``.
Run = Callable[[list[str], Mapping[str, str], Callable[[], None]], None]


@dataclass(slots=True)
class Request:
    """A program to start, as its customer would have started it."""

    argv: list[str]
    environment: dict[bytes, bytes]
    state: dict[str, Any]
    descriptors: list[int]
    new_session: bool = False

    @staticmethod
    def read(link: socket.socket) -> Request | None:
        """The next one; None at the end, or if it is none of ours."""
        header, descriptors = receive_descriptors(link, HEADER_BYTES, _DESCRIPTORS)
        size = int.from_bytes(header, "little")
        data = receive(link, min(size, _MAX_REQUEST))
        if len(header) < HEADER_BYTES or len(data) != size or len(descriptors) < 4:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        return Request(descriptors=descriptors, **marshal.loads(data))

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def take_over(self) -> None:
        """Become what the customer is: streams, folder, session, limits, signals."""
        for number in range(3):
            os.dup2(self.descriptors[number], number)
        os.fchdir(self.descriptors[3])
        if self.new_session:
            os.setsid()
        _restore(self.state)

    def run_by(self, run: Run, started: Callable[[], None]) -> None:
        """The program, in this process; ``started`` as ``warm_python.run`` calls it."""
        environment = {os.fsdecode(k): os.fsdecode(v) for k, v in self.environment.items()}
        run(self.argv, environment, started)


def _restore(state: Mapping[str, Any]) -> None:
    os.umask(state["umask"])
    for number, soft, hard in state["limits"]:
        if resource.getrlimit(number) != (soft, hard):
            resource.setrlimit(number, (soft, hard))
    more = state["nice"] - os.getpriority(os.PRIO_PROCESS, 0)
    if more:
        os.setpriority(os.PRIO_PROCESS, 0, state["nice"])
    if set(state["affinity"]) != os.sched_getaffinity(0):
        os.sched_setaffinity(0, state["affinity"])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ignored = state["ignored"] >> (number - 1) & 1
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    blocked = {n for n in signal.valid_signals() if state["blocked"] >> (n - 1) & 1}
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _settle(keep: set[int]) -> None:
    """Hold nothing of the container's command, and let nothing meant for it reach us."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    close_descriptors(keep)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    linux.make_dumpable()


def close_descriptors(keep: set[int]) -> None:
    """All but the standard streams and these."""
    try:
        held = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc in here
        held = list(range(1024))
    for number in held:
        if number > 2 and number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)


# For a launcher --------------------------------------------------------------------------------


def beside_launcher(run: Run) -> socket.socket:
    """Fork a nursery for this process, which is about to become a launcher; the way to ask it."""
    ours, theirs = socket.socketpair()
    launcher = os.getpid()
    if os.fork() == 0:
        try:
            linux.die_with_parent(signal.SIGKILL)
            group = os.getpgrp()
            _settle({theirs.fileno()})
            while (request := Request.read(theirs)) is not None:
                _fork_worker(request, launcher, group, run)
                request.close()
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _fork_worker(request: Request, launcher: int, group: int, run: Run) -> None:
    """The launcher is a subreaper while it asks: the child of a process in between is its own."""
    answer = request.descriptors[4]
    waits, goes = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            pid = os.fork()
            if pid == 0:
                os.close(goes)
                os.read(waits, 1)
                _become_worker(request, launcher, group, run)
            os.write(answer, b"%d\n" % pid)
        finally:
            os._exit(0)
    os.close(waits)
    os.waitpid(between, 0)
    os.close(goes)


def _become_worker(request: Request, launcher: int, group: int, run: Run) -> NoReturn:
    answer = request.descriptors[4]
    try:
        if os.getppid() == launcher:
            if not request.new_session:
                os.setpgid(0, group)
            request.take_over()
            request.run_by(run, lambda: _say(answer, STARTED))
    except Exception:
        pass
    finally:
        _say(answer, REFUSED)
        os._exit(127)


def _say(descriptor: int, word: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, word)


# For a shell -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _ShellNursery:
    """Programs of one shell, each with the connection of who stands for it."""

    listener: socket.socket
    run: Run
    customers: dict[int, socket.socket] = field(default_factory=dict)

    def serve(self) -> None:
        """Until the container ends us."""
        wakes, wakeup = os.pipe()
        for descriptor in (wakes, wakeup):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            by_link = {link.fileno(): pid for pid, link in self.customers.items()}
            ready = select.select([wakes, self.listener.fileno(), *by_link], [], [])[0]
            if wakes in ready:
                os.read(wakes, 512)
            if self.listener.fileno() in ready:
                self._start(self.listener.accept()[0])
            for number in set(ready) & by_link.keys():
                self._obey(by_link[number])
            self._reap()

    def _start(self, link: socket.socket) -> None:
        request = Request.read(link)
        if request is None:
            link.close()
            return
        pid = os.fork()
        if pid == 0:
            self._become(request, link)
        request.close()
        self.customers[pid] = link

    def _become(self, request: Request, link: socket.socket) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            os.setpgid(0, 0)
            request.take_over()
            run = self.run
            for other in self.customers.values():
                other.detach()  # every descriptor is closed by the program's start
            self.listener.detach()
            number = link.detach()
            request.run_by(run, lambda: _say(number, STARTED))
            _say(number, REFUSED)
        except Exception:
            with contextlib.suppress(OSError):
                link.send(REFUSED)
        finally:
            os._exit(127)

    def _obey(self, pid: int) -> None:
        """Signals of who stands for a program; its end is the program's."""
        link = self.customers[pid]
        try:
            data = link.recv(64)
        except OSError:
            data = b""
        with contextlib.suppress(ProcessLookupError):
            for number in data or (signal.SIGKILL,):
                os.kill(pid, number)
        if not data:
            link.close()
            del self.customers[pid]

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                link = self.customers.pop(pid, None)
                if link is not None:
                    with contextlib.suppress(OSError):
                        link.send(status.to_bytes(4, "little"))
                    link.close()


def for_shell(environment: dict[str, str], python: str, shim: bytes, run: Run) -> dict[str, str]:
    """Fork a nursery, and return the environment in which a bash finds it: the names of Python's
    programs, and nothing else, mean our stand-ins to this bash and its subshells."""
    read, write = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            if os.fork() == 0:
                os.close(read)
                _serve_shell(environment, python, shim, run, write)
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(between, 0)
    with os.fdopen(read, "rb") as pipe:
        start_file = pipe.read().decode()
    if not start_file or not os.access(start_file, os.R_OK):
        return environment
    return environment | {"BASH_ENV": start_file}


def _serve_shell(
    environment: dict[str, str], python: str, shim: bytes, run: Run, told: int
) -> None:
    """In the nursery itself. Says where bash's start file is once everything is ready."""
    address = f"\0kubarium-nursery-{os.urandom(16).hex()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    _settle({listener.fileno(), told})
    folder = f"/proc/{os.getpid()}/fd"
    path = environment.get("PATH", "")
    programs: dict[str, tuple[str, str]] = {}
    files: list[int] = []
    for name in _SHELL_NAMES:
        interpreter = interpreter_of(name, path)
        found = resolve([name, "x"], environment)
        if interpreter and found and same_interpreter(interpreter, python):
            files.append(os.memfd_create(name, os.MFD_CLOEXEC))
            place = interpreter if found.program and found.program.what == "x" else found.line[-2]
            programs[f"{folder}/{files[-1]}"] = (name, place)
    text = b"#!%s -IS\n%s\nmain(%r, %r)\n" % (os.fsencode(python), shim, address, programs)
    for descriptor in files:
        os.write(descriptor, text)
    start = os.memfd_create("start", os.MFD_CLOEXEC)
    lines = [f"hash -p {place} {name}" for place, (name, _) in programs.items()]
    os.write(start, "\n".join(["unset BASH_ENV", "shopt -s checkhash", *lines, ""]).encode())
    if programs and all(os.access(place, os.X_OK) for place in programs):
        _say(told, f"{folder}/{start}".encode())
    os.close(told)
    if programs:
        _ShellNursery(listener, run).serve()
