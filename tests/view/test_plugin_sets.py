"""Which plugins run where, against upstream's algorithm written down once more."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubarium.view.plugin_sets import POINTS, read_plugins
from kubarium.view.scheduling import SchedulerConfigError, read_config

# Upstream's default list, as far as it is looked at here, with weights; and what each implements.
DEFAULTS = [
    ("PrioritySort", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("VolumeZone", 0),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
]
IMPLEMENTS = {
    "PrioritySort": {"queueSort"},
    "TaintToleration": {"filter", "preScore", "score"},
    "NodeAffinity": {"preFilter", "filter", "preScore", "score"},
    "NodePorts": {"preFilter", "filter"},
    "VolumeZone": {"preFilter", "filter"},
    "DefaultPreemption": {"preEnqueue", "postFilter"},
    "NodeResourcesBalancedAllocation": {"preScore", "score"},
    "ImageLocality": {"score"},
    "DefaultBinder": {"bind"},
    "Coscheduling": {"queueSort", "preFilter", "postFilter", "permit", "reserve"},
}
LOOKED_AT = ("queueSort", "preFilter", "filter", "postFilter", "preScore", "score", "bind")


class Refused(Exception):
    """Upstream would not start with it."""


def merge(default, custom):
    """mergePluginSet: (enabled, disabled)."""
    disabled = {one["name"] for one in custom.get("disabled", ())}
    mine = [(one["name"], one.get("weight", 0)) for one in custom.get("enabled", ())]
    last = {name: index for index, (name, _) in enumerate(mine)}
    enabled, replaced = [], set()
    if "*" not in disabled:
        for name, weight in default:
            if name in disabled:
                continue
            if name in last:
                weight = mine[last[name]][1]
                replaced.add(last[name])
            enabled.append((name, weight))
    enabled += [one for index, one in enumerate(mine) if index not in replaced]
    return enabled, disabled


def upstream(plugins):
    """NewFramework: the plugins of each point, and the weights of those that score."""
    everywhere, _ = merge(DEFAULTS, plugins.get("multiPoint", {}))
    found = {}
    for point in LOOKED_AT:
        own, disabled = merge([], plugins.get(point, {}))
        active = []
        for name, _ in own:
            if point not in IMPLEMENTS[name] or name in active:
                raise Refused(name)
            active.append(name)
        if "*" not in disabled:
            for name, _ in everywhere:
                known = [one for one, _ in own]
                if point in IMPLEMENTS[name] and name not in disabled and name not in known:
                    if name in active:
                        raise Refused(name)
                    active.append(name)
        found[point] = set(active)
    if len(found["queueSort"]) != 1 or not found["bind"]:
        raise Refused
    weights = {}
    own, _ = merge([], plugins.get("score", {}))
    for name, weight in (*own, *everywhere):
        if name in found["score"] and name not in weights:
            weights[name] = weight or 1
    if "NodePorts" in found["filter"] - found["preFilter"]:
        raise Refused  # later: it fails every pod
    if "TaintToleration" in found["score"] - found["preScore"]:
        raise Refused
    return found, weights


names = st.sampled_from(sorted(IMPLEMENTS))
enabled = st.fixed_dictionaries({"name": names}, optional={"weight": st.integers(0, 5)})
disabled = st.fixed_dictionaries({"name": st.sampled_from([*sorted(IMPLEMENTS), "*"])})
sets = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.lists(enabled, max_size=3),
        "disabled": st.lists(disabled, max_size=2),
    },
)
# What is always on here may not be disabled by name.
configurations = st.dictionaries(st.sampled_from(["multiPoint", *LOOKED_AT]), sets).filter(
    lambda plugins: (
        not any(
            one["name"] == "Coscheduling"
            for each in plugins.values()
            for one in each.get("disabled", ())
        )
    )
)


@given(configurations)
def test_each_point_runs_what_upstream_runs_there(plugins):
    try:
        expected = upstream(plugins)
    except Refused:
        expected = None
    try:
        found = read_plugins(plugins, (), "s")
    except SchedulerConfigError:
        assert expected is None
        return
    assert expected is not None, found
    points, weights = expected
    ours = {point: set(found.by_point[point]) & IMPLEMENTS.keys() for point in LOOKED_AT}
    assert ours == points
    assert {n: w for n, w in found.weights.items() if n in IMPLEMENTS} == weights
    assert set(found.by_point) == set(POINTS)


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (
            "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}]}}}]",
            "profiles[0].plugins.queueSort",
            "only one queue sort plugin required for profile with scheduler name"
            " 'default-scheduler', but got 0; enable PrioritySort",
        ),
        (
            "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}],"
            " enabled: [{name: PrioritySort}]}}}]",
            "profiles[0].plugins.bind",
            "at least one bind plugin is needed for profile with scheduler name",
        ),
        (
            "profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]",
            "profiles[0].plugins.bind",
            "enable DefaultBinder",
        ),
        (
            "profiles: [{plugins: {multiPoint: {enabled: [{name: Coscheduling}]}}}]",
            "profiles[0].plugins.queueSort",
            "but got 2: PrioritySort, Coscheduling",
        ),
        (
            "profiles: [{schedulerName: a, plugins: {queueSort:"
            " {enabled: [{name: PrioritySort}]}}}, {schedulerName: b}]",
            "profiles[1].plugins.queueSort",
            "must be the same for all profiles",
        ),
        (
            "profiles: [{schedulerName: a}, {schedulerName: b, plugins: {multiPoint: {enabled:"
            " [{name: Coscheduling}], disabled: [{name: PrioritySort}]}}}]",
            "profiles[1].plugins.queueSort",
            "different queue sort plugins: Coscheduling, first: PrioritySort",
        ),
        (
            "profiles: [{plugins: {preFilter: {disabled: [{name: NodeResourcesFit}]}}}]",
            "profiles[0].plugins.filter",
            "NodeResourcesFit is on, but not in preFilter, without which it fails each pod",
        ),
        (
            "profiles: [{plugins: {preFilter: {disabled: [{name: NodeDeclaredFeatures}]}}}]",
            "profiles[0].plugins.filter",
            "NodeDeclaredFeatures is on, but not in preFilter, without which it fails each pod",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: EBSLimits}]}}}]",
            "profiles[0].plugins.filter.enabled[0].name",
            'EBSLimits was invalid in version "v1"',
        ),
        (
            "profiles: [{plugins: {multiPoint:"
            " {enabled: [{name: NodePorts}, {name: NodePorts}]}}}]",
            "profiles[0].plugins.multiPoint.enabled[1].name",
            "NodePorts is enabled here already",
        ),
        ("podInitialBackoffSeconds: 20", "podMaxBackoffSeconds", "which is 20, not 10"),
    ],
)
def test_contradictions_are_refused_in_upstreams_words(text, path, words):
    with pytest.raises(SchedulerConfigError, match=re.escape(words)) as caught:
        read_config(yaml.safe_load(text))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("how", ["args", "no args"])
def test_one_queue_is_sorted_by_one_plugin_with_one_set_of_arguments(how):
    plugins = {
        "multiPoint": {
            "enabled": [{"name": "Coscheduling"}],
            "disabled": [{"name": "PrioritySort"}],
        }
    }
    args = [{"name": "Coscheduling", "args": {"permitWaitingTimeSeconds": 60}}]
    first = {"schedulerName": "a", "plugins": plugins, "pluginConfig": args}
    second = {"schedulerName": "b", "plugins": plugins}
    if how == "args":
        found = read_config({"profiles": [first, first | {"schedulerName": "b"}]})
        assert [profile.scheduler_name for profile in found.profiles] == ["a", "b"]
    else:
        with pytest.raises(SchedulerConfigError, match="must be the same for all profiles"):
            read_config({"profiles": [first, second]})


def test_what_upstream_has_no_more_may_still_be_disabled():
    off = {"disabled": [{"name": "EBSLimits"}, {"name": "NodePorts"}]}
    [profile] = read_config({"profiles": [{"plugins": {"multiPoint": off}}]}).profiles
    assert profile.disabled == {"NodePorts"}


def test_to_prepare_a_score_says_nothing_of_its_weight():
    plugins = {"preScore": {"enabled": [{"name": "TaintToleration"}]}}
    [profile] = read_config({"profiles": [{"plugins": plugins}]}).profiles
    assert profile.weights.TaintToleration == 3
