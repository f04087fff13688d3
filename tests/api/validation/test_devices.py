"""What an API server of 1.37 refuses of claims and slices, in its words."""

from __future__ import annotations

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.validation import validate_create, validate_status_update, validate_update

CATALOG = Catalog.builtin()
DRIVER = "d.example.com"
OPAQUE = {"driver": "d.example.com", "parameters": {"a": 1}}


def kind(plural):
    found = CATALOG.lookup("resource.k8s.io", "v1", plural)
    assert found is not None
    return found


def complaints(plural, document):
    return [f"{e.path}: {e.detail}" for e in validate_create(kind(plural), document)]


def claim(*requests, constraints=()):
    return {
        "metadata": {"name": "c", "namespace": "default"},
        "spec": {"devices": {"requests": list(requests), "constraints": list(constraints)}},
    }


def request(name="r", **more):
    exactly = {"deviceClassName": "any", "allocationMode": "ExactCount", "count": 1, **more}
    return {"name": name, "exactly": exactly}


def resource_slice(*devices, **spec):
    pool = {"name": "p", "generation": 1, "resourceSliceCount": 1}
    base = {"driver": DRIVER, "pool": pool, "nodeName": "n", "devices": list(devices)}
    return {"metadata": {"name": "s"}, "spec": {**base, **spec}}


def derived(name="derived/numa", expression="1"):
    return {"derivedAttributes": [{"name": name, "expression": expression}]}


MATCH = {"matchAttribute": "derived/numa"}


def test_derived_attributes_that_a_constraint_uses_are_fine():
    assert complaints("resourceclaims", claim(request(**derived()), constraints=[MATCH])) == []


@pytest.mark.parametrize(
    ("attribute", "constraints", "complaint"),
    [
        (derived(), [], "must be referenced by at least one matchAttribute"),
        (derived(), [{**MATCH, "requests": ["s"]}], "must be referenced by at least one"),
        (derived("numa"), [MATCH], "a fully qualified name must be a domain and a name"),
        (derived(expression="{1: 2}"), [MATCH], "must evaluate to string, int, bool, semver"),
        (derived(expression="device.nope"), [MATCH], "undefined field 'nope'"),
        (derived(expression="1 +"), [MATCH], "compilation failed"),
    ],
)
def test_derived_attributes_that_cannot_work_are_refused(attribute, constraints, complaint):
    document = claim(request(**attribute), request("s"), constraints=constraints)
    found = complaints("resourceclaims", document)
    assert any(complaint in text for text in found), found


def test_costs_of_derived_attributes_count_together():
    inner = "device.attributes.map(b, device.attributes.map(c, c).size()).size()"
    costly = f"device.attributes.map(a, {inner}).size()"
    one = claim(request(**derived(expression=costly)), constraints=[MATCH])
    assert complaints("resourceclaims", one) == []
    many = [request(f"r{i}", **derived(expression=costly)) for i in range(3)]
    found = complaints("resourceclaims", claim(*many, constraints=[MATCH]))
    assert any("total cost of derived attribute CEL expressions" in text for text in found), found


def test_a_selector_that_could_cost_too_much_is_refused_when_written():
    nested = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, " + (
        "device.attributes[a].all(d, device.attributes[b].all(e, true)))))"
    )
    found = complaints(
        "resourceclaims", claim(request(selectors=[{"cel": {"expression": nested}}]))
    )
    assert found == [
        "spec.devices.requests[0].exactly.selectors[0].cel.expression: "
        "too complex, exceeds cost limit"
    ]


PART = {"counterSet": "set", "counters": {"memory": {"value": "1"}}}
CORES = {"cores": {"value": "8"}}


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ({"consumesCounters": [{**PART, "compatibilityGroups": ["a", "b", "c"]}]}, "at most 2"),
        ({"consumesCounters": [{**PART, "compatibilityGroups": ["a", "a"]}]}, "Groups[1]"),
        ({"consumesCounters": [PART, PART, PART]}, "consumesCounters: must have at most 2"),
        ({"consumesCounters": [{**PART, "counters": {}}]}, "consumesCounters[0].counters"),
        ({"capacity": {"m": {"value": "1", "requestPolicy": {}}}}, "allowMultipleAllocations must"),
        ({"nodeName": "n"}, "can only be set if `perDeviceNodeSelection` is set to true"),
        ({"attributes": {"a": {"strings": []}}}, "must not be empty if specified"),
        ({"attributes": {"a": {"ints": list(range(49))}}}, "values must not exceed 48"),
        ({"bindingConditions": ["Ready"]}, "are required to use bindingConditions"),
        ({"nodeAllocatableResources": {"cpu": {}}}, "at least one of mapping or overhead"),
        (
            {"nodeAllocatableResources": {"x/gpu": {"overhead": {"perPod": "1"}}}},
            "must be a node allocatable resource name",
        ),
        (
            {"nodeAllocatableResources": {"cpu": {"mapping": {"capacityKey": "cores"}}}},
            "capacityMultiplier is required when capacityKey is set",
        ),
        (
            {
                "capacity": CORES,
                "nodeAllocatableResources": {
                    "cpu": {"mapping": {"capacityKey": "cores", "capacityMultiplier": "0"}}
                },
            },
            "must be positive",
        ),
    ],
)
def test_devices_that_contradict_themselves_are_refused(device, complaint):
    found = complaints("resourceslices", resource_slice({"name": "d", **device}))
    assert any(complaint in text for text in found), found


def policy(**policy):
    return {
        "name": "d",
        "allowMultipleAllocations": True,
        "capacity": {"memory": {"value": "10", "requestPolicy": policy}},
    }


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"validValues": ["1"]}, "required when validValues is defined"),
        ({"default": "3", "validValues": ["1", "2"]}, "default value is not valid"),
        ({"default": "1", "validValues": ["2", "1"]}, "sorted in ascending order"),
        ({"default": "1", "validValues": ["1", "11"]}, "option is larger than capacity value"),
        ({"default": "1", "validRange": {"min": "2"}}, "default is less than min: 2"),
        ({"default": "1", "validRange": {"min": "1", "max": "12"}}, "max is larger than capacity"),
        (
            {"default": "2", "validRange": {"min": "1", "step": "2"}},
            "value is not a multiple of a given step (2) from (1)",
        ),
        (
            {"default": "1", "validRange": {"min": "1", "step": "1m"}, "validValues": ["1"]},
            "exactly one policy can be specified",
        ),
        (
            {"default": "1", "validRange": {"min": "1", "step": "1u"}},
            "value cannot be represented as a milli value",
        ),
    ],
)
def test_request_policies_that_nobody_can_satisfy_are_refused(given, complaint):
    found = complaints("resourceslices", resource_slice(policy(**given)))
    assert any(complaint in text for text in found), found


def test_fractional_ranges_are_fine():
    span = {"min": "100m", "max": "2500m", "step": "100m"}
    good = policy(default="500m", validRange=span)
    assert complaints("resourceslices", resource_slice(good)) == []


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"skipNodeOperations": ["NodePrepareResources"]}, "cannot be skipped unless"),
        ({"skipNodeOperations": ["Sleep"]}, "supported values"),
        ({"partitionTypeAttribute": f"{DRIVER}/profile"}, "devices that consume counters"),
        ({"nodeName": None, "allNodes": False}, "must be either unset or set to true"),
    ],
)
def test_slices_that_contradict_themselves_are_refused(spec, complaint):
    found = complaints("resourceslices", resource_slice({"name": "d"}, **spec))
    assert any(complaint in text for text in found), found


def test_every_partition_names_its_type():
    named = {"name": "a", "consumesCounters": [PART], "attributes": {"profile": {"string": "x"}}}
    spec = {"partitionTypeAttribute": f"{DRIVER}/profile"}
    assert complaints("resourceslices", resource_slice(named, **spec)) == []
    bare = {"name": "b", "consumesCounters": [PART]}
    found = complaints("resourceslices", resource_slice(named, bare, {"name": "c"}, **spec))
    assert len(found) == 1
    assert "device consumes counters and `partitionTypeAttribute` names" in found[0]


def test_only_devices_of_the_claim_have_a_status():
    old = claim(request())
    result = {"request": "r", "driver": DRIVER, "pool": "p", "device": "d"}
    status = {"allocation": {"devices": {"results": [result]}}}
    other = {"driver": DRIVER, "pool": "p", "device": "e"}
    new = {**old, "status": {**status, "devices": [other]}}
    found = validate_status_update(kind("resourceclaims"), new, {**old, "status": status})
    assert [e.detail for e in found] == ["must be an allocated device in the claim"]


READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Up",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


def device_status_complaints(*reports):
    old = claim(request())
    result = {"request": "r", "driver": DRIVER, "pool": "p", "device": "d"}
    status = {"allocation": {"devices": {"results": [result]}}}
    of_device = {"driver": DRIVER, "pool": "p", "device": "d"}
    new = {**old, "status": {**status, "devices": [of_device | report for report in reports]}}
    found = validate_status_update(kind("resourceclaims"), new, {**old, "status": status})
    return [f"{e.path}: {e.kind} {e.detail}" for e in found]


def test_what_drivers_report_of_devices_may_be_full():
    network = {"interfaceName": "eth1", "ips": ["10.0.0.7/24", "2001:db8::1/64"]}
    network["hardwareAddress"] = "ea:9f:cb:40:b7:7b"
    full = {"conditions": [READY], "data": {"vendor": 1}, "networkData": network}
    assert device_status_complaints(full) == []


@pytest.mark.parametrize(
    ("report", "where", "words"),
    [
        ({"conditions": [READY | {"status": "Maybe"}]}, "conditions[0].status", '"Unknown"'),
        ({"conditions": [READY | {"reason": ""}]}, "conditions[0].reason", "must be set"),
        ({"conditions": [READY | {"reason": "not so"}]}, "conditions[0].reason", "alphabetic"),
        ({"conditions": [READY | {"type": "a b"}]}, "conditions[0].type", "alphanumeric"),
        ({"conditions": [READY, READY]}, "conditions[1].type", "Duplicate"),
        (
            {"conditions": [READY | {"lastTransitionTime": None}]},
            "conditions[0].lastTransitionTime",
            "must be set",
        ),
        ({"networkData": {"ips": ["10.0.0.1"]}}, "networkData.ips[0]", "in CIDR form"),
        ({"networkData": {"ips": ["10.0.0.1/255.0.0.0"]}}, "networkData.ips[0]", "in CIDR form"),
        (
            {"networkData": {"ips": ["2001:DB8:0::1/64"]}},
            "networkData.ips[0]",
            'must be in canonical form ("2001:db8::1/64")',
        ),
        (
            {"networkData": {"ips": ["::ffff:10.0.0.1/104"]}},
            "networkData.ips[0]",
            'must be in canonical form ("10.0.0.1/104")',
        ),
        ({"conditions": [READY | {"reason": "r" * 1025}]}, "conditions[0].reason", "1024 bytes"),
        ({"conditions": [READY | {"message": "m" * 32769}]}, "conditions[0].message", "32768"),
        ({"networkData": {"ips": ["10.0.0.1/24"] * 2}}, "networkData.ips[1]", "Duplicate"),
        ({"networkData": {"ips": ["10.0.0.1/24"] * 17}}, "networkData.ips", "at most 16"),
        ({"networkData": {"interfaceName": "e" * 257}}, "networkData.interfaceName", "256"),
        ({"data": [1]}, "data", "valid JSON object"),
        ({"data": {"a": "x" * 10_240}}, "data", "10240"),
    ],
)
def test_what_is_wrong_with_a_drivers_report_is_named(report, where, words):
    found = device_status_complaints(report)
    assert any(f"devices[0].{where}: " in text and words in text for text in found), found


def test_answers_and_taint_rules_say_what_can_be():
    request = CATALOG.lookup("resource.k8s.io", "v1alpha3", "resourcepoolstatusrequests")
    asked = {"metadata": {"name": "r"}, "spec": {"driver": DRIVER}}
    pool = {"driver": "-", "poolName": "_", "nodeName": "", "generation": -1, "totalDevices": -2}
    conditions = [READY | {"type": f"t{i}"} for i in range(11)]
    status = {"poolCount": 1, "pools": [pool], "conditions": conditions}
    found = validate_status_update(request, {**asked, "status": status}, asked)
    assert {e.path for e in found} == {
        *(f"status.pools[0].{field}" for field in pool),
        "status.conditions",
    }
    rule = kind("devicetaintrules")
    taint = {"key": "k", "effect": "NoSchedule"}
    bare = {"metadata": {"name": "r"}, "spec": {"taint": taint}}
    full = {**bare, "status": {"conditions": [*conditions[:8], READY | {"reason": "1"}]}}
    found = validate_status_update(rule, full, bare)
    assert [e.path for e in found] == ["status.conditions", "status.conditions[8].reason"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"operator": "Gt", "value": "5"}, 'supported values: "Equal", "Exists"'),
        ({"operator": "Exists", "effect": "None"}, ""),
        ({"operator": "Exists", "effect": "PreferNoSchedule"}, "supported values"),
        ({"operator": "Exists", "value": "v"}, "must be empty for operator `Exists`"),
    ],
)
def test_tolerations_of_devices(fields, words):
    found = complaints("resourceclaims", claim(request(tolerations=[{"key": "k", **fields}])))
    assert bool(found) == bool(words), found
    assert all(words in text for text in found), found


def test_a_drivers_own_parameters_are_bounded():
    wanted = claim(request())
    opaque = {"driver": DRIVER, "parameters": {"a": "x" * 10_240}}
    wanted["spec"]["devices"]["config"] = [{"opaque": opaque}]
    [found] = complaints("resourceclaims", wanted)
    assert "config[0].opaque.parameters" in found
    assert "10240 bytes" in found


def test_a_device_is_reported_of_once():
    assert any(
        text.startswith("status.devices[1]: Dup") for text in device_status_complaints({}, {})
    )


def test_requests_for_the_status_of_pools_and_taint_rules_name_what_can_exist():
    request = CATALOG.lookup("resource.k8s.io", "v1alpha3", "resourcepoolstatusrequests")
    spec = {
        "driver": DRIVER,
        "poolName": "a/b_",
        "limit": 1001,
        "defaultPartitionTypeAttribute": "profile",
    }
    found = validate_create(request, {"metadata": {"name": "r"}, "spec": spec})
    assert [e.path for e in found] == [
        "spec.poolName",
        "spec.limit",
        "spec.defaultPartitionTypeAttribute",
    ]
    answered = {"metadata": {"name": "r"}, "spec": {"driver": DRIVER}, "status": {"poolCount": 1}}
    again = {**answered, "status": {"poolCount": 2}}
    assert [e.detail for e in validate_status_update(request, again, answered)] == [
        "field is immutable"
    ]
    rule = {
        "metadata": {"name": "r"},
        "spec": {
            "deviceSelector": {"driver": "-", "pool": "_", "device": "a.b"},
            "taint": {"key": "k", "effect": "NoSchedule"},
        },
    }
    found = [e.path for e in validate_create(kind("devicetaintrules"), rule)]
    assert found == [f"spec.deviceSelector.{field}" for field in ("driver", "pool", "device")]


def device(**more):
    return {"name": "g0", **more}


@pytest.mark.parametrize(
    ("plural", "document", "complaint"),
    [
        ("resourceslices", resource_slice(nodeName="", allNodes=True), "nodeName: must be either"),
        ("resourceslices", resource_slice(nodeName="Not A Node"), "nodeName: a lowercase RFC 1123"),
        (
            "resourceslices",
            resource_slice(
                device(nodeName="", allNodes=True), nodeName=None, perDeviceNodeSelection=True
            ),
            "devices[0].nodeName: must not be empty",
        ),
        (
            "resourceslices",
            resource_slice(
                device(nodeName="n", allNodes=False), nodeName=None, perDeviceNodeSelection=True
            ),
            "devices[0].allNodes: must be either unset or set to true",
        ),
        *(
            (
                "resourceslices",
                resource_slice(device(attributes={"v": {"version": version}})),
                "must be a string compatible with semver.org spec 2.0.0",
            )
            for version in ("1.0.0-01", "1.0.0-a..b", "1.0.0-", "1.0.0+", "1.0", "v1.0.0")
        ),
        (
            "deviceclasses",
            {"metadata": {"name": "c"}, "spec": {"extendedResourceName": "kubernetes.io/gpu"}},
            'extendedResourceName: must not have "kubernetes.io/" domain',
        ),
        (
            "deviceclasses",
            {"metadata": {"name": "c"}, "spec": {"extendedResourceName": "requests.a.io/gpu"}},
            'extendedResourceName: must not have "requests." prefix',
        ),
        (
            "deviceclasses",
            {"metadata": {"name": "c"}, "spec": {"extendedResourceName": ""}},
            "extendedResourceName: a name must be a domain-prefixed path",
        ),
        (
            "resourceclaims",
            claim(request(capacity={"requests": {"memory": "-1"}})),
            "capacity.requests[memory]: must be greater than or equal to 0",
        ),
    ],
)
def test_what_upstream_refuses_is_refused(plural, document, complaint):
    found = complaints(plural, document)
    assert any(complaint in text for text in found), found


@pytest.mark.parametrize(
    "document",
    [
        claim(request(tolerations=[{"operator": "Equal", "value": "v"}])),
        claim(request(tolerations=[{"operator": "Exists", "effect": "None"}])),
    ],
)
def test_what_upstream_takes_is_taken(document):
    assert complaints("resourceclaims", document) == []


def test_versions_with_pre_releases_and_builds_are_fine():
    versions = ["1.0.0-alpha.1+b.01", "1.0.0-0.3.7", "1.0.0--", "10.20.30"]
    attributes = {f"v{i}": {"version": v} for i, v in enumerate(versions)}
    assert complaints("resourceslices", resource_slice(device(attributes=attributes))) == []


def ranged(**policy):
    span = {"default": "2", "validRange": {"min": "1", "max": "8", "step": "1"}}
    entry = {"value": "1e30", "requestPolicy": {**span, **policy}}
    return resource_slice(device(allowMultipleAllocations=True, capacity={"m": entry}))


def test_ranges_of_whole_numbers_stay_within_64_bits():
    assert complaints("resourceslices", ranged()) == []
    huge = complaints("resourceslices", ranged(validRange={"min": "1", "max": "1e25", "step": "1"}))
    assert huge == [
        "spec.devices[0].capacity[m].requestPolicy.validRange.max: "
        "must not be larger than 9223372036854775807"
    ]
    low = complaints("resourceslices", ranged(validRange={"min": "-1", "step": "1"}))
    assert [text.rpartition(": ")[2] for text in low] == ["must be greater than or equal to 0"]


def changed(status, before=None, **metadata):
    document = claim(request())
    document["metadata"] |= metadata
    new, old = ({**document, "status": s} for s in (status, before or {}))
    errors = validate_status_update(kind("resourceclaims"), new, old)
    return [f"{e.path}: {e.detail}" for e in errors]


def allocated(*results, **more):
    found = [{"request": "r", "driver": DRIVER, "pool": "p", "device": "g0"} | r for r in results]
    return {"devices": {"results": found, **more.pop("devices", {})}, **more}


POD = {"resource": "pods", "name": "p", "uid": "u1"}


def test_nobody_joins_a_claim_that_is_being_deleted():
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}
    held = {"allocation": allocated({}), "reservedFor": [POD, {**POD, "uid": "u2"}]}
    more = {**held, "reservedFor": [*held["reservedFor"], {**POD, "uid": "u3"}]}
    fewer = {**held, "reservedFor": held["reservedFor"][:1]}
    assert changed(more, held) == []
    assert changed(fewer, held, **gone) == []
    [text] = changed(more, held, **gone)
    assert text.startswith("status.reservedFor: new entries may not be added while")


@pytest.mark.parametrize(
    ("allocation", "complaint"),
    [
        (allocated({"device": "Not A Label"}), "results[0].device: a lowercase RFC 1123 label"),
        (allocated({"driver": "-"}), "results[0].driver: a lowercase RFC 1123 subdomain"),
        (allocated({"pool": "a//b"}), "results[0].pool: a lowercase RFC 1123 subdomain"),
        (
            allocated(devices={"config": [{"source": "Elsewhere", "opaque": OPAQUE}]}),
            'config[0].source: supported values: "FromClaim", "FromClass"',
        ),
        (
            allocated(devices={"config": [{"source": "FromClass", "requests": ["other"]}]}),
            "config[0].requests[0]: must be the name of a request",
        ),
        (
            allocated(devices={"config": [{"source": "FromClass"}]}),
            "config[0].opaque: ",
        ),
        (
            allocated(nodeSelector={"nodeSelectorTerms": []}),
            "nodeSelector.nodeSelectorTerms: must have at least one node selector term",
        ),
    ],
)
def test_a_new_allocation_is_checked_throughout(allocation, complaint):
    found = changed({"allocation": allocation})
    assert any(complaint in text for text in found), found
    kept = {"allocation": allocation}
    assert changed({**kept, "reservedFor": [POD]}, kept) == [], "one that is stored already is not"


def test_selectors_that_stay_are_not_judged_by_newer_rules():
    def device_class(expression, **labels):
        selectors = [{"cel": {"expression": expression}}]
        return {"metadata": {"name": "c", "labels": labels}, "spec": {"selectors": selectors}}

    old = device_class("no.longer.known")
    new = {**old, "spec": {**old["spec"], "extendedResourceName": "example.com/gpu"}}
    assert validate_update(kind("deviceclasses"), new, old) == []
    other = device_class("no.longer.known.either")
    assert validate_update(kind("deviceclasses"), other, old) != []


def template(**metadata):
    return {
        "metadata": {"name": "t", "namespace": "default"},
        "spec": {"metadata": metadata, "spec": claim(request())["spec"]},
    }


def opaque(**configuration):
    document = claim(request())
    document["spec"]["devices"]["config"] = [{"opaque": configuration}]
    return document


@pytest.mark.parametrize(
    ("plural", "document", "complaint"),
    [
        ("resourceclaimtemplates", template(labels={"a b": "c"}), "spec.metadata.labels: name"),
        ("resourceclaimtemplates", template(labels={"a": "b c"}), "spec.metadata.labels: a valid"),
        ("resourceclaimtemplates", template(annotations={"": "b"}), "spec.metadata.annotations: "),
        ("resourceclaims", opaque(driver=DRIVER), "config[0].opaque.parameters: "),
        (
            "resourceclaims",
            opaque(driver=DRIVER, parameters=[1]),
            "config[0].opaque.parameters: must be a valid JSON object",
        ),
        ("resourceclaims", claim(request(), request()), "spec.devices.requests[1]: "),
        ("resourceclaims", claim(request("")), "requests[0].name: a lowercase RFC 1123 label"),
        (
            "resourceclaims",
            claim(request(), constraints=[{"matchAttribute": ""}]),
            "constraints[0].matchAttribute: a fully qualified name must be",
        ),
        (
            "resourceclaims",
            claim(request(), constraints=[{"matchAttribute": "a.b/c", "requests": ["R_"]}]),
            "constraints[0].requests[0]: a lowercase RFC 1123 label",
        ),
        (
            "resourceslices",
            resource_slice({"name": "a", "attributes": {"a": {}}}),
            "attributes[a]: must specify one of: `int`, `bool`",
        ),
        (
            "resourceslices",
            resource_slice({"name": "a", "attributes": {"a b": {"int": 1}}}),
            "spec.devices[0].attributes: a valid C identifier",
        ),
        (
            "resourceslices",
            resource_slice({"name": "a", "taints": [{"effect": "NoSchedule"}]}),
            "taints[0].key: name part must be non-empty",
        ),
        (
            "resourceslices",
            resource_slice({"name": "a", "taints": [{"key": "k", "effect": "No"}]}),
            'taints[0].effect: supported values: "NoExecute", "NoSchedule", "None"',
        ),
    ],
)
def test_more_that_upstream_refuses_is_refused(plural, document, complaint):
    found = complaints(plural, document)
    assert any(complaint in text for text in found), found


@pytest.mark.parametrize(
    ("plural", "document"),
    [
        ("resourceslices", resource_slice(driver="GPU.example.com")),
        ("resourceslices", resource_slice({"name": "a", "attributes": {"a/b/c": {"int": 1}}})),
        ("resourceclaims", claim(request(), constraints=[{"matchAttribute": "a/b/c"}])),
        (
            "resourceslices",
            resource_slice({"name": "a", "consumesCounters": [{**PART, "counters": {"m": {}}}]}),
        ),
    ],
)
def test_odd_names_and_empty_counters_are_taken(plural, document):
    assert complaints(plural, document) == []
