"""Volumes by claims are mounted for those alone whom the claims and volumes are for."""

from __future__ import annotations

import asyncio

import pytest

from kubarium.api.kinds import EVENTS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS

from .conftest import process_world

SIZE = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
EPHEMERAL = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": SIZE}}}


def claim(name, owner=None):
    owners = [] if owner is None else [owner]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {**SIZE, "volumeName": "disk"},
    }


def disk(path, claim_uid):
    ref = {"kind": "PersistentVolumeClaim", "namespace": "default", "name": "c", "uid": claim_uid}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "disk"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(path)},
            "claimRef": ref,
        },
    }


async def refusal(world, pod):
    async def told():
        events = await world.client.list(EVENTS, "default")
        for event in events.items:
            if event["reason"] == "FailedMount" and event["involvedObject"]["name"] == pod:
                return event["message"]
        return None

    return await world.until(told, "it is said")


def owner(uid):
    return {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": True}


@pytest.mark.parametrize("made_for", [None, "an-earlier-p"])
def test_an_ephemeral_volumes_claim_of_somebody_else_is_not_mounted(tmp_path, made_for):
    async def main():
        async with process_world() as world:
            other = None if made_for is None else owner(made_for)
            made = await world.create(PERSISTENT_VOLUME_CLAIMS, claim("p-scratch", other))
            await world.create(PERSISTENT_VOLUMES, disk(tmp_path, made["metadata"]["uid"]), "")
            await world.pod("p", volumes=[EPHEMERAL])
            assert await refusal(world, "p") == (
                'MountVolume.SetUp failed for volume "scratch" : '
                "PVC default/p-scratch was not created for pod default/p (pod is not owner)"
            )

    asyncio.run(main())


def test_an_ephemeral_volumes_own_claim_is_mounted(tmp_path):
    async def main():
        async with process_world() as world:
            await world.pod("p", volumes=[EPHEMERAL])
            pod = await world.client.get(PODS, "p", "default")
            mine = claim("p-scratch", owner(pod["metadata"]["uid"]))
            made = await world.create(PERSISTENT_VOLUME_CLAIMS, mine)
            await world.create(PERSISTENT_VOLUMES, disk(tmp_path, made["metadata"]["uid"]), "")
            await world.phase("p", "Running")

    asyncio.run(main())


def test_a_volume_that_is_bound_to_another_claim_is_not_mounted(tmp_path):
    async def main():
        async with process_world() as world:
            await world.create(PERSISTENT_VOLUME_CLAIMS, claim("c"))
            await world.create(PERSISTENT_VOLUMES, disk(tmp_path, "another"), "")
            volume = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
            await world.pod("p", volumes=[volume])
            assert await refusal(world, "p") == (
                'MountVolume.SetUp failed for volume "v" : '
                'persistentvolume "disk" is bound to another claim than c'
            )

    asyncio.run(main())
