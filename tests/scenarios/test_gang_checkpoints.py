"""Checkpoints of a whole gang as objects: taken at one step, kept, restored by another gang."""

import json

import pytest

from tests.conftest import kubectls

from .test_elastic import (
    completed,
    final_weights,
    gang,
    jobset,
    pods,
    uninterrupted,
)

__all__ = ["gang", "uninterrupted"]
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not kubectls(), reason="needs kubectl"),
]


def checkpoint(name="before", target="train", kind="GangCheckpoint", **spec):
    if kind == "PodCheckpoint":
        return {
            "apiVersion": "checkpoint.k8s.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": {"sourcePod": {"name": target}, **spec},
        }
    return {
        "apiVersion": "kubarium.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"target": {"kind": "JobSet", "name": target}, **spec},
    }


def over(cluster, kind, name):
    for condition in cluster.get(kind, name).get("status", {}).get("conditions", ()):
        if condition["reason"] not in ("Pending", "CheckpointInProgress"):
            return condition
    return None


def test_a_gang_is_saved_at_one_step_and_another_gang_goes_on_from_it(gang, uninterrupted):
    gang.start(4, 900, annotations={})
    gang.apply(checkpoint())
    found = gang.wait_until(lambda: over(gang, "gangcheckpoint", "before"), 30, "it is over")
    assert (found["status"], found["reason"]) == ("True", "CheckpointCompleted")
    status = gang.get("gangcheckpoint", "before")["status"]
    step = status["step"]
    assert status["ranks"] == len(status["podCheckpoints"]) == 4
    assert status["path"] == f"/checkpoints/step-{step:08d}"
    assert found["message"] == f"4 ranks have saved step {step}, all parts verified"
    parts = gang.get("podcheckpoints")["items"]
    assert {part["status"]["step"] for part in parts} == {step}
    assert {part["status"]["sha256"] for part in parts} == {status["sha256"]}
    assert all(part["status"]["checkpointedContainers"] for part in parts)
    # The gang has gone on, and keeps what was asked for beyond what it keeps by itself.
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert final_weights(gang) == uninterrupted(900)
    kept = gang.folder / f"step-{step:08d}"
    assert any(path.name.startswith("keep-") for path in kept.iterdir())

    # Two ranks go on from it, in the same folder, to another end.
    gang.kubectl("delete", "jobset", "train")
    again = jobset(gang.folder, 2, 700, {"kubarium.dev/restore-from": "gangcheckpoint/before"})
    env = again["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    env["containers"][0]["env"][0]["value"] = "2"
    gang.apply(again)
    gang.wait_until(lambda: completed(gang), 60, "the restored run completes")
    starts = [
        json.loads(line)
        for pod in pods(gang)
        for line in gang.kubectl("logs", pod["metadata"]["name"]).splitlines()
        if '"start"' in line
    ]
    assert [(start["step"], start["world"]) for start in starts] == [(step, 2)]
    assert final_weights(gang) == uninterrupted(700)


def test_a_checkpoint_that_cannot_be_taken_says_why(gang):
    gang.apply(checkpoint("nobody", "no-such-jobset"))
    found = gang.wait_until(lambda: over(gang, "gangcheckpoint", "nobody"), 20, "it is over")
    assert found["reason"] == "CheckpointFailed"
    assert found["message"] == "JobSet no-such-jobset has no rank that runs"
    gang.apply(checkpoint("gone", "no-such-pod", "PodCheckpoint"))
    found = gang.wait_until(lambda: over(gang, "podcheckpoint", "gone"), 20, "it is over")
    assert (found["reason"], found["message"]) == (
        "CheckpointFailed",
        "pod no-such-pod not found",
    )
    job = jobset(gang.folder, 1, 1, {})
    spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    spec["containers"][0]["command"], spec["containers"][0]["args"] = ["sleep", "60"], []
    gang.apply(job)
    gang.wait_until(
        lambda: [p for p in pods(gang) if p["status"]["phase"] == "Running"], 20, "runs"
    )
    [pod] = pods(gang)
    gang.apply(checkpoint("silent", pod["metadata"]["name"], "PodCheckpoint"))
    found = gang.wait_until(lambda: over(gang, "podcheckpoint", "silent"), 20, "it is over")
    assert "wrap its training loop in kubarium.train" in found["message"]
    replaced = checkpoint("replaced", pod["metadata"]["name"], "PodCheckpoint")
    replaced["spec"]["sourcePod"]["uid"] = "0b3fbbf0-0000-4000-8000-000000000001"
    gang.apply(replaced)
    found = gang.wait_until(lambda: over(gang, "podcheckpoint", "replaced"), 20, "it is over")
    assert found["reason"] == "SourcePodReplaced"
    text = gang.kubectl(
        "run",
        "restored",
        "--image=busybox",
        "--annotations=kubarium.dev/restore-from=gone",
        check=False,
    )
    assert "must be gangcheckpoint/NAME or podcheckpoint/NAME" in text
