"""Claims that a ResourceQuota keeps from being made, and what raising it would give the pod."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from kubarium.api.device_quotas import resource_names
from kubarium.api.kinds import (
    DEVICE_CLASSES,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_QUOTAS,
)
from kubarium.api.quotas import in_scope, usage_of
from kubarium.api.resource import Document
from kubarium.base.quantity import format_quantity, parse_quantity
from kubarium.engine.verdict import Suggestion
from kubarium.view.cluster import key_of
from kubarium.view.evidence import Evidence


@dataclass(frozen=True, slots=True)
class Excess:
    """A name of a quota that the claims would go beyond."""

    quota: str
    name: str
    wanted: Fraction
    used: Fraction
    hard: Fraction

    @property
    def line(self) -> str:
        return (
            f"ResourceQuota {self.quota} leaves no room for the pod's claims: {self.name}, "
            f"{format_quantity(self.used)} of {format_quantity(self.hard)} used and "
            f"{format_quantity(self.wanted)} wanted"
        )

    @property
    def enough(self) -> str:
        return format_quantity(self.used + self.wanted)


class ClaimQuotas:
    """The claims that are still to be made for a pod, held against its namespace's quotas."""

    def __init__(self, evidence: Evidence, pod: Document) -> None:
        self._evidence = evidence
        self._pod = pod
        self._namespace = pod["metadata"].get("namespace", "")

    @cached_property
    def exceeded(self) -> tuple[Excess, ...]:
        """Where the quotas have no room; empty if it is not they that keep the claims away."""
        return tuple(self._exceeded())

    def _exceeded(self) -> Iterator[Excess]:
        quotas = self._evidence.documents.get(RESOURCE_QUOTAS, ())
        own = [q for q in quotas if q["metadata"].get("namespace", "") == self._namespace]
        if not own or not self._unmade:
            return
        resources = resource_names(self._evidence.documents.get(DEVICE_CLASSES, ()))
        for quota in own:
            hard = (quota.get("spec") or {}).get("hard") or {}
            used = (quota.get("status") or {}).get("used") or {}
            wanted: dict[str, Fraction] = {}
            for claim in self._unmade:
                if in_scope(quota, RESOURCE_CLAIMS, claim):
                    usage = usage_of(RESOURCE_CLAIMS, claim, hard, resources)
                    for name, amount in usage.items():
                        wanted[name] = wanted.get(name, Fraction(0)) + amount
            for name, amount in wanted.items():
                now, most = parse_quantity(used.get(name, 0)), parse_quantity(hard[name])
                if amount and now + amount > most:
                    yield Excess(quota["metadata"]["name"], name, amount, now, most)

    @cached_property
    def _unmade(self) -> list[Document]:
        """The claims as their templates say, each under a name that no object can have."""
        made = {
            status.get("name")
            for status in (self._pod.get("status") or {}).get("resourceClaimStatuses") or ()
        }
        templates = {
            key_of(document): document
            for document in self._evidence.documents.get(RESOURCE_CLAIM_TEMPLATES, ())
        }
        found: list[Document] = []
        for entry in self._pod["spec"].get("resourceClaims") or ():
            template = templates.get((self._namespace, entry.get("resourceClaimTemplateName", "")))
            if template is None or entry.get("name") in made:
                continue
            metadata = {
                "name": f"/{self._pod['metadata']['name']}/{entry['name']}",
                "namespace": self._namespace,
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": self._pod["metadata"]["name"],
                        "uid": self._pod["metadata"].get("uid", ""),
                        "controller": True,
                    }
                ],
            }
            spec = (template.get("spec") or {}).get("spec") or {}
            found.append({"metadata": metadata, "spec": spec})
        return found

    @contextmanager
    def made(self) -> Iterator[Document]:
        """The pod as if its claims had been made; they are in the snapshot meanwhile."""
        statuses = list((self._pod.get("status") or {}).get("resourceClaimStatuses") or ())
        for claim in self._unmade:
            name = claim["metadata"]["name"]
            statuses.append({"name": name.rpartition("/")[2], "resourceClaimName": name})
        status = {**(self._pod.get("status") or {}), "resourceClaimStatuses": statuses}
        view = self._evidence.view
        for claim in self._unmade:
            view.apply(RESOURCE_CLAIMS, None, claim)
        try:
            yield {**self._pod, "status": status}
        finally:
            for claim in self._unmade:
                view.apply(RESOURCE_CLAIMS, claim, None)

    def raising(self) -> Suggestion:
        """That the quotas are raised by what is missing."""
        each = ", ".join(
            f"{e.name} of ResourceQuota {e.quota} from {format_quantity(e.hard)} to {e.enough}"
            for e in self.exceeded
        )
        text = f"raise {each}: the pod fits now"
        return Suggestion("raise-quota", text, ",".join(e.quota for e in self.exceeded))

    def command(self) -> str:
        """The line that raises them; "" where it takes several."""
        return _patch(self._namespace, self.exceeded)


def _patch(namespace: str, exceeded: Sequence[Excess]) -> str:
    names = {excess.quota for excess in exceeded}
    if len(names) != 1:
        return ""
    patch = json.dumps({"spec": {"hard": {e.name: e.enough for e in exceeded}}})
    return f"kubectl patch resourcequota {names.pop()} -n {namespace} --type merge -p '{patch}'"
