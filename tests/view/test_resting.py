"""Devices that the scheduler leaves alone, as its events tell of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    EVENTS,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.clock import rfc3339_micro
from kubarium.engine.devices.model import DeviceId
from kubarium.engine.explain.survey import IN_USE, RESTS
from kubarium.view.cluster import ClusterView
from kubarium.view.resting import REST_S, rests_of
from kubarium.view.why import explain

DRIVER = "gpu.example.com"
NOW = 1_800_000_000.0
CLASS = {
    "metadata": {"name": "gpu"},
    "spec": {"selectors": [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]},
}


def slice_of(name, count, *, complete=True):
    devices = [{"name": f"gpu-{i}"} for i in range(count)]
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1 if complete else 2}
    spec = {"driver": DRIVER, "nodeName": name, "pool": pool, "devices": devices}
    return {"metadata": {"name": f"slice-{name}", "uid": f"uid-{name}"}, "spec": spec}


def event(name, device, at, *, reason="DeviceRests", message=""):
    return {
        "metadata": {"name": f"{name}.{device}.{at}", "namespace": "default"},
        "involvedObject": {
            "kind": "ResourceSlice",
            "name": f"slice-{name}",
            "uid": f"uid-{name}",
            "fieldPath": f"spec.devices{{{device}}}",
        },
        "type": "Warning",
        "reason": reason,
        "message": message or f"device {DRIVER}/{name}/{device} could not be made ready (no link)",
        "eventTime": rfc3339_micro(at),
    }


def claim(name, count=1, held=()):
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu", "count": count}}
    results = [
        {"request": "gpu", "driver": DRIVER, "pool": pool, "device": device}
        for pool, device in held
    ]
    status = {"allocation": {"devices": {"results": results}}} if held else {}
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"devices": {"requests": [request]}},
        "status": status,
    }


def pod(name):
    named = [{"name": "c", "resourceClaimName": "mine"}]
    spec = {"containers": [{"name": "main"}], "resourceClaims": named}
    metadata = {"name": name, "namespace": "ns", "uid": name}
    return {"kind": "Pod", "metadata": metadata, "spec": spec}


def world(sizes, held=(), events=(), wanted=99, complete=True):
    return {
        DEVICE_CLASSES: [CLASS],
        NODES: [
            {"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "pods": "9"}}}
            for name in sizes
        ],
        RESOURCE_SLICES: [slice_of(n, count, complete=complete) for n, count in sizes.items()],
        RESOURCE_CLAIMS: [
            claim("mine", wanted),
            *(claim(f"held-{i}", held=[one]) for i, one in enumerate(held)),
        ],
        EVENTS: list(events),
        PODS: [pod("p")],
    }


def asked(documents, now=NOW):
    return explain(documents, documents[PODS][0], now=now)


def test_a_rest_ends_by_itself_and_the_newest_event_counts():
    slices = [slice_of("a", 2)]
    old, new = event("a", "gpu-0", NOW - REST_S - 1), event("a", "gpu-0", NOW - 5)
    [rest] = rests_of([new, old], slices, NOW)
    assert rest.device == DeviceId(DRIVER, "a", "gpu-0")
    assert rest.until == "2027-01-15T08:00:25Z"
    assert not rest.again
    assert rests_of([old, new], slices, NOW) == (rest,)
    assert rests_of([old], slices, NOW) == ()
    assert rests_of([new], slices, NOW + REST_S) == ()
    [again] = rests_of([event("a", "gpu-0", NOW, reason="DeviceRestsAgain"), new], slices, NOW)
    assert again.again


def test_events_of_slices_that_are_gone_or_were_made_anew_say_nothing():
    told = event("a", "gpu-0", NOW)
    anew = slice_of("a", 2)
    anew["metadata"]["uid"] = "another"
    assert rests_of([told], [], NOW) == ()
    assert rests_of([told], [anew], NOW) == ()
    told["involvedObject"]["fieldPath"] = "spec.devices"
    assert rests_of([told], [slice_of("a", 2)], NOW) == ()


def test_without_a_time_nothing_rests():
    documents = world({"a": 1}, events=[event("a", "gpu-0", NOW)], wanted=1)
    told = explain(documents, documents[PODS][0])
    assert told.summary == "the pod fits now; the scheduler has not placed it yet"
    assert asked(documents).devices[0]["failed"] == {RESTS: 1}


def test_a_view_that_is_given_is_as_before_afterwards():
    documents = world({"a": 1}, events=[event("a", "gpu-0", NOW)], wanted=1)
    view = ClusterView.of(documents)
    told = explain(documents, documents[PODS][0], view, now=NOW)
    assert told.devices[0]["failed"] == {RESTS: 1}
    assert not view.snapshot.resting
    assert set(view.snapshot.claims) == {("ns", "mine")}
    assert not view.snapshot.allocations


def test_a_device_that_rests_in_a_pool_that_gives_none_is_counted_once():
    told = asked(world({"a": 2}, events=[event("a", "gpu-0", NOW)], complete=False))
    [found] = told.devices
    assert found.get("resting") is None
    assert sum(found["failed"].values()) == 2


def test_who_wants_more_than_rests_is_not_told_to_wait():
    documents = world({"a": 1, "b": 1}, events=[event("a", "gpu-0", NOW)], wanted=2)
    kinds = [suggestion.kind for suggestion in asked(documents).suggestions]
    assert "wait-for-device" not in kinds


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), min_size=1),
    st.data(),
)
def test_each_device_is_counted_once_and_as_what_it_is(sizes, data):
    """However alike the nodes are by which devices are taken on them."""
    devices = [(name, f"gpu-{i}") for name, count in sizes.items() for i in range(count)]
    states = {one: data.draw(st.sampled_from(["free", "held", "rests"])) for one in devices}
    held = [one for one, state in states.items() if state == "held"]
    resting = [one for one, state in states.items() if state == "rests"]
    documents = world(sizes, held, [event(*one, NOW) for one in resting])
    [found] = asked(documents).devices
    expected = {IN_USE: len(held), RESTS: len(resting)}
    assert found["failed"] == {why: count for why, count in expected.items() if count}
    assert found["free"] == len(devices) - len(held) - len(resting)
    told = {one["device"] for one in found.get("resting", ())}
    assert told == {f"{DRIVER}/{name}/{device}" for name, device in resting}
    named = {f"claim ns/held-{i}" for i in range(len(held))} | {"others"}
    assert set(found["holders"]) <= named
    assert bool(found["holders"]) == bool(held)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1),
    st.integers(1, 3),
    st.data(),
)
def test_to_wait_is_advised_if_and_only_if_that_helps(sizes, wanted, data):
    devices = [(name, f"gpu-{i}") for name, count in sizes.items() for i in range(count)]
    states = {one: data.draw(st.sampled_from(["free", "held", "rests"])) for one in devices}
    held = [one for one, state in states.items() if state == "held"]
    resting = [event(*one, NOW) for one, state in states.items() if state == "rests"]
    documents = world(sizes, held, resting, wanted)
    fits = "the pod fits now; the scheduler has not placed it yet"
    told, later = asked(documents), asked(documents, NOW + REST_S)
    advised = any(suggestion.kind == "wait-for-device" for suggestion in told.suggestions)
    assert advised == (told.summary != fits and later.summary == fits)
