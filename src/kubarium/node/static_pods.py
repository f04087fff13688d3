"""Static pods: manifests in a directory of the node, run without anybody's leave; mirror pods show
them in the API.

Source: kubelet's ``config/file.go``, ``config/common.go``, ``pod/mirror_client.go``. A static pod's
uid is a hash of its manifest and node: what is changed is another pod, which waits for the former
one's end. To delete the mirror changes nothing; to remove the manifest ends the pod.
"""

from __future__ import annotations

import hashlib
import logging
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform, decode
from kubarium.api.defaulting import default
from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.api.validation import validate_create
from kubarium.api.validation.gangs import SYSTEM_PRIORITIES
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError, KubariumError
from kubarium.node.eviction.manager import Evictable, Tell
from kubarium.node.references import referred_objects
from kubarium.node.runner import (
    CONFIG_HASH,
    CONFIG_MIRROR,
    CONFIG_SEEN,
    CONFIG_SOURCE,
    NodeFacts,
    identity,
)
from kubarium.runtime.protocol import Context

_LOG = logging.getLogger("kubarium.node")
# kubelet looks every 20 seconds, and listens to inotify meanwhile.
LOOK_S = 1.0
MAX_BYTES = 10 << 20
_ENDINGS = (".yaml", ".yml", ".json")
# A static pod stays on its node whatever befalls it.
_STAYS = {"operator": "Exists", "effect": "NoExecute"}


class BadManifest(KubariumError):
    """A file that is no pod; the message says why."""


@dataclass(slots=True)
class _Folder:
    """One node's directory: what was read of each file, and what became of it."""

    node: NodeFacts
    path: Path
    seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    pods: dict[str, Document] = field(default_factory=dict)  # by file name
    complained: dict[str, str] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)


class StaticPods:
    """The static pods of one agent's nodes. ``run_pod`` starts or changes one, ``drop_pod`` is told
    of one that has ended and been taken away."""

    def __init__(
        self,
        context: Context,
        folders: Mapping[str, tuple[NodeFacts, str]],
        actors: Mapping[str, Evictable],
        run_pod: Callable[[Document, NodeFacts], None],
        drop_pod: Callable[[Document], None],
        tell: Tell,
        node_uid: Callable[[str], str],
    ) -> None:
        self._context = context
        self._folders = [_Folder(facts, Path(path)) for facts, path in folders.values()]
        self._actors = actors
        self._run_pod = run_pod
        self._drop_pod = drop_pod
        self._tell = tell
        self._node_uid = node_uid
        self._pods = context.informers.get(PODS)
        self._kind = Catalog.builtin().for_document("v1", "Pod")
        self._leaving: dict[str, Document] = {}

    def __bool__(self) -> bool:
        return bool(self._folders)

    def is_known(self, uid: str) -> bool:
        """Whether a manifest of this uid is there."""
        return any(
            pod["metadata"]["uid"] == uid
            for folder in self._folders
            for pod in folder.pods.values()
        )

    def read(self) -> None:
        """Look at the directories; a directory that is not there is an empty one."""
        for folder in self._folders:
            self._read(folder)

    async def run(self) -> None:
        """Keep pods and mirrors as the directories say, until cancelled."""
        while True:
            self.read()
            for folder in self._folders:
                for message in folder.untold:
                    self._tell(folder.node.name, "Warning", "InvalidStaticPod", message)
                folder.untold.clear()
                for pod in folder.pods.values():
                    self._start(folder, pod)
            self._end_removed()
            for folder in self._folders:
                for pod in folder.pods.values():
                    await self._mirror(folder.node, pod)
            await self._context.clock.sleep(LOOK_S)

    # Files -------------------------------------------------------------------------------------

    def _read(self, folder: _Folder) -> None:
        try:
            found = sorted(p for p in folder.path.iterdir() if p.name.endswith(_ENDINGS))
        except FileNotFoundError:
            found = []
        except OSError as error:
            self._complain(folder, "", f"{folder.path}: {error.strerror}")
            return  # what runs goes on
        names = {path.name for path in found if not path.name.startswith(".")}
        for gone in set(folder.seen) - names:
            del folder.seen[gone]
            folder.complained.pop(gone, None)
            folder.pods.pop(gone, None)
        for path in found:
            if path.name in names:
                self._read_file(folder, path)

    def _read_file(self, folder: _Folder, path: Path) -> None:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if folder.seen.get(path.name) == stamp:
                return
            if not stat.S_ISREG(status.st_mode):  # to read a pipe would be to wait for its writer
                raise BadManifest("is no regular file")
            if status.st_size > MAX_BYTES:
                raise BadManifest(f"larger than {MAX_BYTES} bytes")
            pod = self._parse(path.read_bytes(), folder.node.name)
            for other, known in folder.pods.items():
                if other != path.name and _key(known) == _key(pod):
                    raise BadManifest(f"pod {_key(pod)} is in {other} already")
        except FileNotFoundError:
            return
        except (OSError, KubariumError) as error:
            folder.seen[path.name] = stamp if isinstance(error, KubariumError) else (0, 0, 0)
            # As a kubelet, which does not know which pod a file was that it cannot read: it ends.
            folder.pods.pop(path.name, None)
            self._complain(folder, path.name, f"{path}: {error}")
            return
        folder.seen[path.name] = stamp
        folder.pods[path.name] = pod
        folder.complained.pop(path.name, None)

    def _complain(self, folder: _Folder, name: str, message: str) -> None:
        if folder.complained.get(name) != message:
            folder.complained[name] = message
            _LOG.warning("static pods: %s", message)
            folder.untold.append(message)

    def _parse(self, data: bytes, node: str) -> Document:
        """The pod in a manifest, as a node takes it; BadManifest or ApiError."""
        assert self._kind is not None
        document, _ = decode(data, "application/yaml")
        if document.get("kind") != "Pod" or document.get("apiVersion") != "v1":
            what = f"{document.get('apiVersion')} {document.get('kind')}"
            raise BadManifest(f"holds a {what}; a static pod is a v1 Pod")
        digest = hashlib.md5(data + node.encode(), usedforsecurity=False).hexdigest()
        conform(self._kind, document)
        metadata = document.setdefault("metadata", {})
        name = metadata.get("name") or metadata.get("generateName") or ""
        metadata["name"] = f"{name}-{node.lower()}" if name else ""
        metadata["namespace"] = metadata.get("namespace") or "default"
        default(self._kind, document)
        errors = validate_create(self._kind, document)
        if errors:
            raise BadManifest("; ".join(str(error) for error in errors))
        self._refuse_references(document)
        spec = document["spec"]
        spec["nodeName"] = node
        spec.pop("serviceAccountName", None)
        spec["tolerations"] = [*(spec.get("tolerations") or ()), _STAYS]
        if spec.get("priorityClassName") in SYSTEM_PRIORITIES:
            spec["priority"] = SYSTEM_PRIORITIES[spec["priorityClassName"]]
        metadata["uid"] = digest
        metadata["annotations"] = (metadata.get("annotations") or {}) | {
            CONFIG_HASH: digest,
            CONFIG_SEEN: rfc3339(self._context.clock.now()),
            CONFIG_SOURCE: "file",
        }
        return document

    @staticmethod
    def _refuse_references(pod: Document) -> None:
        """A pod that the API server knows nothing of cannot have its objects."""
        spec = pod["spec"]
        referred = [resource.plural for resource, _ in referred_objects(pod)]
        if spec.get("serviceAccountName") not in (None, "", "default"):
            referred.append("serviceaccounts")
        if spec.get("resourceClaims"):
            referred.append("resourceclaims")
        if referred:
            raise BadManifest(f"static pods may not reference {referred[0]}")

    # Pods --------------------------------------------------------------------------------------

    def _start(self, folder: _Folder, pod: Document) -> None:
        """Run a pod that is new; one that has the same name must have gone before."""
        uid = pod["metadata"]["uid"]
        if uid in self._actors or uid in self._leaving:
            return
        for actor in self._actors.values():
            other = actor.machine.pod
            if _key(other) == _key(pod) and identity(other) != uid:
                return
        mirror = self._pods.get(pod["metadata"]["name"], pod["metadata"]["namespace"])
        if mirror is not None and identity(mirror) == uid:
            pod = _with_status(pod, mirror.get("status") or {})
        self._run_pod(pod, folder.node)

    def begin_anew(self, node: str) -> None:
        """A node is on again: what its shutdown has ended is forgotten, and so started."""
        for uid, actor in list(self._actors.items()):
            if actor.node.name == node and actor.machine.finished and self.is_known(uid):
                self._drop_pod(actor.machine.pod)

    def _end_removed(self) -> None:
        """End pods whose manifests are gone, with their time; forget them when they have."""
        for uid, actor in list(self._actors.items()):
            pod = actor.machine.pod
            if (pod["metadata"].get("annotations") or {}).get(CONFIG_SOURCE) != "file":
                continue
            if not self.is_known(uid) and uid not in self._leaving:
                grace_s = pod["spec"].get("terminationGracePeriodSeconds", 30)
                metadata = pod["metadata"] | {
                    "deletionTimestamp": rfc3339(self._context.clock.now() + grace_s),
                    "deletionGracePeriodSeconds": grace_s,
                }
                self._leaving[uid] = {**pod, "metadata": metadata}
                self._run_pod(self._leaving[uid], actor.node)
        for uid, pod in list(self._leaving.items()):
            known = self._actors.get(uid)
            metadata = pod["metadata"]
            mirror = self._pods.get(metadata["name"], metadata["namespace"])
            shown = mirror is not None and identity(mirror) == uid
            if known is None or (known.machine.released and not shown):
                del self._leaving[uid]
                self._drop_pod(pod)

    # Mirrors -----------------------------------------------------------------------------------

    async def _mirror(self, node: NodeFacts, pod: Document) -> None:
        """Have the API show the pod; a mirror of another, or one that is being deleted, goes."""
        uid, metadata = pod["metadata"]["uid"], pod["metadata"]
        found = self._pods.get(metadata["name"], metadata["namespace"])
        if found is not None:
            ours = CONFIG_MIRROR in (found["metadata"].get("annotations") or {})
            stale = identity(found) != uid or bool(found["metadata"].get("deletionTimestamp"))
            if not ours or not stale:
                return
        if uid not in self._actors or not self._node_uid(node.name):
            return
        try:
            if found is not None:
                await self._context.client.delete(
                    PODS,
                    metadata["name"],
                    metadata["namespace"],
                    grace_period_s=0,
                    uid=found["metadata"]["uid"],
                )
            created = await self._context.client.create(
                PODS, mirror_of(pod, node.name, self._node_uid(node.name)), metadata["namespace"]
            )
            self._pods.observe(created)
        except ApiError as error:
            _LOG.warning("static pod %s: its mirror: %s", _key(pod), error)

    async def remove_stale_mirrors(self) -> None:
        """Mirrors of pods that ended while there was no agent."""
        mine = {folder.node.name for folder in self._folders}
        for found in list(self._pods.items()):
            if found["spec"].get("nodeName") not in mine or identity(found) in self._actors:
                continue
            metadata = found["metadata"]
            if metadata["uid"] != identity(found) and not self.is_known(identity(found)):
                try:
                    await self._context.client.delete(
                        PODS, metadata["name"], metadata["namespace"], grace_period_s=0
                    )
                except ApiError as error:
                    _LOG.warning("mirror pod %s: %s", _key(found), error)


def mirror_of(pod: Document, node: str, node_uid: str) -> Document:
    """What the API shows of a static pod."""
    metadata = {key: value for key, value in pod["metadata"].items() if key != "uid"}
    digest = pod["metadata"]["uid"]
    metadata["annotations"] = metadata["annotations"] | {CONFIG_MIRROR: digest}
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": True}
    metadata["ownerReferences"] = [owner]
    spec = {key: value for key, value in pod["spec"].items() if key != "priority"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


# How the node itself ends pods; static ones begin anew when it is well again.
_BY_NODE = ("Terminated", "NodeShutdown", "Evicted")


def _with_status(pod: Document, status: Document) -> Document:
    return pod if status.get("reason") in _BY_NODE else {**pod, "status": status}


def _key(pod: Document) -> str:
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
