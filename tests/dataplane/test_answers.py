"""Answers fit, say what they leave out, and never show a secret."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.dataplane import answers

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=400),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=200,
)


def size(value):
    return len(orjson.dumps(value))


@given(JSON, st.integers(400, 4000))
def test_what_fits_is_left_alone_and_the_rest_is_cut(value, budget):
    shown = answers.fit(value, budget)
    if size(value) <= budget:
        assert shown == value
    else:
        assert size(shown) < size(value) + 100
        assert type(shown) is type(value)


def test_a_large_document_becomes_small_whatever_its_shape():
    wide = {f"key{number}": "x" * 500 for number in range(50)}
    deep = {"a": {"b": {"c": [{"d": "y" * 100} for _ in range(500)]}}}
    for value in (wide, deep, ["z" * 100] * 1000, "t" * 100_000):
        assert size(answers.fit(value, 8000)) < 9500


def test_what_is_left_out_can_be_asked_for_until_all_is_seen():
    document = {"spec": {"items": [{"n": number, "pad": "p" * 90} for number in range(100)]}}
    seen, offset = [], 0
    for _ in range(20):
        part = answers.page(answers.select(document, "spec.items"), offset)
        shown = answers.fit(part, 2000, "spec.items", offset)
        seen += [item["n"] for item in shown if isinstance(item, dict)]
        if isinstance(shown[-1], dict):
            break
        assert f"ask with path=spec.items offset={len(seen)}" in shown[-1]
        offset = len(seen)
    assert seen == list(range(100))


def test_a_long_text_is_paged_by_characters():
    text = "".join(f"{number:05d} " for number in range(2000))
    whole, offset = "", 0
    while True:
        shown = answers.fit(answers.page(text, offset), 1000, 'data["a.txt"]', offset)
        body, cut, rest = shown.partition("… [")
        whole += body
        if not cut:
            break
        offset = int(rest.rpartition("offset=")[2].rstrip("]"))
        assert 'path=data["a.txt"]' in rest
    assert whole == text


def test_paths_of_left_out_parts_lead_to_them():
    document = {"metadata": {"annotations": {"a.b/c": "x" * 5000}}, "z": ["y" * 5000]}
    shown = answers.fit(document, 1500)
    note = shown["metadata"]["annotations"]["a.b/c"]
    path = note.rpartition("path=")[2].partition(" ")[0].rstrip("]") + "]"
    path = path if path.endswith('"]') else path[:-1]
    assert answers.select(document, path) == "x" * 5000


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("spec.nope", "spec has no 'nope'; it has containers"),
        ("spec.containers[3]", r"spec\.containers is a list of 1: there is no \[3\]"),
        ("spec.containers.name", "is a list: write"),
        ("spec[0]", "spec is no list"),
        ("spec..x", "cannot be read from '..x' on"),
        ("kind.x", "kind has no 'x'; it has no fields"),
    ],
)
def test_a_wrong_path_says_where_it_ended(path, message):
    document = {"kind": "Pod", "spec": {"containers": [{"name": "a"}]}}
    with pytest.raises(answers.PathError, match=message):
        answers.select(document, path)


def test_secrets_bookkeeping_and_copies_of_the_document_are_left_out():
    secret = {
        "kind": "Secret",
        "metadata": {
            "name": "s",
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "cGFzcw=="},
        },
        "data": {"password": "cGFzcw=="},
        "stringData": {"token": "cGFzcw=="},
    }
    shown = answers.readable(secret)
    assert "cGFzcw==" not in str(shown)
    assert list(shown["data"]) == ["password"]
    assert shown["metadata"] == {"name": "s"}
    assert secret["data"] == {"password": "cGFzcw=="}


def test_container_states_read_as_sentences():
    pod = {
        "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c", "image": "x"}]},
        "status": {
            "containerStatuses": [
                {
                    "name": "c",
                    "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                    "lastState": {"terminated": {"reason": "Error", "exitCode": 3}},
                }
            ]
        },
    }
    init, main = answers.containers(pod)
    assert (init["init"], init["state"]) == (True, "not started")
    assert main["state"] == "waiting: CrashLoopBackOff (back-off)"
    assert main["last_state"] == "terminated: Error (exit code 3)"
    assert main["restarts"] == 2


def test_events_are_ordered_by_their_last_occurrence():
    def event(name, **times):
        return {"metadata": {"name": name, "resourceVersion": "5"}, **times}

    events = [
        event("first", lastTimestamp="2026-01-01T00:00:01Z"),
        event("third", eventTime="2026-01-01T00:00:03.000000Z"),
        event("fourth", series={"lastObservedTime": "2026-01-01T00:00:04Z", "count": 9}),
        event("second", firstTimestamp="2026-01-01T00:00:02Z"),
        event("timeless"),
    ]
    ordered = [entry["metadata"]["name"] for entry in answers.newest_first(events)]
    assert ordered == ["fourth", "third", "second", "first", "timeless"]
    assert answers.event_row(events[2], 1767225610.0)["count"] == 9
