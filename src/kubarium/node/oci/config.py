"""Manifests and configs of images, and the choice among several platforms' (image-spec 1.1)."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubarium.node.oci.errors import ImageProblem

Document = dict[str, Any]
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# What registries and runtimes allow too; a layer is never read into memory.
MOST_JSON_BYTES = 8 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_GO_NAMES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
}


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system, architecture and its variant, by Go's names."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def runs(self, other: Platform) -> bool:
        """Whether programs of ``other`` run here; no variant is the usual one."""
        here = {"arm64": "v8", "arm": "v7"}.get(self.architecture, "")
        same = (self.os, self.architecture) == (other.os, other.architecture)
        wanted = other.variant or here
        return same and (wanted == (self.variant or here) or self.architecture == "amd64")


def this_platform() -> Platform:
    """This machine's; containers are Linux's."""
    machine = platform.machine()
    return Platform("linux", *_GO_NAMES.get(machine, (machine, "")))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points to a blob."""

    digest: str
    size: int
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One platform's image."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """Bytes as they are kept and sent."""
        return self.config.size + sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Config:
    """What an image asks for. ``diff_ids`` are the layers' digests without compression."""

    platform: Platform
    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """What names the content of each layer on top of those below it."""
        return chain_ids(self.diff_ids)


def parse_json(data: bytes, what: str) -> Document:
    """A JSON object; ImageProblem."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageProblem(f"{what} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ImageProblem(f"{what} is {type(found).__name__}, not a JSON object")
    return found


def descriptor(entry: object, what: str) -> Descriptor:
    """ImageProblem unless it is one with a sha256 digest."""
    if not isinstance(entry, dict):
        raise ImageProblem(f"{what}: a descriptor is missing")
    digest, size = entry.get("digest"), entry.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ImageProblem(f"{what}: digest {digest!r} is not sha256:<64 hex digits>")
    if not isinstance(size, int) or size < 0:
        raise ImageProblem(f"{what}: size {size!r} of {digest} is no number of bytes")
    return Descriptor(digest, size, str(entry.get("mediaType") or ""))


def parse_manifest(data: bytes, what: str) -> Manifest:
    document = parse_json(data, what)
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ImageProblem(f"{what} lists no layers (schema 1 and artifacts are no images)")
    found = tuple(descriptor(entry, f"{what}: layer {i}") for i, entry in enumerate(layers))
    return Manifest(descriptor(document.get("config"), f"{what}: config"), found)


def _platform(given: Document, usual_os: str = "") -> Platform:
    return Platform(
        str(given.get("os") or usual_os),
        str(given.get("architecture") or ""),
        str(given.get("variant") or ""),
    )


def parse_config(data: bytes, what: str) -> Config:
    document = parse_json(data, what)
    own = document.get("config") or {}
    if not isinstance(own, dict):
        raise ImageProblem(f"{what}: config is {type(own).__name__}, not an object")
    rootfs = document.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    texts: list[Any] = ids if isinstance(ids, list) else [None]
    if not all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in texts):
        raise ImageProblem(f"{what}: rootfs.diff_ids is no list of sha256 digests")
    return Config(
        _platform(document, "linux"),
        tuple(texts),
        _texts(own, "Entrypoint", what),
        _texts(own, "Cmd", what),
        dict(pair.partition("=")[::2] for pair in _texts(own, "Env", what)),
        str(own.get("WorkingDir") or ""),
        str(own.get("User") or ""),
        str(own.get("StopSignal") or ""),
    )


def _texts(own: Document, name: str, what: str) -> tuple[str, ...]:
    found = own.get(name) or []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ImageProblem(f"{what}: {name} is no list of strings")
    return tuple(found)


def choose(entries: Sequence[object], wanted: Platform, what: str) -> Descriptor:
    """The manifest of an index for a platform; ImageProblem names those that there are."""
    offered: list[str] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise ImageProblem(f"{what}: manifests is no list of descriptors")
        given = entry.get("platform")
        if not isinstance(given, dict):
            return descriptor(entry, what)
        found = _platform(given)
        if wanted.runs(found):
            return descriptor(entry, what)
        if found.os != "unknown":  # attestations are listed as such
            offered.append(str(found))
    there = ", ".join(offered) or "none"
    raise ImageProblem(f"{what}: no match for platform {wanted} in manifest (there: {there})")


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """Each layer together with those below it (image-spec, "Layer ChainID")."""
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(_sha256(f"{found[-1]} {diff_id}") if found else diff_id)
    return tuple(found)


def _sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
