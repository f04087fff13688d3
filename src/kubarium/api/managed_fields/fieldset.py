"""Sets of field paths in the form of ``FieldsV1``, which is also how they are computed with.

A set is a tree of plain dicts, as stored in ``managedFields[].fieldsV1``. Keys are path elements:
``f:name`` a field, ``k:{"name":"a"}`` the list item with these keys, ``v:"a"`` a member of a set
list. A node without children is in the set; a node with children is in it if it has the key ``.``.
The empty set is ``None``. Trees are shared and never changed.
Source: structured-merge-diff ``fieldpath/serialize.go`` and ``set.go``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kubarium.api.templates import Remembered, content_of
from kubarium.base.errors import bad_request

FieldSet = dict[str, Any]

MEMBER = "."
_EMPTY: FieldSet = {}


_INTERNED: Remembered[FieldSet] = Remembered()


def intern(fields: FieldSet) -> FieldSet:
    """The set, or the one of equal content that was seen before.

    For the sets of new objects: those of all pods of a template, or of all events of a component,
    are the same. What updates change often names values that differ (addresses), so that to look
    for them would not pay.
    """
    content = content_of(fields)
    known = _INTERNED.get(content)
    if known is None:
        _INTERNED.put(content, fields)
        return fields
    return known


def is_member(node: FieldSet) -> bool:
    """Whether the path that ends here is in the set."""
    return not node or MEMBER in node


def _make(member: bool, children: FieldSet) -> FieldSet | None:
    if not children:
        return _EMPTY if member else None
    ordered = dict(sorted(children.items()))
    return {MEMBER: _EMPTY, **ordered} if member else ordered


def union(left: FieldSet | None, right: FieldSet | None) -> FieldSet | None:
    """Paths of either; ``left`` itself if right adds nothing.

    >>> union({"f:a": {}}, {"f:a": {"f:b": {}}})
    {'f:a': {'.': {}, 'f:b': {}}}
    """
    if left is None or right is None or left is right:
        return right if left is None else left
    member = is_member(left) or is_member(right)
    children: FieldSet | None = None
    for key, theirs in right.items():
        if key == MEMBER:
            continue
        mine = left.get(key)
        both = union(mine, theirs)
        if both is not mine:
            if children is None:
                children = {k: v for k, v in left.items() if k != MEMBER}
            children[key] = both
    if children is None:
        if is_member(left) or not member:
            return left
        children = left
    return _make(member, children)


def difference(left: FieldSet | None, right: FieldSet | None) -> FieldSet | None:
    """Paths of left that are not in right; ``left`` itself if there are none in common."""
    return _subtract(left, right, False)


def recursive_difference(left: FieldSet | None, right: FieldSet | None) -> FieldSet | None:
    """Paths of left that neither are in right nor lie below a childless node of right."""
    return _subtract(left, right, True)


def _subtract(left: FieldSet | None, right: FieldSet | None, recursive: bool) -> FieldSet | None:
    if left is None or right is None:
        return left
    if recursive and not right:
        return None
    member = is_member(left) and not is_member(right)
    children: FieldSet | None = None
    for key, theirs in right.items():
        if key == MEMBER or key not in left:
            continue
        mine = left[key]
        rest = _subtract(mine, theirs, recursive)
        if rest is not mine:
            if children is None:
                children = {k: v for k, v in left.items() if k != MEMBER}
            if rest is None:
                del children[key]
            else:
                children[key] = rest
    if children is None:
        if member == is_member(left):
            return left
        children = {k: v for k, v in left.items() if k != MEMBER}
    return _make(member, children)


def intersection(left: FieldSet | None, right: FieldSet | None) -> FieldSet | None:
    """Paths of both."""
    if left is None or right is None:
        return None
    children: FieldSet = {}
    for key in right if len(right) < len(left) else left:
        if key != MEMBER and key in left and key in right:
            both = intersection(left[key], right[key])
            if both is not None:
                children[key] = both
    return _make(is_member(left) and is_member(right), children)


def paths(fields: FieldSet | None, prefix: str = "") -> Iterator[str]:
    """All member paths as messages print them, in order.

    >>> list(paths({"f:spec": {"f:containers": {'k:{"name":"a"}': {".": {}, "f:image": {}}}}}))
    ['.spec.containers[name="a"]', '.spec.containers[name="a"].image']
    """
    if fields is None:
        return
    for key, child in fields.items():
        if key == MEMBER:
            continue
        path = prefix + _element_text(key)
        if is_member(child):
            yield path
        yield from paths(child, path)


def _element_text(element: str) -> str:
    kind, _, content = element.partition(":")
    if kind == "f":
        return f".{content}"
    if kind == "k":
        keys = json.loads(content)
        inner = ",".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
        return f"[{inner}]"
    return f"[={content}]" if kind == "v" else f"[{content}]"


def check(fields: Any, where: str) -> FieldSet:
    """The set in a ``fieldsV1`` that a client sent. Raises ApiError 400."""
    if not isinstance(fields, dict):
        raise bad_request(f"{where}: fieldsV1 must be an object")
    for key, child in fields.items():
        if key == MEMBER:
            continue
        kind, colon, content = key.partition(":")
        if not colon or kind not in ("f", "k", "v", "i"):
            raise bad_request(f"{where}: {key!r} is no path element (f:, k:, v:, i: or .)")
        if kind in ("k", "v"):
            try:
                json.loads(content)
            except ValueError:
                raise bad_request(f"{where}: {key!r} holds no JSON") from None
        check(child, where)
    return fields
