"""What there is instead of an object that was asked for and does not exist."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from kubarium.api.resource import Resource
from kubarium.client.protocol import Reader

# Objects that are looked at, and those that are named of them.
LOOKED_AT = 500
NAMED = 5


@dataclass(frozen=True, slots=True)
class Near:
    """``elsewhere`` are namespaces that have an object of the name, ``similar`` other names here.

    ``others`` are how many there are here, of those looked at; ``more`` that there are others yet.
    """

    elsewhere: tuple[str, ...]
    similar: tuple[str, ...]
    others: int
    more: bool

    @property
    def text(self) -> str:
        """The most useful of it; "" if nothing is near."""
        if self.elsewhere:
            return f"it is in namespace {', '.join(self.elsewhere)}"
        if self.similar:
            return f"similar names: {', '.join(self.similar)}"
        return ""


async def near(reader: Reader, resource: Resource, name: str, namespace: str) -> Near:
    """Look around a name that ``namespace`` ("" for cluster-wide resources) does not have."""
    found = await reader.list(resource, "", limit=LOOKED_AT)
    names = [(d["metadata"].get("namespace", ""), d["metadata"]["name"]) for d in found.items]
    here = [other for where, other in names if where == namespace]
    elsewhere = [where for where, other in names if other == name and where != namespace]
    similar = get_close_matches(name, here, n=NAMED, cutoff=0.5)
    return Near(tuple(elsewhere[:NAMED]), tuple(similar), len(here), bool(found.continue_token))
