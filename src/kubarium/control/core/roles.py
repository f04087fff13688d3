"""Writes the rules of aggregated ClusterRoles: the union of those that their selectors find.

The authorizer follows the selectors itself; this is for those who read the roles.
"""

from __future__ import annotations

from typing import Any

from kubarium.api.kinds import CLUSTER_ROLES
from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.protocol import Context, Key


class ClusterRoleAggregation(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._roles = context.informers.get(CLUSTER_ROLES)
        self.controller = Controller("clusterrole-aggregation-controller", context, self._reconcile)
        self.controller.watches(CLUSTER_ROLES, self._aggregating)

    def _aggregating(self, changed: Document) -> list[Key]:
        """The roles whose rules may come from ``changed``: any that selects at all."""
        roles = [changed, *self._roles.items()]
        return [("", r["metadata"]["name"]) for r in roles if r.get("aggregationRule")]

    async def _reconcile(self, key: Key) -> float | None:
        role = self._roles.get(key[1])
        if role is None or not role.get("aggregationRule"):
            return None
        rules = self._rules(role)
        if rules != (role.get("rules") or []):
            await writes.update(self._context, CLUSTER_ROLES, {**role, "rules": rules})
        return None

    def _rules(self, role: Document) -> list[Any]:
        """Rules of the selected roles, by the roles' names, each rule once."""
        found: list[Any] = []
        roles = sorted(self._roles.items(), key=lambda r: r["metadata"]["name"])
        for selector in role["aggregationRule"].get("clusterRoleSelectors") or ():
            try:
                matches = label_selector(selector).matches
            except ApiError:
                continue  # written before validation refused such a selector; it finds nothing
            for other in roles:
                metadata = other["metadata"]
                if metadata["name"] == role["metadata"]["name"]:
                    continue
                if matches(metadata.get("labels") or {}):
                    found += [r for r in other.get("rules") or () if r not in found]
        return found
