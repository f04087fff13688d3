"""kill -9 of the server and its node agent: acknowledged writes survive, and pods go on."""

import contextlib
import hashlib
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

from kubarium.node.network.pod_network import uplink_name
from tests.conftest import RunningCluster
from tests.scenarios.conftest import RawClient, server_log

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
ENOUGH = 50  # writes: a slow machine may need more rounds for them
WRITERS = 4
ROUNDS = 5
# Something to find the pods' processes by, whatever their parents are.
MARKER = f"{40_000_000 + os.getpid()}"

pytestmark = pytest.mark.timeout(180)


def record(cluster) -> dict:
    [path] = cluster.home.glob("clusters/*/server.json")
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


def marked_in_shell() -> list[psutil.Process]:
    """Shells whose script has the number in it."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line[:2] == ["sh", "-c"] and MARKER in line[-1]:
            found.append(process)
    return found


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
    number = 0
    while number < ROUNDS or (len(acknowledged) <= ENOUGH and number < 5 * ROUNDS):
        number += 1
        moment_s = moments.uniform(0.05, 0.9)
        for writer in killed_during_writes(cluster, moment_s, f"round-{number}"):
            acknowledged |= writer.acknowledged
        cluster.kubarium("up", "--detach")
        api = RawClient(cluster.kubeconfig)
        assert lost_writes(api, acknowledged) == []
    assert len(acknowledged) > ENOUGH, "the rounds were too short to show anything"
    newest = max(version for version, _ in acknowledged.values())
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "next"}}
    after = api("POST", CONFIG_MAPS, document).body["metadata"]["resourceVersion"]
    assert int(after) > newest, "revisions go on where they were"
    assert "Traceback" not in server_log(cluster)


def kill(cluster):
    os.kill(record(cluster)["pid"], signal.SIGKILL)


def back_up(cluster) -> RawClient:
    cluster.kubarium("up", "--detach")
    return RawClient(cluster.kubeconfig)


def running(api, name):
    found = status(api, name)
    [container] = found.get("containerStatuses") or [{}]
    return container if found.get("phase") == "Running" and container.get("ready") else None


def log_lines(api, name):
    return api("GET", f"{PODS}/{name}/log").body.splitlines()


def shell(name, script, policy="Never", **spec):
    container = {"name": "c", "image": "busybox", "command": ["sh", "-c", script]}
    pod = sleeper(name, policy)
    pod["spec"] |= {"containers": [container]} | spec
    return pod


COUNT = "n=0; while true; do echo $n; n=$((n+1)); sleep 0.1; done"


def test_a_pod_goes_on_while_its_agent_is_killed_and_started_again(cluster):
    api = RawClient(cluster.kubeconfig)
    assert api("POST", PODS, shell("count", f"{COUNT} # {MARKER}")).code == 201
    before = until(lambda: running(api, "count"), "it runs")
    address = status(api, "count")["podIP"]
    processes = sorted(process.pid for process in marked_in_shell())
    kill(cluster)
    assert sorted(process.pid for process in marked_in_shell()) == processes
    api = back_up(cluster)
    again = until(lambda: running(api, "count"), "found again")
    assert again["containerID"] == before["containerID"]
    assert again["restartCount"] == 0
    assert again["state"] == before["state"]
    assert status(api, "count")["podIP"] == address
    assert sorted(process.pid for process in marked_in_shell()) == processes
    lines = until(
        lambda: len(log_lines(api, "count")) > 30 and log_lines(api, "count"), "it counts"
    )
    assert lines == [str(n) for n in range(len(lines))], "nothing of its output is lost"
    said = cluster.kubectl("exec", "count", "--", "sh", "-c", "echo inside; hostname")
    assert said.split() == ["inside", "count"]
    events = api("GET", "/api/v1/namespaces/default/events").body["items"]
    assert [e["reason"] for e in events if e["reason"] in ("Started", "Killing")] == ["Started"]


def test_what_ended_without_an_agent_is_known_to_the_next(cluster):
    api = RawClient(cluster.kubeconfig)
    gate = cluster.home / "gate"
    waits = f"until [ -e {gate} ]; do sleep 0.05; done; echo over > /dev/termination-log; exit "
    mounts = {"volumes": [{"name": "home", "hostPath": {"path": str(cluster.home)}}]}
    pods = [
        shell("fails", waits + "7", **mounts),
        shell("succeeds", waits + "0", **mounts),
        shell("restarts", f"{waits}3", "Always", **mounts),
    ]
    for pod in pods:
        pod["spec"]["containers"][0]["volumeMounts"] = [
            {"name": "home", "mountPath": str(cluster.home)}
        ]
        assert api("POST", PODS, pod).code == 201
    for pod in pods:
        name = pod["metadata"]["name"]
        until(lambda name=name: running(api, name), f"{name} runs")
    kill(cluster)
    gate.touch()
    until(lambda: len(exits(cluster)) >= 3, "all have ended")
    api = back_up(cluster)

    def ended(name, phase):
        found = status(api, name)
        return (
            found["containerStatuses"][0]["state"]["terminated"] if found["phase"] == phase else 0
        )

    failed = until(lambda: ended("fails", "Failed"), "its end is known")
    assert (failed["exitCode"], failed["reason"], failed["message"]) == (7, "Error", "over\n")
    assert until(lambda: ended("succeeds", "Succeeded"), "its end is known")["exitCode"] == 0
    [container] = status(api, "restarts")["containerStatuses"]
    until(lambda: status(api, "restarts")["containerStatuses"][0]["restartCount"] >= 1, container)
    last = status(api, "restarts")["containerStatuses"][0]["lastState"]["terminated"]
    assert last["exitCode"] == 3


def test_what_was_deleted_without_an_agent_is_ended_by_the_next(cluster):
    """The server is the agent's, so the delete comes just before both are killed."""
    api = RawClient(cluster.kubeconfig)
    stubborn = shell("stubborn", f"trap '' TERM; sleep {MARKER}; sleep {MARKER}")
    stubborn["spec"]["terminationGracePeriodSeconds"] = 60
    assert api("POST", PODS, stubborn).code == 201
    until(lambda: running(api, "stubborn"), "it runs")
    assert api("DELETE", f"{PODS}/stubborn", {"gracePeriodSeconds": 2}).code == 200
    kill(cluster)
    assert marked_processes()
    api = back_up(cluster)
    until(lambda: api("GET", f"{PODS}/stubborn").code == 404, "deleted")
    until(lambda: not marked_processes(), "and its processes ended")


def test_names_services_and_policies_hold_after_a_restart(cluster):
    if "its own network" not in cluster.kubarium("status").stdout:
        pytest.skip("pods have no networks of their own here")
    api = RawClient(cluster.kubeconfig)
    serve = shell("web", "exec python3 -m http.server 8080")
    serve["metadata"]["labels"] = {"app": "web"}
    ask = shell("ask", f"sleep {MARKER}")
    for pod in (serve, ask):
        assert api("POST", PODS, pod).code == 201
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    assert api("POST", "/api/v1/namespaces/default/services", service).code == 201
    for name in ("web", "ask"):
        until(lambda name=name: running(api, name), f"{name} runs")
    program = "import urllib.request as r; print(r.urlopen('http://web/', timeout=1).status)"

    def answered():
        return "200" in cluster.kubectl("exec", "ask", "--", "python3", "-c", program, check=False)

    until(answered, "before")
    kill(cluster)
    api = back_up(cluster)
    until(lambda: running(api, "web") and running(api, "ask"), "found again")
    until(answered, "after")
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    assert api("POST", path, policy).code == 201
    until(lambda: not answered(), "the policy holds")
    assert api("POST", PODS, shell("new", f"sleep {MARKER}")).code == 201
    until(lambda: running(api, "new"), "new pods start")
    addresses = [status(api, name)["podIP"] for name in ("web", "ask", "new")]
    assert len(set(addresses)) == 3


def agents(cluster) -> list[psutil.Process]:
    """Processes of the server's that run node agents."""
    server = psutil.Process(record(cluster)["pid"])
    found = []
    for child in server.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # or one that has ended, not yet reaped
            if "kubarium" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_an_agent_that_is_killed_alone_comes_back_and_finds_its_pods(cluster):
    api = RawClient(cluster.kubeconfig)
    assert api("POST", PODS, shell("count", f"{COUNT} # {MARKER}")).code == 201
    quick = shell("quick", f"sleep 1; exit 5 # {MARKER}")
    assert api("POST", PODS, quick).code == 201
    for name in ("count", "quick"):
        until(lambda name=name: running(api, name), f"{name} runs")
    [agent] = agents(cluster)
    agent.send_signal(signal.SIGSTOP)  # deaf for the end of "quick"
    until(lambda: exits(cluster), "it has ended")
    agent.kill()
    found = until(lambda: [a for a in agents(cluster) if a.pid != agent.pid], "a new agent")
    assert len(found) == 1

    def ended():
        [container] = status(api, "quick")["containerStatuses"]
        return container["state"].get("terminated")

    assert until(ended, "its end is known")["exitCode"] == 5
    again = until(lambda: running(api, "count"), "found again")
    assert again["restartCount"] == 0
    lines = until(
        lambda: len(log_lines(api, "count")) > 20 and log_lines(api, "count"), "it counts"
    )
    assert lines == [str(n) for n in range(len(lines))]
    said = cluster.kubectl("exec", "count", "--", "echo", "inside")
    assert said.split() == ["inside"]


def exits(cluster) -> list[Path]:
    """What inits have written of how their containers ended."""
    return list(cluster.home.rglob("*.exit"))


def test_down_ends_the_pods_of_a_killed_agent(cluster):
    api = RawClient(cluster.kubeconfig)
    assert api("POST", PODS, sleeper("left", "Always")).code == 201
    until(lambda: running(api, "left"), "it runs")
    kill(cluster)
    assert marked_processes()
    said = cluster.kubarium("down").stdout
    assert "the pods that it left are stopped" in said
    nothing_left(cluster)
    api = back_up(cluster)
    again = until(lambda: running(api, "left"), "started anew")
    assert again["restartCount"] >= 1


def nothing_left(cluster):
    """No process, mount, link or control group."""
    assert marked_processes() == []
    assert str(cluster.home) not in Path("/proc/self/mountinfo").read_text()
    for process in psutil.process_iter():
        try:
            inside = str(cluster.home) in " ".join([process.cwd(), *process.cmdline()])
        except psutil.Error:
            continue
        assert not inside or "pytest" in " ".join(process.cmdline()), process
    [folder] = cluster.home.glob("clusters/*/nodes")
    link = uplink_name(str(folder.resolve()))
    until(lambda: link not in os.listdir("/sys/class/net"), "no link", 5)
    tag = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    assert not list(Path("/sys/fs/cgroup").glob(f"**/*{tag}*"))


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
