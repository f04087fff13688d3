"""What the wiring hands to every component, and what a component is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from kubarium.api.resource import Document, Resource
from kubarium.base.chance import Chance
from kubarium.base.clock import Clock
from kubarium.client.protocol import Client

# (namespace, name); namespace is "" for cluster-scoped objects.
Key = tuple[str, str]

# Called with (old, new); old is None on add, new is None on delete. Must be quick and not raise.
ChangeHandler = Callable[[Document | None, Document | None], None]


class Informer(Protocol):
    """A watched, indexed, read-only copy of one resource. Documents in it must not be changed."""

    changed: int
    """While a handler begins to run: the parts that may have changed (see ``runtime.parts``)."""

    def get(self, name: str, namespace: str = "") -> Document | None: ...

    def items(self, namespace: str = "") -> list[Document]:
        """All objects ("" = of all namespaces), in order of (namespace, name)."""
        ...

    def add_index(self, name: str, values: Callable[[Document], Iterable[str]]) -> None:
        """Index objects by the strings that ``values`` gives; idempotent by name.

        ``values`` may say which parts of an object it reads (``runtime.parts``).
        """
        ...

    def by_index(self, name: str, value: str) -> list[Document]: ...

    def on_change(self, handler: ChangeHandler) -> None:
        """Handlers added late are called at once for every object already held."""
        ...

    async def wait_synced(self) -> None:
        """Until the first complete list has arrived."""
        ...

    def observe(self, document: Document) -> None:
        """Take in the answer of a write of ours ahead of the watch, so that the next read has it.

        Ignored when the watch has already delivered that revision.
        """
        ...

    def forget(self, document: Document) -> None:
        """Drop an object that a delete of ours has removed for good, ahead of the watch."""
        ...


class Informers(Protocol):
    """One shared informer for each resource, started on first use."""

    def get(self, resource: Resource) -> Informer: ...


@dataclass(frozen=True, slots=True)
class Context:
    """A component's whole outside world: the API, its watched copies, time and chance."""

    client: Client
    informers: Informers
    clock: Clock
    chance: Chance


class Component(Protocol):
    """Something that runs beside the API until it is cancelled: a controller, scheduler, agent.

    Every control family's package exports ``components(context) -> list[Component]``.
    """

    @property
    def name(self) -> str: ...

    async def run(self) -> None:
        """Work until cancelled. Errors of single objects are handled inside; a raise is a bug."""
        ...
