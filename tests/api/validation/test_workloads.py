"""Kinds that make pods: how they roll, and that their templates are checked as pods are."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.manifests import decode_yaml
from kubarium.api.validation import validate_create, validate_update

CATALOG = Catalog.builtin()
SELECTOR = "selector: {matchLabels: {a: b}}"


def template(pod: str = "") -> str:
    container = "containers: [{name: c, image: x}]"
    spec = f"{{{container}{pod and ', ' + pod}}}"
    return f"template: {{metadata: {{labels: {{a: b}}}}, spec: {spec}}}"


def build(plural: str, spec: str, name: str = "x") -> dict:
    kind = CATALOG.lookup("apps", "v1", plural)
    document = {
        "metadata": {"name": name, "namespace": "default"},
        "spec": decode_yaml(f"{{{spec}}}")[0],
    }
    assert conform(kind, document) == []
    default(kind, document)
    return document


def complaints(plural: str, spec: str, name: str = "x") -> list[str]:
    kind = CATALOG.lookup("apps", "v1", plural)
    return [str(error) for error in validate_create(kind, build(plural, spec, name))]


@pytest.mark.parametrize("plural", ["deployments", "replicasets", "daemonsets", "statefulsets"])
def test_templates_are_checked_as_pods_are(plural):
    bad = template("volumes: [{name: v, nfs: {server: s, path: a}}], os: {name: dos}")
    assert complaints(plural, f"{SELECTOR}, {bad}") == [
        'spec.template.spec.volumes[0].nfs.path: Invalid value: "a": must be an absolute path',
        'spec.template.spec.os: Unsupported value: "dos": supported values: "linux", "windows"',
    ]


@pytest.mark.parametrize(
    ("plural", "extra", "found"),
    [
        ("deployments", "strategy: {rollingUpdate: {maxSurge: 150%}}", []),
        (
            "deployments",
            "strategy: {rollingUpdate: {maxUnavailable: 150%}}",
            [
                'spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "150%": '
                "must not be greater than 100%"
            ],
        ),
        (
            "daemonsets",
            "updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}",
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: "
                "may not be set when maxUnavailable is non-zero"
            ],
        ),
        (
            "daemonsets",
            "updateStrategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}",
            [
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: "
                "cannot be 0 when maxSurge is 0"
            ],
        ),
        (
            "statefulsets",
            "updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}",
            [
                'spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: '
                "only allowed for updateStrategy 'RollingUpdate'"
            ],
        ),
        (
            "statefulsets",
            "podManagementPolicy: Any",
            [
                'spec.podManagementPolicy: Invalid value: "Any": '
                "must be 'OrderedReady' or 'Parallel'"
            ],
        ),
        (
            "statefulsets",
            "volumeClaimTemplates: [{metadata: {name: v}, "
            "spec: {resources: {requests: {storage: 1}}}}]",
            [
                "spec.volumeClaimTemplates[0].spec.accessModes: Required value: "
                "at least 1 access mode is required"
            ],
        ),
    ],
)
def test_how_they_roll(plural, extra, found):
    assert complaints(plural, f"{SELECTOR}, {template()}, {extra}") == found


def test_names_of_stateful_sets_become_host_names():
    assert complaints("statefulsets", f"{SELECTOR}, {template()}", "a.b") == [
        'metadata.name: Invalid value: "a.b": must not contain dots'
    ]
    assert complaints("statefulsets", f"{SELECTOR}, serviceName: a.b, {template()}") == [
        'spec.serviceName: Invalid value: "a.b": must not contain dots'
    ]


def test_what_never_changes_in_a_stateful_set_is_looked_at_once():
    kind = CATALOG.lookup("apps", "v1", "statefulsets")
    old = build("statefulsets", f"{SELECTOR}, serviceName: a.b, {template()}")
    new = build("statefulsets", f"{SELECTOR}, serviceName: a.b, replicas: 3, {template()}")
    assert validate_update(kind, new, old) == []
