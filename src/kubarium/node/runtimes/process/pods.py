"""Pods as processes: directories, volumes, hosts files, sandboxes; containers started in them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.api.streams import StreamOptions
from kubarium.base.clock import Clock
from kubarium.base.errors import KubariumError, bad_request
from kubarium.node import claimed, isolation
from kubarium.node.config import NodeConfig
from kubarium.node.downward import PodFacts
from kubarium.node.drivers.prepare import Edits
from kubarium.node.environment import ConfigProblem
from kubarium.node.images import Image, ImageCatalogue
from kubarium.node.lifecycle.adoption import Adopted, AdoptedContainer
from kubarium.node.logs import read_log
from kubarium.node.network.dial import Dialer
from kubarium.node.network.dns.server import RESOLVERS_FILE
from kubarium.node.network.hosts import HostsFiles
from kubarium.node.network.names import pod_hostname
from kubarium.node.network.pod_network import POD_SOCKETS, ROUTER_SOCKETS, PodNetwork
from kubarium.node.network.resolv import asks_cluster, resolv_conf
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.provide import Images
from kubarium.node.oci.pull import Skopeo, remove_leftovers
from kubarium.node.oci.store import ImageStore
from kubarium.node.probes import ERROR, FAILURE, SUCCESS, Outcome, network_probe
from kubarium.node.runtimes.oci.config import signal_number
from kubarium.node.runtimes.oci.handlers import Handlers, UnknownHandler
from kubarium.node.runtimes.oci.start import find_handlers, runtime_call
from kubarium.node.runtimes.process import checkpoint, machine_files, measured
from kubarium.node.runtimes.process.cgroups import (
    DEFAULT_PIDS,
    Amounts,
    Cgroups,
    container_amounts,
    pod_amounts,
    widest,
)
from kubarium.node.runtimes.process.checkpoint import Checkpoint, StartedContainer
from kubarium.node.runtimes.process.container_spec import ContainerSpecs, Warn, training_folder
from kubarium.node.runtimes.process.engine import (
    ExecResult,
    ExitStatus,
    Network,
    ProcessEngine,
    ProcessSession,
    ProcessSpec,
    StartError,
)
from kubarium.node.runtimes.process.init import OUTCOME
from kubarium.node.runtimes.process.memory_watch import Groups, MemoryWatch, Tell
from kubarium.node.runtimes.process.pod_logs import (
    log_path,
    logged_attempts,
    termination_message,
    why_no_log,
)
from kubarium.node.runtimes.process.pod_records import PodRecord, container_of
from kubarium.node.security import sysctls_of
from kubarium.node.volumes import MountProblem, PodVolumes, VolumeSources
from kubarium.view.memory import KILLED

# Of a container that is gone without having said how it ended.
_LOST = ExitStatus(137, 0)
# The store of container images, below the agent's folder.
IMAGES = "images"


class StartFailed(KubariumError):
    """A container was not started: a waiting reason, or StartError, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PrepareFailed(KubariumError):
    """A pod could not be prepared: an event's reason and message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Prepared:
    """A container on its way: what :meth:`ProcessPods.start` answers."""

    container_id: str
    image_id: str


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
        self._found: dict[str, Checkpoint] = {}
        self._network = network
        self.dialer = Dialer(config.network, self._engine.sockets)
        self._groups = Cgroups(shortfall="not looked for yet")
        self._measured = measured.MeasuredMemory(self._init_of)
        self.memory = MemoryWatch(clock, self._memory, on_pressure)
        self._on_pressure = on_pressure
        self._pods: dict[str, PodRecord] = {}
        self._idents: dict[str, tuple[str, str, int]] = {}
        self._specs = ContainerSpecs(volumes.objects, warn, network is not None)

    async def start(self) -> None:
        """Take over what an earlier agent left running; otherwise clear its files and start the
        zygote."""
        found = await self._engine.reattach()
        if found:
            self._read_checkpoints()
        else:
            shutil.rmtree(self._root / "pods", ignore_errors=True)
        (self._root / "pods").mkdir(parents=True, exist_ok=True)
        wanted = self._config.isolation
        if sys.platform == "linux":
            tag = hashlib.sha256(str(self._root).encode()).hexdigest()[:12]
            self._groups = Cgroups.open(tag, keep=found)
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
        store.keep_leases(
            {
                _ident(uid, name, started.attempt)
                for uid, found in self._found.items()
                for name, started in found.containers.items()
            }
        )
        store.clean()

    def _read_checkpoints(self) -> None:
        for place in (self._root / "pods").iterdir():
            found = checkpoint.read(place)
            if found is not None:
                self._found[found.uid] = found
            else:  # its agent was killed before anything had been started in it
                shutil.rmtree(place, ignore_errors=True)

    async def close(self) -> None:
        """Kill everything and remove the pods' files."""
        if self._network is not None:
            self._network.close()
        self.memory.close()
        await self._engine.close()
        self._groups.close()
        shutil.rmtree(self._root / "pods", ignore_errors=True)

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
        self._pods[uid] = PodRecord(facts, place, volumes, devices)
        (place / "etc/hostname").write_text(pod_hostname(facts.pod) + "\n")
        network = self._network_of(facts)
        asks = network is not None and asks_cluster(facts.pod)
        self._hosts.add(facts.pod, facts.pod_ips[0], place / "etc/hosts", names=not asks)
        if self._network is not None:
            (place / "etc/resolv.conf").write_text(self._resolv_conf(facts.pod))
        tmpfs = [(str(place / "shm"), "mode=1777,size=64m")]
        tmpfs += [(str(path), options) for path, options in volumes.memory]
        hostname, address = pod_hostname(facts.pod), facts.pod_ips[0]
        written = Checkpoint(uid, address, hostname, tmpfs, network is not None, devices)
        self._pods[uid].checkpoint = written
        try:
            written.write(place)
            self._pods[uid].whole = whole = self._whole(facts.pod)
            self._groups.create_pod(uid, whole)
            await self._engine.create_sandbox(uid, hostname, tmpfs, network)
        except (KubariumError, OSError) as error:
            text = f"Failed to create pod sandbox: {error}"
            raise PrepareFailed("FailedCreatePodSandBox", text) from error

    # Taking over ---------------------------------------------------------------------------------

    def find(self, uid: str) -> Adopted | None:
        """What an earlier agent left of a pod; None if nothing."""
        found = self._found.get(uid)
        if found is None:
            return None
        containers = {
            name: AdoptedContainer(
                started.attempt,
                f"kubarium://{_ident(uid, name, started.attempt)}",
                started.image_id,
                started.started_at,
            )
            for name, started in found.containers.items()
            if self._was_started(uid, name, started)
        }
        found.containers = {n: c for n, c in found.containers.items() if n in containers}
        return Adopted((found.address,), containers)

    def _was_started(self, uid: str, name: str, started: StartedContainer) -> bool:
        """Or whether the agent was killed between writing it down and doing it."""
        if started.started_at or self._engine.is_running(_ident(uid, name, started.attempt)):
            return True
        log = log_path(self._root / "pods" / uid, name, started.attempt)
        return checkpoint.outcome(log, OUTCOME) is not None

    def adopt(self, facts: PodFacts, resources: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what :meth:`find` told of, with the ``resources`` in force by container; after
        it :meth:`report_ended` may be asked."""
        uid = facts.pod["metadata"]["uid"]
        found = self._found.pop(uid)
        place = self._root / "pods" / uid
        volumes = PodVolumes(facts, place / "volumes", self._sources)
        pod = self._pods[uid] = PodRecord(facts, place, volumes, found.devices, checkpoint=found)
        network = self._network_of(facts) if found.own_network else None
        if network is not None and self._network is not None:
            self._network.adopt(uid, found.address)
        self._engine.adopt_sandbox(uid, found.hostname, found.tmpfs, network)
        asks = network is not None and asks_cluster(facts.pod)
        self._hosts.add(facts.pod, found.address, place / "etc/hosts", names=not asks)
        pod.whole = self._whole(facts.pod)
        for name, started in found.containers.items():
            ident = _ident(uid, name, started.attempt)
            pod.containers[name] = ident
            pod.groups[name] = f"{name}_{started.attempt}"
            held = resources.get(name, found.resources.get(name))
            claims = claimed.of_container(facts.pod, name)
            pod.amounts[name] = container_amounts(held, claims)
            self._idents[ident] = (uid, name, started.attempt)
            pod.running[name] = None
            pod.stop_signals[name] = started.stop_signal
            self.memory.set(facts.pod, name, pod.groups[name], pod.memory_limit(name))
        pod.adopting = asyncio.get_running_loop().create_task(self._look_at_volumes(pod))

    async def _look_at_volumes(self, pod: PodRecord) -> None:
        """Bring them up to date; what fails now is tried again with the next refresh."""
        try:
            await pod.volumes.set_up()
        except MountProblem as problem:
            self._warn(pod.facts.pod, "FailedMount", str(problem))

    def report_ended(self, uid: str) -> None:
        """Tell of adopted containers that ended while there was no agent, or that are lost."""
        pod = self._pods[uid]
        for name, ident in list(pod.containers.items()):
            attempt = self._idents[ident][2]
            ended = checkpoint.outcome(log_path(pod.place, name, attempt), OUTCOME)
            if ended is not None:
                self._exited(ident, ExitStatus(ended[0], ended[1]))
            elif not self._engine.is_running(ident):
                self._exited(ident, _LOST)

    async def drop_orphans(self, known: Callable[[str], bool]) -> None:
        """End what an earlier agent left of pods that the API does not know any more."""
        for uid in [uid for uid in self._found if not known(uid)]:
            found = self._found.pop(uid)
            for name, started in found.containers.items():
                ident = _ident(uid, name, started.attempt)
                if self._engine.is_running(ident):
                    await self._engine.send_signal(ident, signal.SIGKILL)
            self._groups.remove(uid)
            self._engine.adopt_sandbox(uid, found.hostname, found.tmpfs, None)
            if self._network is not None:
                self._network.adopt(uid, found.address)
                self._network.detach(uid)
            with contextlib.suppress(StartError):
                await self._engine.remove_sandbox(uid)
            shutil.rmtree(self._root / "pods" / uid, ignore_errors=True)

    def _network_of(self, facts: PodFacts) -> Network | None:
        """The pod's own network, unless it asks for the node's or there are none."""
        network, uid = self._network, facts.pod["metadata"]["uid"]
        if network is None or facts.pod["spec"].get("hostNetwork"):
            return None
        attach = partial(network.attach, uid, facts.pod_ips[0])
        return Network(POD_SOCKETS, attach, sysctls_of(facts.pod))

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
        pod = self._pods.get(uid)
        if pod is None:
            return
        self._hosts.drop(uid)
        if self._network is not None:
            self._network.detach(uid)
        with contextlib.suppress(StartError):
            await self._engine.remove_sandbox(uid)
        self._groups.remove(uid)
        for name in ("volumes", "containers", "shm"):
            shutil.rmtree(pod.place / name, ignore_errors=True)

    def forget(self, uid: str) -> None:
        """Remove the pod's files, logs too."""
        self._hosts.drop(uid)
        self._pods.pop(uid, None)
        shutil.rmtree(self._root / "pods" / uid, ignore_errors=True)

    async def refresh_volumes(self) -> None:
        """Bring ConfigMaps, Secrets, tokens and the downward API up to date in running pods."""
        for pod in list(self._pods.values()):
            if pod.running:
                await pod.volumes.refresh()

    async def watch_memory(self) -> None:
        """Kill what exceeds its memory limit, or forks without end, where the kernel does not see
        to it for us."""
        while not {"memory", "pids"} <= set(self._groups.controllers):
            await self._clock.sleep(measured.LOOK_S)
            for pod in list(self._pods.values()):
                if "pids" not in self._groups.controllers:
                    await self._count(pod)
                if self.counts_memory:
                    continue
                for name in list(pod.running):
                    await self._measure(pod, name)

    async def _count(self, pod: PodRecord) -> None:
        """Kill the containers of a pod that has more processes than it may."""
        most = self._pids.get(pod.facts.pod["spec"].get("nodeName", ""), DEFAULT_PIDS)
        inits = [self._engine.pid_of(pod.containers[name]) for name in pod.running]
        found = sum(measured.processes_below(init) for init in inits if init)
        if most is None or found <= most:
            return
        text = f"Pod has {found} processes, its limit is {most} (podPidsLimit): it is killed"
        self._warn(pod.facts.pod, "TooManyProcesses", text)
        for name in list(pod.running):
            with contextlib.suppress(StartError):
                await self._engine.send_signal(pod.containers[name], signal.SIGKILL)

    def _memory(self) -> Groups:
        return self._groups if self.counts_memory else self._measured

    def _init_of(self, uid: str, group: str) -> int:
        pod = self._pods.get(uid)
        name = next((n for n in pod.running if pod.groups.get(n) == group), "") if pod else ""
        return self._engine.pid_of(pod.containers[name]) if pod and name else 0

    async def _measure(self, pod: PodRecord, name: str) -> None:
        limit = pod.memory_limit(name)
        ident = pod.containers[name]
        init = self._engine.pid_of(ident)
        uid = pod.facts.pod["metadata"]["uid"]
        if limit is None or not init or ident in pod.measured or self.memory.is_held(uid, name):
            return
        used = measured.memory_below(init)
        if used > limit:
            pod.measured[ident] = used
            with contextlib.suppress(StartError):
                await self._engine.send_signal(ident, signal.SIGKILL)

    def resize(self, uid: str, pod: Document, names: list[str]) -> None:
        """Set the limits that ``pod`` says on what runs of ``names``: the pod's own group first if
        it grows, last if it shrinks. OSError, having changed nothing, if what is in use of memory
        does not fit."""
        known = self._pods.get(uid)
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
                self.memory.set(pod, name, known.groups[name], amounts.memory)
        self._groups.set(uid, "", whole)
        known.whole = whole

    def _whole(self, pod: Document) -> Amounts:
        return pod_amounts(pod, self._pids.get(pod["spec"].get("nodeName", ""), DEFAULT_PIDS))

    def _check_shrink(self, uid: str, group: str, name: str, limit: int | None) -> None:
        used = self._memory().usage(uid, group).memory if group and limit is not None else 0
        if limit is not None and used > limit:
            text = f"memory limit of container {name} ({limit}) is below what it uses ({used})"
            raise OSError(errno.EBUSY, text)

    def update(self, facts: PodFacts) -> None:
        """The pod's labels or annotations may have changed."""
        pod = self._pods.get(facts.pod["metadata"]["uid"])
        if pod is not None:
            pod.facts = facts
            pod.volumes.update(facts)

    # Containers --------------------------------------------------------------------------------

    async def start_container(
        self,
        uid: str,
        container: Mapping[str, Any],
        attempt: int,
        image: Image,
        handler: str = "",
    ) -> Prepared:
        """Start one attempt of a container; StartFailed if it does not come to run. ``handler`` is
        its pod's RuntimeClass's."""
        pod = self._pods[uid]
        if pod.adopting is not None:
            await pod.adopting
        name = container["name"]
        ident = _ident(uid, name, attempt)
        try:
            self._make_group(pod, container, attempt)
            spec = self._specs.spec(pod, container, attempt, image, self.has_network(uid))
            spec = self._with_runtime(spec, image, handler)
            if image.stored is not None:
                self.images.store.lease(ident, image.stored.record)
        except ConfigProblem as problem:
            raise StartFailed("CreateContainerConfigError", str(problem)) from problem
        except (OSError, ImageProblem, UnknownHandler) as error:
            raise StartFailed("CreateContainerError", str(error)) from error
        self._idents[ident] = (uid, name, attempt)
        pod.containers[name] = ident
        pod.running[name] = None
        stop_signal = image.stored.stop_signal if image.stored is not None else ""
        pod.stop_signals[name] = stop_signal
        started = StartedContainer(attempt, image.image_id, stop_signal=stop_signal)
        self._write_down(pod, container, started)
        try:
            await self._engine.start_container(ident, uid, spec)
        except StartError as error:
            self._idents.pop(ident, None)
            pod.running.pop(name, None)
            self.images.store.release(ident)
            # Of an OCI runtime the words are its own; of ours, runc's.
            init = "runc create failed: unable to start container process: error during container "
            why = f"{error}" if spec.runtime is not None else f"{init}init: {error}"
            raise StartFailed(
                "StartError",
                "failed to create containerd task: failed to create shim task: OCI runtime create "
                f"failed: {why}",
            ) from error
        started.started_at = self._clock.now()
        self._write_down(pod, container, started)
        self.memory.set(pod.facts.pod, name, pod.groups[name], pod.memory_limit(name))
        return Prepared(f"kubarium://{ident}", image.image_id)

    def _with_runtime(self, spec: ProcessSpec, image: Image, handler: str) -> ProcessSpec:
        """By what the container is started: our own init, unless it runs from a real image and an
        OCI runtime is there."""
        self.handlers.check(handler)
        if image.stored is None:
            return spec
        if self._engine.level == isolation.PLAIN:
            raise ImageProblem(
                f'image "{image.reference}" takes a root file system of its own, and this machine '
                "allows no mount namespaces: see kubarium status"
            )
        program = self.handlers.program(handler)
        return spec if program is None else replace(spec, runtime=runtime_call(program, spec))

    @staticmethod
    def _write_down(
        pod: PodRecord, container: Mapping[str, Any], started: StartedContainer
    ) -> None:
        if pod.checkpoint is not None:
            pod.checkpoint.containers[container["name"]] = started
            pod.checkpoint.resources[container["name"]] = container.get("resources")
            with contextlib.suppress(OSError):  # a full disk: it will not be found again
                pod.checkpoint.write(pod.place)

    def _make_group(self, pod: PodRecord, container: Mapping[str, Any], attempt: int) -> None:
        """A fresh one for each attempt: counters start at zero. OSError if it cannot be made."""
        uid, name = pod.facts.pod["metadata"]["uid"], container["name"]
        former = pod.groups.get(name)
        if former is not None:
            self._groups.remove(uid, former)
        pod.groups[name] = f"{name}_{attempt}"
        claims = claimed.of_container(pod.facts.pod, name)
        amounts = pod.amounts[name] = container_amounts(container.get("resources"), claims)
        self._groups.create_container(uid, pod.groups[name], amounts)

    async def send_signal(self, uid: str, name: str, attempt: int, signal_name: str) -> None:
        ident = self._ident(uid, name, attempt)
        if ident is not None:
            pod = self._pods[uid]
            lifecycle = container_of(pod.facts.pod, name).get("lifecycle") or {}
            if signal_name == "SIGTERM" and not lifecycle.get("stopSignal"):
                signal_name = pod.stop_signals.get(name) or signal_name
            with contextlib.suppress(StartError):
                await self._engine.send_signal(ident, signal_number(signal_name))

    async def execute(
        self, uid: str, name: str, attempt: int, argv: list[str], timeout_s: float | None
    ) -> ExecResult:
        """Run a command in a container, as its user."""
        ident = self._ident(uid, name, attempt)
        if ident is None:
            return ExecResult(126, "container is not running")
        try:
            return await self._engine.execute(ident, argv, timeout_s)
        except StartError as error:
            return ExecResult(126, str(error))

    async def open_session(self, uid: str, name: str, options: StreamOptions) -> ProcessSession:
        """Run a command in a container with its streams in our hands, or attach to the one that
        runs. StartError."""
        pod = self._pods.get(uid)
        if pod is None or name not in pod.running:
            raise StartError(f"container not running ({name})")
        ident = pod.containers[name]
        if not options.command:
            return await self._engine.attach(ident, options.names)
        argv = list(options.command)
        return await self._engine.execute_streamed(ident, argv, options.names, options.tty)

    async def probe(
        self, uid: str, container: Mapping[str, Any], attempt: int, kind: str, timeout_s: float
    ) -> Outcome:
        """Make one probe of a running container."""
        probe, pod = container[kind], self._pods[uid]
        if not probe.get("exec"):
            address = pod.facts.pod_ips[0]
            return await network_probe(probe, container, address, timeout_s, self.dialer.connect)
        argv = list(probe["exec"].get("command") or ())
        result = await self.execute(uid, container["name"], attempt, argv, timeout_s)
        if result.code == 0:
            return SUCCESS, ""
        if result.code == 124:
            return FAILURE, f'command timed out: "{" ".join(argv)}" timed out after {timeout_s:g}s'
        return (ERROR if result.code == 126 else FAILURE), result.output

    async def hook(self, uid: str, container: Mapping[str, Any], attempt: int, hook: str) -> str:
        """Run a lifecycle hook; "" or what went wrong."""
        action = (container.get("lifecycle") or {}).get(hook) or {}
        if action.get("sleep"):
            await self._clock.sleep(float(action["sleep"].get("seconds") or 0))
            return ""
        if action.get("exec"):
            argv = list(action["exec"].get("command") or ())
            result = await self.execute(uid, container["name"], attempt, argv, None)
            return "" if result.code == 0 else f"command exited with {result.code}: {result.output}"
        outcome, message = await network_probe(
            action, container, self._pods[uid].facts.pod_ips[0], 30.0, self.dialer.connect
        )
        return "" if outcome == SUCCESS else message

    # Usage (see runtimes.process.usage)

    @property
    def counts_memory(self) -> bool:
        """Whether the kernel counts containers' memory for us; else it is measured by process."""
        return "memory" in self._groups.controllers

    def place(self, uid: str) -> Path | None:
        """A pod's folder; None if it has none now."""
        pod = self._pods.get(uid)
        return pod.place if pod else None

    def measure(self, uid: str) -> dict[str, tuple[int, int, int]]:
        """Of each running container: bytes of memory, number of processes, its init's process."""
        pod = self._pods.get(uid)
        found = {}
        for name in pod.running if pod else {}:
            assert pod is not None
            group, init = pod.groups.get(name, ""), self._engine.pid_of(pod.containers[name])
            if self.counts_memory:
                memory = self._groups.working_set(uid, group)
            else:
                memory = measured.memory_below(init) if init else 0
            running = self._groups.processes(uid, group)
            if running is None:
                running = measured.processes_below(init) if init else 0
            found[name] = (memory, running, init)
        return found

    def training_folder(self, uid: str) -> Path:
        """Where a rank's programs report, as seen from outside the pod."""
        return training_folder(self._root / "pods" / uid)

    def output_bytes(self, uid: str, name: str) -> int:
        """What a container has written to its current log."""
        pod = self._pods.get(uid)
        known = self._idents.get(pod.containers.get(name, "")) if pod else None
        if pod is None or known is None:
            return 0
        try:
            return log_path(pod.place, name, known[2]).stat().st_size
        except OSError:
            return 0

    def log_path(self, uid: str, name: str) -> Path | None:
        """The log of a container's newest attempt, if it has one."""
        pod = self._pods.get(uid)
        if pod is None:
            return None
        attempts = logged_attempts(pod.place, name)
        return log_path(pod.place, name, attempts[-1]) if attempts else None

    # Faults on purpose (see node.faults)

    def running_attempts(self, uid: str) -> dict[str, int]:
        """The attempt of each container that runs."""
        pod = self._pods.get(uid)
        names = pod.running if pod else {}
        known = {name: self._idents.get(pod.containers[name]) for name in names} if pod else {}
        return {name: found[2] for name, found in known.items() if found}

    async def signal_all(self, uid: str, name: str, number: int) -> None:
        """To the container's command and its process group."""
        pod = self._pods.get(uid)
        if pod is not None and name in pod.running:
            with contextlib.suppress(StartError):
                await self._engine.send_signal(pod.containers[name], number)

    def slow(self, uid: str, name: str, share: float | None) -> str:
        """Leave a container this share of one CPU (None: what it had); "" or why not."""
        pod = self._pods.get(uid)
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
        pod = self._pods.get(uid)
        return pod.memory_limit(name) if pod else None

    def process_ids(self, uid: str) -> dict[str, int]:
        """The running containers' first processes, by container name; for tools that look."""
        pod = self._pods.get(uid)
        names = pod.running if pod else {}
        return {name: self._engine.pid_of(pod.containers[name]) for name in names} if pod else {}

    def _ident(self, uid: str, name: str, attempt: int) -> str | None:
        pod = self._pods.get(uid)
        ident = pod.containers.get(name) if pod else None
        return ident if ident and self._idents.get(ident) == (uid, name, attempt) else None

    def _exited(self, ident: str, status: ExitStatus) -> None:
        known = self._idents.pop(ident, None)
        if known is None:
            return
        uid, name, attempt = known
        self.images.store.release(ident)
        pod = self._pods.get(uid)
        message, out_of_memory = "", False
        if pod is not None:
            pod.running.pop(name, None)
            self.memory.drop(uid, name)
            out_of_memory = self._ran_out_of_memory(pod, name, ident, status)
            message = termination_message(pod, name, attempt, status)
            shutil.rmtree(pod.place / "containers" / f"{name}_{attempt}", ignore_errors=True)
        self._on_exit(uid, name, attempt, status, message, out_of_memory)

    def _ran_out_of_memory(self, pod: PodRecord, name: str, ident: str, status: ExitStatus) -> bool:
        """Whether something in the container was killed for its memory; tells of it."""
        usage = self._groups.usage(pod.facts.pod["metadata"]["uid"], pod.groups.get(name, ""))
        peak = pod.measured.pop(ident, usage.peak_memory if usage.oom_kills else 0)
        if not peak or status.code == 0:
            return False
        held = pod.memory_limit(name)
        limit = f"limit {_mebibytes(held)}" if held else "the pod's limit"
        text = f"Container {name} ran out of memory: {limit}, peak {_mebibytes(peak)}"
        self._warn(pod.facts.pod, "OOMKilling", text)
        if held:
            said = f"was killed at its limit {_mebibytes(held)}, peak {_mebibytes(peak)}"
            uid = pod.facts.pod["metadata"]["uid"]
            self._on_pressure(uid, name, KILLED, f"{said}, exit code {status.code}")
        return True

    # Logs and messages -------------------------------------------------------------------------

    def logs(self, pod: Document, options: LogOptions) -> AsyncIterator[bytes]:
        """The output of one container of ``pod``; ApiError 400 if there is none to show."""
        uid, name = pod["metadata"]["uid"], options.container
        known = self._pods.get(uid)
        attempts = logged_attempts(known.place, name) if known else []
        shown = attempts[:-1] if options.previous else attempts
        if known is None or not shown:
            raise bad_request(why_no_log(pod, name, options.previous))
        attempt, ident = shown[-1], known.containers.get(name, "")

        def running() -> bool:
            return self._idents.get(ident) == (uid, name, attempt)

        path = log_path(known.place, name, attempt)
        return read_log(str(path), options, self._clock, running)


def runtime_name(root: str) -> str:
    """The name by which the containers of the agent with this folder are found again."""
    digest = hashlib.sha256(str(Path(root).resolve()).encode()).hexdigest()
    return f"kubarium-runtime-{digest[:16]}"


def _ident(uid: str, name: str, attempt: int) -> str:
    return hashlib.sha256(f"{uid}/{name}/{attempt}".encode()).hexdigest()


def _mebibytes(amount: int) -> str:
    return f"{amount / (1 << 20):.0f}Mi"
