"""What the event of a pod says its claims lack."""

from __future__ import annotations

from kubarium.engine.explain.survey import RequestSurvey
from kubarium.view.claim_hints import sentence


def survey(matching=0, free=0, **failed):
    return RequestSurvey("r", "gpu", 1, 9, matching, free, 0, failed=failed.pop("failed", {}))


def test_pools_that_give_no_devices_are_named():
    wrong = {
        "pool d/a is invalid: duplicate device name b": 4,
        "pool d/b is incomplete: 1 of 3 slices": 1,
        "class gpu": 3,
    }
    assert sentence(survey(failed=wrong)) == (
        "request r: none of 9 devices match; pool d/a is invalid: duplicate device name b,"
        " and 1 more pool gives none"
    )
    del wrong["pool d/b is incomplete: 1 of 3 slices"]
    assert sentence(survey(matching=2, failed=wrong)) == (
        "request r: 1 device needed, 2 match, 0 free; pool d/a is invalid: duplicate device name b"
    )


def test_tainted_devices_are_counted():
    taints = {"taint a=b:NoSchedule": 1, "taint c:NoExecute": 2, "in use": 3}
    assert sentence(survey(matching=6, failed=taints)) == (
        "request r: 1 device needed, 6 match, 0 free, 3 tainted (c:NoExecute)"
    )


def test_pools_in_order_are_not_spoken_of():
    assert sentence(survey()) == "request r: none of 9 devices match"


def test_an_amount_that_no_device_has_left_is_named():
    failed = {"capacity bw: a share is 8G at most, 9G wanted": 2, "in use": 1}
    assert sentence(survey(matching=3, failed=failed)) == (
        "request r: 1 device needed, 3 match, 0 free; capacity bw: a share is 8G at most, 9G wanted"
    )


def test_devices_that_are_free_elsewhere_are_told_apart():
    assert sentence(survey(matching=6, free=4)) == (
        "request r: 1 device needed, 6 match, 4 free, 0 of them on nodes that the pod could use"
    )


def test_who_asks_for_all_is_told_that_some_are_taken():
    found = RequestSurvey("r", "gpu", 1, 9, 4, 3, 3, everything=True)
    assert sentence(found) == "request r: all devices of a node wanted, 4 match, 3 free"
    assert sentence(RequestSurvey("r", "gpu", 1, 9, 4, 3, 3, everything=True, whole=True)) == ""
