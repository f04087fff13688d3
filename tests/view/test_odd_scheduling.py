"""Whatever a KubeSchedulerConfiguration holds: it is read, or the field that is wrong is named."""

from __future__ import annotations

import copy
import datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.view.profiles import Profiles, config_map
from kubarium.view.scheduling import SchedulerConfigError, read_config

TERM = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
ARGS = {
    "NodeResourcesFit": {
        "ignoredResources": ["example.com/foo"],
        "ignoredResourceGroups": ["example.com"],
        "scoringStrategy": {
            "type": "RequestedToCapacityRatio",
            "resources": [{"name": "cpu", "weight": 3}],
            "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 10}]},
        },
    },
    "NodeResourcesBalancedAllocation": {"resources": [{"name": "cpu", "weight": 1}]},
    "NodeAffinity": {
        "addedAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [TERM]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": TERM}],
        }
    },
    "InterPodAffinity": {"hardPodAffinityWeight": 5, "ignorePreferredTermsOfExistingPods": True},
    "DefaultPreemption": {"minCandidateNodesPercentage": 5, "minCandidateNodesAbsolute": 7},
    "VolumeBinding": {"bindTimeoutSeconds": 60},
    "PodTopologySpread": {
        "defaultingType": "List",
        "defaultConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
    },
    "DynamicResources": {
        "filterTimeout": "5s",
        "bindingTimeout": "60s",
        "deviceSelection": {
            "strategy": "Spread",
            "attributes": [{"name": "a.b/c", "order": "Descending"}],
            "nodes": "Pack",
            "domains": ["rack"],
        },
    },
}
PLAIN = {
    "apiVersion": "kubescheduler.config.k8s.io/v1",
    "kind": "KubeSchedulerConfiguration",
    "parallelism": 8,
    "percentageOfNodesToScore": 50,
    "podInitialBackoffSeconds": 2,
    "podMaxBackoffSeconds": 20,
    "leaderElection": {"leaderElect": False},
    "clientConnection": {"qps": 50},
    "enableProfiling": True,
    "extenders": [],
    "profiles": [
        {
            "schedulerName": "batch",
            "percentageOfNodesToScore": 10,
            "plugins": {
                "multiPoint": {
                    "disabled": [{"name": "*"}],
                    "enabled": [{"name": "NodeAffinity"}, {"name": "DefaultBinder"}],
                },
                "score": {"enabled": [{"name": "ImageLocality", "weight": 3}]},
                "filter": {"disabled": [{"name": "NodePorts"}]},
                "queueSort": {"enabled": [{"name": "PrioritySort"}]},
            },
            "pluginConfig": [{"name": name, "args": args} for name, args in ARGS.items()],
        },
        {
            "schedulerName": "default-scheduler",
            "plugins": {"queueSort": {"enabled": [{"name": "PrioritySort"}]}},
        },
    ],
}
ODD = (
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    2**70,
    -(2**70),
    "",
    " ",
    "x" * 5000,
    "\x00",
    "\ud800",
    "*",
    "10d",
    "²",
    [],
    {},
    [[]],
    [None],
    [{}],
    {"name": None},
    {"": {}},
    {"a": {"b": [{"c": None}]}},
    {1: 2},
    datetime.date(2026, 1, 1),
    b"bytes",
)


def places(value, at=()):
    """Every path into the value."""
    yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*at, index))


def put(value, at, odd, how):
    """The value with something odd at the path: instead, beside, or nothing there any more."""
    if not at:
        return odd
    where = value
    for part in at[:-1]:
        where = where[part]
    if how == "instead":
        where[at[-1]] = odd
    elif how == "gone":
        del where[at[-1]]
    elif isinstance(where, dict):
        where["odd"] = odd
    else:
        where.append(odd)
    return value


def mutated(draw, plain, odd_values=ODD):
    value = copy.deepcopy(plain)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.sampled_from(list(places(value))))
        how = draw(st.sampled_from(["instead", "instead", "beside", "gone"]))
        odd = copy.deepcopy(draw(st.sampled_from(odd_values)))
        value = put(value, at, odd, how)
    return value


@st.composite
def oddities(draw):
    return mutated(draw, PLAIN)


def test_the_plain_configuration_is_read():
    assert [p.scheduler_name for p in read_config(PLAIN).profiles] == ["batch", "default-scheduler"]


@settings(max_examples=1500, deadline=None)
@given(document=oddities())
def test_it_is_read_or_the_field_is_named(document):
    told, config = complaint(document)
    if config is None:
        assert told
        assert len(told) < 700, "a value that is far too long is cut"
        told.encode()  # so that it can be printed
    else:
        published = config_map(config)
        assert Profiles([published]).config.profiles == config.profiles


def complaint(document):
    """What is said of the document, or its configuration."""
    try:
        return "", read_config(document)
    except SchedulerConfigError as error:
        return str(error), None
