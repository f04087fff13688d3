"""Which handler a pod asks for, through its RuntimeClass."""

from __future__ import annotations

from kubarium.api.kinds import RUNTIME_CLASSES
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.node.runtimes.oci.handlers import UnknownHandler
from kubarium.runtime.protocol import Context


class RuntimeClasses:
    """A class's handler never changes, so it is asked for once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handlers: dict[str, str] = {}

    async def fetch(self, pod: Document) -> None:
        """Look the pod's class up; UnknownHandler in kubelet's words if there is none."""
        name = pod["spec"].get("runtimeClassName")
        if not name or name in self._handlers:
            return
        try:
            found = await self._context.client.get(RUNTIME_CLASSES, name)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            raise UnknownHandler(
                f'failed to get sandbox runtime: RuntimeClass "{name}" not found'
            ) from error
        self._handlers[name] = str(found.get("handler") or "")

    def handler(self, pod: Document) -> str:
        """As :meth:`fetch` has found it; "" without a class."""
        return self._handlers.get(pod["spec"].get("runtimeClassName") or "", "")
