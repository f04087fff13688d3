"""What is remembered of equal specs is what would be found out again."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api import decode, templates
from kubarium.api.catalog import Catalog
from kubarium.api.kinds import CONFIG_MAPS, EVENTS, NODES, PODS, RESOURCE_CLAIMS
from kubarium.api.managed_fields import created, track_update
from kubarium.api.managed_fields.created import created_set
from kubarium.api.managed_fields.typed import compare
from kubarium.api.resource import copy_document
from kubarium.api.templates import REMEMBERED, Remembered, spec_content

CATALOG = Catalog.builtin()
POD, CLAIM = CATALOG.of(PODS), CATALOG.of(RESOURCE_CLAIMS)

quantities = st.sampled_from(["1", "0.5", "500m", 2, "1Gi", "1024Mi"])
containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("abc"), "image": st.sampled_from(["x", "y"])},
        optional={
            "resources": st.fixed_dictionaries(
                {"requests": st.dictionaries(st.sampled_from(["cpu", "memory"]), quantities)}
            ),
            "tty": st.sampled_from([True, False, None]),
            "ports": st.just([{"containerPort": 80.0}]),
            "env": st.just([{"name": "A", "value": None}]),
        },
    ),
    max_size=2,
)
specs = st.fixed_dictionaries(
    {"containers": containers},
    optional={"nodeName": st.sampled_from(["n", None]), "priority": st.sampled_from([1, 1.0])},
)


def pod(spec, name="p"):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def forget(monkeypatch):
    monkeypatch.setattr(decode, "_CONFORMING", Remembered())


@given(specs)
def test_a_remembered_spec_conforms_as_one_that_is_looked_at(spec):
    decode._CONFORMING = Remembered()
    first, again = pod(copy_document(spec)), pod(copy_document(spec), "q")
    assert decode.conform(POD, first) == decode.conform(POD, again) == []
    assert orjson.dumps(first["spec"]) == orjson.dumps(again["spec"])
    assert list(first) == list(again)


@given(specs)
def test_a_remembered_spec_has_the_same_owners(spec):
    documents = [pod(copy_document(spec), name) for name in ("p", "q")]
    for document in documents:
        decode.conform(POD, document)
    first, again = (
        track_update(None, d, manager="m", schema=POD.schema, now=0.0) for d in documents
    )
    assert first["metadata"]["managedFields"] == again["metadata"]["managedFields"]
    # The answer that was worked out, without anything remembered.
    whole = track_update(
        {"metadata": {}, "spec": {}}, documents[0], manager="m", schema=POD.schema, now=0.0
    )
    fields = [d["metadata"].get("managedFields") for d in (first, whole)]
    if documents[0]["spec"]:
        assert fields[0][0]["fieldsV1"]["f:spec"] == fields[1][0]["fieldsV1"]["f:spec"]


names = st.sampled_from(["a", "b.c/d", "e"])
texts = st.dictionaries(names, st.sampled_from(["", "x", "y"]), max_size=2)
owners = st.lists(
    st.fixed_dictionaries(
        {"uid": st.sampled_from("123"), "name": st.sampled_from("xy")},
        optional={"controller": st.booleans()},
    ),
    max_size=2,
)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "name": names,
        "generateName": names,
        "labels": texts,
        "annotations": texts,
        "finalizers": st.lists(names, max_size=2, unique=True),
        "ownerReferences": owners,
    },
)
KINDS = [CATALOG.of(r) for r in (PODS, RESOURCE_CLAIMS, EVENTS, CONFIG_MAPS, NODES)]
members = st.fixed_dictionaries(
    {"metadata": metadata},
    optional={
        "spec": st.one_of(specs, st.just({})),
        "data": texts,
        "message": st.sampled_from(["", "m"]),
        "involvedObject": st.dictionaries(names, names, max_size=1),
        "source": st.dictionaries(st.sampled_from(["component", "host"]), names),
        "status": st.fixed_dictionaries({"phase": names}, optional={"images": st.just([{}])}),
    },
)


@given(st.lists(st.tuples(st.sampled_from(KINDS), members), min_size=1, max_size=6))
def test_what_a_shape_is_remembered_to_set_is_what_its_objects_set(made):
    created._SETS = Remembered()
    for kind, document in made:
        for _ in range(2):
            found = created_set(document, kind.schema)
            worked_out = compare({}, document, kind.schema).changed
            assert orjson.dumps(found) == orjson.dumps(worked_out)


def test_objects_of_one_shape_share_their_set():
    one, other = (
        track_update(None, pod({"containers": []}, name), manager="m", schema=POD.schema, now=0.0)
        for name in "pq"
    )
    sets = [d["metadata"]["managedFields"][0]["fieldsV1"] for d in (one, other)]
    assert sets[0] is sets[1]


def test_what_is_remembered_is_not_what_callers_change(monkeypatch):
    forget(monkeypatch)
    spec = {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "0.5"}}}]}
    for _ in range(3):
        document = pod(copy_document(spec))
        assert decode.conform(POD, document) == []
        assert document["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}}
        document["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "9"
        document["spec"]["containers"].append({"name": "b"})


def test_unknown_fields_are_reported_each_time(monkeypatch):
    forget(monkeypatch)
    for _ in range(2):
        document = pod({"containers": [], "nosuch": 1})
        assert decode.conform(POD, document) == ["spec.nosuch"]
        assert document["spec"] == {"containers": []}
    document = pod({"containers": []})
    document["nosuch"] = 1
    assert decode.conform(POD, document) == ["nosuch"]


def test_kinds_are_told_apart_and_most_are_not_remembered():
    assert spec_content(POD, pod({})) != spec_content(CLAIM, pod({}))
    assert spec_content(CATALOG.lookup("apps", "v1", "deployments"), pod({})) is None
    assert spec_content(POD, pod(None)) is None
    assert spec_content(POD, pod({"x": object()})) is None


def test_no_more_is_remembered_than_the_limit():
    book = Remembered()
    for number in range(REMEMBERED + 1):
        book.put(b"%d" % number, number)
        assert book.get(b"%d" % number) == number
    assert len(book) == 1
    assert book.get(None) is None
    book.put(None, 1)
    assert len(book) == 1


def test_definitions_are_those_of_the_kinds():
    for kind in (POD, CLAIM):
        assert templates.is_from_template(kind.resource)
        assert kind.schema.name in templates.TEMPLATED_DEFINITIONS
