"""The image catalogue: which image names this machine can stand in for, and how."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from kubarium.base.errors import KubariumError
from kubarium.node.config import ImageConfig
from kubarium.node.mpi_images import mpi_images

if TYPE_CHECKING:  # the catalogue's names are read with every cluster file
    from kubarium.node.oci.store import Record

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class UnknownImage(KubariumError):
    """The catalogue has no entry; the message says how to make one."""


class InvalidImageName(KubariumError):
    """The text is no image reference."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A real image: its layers as directories, from the top down, and what its config says beyond
    what a stand-in has. ``user`` is the config's text."""

    layers: tuple[str, ...]
    user: str
    stop_signal: str
    record: Record


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
    modules: tuple[str, ...] = ()
    # Files (path to text) and folders of its own, where the machine's would be seen.
    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    # None: programs of this machine stand in for it.
    stored: StoredImage | None = None


def builtin_images() -> tuple[ImageConfig, ...]:
    """Images that every Kubarium node can stand in for, by the machine's own programs."""
    python = ImageConfig("python", cmd=("python3",), path=(os.path.dirname(sys.executable),))
    shells = [ImageConfig(name, cmd=("sh",)) for name in ("busybox", "alpine")]
    systems = [ImageConfig(name, cmd=(_bash(),)) for name in ("ubuntu", "debian", "bash")]
    own = ImageConfig("kubarium/*", cmd=("python3",), path=python.path)
    pause = ImageConfig("pause", entrypoint=("sleep",), cmd=("2147483647",))
    command = ("python3", "-m", "kubarium.labs.in_place_agent")
    agent = ImageConfig("in-place-restart-agent", entrypoint=command, path=python.path)
    return (*shells, *systems, python, own, agent, pause, *_training_images(python.path))


# Where images have their programs work: what is written there by name is expected to be kept.
_WORKSPACE = dict.fromkeys(
    ("pytorch/pytorch", "kubeflow/trainer/xgboost-runtime", "kubeflow/trainer/torchtune-trainer"),
    "/workspace",
)


def _training_images(path: tuple[str, ...]) -> tuple[ImageConfig, ...]:
    """What Kubeflow Trainer's runtimes run in: this machine's Python, if it has the framework."""
    frameworks = {
        "pytorch/pytorch": "torch",
        "nvidia/jax": "jax",
        "kubeflow/trainer/xgboost-runtime": "xgboost",
        "kubeflow/trainer/torchtune-trainer": "torchtune",
    }
    found = [
        ImageConfig(
            name,
            cmd=("python3",),
            path=path,
            modules=(module,),
            working_dir=_WORKSPACE.get(name, ""),
            folders=(_WORKSPACE[name],) if name in _WORKSPACE else (),
        )
        for name, module in frameworks.items()
    ]
    for step in ("dataset", "model"):
        command = ("python3", "-m", "kubarium.labs.initializer", step)
        name = f"kubeflow/trainer/{step}-initializer"
        found.append(ImageConfig(name, entrypoint=command, path=path))
    return (*found, *mpi_images(path, DEFAULT_PATH))


def _bash() -> str:
    return "bash" if os.path.exists("/bin/bash") else "sh"


class ImageCatalogue:
    """Looks up image references; entries of the cluster file come before the built-in ones."""

    def __init__(self, given: Iterable[ImageConfig] = ()) -> None:
        self._given = tuple(given)
        self._entries = (*self._given, *builtin_images())

    @property
    def names(self) -> list[str]:
        return sorted({entry.name for entry in self._entries})

    def is_given(self, reference: str) -> bool:
        """Whether the cluster file maps it; False if it is no reference."""
        return _any_matches(self._given, reference)

    def knows(self, reference: str) -> bool:
        """Whether there is an entry, be it for an image that cannot be stood in for here."""
        return _any_matches(self._entries, reference)

    def resolve(self, reference: str) -> Image:
        """The image that stands for ``reference``; UnknownImage or InvalidImageName."""
        repository = repository_of(reference)
        for entry in self._entries:
            if _matches(entry.name, repository):
                _check_possible(reference, entry)
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
                    entry.modules,
                    entry.files,
                    entry.folders,
                )
        raise UnknownImage(
            f'no image "{reference}" on this machine: Kubarium runs images through the programs '
            f"of this machine and knows {', '.join(self.names)}; map it under images: in the "
            f"cluster file, for example  images: {{{repository}: {{cmd: [sh]}}}}"
        )


def _any_matches(entries: Iterable[ImageConfig], reference: str) -> bool:
    try:
        repository = repository_of(reference)
    except InvalidImageName:
        return False
    return any(_matches(entry.name, repository) for entry in entries)


def _check_possible(reference: str, entry: ImageConfig) -> None:
    """UnknownImage if this machine cannot stand in for an image that it knows."""
    missing = [module for module in entry.modules if find_spec(module) is None]
    lacks = lacking(entry.programs)
    if missing:
        what = " ".join(missing)
        raise UnknownImage(
            f'image "{reference}" stands for this machine\'s Python with {what}, which '
            f"{sys.executable} does not have; install it there (pip install {what}), or map the "
            f"image under images: in the cluster file{_without_mpi(entry, lacks)}"
        )
    if lacks:
        raise UnknownImage(
            f'image "{reference}" stands for programs of this machine, which has '
            f"{_named(lacks)} in {DEFAULT_PATH}; install what is missing, or map the image under "
            f"images: in the cluster file{_without_mpi(entry, [])}"
        )


def lacking(programs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that containers would not find here, each with its package."""
    return [pair for pair in programs if shutil.which(pair[0], path=DEFAULT_PATH) is None]


def _named(programs: list[tuple[str, str]]) -> str:
    """
    >>> _named([("mpirun", "openmpi-bin"), ("sshd", "openssh-server")])
    'no mpirun and no sshd (apt-get install openmpi-bin openssh-server)'
    """
    first, *rest = [f"no {name}" for name, _ in programs]
    names = " and ".join([", ".join([first, *rest[:-1]]), *rest[-1:]])
    packages = " ".join(dict.fromkeys(package for _, package in programs))
    return f"{names} (apt-get install {packages})"


def _without_mpi(entry: ImageConfig, lacks: list[tuple[str, str]]) -> str:
    """What else the image's runtime would need, and what needs nothing of it."""
    if not entry.instead:
        return ""
    text = "; its runtime starts ranks by mpirun (Open MPI), through an SSH server set up as in it"
    text += f", and this machine has {_named(lacks)}" if lacks else ""
    return f"{text}; neither is needed by {entry.instead}"


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
