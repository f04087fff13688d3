"""What is started for a container: its command, environment, user, mounts and root."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kubarium.api.resource import Document
from kubarium.node import isolation
from kubarium.node.environment import (
    ConfigProblem,
    Sources,
    command_line,
    container_environment,
    expand,
)
from kubarium.node.images import DEFAULT_PATH, Image
from kubarium.node.network.dns.server import RESOLVERS_FILE
from kubarium.node.network.names import pod_hostname
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.tree import LayeredTree
from kubarium.node.oci.users import Accounts
from kubarium.node.runtimes.process.cgroups import Cgroups
from kubarium.node.runtimes.process.engine import ProcessSpec
from kubarium.node.runtimes.process.forkserver import modules_for
from kubarium.node.runtimes.process.pod_logs import log_path, termination_file
from kubarium.node.runtimes.process.pod_records import PodRecord
from kubarium.node.runtimes.process.rootfs import Bind, RootFs
from kubarium.node.security import Identity, Known, home_of, identity_of
from kubarium.node.training.watch import FOLDER, FOLDER_VARIABLE, is_rank
from kubarium.view.runs import run_environment

# (pod, reason, message): a warning event about a pod
Warn = Callable[[Document, str, str], None]


@dataclass(slots=True)
class MachineFiles:
    """Folders of this machine that root file systems must know of."""

    passable: list[str] = field(default_factory=list)
    kept_tmp: list[str] = field(default_factory=list)
    submounts: list[str] = field(default_factory=list)


class ContainerSpecs:
    """Makes :class:`ProcessSpec`; its parts are set once the runtime has started."""

    def __init__(self, objects: Sources, warn: Warn, has_networks: bool) -> None:
        """``has_networks``: pods have networks, and so name servers, of their own."""
        self._objects = objects
        self._warn = warn
        self._has_networks = has_networks
        self.level = isolation.PLAIN
        self.groups = Cgroups(shortfall="not looked for yet")
        self.machine = MachineFiles()

    def spec(
        self,
        pod: PodRecord,
        container: Mapping[str, Any],
        attempt: int,
        image: Image,
        own_network: bool,
    ) -> ProcessSpec:
        """What to start for one attempt. ConfigProblem, ImageProblem or OSError if nothing can
        be."""
        document, name = pod.facts.pod, container["name"]
        metadata = document["metadata"]
        label = f"{metadata['name']}_{metadata.get('namespace', '')}({metadata['uid']})"
        known = _accounts(image)
        who = identity_of(document, container, self.level, image.uid, label, known)
        self._tell(pod, name, who)
        environment = self._environment(pod, container, image, who)
        argv = command_line(container, image.entrypoint, image.cmd, environment)
        place = pod.place / "containers" / f"{name}_{attempt}"
        place.mkdir(parents=True, exist_ok=True)
        log = log_path(pod.place, name, attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        working_dir = container.get("workingDir") or image.working_dir or "/"
        root: RootFs | None = None
        if self.level == isolation.PLAIN:
            _check_plain(image)
            working_dir = self._plain_root(pod, container, place, working_dir, environment)
        else:
            root = self._root_fs(
                pod, container, attempt, place, working_dir, who, environment, image
            )
            root = replace(root, own_network=own_network)
        return ProcessSpec(
            argv,
            environment,
            working_dir,
            str(log),
            who.user,
            root,
            who.no_new_privileges,
            who.seccomp.hex(),
            joins=self.groups.joins(metadata["uid"], pod.groups[name]),
            beside=pod.containers.get(container.get("targetContainerName") or "", ""),
            stdin=bool(container.get("stdin")),
            stdin_once=bool(container.get("stdinOnce")),
            tty=bool(container.get("tty")),
            warm=[]
            if image.stored is not None
            else modules_for(image.modules, metadata.get("annotations") or {}),
        )

    def _tell(self, pod: PodRecord, name: str, who: Identity) -> None:
        """Say once for each container what of its securityContext cannot be honoured."""
        if who.shortfalls and name not in pod.told:
            pod.told[name] = None
            text = f"Container {name}: this agent cannot apply {'; '.join(who.shortfalls)}"
            self._warn(pod.facts.pod, "SecurityContextNotApplied", text)

    def _environment(
        self, pod: PodRecord, container: Mapping[str, Any], image: Image, who: Identity
    ) -> dict[str, str]:
        path = ":".join((*image.path, DEFAULT_PATH))
        home = who.home or home_of(who.uid)
        base = {"PATH": path, "HOSTNAME": pod_hostname(pod.facts.pod), "HOME": home}
        own = container_environment(pod.facts, container, self._objects)
        training = self._training_env(pod)
        return {**base, **image.env, **training, **own, **pod.edits(container["name"]).env}

    def _training_env(self, pod: PodRecord) -> dict[str, str]:
        if not is_rank(pod.facts.pod):
            return {}
        folder = training_folder(pod.place)
        seen = str(folder) if self.level == isolation.PLAIN else FOLDER
        return {FOLDER_VARIABLE: seen, **run_environment(pod.facts.pod)}

    def _root_fs(
        self,
        pod: PodRecord,
        container: Mapping[str, Any],
        attempt: int,
        place: Path,
        working_dir: str,
        who: Identity,
        env: Mapping[str, str],
        image: Image,
    ) -> RootFs:
        binds = [self._bind(pod, mount, container["name"], env) for mount in _mounts(container)]
        binds.append(Bind(str(pod.place / "etc/hosts"), "/etc/hosts", False, False))
        binds.append(Bind(str(pod.place / "etc/hostname"), "/etc/hostname", False, False))
        if self._has_networks:
            resolv = str(pod.place / "etc/resolv.conf")
            binds.append(Bind(resolv, "/etc/resolv.conf", False, False))
        elif image.stored is not None and RESOLVERS_FILE.exists():
            binds.append(Bind(str(RESOLVERS_FILE.resolve()), "/etc/resolv.conf", True, False))
        if is_rank(pod.facts.pod):
            folder = training_folder(pod.place)
            binds.append(Bind(str(folder), FOLDER, False, True))
        name = container["name"]
        message = termination_file(pod.place, name, attempt)
        message.touch()
        # The last one stays until its status has surely been written, also by another agent.
        termination_file(pod.place, name, attempt - 2).unlink(missing_ok=True)
        os.chmod(message, 0o666)
        target = container.get("terminationMessagePath") or "/dev/termination-log"
        binds.append(Bind(str(message), target, False, False))
        if image.stored is None:
            binds += self._programs(pod, name)
            binds += _own_files(pod.place / "image" / name, image, pod.facts.pod_ips[0])
        return RootFs(
            str(place),
            sorted(binds, key=lambda bind: bind.target),
            who.read_only_root,
            who.privileged,
            working_dir=working_dir,
            shm=str(pod.place / "shm"),
            owner=(who.user.uid, who.user.gid) if who.user and not who.user.map else (0, 0),
            passable=self.machine.passable,
            submounts=self.machine.submounts,
            kept_tmp=self.machine.kept_tmp,
            cgroups=self.groups.shown(pod.facts.pod["metadata"]["uid"], pod.groups[name]),
            accelerators=pod.edits(name).nodes,
            layers=list(image.stored.layers) if image.stored is not None else [],
            folders=list(image.folders),
        )

    def _bind(
        self, pod: PodRecord, mount: Mapping[str, Any], name: str, env: Mapping[str, str]
    ) -> Bind:
        path = pod.volumes.paths.get(mount["name"])
        if path is None:
            raise ConfigProblem(f"volumeMounts: volume {mount['name']!r} of {name} not found")
        sub = mount.get("subPath") or expand(mount.get("subPathExpr") or "", env)
        if sub:
            path = self._sub_path(path, sub)
        return Bind(
            str(path), mount["mountPath"], bool(mount.get("readOnly")), directory=path.is_dir()
        )

    @staticmethod
    def _sub_path(path: Path, sub: str) -> Path:
        inside = Path(os.path.realpath(path / sub))
        if not inside.is_relative_to(os.path.realpath(path)):
            raise ConfigProblem(f'subPath "{sub}" leaves its volume')
        if not inside.exists():
            inside.mkdir(parents=True)
            os.chmod(inside, 0o777)
        return inside

    def _programs(self, pod: PodRecord, container: str) -> list[Bind]:
        """Programs that come with the container's devices; the machine's own of that name wins."""
        binds = []
        for target, text in pod.edits(container).programs.items():
            if shutil.which(os.path.basename(target)):
                continue
            source = pod.place / "programs" / container / os.path.basename(target)
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(text)
            source.chmod(0o755)
            binds.append(Bind(str(source), target, True, False))
        return binds

    def _plain_root(
        self,
        pod: PodRecord,
        container: Mapping[str, Any],
        place: Path,
        working_dir: str,
        environment: dict[str, str],
    ) -> str:
        """Without namespaces: a folder in which the mount paths are links to the volumes."""
        for mount in _mounts(container):
            bind = self._bind(pod, mount, container["name"], environment)
            link = place / bind.target.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(bind.source)
        environment["KUBARIUM_ROOT"] = str(place)
        environment["KUBARIUM_HOSTS_FILE"] = str(pod.place / "etc/hosts")
        if _mounts(container) and "mounts" not in pod.told:
            pod.told["mounts"] = None
            text = "Mount paths are not visible without namespaces; see $KUBARIUM_ROOT instead"
            self._warn(pod.facts.pod, "MountPathsNotVisible", text)
        inside = place / working_dir.lstrip("/")
        if working_dir != "/" and os.path.isdir(working_dir):
            return working_dir
        inside.mkdir(parents=True, exist_ok=True)
        return str(inside)


def training_folder(place: Path) -> Path:
    """Where a rank's programs report, as seen from outside the pod."""
    return place / "train"


def _check_plain(image: Image) -> None:
    """ImageProblem for an image that has files of its own: nothing would see them."""
    if image.files:
        raise ImageProblem(
            f'image "{image.reference}" has files of its own ({", ".join(sorted(image.files))}), '
            "and this machine allows no mount namespaces in which a container could see them: see "
            "kubarium status"
        )


def _own_files(place: Path, image: Image, address: str) -> list[Bind]:
    """Written to ``place``, afresh for each attempt of a pod with this ``address``."""
    shutil.rmtree(place, ignore_errors=True)
    binds = []
    for target, text in image.files.items():
        source = place / target.lstrip("/")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(expand(text, {"POD_IP": address}))
        binds.append(Bind(str(source), target, False, False))
    return binds


def _accounts(image: Image) -> Known | None:
    """Of an image that has some; ImageProblem if its config names a user that it does not have."""
    if image.stored is None:
        if "/etc/passwd" not in image.files:
            return None
        accounts = Accounts(image.files["/etc/passwd"], image.files.get("/etc/group", ""))
        return Known(accounts, accounts.resolve("" if image.uid is None else str(image.uid)))
    accounts = Accounts.of(LayeredTree(image.stored.layers))
    return Known(accounts, accounts.resolve(image.stored.user))


def _mounts(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(container.get("volumeMounts") or ())
