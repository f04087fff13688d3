"""Claims that a ResourceQuota keeps from being made, and what raising it would give their pods."""

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
from kubarium.engine.model import Key
from kubarium.engine.verdict import Suggestion
from kubarium.view.cluster import key_of
from kubarium.view.evidence import Evidence


@dataclass(frozen=True, slots=True)
class Excess:
    """A name of a quota that the claims would go beyond."""

    quota: str
    name: str
    whose: str
    wanted: Fraction
    used: Fraction
    hard: Fraction

    @property
    def line(self) -> str:
        return (
            f"ResourceQuota {self.quota} leaves no room for {self.whose} claims: {self.name}, "
            f"{format_quantity(self.used)} of {format_quantity(self.hard)} used and "
            f"{format_quantity(self.wanted)} wanted"
        )

    @property
    def enough(self) -> str:
        return format_quantity(self.used + self.wanted)


class ClaimQuotas:
    """The claims that are still to be made for pods of one namespace, held against its quotas."""

    def __init__(self, evidence: Evidence, pods: Sequence[Document], whom: str = "the pod") -> None:
        """``pods`` one or more; ``whom`` is what fits or does not, in words."""
        self._evidence = evidence
        self._pods = pods
        self._whom = whom
        self._namespace = pods[0]["metadata"].get("namespace", "")

    @cached_property
    def exceeded(self) -> tuple[Excess, ...]:
        """Where the quotas have no room; empty if it is not they that keep the claims away."""
        return tuple(self._exceeded())

    def _exceeded(self) -> Iterator[Excess]:
        quotas = self._evidence.documents.get(RESOURCE_QUOTAS, ())
        own = [q for q in quotas if q["metadata"].get("namespace", "") == self._namespace]
        unmade = self._unmade if own else []
        if not unmade:
            return
        resources = resource_names(self._evidence.documents.get(DEVICE_CLASSES, ()))
        for quota in own:
            hard = (quota.get("spec") or {}).get("hard") or {}
            used = (quota.get("status") or {}).get("used") or {}
            wanted: dict[str, Fraction] = {}
            for claim in unmade:
                if in_scope(quota, RESOURCE_CLAIMS, claim):
                    usage = usage_of(RESOURCE_CLAIMS, claim, hard, resources)
                    for name, amount in usage.items():
                        wanted[name] = wanted.get(name, Fraction(0)) + amount
            for name, amount in wanted.items():
                now, most = parse_quantity(used.get(name, 0)), parse_quantity(hard[name])
                if amount and now + amount > most:
                    quota_name = quota["metadata"]["name"]
                    yield Excess(quota_name, name, f"{self._whom}'s", amount, now, most)

    @cached_property
    def _by_pod(self) -> list[tuple[Document, list[Document]]]:
        return [(pod, self._unmade_of(pod)) for pod in self._pods]

    @property
    def _unmade(self) -> list[Document]:
        return [claim for _, claims in self._by_pod for claim in claims]

    def _unmade_of(self, pod: Document) -> list[Document]:
        """The claims as their templates say, each under a name that no object can have."""
        metadata = pod["metadata"]
        made = {
            status.get("name")
            for status in (pod.get("status") or {}).get("resourceClaimStatuses") or ()
        }
        owner = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "uid": metadata.get("uid", ""),
            "controller": True,
        }
        found: list[Document] = []
        for entry in pod["spec"].get("resourceClaims") or ():
            key = (self._namespace, entry.get("resourceClaimTemplateName", ""))
            template = self._templates.get(key)
            if template is None or entry.get("name") in made:
                continue
            own = {
                "name": f"/{metadata['name']}/{entry['name']}",
                "namespace": self._namespace,
                "ownerReferences": [owner],
            }
            spec = (template.get("spec") or {}).get("spec") or {}
            found.append({"metadata": own, "spec": spec})
        return found

    @cached_property
    def _templates(self) -> dict[Key, Document]:
        templates = self._evidence.documents.get(RESOURCE_CLAIM_TEMPLATES, ())
        return {key_of(document): document for document in templates}

    @contextmanager
    def made(self) -> Iterator[list[Document]]:
        """The pods as if their claims had been made; they are in the snapshot meanwhile."""
        view = self._evidence.view
        for claim in self._unmade:
            view.apply(RESOURCE_CLAIMS, None, claim)
        try:
            yield [_with_claims(pod, claims) for pod, claims in self._by_pod]
        finally:
            for claim in self._unmade:
                view.apply(RESOURCE_CLAIMS, claim, None)

    def raising(self) -> Suggestion:
        """That the quotas are raised by what is missing."""
        each = ", ".join(
            f"{e.name} of ResourceQuota {e.quota} from {format_quantity(e.hard)} to {e.enough}"
            for e in self.exceeded
        )
        text = f"raise {each}: {self._whom} fits now"
        return Suggestion("raise-quota", text, ",".join(e.quota for e in self.exceeded))

    def command(self) -> str:
        """The line that raises them; "" where it takes several."""
        return _patch(self._namespace, self.exceeded)


def _with_claims(pod: Document, claims: Sequence[Document]) -> Document:
    """The pod with the names of these claims in its status."""
    status = pod.get("status") or {}
    statuses = list(status.get("resourceClaimStatuses") or ())
    for claim in claims:
        name = claim["metadata"]["name"]
        statuses.append({"name": name.rpartition("/")[2], "resourceClaimName": name})
    return {**pod, "status": {**status, "resourceClaimStatuses": statuses}}


def _patch(namespace: str, exceeded: Sequence[Excess]) -> str:
    names = {excess.quota for excess in exceeded}
    if len(names) != 1:
        return ""
    patch = json.dumps({"spec": {"hard": {e.name: e.enough for e in exceeded}}})
    return f"kubectl patch resourcequota {names.pop()} -n {namespace} --type merge -p '{patch}'"
