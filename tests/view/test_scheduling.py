"""KubeSchedulerConfiguration documents as profiles, and complaints that name the field."""

from __future__ import annotations

import re

import pytest
import yaml

from kubarium.api.kinds import SERVICES
from kubarium.engine.devices.preference import AttributeOrder, DevicePreference
from kubarium.engine.model import SpreadConstraint
from kubarium.engine.placement.profile import DEFAULT, Profile, Strategy, Weights
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.view.plugin_args import read_spread
from kubarium.view.scheduling import SchedulerConfigError, read_config
from kubarium.view.spreading import Spreading

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
HEAD = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"


def read(text):
    return read_config(yaml.safe_load(HEAD + text))


def test_no_profile_is_the_default_profile():
    assert read("").profiles == (DEFAULT,)
    assert read("profiles: [{}]").profiles == (DEFAULT,)


def test_profiles_have_names_weights_and_plugins_of_their_own():
    config = read(
        """
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins:
    score:
      disabled: [{name: NodeResourcesBalancedAllocation}, {name: PodTopologySpread}]
      enabled: [{name: PodTopologySpread, weight: 7}, {name: TaintToleration}]
    filter:
      disabled: [{name: TaintToleration}]
    postFilter:
      disabled: [{name: DefaultPreemption}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      ignoredResources: [example.com/foo]
      scoringStrategy:
        type: MostAllocated
        resources: [{name: cpu, weight: 3}, {name: nvidia.com/gpu, weight: 5}]
"""
    )
    first, packing = config.profiles
    assert first == DEFAULT
    assert packing.weights == Weights(
        NodeResourcesBalancedAllocation=0, PodTopologySpread=7, TaintToleration=1
    )
    assert packing.disabled == {"TaintToleration"}
    assert not packing.preempts
    assert packing.strategy == Strategy("MostAllocated", (("cpu", 3), ("nvidia.com/gpu", 5)))
    assert packing.ignored_resources == {"example.com/foo"}


def test_everything_can_be_switched_off_at_once_and_some_back_on():
    [profile] = read(
        """
profiles:
- plugins:
    multiPoint:
      disabled: [{name: "*"}]
      enabled: [{name: NodeResourcesFit}, {name: PrioritySort}, {name: DefaultBinder}]
"""
    ).profiles
    assert profile.filters("NodeResourcesFit")
    assert not profile.filters("NodeAffinity")
    assert profile.weights.NodeResourcesFit == 1
    assert profile.weights.TaintToleration == 0


def test_default_constraints_of_ones_own_replace_the_systems():
    config = read(
        """
profiles:
- schedulerName: spreading
  pluginConfig:
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
"""
    )
    assert config.spread_defaults == (("spreading", (("rack", 1, True),)),)


def test_default_constraints_say_how_many_domains_there_must_be_and_which_nodes_count():
    args = {
        "defaultingType": "List",
        "defaultConstraints": [
            {
                "maxSkew": 2,
                "topologyKey": "rack",
                "whenUnsatisfiable": "DoNotSchedule",
                "minDomains": 3,
                "nodeTaintsPolicy": "Honor",
            }
        ],
    }
    spreading = Spreading()
    spreading.defaults["s"] = read_spread(args, ()) or ()
    labels = {"app": "x"}
    spreading.apply(
        SERVICES,
        None,
        {"metadata": {"name": "web", "namespace": "ns"}, "spec": {"selector": labels}},
    )
    pod = {
        "metadata": {"name": "p", "namespace": "ns", "labels": labels},
        "spec": {"schedulerName": "s"},
    }
    selector = LabelSelector((Requirement("app", "In", ("x",)),))
    assert spreading.constraints(pod) == (
        SpreadConstraint("rack", 2, True, selector, 3, honor_affinity=True, honor_taints=True),
    )
    args["defaultConstraints"][0]["nodeTaintsPolicy"] = "Maybe"
    with pytest.raises(SchedulerConfigError, match="must be one of Honor, Ignore, not 'Maybe'"):
        read_spread(args, ())


@pytest.mark.parametrize(
    ("plugin", "point"), [("NodeName", "preFilter"), ("ImageLocality", "preScore")]
)
def test_a_plugin_has_no_part_in_a_step_that_it_does_not_take(plugin, point):
    with pytest.raises(SchedulerConfigError, match=f"{plugin} has no part in {point}"):
        read(f"profiles: [{{plugins: {{{point}: {{enabled: [{{name: {plugin}}}]}}}}}}]")


def test_a_profile_says_which_of_several_devices_is_taken():
    (profile,) = read(
        """
profiles:
- pluginConfig:
  - name: DynamicResources
    args:
      deviceSelection:
        strategy: Spread
        attributes: [{name: gpu.example.com/index, order: Descending}]
        nodes: Pack
        domains: [example.com/rack]
"""
    ).profiles
    order = AttributeOrder("gpu.example.com/index", descending=True)
    assert profile.devices == DevicePreference("Spread", (order,), "Pack", ("example.com/rack",))
    assert read("profiles: [{}]").profiles[0].devices == DevicePreference()


DEVICES = "profiles: [{pluginConfig: [{name: DynamicResources, args: {deviceSelection: %s}}]}]"
SELECTION = "profiles[0].pluginConfig[0].args.deviceSelection"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (DEVICES % "{strategy: Worst}", f"{SELECTION}.strategy"),
        (DEVICES % "{attributes: [{name: index}]}", f"{SELECTION}.attributes[0].name"),
        (DEVICES % "{attributes: [{name: a/b, order: Up}]}", f"{SELECTION}.attributes[0].order"),
        (DEVICES % "{score: 1}", f"{SELECTION}.score"),
        (DEVICES % "{nodes: Full}", f"{SELECTION}.nodes"),
        (DEVICES % "{domains: rack}", f"{SELECTION}.domains"),
        (DEVICES % "{domains: [1]}", f"{SELECTION}.domains[0]"),
        ("profile: []", "profile"),
        ("profiles: {}", "profiles"),
        ("profiles: [{}, {}]", "profiles[0].schedulerName"),
        ("profiles: [{schedulerName: a}, {}]", "profiles[1].schedulerName"),
        ("profiles: [{schedulerName: a}, {schedulerName: a}]", "profiles[1].schedulerName"),
        ("profiles: [{plugins: []}]", "profiles[0].plugins"),
        ("profiles: [{plugins: {score: 0}}]", "profiles[0].plugins.score"),
        (
            "profiles: [{pluginConfig: [{name: NodeName, args: []}]}]",
            "profiles[0].pluginConfig[0].args",
        ),
        ("leaderElection: []", "leaderElection"),
        ("profiles: [{schedulerName: 3}]", "profiles[0].schedulerName"),
        ("profiles: [{plugins: {scores: {}}}]", "profiles[0].plugins.scores"),
        (
            "profiles: [{plugins: {score: {enabled: [{name: NodeFoo}]}}}]",
            "profiles[0].plugins.score.enabled[0].name",
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{name: NodeAffinity, weight: -1}]}}}]",
            "profiles[0].plugins.score.enabled[0].weight",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: "
            "{type: Best}}}]}]",
            "profiles[0].pluginConfig[0].args.scoringStrategy.type",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: "
            "{type: RequestedToCapacityRatio}}}]}]",
            "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape",
        ),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: "
            "{hardPodAffinityWeight: -1}}]}]",
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight",
        ),
        ("extenders: [{urlPrefix: http://x}]", "extenders"),
        ("extenders: 3", "extenders"),
        ("parallelism: 4294967296", "parallelism"),
        ("enableProfiling: 3", "enableProfiling"),
        ("leaderElection: 3", "leaderElection"),
        (
            "leaderElection: {leaderElect: true, resourceLock: leader}",
            "leaderElection.resourceLock",
        ),
        ("leaderElection: {leaderElected: true}", "leaderElection.leaderElected"),
        ("clientConnection: {burst: many}", "clientConnection.burst"),
        ("clientConnection: {burst: -1}", "clientConnection.burst"),
        ("leaderElection: {leaseDuration: soon}", "leaderElection.leaseDuration"),
    ],
)
def test_what_cannot_be_used_is_named(text, path):
    with pytest.raises(SchedulerConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("profilez: []", "no such field; did you mean profiles?"),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: NodeAffinty}]}}}]",
            "no plugin 'NodeAffinty' here; did you mean NodeAffinity?",
        ),
        ("profiles: [{}, {schedulerName: a}]", "needs a name, such as default-scheduler"),
    ],
)
def test_what_is_misspelt_or_left_out_is_told_with_the_way_out(text, words):
    with pytest.raises(SchedulerConfigError, match=re.escape(words)):
        read(text)


def test_arguments_of_a_plugin_that_is_off_are_checked_and_kept():
    text = """
profiles:
- plugins: {multiPoint: {disabled: [{name: InterPodAffinity}]}}
  pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: %s}}]
"""
    [profile] = read(text % 7).profiles
    assert not profile.filters("InterPodAffinity")
    assert profile.hard_pod_affinity_weight == 7
    with pytest.raises(SchedulerConfigError, match="hardPodAffinityWeight: must be 0 to 100"):
        read(text % 101)


@pytest.mark.parametrize(
    ("plugins", "filters", "prepares", "frees"),
    [
        ("{}", True, True, True),
        ("{filter: {disabled: [{name: NodeAffinity}, {name: DynamicResources}]}}", 0, 1, 1),
        ("{preFilter: {disabled: [{name: NodeAffinity}]}}", 1, 0, 1),
        ("{multiPoint: {disabled: [{name: NodeAffinity}, {name: DynamicResources}]}}", 0, 0, 0),
        ("{postFilter: {disabled: [{name: DynamicResources}]}}", 1, 1, 0),
    ],
)
def test_a_plugin_is_off_at_the_points_that_are_named(plugins, filters, prepares, frees):
    [profile] = read(f"profiles: [{{plugins: {plugins}}}]").profiles
    assert profile.filters("NodeAffinity") == filters
    assert profile.prepares("NodeAffinity") == prepares
    assert profile.frees_claims == frees


def test_what_is_null_is_left_out():
    text = """
enableProfiling:
leaderElection: {leaderElect: , leaseDuration: 15s, retryPeriod: }
clientConnection: {burst: }
profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: }}]}]
"""
    assert read(text).spread_defaults == ()


def test_another_version_is_refused():
    with pytest.raises(SchedulerConfigError, match="apiVersion"):
        read_config({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"})


def test_arguments_that_decide_are_taken_over():
    config = read(
        """
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
parallelism: 8
profiles:
- percentageOfNodesToScore: 50
  pluginConfig:
  - name: NodeResourcesFit
    args: {ignoredResourceGroups: [example.com]}
  - name: InterPodAffinity
    args: {ignorePreferredTermsOfExistingPods: true}
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 7}
"""
    )
    assert (config.backoff_start_s, config.backoff_max_s) == (2, 20)
    [profile] = config.profiles
    assert profile.ignores("example.com/foo")
    assert not profile.ignores("cpu")
    assert profile.ignore_preferred_of_existing
    assert (profile.candidates_percent, profile.min_candidates) == (0, 7)


def test_a_configuration_for_scheduler_plugins_coscheduling_is_read():
    config = read(
        """
profiles:
- schedulerName: scheduler-plugins-scheduler
  plugins:
    multiPoint:
      enabled: [{name: Coscheduling}]
    queueSort:
      enabled: [{name: Coscheduling}]
      disabled: [{name: "*"}]
  pluginConfig:
  - name: Coscheduling
    args: {permitWaitingTimeSeconds: 60, podGroupBackoffSeconds: 0}
"""
    )
    [profile] = config.profiles
    assert profile == Profile("scheduler-plugins-scheduler")


def test_a_name_that_cannot_be_written_down_is_refused():
    resources = [{"name": "\ud800"}]
    args = {"scoringStrategy": {"type": "MostAllocated", "resources": resources}}
    config = {"pluginConfig": [{"name": "NodeResourcesFit", "args": args}]}
    with pytest.raises(SchedulerConfigError, match=r"resources\[0\]\.name: must name a resource"):
        read_config({"profiles": [config]})


def test_a_weight_of_zero_is_the_default_weight():
    [profile] = read(
        "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: "
        "{type: MostAllocated, resources: [{name: cpu, weight: 0}]}}}]}]"
    ).profiles
    assert profile.strategy == Strategy("MostAllocated", (("cpu", 1),))


def test_only_extended_resources_can_be_ignored():
    profile = Profile(ignored_resources=frozenset({"cpu", "a.io/x"}), ignored_groups=frozenset("b"))
    ignored = [n for n in ("cpu", "a.io/x", "b/y", "requests.b/y") if profile.ignores(n)]
    assert ignored == ["a.io/x", "b/y"]


@pytest.mark.parametrize(
    ("plugin", "args", "path", "words"),
    [
        ("NodeResourcesFit", "{ignoredResource: []}", "ignoredResource", "ignoredResources"),
        ("NodeResourcesFit", "{ignoredResourceGroups: [a/b]}", "ignoredResourceGroups[0]", "slash"),
        (
            "NodeResourcesFit",
            "{scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 101}]}}",
            "scoringStrategy.resources[0].weight",
            "1 to 100, not 101",
        ),
        (
            "NodeResourcesBalancedAllocation",
            "{resources: [{name: cpu, weight: 2}]}",
            "resources[0].weight",
            "1 to 1, not 2",
        ),
        (
            "NodeResourcesBalancedAllocation",
            "{resources: [{name: cpu}, {name: cpu}]}",
            "resources[1].name",
            "listed already",
        ),
        (
            "NodeAffinity",
            "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {}}}",
            "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            "at least one term",
        ),
        (
            "DefaultPreemption",
            "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}",
            "minCandidateNodesPercentage",
            "cannot be 0",
        ),
        (
            "PodTopologySpread",
            "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z}]}",
            "defaultConstraints[0].whenUnsatisfiable",
            "DoNotSchedule, ScheduleAnyway",
        ),
        (
            "NodeResourcesFit",
            "{scoringStrategy: {requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}]}}}",
            "scoringStrategy.requestedToCapacityRatio",
            "leave it out",
        ),
        ("NodeResourcesFit", "{ignoredResources: [a b]}", "ignoredResources[0]", "no name of"),
        (
            "NodeAffinity",
            f"{{addedAffinity: {{{REQUIRED}: {{nodeSelectorTerms: [{{matchExpressions:"
            " [{operator: In, values: [a]}]}]}}}",
            f"addedAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].key",
            "must name a label",
        ),
        (
            "NodeAffinity",
            f"{{addedAffinity: {{{REQUIRED}: {{nodeSelectorTerms: [{{matchExpressions:"
            " [{key: zone, operator: In}]}]}}}",
            f"addedAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].values",
            "at least one value",
        ),
        (
            "NodeAffinity",
            f"{{addedAffinity: {{{REQUIRED}: {{nodeSelectorTerms: [{{matchExpressions:"
            " [{key: cores, operator: Gt, values: [many]}]}]}}}",
            f"addedAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].values",
            "one whole number",
        ),
        (
            "NodeAffinity",
            f"{{addedAffinity: {{{REQUIRED}: {{nodeSelectorTerms: [{{matchExpressions:"
            " [{key: zone, operator: In, values: [b!]}]}]}}}",
            f"addedAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].values",
            "must be values of labels",
        ),
        (
            "NodeAffinity",
            f"{{addedAffinity: {{{REQUIRED}: {{nodeSelectorTerms: [{{matchFields:"
            " [{key: spec.x, operator: In, values: [a]}]}]}}}",
            f"addedAffinity.{REQUIRED}.nodeSelectorTerms[0].matchFields[0].key",
            "metadata.name",
        ),
        (
            "PodTopologySpread",
            "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: a b,"
            " whenUnsatisfiable: ScheduleAnyway}]}",
            "defaultConstraints[0].topologyKey",
            "'a b'",
        ),
        ("VolumeBinding", "{kind: NodeAffinityArgs}", "kind", "VolumeBindingArgs"),
        ("PodTopologySpread", "{kind: VolumeBindingArgs}", "kind", "PodTopologySpreadArgs"),
        ("DynamicResources", "{apiVersion: v1}", "apiVersion", "kubescheduler.config.k8s.io/v1"),
        ("VolumeBinding", "{bindTimeoutSeconds: -1}", "bindTimeoutSeconds", "at least 0"),
        ("VolumeBinding", "{shape: [{utilization: 101}]}", "shape[0].utilization", "0 to 100"),
        ("DynamicResources", "{filterTimeout: -5s}", "filterTimeout", "at least 0s"),
        ("DynamicResources", "{bindingTimeout: 500ms}", "bindingTimeout", "at least 1s"),
        ("DynamicResources", "{bindingTimeout: 30}", "bindingTimeout", "such as 30s or 10m"),
    ],
)
def test_arguments_that_are_wrong_are_named(plugin, args, path, words):
    with pytest.raises(SchedulerConfigError) as caught:
        read(f"profiles: [{{pluginConfig: [{{name: {plugin}, args: {args}}}]}}]")
    assert str(caught.value).startswith(f"profiles[0].pluginConfig[0].args.{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("parallelism: 0", "parallelism"),
        ("percentageOfNodesToScore: 101", "percentageOfNodesToScore"),
        ("podInitialBackoffSeconds: 0", "podInitialBackoffSeconds"),
        ("{podInitialBackoffSeconds: 5, podMaxBackoffSeconds: 4}", "podMaxBackoffSeconds"),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: ImageLocality}]}}}]",
            "profiles[0].plugins.filter.enabled[0].name",
        ),
        (
            "profiles: [{plugins: {queueSort: {disabled: [{name: PrioritySort}]}}}]",
            "profiles[0].plugins.queueSort",
        ),
        (
            "profiles: [{plugins: {multiPoint: {disabled: [{name: DefaultBinder}]}}}]",
            "profiles[0].plugins.bind",
        ),
        (
            "profiles: [{plugins: {multiPoint: {disabled: [{name: SchedulingGates}]}}}]",
            "profiles[0].plugins.multiPoint.disabled[0].name",
        ),
        ("podInitialBackoffSeconds: 20", "podMaxBackoffSeconds"),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity}, {name: NodeAffinity}]}]",
            "profiles[0].pluginConfig[1].name",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeName, args: {a: 1}}]}]",
            "profiles[0].pluginConfig[0].args",
        ),
    ],
)
def test_limits_of_the_whole_are_checked_too(text, path):
    given = yaml.safe_load(text)
    with pytest.raises(SchedulerConfigError) as caught:
        read_config({**yaml.safe_load(HEAD), **given})
    assert str(caught.value).startswith(f"{path}: ")


def test_how_long_a_pod_waits_for_devices_and_volumes_is_read():
    [profile] = read(
        "profiles: [{pluginConfig: [{name: DynamicResources, args: {bindingTimeout: 1m30s}},"
        " {name: VolumeBinding, args: {bindTimeoutSeconds: 20}}]}]"
    ).profiles
    assert (profile.device_timeout_s, profile.volume_timeout_s) == (90.0, 20.0)
    [profile] = read("profiles: [{}]").profiles
    assert (profile.device_timeout_s, profile.volume_timeout_s) == (600.0, 600.0)


def test_how_full_storage_scores_is_read():
    [profile] = read("profiles: [{}]").profiles
    assert (profile.storage_shape, profile.weights.VolumeBinding) == (((0, 10), (100, 0)), 1)
    [profile] = read(
        "profiles: [{plugins: {score: {disabled: [{name: VolumeBinding}]}}, pluginConfig:"
        " [{name: VolumeBinding, args: {shape: [{utilization: 0, score: 0},"
        " {utilization: 100, score: 10}]}}]}]"
    ).profiles
    assert (profile.storage_shape, profile.weights.VolumeBinding) == (((0, 0), (100, 10)), 0)


def test_a_plugin_that_is_enabled_twice_at_one_point_is_named():
    twice = "[{name: ImageLocality}, {name: NodeAffinity}, {name: ImageLocality, weight: 3}]"
    with pytest.raises(SchedulerConfigError) as caught:
        read(f"profiles: [{{plugins: {{score: {{enabled: {twice}}}}}}}]")
    assert str(caught.value) == (
        "profiles[0].plugins.score.enabled[2].name: ImageLocality is enabled here already"
    )
