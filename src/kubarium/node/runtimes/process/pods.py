"""Pods as processes: directories, volumes, hosts files, sandboxes and limits; what is sent into the
containers that run there, and their end. They are started by :mod:`.starts`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kubarium.api.resource import Document
from kubarium.api.streams import StreamOptions
from kubarium.base.clock import Clock
from kubarium.base.errors import KubariumError
from kubarium.base.trees import remove_tree
from kubarium.node import claimed, isolation, sysctls
from kubarium.node.config import NodeConfig
from kubarium.node.downward import PodFacts
from kubarium.node.drivers.prepare import Edits
from kubarium.node.images import ImageCatalogue
from kubarium.node.network.dial import Dialer
from kubarium.node.network.dns.server import RESOLVERS_FILE
from kubarium.node.network.hosts import HostsFiles
from kubarium.node.network.names import HostnameTooLong, kernel_hostname
from kubarium.node.network.pod_network import POD_SOCKETS, ROUTER_SOCKETS, PodNetwork
from kubarium.node.network.resolv import asks_cluster, resolv_conf
from kubarium.node.oci.provide import Images
from kubarium.node.oci.pull import Skopeo, remove_leftovers
from kubarium.node.oci.store import ImageStore
from kubarium.node.runtimes.oci.config import signal_number
from kubarium.node.runtimes.oci.handlers import Handlers
from kubarium.node.runtimes.oci.start import find_handlers
from kubarium.node.runtimes.process import machine_files
from kubarium.node.runtimes.process.cgroups import (
    DEFAULT_PIDS,
    Amounts,
    Cgroups,
    container_amounts,
    pod_amounts,
    widest,
)
from kubarium.node.runtimes.process.checkpoint import Checkpoint
from kubarium.node.runtimes.process.checks import Checks
from kubarium.node.runtimes.process.container_spec import ContainerSpecs, Warn, training_folder
from kubarium.node.runtimes.process.engine import (
    ExecResult,
    ExitStatus,
    Network,
    ProcessEngine,
    ProcessSession,
    StartError,
)
from kubarium.node.runtimes.process.group_files import clear_noted_groups, note_groups
from kubarium.node.runtimes.process.memory_watch import Tell
from kubarium.node.runtimes.process.oversight import Oversight
from kubarium.node.runtimes.process.pod_logs import (
    PodOutput,
    last_output,
    log_path,
    termination_message,
)
from kubarium.node.runtimes.process.pod_records import (
    PodRecord,
    PodRecords,
    container_ident,
    container_of,
)
from kubarium.node.runtimes.process.port_clashes import port_clash
from kubarium.node.runtimes.process.starts import Starts
from kubarium.node.runtimes.process.takeover import EarlierPods
from kubarium.node.volumes import MountProblem, PodVolumes, VolumeSources

# The store of container images, below the agent's folder.
IMAGES = "images"


class PrepareFailed(KubariumError):
    """A pod could not be prepared: an event's reason and message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# (pod uid, container, attempt, status, termination message, out of memory)
OnExit = Callable[[str, str, int, ExitStatus, str, bool], None]


class ProcessPods:
    """The process runtime of one agent. Pods are known by uid."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        hosts: HostsFiles,
        volumes: VolumeSources,
        on_exit: OnExit,
        warn: Warn,
        on_pressure: Tell,
        network: PodNetwork | None = None,
    ) -> None:
        """``network`` None: pods share the machine's."""
        self._config = config
        self._clock = clock
        self._hosts = hosts
        self._sources = volumes
        self._on_exit = on_exit
        self._warn = warn
        self._root = Path(config.root).resolve()
        self._pids = {spec.name: spec.kubelet.pids_limit for spec in config.nodes}
        store = ImageStore(self._root / IMAGES, clock.now)
        puller = Skopeo.find(store) if config.pulls else None
        self.images = Images(ImageCatalogue(config.images), store, clock, puller)
        self.handlers = Handlers()
        name = runtime_name(config.root) if config.pods_survive else ""
        self._engine = ProcessEngine(clock, self._exited, name)
        self.earlier = EarlierPods(self._root / "pods", self._engine.is_running)
        self._network = network
        self.dialer = Dialer(config.network, self._engine.sockets)
        self._groups = Cgroups(shortfall="not looked for yet")
        self.records = PodRecords()
        self.output = PodOutput(self.records, clock)
        self.oversight = Oversight(
            clock,
            self.records,
            self._engine,
            lambda: self._groups,
            self._pids,
            warn,
            on_pressure,
        )
        self.checks = Checks(self.records, clock, self.execute, self.dialer.connect)
        self._specs = ContainerSpecs(volumes.objects, warn, network is not None)
        self.starts = Starts(
            clock,
            self.records,
            self._engine,
            self._specs,
            self.images.store,
            lambda: self._groups,
            lambda: self.handlers,
            self.has_network,
            self.oversight.memory,
        )

    async def start(self) -> None:
        """Take over what an earlier agent left running; otherwise clear its files and start the
        zygote."""
        found = await self._engine.reattach()
        if found:
            self.earlier.read()
        else:
            remove_tree(self._root / "pods")
        (self._root / "pods").mkdir(parents=True, exist_ok=True)
        wanted = self._config.isolation
        if sys.platform == "linux":
            if not found:
                clear_noted_groups(self._root)
            tag = hashlib.sha256(str(self._root).encode()).hexdigest()[:12]
            self._groups = Cgroups.open(tag, keep=found)
            note_groups(self._root, self._groups.folders)
        self._engine.groups = self._groups.folders
        if not found:
            await self._engine.start((wanted,) if wanted else isolation.LEVELS)
        self._specs.level, self._specs.groups = self._engine.level, self._groups
        if self._engine.level != isolation.ROOT:
            # Not even root: in its containers no group would be seen.
            self._sources = replace(self._sources, is_root=False)
        machine = self._specs.machine
        if self._engine.level != isolation.PLAIN:
            machine.kept_tmp = machine_files.folders_in_tmp()
            machine.submounts = machine_files.submounts(str(self._root))
        if self._engine.level == isolation.ROOT:
            machine.passable = machine_files.impassable_folders()
        await asyncio.to_thread(self._tidy_images)
        if self._network is not None:
            router = Network(ROUTER_SOCKETS, self._network.build)
            if found:
                await self._engine.adopt_router(replace(router, on_network=self._network.rejoin))
                self._engine.remember_router(router)
            else:
                await self._engine.open_router(router)

    async def try_runtimes(self) -> None:
        """Learn which handlers there are: before the first pod, and :meth:`report`, need them."""
        self.handlers = await find_handlers(self._engine, self._clock, self._root)

    def _tidy_images(self) -> None:
        """What an agent that was killed has left in the store."""
        store = self.images.store
        remove_leftovers(store.root)
        store.keep_leases(self.earlier.idents())
        store.clean()

    async def close(self) -> None:
        """Kill everything and remove the pods' files."""
        if self._network is not None:
            self._network.close()
        self.oversight.memory.close()
        await self._engine.close()
        self._groups.close()
        remove_tree(self._root / "pods")

    def report(self) -> isolation.Report:
        """The isolation in force."""
        limits = self._groups.controllers
        found = isolation.report_for(
            self._engine.level,
            self._engine.refusals,
            limits,
            self._groups.shortfall,
            self._config.network,
            self._config.no_network,
        )
        there, missing = self.handlers.lines()
        return replace(found, applied=(*found.applied, *there), missing=(*found.missing, *missing))

    # Pods --------------------------------------------------------------------------------------

    async def prepare(self, facts: PodFacts, devices: Mapping[str, Edits]) -> None:
        """Volumes, hosts file and sandbox; PrepareFailed says why not. ``devices`` by container.

        May be called again after a failure."""
        uid = facts.pod["metadata"]["uid"]
        place = self._root / "pods" / uid
        for name in ("volumes", "logs", "etc", "containers", "shm"):
            (place / name).mkdir(parents=True, exist_ok=True)
        os.chmod(place / "shm", 0o1777)
        volumes = PodVolumes(facts, place / "volumes", self._sources)
        try:
            await volumes.set_up()
        except MountProblem as problem:
            raise PrepareFailed("FailedMount", str(problem)) from problem
        self.records.by_uid[uid] = PodRecord(facts, place, volumes, devices)
        try:
            hostname = kernel_hostname(facts.pod, self._config.cluster_domain)
        except HostnameTooLong as error:
            text = f"Failed to create pod sandbox: {error}"
            raise PrepareFailed("FailedCreatePodSandBox", text) from error
        (place / "etc/hostname").write_text(hostname + "\n")
        network = self._network_of(facts)
        asks = network is not None and asks_cluster(facts.pod)
        self._hosts.add(facts.pod, facts.pod_ips[0], place / "etc/hosts", names=not asks)
        if self._network is not None:
            (place / "etc/resolv.conf").write_text(self._resolv_conf(facts.pod))
        tmpfs = [(str(place / "shm"), "mode=1777,size=64m")]
        tmpfs += [(str(path), options) for path, options in volumes.memory]
        address = facts.pod_ips[0]
        written = Checkpoint(uid, address, hostname, tmpfs, network is not None, devices)
        self.records.by_uid[uid].checkpoint = written
        try:
            written.write(place)
            self.records.by_uid[uid].whole = whole = self._whole(facts.pod)
            self._groups.create_pod(uid, whole)
            await self._engine.create_sandbox(uid, hostname, tmpfs, network)
        except (KubariumError, OSError) as error:
            text = f"Failed to create pod sandbox: {error}"
            raise PrepareFailed("FailedCreatePodSandBox", text) from error

    # Taking over ---------------------------------------------------------------------------------

    def adopt(self, facts: PodFacts, resources: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what :meth:`find` told of, with the ``resources`` in force by container; after
        it :meth:`report_ended` may be asked."""
        uid = facts.pod["metadata"]["uid"]
        found = self.earlier.take(uid)
        place = self._root / "pods" / uid
        volumes = PodVolumes(facts, place / "volumes", self._sources)
        pod = self.records.by_uid[uid] = PodRecord(
            facts, place, volumes, found.devices, checkpoint=found
        )
        network = self._network_of(facts) if found.own_network else None
        if network is not None and self._network is not None:
            self._network.adopt(uid, found.address)
        self._engine.adopt_sandbox(uid, found.hostname, found.tmpfs, network)
        asks = network is not None and asks_cluster(facts.pod)
        self._hosts.add(facts.pod, found.address, place / "etc/hosts", names=not asks)
        pod.whole = self._whole(facts.pod)
        for name, started in found.containers.items():
            ident = container_ident(uid, name, started.attempt)
            pod.containers[name] = ident
            pod.groups[name] = f"{name}_{started.attempt}"
            held = resources.get(name, found.resources.get(name))
            claims = claimed.of_container(facts.pod, name)
            pod.amounts[name] = container_amounts(held, claims)
            self.records.idents[ident] = (uid, name, started.attempt)
            pod.running[name] = None
            pod.stop_signals[name] = started.stop_signal
            if self._engine.is_running(ident):
                self.oversight.adopted(pod, name)
            self.oversight.memory.set(facts.pod, name, pod.groups[name], pod.memory_limit(name))
        pod.adopting = asyncio.get_running_loop().create_task(self._look_at_volumes(pod))

    async def _look_at_volumes(self, pod: PodRecord) -> None:
        """Bring them up to date; what fails now is tried again with the next refresh."""
        try:
            await pod.volumes.set_up()
        except MountProblem as problem:
            self._warn(pod.facts.pod, "FailedMount", str(problem))

    def report_ended(self, uid: str) -> None:
        """Tell of adopted containers that ended while there was no agent, or that are lost."""
        for name, ident in list(self.records.by_uid[uid].containers.items()):
            status = self.earlier.how_ended(uid, name, self.records.idents[ident][2])
            if status is not None:
                self._exited(ident, status)

    async def drop_orphans(self, known: Callable[[str], bool]) -> None:
        """End what an earlier agent left of pods that the API does not know any more."""
        for found, running in self.earlier.take_unknown(known):
            uid = found.uid
            for ident in running:
                await self._engine.send_signal(ident, signal.SIGKILL)
            self._groups.remove(uid)
            self._engine.adopt_sandbox(uid, found.hostname, found.tmpfs, None)
            if self._network is not None:
                self._network.adopt(uid, found.address)
                self._network.detach(uid)
            with contextlib.suppress(StartError):
                await self._engine.remove_sandbox(uid)
            remove_tree(self._root / "pods" / uid)

    def _network_of(self, facts: PodFacts) -> Network | None:
        """The pod's own network, unless it asks for the node's or there are none."""
        network, uid = self._network, facts.pod["metadata"]["uid"]
        if network is None or facts.pod["spec"].get("hostNetwork"):
            return None
        attach = partial(network.attach, uid, facts.pod_ips[0])
        return Network(POD_SOCKETS, attach, sysctls.of_network(facts.pod))

    def _resolv_conf(self, pod: Document) -> str:
        machine = ""
        with contextlib.suppress(OSError):
            machine = RESOLVERS_FILE.read_text()
        assert self._network is not None
        domain = self._config.cluster_domain
        return resolv_conf(pod, self._network.plan.router, domain, machine)

    def delay(self, uid: str, milliseconds: float | None) -> str:
        """Hold back what the pod is sent; None: no more. "" or why that cannot be."""
        if self._network is None:
            return "it has no network of its own"
        return self._network.delay(uid, milliseconds)

    def has_network(self, uid: str) -> bool:
        """Whether the pod has a network of its own now."""
        return self._network is not None and uid in self._network.attached

    async def release(self, uid: str) -> None:
        """Give back sandbox and volumes; logs stay until :meth:`forget`."""
        pod = self.records.get(uid)
        if pod is None:
            return
        self._hosts.drop(uid)
        if self._network is not None:
            self._network.detach(uid)
        with contextlib.suppress(StartError):
            await self._engine.remove_sandbox(uid)
        self._groups.remove(uid)
        for name in ("volumes", "containers", "shm"):
            await asyncio.to_thread(remove_tree, pod.place / name)

    def forget(self, uid: str) -> None:
        """Remove the pod's files, logs too."""
        self._hosts.drop(uid)
        self.records.by_uid.pop(uid, None)
        remove_tree(self._root / "pods" / uid)

    async def refresh_volumes(self) -> None:
        """Bring ConfigMaps, Secrets, tokens and the downward API up to date in running pods."""
        for pod in list(self.records.by_uid.values()):
            if pod.running:
                await pod.volumes.refresh()

    def resize(self, uid: str, pod: Document, names: list[str]) -> None:
        """Set the limits that ``pod`` says on what runs of ``names``: the pod's own group first if
        it grows, last if it shrinks. OSError, having changed nothing, if what is in use of memory
        does not fit."""
        known = self.records.get(uid)
        if known is None or not names:
            return
        wanted = {
            name: container_amounts(
                container_of(pod, name).get("resources"), claimed.of_container(pod, name)
            )
            for name in names
        }
        for name, amounts in wanted.items():
            self._check_shrink(uid, known.groups.get(name, ""), name, amounts.memory)
        whole = self._whole(pod)
        self._groups.set(uid, "", widest(known.whole, whole))
        for name, amounts in wanted.items():
            if name in known.groups:
                self._groups.set(uid, known.groups[name], amounts)
                known.amounts[name] = amounts
                self.oversight.memory.set(pod, name, known.groups[name], amounts.memory)
        self._groups.set(uid, "", whole)
        known.whole = whole

    def _whole(self, pod: Document) -> Amounts:
        return pod_amounts(pod, self._pids.get(pod["spec"].get("nodeName", ""), DEFAULT_PIDS))

    def _check_shrink(self, uid: str, group: str, name: str, limit: int | None) -> None:
        used = (
            self.oversight.counter().usage(uid, group).memory if group and limit is not None else 0
        )
        if limit is not None and used > limit:
            text = f"memory limit of container {name} ({limit}) is below what it uses ({used})"
            raise OSError(errno.EBUSY, text)

    def update(self, facts: PodFacts) -> None:
        """The pod's labels or annotations may have changed."""
        pod = self.records.get(facts.pod["metadata"]["uid"])
        if pod is not None:
            pod.facts = facts
            pod.volumes.update(facts)

    # Containers --------------------------------------------------------------------------------

    async def send_signal(self, uid: str, name: str, attempt: int, signal_name: str) -> None:
        ident = self.records.ident(uid, name, attempt)
        if ident is not None:
            pod = self.records.by_uid[uid]
            lifecycle = container_of(pod.facts.pod, name).get("lifecycle") or {}
            if signal_name == "SIGTERM" and not lifecycle.get("stopSignal"):
                signal_name = pod.stop_signals.get(name) or signal_name
            with contextlib.suppress(StartError):
                await self._engine.send_signal(ident, signal_number(signal_name))

    async def execute(
        self, uid: str, name: str, attempt: int, argv: list[str], timeout_s: float | None
    ) -> ExecResult:
        """Run a command in a container, as its user."""
        ident = self.records.ident(uid, name, attempt)
        if ident is None:
            return ExecResult(126, "container is not running")
        try:
            return await self._engine.execute(ident, argv, timeout_s)
        except StartError as error:
            return ExecResult(126, str(error))

    async def open_session(self, uid: str, name: str, options: StreamOptions) -> ProcessSession:
        """Run a command in a container with its streams in our hands, or attach to the one that
        runs. StartError."""
        pod = self.records.get(uid)
        if pod is None or name not in pod.running:
            raise StartError(f"container not running ({name})")
        ident = pod.containers[name]
        if not options.command:
            return await self._engine.attach(ident, options.names)
        argv = list(options.command)
        return await self._engine.execute_streamed(ident, argv, options.names, options.tty)

    # What others look at

    def place(self, uid: str) -> Path | None:
        """A pod's folder; None if it has none now."""
        pod = self.records.get(uid)
        return pod.place if pod else None

    def training_folder(self, uid: str) -> Path:
        """Where a rank's programs report, as seen from outside the pod."""
        return training_folder(self._root / "pods" / uid)

    # Faults on purpose (see node.faults)

    def running_attempts(self, uid: str) -> dict[str, int]:
        """The attempt of each container that runs."""
        pod = self.records.get(uid)
        found = {name: self.records.attempt(pod, name) for name in pod.running} if pod else {}
        return {name: attempt for name, attempt in found.items() if attempt is not None}

    async def signal_all(self, uid: str, name: str, number: int) -> None:
        """To the container's command and its process group."""
        pod = self.records.get(uid)
        if pod is not None and name in pod.running:
            with contextlib.suppress(StartError):
                await self._engine.send_signal(pod.containers[name], number)

    def slow(self, uid: str, name: str, share: float | None) -> str:
        """Leave a container this share of one CPU (None: what it had); "" or why not."""
        pod = self.records.get(uid)
        if pod is None or name not in pod.groups:
            return "it does not run"
        if "cpu" not in self._groups.controllers:
            return "this machine lets us limit no CPU"
        amounts = pod.amounts[name]
        if share is not None:
            amounts = replace(amounts, milli_cpu=max(1, int(share * 1000)))
        try:
            self._groups.set(uid, pod.groups[name], amounts)
        except OSError as error:
            return str(error.strerror or error)
        return ""

    def memory_limit(self, uid: str, name: str) -> int | None:
        """The container's memory limit in force, in bytes."""
        pod = self.records.get(uid)
        return pod.memory_limit(name) if pod else None

    def process_ids(self, uid: str) -> dict[str, int]:
        """The running containers' first processes, by container name; for tools that look."""
        pod = self.records.get(uid)
        names = pod.running if pod else {}
        return {name: self._engine.pid_of(pod.containers[name]) for name in names} if pod else {}

    def _exited(self, ident: str, status: ExitStatus) -> None:
        known = self.records.idents.pop(ident, None)
        if known is None:
            return
        uid, name, attempt = known
        self.images.store.release(ident)
        pod = self.records.get(uid)
        message, out_of_memory = "", False
        if pod is not None:
            pod.running.pop(name, None)
            out_of_memory = self.oversight.ended(pod, name, ident, status)
            message = termination_message(pod, name, attempt, status)
            if status.code:
                self._tell_of_clash(pod, name, attempt)
            remove_tree(pod.place / "containers" / f"{name}_{attempt}")
        self._on_exit(uid, name, attempt, status, message, out_of_memory)

    def _tell_of_clash(self, pod: PodRecord, name: str, attempt: int) -> None:
        """Of a container that has failed: whether its port was taken."""
        facts = pod.facts
        if self._network_of(facts) is not None:
            return
        own = "" if facts.pod["spec"].get("hostNetwork") else facts.pod_ips[0]
        output = last_output(log_path(pod.place, name, attempt))
        text = port_clash(output, container_of(facts.pod, name), own, self._running)
        if text:
            self._warn(facts.pod, "PortInUse", text)

    def _running(self) -> Iterator[tuple[str, int]]:
        """What runs, as events name it, and its first process."""
        for uid, record in self.records.by_uid.items():
            metadata = record.facts.pod["metadata"]
            for name, pid in self.process_ids(uid).items():
                yield f"container {name} of pod {metadata['namespace']}/{metadata['name']}", pid


def runtime_name(root: str) -> str:
    """The name by which the containers of the agent with this folder are found again."""
    digest = hashlib.sha256(str(Path(root).resolve()).encode()).hexdigest()
    return f"kubarium-runtime-{digest[:16]}"
