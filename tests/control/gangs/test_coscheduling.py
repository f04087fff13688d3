"""The status of scheduler-plugins' PodGroups."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import PODS
from kubarium.control.gangs import components
from kubarium.control.gangs.coscheduling import status_of
from kubarium.view.gangs import COSCHEDULING_GROUPS

GROUP = {
    "apiVersion": "scheduling.x-k8s.io/v1alpha1",
    "kind": "PodGroup",
    "metadata": {"name": "g"},
    "spec": {"minMember": 3},
}


def pod(number, phase, **metadata):
    labels = {"scheduling.x-k8s.io/pod-group": "g"}
    metadata = {"name": f"p{number}", "namespace": "default", "labels": labels, **metadata}
    container = {"name": "main", "image": "busybox"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container]},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("before", "phases", "after"),
    [
        ("", "PP", "Pending"),
        ("Pending", "PPP", "Pending"),
        ("Scheduling", "PPR", "Scheduling"),
        ("Scheduling", "RRRP", "Running"),
        ("Running", "RRPP", "Scheduling"),
        ("Running", "RRS", "Running"),
        ("Running", "RR", "Pending"),
        ("Running", "SSS", "Finished"),
        ("Running", "RSF", "Failed"),
        ("Running", "RFP", "Scheduling"),
        ("Finished", "RRR", "Finished"),
        ("Failed", "RRR", "Failed"),
    ],
)
def test_the_phase_follows_from_the_pods(before, phases, after):
    names = {"P": "Pending", "R": "Running", "S": "Succeeded", "F": "Failed"}
    group = {**GROUP, "status": {"phase": before} if before else {}}
    status = status_of(group, [pod(i, names[p]) for i, p in enumerate(phases)])
    assert status["phase"] == after
    if after in ("Scheduling", "Running"):
        counts = [status[f] for f in ("running", "succeeded", "failed")]
        assert counts == [phases.count(p) for p in "RSF"]


def test_the_owners_of_the_pods_occupy_the_group():
    refs = [{"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": "u"}]
    status = status_of(GROUP, [pod(i, "Pending", ownerReferences=refs) for i in range(3)])
    assert status["occupiedBy"] == "default/train"
    held = {**GROUP, "status": {"phase": "Pending", "occupiedBy": "default/first"}}
    assert status_of(held, [pod(0, "Pending", ownerReferences=refs)])["occupiedBy"] == (
        "default/first"
    )


def test_a_group_says_how_many_of_its_pods_run(world_run):
    async def story(world):
        await world.install("scheduling.x-k8s.io")
        await world.start(*components(world.context))
        await world.create(COSCHEDULING_GROUPS, GROUP)
        for number in range(3):
            await world.create(PODS, pod(number, "Pending"))
            running = {"status": {"phase": "Running"}}
            await world.client.patch(PODS, f"p{number}", running, "default", subresource="status")
        await world.settle(2)
        status = (await world.get(COSCHEDULING_GROUPS, "g"))["status"]
        assert status == {"phase": "Running", "running": 3, "succeeded": 0, "failed": 0}

    world_run(story)
