"""Training that survives, twenty times each: what a fault costs a gang of real processes.

    python bench/run.py training        (15 ranks of kubarium.labs.survive on a throw-away cluster)

Each trial waits until the gang steps, breaks one thing, and measures until the gang steps again
from the step that it had saved (or until the hang is named).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

RANKS = 15
TRIALS = 20
PATIENCE_S = 120.0
EVERY = 10


class Rows(Protocol):
    """What bench/run.py's Report offers."""

    def add(
        self, row: str, figure: str, values: list[float], unit: str, compare: str = ""
    ) -> None: ...


class Gang:
    """A cluster with one JobSet of RANKS ranks that trains without end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "checkpoints"
        self.folder.mkdir(mode=0o777)
        self.environment = os.environ | {
            "KUBARIUM_HOME": str(home),
            "KUBECONFIG": str(home / "config"),
        }

    def kubarium(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "kubarium.cli.main", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def fault(self, *arguments: str) -> Iterator[None]:
        """``kubarium chaos`` of something that lasts: it stays until the end of the block."""
        command = [sys.executable, "-m", "kubarium.cli.main", "chaos", *arguments]
        ordered = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            ordered.send_signal(signal.SIGINT)  # undoes it, as Ctrl-C does
            ordered.wait(60)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        command = ["kubectl", *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, input=text, check=True
        )
        return done.stdout

    def apply(self, **annotations: str) -> None:
        self.kubectl("apply", "-f", "-", text=json.dumps(jobset(self.folder, annotations)))

    def ranks(self) -> dict[int, psutil.Process]:
        """The ranks' processes as the machine sees them."""
        return {
            int(environment["JOB_COMPLETION_INDEX"]): process
            for process, environment in self._processes("kubarium.labs.survive")
        }

    def launchers(self) -> dict[str, psutil.Process]:
        """The first processes of pods whose ranks restart in place, by the pods' host names."""
        found: dict[str, psutil.Process] = {}
        for process, environment in self._processes("kubarium.train.launch"):
            name = environment.get("HOSTNAME", "")
            if name not in found or process.pid in _ancestors(found[name]):
                found[name] = process
        return found

    def _processes(self, module: str) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
        """Those that run ``module`` in one of the gang's pods, with their environments."""
        for process in psutil.process_iter(["cmdline", "environ"]):
            environment = process.info["environ"] or {}
            mine = environment.get("KUBARIUM_BENCH") == str(self.home)
            if mine and module in (process.info["cmdline"] or ()):
                yield process, environment

    def saved(self) -> int:
        """The newest step that is whole on disk."""
        steps = (int(path.name[5:]) for path in self.folder.glob("step-*"))
        return max(steps, default=0)

    def until(self, question: Callable[[], object], what: str) -> float:
        """Ask until it is true; the seconds that took."""
        began = time.perf_counter()
        while not question():
            if time.perf_counter() - began > PATIENCE_S:
                raise TimeoutError(f"not within {PATIENCE_S} s: {what}")
            time.sleep(0.02)
        return time.perf_counter() - began

    def until_steps(self) -> float:
        """Until the gang has saved once more than now."""
        before = self.saved()
        return self.until(lambda: self.saved() > before, "a new checkpoint")

    def start(self) -> dict[str, int]:
        """What rank 0 said when it began; empty before that."""
        index = "batch.kubernetes.io/job-completion-index=0"
        text = self.kubectl("logs", "-l", index, "--tail=-1")
        facts = (json.loads(line) for line in text.splitlines())
        return next((fact for fact in facts if fact["event"] == "start"), {})

    def events(self, reason: str) -> list[str]:
        text = self.kubectl("get", "events", "-o", "json", f"--field-selector=reason={reason}")
        return [event["message"] for event in json.loads(text)["items"]]


def jobset(folder: Path, annotations: dict[str, str]) -> dict[str, object]:
    container = {
        "name": "rank",
        "image": "kubarium/train",
        "command": ["python", "-m", "kubarium.labs.survive"],
        "args": [
            "--steps=10000000",
            "--step-time=0.05",
            f"--every={EVERY}",
            "--folder=/checkpoints",
        ],
        "env": [
            {"name": "WORLD_SIZE", "value": str(RANKS)},
            {"name": "MASTER_ADDR", "value": "train-workers-0-0.train"},
            {"name": "OMP_NUM_THREADS", "value": "1"},
            {"name": "KUBARIUM_BENCH", "value": str(folder.parent)},
        ],
        "volumeMounts": [{"name": "checkpoints", "mountPath": "/checkpoints"}],
    }
    pod = {
        "metadata": {"annotations": annotations},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 20,
            "containers": [container],
            "volumes": [{"name": "checkpoints", "hostPath": {"path": str(folder)}}],
        },
    }
    job = {"parallelism": RANKS, "completions": RANKS, "backoffLimit": 0, "template": pod}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "train"},
        "spec": {
            "failurePolicy": {"maxRestarts": 1000},
            "replicatedJobs": [{"name": "workers", "template": {"spec": job}}],
        },
    }


@contextmanager
def gang(**annotations: str) -> Iterator[Gang]:
    with tempfile.TemporaryDirectory() as home:
        found = Gang(Path(home))
        found.kubarium("up", "--detach")
        try:
            found.apply(**annotations)
            yield found
        finally:
            found.kubarium("reset")


def _ancestors(process: psutil.Process) -> set[int]:
    return {parent.pid for parent in process.parents()}


def bench_spares(report: Rows, trials: int = 5) -> None:
    """A pod and a node are lost, with and without a spare."""
    for spares in (0, 1):
        with gang(**{"kubarium.dev/spares": str(spares)}) as world:
            world.until_steps()
            _pods_lost(world, report, trials, spares)
            _node_lost(world, report, spares)


def _pods_lost(world: Gang, report: Rows, trials: int, spares: int) -> None:
    times: list[float] = []
    selector = "jsonpath={.items[*].metadata.labels.kubarium\\.dev/spare}"
    for trial in range(trials):
        world.until(
            lambda: world.kubectl("get", "pods", "-o", selector).count("true") == spares,
            "the spare is there",
        )
        time.sleep(2)  # it has started and waits
        world.until_steps()
        before = world.saved()
        victims = {n: p for n, p in world.launchers().items() if n[-1].isdigit()}
        victim = victims[sorted(victims)[trial % len(victims)]]
        began = time.perf_counter()
        victim.send_signal(signal.SIGKILL)
        world.until(lambda before=before: world.saved() > before + EVERY, "new steps")
        times.append(time.perf_counter() - began)
    how = f"{spares} spare" if spares else "no spare, in place"
    figure = f"SIGKILL of a rank's pod to new steps saved, {how}"
    report.add("training", figure, times, "s", "the whole JobSet anew: the row above")


def _node_lost(world: Gang, report: Rows, spares: int) -> None:
    """Until new steps, from the moment when the node stops answering."""
    known = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    began = time.perf_counter()
    with world.fault("lose-node", "-l", "kubernetes.io/hostname=node-1", "--duration", "300"):
        world.until(
            lambda: world.kubectl("get", "node", "node-1", "-o", known) != "True", "it is lost"
        )
        noticed = time.perf_counter()
        world.until(lambda: "GangRestarted" in _reasons(world), "the gang is back")
        before = world.saved()
        world.until(lambda: world.saved() > before, "new steps")
        ended = time.perf_counter()
    how = f"{spares} spare" if spares else "no spare"
    report.add("training", f"a node is lost: until noticed, {how}", [noticed - began], "s")
    report.add("training", f"from then to new steps, {how}", [ended - noticed], "s")


def _reasons(world: Gang) -> set[str]:
    text = world.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
    return set(text.split())


def bench_training(report: Rows, trials: int = TRIALS) -> None:
    """All rows."""
    # Also where the bench runs in the background, with SIGINT ignored, `kubarium chaos` gets it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with gang(**{"kubarium.dev/hang-timeout": "30s"}) as world:
        report.add("training", "submit to first step, 15 ranks", [world.until_steps()], "s", "cold")
        memory = sum(process.memory_full_info().uss for process in world.ranks().values()) / 1e9
        report.add("training", "unique memory of 15 ranks", [memory], "GB", "torchrun, torch: 3.3")
        _killed(world, report, trials)
        _stopped(world, report, trials)
        _preempted(world, report, trials)
        world.kubectl("delete", "jobset", "train", "--wait=false")
        _grown(world, report, trials)
    bench_spares(report, max(1, trials // 4))


def _killed(world: Gang, report: Rows, trials: int) -> None:
    times: list[float] = []
    for trial in range(trials):
        world.until_steps()
        before = world.saved()
        world.ranks()[trial % RANKS].send_signal(signal.SIGKILL)
        began = time.perf_counter()
        world.until(
            lambda before=before: world.saved() > before + EVERY, "steps beyond the saved one"
        )
        times.append(time.perf_counter() - began)
    report.add(
        "training", "SIGKILL of a rank to new steps saved", times, "s", "aim < 5 s, 20 of 20"
    )


def _stopped(world: Gang, report: Rows, trials: int) -> None:
    times: list[float] = []
    for trial in range(trials):
        world.until_steps()
        known = len(world.events("HangDetected"))
        world.ranks()[trial % RANKS].send_signal(signal.SIGSTOP)
        what = "the hang is named"
        times.append(
            world.until(lambda known=known: len(world.events("HangDetected")) > known, what)
        )
        message = world.events("HangDetected")[-1]
        if "survive.py" not in message and "ddp.py" not in message:
            raise RuntimeError(f"no stack of the program: {message}")
    report.add("training", "SIGSTOP of a rank to its name and stack", times, "s", "aim < 10 s")


def _preempted(world: Gang, report: Rows, trials: int) -> None:
    """The whole gang is deleted at once: does the next attempt begin where this one ended?"""
    same: list[float] = []
    for _ in range(trials):
        world.until_steps()
        world.kubectl(
            "delete", "pods", "-l", "jobset.sigs.k8s.io/jobset-name=train", "--wait=false"
        )
        world.until(lambda: not world.ranks(), "all ranks have ended")
        stopped = world.saved()
        world.until(lambda: len(world.ranks()) == RANKS, "all ranks are back")
        world.until(world.start, "a start")
        same.append(float(world.start()["step"] == stopped))
    figure = f"of {trials} preemptions lost no step"
    report.add("training", figure, [sum(same)], "", "field report: 0 of 6")


def _grown(world: Gang, report: Rows, trials: int) -> None:
    """Four ranks, one of which takes more than its limit: does it end without any restart?"""
    example = Path(__file__).parent.parent / "examples" / "training" / "out-of-memory.yaml"
    well = 0
    for trial in range(trials):
        name = f"surge-{trial}"
        text = example.read_text().replace("name: surge", f"name: {name}")
        text = text.replace("surge-workers-0-0.surge", f"{name}-workers-0-0.{name}")
        world.kubectl("apply", "-f", "-", text=text)
        world.until(lambda n=name: _state(world, n), f"{name} is over")
        grown = [event for event in world.events("MemoryGrown") if f"{name}-workers" in event]
        well += _state(world, name) in ("Completed/", "Completed/0") and bool(grown)
        world.kubectl("delete", "jobset", name, "--wait=false")
    figure = f"of {trials} ranks over their limit grew in place, no restart"
    report.add("training", figure, [float(well)], "", "elsewhere: the gang starts over")


def _state(world: Gang, name: str) -> str:
    """``terminalState/restarts``; "" while it runs."""
    path = "jsonpath={.status.terminalState}/{.status.restarts}"
    found = world.kubectl("get", "jobset", name, "-o", path)
    return "" if found.startswith("/") else found


if __name__ == "__main__":

    class Printed:
        def add(
            self, row: str, figure: str, values: list[float], unit: str, compare: str = ""
        ) -> None:
            shown = ", ".join(f"{value:.2f}" for value in values)
            print(f"{row}: {figure}: {shown} {unit} ({compare})", flush=True)

    bench_training(Printed(), int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS)
