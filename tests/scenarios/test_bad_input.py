"""Bad input over the wire: a clear error that names field and value; never a traceback, a 500, a
lost or a half-written object."""

import copy
import itertools
import json
import time

import pytest

from tests.conftest import kubectls

YAML = "application/yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

CORE = "/api/v1/namespaces/default"
PODS = f"{CORE}/pods"
CONFIG_MAPS = f"{CORE}/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/test.example.com/v1/namespaces/default/widgets"
QUEUES = "/apis/kueue.x-k8s.io/v1beta2"
STRICT = "?fieldValidation=Strict"

_names = itertools.count()


def pod(name="bad", **spec):
    container = {"name": "c", "image": "busybox", "command": ["sleep", "60"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "restartPolicy": "Never"} | spec,
    }


def pod_with(path, value, name="bad"):
    """A pod with one field set to ``value``; ``path`` is separated by dots, numbers are indexes."""
    document = pod(name)
    target = document
    *parents, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    for part in parents:
        target = target[part] if isinstance(part, int) else target.setdefault(part, {})
    target[last] = value
    return document


def refused(said, code, reason, *words):
    assert said.code == code, said
    assert said.reason == reason, said
    missing = [word for word in words if word not in said.message]
    assert not missing, f"{missing} not in: {said.message}"
    assert said.body["kind"] == "Status"
    assert "Traceback" not in said.message
    assert '.py"' not in said.message


def absent(api, path):
    assert api("GET", path).code == 404


# bytes that are no document

NO_DOCUMENTS = {
    "nothing": (b"", "application/json", ["zero-length"]),
    "half JSON": (b'{"kind":', "application/json", ["column"]),
    "null": (b"null", "application/json", ["must be an object"]),
    "a list": (b"[]", "application/json", ["must be an object"]),
    "infinity": (b'{"a":1e999}', "application/json", ["infinity"]),
    "NaN": (b'{"a":NaN}', "application/json", ["column"]),
    "two JSON documents": (b"{} {}", "application/json", ["after document"]),
    "not UTF-8": (b'{"kind":"\xff"}', "application/json", ["UTF-8"]),
    "half a surrogate": (b'{"kind":"\\ud800"}', "application/json", ["surrogate"]),
    "deep JSON": (b"[" * 100_000, "application/json", ["depth"]),
    "deep YAML": (b"{a: " * 3000 + b"}" * 3000, YAML, ["200 levels"]),
    "a tab in YAML": (b"apiVersion: v1\n\tkind: Pod", YAML, ["line 2", "tab"]),
    "a Python object": (b"kind: !!python/object/apply:os.getcwd []", YAML, ["line 1", "tag"]),
    "two YAML documents": (b"kind: Pod\n---\nkind: Pod", YAML, ["one document"]),
    "a YAML bomb": (
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9))
            for i in range(9)
        ),
        YAML,
        ["nodes"],
    ),
    "junk as protobuf": (
        b"k8s\x00\xff\xff",
        "application/vnd.kubernetes.protobuf",
        ["protobuf"],
    ),
}


@pytest.mark.parametrize("case", NO_DOCUMENTS)
def test_bytes_that_are_no_document(api, case):
    body, content_type, words = NO_DOCUMENTS[case]
    refused(api("POST", PODS, body, content_type), 400, "BadRequest", *words)


def test_a_body_over_3_mib(api):
    body = b'{"data":"' + b"x" * (3 << 20) + b'"}'
    refused(api("POST", PODS, body), 413, "RequestEntityTooLarge", "3145728")


def test_media_types(api):
    refused(api("POST", PODS, "x", "text/plain"), 415, "UnsupportedMediaType", "application/json")
    refused(api("PATCH", f"{PODS}/a", "{}"), 415, "UnsupportedMediaType", JSON_PATCH)
    said = api("GET", PODS, Accept="application/xml")
    refused(said, 406, "NotAcceptable", "application/json")


# fields

POD_FIELDS = {
    # path: (value, code, words)
    "metadata.name": ("A_b", 422, ['metadata.name: Invalid value: "A_b"', "RFC 1123"]),
    "metadata.labels": ({"a": 5}, 400, ["metadata.labels.a", "number", "string"]),
    "metadata.annotations": ({"a b": "c"}, 422, ["metadata.annotations", '"a b"']),
    "metadata.ownerReferences": ([{}], 422, ["metadata.ownerReferences.uid: Invalid"]),
    "metadata.resourceVersion": ("1", 400, ["resourceVersion should not be set"]),
    "metadata.creationTimestamp": ("now", 400, ["metadata.creationTimestamp", '"now"']),
    "spec": ([], 400, ["array", "spec"]),
    "spec.containers": ([], 422, ["spec.containers: Required value"]),
    "spec.containers.0": (5, 400, ["spec.containers[0]", "number"]),
    "spec.containers.0.name": ("A", 422, ['spec.containers[0].name: Invalid value: "A"']),
    "spec.containers.0.image": ("", 422, ["spec.containers[0].image: Required value"]),
    "spec.containers.0.ports": (
        [{"containerPort": "80"}],
        400,
        ["spec.containers[0].ports[0].containerPort", "int32"],
    ),
    "spec.containers.0.env": (
        [{"name": "a", "valueFrom": {}}],
        422,
        ["spec.containers[0].env[0].valueFrom", "must specify one of"],
    ),
    "spec.containers.0.volumeMounts": (
        [{"name": "nope", "mountPath": "/x"}],
        422,
        ['spec.containers[0].volumeMounts[0].name: Not found: "nope"'],
    ),
    "spec.containers.0.resources.requests": (
        {"cpu": "lots"},
        400,
        ["spec.containers[0].resources.requests.cpu", "quantities must match", '"lots"'],
    ),
    "spec.containers.0.resources.limits": (
        {"memory": "-1"},
        422,
        ["spec.containers[0].resources.limits[memory]", '"-1"', "greater than or equal to 0"],
    ),
    "spec.restartPolicy": ("Sometimes", 422, ["spec.restartPolicy", '"Sometimes"', '"Always"']),
    "spec.terminationGracePeriodSeconds": (
        10**30,
        400,
        ["spec.terminationGracePeriodSeconds", "int64"],
    ),
    "spec.activeDeadlineSeconds": (0, 422, ["spec.activeDeadlineSeconds", "0", "between 1"]),
    "spec.nodeSelector": ({"a b": "c"}, 422, ["spec.nodeSelector", '"a b"']),
    "spec.tolerations": ([{"operator": "X"}], 422, ["spec.tolerations[0].operator", '"X"']),
    "spec.priorityClassName": ("nope", 403, ["PriorityClass", "nope"]),
    "spec.serviceAccountName": ("nope", 403, ["default/nope"]),
    "spec.resourceClaims": (
        [{"name": "x", "resourceClaimName": "a", "resourceClaimTemplateName": "b"}],
        422,
        ["spec.resourceClaims[0]", "at most one of"],
    ),
    "spec.volumes": (
        [{"name": "v"}, {"name": "v"}],
        422,
        ['spec.volumes[1].name: Duplicate value: "v"'],
    ),
}
REASONS = {400: "BadRequest", 403: "Forbidden", 422: "Invalid"}


@pytest.mark.parametrize("path", POD_FIELDS)
def test_a_bad_field_of_a_pod(api, path):
    value, code, words = POD_FIELDS[path]
    said = api("POST", PODS, pod_with(path, value))
    refused(said, code, REASONS[code], *words)
    absent(api, f"{PODS}/bad")


def test_names_that_are_too_long(api):
    refused(api("POST", PODS, pod("a" * 254)), 422, "Invalid", "metadata.name", "253")
    labelled = pod_with("metadata.labels", {"a": "b" * 64})
    refused(api("POST", PODS, labelled), 422, "Invalid", "metadata.labels", "63")
    noted = pod_with("metadata.annotations", {"a": "x" * 262_145})
    refused(api("POST", PODS, noted), 422, "Invalid", "metadata.annotations: Too long", "262144")


def test_unknown_fields_strict_warn_and_ignore(api):
    document = pod("unknown") | {"zap": 1}
    document["spec"]["foo"] = 1
    said = api("POST", f"{PODS}{STRICT}", document)
    words = ["strict decoding error", 'unknown field "spec.foo"', 'unknown field "zap"']
    refused(said, 400, "BadRequest", *words)
    said = api("POST", f"{PODS}?dryRun=All", document)
    assert said.code == 201
    assert any("spec.foo" in warning for warning in said.warnings)
    assert "foo" not in said.body["spec"]
    said = api("POST", f"{PODS}?dryRun=All&fieldValidation=Ignore", document)
    assert (said.code, said.warnings) == (201, [])
    absent(api, f"{PODS}/unknown")


def test_duplicate_fields(api):
    twice = json.dumps(pod("twice")).replace('"image": "busybox"', '"image": "a", "image": "b"')
    said = api("POST", f"{PODS}{STRICT}", twice)
    refused(said, 400, "BadRequest", 'duplicate field "spec.containers[0].image"')
    said = api("POST", f"{PODS}?dryRun=All", twice)
    assert said.code == 201
    assert "spec.containers[0].image" in said.warnings[0]
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, name: y}\n"
    said = api("POST", f"{CONFIG_MAPS}{STRICT}", manifest, YAML)
    refused(said, 400, "BadRequest", 'duplicate field "metadata.name"')


def test_a_document_of_another_kind_than_the_path(api):
    refused(api("POST", PODS, pod() | {"kind": "Service"}), 400, "BadRequest", "Service", "Pod")
    refused(api("POST", PODS, pod() | {"apiVersion": "v7"}), 400, "BadRequest", "v7", "v1")
    refused(api("POST", PODS, pod() | {"kind": 5}), 400, "BadRequest", "5")
    refused(api("POST", PODS, pod() | {"apiVersion": []}), 400, "BadRequest", "apiVersion")
    elsewhere = pod_with("metadata.namespace", "other")
    refused(api("POST", PODS, elsewhere), 400, "BadRequest", "namespace")


def test_paths_that_do_not_exist(api):
    said = api("POST", "/api/v1/namespaces/nowhere/pods", pod())
    refused(said, 404, "NotFound", 'namespaces "nowhere" not found')
    for path in ("/apis/nope/v1/things", "/apis/apps/v9/deployments", f"{PODS}/a/nope"):
        refused(api("GET", path), 404, "NotFound", "could not find the requested resource")
    refused(api("GET", f"{PODS}/nope"), 404, "NotFound", 'pods "nope" not found')
    refused(api("GET", f"{PODS}/a%ff"), 400, "BadRequest", "UTF-8")
    refused(api("PUT", PODS, pod()), 405, "MethodNotAllowed", "pods")


QUERIES = {
    "labelSelector=a%20in%20(b": (400, ["')'"]),
    "labelSelector=a%20b": (400, ["'b'", "notin"]),
    "fieldSelector=spec.nope%3Dx": (400, ["spec.nope"]),
    "fieldSelector=junk": (400, ["'junk'"]),
    "limit=many": (400, ["limit", '"many"']),
    "limit=-1": (400, ["limit", "-1"]),
    "timeoutSeconds=soon": (400, ["timeoutSeconds", '"soon"']),
    "continue=junk": (400, ["continue", "junk"]),
    "resourceVersion=abc": (400, ["'abc'"]),
    "watch=1&resourceVersion=abc": (400, ["'abc'"]),
    "resourceVersionMatch=Exact": (422, ["resourceVersionMatch", "resourceVersion"]),
    "resourceVersion=1&resourceVersionMatch=Near": (422, ['"Near"', '"NotOlderThan"']),
    "watch=1&sendInitialEvents=true": (422, ["sendInitialEvents", '"NotOlderThan"']),
    "labelSelector=%ff": (400, ["query"]),
}


@pytest.mark.parametrize("query", QUERIES)
def test_bad_list_options(api, query):
    code, words = QUERIES[query]
    refused(api("GET", f"{PODS}?{query}"), code, REASONS[code], *words)


def test_bad_write_options(api):
    for query, value in (("dryRun", "Maybe"), ("fieldValidation", "Loose")):
        refused(api("POST", f"{PODS}?{query}={value}", pod()), 422, "Invalid", query, value)
    said = api("POST", f"{PODS}?fieldManager={'x' * 129}", pod())
    refused(said, 422, "Invalid", "fieldManager", "128")
    absent(api, f"{PODS}/bad")


def test_a_bad_way_to_delete_deletes_nothing(api, config_map):
    said = api("DELETE", f"{config_map}?propagationPolicy=Later")
    refused(said, 422, "Invalid", "propagationPolicy", '"Later"', '"Background"')
    said = api("DELETE", f"{config_map}?gracePeriodSeconds=soon")
    refused(said, 400, "BadRequest", "gracePeriodSeconds", '"soon"')
    refused(api("DELETE", config_map, {"kind": "Pod"}), 400, "BadRequest", "DeleteOptions", "Pod")
    assert api("GET", config_map).code == 200


# objects that exist: a refused change leaves them as they were


@pytest.fixture
def config_map(api):
    path = f"{CONFIG_MAPS}/kept-{next(_names)}"
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": path.rsplit("/", 1)[1]},
        "data": {"a": "b"},
        "immutable": True,
    }
    assert api("POST", CONFIG_MAPS, document).code == 201
    yield path
    assert api("DELETE", path).code == 200


PATCHES = {
    "an immutable field": ({"data": {"a": "c"}}, MERGE, 422, ["data", "immutable"]),
    "null": ("null", MERGE, 400, ["object"]),
    "a list": ("[]", MERGE, 400, ["object"]),
    "half a patch": ('{"data":', MERGE, 400, ["column"]),
    "another name": ({"metadata": {"name": "x"}}, MERGE, 400, ["(x)", "name"]),
    "a wrong type": ({"data": {"a": 5}}, MERGE, 400, ["data.a", "number"]),
    "a failed test": (
        [{"op": "test", "path": "/data/a", "value": "z"}],
        JSON_PATCH,
        422,
        ["/data/a"],
    ),
    "a missing path": ([{"op": "remove", "path": "/x/y"}], JSON_PATCH, 422, ["/x/y"]),
    "an unknown operation": ([{"op": "zap", "path": "/data"}], JSON_PATCH, 422, ["zap"]),
    "no operations": ({}, JSON_PATCH, 400, ["array"]),
    "an unknown directive": ({"$patch": "zap"}, STRATEGIC, 422, ["zap"]),
}


@pytest.mark.parametrize("case", PATCHES)
def test_a_bad_patch_changes_nothing(api, config_map, case):
    body, content_type, code, words = PATCHES[case]
    before = api("GET", config_map).body
    said = api("PATCH", config_map, body, content_type)
    refused(said, code, REASONS[code], *words)
    assert api("GET", config_map).body == before


def test_apply_needs_a_manager_and_names_conflicts(api, config_map):
    name = config_map.rsplit("/", 1)[1]
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    refused(api("PATCH", config_map, document, APPLY), 422, "Invalid", "fieldManager: Required")
    wanted = document | {"data": {"a": "mine"}}
    said = api("PATCH", f"{config_map}?fieldManager=me", wanted, APPLY)
    refused(said, 409, "Conflict", "1 conflict", ".data.a")


def test_a_stale_update_is_a_conflict(api, config_map):
    before = api("GET", config_map).body
    stale = copy.deepcopy(before)
    stale["metadata"]["resourceVersion"] = "1"
    refused(api("PUT", config_map, stale), 409, "Conflict", "object has been modified")
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}}
    refused(api("DELETE", config_map, options), 409, "Conflict", "UID in the precondition (other)")
    assert api("GET", config_map).body == before


def test_null_in_an_applied_document_is_absence(api):
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    document = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "nulls"},
        "addressType": "IPv4",
        "endpoints": [],
        "ports": None,
    }
    for code in (201, 200):
        said = api("PATCH", f"{path}/nulls?fieldManager=me&force=true", document, APPLY)
        assert said.code == code, said
    assert said.body.get("ports") is None
    assert api("DELETE", f"{path}/nulls").code == 200


def test_a_job_set_of_the_wrong_shape(api):
    path = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets"
    frame = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "s"}}
    for spec in ([], "", {"network": []}, {"replicatedJobs": [5]}, {"replicatedJobs": {}}):
        said = api("POST", path, frame | {"spec": spec})
        assert said.code in (400, 422), said
        assert "spec" in said.message
    absent(api, f"{path}/s")


def test_immutable_fields_of_workloads(api):
    labels = {"app": "x"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "fixed"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "busybox"}]},
            },
        },
    }
    assert api("POST", DEPLOYMENTS, deployment).code == 201
    change = {"spec": {"selector": {"matchLabels": {"app": "y"}}}}
    said = api("PATCH", f"{DEPLOYMENTS}/fixed", change, MERGE)
    refused(said, 422, "Invalid", "spec.selector", "immutable")
    assert api("DELETE", f"{DEPLOYMENTS}/fixed").code == 200
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "fixed"},
        "spec": {"suspend": True, "template": {"spec": pod()["spec"]}},
    }
    assert api("POST", JOBS, job).code == 201
    said = api("PATCH", f"{JOBS}/fixed", {"spec": {"completions": 7}}, MERGE)
    refused(said, 422, "Invalid", "spec.completions", "immutable")
    assert api("DELETE", f"{JOBS}/fixed").code == 200
    negative = {"spec": {"replicas": -1}}
    assert api("POST", DEPLOYMENTS, deployment).code == 201
    said = api("PATCH", f"{DEPLOYMENTS}/fixed/scale", negative, MERGE)
    refused(said, 422, "Invalid", "spec.replicas", "-1")
    assert api("DELETE", f"{DEPLOYMENTS}/fixed").code == 200


# custom resources


def definition(name="widgets.test.example.com", schema=None, **spec):
    properties = {
        "size": {"type": "integer", "minimum": 1},
        "colour": {"type": "string", "enum": ["red", "blue"]},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
    }
    rules = [
        {"rule": "self.size < 10", "message": "size must be small"},
        {"rule": "self.size >= oldSelf.size", "message": "size may not shrink"},
    ]
    described = {
        "type": "object",
        "required": ["size"],
        "properties": properties,
        "x-kubernetes-validations": rules,
    }
    whole = schema or {"type": "object", "properties": {"spec": described}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": whole}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": "test.example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version],
        }
        | spec,
    }


def with_rule(rule):
    described = {"type": "object", "properties": {"a": {"type": "integer"}}}
    described["x-kubernetes-validations"] = [{"rule": rule}]
    return {"type": "object", "properties": {"spec": described}}


OPEN = {"openAPIV3Schema": {"type": "object"}}

DEFINITIONS = {
    "not structural": (definition(schema={"properties": {"a": {}}}), ["type: Required value"]),
    "a type within anyOf": (
        definition(schema={"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}]}}}),
        ["properties.a.type", "Required value"],
    ),
    "another name": (definition("x.y"), ["metadata.name", '"x.y"', "spec.names.plural"]),
    "no version": (definition(versions=[]), ["spec.versions"]),
    "no spec": (definition() | {"spec": {}}, ["spec.group: Required value"]),
    "no names": (definition(names={}), ["spec.names.plural: Required value"]),
    "a version without a name": (
        definition(versions=[{"served": True, "storage": True, "schema": OPEN}]),
        ["spec.versions[0].name"],
    ),
    "a bad scope": (definition(scope="Galaxy"), ["spec.scope", '"Galaxy"', '"Cluster"']),
    "a rule that is no CEL": (definition(schema=with_rule("self.a <")), ["rule", "self.a <"]),
    "a rule on no field": (definition(schema=with_rule("self.b == 1")), ["self.b == 1", "'b'"]),
}


@pytest.mark.parametrize("case", DEFINITIONS)
def test_a_definition_that_is_refused_is_not_served(api, case):
    document, words = DEFINITIONS[case]
    refused(api("POST", CRDS, document), 422, "Invalid", *words)
    absent(api, f"{CRDS}/{document['metadata']['name']}")


@pytest.fixture(scope="module")
def widgets(api):
    assert api("POST", CRDS, definition()).code == 201
    deadline = time.monotonic() + 5
    while api("GET", WIDGETS).code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield
    assert api("DELETE", f"{CRDS}/widgets.test.example.com").code == 200


def widget(**spec):
    frame = {"apiVersion": "test.example.com/v1", "kind": "Widget"}
    return frame | {"metadata": {"name": "w"}, "spec": spec}


OBJECTS = {
    "a missing field": ({}, ["spec.size: Required value"]),
    "a wrong type": ({"size": "big"}, ["spec.size", "integer", '"string"']),
    "too small": ({"size": 0}, ["spec.size", "0", "greater than or equal to 1"]),
    "no choice": ({"size": 1, "colour": "pink"}, ["spec.colour", '"pink"', '"red"']),
    "twice in a set": ({"size": 1, "tags": ["a", "a"]}, ["spec.tags[1]: Duplicate value"]),
    "against a rule": ({"size": 11}, ["size must be small"]),
}


@pytest.mark.usefixtures("widgets")
@pytest.mark.parametrize("case", OBJECTS)
def test_a_custom_resource_against_its_schema(api, case):
    spec, words = OBJECTS[case]
    refused(api("POST", WIDGETS, widget(**spec)), 422, "Invalid", *words)
    absent(api, f"{WIDGETS}/w")


@pytest.mark.usefixtures("widgets")
def test_a_transition_rule_keeps_the_old_object(api):
    said = api("POST", f"{WIDGETS}{STRICT}", widget(size=5, zap=1))
    refused(said, 400, "BadRequest", 'unknown field "spec.zap"')
    assert api("POST", WIDGETS, widget(size=5)).code == 201
    said = api("PATCH", f"{WIDGETS}/w", {"spec": {"size": 2}}, MERGE)
    refused(said, 422, "Invalid", "size may not shrink")
    assert api("GET", f"{WIDGETS}/w").body["spec"] == {"size": 5}
    said = api("PATCH", f"{WIDGETS}/w", {"spec": {}}, STRATEGIC)
    refused(said, 415, "UnsupportedMediaType", MERGE)


# devices


def claim(name="c", device_class="gpu.example.com", expression="", **request):
    exactly = {"deviceClassName": device_class} | request
    if expression:
        exactly["selectors"] = [{"cel": {"expression": expression}}]
    spec = {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}
    frame = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"}
    return frame | {"metadata": {"name": name}, "spec": spec}


EXPRESSIONS = {
    "device.driver ==": "compilation failed",
    "device.nope == 1": "undefined field 'nope'",
    "device.driver == 1": "no matching overload",
    '"a"': "must evaluate to bool",
    "x" * 10_241: "10240",
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_selector_that_does_not_compile(api, expression):
    at = "spec.devices.requests[0].exactly.selectors[0].cel.expression"
    said = api("POST", CLAIMS, claim(expression=expression))
    refused(said, 422, "Invalid", at, EXPRESSIONS[expression])
    absent(api, f"{CLAIMS}/c")
    frame = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "c"}}
    device_class = frame | {"spec": {"selectors": [{"cel": {"expression": expression}}]}}
    said = api("POST", CLASSES, device_class)
    refused(said, 422, "Invalid", "spec.selectors[0].cel.expression", EXPRESSIONS[expression])
    absent(api, f"{CLASSES}/c")


def test_bad_claims(api):
    refused(api("POST", CLAIMS, claim(count=-1)), 422, "Invalid", "exactly.count", "-1")
    said = api("POST", CLAIMS, claim(allocationMode="Some"))
    refused(said, 422, "Invalid", "allocationMode", '"Some"', '"ExactCount"')
    refused(api("POST", CLAIMS, claim(device_class="")), 422, "Invalid", "deviceClassName")
    absent(api, f"{CLAIMS}/c")


# queues


def test_bad_quotas(api):
    def queue(resource="cpu", quota="1", **spec):
        flavor = {"name": "f", "resources": [{"name": resource, "nominalQuota": quota}]}
        groups = [{"coveredResources": ["cpu"], "flavors": [flavor]}]
        frame = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue"}
        return frame | {"metadata": {"name": "q"}, "spec": {"resourceGroups": groups} | spec}

    at = "spec.resourceGroups[0].flavors[0].resources[0]"
    path = f"{QUEUES}/clusterqueues"
    refused(api("POST", path, queue(quota="lots")), 422, "Invalid", f"{at}.nominalQuota", "lots")
    refused(api("POST", path, queue(quota="-1")), 422, "Invalid", f"{at}.nominalQuota", "-1")
    refused(api("POST", path, queue(resource="memory")), 422, "Invalid", at, "memory")
    said = api("POST", path, queue(queueingStrategy="Chaos"))
    refused(said, 422, "Invalid", "spec.queueingStrategy", '"Chaos"', '"StrictFIFO"')
    absent(api, f"{path}/q")


# what is only wrong at run time: the reason shows on the object, and others go on


def until(question, what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def has_condition(api, path, kind, words):
    conditions = api("GET", path).body.get("status", {}).get("conditions", [])
    return any(
        c["type"] == kind and all(word in c.get("message", "") for word in words)
        for c in conditions
    )


def test_a_condition_without_a_type_stops_no_controller(api):
    """A status may hold what nobody expects; whoever reads it must go on with the rest."""
    assert api("POST", PODS, pod("odd", nodeSelector={"a": "b"})).code == 201
    odd = {"status": {"conditions": [{"status": "True", "message": "no type"}]}}
    said = api("PATCH", f"{PODS}/odd/status", odd, MERGE)
    assert said.code in (200, 422), said
    runs(api, "other")
    remove(api, "odd", "other")


def waiting(api, name):
    for status in api("GET", f"{PODS}/{name}").body["status"].get("containerStatuses", []):
        return status["state"].get("waiting") or status["state"].get("terminated") or {}
    return {}


def runs(api, name, **spec):
    assert api("POST", PODS, pod(name, **spec)).code == 201
    until(lambda: api("GET", f"{PODS}/{name}").body["status"].get("phase") == "Running", name)


def remove(api, *names):
    for name in names:
        assert api("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0").code == 200


def with_claim(name, **kinds):
    document = pod(name, resourceClaims=[{"name": "g"} | kinds])
    document["spec"]["containers"][0]["resources"] = {"claims": [{"name": "g"}]}
    return document


def test_a_selector_that_fails_at_run_time_holds_up_nobody_else(api):
    broken = claim("broken", expression='device.attributes["gpu.example.com"].nope == 1')
    assert api("POST", CLAIMS, broken).code == 201
    assert api("POST", PODS, with_claim("unlucky", resourceClaimName="broken")).code == 201
    said = until(
        lambda: has_condition(api, f"{PODS}/unlucky", "PodScheduled", ["nope"]),
        "the reason names the attribute that is not there",
    )
    assert said
    assert api("POST", CLAIMS, claim("fine")).code == 201
    assert api("POST", PODS, with_claim("lucky", resourceClaimName="fine")).code == 201
    until(lambda: api("GET", f"{PODS}/lucky").body["status"].get("phase") == "Running", "lucky")
    remove(api, "unlucky", "lucky")


MISSING = {
    "claim": (with_claim("wants", resourceClaimName="nope"), 'ResourceClaim "default/nope"'),
    "template": (with_claim("wants", resourceClaimTemplateName="nope"), "not created yet"),
    "PodGroup": (pod("wants", schedulingGroup={"podGroupName": "nope"}), 'pod group "nope"'),
    "node label": (pod("wants", nodeSelector={"a": "b"}), "node affinity/selector"),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_pod_that_needs_what_is_not_there_says_so(module_cluster, api, what):
    document, words = MISSING[what]
    assert api("POST", PODS, document).code == 201

    def explained():
        return words in module_cluster.kubarium("why", "pod/wants").stdout

    until(explained, f"{words!r} in `kubarium why`")
    until(lambda: has_condition(api, f"{PODS}/wants", "PodScheduled", [words]), "the condition")
    runs(api, "other")
    assert api("GET", f"{PODS}/wants").body["status"]["phase"] == "Pending"
    remove(api, "wants", "other")


def test_a_claim_of_a_missing_class_says_so(api):
    assert api("POST", CLAIMS, claim("classless", device_class="nope")).code == 201
    assert api("POST", PODS, with_claim("wants", resourceClaimName="classless")).code == 201
    until(
        lambda: has_condition(api, f"{PODS}/wants", "PodScheduled", ["nope"]),
        "the missing device class is named",
    )
    remove(api, "wants")


def test_an_unknown_image_says_how_to_map_it(api):
    document = pod_with("spec.containers.0.image", "ghcr.io/someone/model:v3", "imageless")
    assert api("POST", PODS, document).code == 201
    state = until(
        lambda: (
            (s := waiting(api, "imageless")).get("reason", "").startswith(("ErrImage", "Image"))
            and s
        ),
        "ErrImagePull",
    )
    assert "ghcr.io/someone/model:v3" in state["message"]
    assert "images" in state["message"]
    runs(api, "other")
    remove(api, "imageless", "other")


def test_a_command_that_does_not_exist(api):
    document = pod_with("spec.containers.0.command", ["/no/such/program"], "commandless")
    assert api("POST", PODS, document).code == 201
    state = until(
        lambda: (s := waiting(api, "commandless")).get("message") and s, "a message", timeout_s=20
    )
    assert "/no/such/program" in state["message"]
    remove(api, "commandless")


def test_a_missing_config_map_and_secret(api):
    document = pod("mapless")
    document["spec"]["containers"][0]["env"] = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "nope", "key": "k"}}}
    ]
    assert api("POST", PODS, document).code == 201
    state = until(
        lambda: (s := waiting(api, "mapless")).get("reason") == "CreateContainerConfigError" and s,
        "CreateContainerConfigError",
    )
    assert 'configmap "nope" not found' in state["message"]
    volume = {"name": "v", "secret": {"secretName": "nope"}}
    assert api("POST", PODS, pod("secretless", volumes=[volume])).code == 201

    def event():
        events = api("GET", f"{CORE}/events?fieldSelector=involvedObject.name=secretless").body
        found = [e["message"] for e in events["items"] if e["reason"] == "FailedMount"]
        return found[0] if found else ""

    assert 'secret "nope" not found' in until(event, "FailedMount")
    remove(api, "mapless", "secretless")


def test_jobs_for_queues_that_are_not_there(api):
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "lost", "labels": {"kueue.x-k8s.io/queue-name": "nope"}},
        "spec": {"template": {"spec": pod()["spec"]}},
    }
    assert api("POST", JOBS, job).code == 201

    def reason():
        items = api("GET", f"{QUEUES}/namespaces/default/workloads").body["items"]
        conditions = [c for w in items for c in w.get("status", {}).get("conditions", [])]
        return any("LocalQueue nope doesn't exist" in c.get("message", "") for c in conditions)

    until(reason, "the workload names the missing queue")
    assert api("GET", f"{JOBS}/lost").body["spec"]["suspend"] is True
    assert api("DELETE", f"{JOBS}/lost?propagationPolicy=Background").code == 200
    frame = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue"}
    flavor = {"name": "nope", "resources": [{"name": "cpu", "nominalQuota": "1"}]}
    groups = [{"coveredResources": ["cpu"], "flavors": [flavor]}]
    queue = frame | {"metadata": {"name": "flat"}, "spec": {"resourceGroups": groups}}
    assert api("POST", f"{QUEUES}/clusterqueues", queue).code == 201
    path = f"{QUEUES}/clusterqueues/flat"
    until(lambda: has_condition(api, path, "Active", ["nope"]), "the missing flavor is named")
    assert api("DELETE", path).code == 200


# kubectl shows the same


@pytest.mark.kubectl
@pytest.mark.skipif(not kubectls(), reason="kubectl is not installed")
def test_kubectl_shows_errors_as_they_are(module_cluster, tmp_path):
    def fails(text, *words):
        path = tmp_path / "manifest.yaml"
        path.write_text(text)
        said = module_cluster.kubectl("apply", "-f", str(path), check=False)
        assert not [word for word in words if word not in said], said

    fails("apiVersion: v1\nkind: Pod\n  metadata: x\n", "error", "line")
    fails("apiVersion: v9\nkind: Pod\nmetadata: {name: a}\n", 'no matches for kind "Pod"')
    bad = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: A}], x: 1}\n"
    fails(bad, "strict decoding error", 'unknown field "spec.x"')
    fails(bad.replace(", x: 1", ""), "spec.containers[0].name", '"A"', "image: Required value")
    assert "NotFound" in module_cluster.kubectl("get", "pod", "a", check=False)
