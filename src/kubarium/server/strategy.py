"""What differs between kinds when they are written, as data: a table of :class:`Strategy`.

Upstream has one strategy type per kind (``pkg/registry/*/*/strategy.go``); nearly all of their
content is the few switches below. The rest are functions in ``server.strategies``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

# Changes a fresh document before it is stored for the first time.
PrepareCreate = Callable[[Registry, Call, Document], None]
# Changes ``new`` (first document), knowing ``old`` (second), which is shared and read-only.
PrepareUpdate = Callable[[Registry, Call, Document, Document], None]
# Writes the part that a subresource owns: (new, document sent, old). ``new`` has a top level and
# metadata of its own; deeper parts are shared and must be replaced, not changed.
WritePart = Callable[[Document, Document, Document], None]


@dataclass(frozen=True, slots=True)
class Strategy:
    """How one kind is written."""

    # metadata.generation starts at 1 and counts changes of the desired state.
    generation: bool = False
    # A change of annotations counts as one of desired state (Deployment).
    generation_counts_annotations: bool = False
    # Top-level keys that are not desired state although they are neither metadata nor status.
    not_desired: frozenset[str] = frozenset()
    # A new object may bring its status along (Node: what the kubelet registers).
    status_on_create: bool = False
    # Fields of metadata that the status subresource may write too.
    status_writes: tuple[str, ...] = ()
    # PUT of an absent object creates it.
    create_on_update: bool = False
    # PUT without a resourceVersion overwrites what is there.
    unconditional_update: bool = True
    # ... in these versions in any case: what they once allowed they go on allowing.
    unconditional_versions: frozenset[str] = frozenset()
    # DELETE answers the last state instead of a Status.
    returns_deleted: bool = False
    # Dependents stay when DELETE does not say (Job, ReplicationController).
    orphans_by_default: bool = False
    prepare_create: PrepareCreate | None = None
    prepare_update: PrepareUpdate | None = None
    prepare_status: PrepareUpdate | None = None
    # Subresources other than status that are written with PUT and PATCH of the whole object.
    parts: Mapping[str, WritePart] = field(default_factory=dict)

    def overwrites(self, kind: Kind) -> bool:
        """Whether a PUT by this version of the kind may do without a resourceVersion."""
        return self.unconditional_update or kind.resource.version in self.unconditional_versions


DEFAULT = Strategy()
CUSTOM = Strategy(generation=True, unconditional_update=False)

_Key = tuple[str, str]  # (group, plural)


class Strategies:
    """The strategy of each kind; custom resources share one."""

    def __init__(self, table: dict[_Key, Strategy]) -> None:
        self._table = table

    def of(self, kind: Kind) -> Strategy:
        """The strategy of ``kind``."""
        strategy = self._table.get((kind.resource.group, kind.resource.plural))
        if strategy is not None:
            return strategy
        return CUSTOM if kind.custom else DEFAULT
