"""Claims, volumes and classes as rows: which volumes may serve a claim, and what keeps it back."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from kubarium.engine.selectors import Requirement
from kubarium.view.cluster import ClusterView
from kubarium.view.volumes import (
    BETA_CLASS,
    BIND_COMPLETED,
    CSI_CAPACITIES,
    CSI_DRIVERS,
    CSI_NODES,
    SELECTED_NODE,
    STORAGE_CLASSES,
    candidates,
    migrated,
)

ZONE = "topology.kubernetes.io/zone"


def claim(notes=None, phase="Pending", deleted=False, **spec):
    metadata = {"name": "c", "namespace": "ns", "uid": "u", "annotations": notes or {}}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    wanted = {
        "storageClassName": "local",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "5Gi"}},
        **spec,
    }
    return {"metadata": metadata, "spec": wanted, "status": {"phase": phase}}


def volume(name, size="5Gi", phase="Available", labels=None, notes=None, **spec):
    have = {
        "storageClassName": "local",
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": size},
        **spec,
    }
    metadata = {"name": name, "labels": labels or {}, "annotations": notes or {}}
    return {"metadata": metadata, "spec": have, "status": {"phase": phase}}


def owner(name="local", **more):
    return {"metadata": {"name": name}, "volumeBindingMode": "WaitForFirstConsumer", **more}


def row(wanted, *volumes, more=None):
    documents = {
        STORAGE_CLASSES: [owner(provisioner="csi")],
        PERSISTENT_VOLUMES: list(volumes),
        PERSISTENT_VOLUME_CLAIMS: [wanted],
        **(more or {}),
    }
    return ClusterView.of(documents).snapshot.volumes["ns", "c"]


def chosen(wanted, *volumes, by_scheduler=True):
    found = candidates(wanted, volumes, by_scheduler=by_scheduler)
    return [document["metadata"]["name"] for document in found]


def test_the_smallest_volume_that_is_available_comes_first():
    volumes = (
        volume("large", "9Gi"),
        volume("small", "6Gi"),
        volume("too-small", "4Gi"),
        volume("not-looked-at", phase="Pending"),
        volume("released", phase="Released"),
        volume("of-another", claimRef={"namespace": "ns", "name": "d"}),
    )
    assert chosen(claim(), *volumes) == ["small", "large"]


def test_attributes_and_the_class_of_old_days_must_match():
    fast = volume("fast", volumeAttributesClassName="gold")
    assert chosen(claim(), fast, volume("plain")) == ["plain"]
    assert chosen(claim(volumeAttributesClassName="gold"), fast, volume("plain")) == ["fast"]
    old = volume("old", notes={BETA_CLASS: "local"}, storageClassName="other")
    assert chosen(claim(), old) == ["old"]
    assert chosen(claim({BETA_CLASS: "other"}), old, volume("plain")) == []


def test_a_volume_that_was_set_aside_is_the_only_choice_of_the_scheduler():
    aside = volume("aside", "9Gi", phase="Pending", claimRef={"namespace": "ns", "name": "c"})
    assert chosen(claim(), volume("free"), aside) == ["aside"]
    assert chosen(claim(), volume("free"), aside, by_scheduler=False) == ["aside", "free"]
    # Of another class it is the volume controller's business alone.
    aside["spec"]["storageClassName"] = "other"
    assert chosen(claim(), volume("free"), aside) == ["free"]
    assert chosen(claim(), volume("free"), aside, by_scheduler=False) == ["aside", "free"]
    # One that was set aside for a claim of this name that is gone is for nobody.
    other = volume("other", claimRef={"namespace": "ns", "name": "c", "uid": "before"})
    assert chosen(claim(), other) == []


def test_a_claim_is_bound_once_both_its_name_and_the_note_are_there():
    bound = {BIND_COMPLETED: "yes"}
    assert row(claim(bound, "Bound", volumeName="v"), volume("v")).choices is None
    assert not row(claim(bound, "Bound", volumeName="v"), volume("v")).unbound
    assert row(claim(None, "Bound", volumeName="v"), volume("v")).unbound
    assert row(claim(bound, volumeName="v")).gone == "v"
    lost = row(claim(bound, "Lost", deleted=True, volumeName="v"))
    assert lost.problem == 'persistentvolumeclaim "c" bound to non-existent persistentvolume "v"'
    going = row(claim(bound, "Bound", deleted=True, volumeName="v"))
    assert going.problem == 'persistentvolumeclaim "c" is being deleted'
    assert row(claim(storageClassName="none")).unbound


def test_a_claim_that_waits_knows_its_volumes_room_and_node():
    driver = {"metadata": {"name": "csi"}, "spec": {"storageCapacity": True}}
    rooms = [
        {"metadata": {"name": name, "namespace": "x"}, "nodeTopology": {}, **amounts}
        for name, amounts in (
            ("whole", {"storageClassName": "local", "capacity": "20Gi"}),
            (
                "pieces",
                {"storageClassName": "local", "capacity": "9Gi", "maximumVolumeSize": "1Gi"},
            ),
            ("others", {"storageClassName": "other", "capacity": "20Gi"}),
        )
    ]
    found = row(
        claim({SELECTED_NODE: "a"}),
        volume("v", "7Gi"),
        more={CSI_DRIVERS: [driver], CSI_CAPACITIES: rooms},
    )
    assert found.choices == (("v", None),)
    assert found.capacities == (7 * 2**30,)
    assert found.selected == "a"
    assert found.storage_class == "local"
    assert found.provision.room_bytes == (20 * 2**30,)


@pytest.mark.parametrize(
    ("label", "zones"),
    [("a", ("a",)), ("a__b", ("a", "b")), ("a__", None), ("a__ __b", None)],
)
def test_a_zone_label_with_an_empty_part_says_nothing(label, zones):
    bound = claim({BIND_COMPLETED: "yes"}, volumeName="v")
    found = row(bound, volume("v", labels={ZONE: label})).zones
    assert found == ((Requirement(ZONE, "In", zones),) if zones else ())


def test_drivers_of_nodes_and_those_that_must_be_there_are_known():
    node = {"metadata": {"name": "n"}, "spec": {"drivers": [{"name": "csi"}]}}
    driver = {"metadata": {"name": "csi"}, "spec": {"preventPodSchedulingIfMissing": True}}
    view = ClusterView.of({CSI_NODES: [node], CSI_DRIVERS: [driver]})
    assert view.snapshot.csi_drivers == {"n": frozenset({"csi"})}
    assert view.snapshot.needed_drivers == {"csi"}
    view.apply(CSI_DRIVERS, driver, {**driver, "spec": {}})
    view.apply(CSI_NODES, node, None)
    assert (view.snapshot.csi_drivers, view.snapshot.needed_drivers) == ({}, set())


@pytest.mark.parametrize(
    ("sources", "labels", "found"),
    [
        ({"awsElasticBlockStore": {"volumeID": "vol-1"}}, {}, ("ebs.csi.aws.com", "vol-1")),
        ({"awsElasticBlockStore": {"volumeID": "aws://z/vol-1"}}, {}, ("ebs.csi.aws.com", "vol-1")),
        ({"awsElasticBlockStore": {"volumeID": "aws://z/disk-1"}}, {}, None),
        (
            {"gcePersistentDisk": {"pdName": "d"}},
            {},
            ("pd.csi.storage.gke.io", "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d"),
        ),
        (
            {"gcePersistentDisk": {"pdName": "d"}},
            {ZONE: "us-east1-a__us-east1-b"},
            ("pd.csi.storage.gke.io", "projects/UNSPECIFIED/regions/us-east1/disks/d"),
        ),
        ({"gcePersistentDisk": {"pdName": "d"}}, {ZONE: "a__b"}, None),
        ({"azureDisk": {"diskURI": "/x"}}, {}, ("disk.csi.azure.com", "/x")),
        ({"azureDisk": {"diskURI": "/x", "kind": "Dedicated"}}, {}, None),
        ({"cinder": {"volumeID": "1"}}, {}, ("cinder.csi.openstack.org", "1")),
        ({"portworxVolume": {"volumeID": "1"}}, {}, ("pxd.portworx.com", "1")),
        ({"hostPath": {"path": "/x"}}, {}, None),
    ],
)
def test_volumes_described_as_of_old_belong_to_the_drivers_of_today(sources, labels, found):
    assert migrated(sources, labels) == found
    bound = claim({BIND_COMPLETED: "yes"}, volumeName="v")
    have = volume("v", labels=labels, **sources)
    assert row(bound, have).attaches == found


def test_a_class_of_an_old_name_makes_volumes_of_its_driver():
    old = owner("old", provisioner="kubernetes.io/gce-pd")
    found = row(claim(storageClassName="old"), more={STORAGE_CLASSES: [old]})
    assert found.attaches == ("pd.csi.storage.gke.io", "unbound/ns/c")
