"""`python bench/restarts.py`: a gang of four real processes fails and comes back, in place or anew.

For each restart strategy: seconds from the failure to the moment when all workers run again, API
objects written, and CPU seconds of the cluster with all its pods. Needs kubectl and no cluster of
its own name; everything it starts is gone afterwards.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

EXAMPLE = Path(__file__).parent.parent / "examples" / "jobset" / "in-place.yaml"
REPEATS = 3
BESIDE, AROUND = "InPlaceRestart, agent beside", "InPlaceRestart, agent around"
POLL_S = 0.05


def documents(strategy: str) -> list[dict[str, Any]]:
    """The example; for other strategies its workers alone, which need no agent."""
    found = list(yaml.safe_load_all(EXAMPLE.read_text()))
    if strategy == BESIDE:
        return found
    jobset = found[-1]
    if strategy == AROUND:
        _put_around(jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"])
        return found
    jobset["spec"]["failurePolicy"]["restartStrategy"] = strategy
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["backoffLimit"] = 0
    pod = job["template"]["spec"]
    pod["restartPolicy"] = "Never"
    del pod["initContainers"], pod["serviceAccountName"]
    for field in ("restartPolicy", "restartPolicyRules"):
        del pod["containers"][0][field]
    return [jobset]


def _put_around(pod: dict[str, Any]) -> None:
    """The agent runs the worker, instead of running beside it."""
    [agent], [worker] = pod.pop("initContainers"), pod["containers"]
    for field in ("startupProbe", "restartPolicy"):
        del agent[field]
    script = {"name": "WORKER_COMMAND", "value": worker["args"][0]}
    rule = {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0]}}
    mounts = worker["volumeMounts"]
    changes = {"name": "worker", "restartPolicy": "Never", "restartPolicyRules": [rule]}
    pod["containers"] = [agent | changes | {"env": [*agent["env"], script], "volumeMounts": mounts}]


class Cluster:
    """One that ends with the block, and its processes' CPU time."""

    def __init__(self, home: str) -> None:
        self._env = os.environ | {"KUBARIUM_HOME": home, "KUBECONFIG": f"{home}/kubeconfig"}

    def __enter__(self) -> Cluster:
        self._kubarium("up", "--detach")
        return self

    def __exit__(self, *_: object) -> None:
        self._kubarium("reset")

    def _kubarium(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "kubarium.cli.main", *arguments]
        subprocess.run(command, env=self._env, check=True, capture_output=True)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        command = ["kubectl", *arguments]
        done = subprocess.run(
            command, env=self._env, input=text, check=True, capture_output=True, text=True
        )
        return done.stdout

    def pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return found

    def revision(self) -> int:
        """How many writes the store has seen."""
        raw = self.kubectl("get", "--raw", "/api/v1/namespaces/default/pods?limit=1")
        return int(json.loads(raw)["metadata"]["resourceVersion"])

    def cpu_s(self) -> float:
        """Of the server and all its descendants, those that have ended included."""
        total = 0.0
        for process in psutil.process_iter(["cmdline", "environ"]):
            environ = process.info["environ"] or {}
            if environ.get("KUBARIUM_HOME") == self._env["KUBARIUM_HOME"]:
                times = process.cpu_times()
                total += times.user + times.system
                total += times.children_user + times.children_system
        return total


def runs_of(pods: list[dict[str, Any]]) -> set[str]:
    """The worker processes that are ready: their container ids."""
    return {
        status["containerID"]
        for pod in pods
        for status in pod["status"].get("containerStatuses", ())
        if status["ready"] and "deletionTimestamp" not in pod["metadata"]
    }


def wait_for(question: Any, limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not question():
        if time.monotonic() > end:
            raise AssertionError("the gang did not come back")
        time.sleep(POLL_S)


def restart_once(strategy: str) -> tuple[float, int, float, int]:
    """(wall seconds, writes, CPU seconds, pods that are the same ones as before)."""
    with tempfile.TemporaryDirectory() as home, Cluster(home) as cluster:
        text = yaml.safe_dump_all(documents(strategy))
        cluster.kubectl("apply", "-f", "-", text=text)
        wait_for(lambda: len(runs_of(cluster.pods())) == 4)
        time.sleep(2)
        before = cluster.pods()
        runs, uids = runs_of(before), {pod["metadata"]["uid"] for pod in before}
        victim = before[1]["metadata"]["name"]
        revision, cpu_s, start = cluster.revision(), cluster.cpu_s(), time.monotonic()
        cluster.kubectl("exec", victim, "-c", "worker", "--", "touch", "/tmp/fail")
        wait_for(lambda: len(runs_of(cluster.pods()) - runs) == 4)
        wall_s = time.monotonic() - start
        time.sleep(1)
        after = {pod["metadata"]["uid"] for pod in cluster.pods()}
        return wall_s, cluster.revision() - revision, cluster.cpu_s() - cpu_s, len(uids & after)


def main() -> None:
    for strategy in (BESIDE, AROUND, "Recreate", "BlockingRecreate"):
        columns = zip(*(restart_once(strategy) for _ in range(REPEATS)), strict=True)
        wall_s, writes, cpu_s, same = map(statistics.median, columns)
        print(
            f"{strategy:29} {wall_s:5.2f} s  {writes:4.0f} writes  {cpu_s:5.2f} CPU s  "
            f"{same:.0f} of 4 pods the same"
        )


if __name__ == "__main__":
    main()
