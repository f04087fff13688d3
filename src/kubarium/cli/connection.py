"""Which cluster a command asks, and the objects that its arguments name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ConfigError
from kubarium.client.discovery import ServedResource, find_kind, find_resource, find_resources
from kubarium.client.http import HttpClient
from kubarium.cluster.state import ServerRecord, StateDirectory

R = TypeVar("R")


def running_record(name: str) -> ServerRecord:
    """The record of a cluster of ours; ConfigError if it does not run."""
    record = StateDirectory(name).read_record()
    if record is None:
        raise ConfigError(f"cluster {name!r} does not run; start it with: kubarium up")
    return record


def open_client(name: str, kubeconfig: Path | None, context: str) -> HttpClient:
    """A client of the kubeconfig or context named, else of our own running cluster."""
    if kubeconfig or context:
        return HttpClient.from_kubeconfig(str(kubeconfig or ""), context)
    try:
        running_record(name)
    except ConfigError as error:
        raise ConfigError(f"{error}, or name another by --kubeconfig or --context") from None
    return HttpClient.from_kubeconfig(str(StateDirectory(name).kubeconfig))


def asking(
    name: str,
    kubeconfig: Path | None,
    context: str,
    question: Callable[[HttpClient], Awaitable[R]],
) -> R:
    """Run one question against a cluster and close the connection."""

    async def ask() -> R:
        async with open_client(name, kubeconfig, context) as client:
            return await question(client)

    return asyncio.run(ask())


class ResourceFinder:
    """Discovery, asked once."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._served: Sequence[ServedResource] = ()

    async def of_document(self, document: Document) -> Resource:
        """The resource that serves a document; ConfigError naming kind and version if none does."""
        api_version, kind = document["apiVersion"], document["kind"]
        resource = find_kind(await self._everything(), api_version, kind)
        if resource is None:  # a CustomResourceDefinition may have been applied since
            self._served = ()
            resource = find_kind(await self._everything(), api_version, kind)
        if resource is None:
            raise ConfigError(
                f"the cluster serves no kind {kind!r} in {api_version!r}; "
                "`kubectl api-resources` lists what it serves"
            )
        return resource

    async def named(self, text: str) -> Resource:
        """The resource that a user means by ``po``, ``pods``, ``Pod`` or ``deployments.apps``."""
        found = find_resource(await self._everything(), text)
        if found is None:
            raise ConfigError(f"the cluster serves no resource called {text!r}")
        return found.resource

    async def all_named(self, text: str) -> list[Resource]:
        """Every resource that the user may mean, the likeliest first; ConfigError if none."""
        first = await self.named(text)
        found = [entry.resource for entry in find_resources(self._served, text)]
        return [first, *(resource for resource in found if resource != first)]

    async def _everything(self) -> Sequence[ServedResource]:
        if not self._served:
            self._served = await self._client.discover()
        return self._served
