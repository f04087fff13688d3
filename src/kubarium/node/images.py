"""The image catalogue: which image names this machine can stand in for, and how."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kubarium.base.errors import KubariumError
from kubarium.node.config import ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class UnknownImage(KubariumError):
    """The catalogue has no entry; the message says how to make one."""


class InvalidImageName(KubariumError):
    """The text is no image reference."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a container runtime would know of an image after pulling it."""

    reference: str
    image_id: str
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    working_dir: str = ""
    uid: int | None = None


def builtin_images() -> tuple[ImageConfig, ...]:
    """Images that every Kubarium node can stand in for, by the machine's own programs."""
    python = ImageConfig("python", cmd=("python3",), path=(os.path.dirname(sys.executable),))
    shells = [ImageConfig(name, cmd=("sh",)) for name in ("busybox", "alpine")]
    systems = [ImageConfig(name, cmd=(_bash(),)) for name in ("ubuntu", "debian", "bash")]
    own = ImageConfig("kubarium/*", cmd=("python3",), path=python.path)
    pause = ImageConfig("pause", entrypoint=("sleep",), cmd=("2147483647",))
    command = ("python3", "-m", "kubarium.labs.in_place_agent")
    agent = ImageConfig("in-place-restart-agent", entrypoint=command, path=python.path)
    return (*shells, *systems, python, own, agent, pause)


def _bash() -> str:
    return "bash" if os.path.exists("/bin/bash") else "sh"


class ImageCatalogue:
    """Looks up image references; entries of the cluster file come before the built-in ones."""

    def __init__(self, given: Iterable[ImageConfig] = ()) -> None:
        self._entries = (*given, *builtin_images())

    @property
    def names(self) -> list[str]:
        return sorted({entry.name for entry in self._entries})

    def resolve(self, reference: str) -> Image:
        """The image that stands for ``reference``; UnknownImage or InvalidImageName."""
        repository = repository_of(reference)
        for entry in self._entries:
            if _matches(entry.name, repository):
                digest = hashlib.sha256(repr(entry).encode()).hexdigest()
                return Image(
                    reference,
                    f"kubarium.dev/local/{entry.name.rstrip('/*')}@sha256:{digest}",
                    entry.entrypoint,
                    entry.cmd,
                    entry.env,
                    entry.path,
                    entry.working_dir,
                    entry.uid,
                )
        raise UnknownImage(
            f'no image "{reference}" on this machine: Kubarium runs images through the programs '
            f"of this machine and knows {', '.join(self.names)}; map it under images: in the "
            f"cluster file, for example  images: {{{repository}: {{cmd: [sh]}}}}"
        )


def repository_of(reference: str) -> str:
    """``registry.k8s.io/a/b:tag@digest`` without tag and digest."""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    name = f"{head}{slash}{tail.partition(':')[0]}"
    if not name or name != name.lower() or any(letter.isspace() for letter in name):
        raise InvalidImageName(
            f'Failed to apply default image tag "{reference}": couldn\'t parse image name '
            f'"{reference}": invalid reference format'
        )
    return name


def _matches(pattern: str, repository: str) -> bool:
    """Without a slash in the pattern, the last path element counts."""
    if pattern.endswith("*"):
        stem = pattern[:-1]
        return repository.startswith(stem) or f"/{stem}" in repository
    if "/" not in pattern:
        return repository.rpartition("/")[2] == pattern
    return repository == pattern or repository.endswith(f"/{pattern}")
