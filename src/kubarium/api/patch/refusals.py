"""How a patch that cannot be applied is refused."""

from __future__ import annotations

from typing import Any

from kubarium.base.errors import ApiError

_REJECTED = "the server rejected our request due to an error in our request"


def rejected(why: str) -> ApiError:
    """422 for a well-formed patch that does not fit the document.

    Upstream sends the first half of the message only and keeps the reason to itself.
    """
    causes = [{"reason": "FieldValueInvalid", "message": why, "field": "patch"}]
    return ApiError(422, "Invalid", f"{_REJECTED}: {why}", {"causes": causes})


def shown(value: Any) -> str:
    """A JSON value as upstream's messages print it (Go's ``%v``).

    >>> shown({"b": [1, True], "a": None})
    'map[a:<nil> b:[1 true]]'
    """
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{shown(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(shown, value)) + "]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)
