"""Fetch many resources at once, for pure functions that explain or print a whole cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Reader

PAGE = 500


async def gather(
    reader: Reader,
    resources: Iterable[Resource],
    namespace: str = "",
    named: Iterable[tuple[Resource, str, str]] = (),
) -> Mapping[Resource, list[Document]]:
    """All documents of each resource; a resource that is not served (a missing CRD) has none.

    ``namespace`` narrows namespaced resources. ``named`` are single objects (resource, namespace,
    name), left out where there is none or it may not be read. Raises ApiError for any other
    failure.
    """
    wanted = list(dict.fromkeys(resources))
    lists = await asyncio.gather(*(_everything(reader, item, namespace) for item in wanted))
    found = dict(zip(wanted, lists, strict=True))
    for resource, where, name in named:
        found.setdefault(resource, []).extend(await _one(reader, resource, where, name))
    return found


async def _one(reader: Reader, resource: Resource, namespace: str, name: str) -> list[Document]:
    try:
        return [await reader.get(resource, name, namespace)]
    except ApiError as error:
        if error.code in (403, 404):
            return []
        raise


async def _everything(reader: Reader, resource: Resource, namespace: str) -> list[Document]:
    scope = namespace if resource.namespaced else ""
    documents: list[Document] = []
    token = ""
    while True:
        try:
            page = await reader.list(resource, scope, limit=PAGE, continue_token=token)
        except ApiError as error:
            if error.code == 404:
                return []
            if error.code == 410 and token:  # compacted between pages: start again
                documents, token = [], ""
                continue
            raise
        documents += page.items
        token = page.continue_token
        if not token:
            return documents
