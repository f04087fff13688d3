"""Whatever arrives, every kind answers with a document or a list of complaints, never a crash."""

from functools import lru_cache

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.crds import bundled, kinds_of
from kubarium.api.decode import conform, decode
from kubarium.api.defaulting import default
from kubarium.api.resource import copy_document
from kubarium.api.schema import Schema
from kubarium.api.tables import table
from kubarium.api.validation import validate_create, validate_status_update, validate_update
from kubarium.base.errors import ApiError, FieldError, invalid

WORDS = ["", "a", "A b", "x/y", "-", "10%", "None", "In", "1Gi", "a.b/c", "/x", "../y", "ü" * 5]
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.sampled_from(WORDS)
anything = st.recursive(
    scalars,
    lambda child: st.lists(child, max_size=2) | st.dictionaries(st.sampled_from(WORDS), child),
    max_leaves=5,
)
MAX_DEPTH = 10


@lru_cache(maxsize=1)
def all_kinds() -> list[Kind]:
    catalog = Catalog.builtin()
    for definition in bundled():
        for kind in kinds_of(definition):
            catalog.add(kind)
    return catalog.kinds()


def scalar_of(schema: Schema) -> st.SearchStrategy:
    if schema.enum:
        return st.sampled_from([*schema.enum, "Other"])
    if schema.quantity:
        return st.sampled_from(["1", "500m", "1Gi", -1, 0, "1.5"])
    if schema.int_or_string:
        return st.sampled_from([0, 1, -5, "a", "25%", 70_000])
    if schema.type == "string":
        if schema.format == "date-time":
            return st.just("2026-01-01T00:00:00Z")
        return st.sampled_from(["YWJj"] if schema.format == "byte" else WORDS)
    numbers = {"integer": st.sampled_from([0, 1, -1, 100_000]), "number": st.just(1.5)}
    return numbers.get(schema.type, st.booleans() if schema.type == "boolean" else anything)


@st.composite
def value_of(draw, schema: Schema, depth: int = 0):
    """A value of a schema's shape: most fields absent, all sorts of texts and numbers."""
    if depth > MAX_DEPTH or (depth > 1 and draw(st.integers(0, 60)) == 0):
        return draw(anything)
    if schema.type == "array" and schema.items is not None:
        return [draw(value_of(schema.items, depth + 1)) for _ in range(draw(st.integers(0, 2)))]
    if schema.type == "object" and schema.has_fields:
        names = schema.field_names
        chosen = st.lists(st.sampled_from(names), unique=True, max_size=6)
        wanted = names if depth == 0 else draw(chosen)
        return {name: draw(value_of(schema.field(name), depth + 1)) for name in wanted}
    if schema.type == "object" and schema.additional is not None:
        keys = draw(st.lists(st.sampled_from(WORDS), unique=True, max_size=2))
        return {key: draw(value_of(schema.additional, depth + 1)) for key in keys}
    return draw(scalar_of(schema))


def admitted(kind: Kind, value) -> dict | None:
    """The document as the server would hold it before validation, None if it is refused."""
    try:
        document, _ = decode(orjson.dumps(value), "application/json")
        conform(kind, document)
    except ApiError as error:
        if error.code != 400:
            raise
        return None
    document.setdefault("metadata", {})
    default(kind, document)
    return document


def check_errors(kind: Kind, errors: list[FieldError]) -> None:
    assert all(isinstance(error, FieldError) for error in errors)
    if errors:
        status = invalid(kind.resource.kind, kind.resource.group, "x", errors).status()
        assert orjson.loads(orjson.dumps(status))["code"] == 422


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_documents_of_any_kind_and_content_are_judged(data):
    kind = data.draw(st.sampled_from(all_kinds()))
    old = admitted(kind, data.draw(value_of(kind.schema)))
    new = admitted(kind, data.draw(value_of(kind.schema)))
    if old is None or new is None:
        return
    check_errors(kind, validate_create(kind, old))
    check_errors(kind, validate_update(kind, new, old))
    check_errors(kind, validate_status_update(kind, new, old))
    shown = table(kind, [old, new], now=1.8e9)
    width = len(shown["columnDefinitions"])
    assert [len(row["cells"]) for row in shown["rows"]] == [width, width]


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "data"]), anything))
@settings(max_examples=30, deadline=None)
def test_arbitrary_json_is_judged_by_every_kind(value):
    for kind in all_kinds():
        document = admitted(kind, value)
        if document is not None:
            check_errors(kind, validate_create(kind, document))


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_decoding_and_defaulting_are_idempotent(data):
    kind = data.draw(st.sampled_from(all_kinds()))
    document = admitted(kind, data.draw(value_of(kind.schema)))
    if document is None:
        return
    again = copy_document(document)
    assert conform(kind, again) == []
    default(kind, again)
    assert again == document


@pytest.mark.parametrize(
    "kind", all_kinds(), ids=lambda k: f"{k.resource.api_version}/{k.singular}"
)
def test_an_unchanged_object_is_a_valid_update_as_far_as_its_content_goes(kind):
    document = admitted(kind, {"metadata": {"name": "a", "resourceVersion": "1"}})
    assert document is not None
    for error in validate_update(kind, document, document):
        assert not error.path.startswith("metadata"), error
