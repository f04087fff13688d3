"""Priority: the number behind a priorityClassName.

Source: upstream ``plugin/pkg/admission/priority/admission.go``.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from kubarium.api.resource import Document
from kubarium.base.errors import FieldError, forbidden, invalid
from kubarium.server.admission.chain import Attempt
from kubarium.store.log import Store

_CLASSES_SHARD = "/scheduling.k8s.io/priorityclasses/"
_CLASSES = f"{_CLASSES_SHARD}-/"
DEFAULT_PREEMPTION = "PreemptLowerPriority"


def resolve_priority(attempt: Attempt) -> None:
    """Set ``spec.priority`` and ``spec.preemptionPolicy`` of a pod or PodGroup; 403 if unknown."""
    spec = attempt.document.get("spec")
    if not isinstance(spec, dict):
        return
    name = spec.get("priorityClassName")
    found = _class_of(attempt, name) if name else _global_default(attempt)
    if found is not None:
        spec["priorityClassName"] = found["metadata"]["name"]
    priority = 0 if found is None else found.get("value", 0)
    policy = DEFAULT_PREEMPTION if found is None else found.get("preemptionPolicy")
    given = spec.get("priority")
    if given is not None and given != priority:
        why = (
            f"the integer value of priority ({given}) must not be provided in pod spec; "
            f"priority admission controller computed {priority} from the given PriorityClass name"
        )
        raise _refused(attempt, why)
    spec["priority"] = priority
    policy = policy or DEFAULT_PREEMPTION
    given_policy = spec.get("preemptionPolicy")
    if given_policy is not None and given_policy != policy:
        why = (
            f"the string value of PreemptionPolicy ({given_policy}) must not be provided in pod "
            f"spec; priority admission controller computed {policy} from the given "
            "PriorityClass name"
        )
        raise _refused(attempt, why)
    spec["preemptionPolicy"] = policy


def _refused(attempt: Attempt, why: str) -> Exception:
    resource = attempt.kind.resource
    return forbidden(resource.plural, resource.group, attempt.name, why)


def _class_of(attempt: Attempt, name: str) -> Document:
    record = attempt.registry.store.get(_CLASSES + name)
    if record is None:
        raise _refused(attempt, f"no PriorityClass with name {name} was found")
    return record.value


def _global_default(attempt: Attempt) -> Document | None:
    """The class for pods that name none: of several, the one with the lowest value."""
    store = attempt.registry.store
    known = _defaults.get(store)
    if known is None or known[0] != store.changed_at(_CLASSES_SHARD):
        known = _defaults[store] = (store.changed_at(_CLASSES_SHARD), _find_default(store))
    return known[1]


# By store: when its classes had changed last, and which of them was the default then.
_defaults: WeakKeyDictionary[Store, tuple[int, Document | None]] = WeakKeyDictionary()


def _find_default(store: Store) -> Document | None:
    found: Document | None = None
    for record in store.range(_CLASSES).records:
        candidate = record.value
        if candidate.get("globalDefault") and (
            found is None or candidate.get("value", 0) < found.get("value", 0)
        ):
            found = candidate
    return found


def only_one_default(attempt: Attempt) -> None:
    """Refuse a second PriorityClass that is the global default."""
    if not attempt.document.get("globalDefault"):
        return
    for record in attempt.registry.store.range(_CLASSES).records:
        other = record.value["metadata"]["name"]
        if record.value.get("globalDefault") and other != attempt.name:
            detail = (
                f"PriorityClass {other} is already marked as default. Only one default can exist"
            )
            error = FieldError("Forbidden", "globalDefault", detail=detail)
            raise invalid("PriorityClass", "scheduling.k8s.io", attempt.name, [error])
