"""JSON patch (RFC 6902) on JSON pointers (RFC 6901).

Error texts follow evanphx/json-patch, which kube-apiserver uses; like it, an array index may be
negative and then counts from the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubarium.api.manifests import MAX_DEPTH
from kubarium.api.patch.refusals import rejected
from kubarium.base.errors import ApiError, bad_request

MAX_OPERATIONS = 10_000  # of one patch, as kube-apiserver: each one may copy a whole subtree
MAX_COPIED_VALUES = 300_000  # by all "copy" operations of a patch: they can grow as 2**n

_NEEDS = {
    "add": "value",
    "replace": "value",
    "test": "value",
    "remove": "",
    "move": "from",
    "copy": "from",
}


class _Missing(Exception):
    """A pointer leads nowhere; the text is the innermost reason."""


def json_patch(document: dict[str, Any], operations: Any) -> dict[str, Any]:
    """The document with all operations applied in order, or none of them.

    Raises ApiError 400 for a malformed patch, 413 for more than MAX_OPERATIONS operations, and 422
    when an operation does not fit the document or a test fails.

    >>> json_patch({"a": [1, 2]}, [{"op": "add", "path": "/a/-", "value": 3}])
    {'a': [1, 2, 3]}
    """
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: a JSON patch is an array of operations")
    if len(operations) > MAX_OPERATIONS:
        raise ApiError(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: The allowed maximum operations in a JSON patch is "
            f"{MAX_OPERATIONS}, got {len(operations)}",
        )
    result: Any = document
    copied = 0
    for number, operation in enumerate(operations):
        name = _checked(number, operation)
        if name == "copy":
            copied += _weight(_source(result, operation, "copy"))
            if copied > MAX_COPIED_VALUES:
                raise rejected(f"the copy operations add more than {MAX_COPIED_VALUES} values")
        result = _APPLY[name](result, operation)
    if not isinstance(result, dict):
        raise rejected("the patched document is not an object")
    return result


def _checked(number: int, operation: Any) -> str:
    """The operation's name, after a look at its form."""
    if not isinstance(operation, dict):
        raise bad_request(f"error decoding patch: operation {number} is not an object")
    name = operation.get("op")
    if not isinstance(name, str) or name not in _NEEDS:
        raise rejected(f"operation {number}: Unexpected kind: {name}")
    for member in ("path", _NEEDS[name]) if _NEEDS[name] else ("path",):
        if member not in operation:
            raise bad_request(
                f'error decoding patch: operation {number} ({name}) has no "{member}"'
            )
        if member != "value" and not isinstance(operation[member], str):
            raise bad_request(f'error decoding patch: operation {number}: "{member}" is no string')
    return name


def parse_pointer(pointer: str) -> list[str]:
    """The reference tokens of a JSON pointer; ``~1`` is ``/`` and ``~0`` is ``~``.

    >>> parse_pointer("/metadata/annotations/example.com~1a")
    ['metadata', 'annotations', 'example.com/a']
    """
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise rejected(f'a path must be empty or start with "/": "{pointer}"')
    tokens = pointer[1:].split("/")
    return [token.replace("~1", "/").replace("~0", "~") for token in tokens]


def _index(token: str, length: int, inserting: bool = False) -> int:
    """The position that a token names in an array of this length."""
    digits = token[1:] if token.startswith("-") else token
    if not digits.isascii() or not digits.isdigit() or (len(digits) > 1 and digits[0] == "0"):
        raise _Missing(f'"{token}" is no array index: invalid index referenced')
    index = int(token)
    limit = length + 1 if inserting else length
    if token.startswith("-"):
        index += limit
    if not 0 <= index < limit:
        raise _Missing(f"Unable to access invalid index: {token}: invalid index referenced")
    return index


def _get(node: Any, token: str) -> Any:
    if isinstance(node, dict):
        if token not in node:
            raise _Missing("missing value")
        return node[token]
    if isinstance(node, list):
        return node[_index(token, len(node))]
    raise _Missing("missing value")


def _find(document: Any, tokens: list[str]) -> Any:
    for token in tokens:
        document = _get(document, token)
    return document


def _edit(node: Any, tokens: list[str], leaf: Callable[[Any, str], Any]) -> Any:
    """A copy of node in which ``leaf(container, last token)`` replaced the container."""
    if len(tokens) == 1:
        return leaf(node, tokens[0])
    changed = _edit(_get(node, tokens[0]), tokens[1:], leaf)
    if isinstance(node, dict):
        return node | {tokens[0]: changed}
    copy = list(node)
    copy[_index(tokens[0], len(node))] = changed
    return copy


def _put(document: Any, path: str, value: Any, name: str) -> Any:
    def leaf(container: Any, token: str) -> Any:
        if isinstance(container, dict):
            return container | {token: value}
        if isinstance(container, list):
            at = len(container) if token == "-" else _index(token, len(container), inserting=True)
            return [*container[:at], value, *container[at:]]
        raise _Missing("missing value")

    tokens = parse_pointer(path)
    _check_depth(tokens, value)
    if not tokens:
        return value
    try:
        return _edit(document, tokens, leaf)
    except _Missing as error:
        if "index" in str(error):
            raise rejected(f"error in {name} for path: '{path}': {error}") from None
        raise rejected(
            f'{name} operation does not apply: doc is missing path: "{path}": {error}'
        ) from None


def _remove(document: Any, path: str, name: str) -> Any:
    def leaf(container: Any, token: str) -> Any:
        if isinstance(container, dict):
            if token not in container:
                raise _Missing(f"Unable to remove nonexistent key: {token}: missing value")
            return {key: value for key, value in container.items() if key != token}
        if isinstance(container, list):
            at = _index(token, len(container))
            return [*container[:at], *container[at + 1 :]]
        raise _Missing("missing value")

    tokens = parse_pointer(path)
    if not tokens:
        raise rejected(f"{name} operation does not apply: the whole document cannot be removed")
    try:
        return _edit(document, tokens, leaf)
    except _Missing as error:
        if str(error) == "missing value":
            raise rejected(
                f'{name} operation does not apply: doc is missing path: "{path}": {error}'
            ) from None
        raise rejected(f"error in {name} for path: '{path}': {error}") from None


def _source(document: Any, operation: dict[str, Any], name: str) -> Any:
    try:
        return _find(document, parse_pointer(operation["from"]))
    except _Missing as error:
        raise rejected(
            f"{name} operation does not apply: doc is missing from path: "
            f'"{operation["from"]}": {error}'
        ) from None


def _apply_add(document: Any, operation: dict[str, Any]) -> Any:
    return _put(document, operation["path"], operation["value"], "add")


def _apply_remove(document: Any, operation: dict[str, Any]) -> Any:
    return _remove(document, operation["path"], "remove")


def _apply_replace(document: Any, operation: dict[str, Any]) -> Any:
    path, value = operation["path"], operation["value"]

    def leaf(container: Any, token: str) -> Any:
        _get(container, token)
        if isinstance(container, dict):
            return container | {token: value}
        copy = list(container)
        copy[_index(token, len(container))] = value
        return copy

    tokens = parse_pointer(path)
    _check_depth(tokens, value)
    if not tokens:
        return value
    try:
        return _edit(document, tokens, leaf)
    except _Missing as error:
        raise rejected(
            f'replace operation does not apply: doc is missing key: "{path}": {error}'
        ) from None


def _apply_move(document: Any, operation: dict[str, Any]) -> Any:
    source, path = operation["from"], operation["path"]
    value = _source(document, operation, "move")
    if source == path:
        return document
    if path.startswith(f"{source}/"):
        raise rejected(f'move operation does not apply: "{path}" lies inside "{source}"')
    return _put(_remove(document, source, "move"), path, value, "move")


def _apply_copy(document: Any, operation: dict[str, Any]) -> Any:
    return _put(document, operation["path"], _source(document, operation, "copy"), "copy")


def _apply_test(document: Any, operation: dict[str, Any]) -> Any:
    path = operation["path"]
    try:
        found = _find(document, parse_pointer(path))
    except _Missing as error:
        if operation["value"] is None and str(error) == "missing value":
            return document  # upstream: an absent member equals null
        raise rejected(f"error in test for path: '{path}': {error}") from None
    if not json_equal(found, operation["value"]):
        raise rejected(f"testing value {path} failed: test failed")
    return document


_APPLY: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "add": _apply_add,
    "remove": _apply_remove,
    "replace": _apply_replace,
    "move": _apply_move,
    "copy": _apply_copy,
    "test": _apply_test,
}


def json_equal(left: Any, right: Any) -> bool:
    """Equality of JSON values: numbers by value, and ``true`` is not 1.

    >>> json_equal(1, 1.0), json_equal(True, 1), json_equal([{"a": 1}], [{"a": 1}])
    (True, False, True)
    """
    if isinstance(left, dict):
        if not isinstance(right, dict) or left.keys() != right.keys():
            return False
        return all(json_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list):
        if not isinstance(right, list) or len(left) != len(right):
            return False
        return all(map(json_equal, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _check_depth(tokens: list[str], value: Any) -> None:
    """Operations can nest a document level by level; what comes after relies on MAX_DEPTH."""
    level = [value] if isinstance(value, dict | list) else []
    depth = len(tokens)
    while level and depth <= MAX_DEPTH:
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        depth += 1
    if depth > MAX_DEPTH:
        raise rejected(f"the patched document nests deeper than {MAX_DEPTH} levels")


def _weight(value: Any) -> int:
    """How many JSON values a value is made of."""
    if isinstance(value, dict):
        return 1 + sum(map(_weight, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_weight, value))
    return 1
