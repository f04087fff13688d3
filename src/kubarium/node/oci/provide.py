"""Which image a container runs from: the catalogue's stand-in, or a real one of the store.

runtimeClassName            the image comes from
handler process             the catalogue: programs of this machine
handler namespaces, crun,   the store; pulled, or read from its path, first as its pull policy
runc                        says
none                        a mapping of the cluster file; a path or docker://; a name that is
                            in the store; a built-in stand-in; a registry
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from kubarium.base.clock import Clock
from kubarium.node.images import (
    Image,
    ImageCatalogue,
    InvalidImageName,
    StoredImage,
    UnknownImage,
)
from kubarium.node.oci.errors import (
    ERR_PULL,
    INVALID_NAME,
    NEVER_PULL,
    ImageProblem,
    PullProblem,
)
from kubarium.node.oci.load import find_at_path, stamp_of
from kubarium.node.oci.pull import Auths, Skopeo
from kubarium.node.oci.reference import DOCKER, Reference, parse_reference
from kubarium.node.oci.store import LOADED, ImageStore, Record

PROCESS = "process"
# (type, reason, message) of an event about the container
Tell = Callable[[str, str, str], None]
_NEVER, _ALWAYS = "Never", "Always"


class Images:
    """The images of one agent."""

    def __init__(
        self,
        catalogue: ImageCatalogue,
        store: ImageStore,
        clock: Clock,
        puller: Skopeo | None = None,
    ) -> None:
        self.store = store
        self._catalogue = catalogue
        self._clock = clock
        self._puller = puller
        self._busy: dict[str, asyncio.Lock] = {}

    async def provide(
        self, container: Mapping[str, Any], handler: str, auths: Auths, tell: Tell
    ) -> Image:
        """The image of a container, there to be run; PullProblem by kubelet's reasons. ``handler``
        is the RuntimeClass's, "" without one."""
        text = container.get("image") or ""
        policy = container.get("imagePullPolicy") or "IfNotPresent"
        if handler != PROCESS:
            reference = _parsed(text, tell)
            if handler or self._is_real(reference):
                return await self._real(reference, policy, auths, tell)
        try:
            image = self._catalogue.resolve(text)
        except InvalidImageName as error:
            raise _invalid(PullProblem(INVALID_NAME, str(error)), tell) from error
        except UnknownImage as error:
            return await self._unknown(text, handler, policy, auths, tell, error)
        tell("Normal", "Pulled", _present(text))
        return image

    async def _unknown(
        self,
        text: str,
        handler: str,
        policy: str,
        auths: Auths,
        tell: Tell,
        problem: UnknownImage,
    ) -> Image:
        """No stand-in: a registry may have it."""
        if policy == _NEVER:
            raise _never(text, tell) from problem
        known = self._catalogue.knows(text)  # but cannot stand in for it here
        if handler == PROCESS or known or self._puller is None:
            raise PullProblem(ERR_PULL, str(problem)) from problem
        try:
            return await self._real(parse_reference(text), policy, auths, tell)
        except PullProblem as failed:
            raise PullProblem(failed.reason, f"{failed}; {problem}") from failed

    def _is_real(self, reference: Reference) -> bool:
        """Without a RuntimeClass: whether no stand-in is meant."""
        if reference.of_files or reference.transport == DOCKER:
            return True
        if self._catalogue.is_given(reference.text):
            return False
        return self.store.find(reference.canonical) is not None

    async def _real(self, reference: Reference, policy: str, auths: Auths, tell: Tell) -> Image:
        name = reference.canonical
        lock = self._busy.setdefault(name, asyncio.Lock())
        waiting_since = self._clock.monotonic()
        async with lock:
            fetch = self._fetch_from_path if reference.of_files else self._fetch_from_registry
            try:
                record = await fetch(reference, policy, auths, tell, waiting_since)
                image = await asyncio.to_thread(self._image, reference, record)
            except ImageProblem as problem:
                raise PullProblem(ERR_PULL, str(problem)) from problem
            except OSError as error:
                text = f"the node's image store: {error}"
                raise PullProblem(ERR_PULL, text) from error
        await asyncio.to_thread(self.store.use, name)
        return image

    async def _fetch_from_path(
        self, reference: Reference, policy: str, auths: Auths, tell: Tell, since: float
    ) -> Record:
        """A path is looked at whatever the policy, unless it is Never: that costs nothing, and
        whoever builds an image again means the new one."""
        known = self.store.find(reference.canonical)
        now = await asyncio.to_thread(stamp_of, reference.path)
        if known is not None and (policy == _NEVER or now in ("", known.stamp)):
            tell("Normal", "Pulled", _present(reference.text))
            return known
        if policy == _NEVER:
            raise _never(reference.text, tell)
        tell("Normal", "Pulling", f'Pulling image "{reference.text}"')
        began = self._clock.monotonic()
        record = await asyncio.to_thread(self._take, reference)
        self._tell_pulled(reference, record, began, since, tell)
        return record

    def _take(self, reference: Reference) -> Record:
        record = find_at_path(self.store, reference)
        self.store.settle(reference.canonical, record)
        return record

    async def _fetch_from_registry(
        self, reference: Reference, policy: str, auths: Auths, tell: Tell, since: float
    ) -> Record:
        known = self.store.find(reference.canonical)
        # What was loaded by hand has no registry to be asked again.
        if known is not None and (policy != _ALWAYS or known.origin == LOADED):
            tell("Normal", "Pulled", _present(reference.text))
            return known
        if policy == _NEVER:
            raise _never(reference.text, tell)
        if self._puller is None:
            raise ImageProblem(
                f'image "{reference.text}" is not in this node\'s store, and skopeo, which could '
                "pull it, is not installed; load it with: kubarium image load FILE"
            )
        tell("Normal", "Pulling", f'Pulling image "{reference.text}"')
        began = self._clock.monotonic()
        record = known
        if known is None or known.index != await self._puller.digest(reference, auths):
            record = await self._puller.pull(reference, auths)
        assert record is not None
        await asyncio.to_thread(self.store.settle, reference.canonical, record)
        self._tell_pulled(reference, record, began, since, tell)
        return record

    def _tell_pulled(
        self, reference: Reference, record: Record, began: float, since: float, tell: Tell
    ) -> None:
        now = self._clock.monotonic()
        text = (
            f'Successfully pulled image "{reference.text}" in {_duration(now - began)} '
            f"({_duration(now - since)} including waiting). Image size: {record.size} bytes."
        )
        tell("Normal", "Pulled", text)

    def _image(self, reference: Reference, record: Record) -> Image:
        config = self.store.config(record.config)
        layers = self.store.unpacked(record)
        digest = record.index or record.manifest
        image_id = record.config if reference.of_files else f"{reference.name}@{digest}"
        return Image(
            reference.text,
            image_id,
            config.entrypoint,
            config.cmd,
            config.env or {},
            (),
            config.working_dir,
            stored=StoredImage(tuple(layers), config.user, config.stop_signal, record),
        )


def _parsed(text: str, tell: Tell) -> Reference:
    try:
        return parse_reference(text)
    except PullProblem as problem:
        raise _invalid(problem, tell) from problem


def _invalid(problem: PullProblem, tell: Tell) -> PullProblem:
    tell("Warning", "InspectFailed", str(problem))
    return problem


def _never(text: str, tell: Tell) -> PullProblem:
    message = f'Container image "{text}" is not present with pull policy of Never'
    tell("Warning", NEVER_PULL, message)
    return PullProblem(NEVER_PULL, message)


def _present(text: str) -> str:
    return f'Container image "{text}" already present on machine and can be accessed by the pod'


def _duration(seconds: float) -> str:
    """As Go prints it, to the millisecond.

    >>> _duration(0.0421), _duration(75.25)
    ('42ms', '1m15.25s')
    """
    milli = round(seconds * 1000)
    if milli < 1000:
        return f"{milli}ms"
    minutes, rest = divmod(milli, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
