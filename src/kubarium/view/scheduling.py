"""KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) as scheduler profiles.

Fields that only tune how upstream's scheduler runs (parallelism, sampling of nodes, leader
election, client connection, time limits of plugins) are checked and have no effect here; what would
change decisions and is not supported (extenders, unknown plugins) is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from kubarium.base.duration import duration_s
from kubarium.base.quoted import quoted
from kubarium.engine.placement.profile import (
    DEFAULT_SCHEDULER,
    FILTERS,
    FOREGOING,
    Profile,
    Weights,
)
from kubarium.view.config_fields import (
    API_VERSION,
    entries,
    flag,
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
from kubarium.view.plugin_sets import (
    PREEMPTION,
    ActivePlugins,
    check_common_sorting,
    plugin_named,
    read_plugins,
)
from kubarium.view.spreading import Default

KIND = "KubeSchedulerConfiguration"

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
    most = number(root, "podMaxBackoffSeconds", 10, 0, None, ())
    if most < start:
        problem = f"must be at least podInitialBackoffSeconds, which is {start}, not {most}"
        raise SchedulerConfigError(("podMaxBackoffSeconds",), problem)
    if list(entries(root.get("extenders"), ("extenders",))):
        raise SchedulerConfigError(("extenders",), "scheduler extenders are not supported")
    profiles: dict[str, Profile] = {}
    defaults: list[tuple[str, tuple[Default, ...]]] = []
    sorting: list[tuple[ActivePlugins, Any, Path]] = []
    several = len(list(entries(root.get("profiles"), ("profiles",)))) > 1
    for i, entry in entries(root.get("profiles"), ("profiles",)):
        at: Path = ("profiles", i)
        if several and mapping(entry, at).get("schedulerName") is None:
            problem = f"each of several profiles needs a name, such as {DEFAULT_SCHEDULER}"
            raise SchedulerConfigError((*at, "schedulerName"), problem)
        profile, spread, active, args = _profile(mapping(entry, at), at)
        sorting.append((active, args, at))
        if profile.scheduler_name in profiles:
            problem = f"{quoted(profile.scheduler_name)} is the name of an earlier profile already"
            raise SchedulerConfigError((*at, "schedulerName"), problem)
        profiles[profile.scheduler_name] = profile
        if spread is not None:
            defaults.append((profile.scheduler_name, spread))
    check_common_sorting(sorting)
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
    for field_name in ("leaseDuration", "renewDeadline", "retryPeriod"):
        _check_duration(section(root, "leaderElection", ()), field_name)
    number(section(root, "clientConnection", ()), "burst", 0, 0, None, ("clientConnection",))
    election = section(root, "leaderElection", ())
    if election.get("leaderElect") and election.get("resourceLock", "leases") != "leases":
        problem = f"must be leases, not {quoted(election['resourceLock'])}"
        raise SchedulerConfigError(("leaderElection", "resourceLock"), problem)


def _check_duration(election: Json, name: str) -> None:
    given = election.get(name)
    try:
        if given is not None:
            duration_s(given)
    except ValueError as error:
        raise SchedulerConfigError(("leaderElection", name), str(error)) from None


def _profile(
    entry: Json, at: Path
) -> tuple[Profile, tuple[Default, ...] | None, ActivePlugins, Any]:
    """With its default spread constraints, its plugins, and the arguments of its queueSort."""
    known(entry, ("schedulerName", "plugins", "pluginConfig", "percentageOfNodesToScore"), at)
    name = entry.get("schedulerName")
    name = DEFAULT_SCHEDULER if name is None else name
    if not isinstance(name, str) or not name or not is_plain(name):
        raise SchedulerConfigError((*at, "schedulerName"), f"must be a name, not {quoted(name)}")
    active = read_plugins(section(entry, "plugins", at), (*at, "plugins"), name)
    profile = _with_plugins(Profile(name), active)
    number(entry, "percentageOfNodesToScore", 0, 0, 100, at)
    spread: tuple[Default, ...] | None = None
    seen: dict[str, Json] = {}
    for i, item in entries(entry.get("pluginConfig"), (*at, "pluginConfig")):
        where: Path = (*at, "pluginConfig", i)
        one = mapping(item, where)
        known(one, ("name", "args"), where)
        plugin = plugin_named(one.get("name"), (*where, "name"))
        if plugin in seen:
            raise SchedulerConfigError((*where, "name"), f"{plugin} has arguments already")
        args, inner = section(one, "args", where), (*where, "args")
        seen[plugin] = args
        if plugin == "PodTopologySpread":
            spread = read_spread(args, inner)
        else:
            profile = read_args(profile, plugin, args, inner)
    return profile, spread, active, seen.get(active.queue_sort)


def _with_plugins(profile: Profile, active: ActivePlugins) -> Profile:
    off = frozenset(FILTERS).difference(active.by_point["filter"])
    weights = {f.name: active.weights.get(f.name, 0) for f in fields(Weights)}
    return replace(
        profile,
        disabled=off,
        unprepared=frozenset(FOREGOING).difference(active.by_point["preFilter"]),
        weights=Weights(**weights),
        preempts=PREEMPTION in active.by_point["postFilter"],
        frees_claims="DynamicResources" in active.by_point["postFilter"],
    )
