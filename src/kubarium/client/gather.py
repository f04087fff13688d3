"""Fetch many resources at once, for pure functions that explain or print a whole cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Reader

PAGE = 500


async def gather(
    reader: Reader, resources: Iterable[Resource], namespace: str = ""
) -> Mapping[Resource, list[Document]]:
    """All documents of each resource; a resource that is not served (a missing CRD) has none.

    ``namespace`` narrows namespaced resources. Raises ApiError for any other failure.
    """
    wanted = list(dict.fromkeys(resources))
    lists = await asyncio.gather(*(_everything(reader, item, namespace) for item in wanted))
    return dict(zip(wanted, lists, strict=True))


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
