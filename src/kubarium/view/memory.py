"""What a pod asks for when one of its containers runs out of memory, and what it gets then. Pure.

A job says it by annotations on its pod template:

    kubarium.dev/oom-policy: grow        more memory in place (move: on another node if this one has
                                         no room; fail: as everywhere else, the default)
    kubarium.dev/oom-ceiling: 4Gi        no limit grows beyond this; needed for grow and move
    kubarium.dev/oom-factor: "1.5"       how much more each time

The node says which container is short by a condition of its own for each, and the training
controllers answer with a resize (KEP-1287). Sizes that were learned so are kept on the Job (and the
JobSet), so that a pod made anew begins with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.base.quantity import format_quantity, parse_quantity

POLICY = "kubarium.dev/oom-policy"
CEILING = "kubarium.dev/oom-ceiling"
FACTOR = "kubarium.dev/oom-factor"
LEARNED = "kubarium.dev/learned-memory"

GROW, MOVE, FAIL = "grow", "move", "fail"
DEFAULT_FACTOR = Fraction(3, 2)
# A factor beyond this is a slip of the pen, and one at or below 1 would not end.
MAX_FACTOR = 16
MIB = 1 << 20

# One condition of the pod for each container that is short: the prefix and the container's name.
PRESSURE = "memory.kubarium.dev/"
AT_LIMIT, KILLED = "AtLimit", "Killed"


@dataclass(frozen=True, slots=True)
class OomPolicy:
    """``ceiling`` in bytes; None with ``fail``."""

    kind: str = FAIL
    ceiling: int | None = None
    factor: Fraction = DEFAULT_FACTOR


def oom_policy(pod: Document) -> OomPolicy:
    """The pod's policy; ValueError names the annotation, its value and the way out."""
    annotations = pod["metadata"].get("annotations") or {}
    kind = annotations.get(POLICY, FAIL)
    if kind not in (GROW, MOVE, FAIL):
        raise ValueError(f"annotation {POLICY}: {kind!r} is not one of {GROW}, {MOVE}, {FAIL}")
    if kind == FAIL:
        return OomPolicy()
    if CEILING not in annotations:
        text = f"annotation {CEILING}: is missing; {POLICY}: {kind} needs one, as 4Gi"
        raise ValueError(text)
    ceiling = _number(annotations, CEILING)
    factor = _number(annotations, FACTOR) if FACTOR in annotations else DEFAULT_FACTOR
    if ceiling < MIB:
        raise ValueError(f"annotation {CEILING}: {annotations[CEILING]!r} is below 1Mi")
    if not 1 < factor <= MAX_FACTOR:
        text = f"must be above 1 and at most {MAX_FACTOR}"
        raise ValueError(f"annotation {FACTOR}: {annotations[FACTOR]!r} {text}")
    return OomPolicy(kind, int(ceiling), factor)


def _number(annotations: Mapping[str, str], name: str) -> Fraction:
    try:
        return parse_quantity(annotations[name])
    except ValueError as error:
        raise ValueError(f"annotation {name}: {annotations[name]!r}: {error}") from None


def memory_limit(container: Mapping[str, Any]) -> int | None:
    """Bytes, or None without a limit."""
    text = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return None if text is None else int(parse_quantity(text))


def next_limit(limit: int, policy: OomPolicy) -> int | None:
    """The limit after ``limit`` in bytes, whole mebibytes; None if the policy allows no more."""
    if policy.ceiling is None or limit >= policy.ceiling:
        return None
    wanted = max(math.ceil(limit * policy.factor), limit + 1)
    return min(-(-wanted // MIB) * MIB, policy.ceiling)


def grown(pod: Document, limit: int | None) -> int | None:
    """What the pod's policy answers to a container that needs more than ``limit``; None: nothing
    (no policy, one that cannot be read, no limit, or the ceiling is reached)."""
    try:
        policy = oom_policy(pod)
    except ValueError:  # said on the pod by the controller that reads it
        return None
    return None if limit is None else next_limit(limit, policy)


def short_of_memory(pod: Document) -> Iterator[tuple[str, Document]]:
    """The containers that are short of memory, with the conditions that say so."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type", "").startswith(PRESSURE) and condition.get("status") == "True":
            yield condition["type"].removeprefix(PRESSURE), condition


def container_named(pod: Document, name: str) -> tuple[str, Document]:
    """The list that holds the container, and its spec; an empty one if there is none."""
    for part in ("containers", "initContainers"):
        for container in pod["spec"].get(part) or ():
            if container["name"] == name:
                return part, container
    return "containers", {}


def is_answered(pod: Document, condition: Document) -> bool:
    """Whether the spec has changed since the node found its limit too small."""
    return int(condition.get("observedGeneration") or 0) < int(pod["metadata"].get("generation", 1))


def awaits_memory(pod: Document) -> bool:
    """Whether something in the pod was killed for its memory, and its larger limit is yet to come:
    what runs there again before that meets the same wall."""
    return any(
        condition.get("reason") == KILLED
        and (
            is_answered(pod, condition)  # given, and not in force yet
            or grown(pod, memory_limit(container_named(pod, name)[1])) is not None
        )
        for name, condition in short_of_memory(pod)
    )


def with_limit(resources: Mapping[str, Any], limit: int) -> Document:
    """``resources`` with another memory limit. A request equal to the limit goes along, so that the
    quality of service stays what it is; a smaller one stays."""
    limits = dict(resources.get("limits") or {})
    requests = dict(resources.get("requests") or {})
    text = format_quantity(limit, binary=True)
    old, asked = limits.get("memory"), requests.get("memory")
    limits["memory"] = text
    if asked is not None and old is not None and parse_quantity(asked) == parse_quantity(old):
        requests["memory"] = text
    found = {**resources, "limits": limits}
    return {**found, "requests": requests} if requests else found


# Sizes that were learned -----------------------------------------------------------------------

ANY_INDEX = ""


def learned(owner: Document) -> dict[str, dict[str, int]]:
    """Memory limits in bytes by completion index (ANY_INDEX: no Indexed Job) and container.

    What cannot be read counts as nothing learned: it is ours to write.
    """
    text = (owner["metadata"].get("annotations") or {}).get(LEARNED, "")
    try:
        found = json.loads(text) if text else {}
        return {
            str(index): {str(name): int(size) for name, size in sizes.items()}
            for index, sizes in found.items()
        }
    except (ValueError, AttributeError, TypeError):
        return {}


def owed(pods: Iterable[Document]) -> dict[str, dict[str, int]]:
    """What those that come after these pods begin with, by index and container as :func:`learned`:
    more than what their containers were killed at. Known as soon as the pods' status is, whether
    or not anybody has written it down yet."""
    found: dict[str, dict[str, int]] = {}
    for pod in pods:
        for name, condition in short_of_memory(pod):
            limit = memory_limit(container_named(pod, name)[1])
            if condition.get("reason") != KILLED or limit is None:
                continue
            # A limit that was raised since is what the next one begins with.
            size = limit if is_answered(pod, condition) else grown(pod, limit)
            if size is not None:
                sizes = found.setdefault(index_of(pod), {})
                sizes[name] = max(size, sizes.get(name, 0))
    return found


def index_of(pod: Document) -> str:
    """Under which index its Job keeps what was learned of a pod."""
    return str((pod["metadata"].get("labels") or {}).get(COMPLETION_INDEX, ANY_INDEX))


def larger(
    first: Mapping[str, Mapping[str, int]], second: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Of both, by index and container, whichever is more."""
    found = {index: dict(sizes) for index, sizes in first.items()}
    for index, sizes in second.items():
        mine = found.setdefault(index, {})
        for name, size in sizes.items():
            mine[name] = max(size, mine.get(name, 0))
    return found


def of_any(sizes: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """What a pod needs that may take any index."""
    found: dict[str, int] = {}
    for of_index in sizes.values():
        for name, size in of_index.items():
            found[name] = max(size, found.get(name, 0))
    return found


def learned_text(sizes: Mapping[str, Mapping[str, int]]) -> str:
    """The annotation's value."""
    return json.dumps(sizes, sort_keys=True, separators=(",", ":"))


def apply_learned(pod_spec: Document, sizes: Mapping[str, int]) -> None:
    """Raise the memory limits of a pod that is being made (changed in place) to those learned."""
    for part in ("initContainers", "containers"):
        for container in pod_spec.get(part) or ():
            size, limit = sizes.get(container["name"]), memory_limit(container)
            if size is not None and limit is not None and size > limit:
                container["resources"] = with_limit(container["resources"], size)
