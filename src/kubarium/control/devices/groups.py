"""Claims of PodGroups: made once from the group's templates, for all of its pods (KEP-5729)."""

from __future__ import annotations

from kubarium.api.kinds import POD_GROUPS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.control.devices.claims import ClaimMaker
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Key
from kubarium.view.consumers import maker_of


class GroupClaimGenerator:
    """Every entry of a PodGroup with a template has its claim, and the group's status names it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("resourceclaim-group-generator", context, self.reconcile)
        self._groups = self.controller.watches(POD_GROUPS)
        self._maker = ClaimMaker(context, self.controller, "PodGroupResourceClaim")
        self.controller.watches(RESOURCE_CLAIMS, self._of_owner)
        self.controller.watches(RESOURCE_CLAIM_TEMPLATES, self._of_template)

    @staticmethod
    def _of_owner(claim: Document) -> list[Key]:
        kind, name, _ = maker_of(claim)
        return [(claim["metadata"]["namespace"], name)] if kind == POD_GROUPS.kind else []

    def _of_template(self, template: Document) -> list[Key]:
        namespace, name = template["metadata"]["namespace"], template["metadata"]["name"]
        return [
            (namespace, group["metadata"]["name"])
            for group in self._groups.items(namespace)
            for entry in group.get("spec", {}).get("resourceClaims") or ()
            if entry.get("resourceClaimTemplateName") == name
        ]

    async def reconcile(self, key: Key) -> float | None:
        """Make what is missing; running it again changes nothing."""
        group = self._groups.get(key[1], key[0])
        if group is None or writes.is_terminating(group):
            return None
        statuses: list[Document] = []
        for entry in (group.get("spec") or {}).get("resourceClaims") or ():
            if not entry.get("resourceClaimTemplateName"):
                continue
            claim = await self._maker.claim_for(group, entry)
            if claim is not None:
                statuses.append(
                    {"name": entry["name"], "resourceClaimName": claim["metadata"]["name"]}
                )
        known = (group.get("status") or {}).get("resourceClaimStatuses") or []
        if known != statuses:
            named: Document = {"resourceClaimStatuses": statuses}
            await writes.add_to_status(self._context, POD_GROUPS, group, named)
        return None
