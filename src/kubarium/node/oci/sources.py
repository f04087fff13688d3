"""Where images come from on this machine: OCI layouts (directory or tar) and docker archives."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from kubarium.node.oci.config import MOST_JSON_BYTES, parse_json
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.reference import DOCKER_ARCHIVE, OCI, OCI_ARCHIVE

_TAG, _NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"
_MOST_MEMBERS, _MOST_LINKS = 100_000, 8


class Files(Protocol):
    """Named files; both forms of a layout have them."""

    what: str

    def open(self, name: str) -> IO[bytes]:
        """For reading; FileNotFoundError."""
        ...


class FolderFiles:
    """A directory."""

    def __init__(self, path: str) -> None:
        self.what = path
        self._path = Path(path)

    def open(self, name: str) -> IO[bytes]:
        return open(self._path / name, "rb")


class ArchiveFiles:
    """A tar archive, which may be compressed as a whole (slow, then)."""

    def __init__(self, path: str, archive: tarfile.TarFile) -> None:
        self.what = path
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in archive:
            self._members[os.path.normpath(member.name)] = member
            if len(self._members) > _MOST_MEMBERS:
                raise ImageProblem(f"{path} has too many files for an image archive")

    def open(self, name: str) -> IO[bytes]:
        for _ in range(_MOST_LINKS):  # old archives name a layer twice by a link
            member = self._members.get(os.path.normpath(name))
            if member is None:
                break
            if member.isreg():
                found = self._archive.extractfile(member)
                assert found is not None
                return found
            folder = os.path.dirname(member.name) if member.issym() else ""
            name = os.path.join(folder, member.linkname)
        raise FileNotFoundError(f"no file {name} in {self.what}")


@contextmanager
def open_files(path: str) -> Iterator[Files]:
    """A directory or archive; ImageProblem if it is neither."""
    with ExitStack() as stack:
        try:
            if os.path.isdir(path):
                found: Files = FolderFiles(path)
            else:
                archive = stack.enter_context(tarfile.open(path, "r:*"))
                found = ArchiveFiles(path, archive)
        except FileNotFoundError as error:
            raise ImageProblem(f"{path}: no such file or directory") from error
        except OSError as error:
            raise ImageProblem(f"{path} cannot be read: {error.strerror or error}") from error
        except (EOFError, tarfile.TarError) as error:
            raise ImageProblem(
                f"{path} is no directory and no tar archive: give an OCI layout, or what docker "
                "save has written"
            ) from error
        try:
            yield found
        except (tarfile.TarError, EOFError) as error:
            raise ImageProblem(f"{path} is a broken archive: {error}") from error


def kind_of(files: Files) -> str:
    """Which transport these files are of; ImageProblem."""
    for name, kind in (("index.json", OCI), ("manifest.json", DOCKER_ARCHIVE)):
        try:
            files.open(name).close()
        except FileNotFoundError:
            continue
        is_folder = isinstance(files, FolderFiles)
        return kind if kind == DOCKER_ARCHIVE or is_folder else OCI_ARCHIVE
    raise ImageProblem(
        f"{files.what} is no image: it has neither index.json (an OCI layout) nor manifest.json "
        "(docker save)"
    )


def read_small(files: Files, name: str) -> bytes:
    """A file of JSON; ImageProblem if it is missing or too large."""
    try:
        with files.open(name) as stream:
            data = stream.read(MOST_JSON_BYTES + 1)
    except OSError as error:
        raise ImageProblem(f"{files.what}: {name} is missing") from error
    if len(data) > MOST_JSON_BYTES:
        raise ImageProblem(f"{files.what}: {name} is larger than {MOST_JSON_BYTES} bytes")
    return data


@dataclass(frozen=True, slots=True)
class Listed:
    """An image of a layout: its descriptor, what it is called there, or "" for nothing."""

    entry: dict[str, Any]
    tag: str
    name: str


def list_layout(files: Files) -> list[Listed]:
    """All images that ``index.json`` names."""
    version = parse_json(read_small(files, "oci-layout"), f"{files.what}: oci-layout")
    if not str(version.get("imageLayoutVersion", "")).startswith("1."):
        found = version.get("imageLayoutVersion")
        raise ImageProblem(f"{files.what}: imageLayoutVersion {found!r} is not 1.0.0")
    index = parse_json(read_small(files, "index.json"), f"{files.what}: index.json")
    entries = index.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ImageProblem(f"{files.what}: index.json lists no manifests")
    found_all = []
    for entry in entries:
        notes = entry.get("annotations") or {}
        if not isinstance(notes, dict):
            raise ImageProblem(f"{files.what}: index.json: annotations {notes!r} is no object")
        found_all.append(Listed(entry, str(notes.get(_TAG) or ""), str(notes.get(_NAME) or "")))
    return found_all


def pick(listed: list[Listed], tag: str, what: str) -> list[Listed]:
    """Those called ``tag``, or all if there is one name only; several are one image's platforms."""
    if not listed:
        raise ImageProblem(f"{what} holds no image")
    if tag:
        found = [one for one in listed if tag in (one.tag, one.name, one.entry.get("digest"))]
    else:
        found = listed if len({(one.tag, one.name) for one in listed}) == 1 else []
    if found:
        return found
    names = ", ".join(one.tag or one.name or str(one.entry.get("digest", "?")) for one in listed)
    if tag:
        raise ImageProblem(f"{what} has no image {tag!r} (there: {names})")
    raise ImageProblem(f"{what} has several images: name one of {names} after the path")


@dataclass(frozen=True, slots=True)
class Saved:
    """One image of ``docker save``."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


def list_saved(files: Files) -> list[Saved]:
    """All images of a docker archive."""
    what = f"{files.what}: manifest.json"
    data = read_small(files, "manifest.json")
    entries = parse_json(b'{"images": ' + data + b"}", what)["images"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ImageProblem(f"{what} is no list of images")
    found = []
    for entry in entries:
        config, layers, names = entry.get("Config"), entry.get("Layers"), entry.get("RepoTags")
        if not isinstance(config, str) or not isinstance(layers, list):
            raise ImageProblem(f"{what}: an entry lacks Config or Layers")
        if not isinstance(names or [], list):
            raise ImageProblem(f"{what}: RepoTags {names!r} is no list")
        found.append(Saved(config, tuple(map(str, layers)), tuple(map(str, names or ()))))
    return found


def as_stream(data: bytes) -> IO[bytes]:
    return io.BytesIO(data)
