"""Claims and volumes: on creation, and what may change afterwards."""

import pytest

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.manifests import decode_yaml
from kubarium.api.validation import validate_create, validate_status_update, validate_update

CATALOG = Catalog.builtin()
CLAIMS = CATALOG.lookup("", "v1", "persistentvolumeclaims")
VOLUMES = CATALOG.lookup("", "v1", "persistentvolumes")


def build(kind: Kind, spec: str, **parts) -> dict:
    document = {"metadata": {"name": "x"}, "spec": decode_yaml(spec)[0], **parts}
    if kind.namespaced:
        document["metadata"]["namespace"] = "default"
    assert conform(kind, document) == []
    default(kind, document)
    return document


def claim(extra: str = "", size: str = "2Gi", **status) -> dict:
    size_text = f"resources: {{requests: {{storage: {size}}}}}"
    spec = f"{{accessModes: [ReadWriteOnce], {size_text}{extra and ', ' + extra}}}"
    return build(CLAIMS, spec, status=status)


def volume(extra: str) -> dict:
    return build(VOLUMES, f"{{accessModes: [ReadWriteOnce], capacity: {{storage: 1}}, {extra}}}")


def texts(errors) -> list[str]:
    return [str(error) for error in errors]


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (
            "dataSource: {kind: Pod, name: x}",
            'spec.dataSource: Invalid value: "Pod": '
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        ),
        (
            "dataSource: {kind: PersistentVolumeClaim, name: x}, "
            "dataSourceRef: {kind: PersistentVolumeClaim, name: y}",
            'spec: Invalid value: "spec.dataSource": must match dataSourceRef',
        ),
        (
            "volumeMode: Files",
            'spec.volumeMode: Unsupported value: "Files": supported values: "Block", "Filesystem"',
        ),
        (
            "selector: {matchExpressions: [{key: a, operator: In}]}",
            "spec.selector.matchExpressions[0].values: Required value: "
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
    ],
)
def test_claims(extra, found):
    assert texts(validate_create(CLAIMS, claim(extra))) == [found]


def test_a_bound_claim_may_grow_and_take_a_wish_back():
    grown = claim(size="3Gi", phase="Bound", capacity={"storage": "1Gi"})
    was = claim(phase="Bound", capacity={"storage": "1Gi"})
    assert validate_update(CLAIMS, grown, was) == []
    assert validate_update(CLAIMS, was, grown) == []
    smaller = claim(size="1Gi", phase="Bound", capacity={"storage": "1Gi"})
    assert texts(validate_update(CLAIMS, smaller, was)) == [
        "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
    ]


def test_a_claim_that_is_not_bound_stays_but_for_its_volume_and_class():
    assert validate_update(CLAIMS, claim("volumeName: v, storageClassName: s"), claim()) == []
    for extra in ("volumeAttributesClassName: a", "selector: {}"):
        found = texts(validate_update(CLAIMS, claim(extra), claim()))
        assert len(found) == 1
        assert found[0].startswith("spec: Forbidden: spec is immutable after creation except")
    found = texts(validate_update(CLAIMS, claim(size="3Gi"), claim()))
    assert found[0].endswith("(changed: resources)")


def test_how_far_a_claim_has_grown_is_told_in_known_words():
    told = claim(allocatedResourceStatuses={"storage": "Growing"})
    assert texts(validate_status_update(CLAIMS, told, claim())) == [
        'status.allocatedResourceStatuses: Unsupported value: "storage": supported values: '
        '"ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", '
        '"NodeResizeInfeasible", "NodeResizePending"'
    ]


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (
            "persistentVolumeReclaimPolicy: Retain",
            "spec: Required value: must specify a volume type",
        ),
        (
            "hostPath: {path: /a}, nfs: {server: s, path: /b}",
            "spec.nfs: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "local: {path: /a}",
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        ),
        (
            "hostPath: {path: //}, persistentVolumeReclaimPolicy: Recycle",
            "spec.persistentVolumeReclaimPolicy: Forbidden: "
            "may not be 'recycle' for a hostPath mount of '/'",
        ),
        ("csi: {driver: d, volumeHandle: ''}", "spec.csi.volumeHandle: Required value"),
        (
            "csi: {driver: d, volumeHandle: h, nodePublishSecretRef: {name: a}}",
            "spec.csi.nodePublishSecretRef.namespace: Required value",
        ),
        (
            "hostPath: {path: /a}, volumeAttributesClassName: a",
            "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
        ),
        (
            "hostPath: {path: /a}, nodeAffinity: {}",
            "spec.nodeAffinity.required: Required value: must specify required node constraints",
        ),
        (
            "hostPath: {path: /a}, volumeMode: ''",
            'spec.volumeMode: Unsupported value: "": supported values: "Block", "Filesystem"',
        ),
    ],
)
def test_volumes(extra, found):
    assert texts(validate_create(VOLUMES, volume(extra))) == [found]


def test_a_volume_holds_storage_and_nothing_else():
    document = build(
        VOLUMES,
        "{accessModes: [ReadWriteOnce], capacity: {storage: 1, cpu: 1}, hostPath: {path: /a}}",
    )
    assert texts(validate_create(VOLUMES, document)) == [
        'spec.capacity: Unsupported value: {"storage":"1","cpu":"1"}: supported values: "storage"'
    ]


def test_what_a_volume_is_made_of_stays():
    was = volume("csi: {driver: d, volumeHandle: h}")
    found = texts(validate_update(VOLUMES, volume("csi: {driver: d, volumeHandle: i}"), was))
    assert found == [
        "spec.persistentvolumesource: Forbidden: "
        "spec.persistentvolumesource is immutable after creation"
    ]
    secret = "controllerExpandSecretRef: {name: a, namespace: b}"
    same = volume(f"csi: {{driver: d, volumeHandle: h, readOnly: false, {secret}}}")
    assert validate_update(VOLUMES, same, was) == []


def affinity(key: str) -> str:
    return (
        "hostPath: {path: /a}, nodeAffinity: {required: {nodeSelectorTerms: "
        f"[{{matchExpressions: [{{key: {key}, operator: Exists}}]}}]}}}}"
    )


def test_the_nodes_of_a_volume_stay_though_their_labels_may_get_stable_names():
    was = volume(affinity("failure-domain.beta.kubernetes.io/zone"))
    stable = volume(affinity("topology.kubernetes.io/zone"))
    assert validate_update(VOLUMES, stable, was) == []
    assert len(validate_update(VOLUMES, was, stable)) == 1
