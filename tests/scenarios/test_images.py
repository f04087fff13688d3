"""A loaded image's pod, as users have it: it runs, outlives its agent, and leaves nothing."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import RunningCluster
from tests.node.oci.images import busybox, entry, layer
from tests.scenarios.conftest import RawClient

PODS = "/api/v1/namespaces/default/pods"
MARKER = f"{50_000_000 + os.getpid()}"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    started = RunningCluster(home)
    yield started
    started.stop()


def until(question, what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not (answer := question()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return answer


def marked():
    found = []
    for process in psutil.process_iter():
        try:
            if MARKER in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return sorted(found)


def pod(name, *command, **container):
    main = {"name": "c", "image": "example.com/team/app:v1", "command": list(command)}
    spec = {"containers": [main | container], "restartPolicy": "Always"}
    spec["terminationGracePeriodSeconds"] = 1
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def status(api, name):
    return api("GET", f"{PODS}/{name}").body["status"]


def ready(api, name):
    found = status(api, name)
    [container] = found.get("containerStatuses") or [{}]
    return container if container.get("ready") else None


def test_a_loaded_images_pod_outlives_its_agent(cluster, tmp_path):
    report = cluster.kubarium("status").stdout
    if "container images cannot be run" in report:
        pytest.skip("needs mount namespaces")
    assert "RuntimeClass handlers: process, namespaces" in report
    busybox(None, layer(entry("text", b"from the image\n"))).archive(
        tmp_path / "app.tar", names=["example.com/team/app:v1"]
    )
    assert "loaded" in cluster.kubarium("image", "load", str(tmp_path / "app.tar")).stdout
    api = RawClient(cluster.kubeconfig)
    assert api("POST", PODS, pod("app", "sleep", MARKER)).code == 201
    before = until(lambda: ready(api, "app"), "it runs")
    assert before["imageID"].startswith("example.com/team/app@sha256:")
    processes = marked()
    assert processes
    [server] = cluster.home.rglob("server.json")
    os.kill(json.loads(server.read_text())["pid"], signal.SIGKILL)
    time.sleep(0.2)  # whoever was to die with it has
    assert marked() == processes
    cluster.kubarium("up", "--detach")
    api = RawClient(cluster.kubeconfig)
    again = until(lambda: ready(api, "app"), "found again")
    assert (again["containerID"], again["restartCount"]) == (before["containerID"], 0)
    assert marked() == processes
    # In use: its name goes, its layers stay until it has ended.
    assert "0.0 MB freed" in cluster.kubarium("image", "rm", "example.com/team/app:v1").stdout
    api("DELETE", f"{PODS}/app")
    until(lambda: not marked(), "it has ended")
    until(lambda: api("GET", f"{PODS}/app").code == 404, "it is gone")
    cluster.kubarium("down")
    [images] = cluster.home.rglob("nodes/images")
    assert list((images / "leases").iterdir()) == []
    assert str(cluster.home) not in Path("/proc/self/mountinfo").read_text()
    cluster.kubarium("up", "--detach")  # which clears what nobody needs
    assert list((images / "layers").iterdir()) == []
