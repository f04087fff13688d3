"""OpenAPI documents: every reference resolves, clients find what they look for, caching holds."""

import json

import pytest

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.openapi import OpenApi
from kubarium.api.openapi.descriptions import describe
from kubarium.api.resource import Resource
from kubarium.api.schema import Schema


@pytest.fixture(scope="module")
def api():
    return OpenApi(Catalog.builtin())


class Inline:
    """A source of schemas from (type, fields) pairs."""

    def node(self, reference):
        type_, fields = reference
        schema = Schema(self, type_)
        schema.define(fields=fields, items=None, additional=None)
        return schema


def custom_kind(**fields):
    resource = Resource("stable.example.com", "v1", "crontabs", "CronTab", True)
    spec = ("object", {name: (type_, {}) for name, type_ in fields.items()})
    schema = Inline().node(("object", {"spec": spec}))
    return Kind(
        resource=resource,
        schema=schema,
        storage=resource,
        singular="crontab",
        list_kind="CronTabList",
        subresources=frozenset({"status"}),
        custom=True,
    )


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def group_paths(api):
    return list(json.loads(api.index())["paths"])


def test_the_index_names_each_group_version_with_its_hash(api):
    index = json.loads(api.index())["paths"]
    assert {"api/v1", "apis/apps/v1", "apis/resource.k8s.io/v1"} <= index.keys()
    assert index["api/v1"]["serverRelativeURL"] == f"/openapi/v3/api/v1?hash={api.digest('api/v1')}"
    assert len(api.digest("api/v1")) == 64


def test_every_reference_of_every_document_resolves(api):
    for path in group_paths(api):
        document = json.loads(api.group(path))
        known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert set(references(document)) <= known, path
    document = json.loads(api.v2())
    known = {f"#/definitions/{name}" for name in document["definitions"]}
    assert set(references(document)) <= known


def test_references_with_siblings_are_wrapped_in_v3(api):
    container = schema_of(api, "api/v1", "io.k8s.api.core.v1.Container")
    resources = container["properties"]["resources"]
    assert "$ref" not in resources
    assert resources["allOf"][0]["$ref"].endswith(".ResourceRequirements")


def schema_of(api, path, name):
    return json.loads(api.group(path))["components"]["schemas"][name]


def test_kinds_carry_their_group_version_kind(api):
    pod = schema_of(api, "api/v1", "io.k8s.api.core.v1.Pod")
    mark = {"group": "", "kind": "Pod", "version": "v1"}
    assert pod["x-kubernetes-group-version-kind"] == [mark]
    pods = schema_of(api, "api/v1", "io.k8s.api.core.v1.PodList")
    assert pods["x-kubernetes-group-version-kind"][0]["kind"] == "PodList"


def test_merge_keys_and_list_types_are_told(api):
    spec = schema_of(api, "api/v1", "io.k8s.api.core.v1.PodSpec")
    containers = spec["properties"]["containers"]
    assert containers["x-kubernetes-list-type"] == "map"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert spec["properties"]["volumes"]["x-kubernetes-patch-strategy"] == "merge,retainKeys"


@pytest.mark.parametrize("method", ["patch", "put"])
def test_writes_take_field_validation_and_dry_run(api, method):
    paths = json.loads(api.group("apis/apps/v1"))["paths"]
    operation = paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"][method]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert {"fieldValidation", "dryRun", "fieldManager"} <= names
    assert operation["x-kubernetes-group-version-kind"]["kind"] == "Deployment"


def test_operation_ids_are_unique_in_the_whole_api(api):
    seen = []
    for item in json.loads(api.v2())["paths"].values():
        seen += [op["operationId"] for op in item.values() if isinstance(op, dict)]
    assert len(seen) == len(set(seen)) > 500
    assert {"createCoreV1NamespacedPod", "listCoreV1PodForAllNamespaces"} <= set(seen)


def test_descriptions_come_from_the_models(api):
    container = schema_of(api, "api/v1", "io.k8s.api.core.v1.Container")
    assert "container image" in container["properties"]["image"]["description"].lower()
    assert container["description"]


def test_python_spellings_of_fields_are_undone():
    rule = describe("io.k8s.api.networking.v1.NetworkPolicyIngressRule")
    assert "sources" in rule.fields["from"]
    props = describe("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
    assert {"$ref", "not", "x-kubernetes-validations"} <= props.fields.keys()
    assert describe("io.example.Nonsense").fields == {}


def test_custom_kinds_have_a_document_with_standard_fields():
    catalog = Catalog()
    catalog.add(custom_kind(replicas="integer"))
    api = OpenApi(catalog)
    document = json.loads(api.group("apis/stable.example.com/v1"))
    crontab = document["components"]["schemas"]["com.example.stable.v1.CronTab"]
    assert crontab["properties"].keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert crontab["properties"]["spec"]["properties"] == {"replicas": {"type": "integer"}}
    path = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"
    patch = document["paths"][path]["patch"]
    assert "application/strategic-merge-patch+json" not in patch["requestBody"]["content"]
    assert f"{path}/status" in document["paths"]


def test_documents_are_cached_until_their_group_changes():
    catalog = Catalog.builtin()
    api = OpenApi(catalog)
    core, apps = api.group("api/v1"), api.digest("apis/apps/v1")
    swagger = api.v2_digest()
    catalog.add(custom_kind(replicas="integer"))
    assert api.group("api/v1") is core
    assert api.digest("apis/apps/v1") == apps
    assert api.v2_digest() != swagger
    before = api.digest("apis/stable.example.com/v1")
    catalog.add(custom_kind(replicas="string"))
    assert api.digest("apis/stable.example.com/v1") not in ("", before)
    catalog.remove(custom_kind().resource)
    assert api.group("apis/stable.example.com/v1") is None
    assert api.v2_digest() == swagger


def test_an_unknown_group_has_no_document(api):
    assert api.group("apis/nonsense/v1") is None
    assert api.digest("nonsense") == ""


# --- protobuf -------------------------------------------------------------------------------------


def decode(data):
    """Top-level fields of a protobuf message: {number: [payloads]}."""
    found, at = {}, 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        elif tag & 7 == 0:
            value, at = varint(data, at)
        else:
            value, at = data[at : at + 8], at + 8
        found.setdefault(tag >> 3, []).append(value)
    assert at == len(data)
    return found


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def test_protobuf_has_the_paths_and_definitions_of_the_swagger_document(api):
    document = decode(api.v2_protobuf())
    swagger = json.loads(api.v2())
    assert document[1] == [b"2.0"]
    paths = [decode(entry)[1][0].decode() for entry in decode(document[8][0])[2]]
    assert paths == list(swagger["paths"])
    definitions = {
        decode(entry)[1][0].decode(): decode(decode(entry)[2][0])
        for entry in decode(document[9][0])[1]
    }
    assert definitions.keys() == swagger["definitions"].keys()
    spec = definitions["io.k8s.api.core.v1.PodSpec"]
    fields = {decode(f)[1][0].decode(): decode(decode(f)[2][0]) for f in decode(spec[25][0])[1]}
    assert (
        fields.keys() == swagger["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"].keys()
    )
    extensions = {
        decode(e)[1][0].decode(): decode(decode(e)[2][0])[2][0] for e in fields["containers"][31]
    }
    assert extensions["x-kubernetes-patch-merge-key"] == b'"name"'
    assert extensions["x-kubernetes-list-map-keys"] == b'["name"]'
