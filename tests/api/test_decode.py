"""Bodies become documents, or a 400 or 415 that names the place."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.catalog import Catalog
from kubarium.api.decode import (
    conform,
    decode,
    identify,
    strict_decoding_error,
    unknown_fields,
)
from kubarium.api.manifests import MAX_DEPTH, decode_yaml, load_manifests
from kubarium.base.errors import ApiError

PODS = Catalog.builtin().lookup("", "v1", "pods")


def json_of(text: st.SearchStrategy[str]) -> st.SearchStrategy:
    return st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text,
        lambda child: st.lists(child, max_size=4) | st.dictionaries(text, child),
        max_leaves=20,
    )


json_values = json_of(st.text(max_size=8))
# libyaml does not know JSON's surrogate pairs, nor does the YAML reader of Kubernetes.
plain_text = st.text(st.characters(max_codepoint=0xD7FF), max_size=8)


def refusal(action, *arguments, code=400) -> str:
    with pytest.raises(ApiError) as caught:
        action(*arguments)
    assert caught.value.code == code
    return caught.value.message


def pod_refusal(spec) -> str:
    return refusal(conform, PODS, {"spec": spec})


# --- bytes ---------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=6), json_values))
def test_json_comes_through_unchanged(document):
    assert decode(orjson.dumps(document), "application/json") == (document, [])


@given(st.binary(max_size=60), st.sampled_from(["", "application/json", "application/yaml"]))
def test_any_bytes_give_an_object_or_a_400(body, content_type):
    assert isinstance(outcome(body, content_type), dict)


def outcome(body, content_type) -> dict:
    try:
        return decode(body, content_type)[0]
    except ApiError as error:
        return error.status() if error.code == 400 else error.code


@given(json_of(plain_text))
def test_yaml_reads_json(value):
    assert decode_yaml(json.dumps(value))[0] == value


def test_protobuf_is_refused_with_415_and_what_is_served():
    message = refusal(decode, b"k8s\x00", "application/vnd.kubernetes.protobuf", code=415)
    assert "application/json, application/yaml" in message
    assert "protobuf" in message


def test_malformed_json_is_refused_with_its_position():
    assert "json parse error" in refusal(decode, b'{"a":')


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"3", b"null"])
def test_only_objects_are_documents(body):
    assert "must be an object" in refusal(decode, body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_and_never_recurses(opening):
    body = b'{"a":' + opening * 900
    refusal(decode, body)
    closing = b"]" if opening == b"[" else b"}"
    body = b'{"a":' + opening * 300 + b"1" + closing * 300 + b"}"
    assert f"deeper than {MAX_DEPTH}" in refusal(decode, body)


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        (b'{"a":1,"a":2}', ["a"]),
        (b'{"spec":{"x":1, "x":1}}', ["spec.x"]),
        (b'{"l":[{"b":1},{"b":1,"b":2}]}', ["l[1].b"]),
        (b'{ "a" : 1 }', []),
    ],
)
def test_fields_given_twice_are_found_with_their_paths(body, paths):
    assert decode(body)[1] == paths


def test_yaml_fields_given_twice_are_found_too():
    assert decode(b"spec:\n  a: 1\n  a: 2\n", "application/yaml")[1] == ["spec.a"]


# --- YAML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("0644", 420),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("-0", 0),
        ("1.5", 1.5),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("=", "="),
        ("1e3x", "1e3x"),
        ("09", "09"),
        ("99999999999999999999999", 1e23),
    ],
)
def test_plain_scalars_resolve_as_kubernetes_reads_them(text, value):
    assert decode_yaml(f"a: {text}\n")[0] == {"a": value}


def test_keys_become_strings_and_merges_give_way_to_own_fields():
    text = "base: &b {x: 1, y: 2}\n1: a\ntrue: b\nown: {<<: *b, x: 3}\n"
    value, duplicates = decode_yaml(text)
    assert value["own"] == {"x": 3, "y": 2}
    assert (value["1"], value["true"]) == ("a", "b")
    assert duplicates == []


def test_aliases_are_copies_so_that_changing_one_leaves_the_other():
    value, _ = decode_yaml("a: &x {k: 1}\nb: *x\n")
    value["a"]["k"] = 2
    assert value["b"] == {"k": 1}


def test_a_bomb_of_aliases_is_refused():
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    for name, before in zip("bcdefg", "abcdef", strict=True):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]")
    assert "nodes after aliases" in refusal(decode_yaml, "\n".join(lines))


def test_malformed_yaml_names_line_and_column():
    assert "line 2, column" in refusal(decode_yaml, "a: [1\nb: 2\n")


def test_manifests_split_into_documents_and_empty_ones_vanish():
    assert load_manifests("a: 1\n---\n---\n# nothing\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]
    assert "document 1: an object" in refusal(load_manifests, "- a\n")
    assert 'duplicate field "a"' in refusal(load_manifests, "a: 1\na: 2\n")


# --- documents of a kind -------------------------------------------------------------------------


def test_null_means_absent_and_quantities_become_canonical():
    limits = {"cpu": "1000m", "memory": "1024Mi", "a.b/c": 2}
    document = {
        "metadata": {"name": "a", "labels": None},
        "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}], "nodeName": None},
    }
    assert conform(PODS, document) == []
    assert document["metadata"] == {"name": "a"}
    assert "nodeName" not in document["spec"]
    assert limits == {"cpu": "1", "memory": "1Gi", "a.b/c": "2"}


def test_unknown_fields_are_dropped_and_reported():
    document = {"spec": {"containers": [{"name": "c", "imago": 1}], "foo": {}}, "x": 1}
    assert unknown_fields(PODS.schema, document) == ["spec.containers[0].imago", "spec.foo", "x"]
    assert conform(PODS, document) == ["spec.containers[0].imago", "spec.foo", "x"]
    assert document == {"spec": {"containers": [{"name": "c"}]}}


def test_the_strict_error_lists_unknown_and_duplicate_fields():
    error = strict_decoding_error(PODS, ["spec.foo"], ["spec.bar"])
    assert error.code == 400
    assert error.message == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
        'unknown field "spec.foo", duplicate field "spec.bar"'
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"containers": {}}, "cannot unmarshal object into Go struct field spec.containers"),
        ({"containers": [{"env": [{"value": 1}]}]}, "spec.containers[0].env[0].value"),
        ({"activeDeadlineSeconds": 1.5}, "number 1.5"),
        ({"activeDeadlineSeconds": "1"}, "cannot unmarshal string"),
        ({"priority": 2**31}, "of type int32"),
        ({"hostNetwork": 1}, "of type bool"),
        ({"nodeSelector": {"a": True}}, "spec.nodeSelector.a of type string"),
        ({"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}, "must match the regular"),
        ({"containers": [{"resources": {"limits": {"cpu": []}}}]}, "limits.cpu"),
    ],
)
def test_wrong_types_are_refused_naming_field_and_type(spec, words):
    message = pod_refusal(spec)
    assert message.startswith('Pod in version "v1" cannot be handled as a Pod: ')
    assert words in message


def test_times_and_base64_are_checked():
    assert "parsing time" in refusal(conform, PODS, {"metadata": {"creationTimestamp": "now"}})
    secrets = Catalog.builtin().lookup("", "v1", "secrets")
    assert "data.a: illegal base64" in refusal(conform, secrets, {"data": {"a": "#"}})


def test_identity_is_filled_in_or_must_match():
    document: dict = {}
    identify(PODS, document)
    assert document == {"apiVersion": "v1", "kind": "Pod"}
    assert "does not match" in refusal(identify, PODS, {"apiVersion": "v2", "kind": "Pod"})
    message = refusal(identify, PODS, {"apiVersion": "v1", "kind": "ConfigMap"})
    assert message.startswith('ConfigMap in version "v1" cannot be handled as a Pod')


def test_a_time_is_text_for_json_has_none():
    assert decode_yaml("a: !!timestamp b") == ({"a": "b"}, [])
    assert decode_yaml("a: 2026-01-01") == ({"a": "2026-01-01"}, [])
