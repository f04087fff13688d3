"""Pods as plain processes where there is neither Linux' kernel nor its ``/proc``.

No Mac is at hand: a copy of the package begins with ``pretended_mac.py``, which takes away what
Python and the system have on Linux only, in every process of ours. What a Mac has and Linux has not
is not tried.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import psutil
import pytest

import kubarium
from tests.conftest import RunningCluster, kubectls

PACKAGE = Path(kubarium.__file__).parent
PRETENCE = Path(__file__).with_name("pretended_mac.py")

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder to import the copy from."""
    folder = tmp_path_factory.mktemp("mac")
    copy = folder / "kubarium"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    start = copy / "__init__.py"
    start.write_text(f"{PRETENCE.read_text()}\n{start.read_text()}")
    return folder


@pytest.fixture(scope="module")
def cluster(package, tmp_path_factory):
    if not kubectls():
        pytest.skip("no kubectl on PATH")
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package))
        running = RunningCluster(home)
    yield running
    running.stop()
    left = [p for p in psutil.process_iter(["environ"]) if _is_of(p, home)]
    assert not left


def _is_of(process: psutil.Process, home: Path) -> bool:
    return (process.info["environ"] or {}).get("KUBARIUM_HOME") == str(home)


def pod(name: str, *command: str, **spec) -> dict:
    container = {"name": "main", "image": "python", "command": list(command)}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "restartPolicy": "Never", **spec},
    }


def phase(cluster: RunningCluster, name: str) -> str:
    return cluster.get("pod", name)["status"]["phase"]


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def test_what_is_missing_is_said(cluster):
    text = cluster.kubarium("status").stdout
    assert "isolation: plain" in text
    assert "namespaces exist on Linux only" in text
    assert "its only loopback address, 127.0.0.1" in text
    assert "pods end with their node agent" in text


def test_a_job_runs_to_its_end(cluster):
    cluster.kubectl("create", "job", "hello", "--image=busybox", "--", "sh", "-c", "echo hello; id")
    cluster.kubectl("wait", "--for=condition=Complete", "job/hello", "--timeout=60s")
    assert cluster.kubectl("logs", "job/hello").startswith("hello\n")


def test_two_that_want_one_port_clash_and_say_so(cluster):
    port = str(free_port())
    serve = ("python3", "-u", "-m", "http.server", port)
    probe = {"readinessProbe": {"httpGet": {"port": int(port)}, "periodSeconds": 1}}
    cluster.apply(pod("first", *serve, container=probe))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/first", "--timeout=60s")
    cluster.apply(pod("second", *serve))
    cluster.wait_until(lambda: phase(cluster, "second") == "Failed")
    assert "Address already in use" in cluster.kubectl("logs", "second")
    assert cluster.get("pod", "first")["status"]["podIP"] == "127.0.0.1"
    ask = f"from urllib.request import urlopen as u; print(u('http://127.0.0.1:{port}').status)"
    assert cluster.kubectl("exec", "first", "--", "python3", "-c", ask) == "200\n"


def test_memory_is_watched(cluster):
    hog = ("python3", "-c", "b = bytearray(300 << 20); input()")
    limits = {"resources": {"limits": {"memory": "60Mi"}}, "stdin": True}
    cluster.apply(pod("hog", *hog, container=limits))
    cluster.wait_until(lambda: phase(cluster, "hog") == "Failed")
    state = cluster.get("pod", "hog")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)


def test_what_cannot_be_applied_is_an_event_and_the_pod_runs(cluster):
    asked = {"seccompProfile": {"type": "RuntimeDefault"}, "allowPrivilegeEscalation": False}
    cluster.apply(pod("careful", "sh", "-c", "echo ran", container={"securityContext": asked}))
    cluster.wait_until(lambda: phase(cluster, "careful") == "Succeeded")
    (message,) = cluster.events("SecurityContextNotApplied")
    assert "allowPrivilegeEscalation: false" in message
    assert "seccomp RuntimeDefault" in message


def test_processes_of_a_pod_go_with_it(cluster):
    mark = f"31{os.getpid()}"
    command = f"sleep {mark} & setsid sleep {mark} & trap '' TERM; sleep {mark}; sleep {mark}"
    cluster.apply(pod("tree", "sh", "-c", command, terminationGracePeriodSeconds=1))

    def sleepers() -> int:
        lines = (p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"]))
        return sum(line == ["sleep", mark] for line in lines)

    cluster.wait_until(lambda: sleepers() == 3)
    cluster.kubectl("delete", "pod", "tree")
    cluster.wait_until(lambda: sleepers() == 0, 10)
