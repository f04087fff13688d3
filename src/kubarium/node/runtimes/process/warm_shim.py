"""Stands in a shell for a Python program that a fork server runs: bash's ``torchrun``, so to say.

The text of this file is a program of its own, run by a bare interpreter (``-I -S``), so it imports
little and nothing of Kubarium. It hands what it was given (arguments, environment, streams,
folder, signals, limits) to the fork server of its container, passes signals on, and ends as the
program ends. If the program cannot be forked, it becomes it.
"""

from __future__ import annotations

import _socket
import marshal
import os
import resource
import signal
import sys

Socket = _socket.socket

STARTED, REFUSED = b"+", b"-"
HEADER_BYTES = 8
_ENDS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTSTP})


def launch_state() -> dict[str, object]:
    """What a process hands down to those that it starts, beyond descriptors and environment."""
    status = {}
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            status[name] = value.strip()
    limits = [
        (number, *resource.getrlimit(number))
        for name, number in sorted(vars(resource).items())
        if name.startswith("RLIMIT_")
    ]
    return {
        "umask": int(status["Umask"], 8),
        "ignored": int(status["SigIgn"], 16),
        "blocked": int(status["SigBlk"], 16),
        "limits": sorted(set(limits)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)),
    }


def send(link: Socket, request: dict[str, object], descriptors: list[int]) -> None:
    """One request, with descriptors; OSError if nobody takes it."""
    data = marshal.dumps(request)
    rights = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
    link.sendmsg([len(data).to_bytes(HEADER_BYTES, "little")], ancillary)
    link.sendall(data)


def receive(link: Socket, count: int) -> bytes:
    """So many bytes; fewer at the other side's end."""
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def _only_standard_streams() -> bool:
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return {0, 1, 2} <= found and not any(one > 2 and _is_open(one) for one in found)


def _given_environment() -> dict[bytes, bytes]:
    """Without what our own interpreter has added (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        entries = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    return {name: value for name, equals, value in entries if equals}


def _become(path: str, argv: list[str], environment: dict[bytes, bytes]) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execve(path, argv, environment)


def _end_as(status: int) -> None:
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        end = os.WTERMSIG(status)
        if end != signal.SIGKILL:
            signal.signal(end, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [end])
        os.kill(os.getpid(), end)
    os._exit(os.WEXITSTATUS(status))


def _pass_signals_on(link: Socket) -> None:
    def forward(number: int, frame: object) -> None:
        link.sendall(bytes([number]))

    for number in signal.valid_signals() - _ENDS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, forward)


def main(address: str, programs: dict[str, tuple[str, str]]) -> None:
    """``programs``: by the path that we were called by, a name and where its program lies."""
    name, path = programs[sys.argv[0]]
    argv = [name, *sys.argv[1:]]
    environment = _given_environment()
    if environment.get(b"_") == os.fsencode(sys.argv[0]):
        environment[b"_"] = os.fsencode(path)  # bash's own note of what it runs
    simple = _only_standard_streams()
    link = Socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        if not simple:
            raise OSError
        state = launch_state()
        # What a fresh interpreter would set itself.
        ours = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)
        state["ignored"] = int(str(state["ignored"])) & ~ours
        link.connect(address)
        here = os.open(".", os.O_RDONLY)
        request: dict[str, object] = {"argv": argv, "environment": environment, "state": state}
        _pass_signals_on(link)
        send(link, request, [0, 1, 2, here])
        os.close(here)
        answer = receive(link, 1)
    except OSError:
        answer = REFUSED
    if answer != STARTED:
        for signum in signal.valid_signals() - _ENDS:
            if callable(signal.getsignal(signum)):
                signal.signal(signum, signal.SIG_DFL)
        link.close()
        _become(path, argv, environment)
    for number in range(3):
        os.close(number)  # the program's alone, so that its end is the end of its output
    data = receive(link, 4)
    _end_as(int.from_bytes(data, "little") if len(data) == 4 else signal.SIGKILL.value)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
