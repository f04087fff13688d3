"""The node's side of PodCheckpoint: has the ranks of a pod's gang save one step, and says how it
went. Upstream's kubelet has the same part (KEP-5823); what is saved here is what the program saves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from kubarium.api.kinds import POD_CHECKPOINTS, PODS
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Key
from kubarium.view import checkpoints as view

FILE = "save.json"
LOOK_S = 0.2


class Ranks(Protocol):
    """What is asked of the training watch. Answers are the program's words (``kept``)."""

    def ask_save(self, uid: str, ident: str, keep: list[str]) -> str:
        """Have the pod's gang save for ``ident``; "" or why that cannot be."""
        ...

    def kept(self, uid: str, ident: str) -> list[dict[str, Any]]:
        """What the gang's ranks have answered, the pod's own answer first; [] before that."""
        ...


class PodCheckpoints:
    """Follows the PodCheckpoints of an agent's pods."""

    def __init__(self, context: Context, ranks: Ranks, is_mine: Callable[[Document], bool]) -> None:
        self._context = context
        self._ranks = ranks
        self._is_mine = is_mine
        self.controller = Controller("pod-checkpoints", context, self._reconcile, workers=2)
        self._checkpoints = self.controller.watches(POD_CHECKPOINTS)
        self._pods = context.informers.get(PODS)

    async def run(self) -> None:
        await self.controller.run()

    async def _reconcile(self, key: Key) -> float | None:
        checkpoint = self._checkpoints.get(key[1], key[0])
        if checkpoint is None or view.is_over(checkpoint):
            return None
        name = (checkpoint["spec"].get("sourcePod") or {}).get("name", "")
        pod = self._pods.get(name, key[0])
        if pod is None or not self._is_mine(pod):
            return None  # another node's, or the controller says that there is none
        uid = pod["metadata"]["uid"]
        wanted = (checkpoint["spec"]["sourcePod"]).get("uid")
        known = (checkpoint.get("status") or {}).get("sourcePodUID")
        if (wanted and wanted != uid) or (known and known != uid):
            text = f"pod {name} has uid {uid}, the checkpoint is of {wanted or known}"
            await self._write(checkpoint, view.REPLACED, text)
            return None
        if view.ready_condition(checkpoint).get("reason") != view.IN_PROGRESS:
            return await self._begin(checkpoint, pod)
        return await self._follow(checkpoint, pod)

    async def _begin(self, checkpoint: Document, pod: Document) -> float | None:
        keep = sorted(
            {
                view.ident_of(other)
                for other in self._checkpoints.items(pod["metadata"]["namespace"])
            }
        )
        problem = self._ranks.ask_save(pod["metadata"]["uid"], view.ident_of(checkpoint), keep)
        if problem:
            await self._write(checkpoint, view.FAILED, problem)
            return None
        facts = {
            "nodeName": pod["spec"].get("nodeName", ""),
            "sourcePodUID": pod["metadata"]["uid"],
            "checkpointedPodTemplate": view.pod_template(pod),
            "checkpointedContainers": [
                {"name": c["name"], "image": c.get("image", "")} for c in pod["spec"]["containers"]
            ],
        }
        text = "the ranks of the gang save at a common step"
        await self._write(checkpoint, view.IN_PROGRESS, text, **facts)
        return LOOK_S

    async def _follow(self, checkpoint: Document, pod: Document) -> float | None:
        answers = self._ranks.kept(pod["metadata"]["uid"], view.ident_of(checkpoint))
        wrong = next((str(a["error"]) for a in answers if a.get("error")), "")
        if wrong:
            await self._write(checkpoint, view.FAILED, wrong)
            return None
        whole = next((a for a in answers if a.get("writes")), None)
        if whole is not None:
            place = {"container": pod["spec"]["containers"][0]["name"], "path": whole["folder"]}
            facts = {
                "step": int(whole["step"]),
                "bytes": int(whole.get("bytes", 0)),
                "sha256": str(whole.get("sha256", "")),
                "checkpointLocation": {"type": "Volume", "volume": place},
            }
            text = f"saved at step {whole['step']}, all parts verified"
            await self._write(checkpoint, view.COMPLETED, text, **facts)
            return None
        since = view.ready_condition(checkpoint)["lastTransitionTime"]
        left_s = parse_rfc3339(since) + view.timeout_s(checkpoint) - self._context.clock.now()
        if left_s <= 0:
            text = f"no checkpoint within {view.timeout_s(checkpoint):g} s"
            await self._write(checkpoint, view.FAILED, text)
            return None
        return LOOK_S

    async def _write(self, checkpoint: Document, reason: str, text: str, **facts: Any) -> None:
        status = view.with_condition(checkpoint, reason, text, self._context.clock.now(), **facts)
        await writes.patch(
            self._context, POD_CHECKPOINTS, checkpoint, {"status": status}, subresource="status"
        )


def request_text(requests: dict[str, int], keep: list[str]) -> str:
    """``save.json``."""
    wanted = [{"id": ident, "step": step} for ident, step in requests.items()]
    return json.dumps({"requests": wanted, "keep": keep})
