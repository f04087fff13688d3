"""CustomResourceDefinitions become kinds that prune, default and validate as upstream's do."""

import pytest

from kubarium.api import kinds
from kubarium.api.catalog import Catalog, Kind
from kubarium.api.crds import bundled, established_status, kinds_of
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.resource import Resource, copy_document
from kubarium.api.validation import validate_create, validate_update

CRDS = Catalog.builtin().lookup("apiextensions.k8s.io", "v1", "customresourcedefinitions")
SPEC = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "note": {"type": "string", "nullable": True, "maxLength": 3},
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "port": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "parts": {
            "type": "array",
            "maxItems": 2,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "weight": {"type": "integer", "default": 1},
                },
            },
        },
        "either": {"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}],
                   "properties": {"x": {"type": "string"}, "y": {"type": "string"}}},
    },
    "x-kubernetes-validations": [
        {"rule": "self.size != 7", "message": "seven is taken"},
        {"rule": "self.size >= oldSelf.size", "message": "must not shrink"},
    ],
}  # fmt: skip


def definition(spec_schema=None, **version) -> dict:
    schema = {"type": "object", "properties": {"spec": spec_schema or copy_document(SPEC)}}
    document = {
        "metadata": {"name": "foos.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"]},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    **version,
                }
            ],
        },
    }
    assert conform(CRDS, document) == []
    default(CRDS, document)
    return document


def foo_kind() -> Kind:
    return kinds_of(definition())[0]


KIND = foo_kind()


def foo(**spec) -> dict:
    document = {"metadata": {"name": "f", "namespace": "n"}, "spec": {"size": 1, **spec}}
    conform(KIND, document)
    default(KIND, document)
    return document


def complaints(**spec) -> list[str]:
    return [str(error) for error in validate_create(KIND, foo(**spec))]


def test_a_definition_gives_names_subresources_and_paths():
    crd = definition(
        subresources={
            "status": {},
            "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
        },
        selectableFields=[{"jsonPath": ".spec.mode"}],
    )
    kind = kinds_of(crd)[0]
    assert (kind.singular, kind.list_kind, kind.short_names) == ("foo", "FooList", ("fo",))
    assert kind.subresources == {"status", "scale"}
    assert kind.scale.spec_replicas == ("spec", "size")
    assert kind.selectable_fields["spec.mode"].path == ("spec", "mode")
    assert kind.custom
    assert kind.schema.at("metadata", "labels") is not None


def test_versions_share_the_storage_unless_a_webhook_would_convert():
    crd = definition()
    second = copy_document(crd["spec"]["versions"][0]) | {"name": "v2", "storage": False}
    crd["spec"]["versions"].append(second)
    assert [k.resource.version for k in kinds_of(crd)] == ["v1", "v2"]
    assert {k.storage.version for k in kinds_of(crd)} == {"v1"}
    crd["spec"]["conversion"] = {"strategy": "Webhook"}
    assert [k.resource.version for k in kinds_of(crd)] == ["v1"]


def test_unknown_fields_are_pruned_except_where_they_are_wanted():
    document = {
        "metadata": {"name": "f"},
        "spec": {"size": 1, "extra": 1, "free": {"x": {"y": 1}}, "parts": [{"name": "a", "z": 1}]},
        "other": {},
    }
    assert conform(KIND, document) == ["spec.extra", "spec.parts[0].z", "other"]
    assert document["spec"] == {"size": 1, "free": {"x": {"y": 1}}, "parts": [{"name": "a"}]}


def test_defaults_fill_absent_and_null_fields_also_in_lists():
    document = foo(mode=None, note=None, parts=[{"name": "a"}, {"name": "b", "weight": 3}])
    assert document["spec"]["mode"] == "a"
    assert document["spec"]["note"] is None
    assert [part["weight"] for part in document["spec"]["parts"]] == [1, 3]


def test_a_default_is_copied_and_never_shared():
    crd = definition({"type": "object", "properties": {"o": {"type": "object", "default": {},
                      "x-kubernetes-preserve-unknown-fields": True}}})  # fmt: skip
    kind = kinds_of(crd)[0]
    first, second = {"spec": {}}, {"spec": {}}
    default(kind, first)
    default(kind, second)
    first["spec"]["o"]["a"] = 1
    assert second["spec"]["o"] == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"size": "x"},
            'spec.size: Invalid value: "string": '
            'spec.size in body must be of type integer: "string"',
        ),
        (
            {"size": 0},
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            {"size": 10},
            "spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9",
        ),
        ({"mode": "c"}, 'spec.mode: Unsupported value: "c": supported values: "a", "b"'),
        ({"note": "long"}, "spec.note: Too long: may not be more than 3 bytes"),
        (
            {"name": "A"},
            "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
        ),
        (
            {"port": True},
            'spec.port: Invalid value: "boolean": '
            'spec.port in body must be of type integer,string: "boolean"',
        ),
        ({"tags": ["a", "a"]}, 'spec.tags[1]: Duplicate value: "a"'),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, 'spec.parts[1]: Duplicate value: {"name":"a"}'),
        ({"parts": [{}]}, "spec.parts[0].name: Required value"),
        (
            {"parts": [{"name": c} for c in "abc"]},
            "spec.parts: Too many: 3: must have at most 2 items",
        ),
        (
            {"either": {}},
            'spec.either: Invalid value: {}: "spec.either" must validate one and only one schema '
            "(oneOf). Found none valid",
        ),
        ({"size": 7}, "spec: Invalid value: seven is taken"),
    ],
)
def test_values_are_checked_in_upstreams_words(spec, message):
    found = complaints(**spec)
    assert any(text == message or text.endswith("seven is taken") for text in found), found


def test_a_good_resource_passes():
    assert (
        complaints(note=None, port="http", tags=["a", "b"], either={"x": "1"}, free={"a": 1}) == []
    )


def test_transition_rules_see_the_old_object():
    errors = validate_update(KIND, foo(size=2), foo(size=3))
    assert [error.path for error in errors] == ["spec"]
    assert "must not shrink" in str(errors[0])
    assert validate_update(KIND, foo(size=3), foo(size=2)) == []


def test_what_was_wrong_before_may_stay_wrong():
    old, new = foo(), foo(tags=["x"])
    old["spec"]["mode"] = new["spec"]["mode"] = "legacy"
    assert validate_update(KIND, new, old) == []
    new["spec"]["mode"] = "other"
    assert validate_update(KIND, new, old) != []


def test_names_of_custom_objects_are_subdomains():
    document = foo()
    document["metadata"]["name"] = "Not_OK"
    assert "metadata.name" in [error.path for error in validate_create(KIND, document)]


# --- definitions themselves ----------------------------------------------------------------------


def refusals(document) -> list[str]:
    return [str(error) for error in validate_create(CRDS, document)]


def test_a_good_definition_passes():
    assert refusals(definition()) == []


def broken(change) -> list[str]:
    document = definition()
    change(document)
    return refusals(document)


def spec_schema(document) -> dict:
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["spec"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["metadata"].update(name="x.example.com"), "must be spec.names.plural"),
        (lambda d: d["spec"].update(group="nodots"), "should be a domain with at least one dot"),
        (lambda d: d["spec"].update(scope="Local"), "spec.scope: Unsupported value"),
        (lambda d: d["spec"]["names"].update(kind="", plural=""), "spec.names.plural: Required"),
        (lambda d: d["spec"].update(versions=[]), "must have at least one version"),
        (
            lambda d: d["spec"]["versions"][0].update(storage=False),
            "must have exactly one version marked as storage version",
        ),
        (lambda d: d["spec"]["versions"][0].pop("schema"), "schemas are required"),
        (lambda d: spec_schema(d)["properties"].update(z={"type": "strin"}), "Unsupported value"),
        (lambda d: spec_schema(d)["properties"].update(z={}), "must not be empty for specified"),
        (lambda d: spec_schema(d)["properties"].update(z={"$ref": "#/x"}), "$ref is not supported"),
        (
            lambda d: spec_schema(d)["properties"].update(z={"type": "integer", "default": "x"}),
            "must be of type integer",
        ),
        (
            lambda d: spec_schema(d)["x-kubernetes-validations"].append({"rule": "self.nope > 1"}),
            "x-kubernetes-validations[2].rule",
        ),
        (
            lambda d: d["spec"]["versions"][0].update(
                additionalPrinterColumns=[{"name": "A", "type": "string", "jsonPath": ".a[?("}]
            ),
            "additionalPrinterColumns[0].jsonPath",
        ),
    ],
)
def test_bad_definitions_are_refused(change, words):
    found = broken(change)
    assert any(words in text for text in found), found


def test_group_and_scope_of_a_definition_stay():
    old = definition()
    new = copy_document(old)
    new["spec"]["scope"] = "Cluster"
    assert "spec.scope" in [error.path for error in validate_update(CRDS, new, old)]


def test_names_are_accepted_unless_another_kind_has_them():
    crd = definition()
    status = established_status(crd, [], now=0)
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert status["storedVersions"] == ["v1"]
    crd["status"] = status
    assert established_status(crd, [], now=99) == status, "times of unchanged conditions stay"
    other = copy_document(crd)
    other["spec"]["names"] |= {
        "plural": "bars",
        "singular": "bar",
        "kind": "Bar",
        "listKind": "BarList",
    }
    refused = established_status(other | {"status": {}}, kinds_of(crd), now=0)
    assert refused["conditions"][0]["reason"] == "ShortNamesConflict"


# --- bundled definitions -------------------------------------------------------------------------


@pytest.mark.parametrize("crd", bundled(), ids=lambda crd: crd["metadata"]["name"])
def test_bundled_definitions_are_valid_and_known_completely(crd):
    document = copy_document(crd)
    assert conform(CRDS, document) == []
    default(CRDS, document)
    assert refusals(document) == []


def test_kueue_and_jobset_are_bundled_in_the_versions_we_name():
    found = {kind.resource for crd in bundled() for kind in kinds_of(crd)}
    names = {(r.group, r.version, r.plural, r.kind, r.namespaced) for r in found}
    assert ("kueue.x-k8s.io", "v1beta2", "clusterqueues", "ClusterQueue", False) in names
    assert ("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet", True) in names
    assert ("kubarium.dev", "v1alpha1", "rankhistories", "RankHistory", True) in names


def test_every_custom_resource_that_our_code_names_is_bundled_as_named():
    found = {kind.resource for crd in bundled() for kind in kinds_of(crd)}
    ours = [value for value in vars(kinds).values() if isinstance(value, Resource)]
    assert {r for r in ours if r.group.endswith(("x-k8s.io", "kubeflow.org"))} <= found


def test_pod_templates_inside_custom_resources_are_the_built_in_ones():
    jobset = next(k for crd in bundled() for k in kinds_of(crd) if k.resource.kind == "JobSet")
    job = jobset.schema.at("spec", "replicatedJobs", "[]", "template", "spec")
    assert job.name == "io.k8s.api.batch.v1.JobSpec"
    containers = job.at("template", "spec", "containers")
    assert containers.list_map_keys == ("name",)
