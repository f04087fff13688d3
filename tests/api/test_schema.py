"""The distilled schemas say what the published ones say."""

import importlib.util
import json
from pathlib import Path

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.schema import Schema, builtin_schemas, definition

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.builtin()


def pod() -> Schema:
    return definition("io.k8s.api.core.v1.Pod")


def test_lists_know_their_merge_keys_and_map_keys():
    ports = pod().at("spec", "containers", "[]", "ports")
    assert (ports.list_type, ports.list_map_keys) == ("map", ("containerPort", "protocol"))
    assert (ports.patch_merge_key, ports.patch_strategy) == ("containerPort", ("merge",))


def test_volumes_merge_and_retain_keys():
    assert pod().at("spec", "volumes").patch_strategy == ("merge", "retainKeys")


def test_an_annotation_at_a_reference_does_not_leak_into_the_definition():
    strategy = definition("io.k8s.api.apps.v1.DeploymentSpec").field("strategy")
    assert strategy.patch_strategy == ("retainKeys",)
    assert definition("io.k8s.api.apps.v1.DeploymentStrategy").patch_strategy == ()
    assert strategy.field("type").enum == ("Recreate", "RollingUpdate")


def test_selectors_are_atomic_maps():
    assert definition("io.k8s.api.core.v1.PodSpec").field("nodeSelector").map_type == "atomic"


def test_quantities_and_int_or_string_are_marked():
    requests = pod().at("spec", "containers", "[]", "resources", "requests")
    assert requests.additional.quantity
    assert definition("io.k8s.api.core.v1.ServicePort").field("targetPort").int_or_string


def test_an_unknown_field_is_none():
    assert pod().field("spek") is None
    assert pod().at("spec", "containers", "[]", "imago") is None


def test_recursive_definitions_resolve_lazily():
    name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
    node = definition(name)
    assert node.at("properties", "x", "properties", "y", "not") is node


def test_every_definition_resolves_completely():
    schemas = builtin_schemas()
    for name in schemas.definition_names():
        node = schemas.definition(name)
        assert node is not None
        for child in node.fields().values():
            assert child.type in ("object", "array", "string", "integer", "number", "boolean", "")


def test_required_fields_exist(catalog):
    for name in builtin_schemas().definition_names():
        node = definition(name)
        assert set(node.required) <= set(node.field_names), name


def distil_module():
    path = ROOT / "scripts" / "distil_schema.py"
    spec = importlib.util.spec_from_file_location("distil_schema", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_data_file_is_what_the_script_makes():
    pytest.importorskip("kubernetes_validate", reason="the schema source is a dev dependency")
    stored = (ROOT / "src/kubarium/api/data/kubernetes-1.37.json").read_text(encoding="utf-8")
    assert json.loads(stored) == distil_module().distil(), "run scripts/distil_schema.py"


def test_the_data_file_stays_small():
    size = (ROOT / "src/kubarium/api/data/kubernetes-1.37.json").stat().st_size
    assert size < 300 * 1024
