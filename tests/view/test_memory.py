"""What a pod asks for when it runs out of memory: annotations in, limits out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.view.memory import (
    MIB,
    OomPolicy,
    apply_learned,
    awaits_memory,
    larger,
    learned,
    learned_text,
    memory_limit,
    next_limit,
    of_any,
    oom_policy,
    owed,
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


def killed(index, limit="100Mi", reason="Killed", observed=1, generation=1, **annotations):
    """A pod of a Job of which a container was killed at its limit."""
    found = pod(**({"policy": "grow", "ceiling": "300Mi"} | annotations))
    found["metadata"] |= {
        "labels": {"batch.kubernetes.io/job-completion-index": index},
        "generation": generation,
    }
    found["spec"] = {"containers": [{"name": "a", "resources": {"limits": {"memory": limit}}}]}
    condition = {
        "type": "memory.kubarium.dev/a",
        "status": "True",
        "reason": reason,
        "observedGeneration": observed,
    }
    found["status"] = {"conditions": [condition]}
    return found


def test_what_comes_after_a_killed_pod_begins_with_more():
    raised = killed("2", limit="150Mi", generation=2)
    pods = [killed("1"), raised, killed("3", reason="AtLimit"), killed("4", limit="300Mi")]
    assert owed(pods) == {"1": {"a": 150 * MIB}, "2": {"a": 150 * MIB}}
    assert owed([killed("1", policy="fail"), killed("1", ceiling="nonsense")]) == {}
    assert owed([killed("1"), killed("1", limit="150Mi")]) == {"1": {"a": 225 * MIB}}


def test_a_killed_pod_awaits_memory_until_it_is_in_force():
    assert awaits_memory(killed("1"))
    assert awaits_memory(killed("1", limit="150Mi", generation=2))
    assert not awaits_memory(killed("1", limit="300Mi"))
    assert not awaits_memory(killed("1", reason="AtLimit"))
    assert not awaits_memory(pod(policy="grow", ceiling="1Gi") | {"spec": {}})


SIZES = st.dictionaries(
    st.sampled_from("01"), st.dictionaries(st.sampled_from("ab"), st.integers(1, 9))
)


@given(SIZES, SIZES)
def test_the_larger_of_two_sizes_holds_whoever_wrote_it_last(first, second):
    both = larger(first, second)
    assert larger(second, first) == both == larger(both, first)
    for sizes in (first, second):
        for index, of_index in sizes.items():
            assert all(both[index][name] >= size for name, size in of_index.items())
    most = of_any(both)
    assert all(most[name] >= size for sizes in both.values() for name, size in sizes.items())
