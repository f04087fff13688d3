"""The machine's GPUs as devices of nodes: who has which, what containers get, how they are.

Nodes of one agent share one machine, so a GPU belongs to one node only: a node that asks for a
number of them gets the next ones, a node that asks for all gets what is left. Without NVML, or
without a GPU, nodes get none, and :meth:`MachineGpus.lines` says why. A driver that hangs keeps
nobody waiting: nodes are announced without its GPUs, which are published when it answers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from kubarium.api.resource import Document
from kubarium.node.config import NodeSpec
from kubarium.node.drivers.events import DeviceEvents
from kubarium.node.drivers.health import Health
from kubarium.node.drivers.nvml import library
from kubarium.node.drivers.nvml.discovery import (
    Gpu,
    Inventory,
    MigInstance,
    device_documents,
    discover,
)
from kubarium.node.drivers.nvml.library import NoNvml, Nvml
from kubarium.node.drivers.nvml.measure import read_gpus, unread
from kubarium.node.drivers.nvml.patience import Messenger, Unresponsive
from kubarium.node.drivers.nvml.watch import HealthWatch
from kubarium.node.drivers.profiles import NVML, driver_of
from kubarium.node.drivers.readings import Held, Reading
from kubarium.runtime.protocol import Context

_LOG = logging.getLogger("kubarium.nvml")

# How long a thread waits for an event at a time: also how long the agent's end may take.
WAIT_MS = 500
# After an error of NVML's that is none of the known ones, and while a GPU is lost.
RETRY_S = 5.0
# How long nodes wait for NVML to start, whoever wants measurements for them, and the end for a
# thread that waits for events. GPUs that are asleep take seconds to be initialised; whoever asks
# for the page of metrics waits 2 s for it.
OPEN_WITHIN_S = 10.0
READ_WITHIN_S = 1.5
CLOSE_WITHIN_S = 2.0
NO_GPU = "NVML finds no GPU on this machine"
# Files that every container with a GPU needs beside the GPU's own.
_COMMON_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


class NodeGpus:
    """The GPUs of one node. Satisfies ``prepare.Hardware``."""

    def __init__(self, node: str, driver: str, procfs: Path, dev: Path) -> None:
        self.node = node
        self.driver = driver
        self.gpus: tuple[Gpu, ...] = ()
        self.inventory = Inventory("", "", ())
        self._procfs = procfs
        self._dev = dev

    def documents(self) -> list[Document]:
        """The devices to publish."""
        return [d for gpu in self.gpus for d in device_documents(self.inventory, gpu)]

    def identity(self, device: str) -> str:
        gpu, instance = self._find(device)
        return instance.uuid if instance is not None else gpu.uuid

    def device_nodes(self, device: str) -> tuple[str, ...]:
        gpu, instance = self._find(device)
        names = [f"nvidia{gpu.minor}", *_COMMON_NODES]
        if instance is not None:
            names += self._capabilities(gpu, instance)
        return tuple(name for name in names if (self._dev / name).exists())

    def _find(self, device: str) -> tuple[Gpu, MigInstance | None]:
        for gpu in self.gpus:
            if gpu.name == device and not gpu.mig_enabled:
                return gpu, None
            for instance in gpu.instances:
                if gpu.instance_name(instance) == device:
                    return gpu, instance
        raise KeyError(device)

    def _capabilities(self, gpu: Gpu, instance: MigInstance) -> list[str]:
        """Files that open a MIG instance: ``/proc/driver/nvidia/capabilities`` names them."""
        root = self._procfs / f"driver/nvidia/capabilities/gpu{gpu.minor}/mig"
        place = root / f"gi{instance.gpu_instance}"
        found = []
        for path in (place / "access", place / f"ci{instance.compute_instance}/access"):
            try:
                lines = path.read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                key, _, value = line.partition(":")
                if key == "DeviceFileMinor":
                    found.append(f"nvidia-caps/nvidia-cap{value.strip()}")
        return found


class MachineGpus:
    """A component that is opened before the nodes are announced and then watches."""

    name = "machine-gpus"

    def __init__(
        self,
        context: Context,
        nodes: Sequence[NodeSpec],
        load: Callable[[], Nvml] = library.load,
        root: Path = Path("/"),
    ) -> None:
        self._context = context
        self._load = load
        self._root = root
        self._nvml: Nvml | None = None
        self._watch: HealthWatch | None = None
        self._questions = Messenger("nvml")
        self._events = Messenger("nvml-events")
        self._opening: Future[None] | None = None
        self._closed = False
        # Called with node and driver whose GPUs were found after the node was announced.
        self.found_late: Callable[[str, str], None] = lambda node, driver: None
        self.inventory = Inventory("", "", ())
        self.reason = ""
        self._asked: list[tuple[NodeGpus, int]] = [
            (NodeGpus(spec.name, driver_of(c), root / "proc", root / "dev"), c.count)
            for spec in nodes
            for c in spec.devices
            if c.profile == NVML
        ]

    def __bool__(self) -> bool:
        """Whether any node asks for GPUs of this machine."""
        return bool(self._asked)

    @property
    def shares(self) -> list[NodeGpus]:
        """What each node has."""
        return [share for share, _ in self._asked]

    async def start(self) -> None:
        """:meth:`open`, for OPEN_WITHIN_S at most: :meth:`run` goes on with what takes longer."""
        self._opening = self._questions.ask(self.open)
        opened = threading.Event()
        self._opening.add_done_callback(lambda _: opened.set())
        if not await asyncio.to_thread(opened.wait, OPEN_WITHIN_S):
            self.reason = f"NVML has not answered for {OPEN_WITHIN_S:.0f} s"
            _LOG.warning("%s; the nodes go on without it", self.reason)

    def open(self) -> None:
        """Load NVML, find the GPUs and deal them out. Blocks for as long as the driver takes."""
        try:
            nvml = self._load()
        except NoNvml as problem:
            self.reason = str(problem)
            return
        except Exception as error:  # of whatever stands in the module's place
            self.reason = f"NVML does not start: {error}"
            return
        if self._closed:  # nobody waits for it any more
            return
        self._nvml = nvml
        try:
            self.inventory = discover(nvml, self._root / "sys")
            self._deal()
            if self.inventory.gpus:
                self._watch = HealthWatch(nvml, self.inventory.gpus)
        except Exception as error:  # whatever NVML raises: the nodes go on without it
            self.reason = f"NVML: {error}"
            return
        self.reason = "" if self.inventory.gpus else self._none()

    def _none(self) -> str:
        problems = "; ".join(self.inventory.problems)
        return f"NVML can read none: {problems}" if problems else NO_GPU

    def _deal(self) -> None:
        left = list(self.inventory.gpus)
        for share, count in self._asked:
            share.inventory = self.inventory
            taken = len(left) if count == 0 else min(count, len(left))
            share.gpus, left = tuple(left[:taken]), left[taken:]

    def lines(self) -> list[str]:
        """What there is, in sentences, for the status of the cluster."""
        if self.reason:
            return [f"NVIDIA GPUs of this machine: none ({self.reason})"]
        counts: dict[str, int] = {}
        for gpu in self.inventory.gpus:
            counts[gpu.product] = counts.get(gpu.product, 0) + 1
        found = ", ".join(f"{count} × {product or 'GPU'}" for product, count in counts.items())
        version = self.inventory.driver_version or "of unknown version"
        text = f"NVIDIA GPUs of this machine: {found}, driver {version}"
        short = [
            f"node {share.node} asks for {count} GPUs and has {len(share.gpus)}"
            for share, count in self._asked
            if len(share.gpus) < count
        ]
        return [text, *short, *self.inventory.problems]

    def readings(
        self, share: NodeGpus, held: Held, health: Mapping[str, Health] | None = None
    ) -> list[Reading]:
        """What a node's GPUs measure now; without measurements if NVML takes longer than
        READ_WITHIN_S. ``health`` is what the Node says of them, else what has happened to them."""
        nvml = self._nvml
        if nvml is None:
            return []
        place = (share.driver, share.node)
        gpus, known = share.gpus, dict(self._health() if health is None else health)
        try:
            return self._questions.ask_within(
                READ_WITHIN_S, lambda: read_gpus(nvml, self.inventory, gpus, place, held, known)
            )
        except Unresponsive:
            return unread(self.inventory, gpus, place, held, known)

    def _health(self) -> dict[str, Health]:
        return self._watch.health if self._watch is not None else {}

    async def run(self, notes: DeviceEvents) -> None:
        """Watch for errors and say them of the nodes."""
        await self._catch_up()
        while True:
            self._say(notes)
            watch = self._watch
            if watch is None or not watch.is_watching:
                await self._context.clock.sleep(3600.0)
                continue
            try:
                await asyncio.wrap_future(self._events.ask(partial(watch.wait, WAIT_MS)))
            except Exception as error:  # whatever NVML raises: the nodes go on without it
                _LOG.warning("waiting for events of GPUs: %s", error)
                await self._context.clock.sleep(RETRY_S)
            if watch.is_cut_short:
                self._say(notes)
                await self._context.clock.sleep(RETRY_S)

    async def _catch_up(self) -> None:
        """What NVML has to say after the nodes were announced without it."""
        if self._opening is None or self._opening.done():
            return
        await asyncio.wrap_future(self._opening)
        for line in self.lines():
            _LOG.warning("%s", line)
        for share in self.shares:
            if share.gpus:
                self.found_late(share.node, share.driver)

    def _say(self, notes: DeviceEvents) -> None:
        """Each node's own part of the health."""
        health = dict(self._health())
        for share in self.shares:
            names = [name for gpu in share.gpus for name in gpu.device_names]
            own = {name: health[name] for name in names if name in health}
            notes.say(self.name, (share.node, share.driver), own)

    def close(self) -> None:
        """Let go of NVML. Blocks while a thread waits for an event (WAIT_MS); a library that hangs
        is left behind after CLOSE_WITHIN_S."""
        self._closed = True
        nvml, watch, self._nvml, self._watch = self._nvml, self._watch, None, None
        if nvml is None:
            return
        if watch is not None and not watch.stop(CLOSE_WITHIN_S):
            _LOG.warning("NVML does not answer: it is left behind")
            return
        try:
            self._questions.ask_within(CLOSE_WITHIN_S, lambda: _let_go(nvml, watch))
        except Unresponsive:
            _LOG.warning("NVML does not answer: it is left behind")
        except nvml.NVMLError as error:
            _LOG.warning("NVML: %s", error)


def _let_go(nvml: Nvml, watch: HealthWatch | None) -> None:
    try:
        if watch is not None:
            watch.free()
    finally:
        nvml.nvmlShutdown()
