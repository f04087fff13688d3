"""kill -9 of the server: acknowledged writes survive, the pods' processes do not."""

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.conftest import RunningCluster
from tests.scenarios.conftest import RawClient, server_log

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
WRITERS = 4
ROUNDS = 5
# Something to find the pods' processes by, whatever their parents are.
MARKER = f"{40_000_000 + os.getpid()}"

pytestmark = pytest.mark.timeout(180)


def record(cluster) -> dict:
    [path] = cluster.home.rglob("server.json")
    return json.loads(path.read_text())


class Writer(threading.Thread):
    """Creates and updates ConfigMaps until the server is gone; remembers what was acknowledged."""

    def __init__(self, api: RawClient, label: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: dict[str, tuple[int, int]] = {}
        self.refused: list[str] = []
        self._api = api
        self._label = label

    def run(self) -> None:
        try:
            for number in range(100_000):
                self._write(f"{self._label}-{number // 3}", number)
        except (OSError, http.client.HTTPException):
            return  # killed

    def _write(self, name: str, number: int) -> None:
        data = {"n": str(number)}
        if name in self.acknowledged:
            patch = "application/merge-patch+json"
            said = self._api("PATCH", f"{CONFIG_MAPS}/{name}", {"data": data}, patch)
        else:
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
            said = self._api("POST", CONFIG_MAPS, document | {"data": data})
        if said.code not in (200, 201):
            self.refused.append(f"{name}: {said.code} {said.message}")
            return
        self.acknowledged[name] = (int(said.body["metadata"]["resourceVersion"]), number)


def killed_during_writes(cluster, moment_s: float, label: str) -> list[Writer]:
    api = RawClient(cluster.kubeconfig)
    writers = [Writer(api, f"{label}-{number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(moment_s)
    os.kill(record(cluster)["pid"], signal.SIGKILL)
    for writer in writers:
        writer.join(25)
        assert not writer.is_alive()
        assert not writer.refused
    return writers


def lost_writes(api: RawClient, acknowledged: dict[str, tuple[int, int]]) -> list[str]:
    stored = {item["metadata"]["name"]: item for item in api("GET", CONFIG_MAPS).body["items"]}
    lost = []
    for name, (version, number) in acknowledged.items():
        found = stored.get(name)
        if found is None:
            lost.append(f"{name} is gone")
        elif (
            int(found["metadata"]["resourceVersion"]) < version or int(found["data"]["n"]) < number
        ):
            lost.append(f"{name} went back to {found['data']['n']} from {number}")
    return lost


def marked_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            # One of ours: pytest's own command line may not hold the number.
            if MARKER in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(question, what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def sleeper(name: str, policy: str) -> dict:
    container = {"name": "c", "image": "busybox", "command": ["sleep", MARKER]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 1,
        },
    }


def status(api, name):
    return api("GET", f"{PODS}/{name}").body["status"]


@pytest.fixture
def cluster(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    started = RunningCluster(home)
    yield started
    started.stop()


def test_no_acknowledged_write_is_lost(cluster):
    moments = random.Random(7)
    acknowledged: dict[str, tuple[int, int]] = {}
    for number in range(ROUNDS):
        moment_s = moments.uniform(0.05, 0.9)
        for writer in killed_during_writes(cluster, moment_s, f"round-{number}"):
            acknowledged |= writer.acknowledged
        cluster.kubarium("up", "--detach")
        api = RawClient(cluster.kubeconfig)
        assert lost_writes(api, acknowledged) == []
    assert len(acknowledged) > 50, "the rounds were too short to show anything"
    newest = max(version for version, _ in acknowledged.values())
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "next"}}
    after = api("POST", CONFIG_MAPS, document).body["metadata"]["resourceVersion"]
    assert int(after) > newest, "revisions go on where they were"
    assert "Traceback" not in server_log(cluster)


def test_pods_of_a_killed_server_end_and_are_handled_by_the_next(cluster):
    api = RawClient(cluster.kubeconfig)
    policies = {"always": "Always", "never": "Never"}
    for name, policy in policies.items():
        assert api("POST", PODS, sleeper(name, policy)).code == 201
    for name in policies:
        until(lambda name=name: status(api, name).get("phase") == "Running", f"{name} runs")
    assert len(marked_processes()) >= 2
    os.kill(record(cluster)["pid"], signal.SIGKILL)
    until(lambda: not marked_processes(), "no process of a pod outlives its agent", 10)

    cluster.kubarium("up", "--detach")
    api = RawClient(cluster.kubeconfig)

    def restarted():
        now = status(api, "always")
        [container] = now.get("containerStatuses") or [{}]
        return now.get("phase") == "Running" and container.get("restartCount", 0) >= 1

    until(restarted, f"restarted: {status(api, 'always')}")
    until(lambda: status(api, "never").get("phase") == "Failed", "a pod that never restarts failed")
    assert len(marked_processes()) >= 1


def test_down_leaves_nothing(cluster):
    api = RawClient(cluster.kubeconfig)
    assert api("POST", PODS, sleeper("left", "Always")).code == 201
    until(lambda: status(api, "left").get("phase") == "Running", "it runs")
    before = record(cluster)
    cluster.kubarium("down")
    assert marked_processes() == []
    assert not psutil.pid_exists(before["pid"])
    assert str(cluster.home) not in Path("/proc/self/mountinfo").read_text()
    address = urlsplit(before["url"])
    with socket.socket() as probe:
        assert probe.connect_ex((address.hostname, address.port)) != 0
    for process in psutil.process_iter():
        try:
            inside = str(cluster.home) in process.cwd() or str(cluster.home) in process.exe()
        except psutil.Error:
            continue
        assert not inside, process
    assert not list(cluster.home.rglob("server.json"))
