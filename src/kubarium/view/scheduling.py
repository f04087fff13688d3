"""KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) as scheduler profiles.

Fields that only tune how upstream's scheduler runs (parallelism, sampling of nodes, leader
election, client connection, back-off) are accepted and have no effect here; what would change
decisions and is not supported (extenders, unknown plugins) is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kubarium.engine.devices.preference import (
    ASCENDING,
    BEST_FIT,
    DESCENDING,
    AttributeOrder,
    DevicePreference,
)
from kubarium.engine.devices.preference import STRATEGIES as DEVICE_STRATEGIES
from kubarium.engine.model import PreferredTerm
from kubarium.engine.placement.profile import (
    DEFAULT_SCHEDULER,
    FILTERS,
    REQUESTED_TO_CAPACITY_RATIO,
    STRATEGIES,
    Profile,
    Strategy,
    Weights,
)
from kubarium.view.selectors import node_term, node_terms
from kubarium.view.spreading import Default

API_VERSION = "kubescheduler.config.k8s.io/v1"
KIND = "KubeSchedulerConfiguration"

_Json = Mapping[str, Any]
Path = tuple[str | int, ...]

_WEIGHTS = tuple(f.name for f in fields(Weights))
# Plugins with a place in the chain that no profile may take from them here.
_FIXED = ("SchedulingGates", "PrioritySort", "DefaultBinder", "GangScheduling")
_PREEMPTION = "DefaultPreemption"
_PLUGINS = tuple(dict.fromkeys((*FILTERS, *_WEIGHTS, _PREEMPTION, *_FIXED)))
_FILTERING = ("multiPoint", "preFilter", "filter")
_SCORING = ("multiPoint", "preScore", "score")
_POST = ("multiPoint", "postFilter")
_POINTS = (
    "multiPoint",
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
)
_TOP = (
    "apiVersion",
    "kind",
    "profiles",
    "parallelism",
    "percentageOfNodesToScore",
    "podInitialBackoffSeconds",
    "podMaxBackoffSeconds",
    "leaderElection",
    "clientConnection",
    "enableProfiling",
    "enableContentionProfiling",
    "delayCacheUntilActive",
    "extenders",
)
MAX_WEIGHT = 100


class SchedulerConfigError(Exception):
    """A configuration that cannot be used; ``path`` is the field, from the document's root."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{dotted(path)}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


def dotted(path: Path) -> str:
    """``profiles[0].plugins.score``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Profiles by name, and the default spread constraints of those that list their own."""

    profiles: tuple[Profile, ...] = (Profile(),)
    spread_defaults: tuple[tuple[str, tuple[Default, ...]], ...] = ()


def read_config(document: Any) -> SchedulerConfig:
    """The profiles of a KubeSchedulerConfiguration. SchedulerConfigError names the field."""
    root = _mapping(document, ())
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if root.get(field, wanted) != wanted:
            raise SchedulerConfigError((field,), f"must be {wanted}, not {root[field]!r}")
    _known(root, _TOP, ())
    if root.get("extenders"):
        raise SchedulerConfigError(("extenders",), "scheduler extenders are not supported")
    profiles: dict[str, Profile] = {}
    defaults: list[tuple[str, tuple[Default, ...]]] = []
    for i, entry in _entries(root.get("profiles"), ("profiles",)):
        at: Path = ("profiles", i)
        profile, spread = _profile(_mapping(entry, at), at)
        if profile.scheduler_name in profiles:
            problem = f"{profile.scheduler_name!r} is the name of an earlier profile already"
            raise SchedulerConfigError((*at, "schedulerName"), problem)
        profiles[profile.scheduler_name] = profile
        if spread is not None:
            defaults.append((profile.scheduler_name, spread))
    if not profiles:
        return SchedulerConfig()
    return SchedulerConfig(tuple(profiles.values()), tuple(defaults))


def _profile(entry: _Json, at: Path) -> tuple[Profile, tuple[Default, ...] | None]:
    _known(entry, ("schedulerName", "plugins", "pluginConfig", "percentageOfNodesToScore"), at)
    name = entry.get("schedulerName", DEFAULT_SCHEDULER)
    if not isinstance(name, str) or not name:
        raise SchedulerConfigError((*at, "schedulerName"), f"must be a name, not {name!r}")
    profile = _with_plugins(
        Profile(name), _mapping(entry.get("plugins") or {}, (*at, "plugins")), (*at, "plugins")
    )
    spread: tuple[Default, ...] | None = None
    for i, item in _entries(entry.get("pluginConfig"), (*at, "pluginConfig")):
        where: Path = (*at, "pluginConfig", i)
        one = _mapping(item, where)
        plugin = _plugin(one.get("name"), (*where, "name"))
        args, inner = _mapping(one.get("args") or {}, (*where, "args")), (*where, "args")
        if plugin == "PodTopologySpread":
            spread = _spread(args, inner)
        elif plugin in _ARGS:
            profile = _ARGS[plugin](profile, args, inner)
    return profile, spread


# Plugins


def _with_plugins(profile: Profile, plugins: _Json, at: Path) -> Profile:
    """multiPoint first, as upstream, so that a single extension point can differ from it."""
    _known(plugins, _POINTS, at)
    for point in _POINTS:
        sets = _mapping(plugins.get(point) or {}, (*at, point))
        for _, plugin, _ in _named(sets, "disabled", (*at, point)):
            profile = _switched(profile, plugin, point, 0, on=False)
        for number, plugin, weight in _named(sets, "enabled", (*at, point)):
            if not 0 <= weight <= MAX_WEIGHT:
                path = (*at, point, "enabled", number, "weight")
                raise SchedulerConfigError(path, f"must be 0 to {MAX_WEIGHT}, not {weight}")
            profile = _switched(profile, plugin, point, weight, on=True)
    return profile


def _named(sets: _Json, field: str, at: Path) -> Iterator[tuple[int, str, int]]:
    _known(sets, ("enabled", "disabled"), at)
    for i, item in _entries(sets.get(field), (*at, field)):
        where: Path = (*at, field, i)
        one = _mapping(item, where)
        name = one.get("name")
        if field == "disabled" and name == "*":
            for plugin in _PLUGINS:
                yield i, plugin, 0
            continue
        weight = one.get("weight") or 0
        if not isinstance(weight, int):
            raise SchedulerConfigError(
                (*where, "weight"), f"must be a whole number, not {weight!r}"
            )
        yield i, _plugin(name, (*where, "name")), weight


def _switched(profile: Profile, plugin: str, point: str, weight: int, *, on: bool) -> Profile:
    if plugin in FILTERS and point in _FILTERING:
        off = profile.disabled - {plugin} if on else profile.disabled | {plugin}
        profile = replace(profile, disabled=off)
    if plugin in _WEIGHTS and point in _SCORING:
        known = getattr(profile.weights, plugin)
        # Upstream: a plugin enabled without a weight has the weight 1, or its default's.
        value = (weight or known or getattr(Weights(), plugin)) if on else 0
        profile = replace(profile, weights=replace(profile.weights, **{plugin: value}))
    if plugin == _PREEMPTION and point in _POST:
        profile = replace(profile, preempts=on)
    return profile


def _plugin(name: object, at: Path) -> str:
    if name not in _PLUGINS:
        known = ", ".join(sorted(_PLUGINS))
        raise SchedulerConfigError(at, f"no plugin {name!r} here; there are {known}")
    return str(name)


# Arguments


def _fit_args(profile: Profile, args: _Json, at: Path) -> Profile:
    ignored = frozenset(str(name) for name in args.get("ignoredResources") or ())
    given = args.get("scoringStrategy")
    if given is None:
        return replace(profile, ignored_resources=ignored)
    where: Path = (*at, "scoringStrategy")
    strategy = _mapping(given, where)
    kind = strategy.get("type", STRATEGIES[0])
    if kind not in STRATEGIES:
        problem = f"must be one of {', '.join(STRATEGIES)}, not {kind!r}"
        raise SchedulerConfigError((*where, "type"), problem)
    resources = _resources(strategy.get("resources"), (*where, "resources"))
    shape: tuple[tuple[int, int], ...] = ()
    if kind == REQUESTED_TO_CAPACITY_RATIO:
        ratio = _mapping(strategy.get("requestedToCapacityRatio") or {}, where)
        shape = _shape(ratio.get("shape"), (*where, "requestedToCapacityRatio", "shape"))
    found = Strategy(kind, resources or Strategy().resources, shape)
    return replace(profile, strategy=found, ignored_resources=ignored)


def _resources(given: object, at: Path) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for i, item in _entries(given, at):
        one = _mapping(item, (*at, i))
        weight = one.get("weight", 1)
        if not isinstance(weight, int) or not 1 <= weight <= MAX_WEIGHT:
            problem = f"must be 1 to {MAX_WEIGHT}, not {weight!r}"
            raise SchedulerConfigError((*at, i, "weight"), problem)
        found.append((str(one.get("name", "")), weight))
    return tuple(found)


def _shape(given: object, at: Path) -> tuple[tuple[int, int], ...]:
    points: list[tuple[int, int]] = []
    for i, item in _entries(given, at):
        one = _mapping(item, (*at, i))
        point: list[int] = []
        for field, most in (("utilization", 100), ("score", 10)):
            value = one.get(field, 0)
            if not isinstance(value, int) or not 0 <= value <= most:
                problem = f"must be 0 to {most}, not {value!r}"
                raise SchedulerConfigError((*at, i, field), problem)
            point.append(value)
        if points and point[0] <= points[-1][0]:
            problem = f"utilisations must rise, but {point[0]} follows {points[-1][0]}"
            raise SchedulerConfigError((*at, i, "utilization"), problem)
        points.append((point[0], point[1]))
    if not points:
        raise SchedulerConfigError(at, "RequestedToCapacityRatio needs at least one point")
    return tuple(points)


def _balance_args(profile: Profile, args: _Json, at: Path) -> Profile:
    found = _resources(args.get("resources"), (*at, "resources"))
    return replace(profile, balanced=tuple(name for name, _ in found)) if found else profile


def _affinity_args(profile: Profile, args: _Json, at: Path) -> Profile:
    added = _mapping(args.get("addedAffinity") or {}, (*at, "addedAffinity"))
    preferred = Profile().added_preferred
    for i, item in _entries(
        added.get("preferredDuringSchedulingIgnoredDuringExecution"), (*at, "addedAffinity")
    ):
        one = _mapping(item, (*at, "addedAffinity", i))
        term = node_term(one.get("preference") or {})
        preferred += (PreferredTerm(int(one.get("weight") or 0), term),)
    required = node_terms(added.get("requiredDuringSchedulingIgnoredDuringExecution"))
    return replace(profile, added_affinity=required, added_preferred=preferred)


def _inter_pod_args(profile: Profile, args: _Json, at: Path) -> Profile:
    weight = args.get("hardPodAffinityWeight", 1)
    if not isinstance(weight, int) or not 0 <= weight <= MAX_WEIGHT:
        problem = f"must be 0 to {MAX_WEIGHT}, not {weight!r}"
        raise SchedulerConfigError((*at, "hardPodAffinityWeight"), problem)
    return replace(profile, hard_pod_affinity_weight=weight)


def _device_args(profile: Profile, args: _Json, at: Path) -> Profile:
    """DynamicResourcesArgs.deviceSelection, which is ours; upstream's timeouts are not needed."""
    _known(args, ("deviceSelection", "filterTimeout", "bindingTimeout", *_TYPE_META), at)
    where: Path = (*at, "deviceSelection")
    given = _mapping(args.get("deviceSelection") or {}, where)
    _known(given, ("strategy", "attributes"), where)
    strategy = given.get("strategy", BEST_FIT)
    if strategy not in DEVICE_STRATEGIES:
        problem = f"must be one of {', '.join(DEVICE_STRATEGIES)}, not {strategy!r}"
        raise SchedulerConfigError((*where, "strategy"), problem)
    orders: list[AttributeOrder] = []
    for i, item in _entries(given.get("attributes"), (*where, "attributes")):
        one, here = _mapping(item, (*where, "attributes", i)), (*where, "attributes", i)
        _known(one, ("name", "order"), here)
        name, order = one.get("name"), one.get("order", ASCENDING)
        if not isinstance(name, str) or "/" not in name:
            problem = f"must be domain/name of an attribute or capacity, not {name!r}"
            raise SchedulerConfigError((*here, "name"), problem)
        if order not in (ASCENDING, DESCENDING):
            problem = f"must be {ASCENDING} or {DESCENDING}, not {order!r}"
            raise SchedulerConfigError((*here, "order"), problem)
        orders.append(AttributeOrder(name, order == DESCENDING))
    return replace(profile, devices=DevicePreference(strategy, tuple(orders)))


_TYPE_META = ("apiVersion", "kind")
_ARGS = {
    "DynamicResources": _device_args,
    "NodeResourcesFit": _fit_args,
    "NodeResourcesBalancedAllocation": _balance_args,
    "NodeAffinity": _affinity_args,
    "InterPodAffinity": _inter_pod_args,
}


def _spread(args: _Json, at: Path) -> tuple[Default, ...] | None:
    """The profile's own default constraints; None: the system's."""
    kind = args.get("defaultingType", "System")
    if kind not in ("System", "List"):
        problem = f"must be System or List, not {kind!r}"
        raise SchedulerConfigError((*at, "defaultingType"), problem)
    found: list[Default] = []
    for i, item in _entries(args.get("defaultConstraints"), (*at, "defaultConstraints")):
        where: Path = (*at, "defaultConstraints", i)
        one = _mapping(item, where)
        skew, key = one.get("maxSkew"), one.get("topologyKey")
        if not isinstance(skew, int) or skew < 1:
            raise SchedulerConfigError((*where, "maxSkew"), f"must be at least 1, not {skew!r}")
        if not isinstance(key, str) or not key:
            raise SchedulerConfigError((*where, "topologyKey"), "must name a node label")
        found.append((key, skew, one.get("whenUnsatisfiable") != "ScheduleAnyway"))
    if kind == "System":
        if found:
            problem = 'needs defaultingType "List"'
            raise SchedulerConfigError((*at, "defaultConstraints"), problem)
        return None
    return tuple(found)


# Shapes of values


def _mapping(value: object, at: Path) -> _Json:
    if not isinstance(value, Mapping):
        raise SchedulerConfigError(at, f"must be a mapping, not {value!r}")
    return value


def _entries(value: object, at: Path) -> Iterator[tuple[int, Any]]:
    if value is None:
        return
    if not isinstance(value, list):
        raise SchedulerConfigError(at, f"must be a list, not {value!r}")
    yield from enumerate(value)


def _known(value: _Json, names: tuple[str, ...], at: Path) -> None:
    for name in value:
        if name not in names:
            raise SchedulerConfigError((*at, name), f"no such field; there are {', '.join(names)}")
