"""KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) as scheduler profiles.

Fields that only tune how upstream's scheduler runs (parallelism, sampling of nodes, leader
election, client connection, time limits of plugins) are checked and have no effect here; what would
change decisions and is not supported (extenders, unknown plugins) is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kubarium.base.quoted import quoted
from kubarium.engine.placement.profile import DEFAULT_SCHEDULER, FILTERS, Profile, Weights
from kubarium.view.config_fields import (
    API_VERSION,
    entries,
    flag,
    instead,
    is_plain,
    known,
    mapping,
    number,
    section,
    writable,
)
from kubarium.view.config_fields import Json as Json
from kubarium.view.config_fields import Path as Path
from kubarium.view.config_fields import SchedulerConfigError as SchedulerConfigError
from kubarium.view.config_fields import dotted as dotted
from kubarium.view.plugin_args import read_args, read_spread
from kubarium.view.spreading import Default

KIND = "KubeSchedulerConfiguration"

_WEIGHTS = tuple(f.name for f in fields(Weights))
# Plugins with a place in the chain that no profile may take from them here.
_FIXED = ("SchedulingGates", "PrioritySort", "DefaultBinder", "GangScheduling", "Coscheduling")
_PREEMPTION = "DefaultPreemption"
_PLUGINS = tuple(dict.fromkeys((*FILTERS, *_WEIGHTS, _PREEMPTION, *_FIXED)))
_FILTERING = ("multiPoint", "preFilter", "filter")
_SCORING = ("multiPoint", "preScore", "score")
# Plugins that prepare nothing before they filter or score.
_UNPREPARED = {
    "preFilter": ("NodeUnschedulable", "NodeName", "TaintToleration"),
    "preScore": ("ImageLocality",),
}
_POST = ("multiPoint", "postFilter")
# What else plugins do; none of it can be taken from them here.
_ELSEWHERE = {
    _PREEMPTION: ("preEnqueue", "postFilter"),
    "SchedulingGates": ("preEnqueue",),
    "PrioritySort": ("queueSort",),
    "DefaultBinder": ("bind",),
    "GangScheduling": ("preEnqueue", "reserve", "permit"),
    # scheduler-plugins' own; its PodGroups are always gangs here.
    "Coscheduling": ("queueSort", "preFilter", "postFilter", "permit", "reserve"),
    "VolumeBinding": ("reserve", "preBind"),
    "DynamicResources": ("preEnqueue", "postFilter", "reserve", "preBind"),
}
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
MAX_WEIGHT = 2**31 - 1
_WITHOUT_EFFECT: dict[str, dict[str, type | tuple[type, ...]]] = {
    "leaderElection": {
        "leaderElect": bool,
        "leaseDuration": str,
        "renewDeadline": str,
        "retryPeriod": str,
        "resourceLock": str,
        "resourceName": str,
        "resourceNamespace": str,
    },
    "clientConnection": {
        "kubeconfig": str,
        "acceptContentTypes": str,
        "contentType": str,
        "qps": (int, float),
        "burst": int,
    },
}
_IN_WORDS = {str: "text", int: "a whole number", (int, float): "a number"}


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Profiles by name, and the default spread constraints of those that list their own.

    ``backoff_start_s`` doubles with each attempt up to ``backoff_max_s``. ``given`` is the
    document that it was read from.
    """

    profiles: tuple[Profile, ...] = (Profile(),)
    spread_defaults: tuple[tuple[str, tuple[Default, ...]], ...] = ()
    backoff_start_s: float = 1.0
    backoff_max_s: float = 10.0
    given: Json | None = field(default=None, compare=False, repr=False)


def read_config(document: Any) -> SchedulerConfig:
    """The profiles of a KubeSchedulerConfiguration. SchedulerConfigError names the field."""
    root = mapping(document, ())
    for name, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if root.get(name, wanted) != wanted:
            raise SchedulerConfigError((name,), f"must be {wanted}, not {quoted(root[name])}")
    known(root, _TOP, ())
    _check_ignored(root)
    number(root, "parallelism", 16, 1, None, ())
    number(root, "percentageOfNodesToScore", 0, 0, 100, ())
    start = number(root, "podInitialBackoffSeconds", 1, 1, None, ())
    most = number(root, "podMaxBackoffSeconds", max(start, 10), start, None, ())
    if list(entries(root.get("extenders"), ("extenders",))):
        raise SchedulerConfigError(("extenders",), "scheduler extenders are not supported")
    profiles: dict[str, Profile] = {}
    defaults: list[tuple[str, tuple[Default, ...]]] = []
    several = len(list(entries(root.get("profiles"), ("profiles",)))) > 1
    for i, entry in entries(root.get("profiles"), ("profiles",)):
        at: Path = ("profiles", i)
        if several and mapping(entry, at).get("schedulerName") is None:
            problem = f"each of several profiles needs a name, such as {DEFAULT_SCHEDULER}"
            raise SchedulerConfigError((*at, "schedulerName"), problem)
        profile, spread = _profile(mapping(entry, at), at)
        if profile.scheduler_name in profiles:
            problem = f"{quoted(profile.scheduler_name)} is the name of an earlier profile already"
            raise SchedulerConfigError((*at, "schedulerName"), problem)
        profiles[profile.scheduler_name] = profile
        if spread is not None:
            defaults.append((profile.scheduler_name, spread))
    writable(root, ())
    found = tuple(profiles.values()) or (Profile(),)
    return SchedulerConfig(found, tuple(defaults), float(start), float(most), root)


def _check_ignored(root: Json) -> None:
    """Fields without effect here: what upstream would refuse is refused all the same."""
    for name in ("enableProfiling", "enableContentionProfiling", "delayCacheUntilActive"):
        flag(root, name, ())
    for name, fields_of in _WITHOUT_EFFECT.items():
        given = section(root, name, ())
        known(given, tuple(fields_of), (name,))
        for field_name, wanted in fields_of.items():
            value = given.get(field_name)
            if wanted is bool:
                flag(given, field_name, (name,))
            elif value is not None and (
                isinstance(value, bool) or not isinstance(value, wanted) or not is_plain(value)
            ):
                problem = f"must be {_IN_WORDS[wanted]}, not {quoted(value)}"
                raise SchedulerConfigError((name, field_name), problem)
    election = section(root, "leaderElection", ())
    if election.get("leaderElect") and election.get("resourceLock", "leases") != "leases":
        problem = f"must be leases, not {quoted(election['resourceLock'])}"
        raise SchedulerConfigError(("leaderElection", "resourceLock"), problem)


def _profile(entry: Json, at: Path) -> tuple[Profile, tuple[Default, ...] | None]:
    known(entry, ("schedulerName", "plugins", "pluginConfig", "percentageOfNodesToScore"), at)
    name = entry.get("schedulerName")
    name = DEFAULT_SCHEDULER if name is None else name
    if not isinstance(name, str) or not name or not is_plain(name):
        raise SchedulerConfigError((*at, "schedulerName"), f"must be a name, not {quoted(name)}")
    profile = _with_plugins(Profile(name), section(entry, "plugins", at), (*at, "plugins"))
    number(entry, "percentageOfNodesToScore", 0, 0, 100, at)
    spread: tuple[Default, ...] | None = None
    seen: list[str] = []
    for i, item in entries(entry.get("pluginConfig"), (*at, "pluginConfig")):
        where: Path = (*at, "pluginConfig", i)
        one = mapping(item, where)
        known(one, ("name", "args"), where)
        plugin = _plugin(one.get("name"), (*where, "name"))
        if plugin in seen:
            raise SchedulerConfigError((*where, "name"), f"{plugin} has arguments already")
        seen.append(plugin)
        args, inner = section(one, "args", where), (*where, "args")
        if plugin == "PodTopologySpread":
            spread = read_spread(args, inner)
        else:
            profile = read_args(profile, plugin, args, inner)
    return profile, spread


# Plugins


def _with_plugins(profile: Profile, plugins: Json, at: Path) -> Profile:
    """multiPoint first, as upstream, so that a single extension point can differ from it."""
    known(plugins, _POINTS, at)
    for point in _POINTS:
        sets = section(plugins, point, at)
        everything = sets.get("disabled") == [{"name": "*"}]
        for i, plugin, _ in _named(sets, "disabled", (*at, point)):
            if plugin in _FIXED and not everything and _extends(plugin, point):
                path: Path = (*at, point, "disabled", i, "name")
                raise SchedulerConfigError(path, f"{plugin} is always on here: leave it out")
            profile = _switched(profile, plugin, point, 0, on=False)
        for i, plugin, weight in _named(sets, "enabled", (*at, point)):
            if not _extends(plugin, point):
                path = (*at, point, "enabled", i, "name")
                points = ", ".join(p for p in _POINTS if _extends(plugin, p))
                raise SchedulerConfigError(
                    path, f"{plugin} has no part in {point}, but in {points}"
                )
            profile = _switched(profile, plugin, point, weight, on=True)
    return profile


def _extends(plugin: str, point: str) -> bool:
    """Whether the plugin has something to do at the extension point."""
    if plugin in _UNPREPARED.get(point, ()):
        return False
    return (
        point == "multiPoint"
        or (plugin in FILTERS and point in _FILTERING)
        or (plugin in _WEIGHTS and point in _SCORING)
        or point in _ELSEWHERE.get(plugin, ())
    )


def _named(sets: Json, field: str, at: Path) -> Iterator[tuple[int, str, int]]:
    known(sets, ("enabled", "disabled"), at)
    seen: set[str] = set()
    for i, item in entries(sets.get(field), (*at, field)):
        where: Path = (*at, field, i)
        one = mapping(item, where)
        name = one.get("name")
        if field == "disabled" and name == "*":
            for each in _PLUGINS:
                yield i, each, 0
            continue
        known(one, ("name", "weight"), where)
        weight = number(one, "weight", 0, 0, MAX_WEIGHT, where)
        plugin = _plugin(name, (*where, "name"))
        if field == "enabled" and plugin in seen:
            raise SchedulerConfigError((*where, "name"), f"{plugin} is enabled here already")
        seen.add(plugin)
        yield i, plugin, weight


def _switched(profile: Profile, plugin: str, point: str, weight: int, *, on: bool) -> Profile:
    if plugin in FILTERS and point in _FILTERING:
        off = profile.disabled - {plugin} if on else profile.disabled | {plugin}
        profile = replace(profile, disabled=off)
    if plugin in _WEIGHTS and point in _SCORING:
        # Upstream: a plugin that is enabled without a weight weighs 1, whatever its default.
        value = max(weight, 1) if on else 0
        profile = replace(profile, weights=replace(profile.weights, **{plugin: value}))
    if plugin == _PREEMPTION and point in _POST:
        profile = replace(profile, preempts=on)
    return profile


def _plugin(name: object, at: Path) -> str:
    if name not in _PLUGINS:
        hint = instead(name, sorted(_PLUGINS))
        raise SchedulerConfigError(at, f"no plugin {quoted(name)} here; {hint}")
    return str(name)
