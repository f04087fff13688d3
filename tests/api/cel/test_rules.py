"""x-kubernetes-validations: what compiles, what is judged when, and what is said."""

import pytest

from kubarium.api.cel.rules import compile_rules, escape
from kubarium.api.schema import Schema


class Structural:
    """A minimal source of schemas from OpenAPI dicts."""

    def node(self, reference):
        schema = Schema(self, reference.get("type", ""))
        schema.format = reference.get("format", "")
        schema.int_or_string = reference.get("x-kubernetes-int-or-string", False)
        schema.preserve_unknown = reference.get("x-kubernetes-preserve-unknown-fields", False)
        schema.list_type = reference.get("x-kubernetes-list-type", "")
        schema.list_map_keys = tuple(reference.get("x-kubernetes-list-map-keys", ()))
        schema.validations = tuple(reference.get("x-kubernetes-validations", ()))
        schema.define(
            fields=reference.get("properties", {}),
            items=reference.get("items"),
            additional=reference.get("additionalProperties"),
        )
        return schema


STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def rules(*declared, **properties):
    """Rules on ``spec`` of an object with these properties."""
    spec = {
        "type": "object",
        "properties": properties,
        "x-kubernetes-validations": [
            {"rule": rule} if isinstance(rule, str) else rule for rule in declared
        ],
    }
    return Structural().node({"type": "object", "properties": {"spec": spec}})


def judge(schema, new, old=None):
    compiled = compile_rules(schema)
    assert compiled.errors == []
    before = None if old is None else {"spec": old}
    return [str(error) for error in compiled.evaluate({"spec": new}, before)]


def test_a_rule_that_holds_says_nothing():
    schema = rules("self.min <= self.max", min=INTEGER, max=INTEGER)
    assert judge(schema, {"min": 1, "max": 2}) == []


def test_a_broken_rule_gives_its_text_or_its_message():
    schema = rules(
        "self.min <= self.max",
        {"rule": "self.min > 0", "message": "min must be positive"},
        min=INTEGER,
        max=INTEGER,
    )
    assert judge(schema, {"min": 0, "max": -1}) == [
        'spec: Invalid value: "object": failed rule: self.min <= self.max',
        'spec: Invalid value: "object": min must be positive',
    ]


def test_message_expression_reason_and_field_path():
    schema = rules(
        {
            "rule": "self.n < 5",
            "messageExpression": "'n is ' + string(self.n)",
            "reason": "FieldValueForbidden",
            "fieldPath": ".n",
        },
        n=INTEGER,
    )
    assert judge(schema, {"n": 7}) == ["spec.n: Forbidden: n is 7"]


def test_a_message_expression_that_fails_falls_back_to_the_message():
    schema = rules(
        {"rule": "self.n < 5", "messageExpression": "self.s", "message": "too much"},
        n=INTEGER,
        s=STRING,
    )
    assert judge(schema, {"n": 7}) == ['spec: Invalid value: "object": too much']


def test_absent_fields_are_found_by_has_and_fail_when_read():
    schema = rules("!has(self.s) || self.s != ''", s=STRING)
    assert judge(schema, {}) == []
    reading = rules("self.s != ''", s=STRING)
    assert judge(reading, {}) == [
        "spec: Invalid value: \"object\": no such key: s evaluating rule: self.s != ''"
    ]


def test_transition_rules_run_on_update_only():
    schema = rules({"rule": "self.s == oldSelf.s", "message": "immutable"}, s=STRING)
    assert judge(schema, {"s": "a"}) == []
    assert judge(schema, {"s": "b"}, {"s": "a"}) == ['spec: Invalid value: "object": immutable']
    assert judge(schema, {"s": "a"}, {"s": "a"}) == []


def test_optional_old_self_runs_on_create_too():
    rule = "!oldSelf.hasValue() ? self.n == 0 : oldSelf.value().n <= self.n"
    schema = rules({"rule": rule, "optionalOldSelf": True, "message": "no"}, n=INTEGER)
    assert judge(schema, {"n": 0}) == []
    assert judge(schema, {"n": 1}) == ['spec: Invalid value: "object": no']
    assert judge(schema, {"n": 1}, {"n": 0}) == []
    assert judge(schema, {"n": 0}, {"n": 1}) == ['spec: Invalid value: "object": no']


def test_an_unchanged_value_is_not_judged_again():
    schema = rules("self.n > 0", n=INTEGER)
    assert judge(schema, {"n": 0}, {"n": 0}) == []
    assert len(judge(schema, {"n": -1}, {"n": 0})) == 1


def list_of(list_type, **extra):
    item = {
        "type": "object",
        "properties": {"key": STRING, "n": INTEGER},
        "x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n", "message": "shrinks"}],
    }
    return {"type": "array", "items": item, "x-kubernetes-list-type": list_type, **extra}


def test_items_of_map_lists_are_matched_by_key():
    schema = rules(items=list_of("map", **{"x-kubernetes-list-map-keys": ["key"]}))
    old = {"items": [{"key": "a", "n": 5}, {"key": "b", "n": 1}]}
    new = {"items": [{"key": "b", "n": 2}, {"key": "a", "n": 4}, {"key": "c", "n": 0}]}
    assert judge(schema, new, old) == ['spec.items[1]: Invalid value: "object": shrinks']


def test_items_of_atomic_lists_have_no_old_self():
    schema = rules(items=list_of("atomic"))
    assert judge(schema, {"items": [{"n": 0}]}, {"items": [{"n": 5}]}) == []


def test_map_values_are_named_by_key():
    value = INTEGER | {"x-kubernetes-validations": [{"rule": "self > 0"}]}
    schema = rules(m={"type": "object", "additionalProperties": value})
    assert judge(schema, {"m": {"a.b": 0}}) == [
        'spec.m[a.b]: Invalid value: "integer": failed rule: self > 0'
    ]


def test_typed_strings_are_times_durations_and_bytes():
    schema = rules(
        "self.when < timestamp('2030-01-01T00:00:00Z')",
        "self.wait <= duration('1h')",
        "self.data == b'abc'",
        "self.day.getFullYear() == 2024",
        "has(self.when)",
        "self.all.all(t, t > timestamp('2020-01-01T00:00:00Z'))",
        when={"type": "string", "format": "date-time"},
        wait={"type": "string", "format": "duration"},
        data={"type": "string", "format": "byte"},
        day={"type": "string", "format": "date"},
        all={"type": "array", "items": {"type": "string", "format": "date-time"}},
    )
    good = {
        "when": "2029-01-01T00:00:00Z",
        "wait": "30m",
        "data": "YWJj",
        "day": "2024-05-01",
        "all": ["2021-01-01T00:00:00Z"],
    }
    assert judge(schema, good) == []
    late = good | {"when": "2031-01-01T00:00:00Z", "wait": "61m", "all": ["2019-01-01T00:00:00Z"]}
    assert len(judge(schema, late)) == 3


def test_numbers_are_doubles_and_mixed_types_stay_dynamic():
    schema = rules(
        "self.ratio < 1.5",
        "type(self.port) == int ? self.port > 0 : self.port != ''",
        ratio={"type": "number"},
        port={"x-kubernetes-int-or-string": True},
    )
    assert judge(schema, {"ratio": 1, "port": "http"}) == []
    assert len(judge(schema, {"ratio": 2, "port": 0})) == 2


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("plain", "plain"),
        ("foo-bar", "foo__dash__bar"),
        ("a.b/c", "a__dot__b__slash__c"),
        ("namespace", "__namespace__"),
        ("a__b", "a__underscores__b"),
        ("1st", None),
        ("a b", None),
    ],
)
def test_property_names_are_escaped(name, escaped):
    assert escape(name) == escaped
    if escaped:
        assert judge(rules(f"self.{escaped} == 'x'", **{name: STRING}), {name: "x"}) == []


def test_reserved_words_may_also_be_written_plainly():
    schema = rules("!has(self.namespace) || self.namespace == 'x'", namespace=STRING)
    assert judge(schema, {"namespace": "x"}) == []
    assert len(judge(schema, {"namespace": "y"})) == 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "rule is not specified"),
        ("self.", "Syntax error"),
        ("self.nonsense", "undefined field 'nonsense'"),
        ("self.items.all(i, i.nonsense == 1)", "undefined field 'nonsense'"),
        ("has(self.nonsense)", "undefined field 'nonsense'"),
        ("self.items[0].nonsense == 1", "undefined field 'nonsense'"),
        ("1", "to a bool, not int"),
        ("other == 1", "undeclared reference to 'other'"),
    ],
)
def test_rules_that_do_not_compile_are_reported_with_their_place(rule, message):
    items = {"type": "array", "items": {"type": "object", "properties": {"n": INTEGER}}}
    compiled = compile_rules(rules(rule, items=items, n=INTEGER))
    assert [error.path for error in compiled.errors] == [
        "openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule"
    ]
    assert message in str(compiled.errors[0])
    assert compiled.evaluate({"spec": {"n": 1}}) == []


def test_scalars_are_type_checked():
    value = INTEGER | {"x-kubernetes-validations": [{"rule": "self == 'a'"}]}
    compiled = compile_rules(rules(n=value))
    assert "found no matching overload for '_==_'" in str(compiled.errors[0])
