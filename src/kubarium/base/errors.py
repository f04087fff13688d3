"""Typed errors. :class:`ApiError` is what every verb raises; it is a Kubernetes ``Status``.

KubariumError
├── ApiError            a Status with an HTTP code and a reason; never matched by its text
└── ConfigError         a file or flag of ours is wrong; names file, line, field and the way out
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


class KubariumError(Exception):
    """Base of the errors that Kubarium raises on purpose."""


class ConfigError(KubariumError):
    """A cluster file, flag or variable is wrong; the message says where and what to do."""


_WITHOUT_VALUE = ("Required", "Forbidden", "TooLong", "TooShort", "Internal")


# In place of a value that complaints do not repeat (``field.OmitValueType``).
OMITTED: Any = object()


@dataclass(frozen=True, slots=True)
class FieldError:
    """One complaint about one field, in apimachinery's ``field.Error`` wording.

    ``kind`` is one of Required, Invalid, NotSupported, Duplicate, Forbidden, TooLong, TooMany,
    TooFew, TooShort, TypeInvalid, NotFound, Internal (``pkg/util/validation/field/errors.go``).
    """

    kind: str
    path: str
    value: Any = None
    detail: str = ""

    _TITLES = {  # noqa: RUF012 - a constant table, not instance state
        "Required": "Required value",
        "Invalid": "Invalid value",
        "NotSupported": "Unsupported value",
        "Duplicate": "Duplicate value",
        "Forbidden": "Forbidden",
        "TooLong": "Too long",
        "TooMany": "Too many",
        "TooFew": "Too few",
        "TooShort": "Too short",
        "TypeInvalid": "Invalid value",
        "NotFound": "Not found",
        "Internal": "Internal error",
    }

    def body(self) -> str:
        """The text behind the path: ``Invalid value: -1: must be greater than or equal to 0``."""
        title = self._TITLES[self.kind]
        if self.kind in _WITHOUT_VALUE:
            return f"{title}: {self.detail}" if self.detail else title
        if self.value is OMITTED:
            return f"{title}: {self.detail}"
        text = f"{title}: {show_value(self.value)}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.path}: {self.body()}"

    @property
    def cause_reason(self) -> str:
        """``details.causes[].reason`` of a Status."""
        return {"TypeInvalid": "FieldValueTypeInvalid"}.get(self.kind, f"FieldValue{self.kind}")


def show_value(value: Any) -> str:
    """A value as field errors quote it: strings in double quotes, the rest as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))


@dataclass
class ApiError(KubariumError):
    """A failed API call, as the ``Status`` object that the client receives.

    ``code`` is the HTTP status, ``reason`` the machine-readable ``metav1.StatusReason``.
    Constructors below carry apimachinery's messages (``pkg/api/errors/errors.go``).
    """

    code: int
    reason: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)  # ListMeta: "continue" of a 410

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def status(self) -> dict[str, Any]:
        """The wire form."""
        document: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if not self.reason:
            del document["reason"]
        if self.details:
            document["details"] = self.details
        return document

    @staticmethod
    def from_status(document: dict[str, Any]) -> ApiError:
        """The error that a Status document describes."""
        return ApiError(
            int(document.get("code", 500)),
            document.get("reason", ""),
            document.get("message", ""),
            document.get("details") or {},
            document.get("metadata") or {},
        )


def _named(resource: str, group: str, name: str) -> tuple[str, dict[str, Any]]:
    qualified = f"{resource}.{group}" if group else resource
    details = {"name": name, "group": group, "kind": resource}
    details = {key: value for key, value in details.items() if value}
    return qualified, details


def not_found(resource: str, group: str, name: str) -> ApiError:
    """404: ``pods "a" not found``. ``resource`` is the plural."""
    qualified, details = _named(resource, group, name)
    return ApiError(404, "NotFound", f'{qualified} "{name}" not found', details)


def already_exists(resource: str, group: str, name: str) -> ApiError:
    """409 on create."""
    qualified, details = _named(resource, group, name)
    return ApiError(409, "AlreadyExists", f'{qualified} "{name}" already exists', details)


CONFLICT_MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def conflict(resource: str, group: str, name: str, why: str = CONFLICT_MODIFIED) -> ApiError:
    """409 on update: the resourceVersion or a precondition does not hold."""
    qualified, details = _named(resource, group, name)
    message = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, details)


def invalid(kind: str, group: str, name: str, errors: list[FieldError]) -> ApiError:
    """422 with every field error once; ``kind`` is the Kind, not the plural."""
    qualified = f"{kind}.{group}" if group else kind
    errors = list({str(error): error for error in errors}.values())
    texts = [str(error) for error in errors]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details: dict[str, Any] = {"name": name, "kind": kind}
    if group:
        details["group"] = group
    details["causes"] = [
        {"reason": e.cause_reason, "message": e.body(), "field": e.path} for e in errors
    ]
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {joined}', details)


def bad_request(message: str) -> ApiError:
    """400."""
    return ApiError(400, "BadRequest", message)


def unauthorized(message: str = "Unauthorized") -> ApiError:
    """401."""
    return ApiError(401, "Unauthorized", message)


def forbidden(resource: str, group: str, name: str, why: str) -> ApiError:
    """403: ``pods "a" is forbidden: …``."""
    qualified, details = _named(resource, group, name)
    subject = f'{qualified} "{name}"' if name else qualified
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", details)


def method_not_allowed(action: str, resource: str, group: str = "") -> ApiError:
    """405."""
    qualified, details = _named(resource, group, "")
    return ApiError(
        405,
        "MethodNotAllowed",
        f"{action} is not supported on resources of kind {qualified!r}".replace("'", '"'),
        details,
    )


def expired(message: str) -> ApiError:
    """410: the resourceVersion or continue token is older than the compaction."""
    return ApiError(410, "Expired", message)


def too_many_requests(message: str, retry_after_s: int = 1) -> ApiError:
    """429; of 0 seconds nothing is said."""
    details = {"retryAfterSeconds": retry_after_s} if retry_after_s else {}
    return ApiError(429, "TooManyRequests", message, details)


def internal(message: str) -> ApiError:
    """500: a fault of ours."""
    return ApiError(500, "InternalError", f"Internal error occurred: {message}")
