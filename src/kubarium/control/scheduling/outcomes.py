"""Writes that compete with others', and writes without an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.engine.model import Key
from kubarium.runtime.protocol import Context

# An object that others write to at the same time is tried this often before the pod backs off.
WRITE_ATTEMPTS = 5

# Pauses between the tries to learn what became of a write; an API that is away for longer than
# these has lost its clients' watches too.
OUTCOME_PAUSES_S = (0.1, 0.2, 0.5, 1.0, *(2.0,) * 30)


async def insist(
    context: Context,
    resource: Resource,
    key: Key,
    document: Document | None,
    write: Callable[[Document], Awaitable[None]],
) -> None:
    """Write to an object to which others write at the same time: read again, and try again.

    The first try is with ``document``, if there is one.
    """
    for attempt in range(WRITE_ATTEMPTS):
        if document is None or attempt:
            document = await context.client.get(resource, key[1], key[0])
        try:
            await write(document)
            return
        except ApiError as error:
            if error.reason != "Conflict" or attempt == WRITE_ATTEMPTS - 1:
                raise


async def insist_if_there(
    context: Context,
    resource: Resource,
    key: Key,
    document: Document | None,
    write: Callable[[Document], Awaitable[None]],
) -> None:
    """As :func:`insist`; nothing if the object is gone."""
    try:
        await insist(context, resource, key, document, write)
    except ApiError as error:
        if error.reason != "NotFound":
            raise


async def outcome(context: Context, resource: Resource, key: Key) -> Document | None:
    """The object after a write without an answer; None if it is gone, or the API stays away."""
    for pause_s in OUTCOME_PAUSES_S:
        try:
            return await context.client.get(resource, key[1], key[0])
        except ApiError as error:
            if error.reason == "NotFound":
                return None
            await context.clock.sleep(pause_s)
    return None
