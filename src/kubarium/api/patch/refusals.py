"""How a patch that cannot be applied is refused."""

from __future__ import annotations

from kubarium.base.errors import ApiError

_REJECTED = "the server rejected our request due to an error in our request"


def rejected(why: str) -> ApiError:
    """422 for a well-formed patch that does not fit the document.

    Upstream sends the first half of the message only and keeps the reason to itself.
    """
    causes = [{"reason": "FieldValueInvalid", "message": why, "field": "patch"}]
    return ApiError(422, "Invalid", f"{_REJECTED}: {why}", {"causes": causes})
