"""Fetch many resources at once, for pure functions that explain or print a whole cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator

from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.client.known_versions import other_versions, restated
from kubarium.client.protocol import Reader

PAGE = 500


class Gathered(dict[Resource, list[Document]]):
    """The documents by resource; ``withheld`` are those that may not be listed."""

    def __init__(self) -> None:
        super().__init__()
        self.withheld: list[Resource] = []


async def gather(
    reader: Reader,
    resources: Iterable[Resource],
    namespace: str = "",
    named: Iterable[tuple[Resource, str, str]] = (),
    *,
    needed: Collection[Resource] | None = None,
) -> Gathered:
    """All documents of each resource; a resource that is not served (a missing CRD) has none.

    ``namespace`` narrows namespaced resources. ``named`` are single objects (resource, namespace,
    name), left out where there is none or it may not be read. Another version is read where the one
    that is asked for is not served, and restated. What is not ``needed`` may be withheld (403) from
    whoever asks; None: all is needed. Raises ApiError for any other failure.
    """
    wanted = list(dict.fromkeys(resources))
    lists = await asyncio.gather(*(_listed(reader, item, namespace) for item in wanted))
    gathered = Gathered()
    for resource, (documents, refused) in zip(wanted, lists, strict=True):
        if refused is not None:
            if needed is None or resource in needed:
                raise refused
            gathered.withheld.append(resource)
        gathered[resource] = documents
    for resource, where, name in named:
        gathered.setdefault(resource, []).extend(await _one(reader, resource, where, name))
    return gathered


async def _listed(
    reader: Reader, resource: Resource, namespace: str
) -> tuple[list[Document], ApiError | None]:
    """The documents of a resource, or why they may not be read."""
    for read_as in _readings(resource):
        try:
            found = await _everything(reader, read_as, namespace)
        except ApiError as error:
            if error.code == 403:
                return [], error
            if error.code != 404:
                raise
        else:
            if read_as is not resource:
                found = [restated(document, read_as, resource) for document in found]
            return found, None
    return [], None


def _readings(resource: Resource) -> Iterator[Resource]:
    """The resource; and if that is not served, which is rare, its other versions."""
    yield resource
    yield from other_versions(resource)


async def _one(reader: Reader, resource: Resource, namespace: str, name: str) -> list[Document]:
    try:
        return [await reader.get(resource, name, namespace)]
    except ApiError as error:
        if error.code in (403, 404):
            return []
        raise


async def _everything(reader: Reader, resource: Resource, namespace: str) -> list[Document]:
    """ApiError 404 if the resource is not served."""
    scope = namespace if resource.namespaced else ""
    documents: list[Document] = []
    token = ""
    while True:
        try:
            page = await reader.list(resource, scope, limit=PAGE, continue_token=token)
        except ApiError as error:
            if error.code == 410 and token:  # compacted between pages: start again
                documents, token = [], ""
                continue
            raise
        documents += page.items
        token = page.continue_token
        if not token:
            return documents
