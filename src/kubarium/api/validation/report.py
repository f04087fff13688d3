"""Where rules put their complaints: typed, with the path spelt out only when something is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kubarium.api.formats import Check
from kubarium.api.paths import Path, path_text
from kubarium.base.errors import FieldError

IMMUTABLE = "field is immutable"
NOT_NEGATIVE = "must be greater than or equal to 0"
NOT_POSITIVE = "must be greater than zero"


class Report:
    """Collects :class:`FieldError`; one method for each kind of complaint."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def _add(self, kind: str, path: Path, value: Any = None, detail: str = "") -> None:
        self.errors.append(FieldError(kind, path_text(path), value, detail))

    def required(self, path: Path, detail: str = "") -> None:
        self._add("Required", path, "", detail)

    def invalid(self, path: Path, value: Any, detail: str) -> None:
        self._add("Invalid", path, value, detail)

    def duplicate(self, path: Path, value: Any, detail: str = "") -> None:
        self._add("Duplicate", path, value, detail)

    def forbidden(self, path: Path, detail: str) -> None:
        self._add("Forbidden", path, "", detail)

    def not_found(self, path: Path, value: Any, detail: str = "") -> None:
        self._add("NotFound", path, value, detail)

    def not_supported(self, path: Path, value: Any, choices: Iterable[Any]) -> None:
        shown = ", ".join(f'"{choice}"' for choice in choices)
        self._add("NotSupported", path, value, f"supported values: {shown}" if shown else "")

    def too_long(self, path: Path, limit: int, unit: str = "bytes") -> None:
        self._add("TooLong", path, "", f"may not be more than {limit} {unit}")

    def too_many(self, path: Path, count: int, limit: int) -> None:
        unit = "item" if limit == 1 else "items"
        self._add("TooMany", path, count, f"must have at most {limit} {unit}")

    def format(self, path: Path, value: str, check: Check) -> bool:
        """Report what ``check`` finds wrong with ``value``; whether it was fine."""
        complaints = check(value)
        for complaint in complaints:
            self._add("Invalid", path, value, complaint)
        return not complaints

    def required_format(self, path: Path, value: str | None, check: Check) -> bool:
        """As :meth:`format`, and an absent value is reported too."""
        if not value:
            self.required(path)
            return False
        return self.format(path, value, check)

    def immutable(self, path: Path, new: Any, old: Any) -> bool:
        """Report a change; absent and empty are the same. Whether the value stayed."""
        if (new or None) == (old or None) or new == old:
            return True
        self._add("Invalid", path, new, IMMUTABLE)
        return False

    def not_negative(self, path: Path, value: int | None) -> None:
        if value is not None and value < 0:
            self._add("Invalid", path, value, NOT_NEGATIVE)

    def at_least(self, path: Path, value: int, low: int) -> None:
        if value < low:
            self._add("Invalid", path, value, f"must be greater than or equal to {low}")

    def at_most(self, path: Path, value: int, high: int) -> None:
        if value > high:
            self._add("Invalid", path, value, f"must be less than or equal to {high}")

    def between(self, path: Path, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            self._add("Invalid", path, value, f"must be between {low} and {high}, inclusive")

    def unique(self, path: Path, name: Any, seen: set[Any], shown: Any = None) -> None:
        """Report ``name`` (or ``shown`` for it) at ``path`` if ``seen`` has it; add it."""
        if name in seen:
            self._add("Duplicate", path, name if shown is None else shown)
        seen.add(name)
