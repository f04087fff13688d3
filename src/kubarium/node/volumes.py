"""Pod volumes as directories of the machine.

ConfigMaps, Secrets, projections and the downward API are written as kubelet writes them: into a
directory whose name starts with two dots, swapped in through the link ``..data``, so that a reader
sees all of an update or none of it (source: ``pkg/volume/util/atomic_writer.go``).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.errors import KubariumError
from kubarium.base.quantity import whole
from kubarium.engine.reasons import volume_claim_foreign
from kubarium.node.downward import PodFacts, UnsupportedField, field_value, resource_value
from kubarium.node.environment import Sources, contents
from kubarium.runtime.writes import is_controlled_by

_DEFAULT_MODE = 0o644
# Volume types whose content follows objects and is refreshed while the pod runs.
FOLLOWING = ("configMap", "secret", "downwardAPI", "projected")
ROOT_CA = "kube-root-ca.crt"


class MountProblem(KubariumError):
    """A volume cannot be set up: the message of the FailedMount event."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume."""

    data: bytes
    mode: int


# (pod, audience, lifetime in seconds) -> token; MountProblem if there is none to be had
TokenSource = Callable[[Document, str, int], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class VolumeSources:
    """What volumes are made from. ``claims`` is where persistent claims keep their files."""

    objects: Sources
    claim: Callable[[str, str], Mapping[str, Any] | None]
    persistent_volume: Callable[[str], Mapping[str, Any] | None]
    token: TokenSource
    claims: Path
    now: Callable[[], float]
    api_ca: str
    is_root: bool


class PodVolumes:
    """The volumes of one pod under ``place``; paths by volume name."""

    def __init__(self, facts: PodFacts, place: Path, sources: VolumeSources) -> None:
        self._facts = facts
        self._place = place
        self._sources = sources
        self._namespace = facts.pod["metadata"].get("namespace", "")
        context = facts.pod["spec"].get("securityContext") or {}
        self._fs_group: int | None = context.get("fsGroup")
        self._tokens: dict[tuple[str, int], str] = {}
        self._token_ends: dict[tuple[str, int], float] = {}
        self.paths: dict[str, Path] = {}
        self.memory: list[tuple[Path, str]] = []

    async def set_up(self) -> None:
        """Make every volume of the pod; MountProblem names the first that cannot be."""
        for volume in self._facts.pod["spec"].get("volumes") or ():
            name = volume["name"]
            try:
                await self._fetch_tokens(volume)
                self.paths[name] = self._make(name, volume)
            except (MountProblem, OSError, UnsupportedField) as problem:
                text = problem.strerror if isinstance(problem, OSError) else str(problem)
                raise MountProblem(
                    f'MountVolume.SetUp failed for volume "{name}" : {text or problem}'
                ) from problem

    def update(self, facts: PodFacts) -> None:
        """The pod's document has changed; :meth:`refresh` writes what follows from it."""
        self._facts = facts

    async def refresh(self) -> None:
        """Bring volumes that follow objects up to date; objects that are gone change nothing."""
        for volume in self._facts.pod["spec"].get("volumes") or ():
            if any(volume.get(kind) is not None for kind in FOLLOWING):
                try:
                    await self._fetch_tokens(volume)
                    self._make(volume["name"], volume)
                except (MountProblem, UnsupportedField):
                    continue

    async def _fetch_tokens(self, volume: Mapping[str, Any]) -> None:
        """Tokens are renewed when four fifths of their life are over, as kubelet does."""
        for part in (volume.get("projected") or {}).get("sources") or ():
            one = part.get("serviceAccountToken")
            if one is None:
                continue
            lifetime = one.get("expirationSeconds") or 3600
            key, now = (one.get("audience") or "", lifetime), self._sources.now()
            if self._token_ends.get(key, 0.0) <= now:
                self._tokens[key] = await self._sources.token(self._facts.pod, *key)
                self._token_ends[key] = now + lifetime * 0.8

    def _make(self, name: str, volume: Mapping[str, Any]) -> Path:
        place = self._place / name
        kind = next(
            (key for key in volume if key != "name" and volume[key] is not None), "emptyDir"
        )
        make = getattr(self, f"_make_{kind}", None)
        if make is None:
            raise MountProblem(f"this node cannot mount volumes of type {kind}")
        path: Path = make(place, volume.get(kind) or {})
        return path

    def _make_emptyDir(self, place: Path, source: Mapping[str, Any]) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        os.chmod(place, 0o777)
        self._own(place)
        if source.get("medium") == "Memory":
            limit = f",size={whole(source['sizeLimit'])}" if source.get("sizeLimit") else ""
            group = "" if self._fs_group is None else f",gid={self._fs_group}"
            self.memory.append((place, f"mode=1777{limit}{group}"))
        return place

    def _make_hostPath(self, place: Path, source: Mapping[str, Any]) -> Path:
        path, kind = Path(source["path"]), source.get("type") or ""
        if kind == "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True)
        elif kind == "FileOrCreate":
            path.touch()
        checks: dict[str, Callable[[], bool]] = {
            "": path.exists,
            "Directory": path.is_dir,
            "DirectoryOrCreate": path.is_dir,
            "File": path.is_file,
            "FileOrCreate": path.is_file,
            "Socket": path.is_socket,
            "CharDevice": path.is_char_device,
            "BlockDevice": path.is_block_device,
        }
        words = {"Directory": "a directory", "File": "a file", "Socket": "a socket file"}
        if kind not in checks:
            raise MountProblem(f"hostPath type {kind!r} is unknown")
        if not checks[kind]():
            word = words.get(kind.removesuffix("OrCreate"), f"a {kind}" if kind else "there")
            raise MountProblem(f"hostPath type check failed: {path} is not {word}")
        return path.resolve()

    def _make_persistentVolumeClaim(self, place: Path, source: Mapping[str, Any]) -> Path:
        name = source["claimName"]
        claim = self._sources.claim(self._namespace, name)
        if claim is None:
            raise MountProblem(f'persistentvolumeclaim "{name}" not found')
        volume_name = (claim.get("spec") or {}).get("volumeName") or ""
        if not volume_name:
            raise MountProblem(f'persistentvolumeclaim "{name}" is not bound to a volume yet')
        volume = self._sources.persistent_volume(volume_name)
        if volume is None:
            raise MountProblem(f'persistentvolume "{volume_name}" not found')
        spec = volume.get("spec") or {}
        holder = (spec.get("claimRef") or {}).get("uid")
        if holder and holder != claim["metadata"]["uid"]:
            raise MountProblem(
                f'persistentvolume "{volume_name}" is bound to another claim than {name}'
            )
        given = (spec.get("hostPath") or spec.get("local") or {}).get("path")
        path = Path(given) if given else self._sources.claims / self._namespace / name
        path.mkdir(parents=True, exist_ok=True)
        if not given:
            os.chmod(path, 0o777)
        self._own(path)
        return path.resolve()

    def _make_ephemeral(self, place: Path, source: Mapping[str, Any]) -> Path:
        pod = self._facts.pod
        name = f"{pod['metadata']['name']}-{place.name}"
        claim = self._sources.claim(self._namespace, name)
        if claim is not None and not is_controlled_by(claim, pod):
            where = self._namespace
            raise MountProblem(
                volume_claim_foreign((where, name), (where, pod["metadata"]["name"]))
            )
        return self._make_persistentVolumeClaim(place, {"claimName": name})

    def _make_configMap(self, place: Path, source: Mapping[str, Any]) -> Path:
        files = self._object_files("configmap", self._config_map, source.get("name", ""), source)
        return self._write(place, files)

    def _make_secret(self, place: Path, source: Mapping[str, Any]) -> Path:
        name = source.get("secretName", "")
        return self._write(place, self._object_files("secret", self._secret, name, source))

    def _make_downwardAPI(self, place: Path, source: Mapping[str, Any]) -> Path:
        return self._write(place, self._downward_files(source, _mode(source)))

    def _make_projected(self, place: Path, source: Mapping[str, Any]) -> Path:
        files: dict[str, File] = {}
        mode = _mode(source)
        for part in source.get("sources") or ():
            if part.get("configMap") is not None:
                one = {"defaultMode": mode} | part["configMap"]
                files |= self._object_files("configmap", self._config_map, one["name"], one)
            elif part.get("secret") is not None:
                one = {"defaultMode": mode} | part["secret"]
                files |= self._object_files("secret", self._secret, one["name"], one)
            elif part.get("downwardAPI") is not None:
                files |= self._downward_files(part["downwardAPI"], mode)
            elif part.get("serviceAccountToken") is not None:
                one = part["serviceAccountToken"]
                lifetime = one.get("expirationSeconds") or 3600
                token = self._tokens[(one.get("audience") or "", lifetime)]
                files[one["path"]] = File(token.encode(), self._token_mode(mode))
            else:
                raise MountProblem(f"this node cannot project {sorted(part)}")
        return self._write(place, files)

    def _token_mode(self, mode: int) -> int:
        """A token is for its pod's user alone, unless a group is to share volumes."""
        return mode if self._fs_group is None else 0o600

    # Content -----------------------------------------------------------------------------------

    def _config_map(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        found = self._sources.objects.config_map(namespace, name)
        if found is None and name == ROOT_CA and self._sources.api_ca:
            return {"kind": "ConfigMap", "data": {"ca.crt": self._sources.api_ca}}
        return found

    def _secret(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return self._sources.objects.secret(namespace, name)

    def _object_files(
        self,
        kind: str,
        find: Callable[[str, str], Mapping[str, Any] | None],
        name: str,
        source: Mapping[str, Any],
    ) -> dict[str, File]:
        document = find(self._namespace, name)
        if document is None:
            if source.get("optional"):
                return {}
            raise MountProblem(f'{kind} "{name}" not found')
        data = contents(dict(document))
        items = source.get("items")
        if not items:
            return {key: File(data[key], _mode(source)) for key in data}
        files = {}
        for item in items:
            if item["key"] in data:
                mode = item.get("mode") if item.get("mode") is not None else _mode(source)
                files[_safe(item["path"])] = File(data[item["key"]], mode)
            elif not source.get("optional"):
                raise MountProblem(f"references non-existent {_word(kind)} key: {item['key']}")
        return files

    def _downward_files(self, source: Mapping[str, Any], default: int) -> dict[str, File]:
        files = {}
        for item in source.get("items") or ():
            if item.get("fieldRef"):
                text = field_value(self._facts, item["fieldRef"]["fieldPath"])
            else:
                text = resource_value(self._facts, item["resourceFieldRef"], "")
            mode = item.get("mode") if item.get("mode") is not None else default
            files[_safe(item["path"])] = File(text.encode(), mode)
        return files

    # Disk --------------------------------------------------------------------------------------

    def _write(self, place: Path, files: Mapping[str, File]) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        os.chmod(place, 0o777)
        current = place / "..data"
        if current.is_symlink() and _same(current, files):
            return place
        old = os.readlink(current) if current.is_symlink() else ""
        number = int(old.rpartition("_")[2] or 0) + 1 if old else 1
        fresh = place / f"..version_{number}"
        for path, file in files.items():
            self._write_file(fresh / path, file)
        fresh.mkdir(exist_ok=True)
        self._own(place, recursive=True)
        temporary = place / "..data_tmp"
        temporary.symlink_to(fresh.name)
        temporary.rename(current)
        self._link_names(place, files)
        if old:
            shutil.rmtree(place / old, ignore_errors=True)
        return place

    def _write_file(self, path: Path, file: File) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        os.chmod(path, self._shared(file.mode))

    def _shared(self, mode: int) -> int:
        """``mode`` as ``fsGroup`` changes it. Where volumes cannot be given to a group (they are
        the pod's only user's then, not root's), what would be the group's is nobody's: ssh
        refuses a key of its user's own that others could read."""
        if self._fs_group is None:
            return mode
        return mode | 0o040 if self._sources.is_root else mode & ~0o070

    @staticmethod
    def _link_names(place: Path, files: Mapping[str, File]) -> None:
        wanted = dict.fromkeys(path.split("/")[0] for path in files)
        for name in wanted:
            link = place / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        for entry in list(place.iterdir()):
            if not entry.name.startswith("..") and entry.name not in wanted:
                entry.unlink()

    def _own(self, path: Path, recursive: bool = False) -> None:
        """Give the volume to the pod's group, as ``fsGroup`` asks (root only)."""
        group = self._fs_group
        if group is None or not self._sources.is_root:
            return
        os.chown(path, -1, group)
        os.chmod(path, stat.S_IMODE(path.stat().st_mode) | stat.S_ISGID)
        if recursive:
            for folder, _, names in os.walk(path):
                os.chown(folder, -1, group)
                for name in names:
                    os.chown(os.path.join(folder, name), -1, group, follow_symlinks=False)


def _mode(source: Mapping[str, Any]) -> int:
    mode = source.get("defaultMode")
    return _DEFAULT_MODE if mode is None else int(mode)


def _safe(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise MountProblem(f"path {path!r} must be relative and must not contain '..'")
    return path


def _word(kind: str) -> str:
    return {"configmap": "config"}.get(kind, kind)


def _same(current: Path, files: Mapping[str, File]) -> bool:
    found = [path for path in current.rglob("*") if path.is_file()]
    if {str(path.relative_to(current)) for path in found} != set(files):
        return False
    return all((current / path).read_bytes() == file.data for path, file in files.items())
