"""Accounts of claims where features meet: each said too little, or the wrong thing, once."""

from __future__ import annotations

from kubarium.api.kinds import PODS
from kubarium.view.why import explain

from .test_placement import claims_world, with_memory
from .test_why import DRIVER, asking_for, claim, gpus, pod, texts


def account(wanted, *slices, nodes=("a",), **spec):
    subject = pod("user", claims=["one"], **spec)
    return explain(claims_world(subject, wanted, slices=slices, nodes=nodes), subject)


def rooted(item, *roots):
    for device, root in zip(item["spec"]["devices"], roots, strict=True):
        device["attributes"] = {f"{DRIVER}/root": {"string": root}}
    return item


def with_constraint(wanted, **constraint):
    wanted["spec"]["devices"]["constraints"] = [constraint]
    return wanted


def test_a_whole_device_has_too_little_of_a_capacity():
    wanted = claim("one", capacity={"requests": {"memory": "96Gi"}})
    found = account(wanted, with_memory(gpus("a", 2), "80Gi"))
    text = "capacity memory: 80Gi left of 80Gi, 96Gi wanted"
    assert found.devices[0]["failed"] == {text: 2}
    assert found.tightest == f"request gpu: 2 devices: {text}"
    assert "ask for 80Gi of capacity memory in request gpu" in texts(found)


def test_a_capacity_that_is_misspelt_is_put_right():
    assert texts(asking_for("nosuch", "1")) == ["remove capacity nosuch from request gpu"]
    wanted = claim("one", capacity={"requests": {"memroy": "1Gi"}})
    found = account(wanted, with_memory(gpus("a", 1), "80Gi"))
    assert texts(found)[:2] == [
        "ask for capacity memory instead of memroy in request gpu",
        "remove capacity memroy from request gpu",
    ]


def test_a_constraint_that_holds_is_not_blamed():
    wanted = with_constraint(claim("one", count=2), matchAttribute=f"{DRIVER}/root")
    item = rooted(gpus("a", 4), "r", "r", "r", "r")
    for device in item["spec"]["devices"]:
        device["taints"] = [{"key": "sick", "effect": "NoSchedule"}]
    found = account(wanted, item, rooted(gpus("b", 2), "r", "r"), nodes=("a",))
    assert not any("constraint" in reason for reason in found.reasons)
    assert "tolerate device taint sick:NoSchedule in request gpu" in texts(found)


def test_two_requests_that_find_no_common_value_are_told_so():
    wanted = with_constraint(claim("one"), matchAttribute=f"{DRIVER}/root")
    requests = wanted["spec"]["devices"]["requests"]
    for name in ("0", "1"):
        chosen = {"cel": {"expression": f'device.attributes["{DRIVER}"].kind == "{name}"'}}
        requests.append({"name": f"k{name}", "exactly": {**requests[0]["exactly"]}})
        requests[-1]["exactly"]["selectors"] = [chosen]
    del requests[0]
    item = rooted(gpus("a", 4), "r0", "r0", "r1", "r1")
    for number, device in enumerate(item["spec"]["devices"]):
        device["attributes"][f"{DRIVER}/kind"] = {"string": str(number // 2)}
    found = account(wanted, item)
    told = f"constraint: no {DRIVER}/root has free devices for all: 1 for request k0 and 1 for"
    assert f"{told} request k1" in found.reasons
    assert f"remove the constraint matchAttribute {DRIVER}/root" in texts(found)
    item["spec"]["devices"][1]["attributes"][f"{DRIVER}/kind"] = {"string": "1"}
    assert not any("constraint" in reason for reason in account(wanted, item).reasons)


def test_devices_are_added_where_most_are_there():
    """Of many kinds of nodes the one that is short of one device is looked at."""
    others = [gpus(f"n{i}", 1, uuid=f"u{i}") for i in range(5)]
    for number, item in enumerate(others):
        item["spec"]["driver"] = f"other-{number}.example.com"
    found = account(
        claim("one", count=3),
        *others,
        gpus("z", 2),
        nodes=("z", *(f"n{i}" for i in range(5))),
    )
    assert "add 1 more device of class gpu on node z" in texts(found)


def test_devices_that_are_added_must_agree_as_the_constraint_says():
    wanted = with_constraint(claim("one", count=2), matchAttribute=f"{DRIVER}/root")
    found = account(wanted, rooted(gpus("a", 2), "r0", "r1"))
    root = f"{DRIVER}/root"
    assert f"add 1 more device of class gpu on node a, with one {root}" in texts(found)


def test_all_devices_say_how_many_are_taken():
    held = claim("held")
    result = {"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}
    held["status"] = {"allocation": {"devices": {"results": [result]}}}
    subject = pod("user", claims=["one"])
    wanted = claim("one", allocationMode="All")
    found = explain(claims_world(subject, wanted, held, slices=[gpus("a", 2)]), subject)
    assert found.reasons[0].startswith("request gpu: all of class gpu on one node wanted, 2 dev")
    assert found.tightest == "request gpu: 1 device: in use"


def test_all_devices_of_one_node_are_not_missed_for_what_another_has_given_away():
    held = claim("held")
    result = {"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}
    held["status"] = {"allocation": {"devices": {"results": [result]}}}
    subject = pod("user", claims=["one"])
    wrong = gpus("b", 1)
    wrong["metadata"]["name"] = "wrong"
    wrong["spec"] |= {"driver": "other.example.com"}
    twice = {**wrong, "metadata": {"name": "twice"}, "spec": {**wrong["spec"]}}
    twice["spec"]["pool"] = {**wrong["spec"]["pool"], "resourceSliceCount": 2}
    twice["spec"]["devices"] = [{"name": "another"}]
    wanted = claim("one", allocationMode="All")
    documents = claims_world(
        subject, wanted, held, slices=[gpus("a", 2), gpus("b", 2), wrong, twice], nodes=("a", "b")
    )
    found = explain(documents, subject)
    assert "in use" not in found.tightest
    text = "let the driver give all slices of pool other.example.com/b one resourceSliceCount"
    assert text in texts(found)


def test_a_pool_that_is_incomplete_keeps_all_devices_of_another_driver():
    other = gpus("a", 1)
    other["metadata"]["name"] = "other"
    other["spec"] |= {"driver": "other.example.com"}
    other["spec"]["pool"]["resourceSliceCount"] = 2
    found = account(claim("one", allocationMode="All"), gpus("a", 2), other)
    assert "let the driver publish all 2 slices of pool other.example.com/a: 1 is there" in texts(
        found
    )


def test_a_claim_tells_how_its_devices_are():
    held = claim("one")
    names = [f"gpu-{i}" for i in range(3)]
    results = [{"request": "gpu", "driver": DRIVER, "pool": "a", "device": n} for n in names]
    results[0] |= {"shareID": "s", "consumedCapacity": {"memory": "8Gi"}}
    results[1]["adminAccess"] = True
    held["status"] = {"allocation": {"devices": {"results": results}}}
    item = gpus("a", 2)
    taint = {"key": "sick", "effect": "NoExecute"}
    item["spec"]["devices"][1]["taints"] = [taint]
    found = explain(claims_world(pod("user"), held, slices=[item]), held)
    device = f"request gpu: device {DRIVER}/a/gpu-"
    assert found.reasons == (
        f"{device}0 (a share: 8Gi memory)",
        f"{device}1 (as administrator; tainted sick:NoExecute)",
        f"{device}2 (its driver does not publish it any more)",
    )


def held_by(name, on, driver=DRIVER, device="gpu-0", share=None):
    """A claim with a device, and the pod on the node that uses it."""
    found = claim(name)
    result = {"request": "gpu", "driver": driver, "pool": on, "device": device}
    if share is not None:
        result |= {"shareID": name, "consumedCapacity": share}
    found["status"] = {"allocation": {"devices": {"results": [result]}}}
    return found, pod(f"user-{name}", on=on, claims=[name])


def test_the_end_of_a_pod_is_tried_where_the_devices_are():
    """Nodes on which the same pods run differ in what these hold; and few have devices at all."""
    names = ("a", *(f"m{i}" for i in range(8)), "z")
    other = gpus("a", 1)
    other["spec"]["driver"] = "other.example.com"
    mine, there = held_by("mine", "z")
    its, here = held_by("its", "a", "other.example.com")
    subject = pod("user", claims=["one"])
    idle = [pod(f"p{i}", cpu=f"{i + 1}00m", on=f"m{i}") for i in range(8)]
    documents = claims_world(
        subject, claim("one"), mine, its, slices=[other, gpus("z", 1)], nodes=names
    )
    found = explain(documents | {PODS: [subject, there, here, *idle]}, subject)
    assert "let pod default/user-mine on node z end" in texts(found)


def test_devices_are_added_where_others_of_the_kind_are():
    other = gpus("a", 1)
    other["spec"]["driver"] = "other.example.com"
    held, user = held_by("held", "z")
    subject = pod("user", claims=["one"])
    documents = claims_world(
        subject, claim("one"), held, slices=[other, gpus("z", 1)], nodes=("a", "b", "z")
    )
    found = explain(documents | {PODS: [subject, user]}, subject)
    assert "add 1 more device of class gpu on node z" in texts(found)


def shared(item):
    for device in with_memory(item, "80Gi")["spec"]["devices"]:
        device["allowMultipleAllocations"] = True
        device["capacity"]["compute"] = {"value": "100"}
    return item


def test_of_a_capacity_that_is_not_asked_for_a_share_is_advised():
    """Who does not name a capacity takes all of it."""
    held, user = held_by("held", "a", share={"compute": "60", "memory": "8Gi"})
    subject = pod("user", claims=["one"])
    wanted = claim("one", capacity={"requests": {"memory": "1Gi"}})
    documents = claims_world(subject, wanted, held, slices=[shared(gpus("a", 1))])
    found = explain(documents | {PODS: [subject, user]}, subject)
    assert found.tightest.endswith("capacity compute: 40 left of 100, 100 wanted")
    assert "ask for 40 of capacity compute in request gpu" in texts(found)


def test_a_share_that_no_device_gives_is_lowered_together_with_what_else_it_takes():
    held, user = held_by("held", "a", share={"compute": "100", "memory": "8Gi"})
    subject = pod("user", claims=["one"])
    wanted = claim("one", capacity={"requests": {"memory": "300Gi"}})
    documents = claims_world(subject, wanted, held, slices=[shared(gpus("a", 1))])
    found = explain(documents | {PODS: [subject, user]}, subject)
    less = "ask for 80Gi of capacity memory in request gpu"
    assert any(text.startswith(f"{less} and add 1 more device") for text in texts(found))


def test_a_constraint_is_not_blamed_where_no_device_is_free():
    held, user = held_by("held", "a")
    subject = pod("user", claims=["one"])
    wanted = with_constraint(claim("one"), matchAttribute=f"{DRIVER}/root")
    documents = claims_world(subject, wanted, held, slices=[rooted(gpus("a", 1), "r")])
    found = explain(documents | {PODS: [subject, user]}, subject)
    assert not any("constraint" in reason for reason in found.reasons)


def test_an_attribute_in_a_wrong_domain_is_told_where_it_is():
    found = account(
        claim("one", ['device.attributes["example.com"].model == "H100"']),
        gpus("a", 2, model="H100"),
    )
    text = f"no device has example.com/model; did you mean {DRIVER}/model?"
    assert found.tightest.endswith(text)


def test_a_class_of_which_there_is_no_device_says_so():
    item = gpus("a", 2)
    item["spec"]["driver"] = "other.example.com"
    found = account(claim("one"), item)
    assert found.tightest == "request gpu: none of 2 devices is of class gpu"
    assert account(claim("one")).tightest == "request gpu: 1 device needed, 0 free"


def test_the_node_that_is_asked_about_comes_first():
    subject = pod("user", claims=["one"])
    documents = claims_world(subject, claim("one"), nodes=("a", "b"))
    assert explain(documents, subject, node="b").reasons[0] == (
        "cannot give the devices of the claims: b"
    )
    assert explain(documents, subject, node="c").reasons[0] == (
        "node c: there is no node of this name"
    )
