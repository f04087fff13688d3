"""Strategic merge patch: lists merge by key, and directives say what plain JSON cannot.

Source of the rules: apimachinery ``pkg/util/strategicpatch/patch.go`` (``StrategicMergeMapPatch``
with parallel lists merged and unmatched nulls ignored, which is what kube-apiserver asks for).

Directives, all beginning with ``$``:

=================================  ==================================================
``$patch: replace|delete|merge``   in a map, or in an element of a merging list
``$retainKeys: [...]``             fields that stay; all others of that map go
``$setElementOrder/<list>: [...]`` the order wanted, as values or as merge keys
``$deleteFromPrimitiveList/<l>``   values to remove from a merging list of scalars
=================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kubarium.api.patch.refusals import rejected, shown
from kubarium.api.schema import Schema
from kubarium.base.errors import ApiError, bad_request

Map = dict[str, Any]

_PATCH = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"


def unsupported_for_custom_resources() -> ApiError:
    """415: custom resources have no merge keys, so kube-apiserver takes no strategic patch."""
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
    )


def strategic_merge_patch(document: Map, patch: Any, schema: Schema | None) -> Map:
    """The document with a strategic merge patch applied.

    ``schema`` gives merge keys and strategies; ``None`` means a custom resource (ApiError 415).
    Raises ApiError 400 for malformed directives and 422 for a patch that does not fit the types.
    """
    if schema is None:
        raise unsupported_for_custom_resources()
    if not isinstance(patch, dict):
        raise bad_request("invalid JSON document: a strategic merge patch is an object")
    return _merge_map(document, patch, schema)


def _merge_map(original: Map, patch: Map, schema: Schema | None) -> Map:
    directive = patch.get(_PATCH)
    if directive is not None:
        return _directed(original, patch, directive, schema)
    patch = dict(patch)
    merged = _retain_keys(dict(original), patch)
    _merge_ordered_lists(merged, patch, schema)
    for key, value in patch.items():
        deleting = key.startswith(_DELETE)
        name = key[len(_DELETE) :] if deleting else key
        if value is None:
            merged.pop(name, None)
        elif name not in merged:
            if not deleting:
                merged[name] = _plain(value)
        else:
            merged[name] = _merge_value(merged[name], value, _field(schema, name), name, deleting)
    return merged


def _directed(original: Map, patch: Map, directive: Any, schema: Schema | None) -> Map:
    rest = {key: value for key, value in patch.items() if key != _PATCH}
    if directive == "replace":
        return _plain_map(rest)
    if directive == "delete":
        return {}
    if directive == "merge":
        return _merge_map(original, rest, schema)
    raise rejected(f"unknown patch type: {shown(directive)} in map: {shown(patch)}")


def _merge_value(old: Any, new: Any, field: Schema | None, name: str, deleting: bool) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        if field is not None and "replace" in field.patch_strategy:
            return _plain(new)
        return _merge_map(old, new, field)
    if isinstance(old, list) and isinstance(new, list):
        if deleting or _merges(field):
            return _merge_list(old, new, field, name, deleting)
        return new
    if deleting:
        raise bad_request("invalid patch format of primitive list")
    return _plain(new)


def _field(schema: Schema | None, name: str) -> Schema | None:
    """The schema of a member: a declared field, or the value of a map."""
    if schema is None:
        return None
    return schema.field(name) or schema.additional


def _merges(field: Schema | None) -> bool:
    return field is not None and "merge" in field.patch_strategy


# --- directives ---------------------------------------------------------------------------------


def _retain_keys(merged: Map, patch: Map) -> Map:
    """Apply and take out ``$retainKeys``."""
    if _RETAIN not in patch:
        return merged
    keep = patch.pop(_RETAIN)
    if not isinstance(keep, list) or not all(isinstance(key, str) for key in keep):
        raise bad_request("invalid patch format of retainKeys")
    for key, value in patch.items():
        if value is not None and not key.startswith((_DELETE, _ORDER)) and key not in keep:
            raise bad_request(
                f"invalid patch format of retainKeys: {key} is set but not in the list"
            )
    return {key: value for key, value in merged.items() if key in keep}


def _merge_ordered_lists(merged: Map, patch: Map, schema: Schema | None) -> None:
    """Merge and order every list that has ``$setElementOrder``, and take both out of the patch."""
    for key in [key for key in patch if key.startswith(_ORDER)]:
        order, name = patch.pop(key), key[len(_ORDER) :]
        if not isinstance(order, list):
            raise bad_request("invalid patch format of setElementOrder list")
        field = _field(schema, name)
        old, new = merged.get(name), patch.get(name)
        if isinstance(new, list):
            del patch[name]
            _check_order(new, order, _merge_key(field))
            if isinstance(old, list):
                both = _merge_list(old, new, field, name) if _merges(field) else new
            else:
                both = _plain(new)
        elif isinstance(old, list) and name not in patch:
            both = old
        else:
            continue
        removed = patch.pop(_DELETE + name, None)
        if removed is not None:
            both = _merge_list(both, removed, field, name, deleting=True)
        served = old if isinstance(old, list) else []
        identity = _identity(_merge_key(field), both, order, served)
        merged[name] = _ordered(both, order, served, identity)


def _check_order(items: list[Any], order: list[Any], merge_key: str) -> None:
    """The patch list must come in the order that the directive states."""
    identity = _identity(merge_key, items, order)
    place = {identity(item): at for at, item in enumerate(order)}
    last = -1
    for item in items:
        if isinstance(item, dict) and _PATCH in item:
            continue
        at = place.get(identity(item), -1)
        if at < last or at < 0:
            raise rejected(
                f"The order in patch list:\n{shown(items)}\n doesn't match {_ORDER[:-1]} list:\n"
                f"{shown(order)}\n"
            )
        last = at


# --- lists --------------------------------------------------------------------------------------


def _merge_key(field: Schema | None) -> str:
    return field.patch_merge_key if field is not None else ""


def _identity(merge_key: str, *lists: Iterable[Any]) -> Callable[[Any], Any]:
    """What makes two elements the same one: the merge key's text, or the scalar itself."""
    if merge_key and any(isinstance(item, dict) for items in lists for item in items):
        return lambda item: _key_of(item, merge_key)
    return _scalar_identity


def _scalar_identity(item: Any) -> Any:
    if isinstance(item, dict | list):
        raise bad_request("invalid patch format of setElementOrder list: it holds no scalars")
    return (type(item) is bool, item)


def _key_of(item: Any, merge_key: str) -> str:
    value = item.get(merge_key) if isinstance(item, dict) else None
    if value is None:
        raise rejected(f"map: {shown(item)} does not contain declared merge key: {merge_key}")
    return str(value)


def _merge_list(
    old: list[Any], new: Any, field: Schema | None, name: str, deleting: bool = False
) -> list[Any]:
    if not isinstance(new, list):
        raise bad_request("invalid patch format of primitive list")
    kinds = {_element_kind(item) for item in (*old, *new)}
    if "list" in kinds:
        raise rejected(f"lists of lists are not supported: {name}")
    if len(kinds) > 1:
        raise rejected(f"list element types are not identical: {name}: {shown(sorted(kinds))}")
    if "map" not in kinds:
        return _merge_scalars(old, new, deleting)
    merge_key = _merge_key(field)
    if deleting or not merge_key:
        raise rejected(f"cannot merge lists without merge key for {name}")
    items = field.items if field is not None else None
    return _merge_maps(old, new, merge_key, items)


def _element_kind(item: Any) -> str:
    if isinstance(item, dict):
        return "map"
    return "list" if isinstance(item, list) else "scalar"


def _merge_scalars(old: list[Any], new: list[Any], deleting: bool) -> list[Any]:
    identity = _identity("")
    if deleting:
        gone = {identity(item) for item in new}
        return [item for item in old if identity(item) not in gone]
    union = list({identity(item): item for item in (*old, *new)}.values())
    return _ordered(union, new, old, identity)


def _merge_maps(old: list[Any], new: list[Any], merge_key: str, schema: Schema | None) -> list[Any]:
    """Merge lists of maps by key; unmatched elements are appended, then put in order."""
    old, new = _special_elements(old, new, merge_key)
    merged = {_key_of(item, merge_key): item for item in reversed(old)}  # the first one counts
    duplicates = len(merged) != len(old)
    for item in new:
        key = _key_of(item, merge_key)
        merged[key] = _merge_map(merged[key], item, schema) if key in merged else _plain_map(item)
    if duplicates:
        result = _keep_duplicates(old, merged, merge_key)
    else:
        result = list(merged.values())
    return _ordered(result, new, old, lambda item: _key_of(item, merge_key))


def _keep_duplicates(old: list[Any], merged: Map, merge_key: str) -> list[Any]:
    """Stored lists may hold a key twice: the first is merged into, the others stay."""
    seen: dict[str, None] = {}
    result = []
    for item in old:
        key = _key_of(item, merge_key)
        result.append(item if key in seen else merged[key])
        seen[key] = None
    return result + [item for key, item in merged.items() if key not in seen]


def _special_elements(
    old: list[Any], new: list[Any], merge_key: str
) -> tuple[list[Any], list[Any]]:
    """Act on the elements that carry ``$patch``; what is left of old, and of the patch."""
    ordinary = []
    replace = False
    for item in new:
        directive = item.get(_PATCH)
        if directive is None:
            ordinary.append(item)
        elif directive == "delete":
            gone = _key_of(item, merge_key)
            old = [element for element in old if _key_of(element, merge_key) != gone]
        elif directive == "replace":
            replace = True
        elif directive == "merge":
            raise rejected("merging lists cannot yet be specified in the patch")
        else:
            raise rejected(f"unknown patch type: {shown(directive)} in map: {shown(item)}")
    return (ordinary, []) if replace else (old, ordinary)


def _ordered(
    items: list[Any], order: list[Any], server_order: list[Any], identity: Callable[[Any], Any]
) -> list[Any]:
    """The items in the wanted order, those that it does not name woven in as the server had them.

    An element of the server goes before an element of the patch only where both were in the
    server's list in that order (upstream's ``mergeSortedSlice``).
    """
    wanted = _places(order, identity)
    served = _places(server_order, identity)
    named = sorted(
        (item for item in items if identity(item) in wanted), key=lambda i: wanted[identity(i)]
    )
    others = sorted(
        (item for item in items if identity(item) not in wanted),
        key=lambda i: served.get(identity(i), len(served)),
    )
    result: list[Any] = []
    left, right = 0, 0
    while left < len(others) and right < len(named):
        mine, theirs = served.get(identity(others[left])), served.get(identity(named[right]))
        if mine is not None and theirs is not None and mine < theirs:
            result.append(others[left])
            left += 1
        else:
            result.append(named[right])
            right += 1
    return [*result, *others[left:], *named[right:]]


def _places(items: list[Any], identity: Callable[[Any], Any]) -> dict[Any, int]:
    places: dict[Any, int] = {}
    for at, item in enumerate(items):
        places.setdefault(identity(item), at)
    return places


# --- values taken over from the patch -----------------------------------------------------------


def _plain(value: Any) -> Any:
    """A value of the patch that meets nothing in the original: without nulls and directives."""
    if isinstance(value, dict):
        return _plain_map(value)
    if isinstance(value, list):
        return [
            _plain(item)
            for item in value
            if not (isinstance(item, dict) and item.get(_PATCH) in ("delete", "replace"))
        ]
    return value


def _plain_map(value: Map) -> Map:
    if value.get(_PATCH) == "delete":
        return {}
    return {
        key: _plain(member)
        for key, member in value.items()
        if member is not None
        and key not in (_PATCH, _RETAIN)
        and not key.startswith((_ORDER, _DELETE))
    }
