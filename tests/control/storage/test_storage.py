"""Claims get volumes, and nothing is left when they go."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import (
    EVENTS,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SERVICE_ACCOUNTS,
)
from kubarium.control import scheduling, storage
from kubarium.control.storage import OnDisk
from kubarium.view.volumes import STORAGE_CLASSES


def storage_class(name="standard", mode="WaitForFirstConsumer", default=True, **more):
    notes = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": notes},
        "provisioner": "hostpath.kubarium.dev",
        "volumeBindingMode": mode,
        "allowVolumeExpansion": True,
        **more,
    }


def claim(name="data", size="1Gi", modes=("ReadWriteOnce",), **spec):
    wanted = {"accessModes": list(modes), "resources": {"requests": {"storage": size}}, **spec}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": wanted,
    }


def volume(name, size="1Gi", **spec):
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": f"/srv/{name}"},
            **spec,
        },
    }


def user(name="user", *claims, **spec):
    volumes = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims or ("data",)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "c", "image": "busybox"}],
            "volumes": volumes,
            "serviceAccountName": "default",
            "automountServiceAccountToken": False,
            **spec,
        },
    }


def node(name):
    resources = {"cpu": "4", "memory": "8Gi", "pods": "10"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": resources, "capacity": resources},
    }


async def begin(world, tmp_path, *classes, nodes=("a", "b")):
    await world.start()
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await world.create(SERVICE_ACCOUNTS, account)
    for item in classes:
        await world.create(STORAGE_CLASSES, item)
    for name in nodes:
        await world.create(NODES, node(name))
    await world.start(
        *storage.components(world.context, OnDisk(tmp_path)), *scheduling.components(world.context)
    )


async def gone(world, pod):
    await world.client.delete(PODS, pod, "default", grace_period_s=0)
    await world.settle(5)


def test_a_claim_says_which_pods_it_waits_for(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class())
        nowhere = {"nodeSelector": {"is": "not-there"}}
        await world.create(PODS, user("one", **nowhere))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim())
        await world.settle()
        await world.create(PODS, user("another", **nowhere))
        await world.settle()
        events = await world.find(EVENTS)
        said = {e["message"] for e in events if e["reason"] == "WaitForPodScheduled"}
        assert said == {
            "waiting for pod one to be scheduled",
            "waiting for pods another,one to be scheduled",
        }

    world_run(story)


def test_a_bound_claim_says_since_when_no_pod_uses_it(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class(mode="Immediate"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim())

        async def unused():
            await world.settle(15)
            found = (await world.get(PERSISTENT_VOLUME_CLAIMS, "data"))["status"]["conditions"]
            [since] = [c for c in found if c["type"] == "Unused"]
            return since["status"], since["reason"], since["lastTransitionTime"]

        never = await unused()
        assert never[:2] == ("True", "NoPodsUsingPVC")
        await world.create(PODS, user("nowhere", nodeSelector={"is": "not-there"}))
        assert (await unused())[:2] == ("False", "PodUsingPVC")
        await world.create(PODS, user("runs"))
        await gone(world, "nowhere")
        assert (await unused())[0] == "False"
        done = {"status": {"phase": "Succeeded"}}
        await world.client.patch(PODS, "runs", done, "default", subresource="status")
        first = await unused()
        assert first[0] == "True"
        assert first[2] > never[2]
        await gone(world, "runs")
        assert await unused() == first

    world_run(story)


def test_a_claim_gets_a_directory_where_its_pod_goes_and_leaves_nothing(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class())
        made = await world.create(PERSISTENT_VOLUME_CLAIMS, claim())
        assert made["spec"]["storageClassName"] == "standard"
        await world.settle()
        waiting = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert waiting["status"]["phase"] == "Pending"
        assert [e["reason"] for e in await world.find(EVENTS)] == ["WaitForFirstConsumer"]
        await world.create(PODS, user())
        await world.settle(15)
        pod = await world.get(PODS, "user")
        bound = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert bound["status"]["phase"] == "Bound"
        assert bound["status"]["capacity"] == {"storage": "1Gi"}
        [found] = await world.find(PERSISTENT_VOLUMES)
        assert found["status"]["phase"] == "Bound"
        terms = found["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert terms[0]["matchExpressions"][0]["values"] == [pod["spec"]["nodeName"]]
        assert [path.name for path in tmp_path.iterdir()] == [found["metadata"]["name"]]
        await world.client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
        await world.settle()
        kept = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert "deletionTimestamp" in kept["metadata"]  # in use
        await gone(world, "user")
        assert not await world.find(PERSISTENT_VOLUME_CLAIMS)
        assert not await world.find(PERSISTENT_VOLUMES)
        assert not list(tmp_path.iterdir())

    world_run(story)


def test_two_pods_that_share_a_claim_go_to_the_node_of_its_volume(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class())
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim())
        for name in ("one", "two"):
            await world.create(PODS, user(name))
        await world.settle(15)
        nodes = [(await world.get(PODS, name))["spec"]["nodeName"] for name in ("one", "two")]
        assert len(set(nodes)) == 1

    world_run(story)


def test_a_volume_for_many_nodes_can_be_used_from_all(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class())
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim(modes=["ReadWriteMany"]))
        await world.create(PODS, user("one"))
        await world.settle(15)
        [found] = await world.find(PERSISTENT_VOLUMES)
        assert "nodeAffinity" not in found["spec"]
        other = {"a": "b", "b": "a"}[(await world.get(PODS, "one"))["spec"]["nodeName"]]
        await world.create(PODS, user("two", nodeSelector={"kubernetes.io/hostname": other}))
        await world.settle(15)
        assert (await world.get(PODS, "two"))["spec"]["nodeName"] == other

    world_run(story)


def test_one_pod_at_a_time_uses_a_claim_for_one_pod(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class())
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim(modes=["ReadWriteOncePod"]))
        await world.create(PODS, user("one"))
        await world.settle(15)
        await world.create(PODS, user("two"))
        await world.settle(15)
        second = await world.get(PODS, "two")
        [condition] = second["status"]["conditions"]
        assert "ReadWriteOncePod access mode already in-use by another pod" in condition["message"]
        await gone(world, "one")
        await world.settle(15)
        assert (await world.get(PODS, "two"))["spec"]["nodeName"]

    world_run(story)


def test_a_class_that_binds_at_once_waits_for_no_pod(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class(mode="Immediate"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim())
        await world.settle()
        bound = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert bound["status"]["phase"] == "Bound"

    world_run(story)


def test_what_is_to_be_retained_stays(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class(mode="Immediate", reclaimPolicy="Retain"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim())
        await world.settle()
        await world.client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
        await world.settle()
        [kept] = await world.find(PERSISTENT_VOLUMES)
        assert kept["status"]["phase"] == "Released"
        assert list(tmp_path.iterdir())
        await world.client.delete(PERSISTENT_VOLUMES, kept["metadata"]["name"])
        await world.settle()
        assert not await world.find(PERSISTENT_VOLUMES)
        assert list(tmp_path.iterdir())  # the data is the administrator's

    world_run(story)


def test_a_larger_request_is_granted(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class(mode="Immediate"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim())
        await world.settle()
        more = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        await world.client.patch(PERSISTENT_VOLUME_CLAIMS, "data", more, "default")
        await world.settle()
        grown = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert grown["status"]["capacity"] == {"storage": "3Gi"}

    world_run(story)


def test_static_volumes_are_found_by_size_class_and_selector(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path)
        for item in (volume("small"), volume("large", "9Gi"), volume("fits", "2Gi")):
            await world.create(PERSISTENT_VOLUMES, item)
        await world.create(PERSISTENT_VOLUMES, volume("other", "2Gi", storageClassName="fast"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim("some", "2Gi", storageClassName=""))
        await world.create(
            PERSISTENT_VOLUME_CLAIMS, claim("named", storageClassName="", volumeName="large")
        )
        await world.create(
            PERSISTENT_VOLUME_CLAIMS, claim("wrong", "5Gi", storageClassName="", volumeName="small")
        )
        await world.settle()
        found = {c["metadata"]["name"]: c for c in await world.find(PERSISTENT_VOLUME_CLAIMS)}
        assert found["some"]["spec"]["volumeName"] == "fits"
        assert found["named"]["status"]["phase"] == "Bound"
        assert found["wrong"]["status"]["phase"] == "Pending"
        texts = [e["message"] for e in await world.find(EVENTS)]
        assert "requested PV is too small" in texts
        phases = {
            v["metadata"]["name"]: v["status"]["phase"]
            for v in await world.find(PERSISTENT_VOLUMES)
        }
        assert phases == {
            "small": "Available",
            "large": "Bound",
            "fits": "Bound",
            "other": "Available",
        }

    world_run(story)


def test_a_volume_set_aside_for_a_claim_goes_to_it(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class())
        mine = {"namespace": "default", "name": "mine"}
        await world.create(PERSISTENT_VOLUMES, volume("reserved", "9Gi", claimRef=mine))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim("first", storageClassName=""))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim("mine", storageClassName=""))
        await world.settle()
        assert (await world.get(PERSISTENT_VOLUME_CLAIMS, "mine"))["spec"][
            "volumeName"
        ] == "reserved"
        first = await world.get(PERSISTENT_VOLUME_CLAIMS, "first")
        assert first["status"]["phase"] == "Pending"

    world_run(story)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"storageClassName": ""}, "no persistent volumes available for this claim"),
        ({"storageClassName": "fast"}, 'storageclass.storage.k8s.io "fast" not found'),
        ({"storageClassName": "now", "volumeMode": "Block"}, "not block devices"),
    ],
)
def test_a_claim_that_gets_no_volume_says_why(world_run, tmp_path, spec, text):
    async def story(world):
        await begin(world, tmp_path, storage_class("now", "Immediate"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim(**spec))
        await world.create(PODS, user())
        await world.settle()
        texts = [e["message"] for e in await world.find(EVENTS)]
        assert any(text in t for t in texts)
        [condition] = (await world.get(PODS, "user"))["status"]["conditions"]
        assert "pod has unbound immediate PersistentVolumeClaims" in condition["message"]

    world_run(story)


def test_a_claim_older_than_the_default_class_gets_it_later(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path)
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim())
        await world.settle()
        await world.create(STORAGE_CLASSES, storage_class(mode="Immediate"))
        await world.settle()
        bound = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert bound["spec"]["storageClassName"] == "standard"
        assert bound["status"]["phase"] == "Bound"

    world_run(story)


def test_a_lost_volume_makes_its_claim_lost(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path)
        await world.create(PERSISTENT_VOLUMES, volume("one"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim(storageClassName=""))
        await world.settle()
        change = {"metadata": {"finalizers": None}}
        await world.client.patch(PERSISTENT_VOLUMES, "one", change)
        await world.client.delete(PERSISTENT_VOLUMES, "one")
        await world.settle()
        lost = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert lost["status"]["phase"] == "Lost"
        assert "ClaimLost" in [e["reason"] for e in await world.find(EVENTS)]

    world_run(story)


def test_an_ephemeral_volume_has_a_claim_of_its_pods_own(world_run, tmp_path):
    async def story(world):
        await begin(world, tmp_path, storage_class())
        template = {"metadata": {"labels": {"a": "b"}}, "spec": claim()["spec"]}
        scratch = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}
        await world.create(PODS, user(volumes=[scratch]))
        await world.settle(15)
        [made] = await world.find(PERSISTENT_VOLUME_CLAIMS)
        assert made["metadata"]["name"] == "user-scratch"
        assert made["metadata"]["labels"] == {"a": "b"}
        assert made["metadata"]["ownerReferences"][0]["kind"] == "Pod"
        assert made["status"]["phase"] == "Bound"
        assert (await world.get(PODS, "user"))["spec"]["nodeName"]

    world_run(story)


def test_a_class_with_a_capacity_spreads_its_volumes_and_says_when_it_is_full(world_run, tmp_path):
    async def story(world):
        spaces = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
        await world.create_if_absent(NAMESPACES, spaces)
        limited = storage_class(parameters={"capacityPerNode": "3Gi"})
        await begin(world, tmp_path, limited, storage_class("free", default=False))
        await world.settle()
        for name in ("one", "two"):
            await world.create(PERSISTENT_VOLUME_CLAIMS, claim(name, "2Gi"))
            await world.create(PODS, user(f"of-{name}", name))
            await world.settle(15)
        nodes = [(await world.get(PODS, f"of-{n}"))["spec"]["nodeName"] for n in ("one", "two")]
        assert sorted(nodes) == ["a", "b"]
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim("three", "2Gi"))
        await world.create(PODS, user("of-three", "three"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim("four", "9Gi", storageClassName="free"))
        await world.create(PODS, user("of-four", "four"))
        await world.settle(15)
        [condition] = (await world.get(PODS, "of-three"))["status"]["conditions"]
        assert "2 node(s) did not have enough free storage" in condition["message"]
        assert (await world.get(PODS, "of-four"))["spec"]["nodeName"]
        await gone(world, "of-one")
        await world.client.delete(PERSISTENT_VOLUME_CLAIMS, "one", "default")
        await world.settle(20)
        assert (await world.get(PODS, "of-three"))["spec"]["nodeName"] == nodes[0]

    world_run(story)


def test_a_class_that_binds_at_once_refuses_what_it_has_no_room_for(world_run, tmp_path):
    async def story(world):
        limited = storage_class(mode="Immediate", parameters={"capacityPerNode": "1Gi"})
        await begin(world, tmp_path, limited)
        await world.create(PERSISTENT_VOLUME_CLAIMS, claim("large", "2Gi"))
        await world.settle()
        texts = [e["message"] for e in await world.find(EVENTS)]
        assert any("a node has 1073741824 bytes left of capacityPerNode 1Gi" in t for t in texts)

    world_run(story)
