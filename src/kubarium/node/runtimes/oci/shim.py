"""The first process of a container that an OCI runtime starts: the init that calls crun or runc.

It does for it what containerd's shim does, and keeps all that the runtime makes in places that
vanish with this process: the root, the bundle and the runtime's state are on a tmpfs in our own
mount namespace, and the container's pid namespace is inside ours. So there is nothing to sweep up
whoever is killed. Control groups and the pod's namespaces are entered before the runtime is called
(which is told to leave control groups alone).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
from typing import Any, NoReturn

from kubarium.base.descriptors import receive
from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.image_root import layered
from kubarium.node.runtimes.process.init import Init
from kubarium.node.runtimes.process.rootfs import RootFs, make_devices

_STATE, _BUNDLE, _LOG, _PID, _CONSOLE = "state", "bundle", "log", "pid", "console"
_CONSOLE_S = 10.0
_IDENT = "main"
_CGROUPS, _UNIFIED = "/sys/fs/cgroup", "/sys/fs/cgroup/unified"
# The namespaces of the runtime are this process's; it may not touch control groups.
_OPTIONS = {"crun": ["--cgroup-manager=disabled"], "runc": ["--rootless=true"]}


class Shim(Init):
    """An init whose commands are started by an OCI runtime."""

    @property
    def _place(self) -> str:
        return str(self._spec["root"]["place"])

    def _enter(self, namespaces: list[tuple[int, int]]) -> None:
        linux.die_with_parent(signal.SIGKILL)
        linux.become_subreaper()
        for descriptor, kind in namespaces:
            linux.setns(descriptor, kind)
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        given = self._spec["root"] | {"binds": [], "owner": tuple(self._spec["root"]["owner"])}
        root, place = RootFs(**given), self._place
        options = f"size={root.scratch_bytes},mode=700"
        linux.mount("tmpfs", place, "tmpfs", linux.MS_NOSUID, options)
        merged = layered(place, root.layers)
        os.mkdir(f"{place}/dev", 0o755)
        make_devices(f"{place}/dev", root)
        if self._spec.get("tty"):  # where the runtime mounts the terminal
            os.close(os.open(f"{place}/dev/console", os.O_CREAT | os.O_WRONLY, 0o600))
        for name in (_STATE, _BUNDLE):
            os.mkdir(f"{place}/{name}", 0o700)
        self._make_working_dir(merged, root)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        self._protect_groups()

    @staticmethod
    def _make_working_dir(merged: str, root: RootFs) -> None:
        """As its owner's, where the image has none; the runtime would make it root's."""
        parts = [part for part in root.working_dir.split("/") if part not in ("", ".")]
        place = merged
        for part in parts:
            place = f"{place}/{part}"
            if os.path.islink(place) or part == "..":
                return  # for the runtime to follow, which stays inside
            if not os.path.isdir(place):
                os.makedirs(os.path.join(merged, *parts))
                os.chown(os.path.join(merged, *parts), *root.owner)
                return

    def _protect_groups(self) -> None:
        """Read-only here: runc then leaves its container in the groups that it is in itself."""
        if not os.path.isdir(_CGROUPS):
            return
        with open("/proc/self/mountinfo") as file:
            points = [line.split()[4] for line in file]
        if _UNIFIED in points and self._spec["runtime"]["name"] == "crun":
            self._hide_unified()
        for point in points:
            if point == _CGROUPS or point.startswith(f"{_CGROUPS}/"):
                flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
                linux.mount(None, point, None, flags | linux.MS_NOSUID | linux.MS_NODEV)

    def _hide_unified(self) -> None:
        """crun refuses machines that have both versions of control groups with controllers."""
        linux.mount("tmpfs", _UNIFIED, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=4k")
        config = self._spec["runtime"]["config"]
        kept = [m for m in config["mounts"] if not m["source"].startswith(f"{_UNIFIED}/")]
        config["mounts"] = kept

    # Commands ----------------------------------------------------------------------------------

    def _fork(self, argv: list[str], streams: tuple[int, ...], terminal: bool = False) -> int:
        return self._start(argv, streams)

    def _fork_on_terminal(self, argv: list[str]) -> tuple[int, int]:
        """The runtime makes the terminal inside the container, and sends us our end."""
        path = f"{self._place}/{_CONSOLE}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(_CONSOLE_S)
            try:
                pid = self._start(argv, (-1, -1, -1), path)
                return pid, _receive(listener)
            finally:
                os.unlink(path)

    def _start(self, argv: list[str], streams: tuple[int, ...], console: str = "") -> int:
        if argv is self._spec["argv"]:
            pid = self._create(streams, console)
            self._call(["start", _IDENT], (-1, -1, -1))
            return pid
        return self._execute(argv, streams, console)

    def _create(self, streams: tuple[int, ...], console: str) -> int:
        config = self._spec["runtime"]["config"]
        limits = self._limits | self._spec.get("rlimits", {})
        config["process"]["rlimits"] = [
            {"type": f"RLIMIT_{name}", "soft": _count(soft), "hard": _count(hard)}
            for name, (soft, hard) in limits.items()
        ]
        bundle = f"{self._place}/{_BUNDLE}"
        _write(f"{bundle}/config.json", config)
        command = ["create", "--bundle", bundle, "--pid-file", self._pid_file(), "--no-new-keyring"]
        self._call([*command, *_console(console), _IDENT], streams)
        return self._read_pid()

    def _execute(self, argv: list[str], streams: tuple[int, ...], console: str) -> int:
        config = {**self._spec["runtime"]["config"]["process"], "terminal": bool(console)}
        path = f"{self._place}/process.json"
        _write(path, config | {"args": argv})
        command = ["exec", "--detach", "--process", path, "--pid-file", self._pid_file()]
        self._call([*command, *_console(console), _IDENT], streams)
        return self._read_pid()

    def _call(self, arguments: list[str], streams: tuple[int, ...]) -> None:
        """Run the runtime to its end; what it starts has ``streams``. OSError with its words."""
        runtime, log = self._spec["runtime"], f"{self._place}/{_LOG}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log)
        argv = [runtime["path"], "--root", f"{self._place}/{_STATE}", "--log", log]
        argv += ["--log-format", "json", *_OPTIONS[runtime["name"]], *arguments]
        pid = os.fork()
        if pid == 0:
            self._become_runtime(argv, streams)
        # Of the runtime only: what ends meanwhile is reaped by our loop.
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            raise OSError(0, _problem(log) or f"{runtime['name']} ended with {how}")

    def _become_runtime(self, argv: list[str], streams: tuple[int, ...]) -> NoReturn:
        try:
            for descriptor in self._joins:
                os.write(descriptor, b"0")
            # The container's own: runtimes give its streams to its user.
            null = os.open(f"{self._place}/dev/null", os.O_RDWR)
            for number, stream in enumerate(streams):
                os.dup2(stream if stream >= 0 else null, number)
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            os.umask(0o022)
            for name, limits in self._limits.items():
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), limits)
            linux.die_with_parent(signal.SIGKILL)
            path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
            os.execve(argv[0], argv, path | {"XDG_RUNTIME_DIR": self._place})
        finally:
            os._exit(127)

    def _pid_file(self) -> str:
        return f"{self._place}/{_PID}"

    def _read_pid(self) -> int:
        with open(self._pid_file()) as file:
            return int(file.read())


def _console(path: str) -> list[str]:
    return ["--console-socket", path] if path else []


def _count(limit: int) -> int:
    return limit if limit >= 0 else (1 << 64) - 1


def _write(path: str, document: dict[str, Any]) -> None:
    with open(path, "w") as file:
        json.dump(document, file)


def _receive(listener: socket.socket) -> int:
    with listener.accept()[0] as peer:
        _, found = receive(peer, 4096, 1)
    if not found:
        raise OSError(0, "the runtime sent no terminal")
    return found[0]


def _problem(log: str) -> str:
    """The last error of a runtime's log."""
    found = ""
    with contextlib.suppress(OSError), open(log) as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                found = line.strip() or found
                continue
            if entry.get("level") in ("error", "fatal", None):
                found = entry.get("msg") or found
    return found
