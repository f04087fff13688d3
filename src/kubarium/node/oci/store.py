"""The images of one node folder: blobs by digest, names for them, layers unpacked once for all.

    images/
        lock                        held by whoever changes something
        names.json                  name -> Record
        blobs/sha256/<hex>          manifests, configs and layers, as they came
        layers/<chain id>/fs        a layer, ready for overlayfs
        leases/<container>          which image a container runs from

Readers take no lock: files are replaced as a whole, and a layer has its name once it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from kubarium.base.trees import remove_tree
from kubarium.node.oci.compression import BROKEN, decompressed
from kubarium.node.oci.config import (
    MOST_JSON_BYTES,
    Config,
    Manifest,
    chain_ids,
    parse_config,
    parse_manifest,
)
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.unpack import Budget, unpack_layer

LOADED, FOUND, PULLED = "loaded", "found", "pulled"
_COPY_BYTES = 1 << 20
# The last use is written down so often at most.
_USE_STEP_S = 60.0


@dataclass(frozen=True, slots=True)
class Record:
    """What a name stands for. ``origin``: LOADED by hand, FOUND at a path, PULLED. ``stamp`` tells
    whether what it came from has changed since. ``index`` is the digest that it was asked by."""

    manifest: str
    config: str
    size: int
    origin: str
    stamp: str = ""
    index: str = ""
    loaded_at: float = 0.0
    used_at: float = 0.0


class ImageStore:
    """``now`` is the time. All methods block; those that change something wait for the lock."""

    def __init__(self, root: Path, now: Callable[[], float], budget: Budget | None = None) -> None:
        self.root = root
        self._now = now
        self._blobs = root / "blobs" / "sha256"
        self._layers = root / "layers"
        self._leases = root / "leases"
        self._budget = budget or Budget(str(root))

    @contextlib.contextmanager
    def locked(self, wait: bool = True) -> Iterator[None]:
        """BlockingIOError if others hold the lock and we do not ``wait``."""
        for folder in (self._blobs, self._layers, self._leases):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        # Not for everyone: images may hold set-user-id programs and secrets.
        os.chmod(self.root, 0o700)
        with open(self.root / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield

    # Names -------------------------------------------------------------------------------------

    def records(self) -> dict[str, Record]:
        """All names."""
        try:
            found = json.loads((self.root / "names.json").read_text())
            return {name: Record(**record) for name, record in found.items()}
        except (OSError, ValueError, TypeError):
            return {}

    def find(self, name: str) -> Record | None:
        """By name, or by an image's id (the digest of its config or manifest)."""
        records = self.records()
        if name in records:
            return records[name]
        by_digest = (r for r in records.values() if name in (r.config, r.manifest))
        return next(by_digest, None) if name.startswith("sha256:") else None

    def remember(self, name: str, record: Record) -> None:
        """Under the lock."""
        self._write_names({**self.records(), name: replace(record, loaded_at=self._now())})

    def use(self, name: str) -> None:
        """A container runs from it now."""
        record = self.records().get(name)
        if record is not None and self._now() - record.used_at >= _USE_STEP_S:
            with self.locked():
                records = self.records()
                if name in records:
                    records[name] = replace(records[name], used_at=self._now())
                    self._write_names(records)

    def remove(self, names: list[str]) -> int:
        """Forget names and what nothing else needs; the bytes that were freed."""
        with self.locked():
            records = {n: r for n, r in self.records().items() if n not in names}
            self._write_names(records)
            return self._sweep(records)

    def _write_names(self, records: dict[str, Record]) -> None:
        beside = self.root / ".names.json"
        beside.write_text(json.dumps({name: asdict(r) for name, r in sorted(records.items())}))
        os.replace(beside, self.root / "names.json")

    # Blobs -------------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.blob(digest).is_file()

    def add(self, stream: IO[bytes], digest: str = "", size: int | None = None) -> tuple[str, int]:
        """Keep a blob, under the lock; its digest and size, which must be those given if they
        are. ImageProblem."""
        counted, summed = 0, hashlib.sha256()
        budget = replace(self._budget)
        descriptor, path = tempfile.mkstemp(prefix=".new-", dir=self._blobs)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                while data := stream.read(_COPY_BYTES):
                    counted += len(data)
                    budget.entry(digest or "a layer", len(data))
                    if size is not None and counted > size:
                        break
                    summed.update(data)
                    file.write(data)
            found = f"sha256:{summed.hexdigest()}"
            if size is not None and counted != size:
                more = "more" if counted > size else f"{counted}"
                raise ImageProblem(f"blob {digest} has {more} bytes instead of {size}")
            if digest and found != digest:
                raise ImageProblem(f"blob {digest} is corrupt: its digest is {found}")
            os.chmod(path, 0o644)
            os.replace(path, self.blob(found))
        except BROKEN as error:
            raise ImageProblem(f"blob {digest or 'of a layer'}: {error}") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return found, counted

    def lend(self, folder: Path) -> None:
        """Show all blobs in ``folder`` too, on the same file system: whoever is about to fetch an
        image finds there what it shares with others. What is lent stays, whatever is removed here
        meanwhile."""
        folder.mkdir(parents=True, exist_ok=True)
        # None yet, or a file system without links.
        with contextlib.suppress(OSError), os.scandir(self._blobs) as blobs:
            for blob in blobs:
                if not blob.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError, FileExistsError):
                        os.link(blob.path, folder / blob.name)

    def _read(self, digest: str, what: str) -> bytes:
        """A small blob, verified again: disks fail."""
        try:
            with open(self.blob(digest), "rb") as file:
                data = file.read(MOST_JSON_BYTES)
        except FileNotFoundError as error:
            raise ImageProblem(f"{what} {digest} is missing") from error
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise ImageProblem(f"{what} {digest} is corrupt: load the image again")
        return data

    def manifest(self, digest: str) -> Manifest:
        return parse_manifest(self._read(digest, "manifest"), f"manifest {digest}")

    def config(self, digest: str) -> Config:
        return parse_config(self._read(digest, "config"), f"config {digest}")

    # Layers ------------------------------------------------------------------------------------

    def unpacked(self, record: Record) -> list[str]:
        """The image's layers as directories, from the top down; unpacked if they are not yet."""
        config, manifest = self.config(record.config), self.manifest(record.manifest)
        check_layers(config, manifest)
        found: list[str] = []
        for position, chain in enumerate(config.chain_ids):
            place = self._layers / chain.removeprefix("sha256:")
            if not place.is_dir():
                with self.locked():
                    if not place.is_dir():
                        layer = manifest.layers[position].digest
                        self._unpack(layer, config.diff_ids[position], place, found)
            found.insert(0, str(place / "fs"))
        return found

    def settle(self, name: str, record: Record) -> None:
        """Unpack what has just been taken in; an image that cannot be unpacked is not there."""
        try:
            self.unpacked(record)
        except ImageProblem:
            self.remove([name])
            raise

    def _unpack(self, layer: str, diff_id: str, place: Path, below: list[str]) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self._layers))
        what = f"layer {layer}"
        try:
            os.chmod(temporary, 0o755)
            root = temporary / "fs"
            root.mkdir(mode=0o755)
            with open(self.blob(layer), "rb") as blob, decompressed(blob) as stream:
                summed = _Summed(stream)
                unpack_layer(summed, str(root), replace(self._budget), below, what)  # type: ignore[arg-type]
            if summed.digest != diff_id:
                self.blob(layer).unlink()
                raise ImageProblem(
                    f"{what} is corrupt: it unpacks to {summed.digest}, its image says {diff_id}"
                )
            (temporary / "size").write_text(str(summed.count))
            os.rename(temporary, place)
        except FileNotFoundError as error:
            raise ImageProblem(f"{what} is missing: load the image again") from error
        finally:
            remove_tree(temporary)

    # Leases and rubbish ------------------------------------------------------------------------

    def lease(self, container: str, record: Record) -> None:
        """Keep what a container runs from, whatever becomes of its name."""
        self._leases.mkdir(parents=True, exist_ok=True)
        (self._leases / container).write_text(record.manifest)

    def release(self, container: str) -> None:
        (self._leases / container).unlink(missing_ok=True)

    def keep_leases(self, containers: set[str]) -> None:
        """Others' containers have ended, with an agent that could not say so."""
        with contextlib.suppress(FileNotFoundError):
            for lease in os.listdir(self._leases):
                if lease not in containers:
                    self.release(lease)

    def leased(self) -> set[str]:
        """Manifests that containers run from."""
        found = set()
        with contextlib.suppress(FileNotFoundError):
            for lease in os.listdir(self._leases):
                with contextlib.suppress(FileNotFoundError):
                    found.add((self._leases / lease).read_text())
        return found

    def clean(self) -> int:
        """Remove what no name and no container needs, and what broken loads have left; not while
        an image is being loaded, which may take minutes."""
        if not self.root.is_dir():
            return 0
        try:
            with self.locked(wait=False):
                return self._sweep(self.records())
        except BlockingIOError:
            return 0

    def _sweep(self, records: dict[str, Record]) -> int:
        blobs: set[str] = set()
        chains: set[str] = set()
        for digest in {record.manifest for record in records.values()} | self.leased():
            blobs.add(digest)
            with contextlib.suppress(ImageProblem):
                manifest = self.manifest(digest)
                blobs |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
                chains |= set(chain_ids(self.config(manifest.config.digest).diff_ids))
        freed = 0
        for blob in list(self._blobs.iterdir()):
            if f"sha256:{blob.name}" not in blobs:
                freed += blob.stat().st_size
                blob.unlink()
        for layer in list(self._layers.iterdir()):
            if f"sha256:{layer.name}" not in chains:
                freed += _size_of(layer)
                remove_tree(layer)
        return freed


def check_layers(config: Config, manifest: Manifest) -> None:
    """ImageProblem if the config speaks of other layers than the manifest."""
    if len(config.diff_ids) != len(manifest.layers):
        raise ImageProblem(
            f"the manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)}"
        )


def _size_of(layer: Path) -> int:
    try:
        return int((layer / "size").read_text())
    except (OSError, ValueError):
        return 0


class _Summed:
    """A stream that is read through, and its digest."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sum = hashlib.sha256()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._sum.update(data)
        self.count += len(data)
        return data

    @property
    def digest(self) -> str:
        return f"sha256:{self._sum.hexdigest()}"
