"""Published manifests, unmodified, pass the whole way from bytes to a valid document."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.crds import bundled, kinds_of
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.manifests import load_manifests
from kubarium.api.validation import validate_create


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    found = Catalog.builtin()
    for crd in bundled():
        for kind in kinds_of(crd):
            found.add(kind)
    return found


def test_the_labs_manifests_are_valid(catalog, lab_manifests):
    judged = 0
    for path in sorted(lab_manifests.rglob("*.yaml")):
        for document in load_manifests(path.read_bytes()):
            kind = catalog.for_document(document.get("apiVersion", ""), document.get("kind", ""))
            if kind is None:  # kinds of other projects and files that are no API objects
                continue
            metadata = document.setdefault("metadata", {})
            metadata.setdefault("name", f"{metadata.get('generateName', '')}x")
            if kind.namespaced:
                metadata.setdefault("namespace", "default")
            assert conform(kind, document) == [], path
            default(kind, document)
            errors = [str(error) for error in validate_create(kind, document)]
            assert errors == [], path
            judged += 1
    assert judged >= 20


def test_the_published_definitions_are_valid_as_they_come(catalog, shared):
    crds = catalog.lookup("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    judged = 0
    for project in ("jobset", "scheduler-plugins", "gateway-api", "lws"):
        for path in sorted((shared / "crds" / project).glob("*.yaml")):
            for document in load_manifests(path.read_bytes()):
                if document.get("kind") != "CustomResourceDefinition":
                    continue
                assert conform(crds, document) == [], path
                default(crds, document)
                assert [str(e) for e in validate_create(crds, document)][:3] == [], path
                assert kinds_of(document)
                judged += 1
    assert judged >= 10
