"""Restarts in place: what the pods' attempts make of the JobSet's two numbers."""

import pytest

from kubarium.control.training import in_place
from kubarium.control.training.status import StatusDraft
from tests.control.training.conftest import LABEL, document, entry

ATTEMPT = f"{LABEL}in-place-restart-attempt"


def draft(limit=3, **status):
    policy = {"restartStrategy": "InPlaceRestart", "maxRestarts": limit}
    made = document(entry("a", replicas=2, pods=2), failurePolicy=policy)
    made["metadata"] |= {"uid": "mine", "namespace": "default"}
    return StatusDraft(made | {"status": status}, 0.0)


def pod(attempt, uid="mine", phase="Running", restarts=0, **metadata):
    annotations = {} if attempt is None else {ATTEMPT: str(attempt)}
    return {
        "metadata": {
            "annotations": annotations,
            "labels": {f"{LABEL}jobset-uid": uid},
            **metadata,
        },
        "status": {"phase": phase, "containerStatuses": [{"restartCount": restarts}]},
    }


def numbers(of, *pods):
    in_place.advance(of, pods)
    return of.status.get(in_place.CURRENT), of.status.get(in_place.PREVIOUS)


@pytest.mark.parametrize(
    ("pods", "status", "expected"),
    [
        ([], {}, (None, None)),
        ([0, 0, 0], {}, (None, None)),
        ([0, 0, 0, None], {}, (None, None)),
        ([0, 0, 0, 0], {}, (0, None)),
        ([1, 0, 0, 0], {in_place.CURRENT: 0}, (0, 0)),
        ([1, 1, 0], {in_place.CURRENT: 0}, (0, 0)),
        ([1, 1, 1, 1], {in_place.CURRENT: 0, in_place.PREVIOUS: 0}, (1, 0)),
        ([2, 1, 1, 1], {in_place.CURRENT: 1, in_place.PREVIOUS: 0}, (1, 1)),
        ([2, 2, 2, None], {in_place.CURRENT: 1, in_place.PREVIOUS: 1}, (1, 1)),
        # The pod that was furthest is gone: the number does not go back.
        ([1, 1, 1], {in_place.CURRENT: 1, in_place.PREVIOUS: 1}, (1, 1)),
        (["x", 0, 0, 0], {}, (None, None)),
        (["-1", 0, 0, 0], {}, (None, None)),
    ],
)
def test_the_two_numbers(pods, status, expected):
    assert numbers(draft(**status), *map(pod, pods)) == expected


def test_pods_that_do_not_count():
    others = [pod(5, uid="another"), pod(5, phase="Failed"), pod(5, deletionTimestamp="now")]
    assert numbers(draft(), *map(pod, [0, 0, 0, 0]), *others) == (0, None)


@pytest.mark.parametrize(
    ("pods", "status", "fails"),
    [
        ([pod(3)], {}, False),
        ([pod(4)], {}, True),
        ([pod(None, restarts=3)], {}, False),
        ([pod(None, restarts=4)], {}, True),
        ([pod(4)], {"restarts": 1}, False),
        ([pod(4)], {"restarts": 1, "restartsCountTowardsMax": 1}, True),
    ],
)
def test_past_the_limit_it_fails(pods, status, fails):
    made = draft(**status)
    in_place.advance(made, pods)
    reasons = [c["reason"] for c in made.status["conditions"] if c["type"] == "Failed"]
    assert reasons == (["ReachedMaxRestarts"] if fails else [])
