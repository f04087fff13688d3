"""Services, quotas, limits, nodes, namespaces, secrets: one bad object for each rule."""

import base64

import pytest

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.manifests import decode_yaml
from kubarium.api.validation import validate_create, validate_status_update, validate_update

CATALOG = Catalog.builtin()


def kind_of(plural: str) -> Kind:
    return CATALOG.lookup("", "v1", plural)


def build(plural: str, text: str, **metadata) -> dict:
    kind = kind_of(plural)
    document = {**decode_yaml(text)[0], "metadata": {"name": "x", **metadata}}
    if kind.namespaced:
        document["metadata"]["namespace"] = "default"
    assert conform(kind, document) == []
    default(kind, document)
    return document


def texts(errors) -> list[str]:
    return [str(error) for error in errors]


def complaints(plural: str, text: str, **metadata) -> list[str]:
    return texts(validate_create(kind_of(plural), build(plural, text, **metadata)))


def changes(plural: str, before: str, after: str) -> list[str]:
    return texts(validate_update(kind_of(plural), build(plural, after), build(plural, before)))


PORTS = "ports: [{port: 1}]"
IP = "clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]"


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (
            "clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]",
            ['spec.clusterIPs: Invalid value: ["10.0.0.2"]: first value must match `clusterIP`'],
        ),
        (
            "clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 10.0.0.2]",
            [
                'spec.clusterIPs: Invalid value: ["10.0.0.1","10.0.0.2"]: '
                "may specify no more than one IP for each IP family"
            ],
        ),
        (
            f"{IP}, ipFamilies: [IPv6]",
            [
                'spec.clusterIPs[0]: Invalid value: "10.0.0.1": '
                "expected an IPv6 value as indicated by `ipFamilies[0]`"
            ],
        ),
        (
            "ipFamilies: [IPv4, IPv4]",
            ['spec.ipFamilies[1]: Duplicate value: "IPv4"'],
        ),
        (
            "externalIPs: [127.0.0.1]",
            [
                'spec.externalIPs[0]: Invalid value: "127.0.0.1": '
                "may not be in the loopback range (127.0.0.0/8, ::1/128)"
            ],
        ),
        (
            "loadBalancerClass: a",
            ["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
        ),
        (
            "type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.1/8]",
            [
                'spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.1/8": '
                "must not have bits set beyond the prefix length"
            ],
        ),
        (
            "externalTrafficPolicy: Local",
            [
                'spec.externalTrafficPolicy: Invalid value: "Local": '
                "may only be set for externally-accessible services"
            ],
        ),
        (
            "healthCheckNodePort: 30000",
            [
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is "
                "'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            ],
        ),
        (
            "trafficDistribution: Near",
            [
                'spec.trafficDistribution: Unsupported value: "Near": '
                'supported values: "PreferClose", "PreferSameZone", "PreferSameNode"'
            ],
        ),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
            [
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: "
                "must be greater than 0 and less than 86400"
            ],
        ),
    ],
)
def test_services(spec, found):
    assert complaints("services", f"{{spec: {{{PORTS}, {spec}}}}}") == found


def test_ports_of_services_are_unique_by_number_and_by_node_port():
    ports = "[{name: a, port: 1, nodePort: 30000}, {name: b, port: 2, nodePort: 30000}]"
    assert complaints("services", f"{{spec: {{type: NodePort, ports: {ports}}}}}") == [
        "spec.ports[1].nodePort: Duplicate value: 30000"
    ]


def test_families_and_classes_of_services_are_set_once():
    was = f"{{spec: {{{PORTS}, {IP}, ipFamilies: [IPv4]}}}}"
    new = f"{{spec: {{{PORTS}, {IP}, ipFamilies: [IPv6]}}}}"
    assert 'spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set' in changes(
        "services", was, new
    )
    was, new = (
        f"{{spec: {{{PORTS}, {IP}, type: LoadBalancer, loadBalancerClass: {name}}}}}"
        for name in "ab"
    )
    assert changes("services", was, new) == [
        'spec.loadBalancerClass: Invalid value: "b": may not change once set'
    ]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (
            "hard: {foo: 1}",
            [
                "must be a standard resource type or fully qualified",
                "must be a standard resource for quota",
            ],
        ),
        ("hard: {pods: 500m}", ["must be an integer"]),
        ("hard: {services: 1}, scopes: [BestEffort]", ["unsupported scope applied to resource"]),
        ("scopes: [Other]", ["unsupported scope"]),
        ("scopes: [Terminating, NotTerminating]", ["conflicting scopes"]),
        (
            "scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}]}",
            ["must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"],
        ),
        (
            "scopeSelector: {matchExpressions: "
            "[{scopeName: PriorityClass, operator: Exists, values: [a]}]}",
            ["must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"],
        ),
    ],
)
def test_quotas(spec, found):
    said = complaints("resourcequotas", f"{{spec: {{{spec}}}}}")
    assert [text.rpartition(": ")[2] for text in said] == found


def test_scopes_of_quotas_stay():
    was, new = (f"{{spec: {{scopes: [{scope}]}}}}" for scope in ("BestEffort", "NotBestEffort"))
    assert changes("resourcequotas", was, new) == [
        'spec.scopes: Invalid value: ["NotBestEffort"]: field is immutable'
    ]


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("type: Thing", ["must be a standard limit type or fully qualified"]),
        ("type: example.com/thing, max: {storage: 1}", []),
        ("type: Container, max: {storage: 1}", ["must be a standard resource for containers"] * 3),
        ("type: Pod, default: {cpu: 1}", ["may not be specified when `type` is 'Pod'"]),
        (
            "type: PersistentVolumeClaim",
            ["either minimum or maximum storage value is required, but neither was provided"],
        ),
        (
            "type: Pod, maxLimitRequestRatio: {cpu: 500m}",
            ["ratio 500m is less than 1"],
        ),
        (
            "type: Pod, min: {cpu: 1}, max: {cpu: 2}, maxLimitRequestRatio: {cpu: 3}",
            ["ratio 3 is greater than max/min = 2.000000"],
        ),
    ],
)
def test_limits(limit, found):
    said = complaints("limitranges", f"{{spec: {{limits: [{{{limit}}}]}}}}")
    assert [text.rpartition(": ")[2] for text in said] == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "{spec: {taints: [{key: a}]}}",
            ["metadata.taints[0].effect: Required value"],
        ),
        (
            "{spec: {taints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute}]}}",
            [
                'metadata.taints[1]: Duplicate value: {"key":"a","effect":"NoExecute"}: '
                "taints must be unique by key and effect pair"
            ],
        ),
        (
            "{spec: {podCIDRs: [10.0.0.0/24, 10.1.0.0/24]}}",
            [
                'spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.1.0.0/24"]: '
                "may specify no more than one CIDR for each IP family"
            ],
        ),
        (
            "{status: {capacity: {nvidia.com/gpu: 500m}, allocatable: {nvidia.com/gpu: 0}}}",
            ['status.capacity.nvidia.com/gpu: Invalid value: "500m": must be an integer'],
        ),
        (
            "{status: {declaredFeatures: [B, A]}}",
            ['status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically'],
        ),
    ],
)
def test_nodes(text, found):
    assert complaints("nodes", text) == found


def test_networks_of_nodes_stay_in_whichever_field_they_are():
    was = "{spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24]}}"
    assert changes("nodes", was, "{spec: {podCIDRs: [10.0.0.0/24]}}") == []
    assert changes("nodes", was, "{spec: {podCIDR: 10.1.0.0/24}}") == [
        'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'
    ]


def test_addresses_of_nodes_are_told_once():
    twice = "{status: {addresses: [{type: Hostname, address: a}, {type: Hostname, address: a}]}}"
    kind = kind_of("nodes")
    found = validate_status_update(kind, build("nodes", twice), build("nodes", "{}"))
    assert [error.path for error in found] == ["status.addresses[1]"]


def test_namespaces_have_finalizers_of_their_own():
    assert complaints("namespaces", "{spec: {finalizers: [mine]}}") == [
        'spec.finalizers: Invalid value: "mine": '
        "name is neither a standard finalizer name nor is it fully qualified"
    ]


def test_the_phase_of_a_namespace_follows_from_its_deletion():
    kind = kind_of("namespaces")
    gone = build("namespaces", "{status: {phase: Terminating}}")
    assert texts(validate_status_update(kind, gone, build("namespaces", "{}"))) == [
        'status.Phase: Invalid value: "Terminating": '
        "may only be 'Active' if `deletionTimestamp` is empty"
    ]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("type_", "data", "found"),
    [
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": encoded("{}")}, []),
        (
            "kubernetes.io/dockerconfigjson",
            {".dockerconfigjson": encoded("x")},
            [
                'data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": '
                "must be valid JSON"
            ],
        ),
        (
            "kubernetes.io/ssh-auth",
            {"ssh-privatekey": ""},
            ["data[ssh-privatekey]: Required value"],
        ),
        (
            "kubernetes.io/basic-auth",
            {},
            ["data[username]: Required value", "data[password]: Required value"],
        ),
    ],
)
def test_secrets_hold_what_their_type_promises(type_, data, found):
    document = {"metadata": {"name": "x", "namespace": "default"}, "type": type_, "data": data}
    assert texts(validate_create(kind_of("secrets"), document)) == found


def test_owners_are_named_in_full():
    owner = {"apiVersion": "v1", "kind": "", "name": "a", "uid": "u"}
    assert complaints("configmaps", "{}", ownerReferences=[owner]) == [
        'metadata.ownerReferences.kind: Invalid value: "": must not be empty'
    ]
