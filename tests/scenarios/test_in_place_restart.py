"""A gang of real processes that restarts in its pods: same names, addresses and volumes."""

import pytest

from tests.conftest import ROOT, kubectls

pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not kubectls(), reason="kubectl is not installed"),
]

EXAMPLE = str(ROOT / "examples" / "jobset" / "in-place.yaml")


def identity(pods):
    return {
        (pod["metadata"]["name"], pod["metadata"]["uid"], pod["status"]["podIP"]) for pod in pods
    }


def test_one_worker_fails_and_all_begin_anew_in_place(start_cluster):
    cluster = start_cluster()
    cluster.kubectl("apply", "-f", EXAMPLE)

    def pods():
        return cluster.get("pods")["items"]

    def all_in(attempt):
        status = cluster.get("jobset", "in-place").get("status", {})
        ready = [
            entry["restartCount"]
            for pod in pods()
            for entry in pod["status"].get("containerStatuses", [])
            if entry["ready"]
        ]
        current = status.get("currentInPlaceRestartAttempt")
        return current == attempt and ready == [attempt] * 4

    cluster.wait_until(lambda: all_in(0), what="all workers run")
    before = pods()
    victim = before[1]["metadata"]["name"]
    cluster.kubectl("exec", victim, "-c", "worker", "--", "touch", "/tmp/fail")
    cluster.wait_until(lambda: all_in(1), what="all workers run again")
    after = pods()
    assert identity(after) == identity(before)
    for pod in after:
        output = cluster.kubectl("logs", pod["metadata"]["name"], "-c", "worker")
        assert output == "run 2\n", "the volume has kept what the first run wrote"
        conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
        assert conditions["AllContainersRestarting"] == "False"
    status = cluster.get("jobset", "in-place")["status"]
    assert status.get("restarts", 0) == 0
    assert status["previousInPlaceRestartAttempt"] == 0
