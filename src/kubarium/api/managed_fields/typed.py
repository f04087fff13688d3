"""What a schema says about merging, and the operations that follow: sets, comparison, merge, prune.

Lists of type map are merged by key, lists of type set by value, all other lists and atomic maps
as a whole. Without a schema maps are granular and lists atomic (a "deduced" type).
Source: structured-merge-diff ``typed/{tofieldset,compare,merge,remove}.go``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from kubarium.api.managed_fields.fieldset import MEMBER, FieldSet
from kubarium.api.schema import DEFINITION_PREFIX, Schema

# Fields that belong to the server: upstream strips them from every set (stripmeta.go).
STRIPPED_META = frozenset(
    [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ]
)
_ROOT_STRIPPED = frozenset(("apiVersion", "kind"))

# Structs that upstream's Go types hold by pointer: absent, not empty, in a fresh object, so that a
# writer who sets one owns the struct itself too. OpenAPI does not tell pointers from values.
_POINTER_SUFFIXES = (
    "Source",
    "KeySelector",
    "FieldSelector",
    "Action",
    "Probe",
    "SecurityContext",
    "Affinity",
    "RollingUpdateDeployment",
    "RollingUpdateDaemonSet",
    "RollingUpdateStatefulSetStrategy",
    "PodDNSConfig",
    "Lifecycle",
    "LifecycleHandler",
    "PodFailurePolicy",
    "SuccessPolicy",
    "AllocationResult",
    "ExactDeviceRequest",
)
_MISSING: Any = object()
_LEAF: FieldSet = {}


def granular_map(schema: Schema | None) -> bool:
    """Whether members of an object here have owners of their own."""
    return schema is None or schema.map_type != "atomic"


def list_kind(schema: Schema | None) -> str:
    """ "map", "set" or "" (atomic)."""
    kind = schema.list_type if schema is not None else ""
    if kind == "map":
        return "map" if schema is not None and schema.list_map_keys else ""
    return "set" if kind == "set" else ""


def member_schema(schema: Schema | None, name: str) -> Schema | None:
    """The schema of a field or of a map's value."""
    if schema is None:
        return None
    return schema.field(name) or schema.additional


class _Member(NamedTuple):
    """What a schema says about one of its members, worked out once for each of its names."""

    path: str  # "f:" and the name
    schema: Schema | None
    # Whether the member was really absent when it was absent, by the type of what came instead.
    pointer: bool
    list_pointer: bool
    opaque: bool  # always one leaf, whatever stands in it


# Names below maps come from users: past this many the answers are worked out each time.
_MEMBERS_KEPT = 20_000
_members: dict[tuple[int, str], _Member] = {}


def _member(schema: Schema | None, name: str) -> _Member:
    key = (id(schema), name)
    known = _members.get(key)
    if known is not None:
        return known
    child = member_schema(schema, name)
    made = _Member(
        f"f:{name}",
        child,
        _pointer(schema, child, name, None),
        _pointer(schema, child, name, []),
        child is not None and (not granular_map(child) or _is_atomic_list(child)),
    )
    if _is_lasting(schema) and len(_members) < _MEMBERS_KEPT:
        _members[key] = made
    return made


def single_leaf(schema: Schema | None, name: str) -> bool:
    """Whether a member is one path whatever stands in it: an atomic map or list."""
    return _member(schema, name).opaque


def _is_atomic_list(schema: Schema) -> bool:
    return schema.type == "array" and not list_kind(schema)


def _is_lasting(schema: Schema | None) -> bool:
    """Nodes of the built-in schemas live as long as the process, so their ids stay theirs."""
    return schema is None or schema.name.startswith(DEFINITION_PREFIX)


def element(item: Any, schema: Schema | None, kind: str) -> str:
    """The path element of an item of a granular list."""
    if kind == "set" or not isinstance(item, dict):
        return "v:" + orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()
    names = schema.list_map_keys if schema is not None else ()
    if len(names) == 1 and type(item.get(names[0])) is str:
        return _named(names[0], item[names[0]])
    keys = {}
    for name in names:
        value = item.get(name, _MISSING)
        if value is _MISSING:
            value = _key_default(schema, name)
        if value is not _MISSING:
            keys[name] = value
    return "k:" + orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode()


@lru_cache(maxsize=4096, typed=True)  # 1 is not true
def _named(key: str, value: Any) -> str:
    """The path element of an item with one key: types of conditions, names of containers."""
    return "k:" + orjson.dumps({key: value}).decode()


def _key_default(schema: Schema | None, name: str) -> Any:
    """What a missing key reads as: the published schema's default for it."""
    items = schema.items if schema is not None else None
    declared = items.field(name) if items is not None else None
    if declared is not None and declared.has_default:
        return declared.default
    return "TCP" if name == "protocol" else _MISSING


def elements(items: list[Any], schema: Schema | None, kind: str) -> dict[str, Any]:
    """The items by path element; of several with one key the last counts."""
    keys = schema.list_map_keys if schema is not None and kind == "map" else ()
    if len(keys) == 1:
        key = keys[0]
        try:
            return {_named(key, item[key]): item for item in items}
        except (KeyError, TypeError):  # one that has no such key, or is no object
            pass
    return {element(item, schema, kind): item for item in items}


# --- the set of an applied configuration ---------------------------------------------------------


def field_set(value: Any, schema: Schema | None) -> FieldSet:
    """The paths that a configuration sets: leaves, map keys and list items."""
    if isinstance(value, dict) and value and granular_map(schema):
        fields = {}
        for name, member in value.items():
            child = member_schema(schema, name)
            node = field_set(member, child)
            declared = schema is not None and schema.field(name) is not None
            fields[f"f:{name}"] = node if declared or not node else {MEMBER: _LEAF, **node}
        return dict(sorted(fields.items()))
    if isinstance(value, list) and value and (kind := list_kind(schema)):
        items = schema.items if schema is not None else None
        found = {
            name: _with_member(field_set(item, items) if kind == "map" else _LEAF)
            for name, item in elements(value, schema, kind).items()
        }
        return dict(sorted(found.items()))
    return _LEAF


def _with_member(node: FieldSet) -> FieldSet:
    return node if not node or MEMBER in node else {MEMBER: _LEAF, **node}


def applied_set(document: dict[str, Any], schema: Schema | None) -> FieldSet:
    """:func:`field_set` of a whole object, without the server's own fields."""
    return field_set(without_server_fields(document), schema)


def without_server_fields(document: dict[str, Any]) -> dict[str, Any]:
    """The object without the fields whose ownership nobody tracks."""
    rest = {key: value for key, value in document.items() if key not in _ROOT_STRIPPED}
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        kept = {key: value for key, value in metadata.items() if key not in STRIPPED_META}
        if kept:
            rest["metadata"] = kept
        else:
            del rest["metadata"]
    return rest


# --- comparison -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Comparison:
    """What a write did. ``changed`` holds added and modified paths; a childless node of
    ``removed`` stands for everything below it."""

    changed: FieldSet = field(default_factory=dict)
    removed: FieldSet = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


def compare(old: dict[str, Any], new: dict[str, Any], schema: Schema | None) -> Comparison:
    """The paths that differ between two versions of an object, apart from the server's fields.

    Subtrees that are equal are passed over at the speed of ``==``.
    """
    result = Comparison()
    builtin = schema is not None and schema.name.startswith(DEFINITION_PREFIX)
    for name, after in new.items():
        before = old.get(name, _MISSING)
        if before is after or name in _ROOT_STRIPPED or before == after:
            continue
        member = _member(schema, name)
        if before is _MISSING and not isinstance(after, (dict, list)):
            result.changed[member.path] = _LEAF
            continue
        child = member.schema
        if name == "metadata":
            before, after = _tracked_metadata(before), _tracked_metadata(after)
            if before == after:
                continue
            if not before:
                result.changed[member.path] = _added(after, child, False)
                continue
        elif before is _MISSING and builtin and isinstance(after, dict):
            # Spec and status are structs: never absent in upstream's Go objects.
            result.changed[member.path] = _added(after, child, False)
            continue
        _compare_member(before, after, child, member.path, True, result.changed, result.removed)
    for name in old:
        if name not in new and name not in _ROOT_STRIPPED:
            result.removed[f"f:{name}"] = _LEAF
    result.changed = dict(sorted(result.changed.items()))
    return result


def reordered(old: Any, new: Any) -> bool:
    """Whether two values without any differing path hold some list in another order.

    A list with keys is a set to :func:`compare`, but its order is data all the same.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return any(reordered(old[name], value) for name, value in new.items() if name in old)
    return isinstance(old, list) and isinstance(new, list) and old != new


def _tracked_metadata(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if key not in STRIPPED_META}


def _compare_member(
    before: Any,
    after: Any,
    schema: Schema | None,
    name: str,
    pointer: bool,
    changed: FieldSet,
    removed: FieldSet,
) -> None:
    """Enter the difference of one member into the two sets under its path element."""
    if before is _MISSING:
        changed[name] = _added(after, schema, pointer)
        return
    if after is _MISSING:
        removed[name] = _LEAF
        return
    below_changed: FieldSet = {}
    below_removed: FieldSet = {}
    if not _compare_inside(before, after, schema, below_changed, below_removed):
        changed[name] = _LEAF
        return
    if below_changed:
        changed[name] = dict(sorted(below_changed.items()))
    if below_removed:
        removed[name] = below_removed


def _compare_inside(
    before: Any, after: Any, schema: Schema | None, changed: FieldSet, removed: FieldSet
) -> bool:
    """Compare two different values member by member; False if they count as one leaf."""
    if type(before) is not type(after):
        return False
    if isinstance(after, dict):
        if not granular_map(schema) or not (before or after):
            return False
        _compare_maps(before, after, schema, changed, removed)
        return True
    if isinstance(after, list):
        kind = list_kind(schema)
        if not kind or not (before or after):
            return False
        _compare_lists(before, after, schema, kind, changed, removed)
        return True
    return False


def _compare_maps(
    before: dict[str, Any],
    after: dict[str, Any],
    schema: Schema | None,
    changed: FieldSet,
    removed: FieldSet,
) -> None:
    for name, value in after.items():
        previous = before.get(name, _MISSING)
        if previous is value or previous == value:
            continue
        member = _member(schema, name)
        is_list = isinstance(value, list)
        if member.opaque or not (is_list or isinstance(value, dict)):
            changed[member.path] = _LEAF
            continue
        pointer = member.list_pointer if is_list else member.pointer
        _compare_member(previous, value, member.schema, member.path, pointer, changed, removed)
    for name in before:
        if name not in after:
            removed[f"f:{name}"] = _LEAF


def _compare_lists(
    before: list[Any],
    after: list[Any],
    schema: Schema | None,
    kind: str,
    changed: FieldSet,
    removed: FieldSet,
) -> None:
    old = elements(before, schema, kind)
    new = elements(after, schema, kind)
    items = schema.items if schema is not None else None
    for name, value in new.items():
        previous = old.get(name, _MISSING)
        if previous is not value and previous != value:
            _compare_member(previous, value, items, name, True, changed, removed)
    for name in old:
        if name not in new:
            removed[name] = _LEAF


def _pointer(parent: Schema | None, child: Schema | None, name: str, value: Any) -> bool:
    """Whether a member that was absent was really absent, and not an empty Go struct or list."""
    if parent is None or not parent.name.startswith(DEFINITION_PREFIX):
        return True
    if isinstance(value, list):
        return name not in parent.required
    if child is None or not child.has_fields:
        return True
    return child.name.endswith(_POINTER_SUFFIXES)


def added(value: Any, schema: Schema | None) -> FieldSet:
    """The set of a struct that was empty before, the struct itself left out."""
    return _added(value, schema, False)


def _added(value: Any, schema: Schema | None, pointer: bool) -> FieldSet:
    """The set of a value that was absent before; its containers belong to it."""
    node: FieldSet = {}
    if isinstance(value, dict) and granular_map(schema):
        names = tuple(value)
        known = _flat.get((id(schema), pointer, names))
        if known is not None and known.always:
            return known.fields
        flat = True
        for name, inner in value.items():
            member = _member(schema, name)
            if member.opaque or not inner or not isinstance(inner, (dict, list)):
                node[member.path] = _LEAF
                continue
            flat = False
            below = member.list_pointer if isinstance(inner, list) else member.pointer
            node[member.path] = _added(inner, member.schema, below)
        if flat:
            return _added_flat(names, schema, pointer)
    elif isinstance(value, list) and (kind := list_kind(schema)):
        items = schema.items if schema is not None else None
        for name, item in elements(value, schema, kind).items():
            node[name] = _added(item, items, True) if kind == "map" else _LEAF
    if not node:
        return _LEAF
    if pointer:
        node[MEMBER] = _LEAF
    return dict(sorted(node.items()))


class _Flat(NamedTuple):
    """The set of an object none of whose members has members of its own, such as a condition."""

    fields: FieldSet
    always: bool  # by its schema, no object of these names can have others


_SCALARS = frozenset(("string", "integer", "number", "boolean"))
# By schema, names, and whether the object itself was absent.
_flat: dict[tuple[int, bool, tuple[str, ...]], _Flat] = {}


def _added_flat(names: tuple[str, ...], schema: Schema | None, pointer: bool) -> FieldSet:
    """The set of an object with these members, none of which has members of its own."""
    key = (id(schema), pointer, names)
    known = _flat.get(key)
    if known is not None:
        return known.fields
    members = [_member(schema, name) for name in names]
    node = {member.path: _LEAF for member in members}
    if node and pointer:
        node[MEMBER] = _LEAF
    made = dict(sorted(node.items())) if node else _LEAF
    if _is_lasting(schema) and len(_flat) < _MEMBERS_KEPT:
        always = all(
            m.opaque or (m.schema is not None and m.schema.type in _SCALARS) for m in members
        )
        _flat[key] = _Flat(made, always)
    return made


# --- merge and prune ------------------------------------------------------------------------------


def merge(live: Any, applied: Any, schema: Schema | None) -> Any:
    """The live value with an applied configuration laid over it."""
    if isinstance(live, dict) and isinstance(applied, dict) and granular_map(schema):
        merged = dict(live)
        for name, value in applied.items():
            if name in live:
                merged[name] = merge(live[name], value, member_schema(schema, name))
            else:
                merged[name] = value
        return merged
    if isinstance(live, list) and isinstance(applied, list) and (kind := list_kind(schema)):
        return _merge_lists(live, applied, schema, kind)
    return applied


def _merge_lists(
    live: list[Any], applied: list[Any], schema: Schema | None, kind: str
) -> list[Any]:
    """Applied items in their order; live-only items keep their place among their neighbours."""
    mine = elements(live, schema, kind)
    theirs = elements(applied, schema, kind)
    items = schema.items if schema is not None else None
    waiting = list(theirs)
    result: list[Any] = []

    def take(name: str) -> None:
        value = theirs[name]
        result.append(merge(mine[name], value, items) if name in mine and kind == "map" else value)

    for name, item in mine.items():
        if name not in theirs:
            result.append(item)
            continue
        while name in waiting:
            take(waiting.pop(0))
    for name in waiting:
        take(name)
    return result


def prune(value: Any, last: FieldSet, owned: FieldSet | None, schema: Schema | None) -> Any:
    """The value without what was applied before (``last``) and is owned by nobody now."""
    if isinstance(value, dict) and granular_map(schema):
        kept = {}
        for name, member in value.items():
            before = last.get(f"f:{name}")
            now = (owned or {}).get(f"f:{name}")
            if before is None:
                kept[name] = member
            elif now is not None:
                kept[name] = prune(member, before, now, member_schema(schema, name))
        return kept
    if isinstance(value, list) and (kind := list_kind(schema)):
        items = schema.items if schema is not None else None
        remaining = []
        for item in value:
            name = element(item, schema, kind)
            before, now = last.get(name), (owned or {}).get(name)
            if before is None:
                remaining.append(item)
            elif now is not None:
                remaining.append(prune(item, before, now, items) if kind == "map" else item)
        return remaining
    return value
