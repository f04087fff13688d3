"""The arguments of kube-scheduler's plugins (KubeSchedulerConfiguration's ``pluginConfig``).

Source: pkg/scheduler/apis/config/validation of kube-scheduler 1.37.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kubarium.api import formats
from kubarium.base.duration import duration_s
from kubarium.base.quoted import quoted
from kubarium.engine.devices.preference import (
    ASCENDING,
    BEST_FIT,
    DESCENDING,
    DOMAIN_LABELS,
    NODE_STRATEGIES,
    AttributeOrder,
    DevicePreference,
)
from kubarium.engine.devices.preference import STRATEGIES as DEVICE_STRATEGIES
from kubarium.engine.model import PreferredTerm
from kubarium.engine.placement.profile import (
    REQUESTED_TO_CAPACITY_RATIO,
    STRATEGIES,
    Profile,
    Strategy,
)
from kubarium.view.config_fields import (
    API_VERSION,
    Json,
    Path,
    SchedulerConfigError,
    choice,
    entries,
    flag,
    is_plain,
    known,
    mapping,
    number,
    section,
)
from kubarium.view.selectors import node_term, node_terms
from kubarium.view.spreading import Default

MAX_RESOURCE_WEIGHT = 100
_HARD = ("DoNotSchedule", "ScheduleAnyway")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_REQUIRED, _PREFERRED = (
    f"{w}DuringSchedulingIgnoredDuringExecution" for w in ("required", "preferred")
)


def check_type(plugin: str, args: Json, at: Path) -> None:
    """Refuse arguments that say they are another plugin's, or of a version that is not served."""
    for field, wanted in (("apiVersion", API_VERSION), ("kind", f"{plugin}Args")):
        found = args.get(field, wanted)
        if found != wanted:
            raise SchedulerConfigError(
                (*at, field), f"must be {quoted(wanted)}, not {quoted(found)}"
            )


def read_args(profile: Profile, plugin: str, args: Json, at: Path) -> Profile:
    """The profile with the plugin's arguments; SchedulerConfigError names a field that is wrong."""
    fields, read = _ARGS.get(plugin, ((), None))
    if read is None and args:
        raise SchedulerConfigError(at, f"{plugin} takes no arguments")
    known(args, ("apiVersion", "kind", *fields), at)
    check_type(plugin, args, at)
    return read(profile, args, at) if read is not None else profile


def _fit(profile: Profile, args: Json, at: Path) -> Profile:
    ignored = _names(args.get("ignoredResources"), (*at, "ignoredResources"))
    for i, name in enumerate(ignored):
        if problems := formats.qualified_name(name):
            path = (*at, "ignoredResources", i)
            raise SchedulerConfigError(
                path, f"{quoted(name)} is no name of a resource: {problems[0]}"
            )
    groups = _names(args.get("ignoredResourceGroups"), (*at, "ignoredResourceGroups"))
    for i, group in enumerate(groups):
        if "/" in group:
            path = (*at, "ignoredResourceGroups", i)
            raise SchedulerConfigError(
                path, f"a group is what stands before the slash of {quoted(group)}"
            )
        if problems := formats.qualified_name(group):
            path = (*at, "ignoredResourceGroups", i)
            raise SchedulerConfigError(
                path, f"{quoted(group)} is no name of a group: {problems[0]}"
            )
    profile = replace(
        profile, ignored_resources=frozenset(ignored), ignored_groups=frozenset(groups)
    )
    if args.get("scoringStrategy") is None:
        return profile
    where: Path = (*at, "scoringStrategy")
    strategy = mapping(args["scoringStrategy"], where)
    known(strategy, ("type", "resources", "requestedToCapacityRatio"), where)
    kind = choice(strategy, "type", STRATEGIES, where, STRATEGIES[0])
    resources = _resources(strategy.get("resources"), (*where, "resources"))
    shape: tuple[tuple[int, int], ...] = ()
    if kind == REQUESTED_TO_CAPACITY_RATIO:
        ratio = section(strategy, "requestedToCapacityRatio", where)
        shape = _shape(ratio.get("shape"), (*where, "requestedToCapacityRatio", "shape"))
    elif strategy.get("requestedToCapacityRatio") is not None:
        problem = f"is for type {REQUESTED_TO_CAPACITY_RATIO}, not for {kind}: leave it out"
        raise SchedulerConfigError((*where, "requestedToCapacityRatio"), problem)
    found = Strategy(kind, resources or Strategy().resources, shape)
    return replace(profile, strategy=found)


def _names(given: object, at: Path, *, empty: bool = False) -> list[str]:
    """A list of strings, which may be ``empty`` ones only where that is said."""
    found = []
    for i, item in entries(given, at):
        if not isinstance(item, str) or not (item or empty) or not is_plain(item):
            raise SchedulerConfigError((*at, i), f"must be a name, not {quoted(item)}")
        found.append(item)
    return found


def _resources(
    given: object, at: Path, most: int = MAX_RESOURCE_WEIGHT
) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for i, item in entries(given, at):
        one = mapping(item, (*at, i))
        known(one, ("name", "weight"), (*at, i))
        name = one.get("name")
        if not isinstance(name, str) or not name or not is_plain(name):
            raise SchedulerConfigError(
                (*at, i, "name"), f"must name a resource, not {quoted(name)}"
            )
        # Upstream: no weight, or 0, is the default.
        weight = number(
            {**one, "weight": one.get("weight") or None}, "weight", 1, 1, most, (*at, i)
        )
        found.append((name, weight))
    return tuple(found)


def _shape(
    given: object, at: Path, user: str = "RequestedToCapacityRatio"
) -> tuple[tuple[int, int], ...]:
    points: list[tuple[int, int]] = []
    for i, item in entries(given, at):
        one = mapping(item, (*at, i))
        known(one, ("utilization", "score"), (*at, i))
        point = (
            number(one, "utilization", 0, 0, 100, (*at, i)),
            number(one, "score", 0, 0, 10, (*at, i)),
        )
        if points and point[0] <= points[-1][0]:
            problem = f"utilisations must rise, but {point[0]} follows {points[-1][0]}"
            raise SchedulerConfigError((*at, i, "utilization"), problem)
        points.append(point)
    if not points:
        raise SchedulerConfigError(at, f"{user} needs at least one point")
    return tuple(points)


def _balance(profile: Profile, args: Json, at: Path) -> Profile:
    found = _resources(args.get("resources"), (*at, "resources"), 1)
    names = [name for name, _ in found]
    for i, name in enumerate(names):
        if name in names[:i]:
            path = (*at, "resources", i, "name")
            raise SchedulerConfigError(path, f"{quoted(name)} is listed already")
    return replace(profile, balanced=tuple(names)) if found else profile


def _affinity(profile: Profile, args: Json, at: Path) -> Profile:
    where: Path = (*at, "addedAffinity")
    added = section(args, "addedAffinity", at)
    known(added, (_REQUIRED, _PREFERRED), where)
    required = added.get(_REQUIRED)
    if required is not None:
        inner: Path = (*where, _REQUIRED)
        terms = mapping(required, inner).get("nodeSelectorTerms")
        if not terms:
            raise SchedulerConfigError((*inner, "nodeSelectorTerms"), "needs at least one term")
        for i, term in entries(terms, (*inner, "nodeSelectorTerms")):
            _check_term(term, (*inner, "nodeSelectorTerms", i))
    preferred: tuple[PreferredTerm, ...] = ()
    for i, item in entries(added.get(_PREFERRED), (*where, _PREFERRED)):
        path: Path = (*where, _PREFERRED, i)
        one = mapping(item, path)
        term = section(one, "preference", path)
        _check_term(term, (*path, "preference"))
        weight = number(one, "weight", 0, 1, 100, path)
        preferred += (PreferredTerm(weight, node_term(term)),)
    return replace(profile, added_affinity=node_terms(required), added_preferred=preferred)


def _check_term(term: object, at: Path) -> None:
    """A clause that can never hold would keep the profile's pods off every node."""
    fields = ("matchExpressions", "matchFields")
    given = mapping(term, at)
    known(given, fields, at)
    for field in fields:
        for i, item in entries(given.get(field), (*at, field)):
            one, where = mapping(item, (*at, field, i)), (*at, field, i)
            known(one, ("key", "operator", "values"), where)
            _check_key(one.get("key"), (*where, "key"), of_node=field == "matchFields")
            names = _OPERATORS if field == "matchExpressions" else _OPERATORS[:2]
            operator = choice(one, "operator", names, where)
            values = _names(one.get("values"), (*where, "values"), empty=True)
            _check_values(operator, values, (*where, "values"), single=field == "matchFields")


def _check_key(key: object, at: Path, *, of_node: bool) -> None:
    if not isinstance(key, str) or not key:
        raise SchedulerConfigError(at, f"must name a label, not {quoted(key)}")
    if of_node and key != "metadata.name":
        raise SchedulerConfigError(at, f"must be metadata.name, not {quoted(key)}")
    problems = formats.qualified_name(key)
    if problems:
        raise SchedulerConfigError(at, f"{quoted(key)} is no name of a label: {problems[0]}")


def _check_values(operator: str, values: list[str], at: Path, *, single: bool) -> None:
    wanted = ""
    if operator in ("Exists", "DoesNotExist"):
        wanted = "" if not values else f"must be left out with {operator}"
    elif operator in ("Gt", "Lt"):
        number = len(values) == 1 and values[0].lstrip("+-").isdecimal()
        wanted = "" if number else f"must be one whole number with {operator}"
    elif not values:
        wanted = f"needs at least one value with {operator}"
    elif single and len(values) != 1:
        wanted = "must be the name of one node"
    problems = [] if single else [p for value in values for p in formats.label_value(value)]
    wanted = wanted or (f"must be values of labels ({problems[0]})" if problems else "")
    if wanted:
        raise SchedulerConfigError(at, f"{wanted}, not {quoted(values)}")


def _inter_pod(profile: Profile, args: Json, at: Path) -> Profile:
    return replace(
        profile,
        hard_pod_affinity_weight=number(args, "hardPodAffinityWeight", 1, 0, 100, at),
        ignore_preferred_of_existing=flag(args, "ignorePreferredTermsOfExistingPods", at),
    )


def _preemption(profile: Profile, args: Json, at: Path) -> Profile:
    percent = number(args, "minCandidateNodesPercentage", 10, 0, 100, at)
    least = number(args, "minCandidateNodesAbsolute", 100, 0, None, at)
    if not percent and not least:
        problem = "cannot be 0 while minCandidateNodesAbsolute is 0"
        raise SchedulerConfigError((*at, "minCandidateNodesPercentage"), problem)
    return replace(profile, candidates_percent=percent, min_candidates=least)


def _volume_binding(profile: Profile, args: Json, at: Path) -> Profile:
    seconds = number(args, "bindTimeoutSeconds", 600, 0, None, at)
    shape = _shape(args["shape"], (*at, "shape"), "VolumeBinding") if args.get("shape") else None
    shape = shape or profile.storage_shape
    return replace(profile, volume_timeout_s=float(seconds), storage_shape=shape)


def _devices(profile: Profile, args: Json, at: Path) -> Profile:
    """DynamicResourcesArgs; ``deviceSelection`` is ours.

    ``filterTimeout`` is checked only: a search here ends by the work that it has cost.
    """
    _seconds(args, "filterTimeout", 10.0, 0.0, at)
    timeout_s = _seconds(args, "bindingTimeout", 600.0, 1.0, at)
    where: Path = (*at, "deviceSelection")
    given = section(args, "deviceSelection", at)
    known(given, ("strategy", "attributes", "nodes", "domains"), where)
    strategy = choice(given, "strategy", DEVICE_STRATEGIES, where, BEST_FIT)
    orders: list[AttributeOrder] = []
    for i, item in entries(given.get("attributes"), (*where, "attributes")):
        here: Path = (*where, "attributes", i)
        one = mapping(item, here)
        known(one, ("name", "order"), here)
        name = one.get("name")
        if not isinstance(name, str) or "/" not in name or not is_plain(name):
            problem = f"must be domain/name of an attribute or capacity, not {quoted(name)}"
            raise SchedulerConfigError((*here, "name"), problem)
        order = choice(one, "order", (ASCENDING, DESCENDING), here, ASCENDING)
        orders.append(AttributeOrder(name, order == DESCENDING))
    nodes = choice(given, "nodes", NODE_STRATEGIES, where, "") if given.get("nodes") else ""
    domains: tuple[str, ...] = DOMAIN_LABELS
    if given.get("domains") is not None:
        domains = tuple(_names(given["domains"], (*where, "domains")))
    found = DevicePreference(strategy, tuple(orders), nodes, domains)
    return replace(profile, devices=found, device_timeout_s=timeout_s)


def _seconds(args: Json, field: str, default: float, least: float, at: Path) -> float:
    """A Go duration of at least so many seconds."""
    given = args.get(field)
    if given is None:
        return default
    try:
        seconds = duration_s(given) if isinstance(given, str) else -1.0
    except ValueError:
        seconds = -1.0
    if seconds < least:
        problem = (
            f"must be a duration of at least {least:g}s such as 30s or 10m, not {quoted(given)}"
        )
        raise SchedulerConfigError((*at, field), problem)
    return seconds


def _coscheduling(profile: Profile, args: Json, at: Path) -> Profile:
    """CoschedulingArgs are checked only: no pod of a gang waits on a node for the others."""
    number(args, "permitWaitingTimeSeconds", 60, 0, None, at)
    number(args, "podGroupBackoffSeconds", 0, 0, None, at)
    number(args, "podGroupRejectPercentage", 10, 0, 100, at)
    return profile


_ARGS: dict[str, tuple[tuple[str, ...], Callable[[Profile, Json, Path], Profile]]] = {
    "NodeResourcesFit": (
        ("ignoredResources", "ignoredResourceGroups", "scoringStrategy"),
        _fit,
    ),
    "NodeResourcesBalancedAllocation": (("resources",), _balance),
    "NodeAffinity": (("addedAffinity",), _affinity),
    "InterPodAffinity": (
        ("hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"),
        _inter_pod,
    ),
    "DefaultPreemption": (
        ("minCandidateNodesPercentage", "minCandidateNodesAbsolute"),
        _preemption,
    ),
    "VolumeBinding": (("bindTimeoutSeconds", "shape"), _volume_binding),
    "Coscheduling": (
        ("permitWaitingTimeSeconds", "podGroupBackoffSeconds", "podGroupRejectPercentage"),
        _coscheduling,
    ),
    "DynamicResources": (("deviceSelection", "filterTimeout", "bindingTimeout"), _devices),
}


_POLICIES = ("nodeAffinityPolicy", "nodeTaintsPolicy")


def _inclusion(one: Json, at: Path) -> tuple[int, bool, bool] | tuple[()]:
    """The least number of domains, and whether nodes count that the pod cannot go to.

    Nothing where none of it is said.
    """
    if not any(name in one for name in ("minDomains", *_POLICIES)):
        return ()
    domains = number(one, "minDomains", 1, 1, None, at)
    affinity, taints = (
        choice(one, name, ("Honor", "Ignore"), at, default) == "Honor"
        for name, default in zip(_POLICIES, ("Honor", "Ignore"), strict=True)
    )
    return domains, affinity, taints


def read_spread(args: Json, at: Path) -> tuple[Default, ...] | None:
    """PodTopologySpread's own default constraints; None: the system's."""
    fields = ("maxSkew", "topologyKey", "whenUnsatisfiable", "minDomains", *_POLICIES)
    known(args, ("apiVersion", "kind", "defaultConstraints", "defaultingType"), at)
    check_type("PodTopologySpread", args, at)
    kind = choice(args, "defaultingType", ("System", "List"), at, "System")
    where: Path = (*at, "defaultConstraints")
    found: list[Default] = []
    for i, item in entries(args.get("defaultConstraints"), where):
        one = mapping(item, (*where, i))
        known(one, fields, (*where, i))
        key = one.get("topologyKey")
        if not isinstance(key, str) or not key or formats.qualified_name(key):
            problem = f"must name a node label, not {quoted(key)}"
            raise SchedulerConfigError((*where, i, "topologyKey"), problem)
        skew = number({"maxSkew": 0, **one}, "maxSkew", 0, 1, None, (*where, i))
        hard = choice(one, "whenUnsatisfiable", _HARD, (*where, i)) == _HARD[0]
        if any((key, hard) == (other[0], other[2]) for other in found):
            problem = f"{key} is listed with this whenUnsatisfiable already"
            raise SchedulerConfigError((*where, i), problem)
        found.append((key, skew, hard, *_inclusion(one, (*where, i))))
    if kind == "System":
        if found:
            raise SchedulerConfigError(where, 'needs defaultingType "List"')
        return None
    return tuple(found)
