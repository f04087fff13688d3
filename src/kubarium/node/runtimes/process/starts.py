"""Starts containers of prepared pods: control group, environment, root, runtime, in this order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubarium.base.clock import Clock
from kubarium.base.errors import KubariumError
from kubarium.node import claimed, isolation
from kubarium.node.environment import ConfigProblem
from kubarium.node.images import Image
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.store import ImageStore
from kubarium.node.runtimes.oci.handlers import Handlers, UnknownHandler
from kubarium.node.runtimes.oci.start import runtime_call
from kubarium.node.runtimes.process.cgroups import Cgroups, container_amounts
from kubarium.node.runtimes.process.checkpoint import StartedContainer
from kubarium.node.runtimes.process.container_spec import ContainerSpecs
from kubarium.node.runtimes.process.engine import ProcessEngine, ProcessSpec, StartError
from kubarium.node.runtimes.process.memory_watch import MemoryWatch
from kubarium.node.runtimes.process.pod_records import PodRecord, PodRecords, container_ident


class StartFailed(KubariumError):
    """A container was not started: a waiting reason, or StartError, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Prepared:
    """A container on its way: what :meth:`Starts.start` answers."""

    container_id: str
    image_id: str


class Starts:
    """For the pods of one agent. ``groups`` and ``handlers`` are those there are now."""

    def __init__(
        self,
        clock: Clock,
        records: PodRecords,
        engine: ProcessEngine,
        specs: ContainerSpecs,
        images: ImageStore,
        groups: Callable[[], Cgroups],
        handlers: Callable[[], Handlers],
        has_network: Callable[[str], bool],
        memory: MemoryWatch,
    ) -> None:
        self._clock = clock
        self._records = records
        self._engine = engine
        self._specs = specs
        self._images = images
        self._groups = groups
        self._handlers = handlers
        self._has_network = has_network
        self._memory = memory

    async def start(
        self,
        uid: str,
        container: Mapping[str, Any],
        attempt: int,
        image: Image,
        handler: str = "",
    ) -> Prepared:
        """Start one attempt of a container; StartFailed if it does not come to run. ``handler`` is
        its pod's RuntimeClass's."""
        pod = self._records.by_uid[uid]
        if pod.adopting is not None:
            await pod.adopting
        name = container["name"]
        ident = container_ident(uid, name, attempt)
        try:
            self._make_group(pod, container, attempt)
            spec = self._specs.spec(pod, container, attempt, image, self._has_network(uid))
            spec = self._with_runtime(spec, image, handler)
            if image.stored is not None:
                self._images.lease(ident, image.stored.record)
        except ConfigProblem as problem:
            raise StartFailed("CreateContainerConfigError", str(problem)) from problem
        except (OSError, ImageProblem, UnknownHandler) as error:
            raise StartFailed("CreateContainerError", str(error)) from error
        self._records.idents[ident] = (uid, name, attempt)
        pod.containers[name] = ident
        pod.running[name] = None
        stop_signal = image.stored.stop_signal if image.stored is not None else ""
        pod.stop_signals[name] = stop_signal
        started = StartedContainer(attempt, image.image_id, stop_signal=stop_signal)
        self._write_down(pod, container, started)
        try:
            await self._engine.start_container(ident, uid, spec)
        except StartError as error:
            self._records.idents.pop(ident, None)
            pod.running.pop(name, None)
            self._images.release(ident)
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
        self._memory.set(pod.facts.pod, name, pod.groups[name], pod.memory_limit(name))
        return Prepared(f"kubarium://{ident}", image.image_id)

    def _with_runtime(self, spec: ProcessSpec, image: Image, handler: str) -> ProcessSpec:
        """By what the container is started: our own init, unless it runs from a real image and an
        OCI runtime is there."""
        self._handlers().check(handler)
        if image.stored is None:
            return spec
        if self._engine.level == isolation.PLAIN:
            raise ImageProblem(
                f'image "{image.reference}" takes a root file system of its own, and this machine '
                "allows no mount namespaces: see kubarium status"
            )
        program = self._handlers().program(handler)
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
            self._groups().remove(uid, former)
        pod.groups[name] = f"{name}_{attempt}"
        claims = claimed.of_container(pod.facts.pod, name)
        amounts = pod.amounts[name] = container_amounts(container.get("resources"), claims)
        self._groups().create_container(uid, pod.groups[name], amounts)
