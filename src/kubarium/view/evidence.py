"""What a question is answered from: the documents, and what is made of them on first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kubarium.api.kinds import CONFIG_MAPS
from kubarium.api.resource import Document, Resource
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT_SCHEDULER
from kubarium.view.cluster import ClusterView
from kubarium.view.profiles import Profiles


class Evidence:
    """One question's documents, with the snapshot and the schedulers' rules that they give.

    ``view`` is one that already follows the same documents, if there is one. ``about_node`` is the
    one node that the answer is to speak of, "" for all.
    """

    def __init__(
        self,
        documents: Mapping[Resource, list[Document]],
        view: ClusterView | None = None,
        about_node: str = "",
    ) -> None:
        self.documents = documents
        self.profiles = Profiles(documents.get(CONFIG_MAPS, ()))
        self.about_node = about_node
        self._view = view

    @property
    def view(self) -> ClusterView:
        """The cluster as the engine sees it."""
        if self._view is None:
            self._view = ClusterView.of(self.documents, self.profiles.config.spread_defaults)
        return self._view

    def placer(self, scheduler: str = DEFAULT_SCHEDULER) -> Placer:
        """By the rules of a scheduler."""
        return Placer(self.view.snapshot, self.profiles.of(scheduler))

    def list(self, resource: Resource) -> Iterator[Document]:
        """The documents of a resource with their kind, which items of a list may lack."""
        for document in self.documents.get(resource, ()):
            if document.get("kind"):
                yield document
            else:
                yield {"apiVersion": resource.api_version, "kind": resource.kind, **document}

    def unreadable(self) -> tuple[str, ...]:
        """What was left out of the snapshot, and why; nothing if none was made."""
        left_out = self._view.unreadable if self._view is not None else {}
        return tuple(f"{name} cannot be read and is left out: {e}" for name, e in left_out.items())
