"""Objects at the edges of what the API takes, and beyond: what a scheduler's inputs may look like.

``Oddities`` changes sound documents in random places, guided by the kinds' schemas: each new value
fits its field's type and name (so that objects refer to each other), and lies at an edge of it.
"""

from __future__ import annotations

import copy

from kubarium.api.catalog import Catalog

CANARY = "canary"
DRIVERS = ["gpu.example.com", "d.example.com"]
NODES = ["n-0", "n-1", "odd", "bare", "gone"]
NAMES = ["a", "b", "c"]

# By the name of the field: what makes objects refer to each other.
WORDS = {
    "driver": DRIVERS,
    "pool": ["p", "n-0", "q"],
    "device": ["d0", "d1", "gpu-0"],
    "nodeName": NODES,
    "deviceClassName": ["any", "picky", "gpu.example.com", "missing"],
    "resourceClaimName": [*NAMES, "missing"],
    "resourceClaimTemplateName": ["t", "missing"],
    "podGroupName": [*NAMES, "missing"],
    "parentCompositePodGroupName": [*NAMES, "missing"],
    "priorityClassName": ["high", "low", "system-node-critical", "missing"],
    "storageClassName": ["s", "late", "", "missing"],
    "claimName": [*NAMES, "missing"],
    "volumeName": ["v", "missing"],
    "schedulerName": ["default-scheduler", "nobody"],
    "topologyKey": ["kubernetes.io/hostname", "zone", "absent", ""],
    "counterSet": ["c0", "c1"],
    "matchAttribute": ["gpu.example.com/x", "d.example.com/x", "d.example.com/v", "dra.net/absent"],
    "distinctAttribute": ["d.example.com/x", "d.example.com/v"],
    "partitionTypeAttribute": ["d.example.com/x", ""],
    "extendedResourceName": ["example.com/gpu", "example.com/other"],
    "key": ["zone", "kubernetes.io/hostname", "metadata.name", "k", ""],
    "capacityKey": ["m", "d.example.com/m"],
    "request": ["r0", "r1", "r0/s", "container-0-request-0"],
    "name": [*NAMES, "d0", "d1", "c0", "r0", "r1", "main", "cpu", "example.com/gpu", "x" * 63],
    "image": ["busybox", "", "registry.example/a@sha256:0"],
    "namespace": ["default", "other", "missing"],
    "phase": ["Pending", "Running", "Succeeded", "Failed", "Unknown", "Exploded"],
    "operator": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Equal", "Like"],
    "effect": ["NoSchedule", "NoExecute", "PreferNoSchedule", "None", "Other", ""],
    "apiGroup": ["", "resource.k8s.io", "other.example.com"],
    "resource": ["pods", "podgroups", "things"],
    "uid": ["", "u", "00000000-0000-0000-0000-000000000000"],
    "type": ["Ready", "PodScheduled", "DisruptionTarget", "PodResizePending", "Complete", ""],
    "status": ["True", "False", "Unknown", ""],
    "allocationMode": ["ExactCount", "All", "Some"],
    "version": ["1.2.3", "1.0.0-a.1+b", "0.0.0", "1.2", "v1.2.3", "01.2.3", "9" * 20 + ".0.0"],
}
EXPRESSIONS = [
    "true",
    "false",
    'device.driver == "d.example.com"',
    'device.attributes["d.example.com"].x == 1',
    'device.attributes["d.example.com"].nope == 1',
    'device.attributes["nobody.example.com"].x == "é"',
    'device.capacity["d.example.com"].m.compareTo(quantity("1Gi")) >= 0',
    'device.attributes["d.example.com"].v.isGreaterThan(semver("1.0.0"))',
    'quantity("lots").isInteger()',
    'semver("not.a.version").major() == 1',
    "1 / 0 == 1",
    "device.attributes",
    "nonsense(",
    "",
    "[1, 2, 3].all(a, [1, 2, 3].all(b, [1, 2, 3].exists(c, a + b > c)))",
    " && ".join(["[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, a > b || a <= b))"] * 9),
    "device.allowMultipleAllocations == true",
    '"a".matches("(a+)+$")',
    "device.attributes.size() > 9223372036854775807",
]
TEXTS = ["", "a", "é" * 20, "x" * 64, "a/b", "A b", "-", "0", "a.b/c", "\U0001f600", "None", "1"]
QUANTITIES = [
    *("0", "1", "-1", "2", "100m", "1n", "0.5", "1.5", "3", "1Gi", "-1Gi", "1Ei", "1E", "8Ei"),
    *("9" * 30, "-" + "9" * 30, "1e100", "1e-100", "16Ei", "lots", "", "1e999", "0.0000000001"),
]
INTS = [0, 1, 2, 3, -1, 7, 100, 128, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63)]
TIMES = [
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z"),
    *("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "2400-01-01T00:00:00+14:00", "now"),
]
KEYS = [
    *("cpu", "memory", "pods", "ephemeral-storage", "example.com/gpu", "hugepages-2Mi", "zone"),
    *("x", "v", "m", "d.example.com/x", "deviceclass.resource.kubernetes.io/any", "k", "app", ""),
    *("attachable-volumes-csi-d.example.com", "kubernetes.io/hostname", "c0"),
]
MOST_DEPTH = 12


def thing(api_version, kind, name, spec=None, **fields):
    document = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
    if spec is not None:
        document["spec"] = spec
    return document | fields


RESOURCE, GANGS = "resource.k8s.io/v1", "scheduling.k8s.io/v1beta1"
TERM = {
    "labelSelector": {"matchLabels": {"app": "a"}},
    "topologyKey": "kubernetes.io/hostname",
}
NODE_TERMS = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def pod(name):
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}
    main = {"name": "main", "image": "busybox", "resources": resources}
    spec = {"containers": [main], "restartPolicy": "Never", "schedulerName": "default-scheduler"}
    return thing("v1", "Pod", name, spec, status={"phase": "Pending"})


def with_claims(name):
    document = pod(name)
    document["spec"]["resourceClaims"] = [
        {"name": "x", "resourceClaimName": "a"},
        {"name": "y", "resourceClaimTemplateName": "t"},
    ]
    document["spec"]["containers"][0]["resources"]["claims"] = [{"name": "x"}, {"name": "y"}]
    return document


def with_extended(name):
    document = pod(name)
    amounts = {"example.com/gpu": "1", "deviceclass.resource.kubernetes.io/any": "1"}
    document["spec"]["containers"][0]["resources"] = {"requests": amounts, "limits": amounts}
    return document


def choosy(name):
    document = pod(name)
    document["metadata"]["labels"] = {"app": "a"}
    spread = {
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "minDomains": 2,
        "matchLabelKeys": ["app"],
    }
    document["spec"] |= {
        "affinity": {
            "nodeAffinity": {
                REQUIRED: {"nodeSelectorTerms": NODE_TERMS},
                PREFERRED: [{"weight": 1, "preference": NODE_TERMS[0]}],
            },
            "podAffinity": {PREFERRED: [{"weight": 100, "podAffinityTerm": TERM}]},
            "podAntiAffinity": {REQUIRED: [TERM]},
        },
        "topologySpreadConstraints": [spread | TERM],
        "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}],
        "nodeSelector": {"zone": "a"},
        "priority": 0,
    }
    return document


def member(name):
    document = pod(name)
    document["spec"]["schedulingGroup"] = {"podGroupName": "a"}
    return document


def with_volume(name):
    document = pod(name)
    document["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "a"}}]
    return document


def bound(name):
    document = with_claims(name)
    document["spec"]["nodeName"] = "n-0"
    return document


def node(name):
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "110", "example.com/gpu": "1"}
    document = thing("v1", "Node", name, {"taints": [{"key": "k", "effect": "NoSchedule"}]})
    document["metadata"]["labels"] = {"zone": "a", "kubernetes.io/hostname": name}
    document["status"] = {
        "allocatable": amounts,
        "capacity": amounts,
        "conditions": [{"type": "Ready", "status": "True"}],
        "images": [{"names": ["busybox"], "sizeBytes": 1}],
    }
    return document


def device(name):
    return {
        "name": name,
        "attributes": {"x": {"int": 1}, "v": {"version": "1.2.3"}},
        "capacity": {"m": {"value": "4Gi"}},
    }


def resource_slice(name):
    pool = {"name": "p", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "d.example.com", "nodeName": "n-0", "pool": pool}
    return thing(RESOURCE, "ResourceSlice", name, spec | {"devices": [device("d0"), device("d1")]})


def counter_slice(name):
    document = resource_slice(name)
    del document["spec"]["devices"]
    document["spec"]["sharedCounters"] = [{"name": "c0", "counters": {"m": {"value": "4"}}}]
    document["spec"]["pool"]["resourceSliceCount"] = 2
    return document


def partition_slice(name):
    document = resource_slice(name)
    document["spec"]["pool"]["resourceSliceCount"] = 2
    for entry in document["spec"]["devices"]:
        uses = [{"counterSet": "c0", "counters": {"m": {"value": "3"}}}]
        entry |= {"consumesCounters": uses}
    return document


def shared_slice(name):
    document = resource_slice(name)
    del document["spec"]["nodeName"]
    document["spec"]["allNodes"] = True
    policy = {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi", "max": "4Gi"}}
    entry = {"allowMultipleAllocations": True, "bindsToNode": True}
    entry |= {"taints": [{"key": "k", "effect": "NoExecute"}]}
    entry |= {"bindingConditions": ["ready"], "bindingFailureConditions": ["broken"]}
    document["spec"]["devices"][0] |= entry
    document["spec"]["devices"][1]["allowMultipleAllocations"] = True
    document["spec"]["devices"][1]["capacity"]["m"]["requestPolicy"] = policy
    return document


def claim_spec():
    exactly = {"deviceClassName": "any", "allocationMode": "ExactCount", "count": 1}
    exactly["selectors"] = [{"cel": {"expression": "true"}}]
    exactly["tolerations"] = [{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]
    alternatives = [
        {"name": "s", "deviceClassName": "picky", "allocationMode": "All"},
        {"name": "o", "deviceClassName": "any", "count": 2},
    ]
    return {
        "devices": {
            "requests": [
                {"name": "r0", "exactly": exactly},
                {"name": "r1", "firstAvailable": alternatives},
            ],
            "constraints": [{"requests": ["r0"], "matchAttribute": "d.example.com/x"}],
        }
    }


def simple_claim(name):
    exactly = {"deviceClassName": "any", "capacity": {"requests": {"m": "1Gi"}}}
    requests = [{"name": "r0", "exactly": exactly}]
    return thing(RESOURCE, "ResourceClaim", name, {"devices": {"requests": requests}})


def held_claim(name):
    document = simple_claim(name)
    place = {"driver": "d.example.com", "pool": "p", "device": "d0"}
    document["status"] = {
        "allocation": {
            "devices": {"results": [{"request": "r0"} | place]},
            "nodeSelector": {"nodeSelectorTerms": NODE_TERMS},
            "allocationTimestamp": "2026-01-01T00:00:00Z",
        },
        "reservedFor": [{"resource": "pods", "name": "a", "uid": "u"}],
        "devices": [
            place
            | {"conditions": [{"type": "ready", "status": "True", "reason": "r", "message": ""}]}
        ],
    }
    return document


def pod_group(name):
    spec = {"schedulingPolicy": {"gang": {"minCount": 1}}, "priority": 0}
    spec["schedulingConstraints"] = {"topology": [{"key": "zone"}]}
    spec["resourceClaims"] = [{"name": "x", "resourceClaimTemplateName": "t"}]
    return thing(GANGS, "PodGroup", name, spec)


def child_group(name):
    spec = {"schedulingPolicy": {"gang": {"minCount": 1}}, "parentCompositePodGroupName": "a"}
    return thing(GANGS, "PodGroup", name, spec)


def composite(name):
    spec = {"schedulingPolicy": {"gang": {"minGroupCount": 1}}}
    return thing("scheduling.k8s.io/v1alpha3", "CompositePodGroup", name, spec)


def quota(name):
    hard = {"pods": "5", "any.deviceclass.resource.k8s.io/devices": "3", "requests.cpu": "4"}
    return thing("v1", "ResourceQuota", name, {"hard": hard})


def budget(name):
    selector = {"matchLabels": {"app": "a"}}
    return thing(
        "policy/v1", "PodDisruptionBudget", name, {"minAvailable": 1, "selector": selector}
    )


def volume_claim(name):
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "late",
    }
    return thing("v1", "PersistentVolumeClaim", name, spec)


def volume(name):
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "late",
        "hostPath": {"path": "/x"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": NODE_TERMS}},
    }
    return thing("v1", "PersistentVolume", name, spec)


def storage_class(name):
    body = {"provisioner": "d.example.com", "volumeBindingMode": "WaitForFirstConsumer"}
    return thing("storage.k8s.io/v1", "StorageClass", name, **body)


def csi_node(name):
    drivers = [{"name": "d.example.com", "nodeID": "n", "allocatable": {"count": 1}}]
    return thing("storage.k8s.io/v1", "CSINode", name, {"drivers": drivers})


def device_class(name):
    selectors = [{"cel": {"expression": "true"}}]
    spec = {"selectors": selectors, "extendedResourceName": "example.com/gpu"}
    return thing(RESOURCE, "DeviceClass", name, spec)


def taint_rule(name):
    spec = {
        "deviceSelector": {"driver": "d.example.com", "pool": "p", "device": "d0"},
        "taint": {"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
    }
    return thing(RESOURCE, "DeviceTaintRule", name, spec)


def pool_request(name):
    api = "resource.k8s.io/v1alpha3"
    return thing(api, "ResourcePoolStatusRequest", name, {"driver": "d.example.com"})


def claim(name):
    return thing(RESOURCE, "ResourceClaim", name, claim_spec())


def template(name):
    return thing(RESOURCE, "ResourceClaimTemplate", name, {"spec": claim_spec()})


def priority_class(name):
    return thing("scheduling.k8s.io/v1", "PriorityClass", name, value=10)


def workload(name):
    template = {"name": "g", "schedulingPolicy": {"gang": {"minCount": 1}}}
    spec = {"podGroupTemplates": [template]}
    return thing(GANGS, "Workload", name, spec)


# What is changed, and under which names it may be made.
SOUND = [
    (node, ["odd", "bare"]),
    (resource_slice, ["s0"]),
    (resource_slice, ["s1"]),
    (counter_slice, ["s2"]),
    (partition_slice, ["s3"]),
    (shared_slice, ["s4", "s0"]),
    (device_class, ["any", "picky"]),
    (device_class, ["any"]),
    (taint_rule, ["r"]),
    (template, ["t"]),
    (claim, NAMES),
    (simple_claim, NAMES),
    (held_claim, NAMES),
    (pod, NAMES),
    (with_claims, NAMES),
    (with_claims, ["d", "e"]),
    (with_extended, NAMES),
    (choosy, ["d", "e", "f"]),
    (member, ["g", "h"]),
    (with_volume, ["i"]),
    (bound, ["j"]),
    (pod_group, NAMES),
    (child_group, NAMES),
    (composite, NAMES),
    (quota, ["q"]),
    (budget, ["b"]),
    (volume_claim, NAMES),
    (volume, ["v"]),
    (storage_class, ["s", "late"]),
    (csi_node, ["n-0", "odd"]),
    (pool_request, ["q"]),
    (priority_class, ["high", "low"]),
    (workload, NAMES),
]
# Of these metadata, only what decides something is changed.
METADATA = ["labels", "annotations", "ownerReferences", "finalizers"]


class Oddities:
    """Documents by the draws of ``random`` (anything with the methods of ``random.Random``)."""

    def __init__(self, random, catalog=None):
        self.random = random
        self.catalog = catalog or Catalog.builtin()

    def kind_of(self, document):
        return self.catalog.for_document(document["apiVersion"], document["kind"])

    def document(self, most_changes=4):
        """A sound document with a few odd places."""
        make, names = self.random.choice(SOUND)
        return self.changed(make(self.random.choice(names)), most_changes)

    def changed(self, document, most_changes=4):
        """A copy with up to so many odd places."""
        changed = copy.deepcopy(document)
        kind = self.kind_of(document)
        parts = [p for p in kind.schema.field_names if p not in ("apiVersion", "kind")]
        for _ in range(self.random.randint(0, most_changes)):
            part = self.random.choice(["spec", "spec", "spec", "status", *parts])
            if part == "metadata":
                name = self.random.choice(METADATA)
                node = kind.schema.at("metadata", name)
                changed["metadata"][name] = self.value(node, name, 0)
            elif part in parts:
                self._change(changed, part, kind.schema.field(part), 0)
        return changed

    def _change(self, holder, key, schema, depth, needed=False):
        """Replace what stands at one place, or at some place below it."""
        there = isinstance(holder, list) or key in holder
        value = holder[key] if there else None
        below = isinstance(value, (dict, list)) and value and depth < MOST_DEPTH
        if below and self.random.random() < 0.8:
            self._change_below(value, key, schema, depth)
        elif there and isinstance(holder, dict) and not needed and self.random.random() < 0.15:
            del holder[key]
        else:
            holder[key] = self.value(schema, key if isinstance(key, str) else "", depth)

    def _change_below(self, value, name, schema, depth):
        if isinstance(value, list):
            draw, items = self.random.random(), schema.items if schema else None
            if draw < 0.1:
                value.append(copy.deepcopy(self.random.choice(value)))
            elif draw < 0.2 and items is not None:
                value.append(self.value(items, name, depth + 1))
            elif draw < 0.22:
                value *= 40
            elif items is not None:
                self._change(value, self.random.randrange(len(value)), items, depth + 1)
            return
        names = list(schema.field_names) if schema is not None and schema.has_fields else []
        key = self.random.choice([*value, *value, *names] or KEYS)
        child = (schema.field(key) or schema.additional) if schema is not None else None
        if child is not None:
            needed = key in schema.required_set and self.random.random() < 0.95
            self._change(value, key, child, depth + 1, needed)

    def value(self, schema, name, depth):
        """A value of the schema's type, at an edge."""
        draw = self.random
        if schema.type == "array" and schema.items is not None and depth < MOST_DEPTH:
            count = draw.choice([0, 1, 1, 2, 3])
            return [self.value(schema.items, name, depth + 1) for _ in range(count)]
        if schema.type == "object" and schema.has_fields and depth < MOST_DEPTH:
            names = [n for n in schema.field_names if n in schema.required or draw.random() < 0.2]
            return {n: self.value(schema.field(n), n, depth + 1) for n in names}
        if schema.type == "object" and schema.additional is not None:
            keys = [draw.choice(KEYS) for _ in range(draw.choice([0, 1, 2]))]
            return {k: self.value(schema.additional, k, depth + 1) for k in keys}
        return self._scalar(schema, name)

    def _scalar(self, schema, name):
        draw = self.random
        if schema.quantity:
            return draw.choice(QUANTITIES)
        if schema.enum:
            return draw.choice([*schema.enum, "Other"])
        if schema.int_or_string:
            return draw.choice([*INTS, "25%", "-1%", "a"])
        if schema.type == "string":
            if schema.format == "date-time":
                return draw.choice(TIMES)
            if name == "expression":
                return draw.choice(EXPRESSIONS)
            return draw.choice(WORDS.get(name, TEXTS) if draw.random() < 0.9 else TEXTS)
        if schema.type == "integer":
            return draw.choice(INTS)
        if schema.type == "number":
            return draw.choice([0.0, -1.5, 1e300])
        if schema.type == "boolean":
            return draw.choice([True, False])
        return draw.choice([{}, {"a": 1}, {"apiVersion": "v1", "kind": "X", "a": ["é"]}])
