"""What a call to the API server is made of, before and apart from HTTP.

The wire protocol fills these from a request's path and query; the local client fills them from its
arguments. Field names follow ``metav1.ListOptions``, ``metav1.DeleteOptions`` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Requester(Protocol):
    """Who asks: what authentication found out (``authn.User`` satisfies it)."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def groups(self) -> tuple[str, ...]: ...
    @property
    def extra(self) -> Mapping[str, tuple[str, ...]]: ...


@dataclass(slots=True)
class Call:
    """One request's identity and write options, and the warnings that it collects on its way."""

    user: Requester
    manager: str
    dry_run: bool = False
    field_validation: str = ""  # "" means the default of the verb's caller: Warn over HTTP
    force: bool = False
    # New documents are ours, and our tests check that they are valid: it is not found out again.
    prechecked: bool = False
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """``metav1.ListOptions`` of a list; selectors still as text."""

    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """``metav1.ListOptions`` of a watch.

    ``send_initial_events`` None is "not said": the state comes first if there is no version.
    """

    label_selector: str = ""
    field_selector: str = ""
    resource_version: str = ""
    resource_version_match: str = ""
    allow_bookmarks: bool = False
    send_initial_events: bool | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """``metav1.DeleteOptions``. Preconditions that are "" do not hold anyone back."""

    propagation_policy: str = ""
    grace_period_s: int | None = None
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
