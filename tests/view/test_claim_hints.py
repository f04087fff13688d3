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
        " and 1 more pools give none"
    )
    del wrong["pool d/b is incomplete: 1 of 3 slices"]
    assert sentence(survey(matching=2, failed=wrong)) == (
        "request r: 1 devices needed, 2 match, 0 free; pool d/a is invalid: duplicate device name b"
    )


def test_tainted_devices_are_counted():
    taints = {"taint a=b:NoSchedule": 1, "taint c:NoExecute": 2, "in use": 3}
    assert sentence(survey(matching=6, failed=taints)) == (
        "request r: 1 devices needed, 6 match, 0 free, 3 tainted (c:NoExecute)"
    )


def test_pools_in_order_are_not_spoken_of():
    assert sentence(survey()) == "request r: none of 9 devices match"
