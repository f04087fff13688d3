"""`kubarium demo`: a deadlock, a gang and a recovery, with real processes and measured numbers.

The demo is an ordinary user: it brings a cluster up in a process of its own, speaks HTTP to it and
looks at API objects and pod logs. Every figure it prints is taken from them in this run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import psutil
import yaml
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from kubarium.api.kinds import JOB_SETS, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError, ConfigError
from kubarium.cli.connection import ResourceFinder
from kubarium.cli.console import out
from kubarium.cli.queries import explain
from kubarium.client.http import HttpClient
from kubarium.cluster.daemon import Launch, start_detached
from kubarium.cluster.file import read_cluster_file
from kubarium.cluster.state import StateDirectory, stop

NAMESPACE = "demo"
RANKS = 15
DRIVER = "gpu.example.com"
DEADLOCK_WATCH_S = 4.0
KILL_AT_STEP = 160
VICTIM = 7
SHADES = " ▁▂▃▄▅▆▇█"
PHASE_STYLE = {
    "Running": "green",
    "Succeeded": "blue",
    "Failed": "red",
    "Pending": "yellow",
    "absent": "bright_black",
}


@dataclass
class Seen:
    """What the cluster showed at the last look."""

    phases: dict[int, str] = field(default_factory=dict)
    allocated: int = 0
    devices: int = 0
    steps: list[tuple[int, float]] = field(default_factory=list)
    checkpoint: int = 0
    waiting_for: list[int] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)

    def running(self) -> int:
        return sum(1 for phase in self.phases.values() if phase == "Running")


class Stage:
    """The picture that is redrawn while something happens; plain lines without a terminal."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.headline = ""
        self._last_line = ""
        self._live: Live | None = None

    @asynccontextmanager
    async def scene(self, headline: str) -> AsyncIterator[None]:
        self.headline = headline
        if not out.is_terminal:
            out.print(headline)
            yield
            return
        with Live(self._draw(), console=out, refresh_per_second=8, transient=True) as live:
            self._live = live
            yield
        self._live = None

    def redraw(self) -> None:
        if self._live:
            self._live.update(self._draw())
            return
        line = (
            f"  {self.seen.running()} of {RANKS} ranks run, "
            f"{self.seen.allocated} of {self.seen.devices} slices held"
        )
        if self.seen.steps:
            step, loss = self.seen.steps[-1]
            line += f", step {step - step % 50}, loss {loss:.2f}" if step >= 50 else ""
        if line.split(", loss")[0] != self._last_line.split(", loss")[0]:
            out.print(line)
            self._last_line = line

    def _draw(self) -> Panel:
        seen = self.seen
        ranks = Text("ranks   ")
        for rank in range(RANKS):
            ranks.append("██ ", PHASE_STYLE.get(seen.phases.get(rank, "absent"), "white"))
        ranks.append(f" {seen.running()} run", "bold")
        held = Text("slices  ")
        for index in range(seen.devices):
            held.append("▮ " if index < seen.allocated else "▯ ", "cyan")
        held.append(f" {seen.allocated} of {seen.devices} held", "bold")
        lines = [ranks, held]
        if seen.steps:
            lines.append(_loss_line(seen.steps, seen.checkpoint))
        return Panel(Group(*lines), title=self.headline, title_align="left", width=76)


def _loss_line(steps: list[tuple[int, float]], checkpoint: int) -> Text:
    width = 36
    losses = [loss for _, loss in steps]
    stride = max(1, len(losses) // width)
    top = max(losses)
    bars = "".join(SHADES[min(8, int(loss / top * 8))] for loss in losses[::stride][:width])
    step, loss = steps[-1]
    line = Text("loss    ")
    line.append(bars.ljust(width), "magenta")
    line.append(f" {loss:.3f} at step {step}", "bold")
    line.append(f"  saved {checkpoint}", "bright_black")
    return line


class Demo:
    """The three acts, told on one cluster."""

    def __init__(self, client: HttpClient, checkpoints: Path) -> None:
        self.client = client
        self.finder = ResourceFinder(client)
        self.checkpoints = checkpoints
        self.stage = Stage()
        self._log_task: asyncio.Task[None] | None = None
        self._followed = ""

    async def tell(self) -> None:
        self.stage.seen.devices = await self._count_devices()
        await self._apply("namespace.yaml")
        await self._deadlock()
        await self._gang()
        await self._recovery()

    # --- act 1 ---------------------------------------------------------------------------------

    async def _deadlock(self) -> None:
        _act(1, "Without a gang", "15 ranks, one device slice each; the cluster has 14.")
        async with self.stage.scene("JobSet train, no gang"):
            began = monotonic()
            await self._apply("train.yaml")
            await self._until(
                lambda: self.stage.seen.running() == RANKS - 1, 30, "14 ranks running"
            )
            full = monotonic()
            await self._until(lambda: bool(self.stage.seen.waiting_for), 15, "rank 0 waiting")
            held = self.stage.seen.allocated
            while monotonic() - full < DEADLOCK_WATCH_S:
                await self._look()
            watched = monotonic() - full
        seen = self.stage.seen
        out.print(
            f"  {seen.running()} ranks started after {full - began:.1f} s, hold {held} slices and "
            f"wait: rank 0 says it misses rank {', '.join(map(str, seen.waiting_for))}."
        )
        out.print(
            f"  In the {watched:.1f} s that we watched: {len(seen.steps)} training steps, "
            f"[bold red]{held * watched:.0f} device-seconds wasted[/]. It would wait for ever."
        )
        await self._remove("train")

    # --- act 2 ---------------------------------------------------------------------------------

    async def _gang(self) -> None:
        _act(2, "With a gang", "The same JobSet, and a PodGroup: all 15 or none.")
        async with self.stage.scene("JobSet train, gang of 15"):
            await self._apply("gang.yaml")
            await self._apply("train.yaml", gang=True)
            await self._until(lambda: len(self.stage.seen.phases) == RANKS, 30, "15 pods")
            settled = monotonic()
            while monotonic() - settled < 1.5:
                await self._look()
        seen = self.stage.seen
        out.print(
            f"  {seen.running()} ranks run, {seen.allocated} slices are held: nothing is wasted."
        )
        out.print("  [bold]$ kubarium why jobset/train -n demo[/]")
        for line in await self._why():
            out.print(f"  [cyan]│[/] {line}", highlight=False)
        node = await self._smallest_node()
        out.print(f"\n  [bold]$ kubarium devices {node} --driver {DRIVER} --count 5[/]")
        async with self.stage.scene("A fifteenth slice arrives"):
            added = monotonic()
            await self._set_devices(node, 5)
            await self._until(lambda: self.stage.seen.running() == RANKS, 30, "15 ranks running")
            started = monotonic() - added
            await self._until(lambda: bool(self.stage.seen.steps), 30, "the first step")
            first_step = monotonic() - added
        spread = await self._start_spread()
        out.print(
            f"  All {RANKS} ranks run [bold green]{started:.1f} s[/] after the slice was added "
            f"({'all' if spread < 1 else 'started'} within {max(1, spread):.0f} s of each other); "
            f"first step after {first_step:.1f} s."
        )

    # --- act 3 ---------------------------------------------------------------------------------

    async def _recovery(self) -> None:
        _act(3, "A rank dies", f"kill -9 at step {KILL_AT_STEP}; the gang resumes where it saved.")
        async with self.stage.scene("Training"):
            await self._until(lambda: self._step() >= KILL_AT_STEP, 60, f"step {KILL_AT_STEP}")
        pid = self._pid_of(VICTIM)
        lost_at = self._step()
        killed = monotonic()
        out.print(f"  [bold]$ kill -9 {pid}[/]   (rank {VICTIM}, at step {lost_at})")
        os.kill(pid, signal.SIGKILL)
        marker = len(self.stage.seen.facts)
        async with self.stage.scene(f"Rank {VICTIM} was killed"):
            await self._until(lambda: self._resumed(marker) is not None, 40, "training resumed")
            resumed_after = monotonic() - killed
        resumed_at = int((self._resumed(marker) or {})["step"])
        out.print(
            f"  Training again [bold green]{resumed_after:.1f} s[/] after the kill, from the "
            f"checkpoint of step {resumed_at}: {lost_at - resumed_at} steps lost."
        )
        async with self.stage.scene("Training, second attempt"):
            await self._until(lambda: self._done() is not None, 60, "the last step")
            await self._until_completed()
        done = self._done() or {}
        restarts = (await self.client.get(JOB_SETS, "train", NAMESPACE))["status"]["restarts"]
        first = next(fact["loss"] for fact in self.stage.seen.facts if fact["event"] == "step")
        out.print(
            f"  Finished: step {done['step']}, loss {first:.3f} → "
            f"[bold green]{done['loss']:.3f}[/], {restarts} restart."
        )

    # --- looking -------------------------------------------------------------------------------

    async def _look(self) -> None:
        seen = self.stage.seen
        pods = (await self.client.list(PODS, NAMESPACE)).items
        seen.phases = {_rank(pod): pod.get("status", {}).get("phase", "Pending") for pod in pods}
        claims = (await self.client.list(RESOURCE_CLAIMS, NAMESPACE)).items
        seen.allocated = sum(1 for claim in claims if claim.get("status", {}).get("allocation"))
        seen.devices = await self._count_devices()
        if self._log_task is None or self._log_task.done():
            leader = next((p for p in pods if _rank(p) == 0 and _has_started(p)), None)
            if leader and leader["metadata"]["uid"] != self._followed:  # each log is read once
                self._followed = leader["metadata"]["uid"]
                self._log_task = asyncio.create_task(self._follow(leader["metadata"]["name"]))
        self.stage.redraw()
        await asyncio.sleep(0.15)

    async def _until(self, question: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = monotonic() + timeout_s
        while not question():
            if monotonic() > deadline:
                raise ConfigError(f"the demo waited {timeout_s:.0f} s in vain for {what}")
            await self._look()

    async def _until_completed(self) -> None:
        deadline = monotonic() + 20
        while monotonic() < deadline:
            status = (await self.client.get(JOB_SETS, "train", NAMESPACE)).get("status", {})
            if status.get("terminalState") == "Completed":
                return
            await self._look()
        raise ConfigError("the JobSet did not complete")

    async def _follow(self, pod: str) -> None:
        """Read rank 0's output as it comes; a pod that goes away ends it."""
        seen, rest = self.stage.seen, b""
        try:
            async for chunk in self.client.logs(NAMESPACE, pod, LogOptions(follow=True)):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._note(seen, line)
        except ApiError:
            return

    def _note(self, seen: Seen, line: bytes) -> None:
        try:
            fact = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        seen.facts.append(fact)
        if fact["event"] == "step":
            seen.steps.append((fact["step"], fact["loss"]))
        elif fact["event"] == "checkpoint":
            seen.checkpoint = fact["step"]
        elif fact["event"] == "waiting":
            seen.waiting_for = fact["missing"]

    def _step(self) -> int:
        return self.stage.seen.steps[-1][0] if self.stage.seen.steps else 0

    def _resumed(self, after: int) -> dict[str, Any] | None:
        """The ``start`` fact of the attempt after fact number ``after``, once it made a step."""
        facts = self.stage.seen.facts[after:]
        starts = [i for i, fact in enumerate(facts) if fact["event"] == "start"]
        if starts and any(fact["event"] == "step" for fact in facts[starts[-1] :]):
            return facts[starts[-1]]
        return None

    def _done(self) -> dict[str, Any] | None:
        return next((f for f in self.stage.seen.facts if f["event"] == "done"), None)

    async def _count_devices(self) -> int:
        slices = (await self.client.list(RESOURCE_SLICES)).items
        return sum(len(document["spec"].get("devices", [])) for document in slices)

    async def _start_spread(self) -> float:
        """Seconds between the first and the last container's start (timestamps: whole seconds)."""
        pods = (await self.client.list(PODS, NAMESPACE)).items
        started = sorted(
            parse_rfc3339(status["state"]["running"]["startedAt"])
            for pod in pods
            for status in pod.get("status", {}).get("containerStatuses", [])
            if "running" in status.get("state", {})
        )
        return started[-1] - started[0] if started else 0.0

    async def _smallest_node(self) -> str:
        nodes = (await self.client.list(NODES)).items
        names = [str(node["metadata"]["name"]) for node in nodes]
        return next(name for name in names if name.startswith("small"))

    def _pid_of(self, rank: int) -> int:
        """The process of a rank, found as an operator would: by its environment."""
        wanted = {"JOB_COMPLETION_INDEX": str(rank), "MASTER_ADDR": "train-workers-0-0.train"}
        for process in psutil.process_iter(["cmdline"]):
            if "kubarium.labs.ddp" not in " ".join(process.info["cmdline"] or []):
                continue
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            if wanted.items() <= environment.items():
                return process.pid
        raise ConfigError(f"rank {rank} has no process on this machine")

    # --- doing ---------------------------------------------------------------------------------

    async def _apply(self, name: str, gang: bool = False) -> None:
        text = resources.files("kubarium.labs").joinpath("demo", name).read_text()
        for document in yaml.safe_load_all(text.replace("CHECKPOINTS", str(self.checkpoints))):
            if gang:
                template = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
                template["spec"]["schedulingGroup"] = {"podGroupName": "train"}
            resource = await self.finder.of_document(document)
            await self.client.create(resource, document, NAMESPACE if resource.namespaced else "")

    async def _remove(self, name: str) -> None:
        await self.client.delete(JOB_SETS, name, NAMESPACE, propagation_policy="Foreground")
        async with self.stage.scene("The JobSet is deleted"):
            await self._until(lambda: not self.stage.seen.phases, 30, "the pods to go")
        if self._log_task:
            self._log_task.cancel()
        self.stage.seen.steps.clear()
        self.stage.seen.facts.clear()
        self.stage.seen.waiting_for.clear()

    async def _set_devices(self, node: str, count: int) -> None:
        annotations = {f"kubarium.dev/devices.{DRIVER}": str(count)}
        await self.client.patch(NODES, node, {"metadata": {"annotations": annotations}})

    async def _why(self) -> list[str]:
        explanation = await explain(self.client, "jobset/train", NAMESPACE)
        return explanation.lines()


def _act(number: int, title: str, subtitle: str) -> None:
    out.print(f"\n[bold]{number}. {title}.[/] {subtitle}")


def _rank(pod: Document) -> int:
    labels = pod["metadata"].get("labels", {})
    return int(labels.get(COMPLETION_INDEX, -1))


def _has_started(pod: Document) -> bool:
    return pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")


async def _with_client(state: StateDirectory, checkpoints: Path) -> None:
    async with HttpClient.from_kubeconfig(str(state.kubeconfig)) as client:
        await Demo(client, checkpoints).tell()


def tell(keep: bool) -> None:
    """Run the demo on a cluster under a folder of its own; leave nothing behind unless ``keep``."""
    out.print("[bold]Kubarium[/]: a training job needs 15 device slices, the cluster has 14.")
    home = Path(tempfile.mkdtemp(prefix="kubarium-demo-"))
    state = StateDirectory("demo", home)
    cluster_file = resources.files("kubarium.labs").joinpath("demo", "cluster.yaml")
    began = monotonic()
    with resources.as_file(cluster_file) as path:
        launch = Launch(state, read_cluster_file(path), in_memory=True)
    record = start_detached(launch)
    out.print(
        f"  [bright_black]API, controllers and 3 nodes ready in {record.ready_after_s:.2f} s[/]"
    )
    try:
        asyncio.run(_with_client(state, home / "checkpoints"))
        out.print(f"\nThat took {monotonic() - began:.0f} s, all of it measured in this run.")
    finally:
        if keep:
            out.print(f"The cluster stays: export KUBECONFIG={state.kubeconfig}")
            out.print(f"  stop it with: kill {record.pid} && rm -r {home}")
        else:
            stop(record, now=True)
            shutil.rmtree(home, ignore_errors=True)
    out.print(NEXT)


NEXT = """Next:
  kubarium up --detach            a cluster of your own
  kubectl get nodes               (any kubectl)
  kubarium run -f examples/jobset/fails-once.yaml
  kubarium why pod/NAME           ask why something waits"""
