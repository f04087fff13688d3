"""Image references: names as registries know them, and ``transport:path`` as skopeo writes them.

busybox                              docker.io/library/busybox:latest
quay.io/team/app:1@sha256:…          the digest decides
oci:/srv/app[:TAG]                   an OCI image layout
oci-archive:/srv/app.tar[:TAG]       the same as one tar archive
docker-archive:/srv/app.tar[:NAME]   what ``docker save`` writes
docker://quay.io/team/app:1          a registry, by skopeo
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from kubarium.node.oci.errors import INVALID_NAME, PullProblem

OCI, OCI_ARCHIVE, DOCKER_ARCHIVE, DOCKER = "oci", "oci-archive", "docker-archive", "docker"
FILES = (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE)
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9-]+)*(?::[0-9]+)?)"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_MOST_LETTERS = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """One of a registry (``name`` is full, ``tag`` or ``digest`` there) or of files (``path``,
    and in ``tag`` which of the images there; "" is the only one)."""

    text: str
    transport: str = ""
    path: str = ""
    name: str = ""
    tag: str = ""
    digest: str = ""

    @property
    def of_files(self) -> bool:
        return self.transport in FILES

    @property
    def canonical(self) -> str:
        """What the store knows it by."""
        if self.of_files:
            return f"{self.transport}:{self.path}" + (f":{self.tag}" if self.tag else "")
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """PullProblem (InvalidImageName) in kubelet's words if it is none.

    >>> parse_reference("busybox").canonical
    'docker.io/library/busybox:latest'
    >>> parse_reference("oci:/srv/app:v1").tag
    'v1'
    """
    transport, colon, rest = text.partition(":")
    if colon and transport in FILES:
        return _of_files(text, transport, rest)
    if text.startswith("docker://"):
        found = _of_registry(text, text.removeprefix("docker://"))
        return Reference(text, DOCKER, "", found.name, found.tag, found.digest)
    return _of_registry(text, text)


def _of_files(text: str, transport: str, rest: str) -> Reference:
    path, _, tag = rest.partition(":")
    if not path.startswith("/"):
        raise _invalid(text, f"{transport}: takes an absolute path of the node's, not {path!r}")
    return Reference(text, transport, os.path.normpath(path), tag=tag)


def _of_registry(text: str, name: str) -> Reference:
    match = _NAME.fullmatch(name)
    if match is None or len(match["name"]) > _MOST_LETTERS:
        raise _invalid(text, "invalid reference format")
    full, tag, digest = match["name"], match["tag"] or "", match["digest"] or ""
    head, slash, _ = full.partition("/")
    if not slash or not ("." in head or ":" in head or head == "localhost"):
        full = f"docker.io/{full}" if slash else f"docker.io/library/{full}"
    elif head == "docker.io" and full.count("/") == 1:
        full = full.replace("docker.io/", "docker.io/library/")
    if not tag and not digest:
        tag = "latest"
    return Reference(text, "", "", full, tag, digest)


def _invalid(text: str, why: str) -> PullProblem:
    message = (
        f'Failed to apply default image tag "{text}": couldn\'t parse image name "{text}": {why}'
    )
    return PullProblem(INVALID_NAME, message)
