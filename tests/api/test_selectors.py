"""Label and field selectors parse, print and match as upstream's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.catalog import Catalog
from kubarium.api.selectors import (
    EXISTS,
    NOTHING,
    Requirement,
    Selector,
    label_map_selector,
    label_selector,
    parse_fields,
    parse_labels,
)
from kubarium.base.errors import ApiError

CATALOG = Catalog.builtin()
keys = st.from_regex(r"\A[a-z]([a-z0-9]{0,5}[a-z0-9])?\Z")
values = st.from_regex(r"\A([a-z]([a-z0-9]{0,5}[a-z0-9])?)?\Z")
labels = st.dictionaries(keys, values, max_size=4)


@st.composite
def requirements(draw) -> Requirement:
    operator = draw(st.sampled_from(["in", "notin", "=", "==", "!=", "exists", "!", "gt", "lt"]))
    if operator in ("in", "notin"):
        chosen = draw(st.lists(values, min_size=1, max_size=3, unique=True))
    elif operator in ("gt", "lt"):
        chosen = [str(draw(st.integers(0, 99)))]
    else:
        chosen = [] if operator in ("exists", "!") else [draw(values)]
    return Requirement(draw(keys), operator, tuple(chosen))


def refusal(action, *arguments) -> str:
    with pytest.raises(ApiError) as caught:
        action(*arguments)
    assert caught.value.code == 400
    return caught.value.message


@given(st.lists(requirements(), max_size=3), labels)
def test_printing_and_parsing_keeps_the_meaning(wanted, present):
    selector = Selector(tuple(wanted))
    parsed = parse_labels(str(selector))
    assert parsed.matches(present) == selector.matches(present)
    assert str(parse_labels(str(parsed))) == str(parsed)


@given(requirements(), labels)
def test_opposite_operators_never_agree(wanted, present):
    opposite = {"in": "notin", "=": "!=", "==": "!=", "exists": "!"}.get(wanted.operator)
    if opposite:
        other = Requirement(wanted.key, opposite, wanted.values)
        assert wanted.matches(present) is not other.matches(present)


@given(st.text(alphabet="ab =!,()<>innot\t", max_size=15))
def test_any_text_is_a_selector_or_a_400(text):
    assert parsed_or_code(text) in (Selector, 400)


def parsed_or_code(text):
    try:
        return type(parse_labels(text))
    except ApiError as error:
        return error.code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
    ],
)
def test_malformed_selectors_say_what_was_expected(text, message):
    assert refusal(parse_labels, text) == message


@pytest.mark.parametrize("text", ["a in () b", "a in (", "a>x", "-a", "a=-", "a=b c"])
def test_well_formed_nonsense_is_refused(text):
    refusal(parse_labels, text)


def test_words_that_are_operators_may_be_keys_and_values():
    assert parse_labels("in in (in, notin)").matches({"in": "notin"})


def test_an_empty_item_of_a_set_is_the_empty_value():
    assert parse_labels("a in (,b)").matches({"a": ""})


def test_absence_satisfies_negative_requirements():
    for text in ("!a", "a!=b", "a notin (b)"):
        assert parse_labels(text).matches(None), text


def test_a_null_document_selects_nothing_and_an_empty_one_everything():
    assert label_selector(None) is NOTHING
    assert not label_selector(None).matches({"a": "b"})
    assert label_selector({}).empty
    assert label_selector({}).matches(None)


def test_documents_select_by_labels_and_expressions():
    selector = label_selector(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "canary", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector.matches({"app": "web", "tier": "a"})
    assert not selector.matches({"app": "web", "tier": "c"})
    assert not selector.matches({"app": "web", "tier": "a", "canary": ""})
    assert str(selector) == "app=web,tier in (a,b),!canary"


def test_an_unknown_operator_of_a_document_is_refused():
    selector = {"matchExpressions": [{"key": "a", "operator": "Near"}]}
    assert refusal(label_selector, selector) == '"Near" is not a valid label selector operator'


def test_an_empty_map_of_a_service_selects_no_pods():
    assert not label_map_selector({}).matches({"a": "b"})
    assert label_map_selector({"a": "b"}).matches({"a": "b", "c": "d"})


def test_existence_is_a_requirement_of_its_own():
    assert parse_labels("a").requirements == (Requirement("a", EXISTS),)


# --- fields --------------------------------------------------------------------------------------

PODS = CATALOG.lookup("", "v1", "pods")


def pod(node: str = "", phase: str = "Running") -> dict:
    return {"metadata": {"name": "p"}, "spec": {"nodeName": node}, "status": {"phase": phase}}


def test_field_terms_compare_and_must_all_hold():
    selector = parse_fields("status.phase!=Succeeded,spec.nodeName=n", PODS)
    assert selector.matches(pod("n"))
    assert not selector.matches(pod("m"))
    assert not selector.matches(pod("n", "Succeeded"))
    assert selector.exact("spec.nodeName") == "n"
    assert selector.exact("status.phase") is None


def test_an_absent_field_reads_as_its_zero_value():
    assert parse_fields("spec.nodeName=", PODS).matches({"metadata": {}})
    nodes = CATALOG.lookup("", "v1", "nodes")
    assert parse_fields("spec.unschedulable=false", nodes).matches({"metadata": {}})
    assert parse_fields("spec.unschedulable=true", nodes).matches({"spec": {"unschedulable": True}})


def test_escapes_stand_for_themselves():
    secrets = CATALOG.lookup("", "v1", "secrets")
    assert parse_fields(r"type=a\,b\=c\\", secrets).matches({"type": "a,b=c\\"})


def test_unknown_fields_are_refused_by_name():
    assert refusal(parse_fields, "spec.foo=1", PODS) == "field label not supported: spec.foo"
    config = CATALOG.lookup("", "v1", "configmaps")
    assert refusal(parse_fields, "data=1", config) == (
        '"data" is not a known field selector: only "metadata.name", "metadata.namespace"'
    )


@pytest.mark.parametrize("text", ["status.phase", r"status.phase=\x", "status.phase=a=b"])
def test_malformed_field_selectors_are_refused(text):
    assert "invalid" in refusal(parse_fields, text, PODS)


def test_empty_brackets_hold_the_empty_value():
    """As labels.Parse has it, which was tried."""
    selector = parse_labels("a in ()")
    assert str(selector) == "a in ()"
    assert parse_labels("a in (,)") == selector
    assert selector.matches({"a": ""})
    assert not selector.matches({"a": "b"})
    assert not selector.matches({})
