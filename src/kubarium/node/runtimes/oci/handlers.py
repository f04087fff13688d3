"""The runtime handlers that RuntimeClasses may name, and which of them this machine has."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field

from kubarium.base.errors import KubariumError

PROCESS, NAMESPACES, CRUN, RUNC = "process", "namespaces", "crun", "runc"
_PROGRAMS = (CRUN, RUNC)
# Where packages put them, beside what PATH says: agents often have a user's.
_MORE_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_ANSWER_S = 5.0


class UnknownHandler(KubariumError):
    """A RuntimeClass names a handler that this node does not have; the words are containerd's."""


@dataclass(frozen=True, slots=True)
class Program:
    """An OCI runtime."""

    name: str
    path: str
    version: str


@dataclass(slots=True)
class Handlers:
    """``refusals`` says why the others are not to be had."""

    programs: dict[str, Program] = field(default_factory=dict)
    namespaces: bool = True
    refusals: dict[str, str] = field(default_factory=dict)

    def refuse(self, name: str, why: str) -> None:
        self.programs.pop(name, None)
        self.refusals[name] = why

    def check(self, handler: str) -> None:
        """UnknownHandler unless it is there ("" is the default)."""
        if handler in ("", PROCESS) or (handler == NAMESPACES and self.namespaces):
            return
        if handler not in self.programs:
            why = self.refusals.get(handler, f"the handlers are {', '.join(self.names)}")
            raise UnknownHandler(
                f'failed to get sandbox runtime: no runtime for "{handler}" is configured ({why})'
            )

    def program(self, handler: str) -> Program | None:
        """What starts containers of real images; None is our own namespaces."""
        if handler:
            return self.programs.get(handler)
        return next(iter(self.programs.values()), None)

    @property
    def names(self) -> list[str]:
        own = [PROCESS, *([NAMESPACES] if self.namespaces else [])]
        return own + list(self.programs)

    def lines(self) -> tuple[list[str], list[str]]:
        """Sentences for the isolation report: what there is, what is missing."""
        if not self.namespaces:
            why = self.refusals.get(NAMESPACES, "it takes mount namespaces")
            return [], [f"container images cannot be run: {why}"]
        best = self.program("")
        by = f"{best.name} {best.version}" if best else "our own namespaces"
        found = [
            f"container images are run by {by}; RuntimeClass handlers: {', '.join(self.names)}"
        ]
        return found, [
            f"RuntimeClass handler {name}: {why}"
            for name, why in self.refusals.items()
            if name != NAMESPACES
        ]


def find_programs(is_root: bool) -> Handlers:
    """What is installed; whether it works here is for a trial to say."""
    found = Handlers()
    for name in _PROGRAMS:
        path = shutil.which(name) or shutil.which(name, path=_MORE_PATH)
        if path is None:
            found.refusals[name] = "not installed"
        elif not is_root:
            found.refusals[name] = "takes root"
        else:
            problem, version = _version(path)
            if problem:
                found.refusals[name] = problem
            else:
                found.programs[name] = Program(name, path, version)
    return found


def _version(path: str) -> tuple[str, str]:
    try:
        ran = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} does not run: {error}", ""
    words = ran.stdout.split()
    at = words.index("version") + 1 if "version" in words else 0
    return "", words[at] if at < len(words) else "?"
