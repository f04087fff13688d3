"""Which plugins a profile runs at each extension point, by upstream's rules.

Sources: ``mergePluginSet`` (apis/config/v1), ``expandMultiPointPlugins`` and ``NewFramework``
(framework/runtime), ``validateCommonQueueSort`` (apis/config/validation). What a point lists comes
before what ``multiPoint`` lists; a point that disables ``*`` has nothing of the latter; enabled
counts more than disabled in the same list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from kubarium.base.quoted import quoted
from kubarium.engine.placement.profile import FILTERS, Weights
from kubarium.view.config_fields import (
    API_VERSION,
    Json,
    Path,
    SchedulerConfigError,
    entries,
    instead,
    known,
    mapping,
    number,
    section,
)

MULTI = "multiPoint"
POINTS = (
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
PREEMPTION = "DefaultPreemption"
MAX_WEIGHT = 2**31 - 1

_WEIGHTS = {f.name: int(f.default) for f in fields(Weights)}  # type: ignore[arg-type]
_COSCHEDULING = "Coscheduling"
# Plugins with a place in the chain that no profile may take from them here.
_ALWAYS = ("SchedulingGates", "GangScheduling", _COSCHEDULING)
_OTHERS = (PREEMPTION, "PrioritySort", "DefaultBinder", *_ALWAYS)
PLUGINS = tuple(dict.fromkeys((*FILTERS, *_WEIGHTS, *_OTHERS)))
# What runs without a word; scheduler-plugins' Coscheduling has to be asked for.
_DEFAULTS = {name: _WEIGHTS.get(name, 0) for name in PLUGINS if name != _COSCHEDULING}
# Gone upstream, so that nothing is lost if they are disabled.
_REMOVED = ("AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits")
# Plugins that prepare nothing before they filter or score.
_UNPREPARED = {
    "preFilter": ("NodeUnschedulable", "NodeName", "TaintToleration"),
    "preScore": ("ImageLocality",),
}
# What else plugins do; of those that run always none of it can be taken from them.
_ELSEWHERE = {
    PREEMPTION: ("preEnqueue", "postFilter"),
    "SchedulingGates": ("preEnqueue",),
    "PrioritySort": ("queueSort",),
    "DefaultBinder": ("bind",),
    "GangScheduling": ("preEnqueue", "reserve", "permit"),
    # scheduler-plugins' own; its PodGroups are always gangs here.
    _COSCHEDULING: ("queueSort", "preFilter", "postFilter", "permit", "reserve"),
    "VolumeBinding": ("reserve", "preBind"),
    "DynamicResources": ("preEnqueue", "postFilter", "reserve", "preBind"),
}
# Without what they prepare, upstream's fail each pod; the others find it out anew.
_PREPARED = {
    "filter": (
        "preFilter",
        (
            "NodePorts",
            "NodeResourcesFit",
            "VolumeRestrictions",
            "VolumeBinding",
            "PodTopologySpread",
            "InterPodAffinity",
            "DynamicResources",
            "NodeDeclaredFeatures",
        ),
    ),
    "score": ("preScore", ("TaintToleration", "PodTopologySpread", "InterPodAffinity")),
}


@dataclass(frozen=True, slots=True)
class PluginSet:
    """What a profile says of one extension point: plugins with weights, and those it disables."""

    enabled: tuple[tuple[str, int], ...] = ()
    disabled: frozenset[str] = frozenset()
    everything: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.enabled)


@dataclass(frozen=True, slots=True)
class ActivePlugins:
    """What runs at each point, and how much the scores weigh; ``sorting`` is told of queueSort."""

    by_point: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, int]
    sorting: PluginSet

    @property
    def queue_sort(self) -> str:
        return self.by_point["queueSort"][0]


def read_plugins(plugins: Json, at: Path, scheduler: str) -> ActivePlugins:
    """The plugins of the profile of ``scheduler``. SchedulerConfigError names the field."""
    known(plugins, (MULTI, *POINTS), at)
    sets = {point: _set(plugins, point, at) for point in (MULTI, *POINTS)}
    everywhere = _merged(sets[MULTI])
    by_point = {point: _at(point, sets[point], everywhere) for point in POINTS}
    own = dict(sets["score"].enabled)
    weights = {p: max(own.get(p, everywhere.get(p, 0)), 1) for p in by_point["score"]}
    found = ActivePlugins(by_point, weights, sets["queueSort"])
    _check(found, at, scheduler)
    return found


def plugin_named(name: object, at: Path) -> str:
    """The plugin that is enabled or gets arguments; SchedulerConfigError if there is none such."""
    if name in _REMOVED:
        problem = f'{name} was invalid in version "v1" (KubeSchedulerConfiguration is version'
        raise SchedulerConfigError(at, f'{problem} "{API_VERSION}"): leave it out')
    if name not in PLUGINS:
        raise SchedulerConfigError(
            at, f"no plugin {quoted(name)} here; {instead(name, sorted(PLUGINS))}"
        )
    return str(name)


def check_common_sorting(found: list[tuple[ActivePlugins, Any, Path]]) -> None:
    """One queue has one order: all profiles say the same of it.

    ``found`` has each profile's plugins, the arguments of its queueSort plugin, and its path.
    """
    for plugins, args, at in found[1:]:
        first, first_args, _ = found[0]
        where = (*at, "plugins", "queueSort")
        if plugins.sorting != first.sorting:
            raise SchedulerConfigError(where, "must be the same for all profiles")
        if plugins.queue_sort != first.queue_sort:
            problem = f"different queue sort plugins: {plugins.queue_sort}, first:"
            raise SchedulerConfigError(where, f"{problem} {first.queue_sort}")
        if args != first_args:
            problem = f"arguments of {first.queue_sort}: must be the same for all profiles"
            raise SchedulerConfigError((*at, "pluginConfig"), problem)


def _set(plugins: Json, point: str, at: Path) -> PluginSet:
    given, at = section(plugins, point, at), (*at, point)
    known(given, ("enabled", "disabled"), at)
    disabled = frozenset(_disabled(given, point, at))
    return PluginSet(
        tuple(_enabled(given, point, at)), frozenset(disabled - {"*"}), "*" in disabled
    )


def _disabled(given: Json, point: str, at: Path) -> Iterator[str]:
    for i, item in entries(given.get("disabled"), (*at, "disabled")):
        where: Path = (*at, "disabled", i)
        one = mapping(item, where)
        name = one.get("name")
        known(one, ("name", "weight"), where)
        number(one, "weight", 0, 0, MAX_WEIGHT, where)
        if name != "*" and name not in _REMOVED:
            plugin = plugin_named(name, (*where, "name"))
            if plugin in _ALWAYS and _extends(plugin, point):
                problem = f"{plugin} is always on here: leave it out"
                raise SchedulerConfigError((*where, "name"), problem)
        yield str(name)


def _enabled(given: Json, point: str, at: Path) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    for i, item in entries(given.get("enabled"), (*at, "enabled")):
        where: Path = (*at, "enabled", i)
        one = mapping(item, where)
        known(one, ("name", "weight"), where)
        weight = number(one, "weight", 0, 0, MAX_WEIGHT, where)
        plugin = plugin_named(one.get("name"), (*where, "name"))
        if plugin in seen:
            raise SchedulerConfigError((*where, "name"), f"{plugin} is enabled here already")
        seen.add(plugin)
        if not _extends(plugin, point):
            points = ", ".join(p for p in (MULTI, *POINTS) if _extends(plugin, p))
            problem = f"{plugin} has no part in {point}, but in {points}"
            raise SchedulerConfigError((*where, "name"), problem)
        yield plugin, weight


def _extends(plugin: str, point: str) -> bool:
    """Whether the plugin has something to do at the extension point."""
    if plugin in _UNPREPARED.get(point, ()):
        return False
    return (
        point == MULTI
        or (plugin in FILTERS and point in ("preFilter", "filter"))
        or (plugin in _WEIGHTS and point in ("preScore", "score"))
        or point in _ELSEWHERE.get(plugin, ())
    )


def _merged(multi: PluginSet) -> dict[str, int]:
    """The weights of what runs at every point that it extends; 0 counts as 1."""
    own = dict(multi.enabled)
    kept = {} if multi.everything else {p: w for p, w in _DEFAULTS.items() if p not in own}
    return {p: w for p, w in kept.items() if p not in multi.disabled} | own


def _at(point: str, own: PluginSet, everywhere: Mapping[str, int]) -> tuple[str, ...]:
    if own.everything:
        return own.names
    rest = (
        plugin
        for plugin in everywhere
        if _extends(plugin, point) and plugin not in own.disabled and plugin not in own.names
    )
    return (*own.names, *rest)


def _check(found: ActivePlugins, at: Path, scheduler: str) -> None:
    """What upstream finds out when it starts, or when it fails each pod."""
    of = f"for profile with scheduler name {quoted(scheduler)}"
    sorting = found.by_point["queueSort"]
    if len(sorting) != 1:
        problem = f"only one queue sort plugin required {of}, but got {len(sorting)}"
        told = f": {', '.join(sorting)}" if sorting else "; enable PrioritySort"
        raise SchedulerConfigError((*at, "queueSort"), problem + told)
    if not found.by_point["bind"]:
        problem = f"at least one bind plugin is needed {of}; enable DefaultBinder"
        raise SchedulerConfigError((*at, "bind"), problem)
    for point, (before, plugins) in _PREPARED.items():
        for plugin in found.by_point[point]:
            if plugin in plugins and plugin not in found.by_point[before]:
                problem = f"{plugin} is on, but not in {before}, without which it fails each pod"
                raise SchedulerConfigError((*at, point), problem)
