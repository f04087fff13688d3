"""Claims of PodGroups: made once from the group's templates, for all of its pods (KEP-5729)."""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import POD_GROUPS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.control.devices.claims import COMPONENT, claim_from, name_prefix, owning_pod
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key

GROUP_CLAIM_NAME = "resource.kubernetes.io/podgroup-claim-name"

_BY_GROUP_UID = "resourceclaims-by-podgroup-uid"


def _owner_uids(claim: Document) -> Iterable[str]:
    uid = owning_pod(claim, "PodGroup")[1]
    return (uid,) if uid else ()


class GroupClaimGenerator:
    """Every entry of a PodGroup with a template has its claim, and the group's status names it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._events = EventRecorder(context, COMPONENT)
        self.controller = Controller("resourceclaim-group-generator", context, self.reconcile)
        self._groups = self.controller.watches(POD_GROUPS)
        self._claims = self.controller.watches(RESOURCE_CLAIMS, self._of_owner)
        self._claims.add_index(_BY_GROUP_UID, _owner_uids)
        self._templates = self.controller.watches(RESOURCE_CLAIM_TEMPLATES, self._of_template)

    @staticmethod
    def _of_owner(claim: Document) -> list[Key]:
        name = owning_pod(claim, "PodGroup")[0]
        return [(claim["metadata"]["namespace"], name)] if name else []

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
        for entry in group["spec"].get("resourceClaims") or ():
            template = entry.get("resourceClaimTemplateName")
            if not template:
                continue
            claim = self._existing(group, entry["name"]) or await self._make(
                group, entry["name"], template
            )
            if claim is not None:
                statuses.append(
                    {"name": entry["name"], "resourceClaimName": claim["metadata"]["name"]}
                )
        known = (group.get("status") or {}).get("resourceClaimStatuses") or []
        if known != statuses:
            change: Document = {
                "metadata": {"uid": group["metadata"]["uid"]},
                "status": {"resourceClaimStatuses": statuses},
            }
            await writes.patch(self._context, POD_GROUPS, group, change, subresource="status")
        return None

    def _existing(self, group: Document, entry: str) -> Document | None:
        for claim in self._claims.by_index(_BY_GROUP_UID, group["metadata"]["uid"]):
            annotations = claim["metadata"].get("annotations") or {}
            if annotations.get(GROUP_CLAIM_NAME) == entry and not writes.is_terminating(claim):
                return claim
        return None

    async def _make(self, group: Document, entry: str, template_name: str) -> Document | None:
        """A claim from the template; None when that cannot be, which an event tells."""
        namespace, name = group["metadata"]["namespace"], group["metadata"]["name"]
        template = self._templates.get(template_name, namespace)
        if template is None:
            self._failed(
                group, entry, f'resourceclaimtemplate.resource.k8s.io "{template_name}" not found'
            )
            return None
        claim = claim_from(template, group, name_prefix(name, entry), {GROUP_CLAIM_NAME: entry})
        try:
            return await writes.create(self._context, RESOURCE_CLAIMS, claim, namespace)
        except ApiError as error:
            self._failed(group, entry, str(error))
            raise

    def _failed(self, group: Document, entry: str, why: str) -> None:
        text = f"PodGroup ResourceClaim {entry}: {why}"
        self._events.event(group, "Warning", "FailedResourceClaimCreation", text)
