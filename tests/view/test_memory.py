"""What a pod asks for when it runs out of memory: annotations in, limits out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.view.memory import (
    MIB,
    OomPolicy,
    apply_learned,
    learned,
    learned_text,
    memory_limit,
    next_limit,
    oom_policy,
    with_limit,
)


def pod(**annotations):
    return {
        "metadata": {"annotations": {f"kubarium.dev/oom-{k}": v for k, v in annotations.items()}}
    }


def test_without_annotations_everything_is_as_everywhere_else():
    assert oom_policy({"metadata": {}}) == OomPolicy()


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"policy": "enlarge"}, "annotation kubarium.dev/oom-policy: 'enlarge' is not one of grow"),
        ({"policy": "grow"}, "annotation kubarium.dev/oom-ceiling: is missing"),
        ({"policy": "grow", "ceiling": "lots"}, "annotation kubarium.dev/oom-ceiling: 'lots'"),
        ({"policy": "grow", "ceiling": "4"}, "'4' is below 1Mi"),
        (
            {"policy": "grow", "ceiling": "1Gi", "factor": "1"},
            "kubarium.dev/oom-factor: '1' must be",
        ),
        (
            {"policy": "move", "ceiling": "1Gi", "factor": "99"},
            "'99' must be above 1 and at most 16",
        ),
    ],
)
def test_a_policy_that_says_nothing_sensible_is_named(annotations, text):
    with pytest.raises(ValueError, match=text):
        oom_policy(pod(**annotations))


@given(st.integers(MIB, 1 << 42), st.integers(MIB, 1 << 42), st.floats(1.01, 16))
def test_limits_grow_until_the_ceiling_and_no_further(limit, ceiling, factor):
    policy = oom_policy(pod(policy="grow", ceiling=str(ceiling), factor=f"{factor:.3f}"))
    larger = next_limit(limit, policy)
    if limit >= ceiling:
        assert larger is None
    else:
        assert larger is not None
        assert limit < larger <= ceiling
        assert larger == ceiling or larger % MIB == 0


def test_the_quality_of_service_stays_what_it_is():
    guaranteed = {"limits": {"memory": "64Mi", "cpu": "1"}, "requests": {"memory": "67108864"}}
    assert with_limit(guaranteed, 96 * MIB) == {
        "limits": {"memory": "96Mi", "cpu": "1"},
        "requests": {"memory": "96Mi"},
    }
    burstable = {"limits": {"memory": "64Mi"}, "requests": {"memory": "32Mi"}}
    assert with_limit(burstable, 96 * MIB)["requests"] == {"memory": "32Mi"}


def test_what_was_learned_only_ever_raises_a_limit():
    spec = {
        "containers": [
            {"name": "a", "resources": {"limits": {"memory": "64Mi"}}},
            {"name": "b", "resources": {"limits": {"memory": "1Gi"}}},
            {"name": "c"},
        ]
    }
    apply_learned(spec, dict.fromkeys("abc", 128 * MIB))
    assert [memory_limit(c) for c in spec["containers"]] == [128 * MIB, 1024 * MIB, None]


def test_sizes_survive_the_annotation_and_nonsense_counts_as_nothing():
    sizes = {"7": {"trainer": 128 * MIB}}
    owner = {"metadata": {"annotations": {"kubarium.dev/learned-memory": learned_text(sizes)}}}
    assert learned(owner) == sizes
    for text in ("[]", "{", '{"7": 3}', '{"7": {"a": "x"}}'):
        owner = {"metadata": {"annotations": {"kubarium.dev/learned-memory": text}}}
        assert learned(owner) == {}
