"""The images of a cluster's nodes, for those who sit at the machine: `kubarium image`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kubarium.base.errors import ConfigError
from kubarium.cluster.clock import RealClock
from kubarium.cluster.state import StateDirectory
from kubarium.node.oci.errors import ImageProblem, PullProblem
from kubarium.node.oci.load import load
from kubarium.node.oci.pull import Skopeo
from kubarium.node.oci.reference import parse_reference
from kubarium.node.oci.store import ImageStore
from kubarium.node.runtimes.process.pods import IMAGES


@dataclass(frozen=True, slots=True)
class Row:
    """One name of the store."""

    name: str
    image_id: str
    size: int
    origin: str
    loaded_at: float
    in_use: bool


def _store(state: StateDirectory) -> ImageStore:
    return ImageStore(state.nodes / IMAGES, RealClock().now)


def load_images(state: StateDirectory, path: Path, names: Sequence[str]) -> list[str]:
    """Take the images of a file or layout in, verified and unpacked; their names. ConfigError."""
    store = _store(state)
    state.create()
    try:
        loaded = load(store, str(path), names)
        for name in loaded:
            store.settle(name, store.records()[name])
    except ImageProblem as problem:
        raise ConfigError(str(problem)) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    return loaded


def pull_image(state: StateDirectory, name: str) -> str:
    """Fetch one from its registry; its name. ConfigError."""
    store = _store(state)
    skopeo = Skopeo.find(store)
    if skopeo is None:
        raise ConfigError(
            "skopeo, which speaks to registries, is not installed (apt install skopeo, brew "
            "install skopeo); or load a file: kubarium image load FILE"
        )
    state.create()
    try:
        reference = parse_reference(name)
        if reference.of_files:
            raise ConfigError(f"{name!r} is no registry's: use kubarium image load")
        record = asyncio.run(skopeo.pull(reference, {}))
        store.settle(reference.canonical, record)
    except (ImageProblem, PullProblem) as problem:
        raise ConfigError(f"{name}: {problem}") from None
    except OSError as error:
        raise ConfigError(f"{name}: the image store: {error}") from None
    return reference.canonical


def list_images(state: StateDirectory) -> list[Row]:
    """By name."""
    store = _store(state)
    leased = store.leased()
    return [
        Row(name, r.config, r.size, r.origin, r.loaded_at, r.manifest in leased)
        for name, r in sorted(store.records().items())
    ]


def remove_images(state: StateDirectory, names: Sequence[str]) -> tuple[list[str], int]:
    """Forget names (or all of an image's id); what was removed, and the bytes freed. What
    containers still run from goes with them. ConfigError if one is not there."""
    store = _store(state)
    records, gone = store.records(), []
    for name in names:
        found = [known for known, r in records.items() if name in (known, r.config, r.manifest)]
        if not found:
            found = [known for known in _canonical(name) if known in records]
        if not found:
            raise ConfigError(f"no image {name!r} here: see kubarium image ls")
        gone += found
    try:
        return gone, store.remove(gone)
    except OSError as error:
        raise ConfigError(f"{', '.join(gone)}: the image store: {error}") from None


def _canonical(name: str) -> list[str]:
    try:
        return [parse_reference(name).canonical]
    except PullProblem:
        return []
