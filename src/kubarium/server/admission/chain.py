"""The order of admission, and what an admission function gets to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

CREATE = "CREATE"
UPDATE = "UPDATE"
DELETE = "DELETE"

ANY = ("*", "*")


@dataclass(slots=True)
class Attempt:
    """A write on its way in (upstream: ``admission.Attributes``).

    ``document`` is fresh on CREATE and may be changed by mutating functions; on UPDATE its parts
    may be shared with ``old``, so functions replace what they change. On DELETE it is empty.
    """

    registry: Registry
    call: Call
    operation: str
    kind: Kind
    namespace: str
    name: str
    subresource: str
    document: Document
    old: Document | None = None


Function = Callable[[Attempt], None]


@dataclass(frozen=True, slots=True)
class Plugin:
    """A function and the writes that concern it."""

    name: str
    run: Function
    resources: frozenset[tuple[str, str]]  # (group, plural); ANY for all
    operations: frozenset[str]
    subresources: frozenset[str] = frozenset({""})
    # Runs after validation, on the document as it will be stored, and must not change it.
    validating: bool = False


class Chain:
    """Plug-ins in order; which ones concern a write is worked out once per kind and operation."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self._plugins = plugins
        self._selected: dict[tuple[str, str, str, str, bool], tuple[Function, ...]] = {}

    def run(self, attempt: Attempt) -> None:
        """The mutating functions that the write concerns; the first ApiError ends it."""
        for function in self._concerned(attempt, validating=False):
            function(attempt)

    def validate(self, attempt: Attempt) -> None:
        """The validating functions that the write concerns; the first ApiError ends it."""
        for function in self._concerned(attempt, validating=True):
            function(attempt)

    def _concerned(self, attempt: Attempt, validating: bool) -> tuple[Function, ...]:
        resource = attempt.kind.resource
        key = (
            resource.group,
            resource.plural,
            attempt.operation,
            attempt.subresource,
            validating,
        )
        functions = self._selected.get(key)
        if functions is None:
            functions = self._selected[key] = self._select(*key)
        return functions

    def _select(
        self, group: str, plural: str, operation: str, subresource: str, validating: bool
    ) -> tuple[Function, ...]:
        return tuple(
            plugin.run
            for plugin in self._plugins
            if plugin.validating == validating
            and operation in plugin.operations
            and subresource in plugin.subresources
            and ((group, plural) in plugin.resources or ANY in plugin.resources)
        )
