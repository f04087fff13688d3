"""RBAC rules and who is given which: an index of the stored roles and bindings.

The index follows the store by watching it, one change at a time. Matching is that of upstream's
``pkg/apis/rbac/v1/evaluation_helpers.go``, covering that of ``component-helpers/auth/rbac``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from kubarium.api.selectors import Selector, label_selector
from kubarium.base.errors import ApiError
from kubarium.server.authn import service_account_username
from kubarium.server.requests import Requester
from kubarium.store import Change, Record, Store, Subscription

Document = dict[str, Any]

GROUP = "rbac.authorization.k8s.io"
_PREFIX = f"/{GROUP}/"


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule. Empty ``names`` mean any name."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    @staticmethod
    def of(document: Mapping[str, Any]) -> Rule:
        """From a PolicyRule document."""
        return Rule(
            frozenset(document.get("verbs") or ()),
            frozenset(document.get("apiGroups") or ()),
            frozenset(document.get("resources") or ()),
            frozenset(document.get("resourceNames") or ()),
            frozenset(document.get("nonResourceURLs") or ()),
        )

    def document(self) -> Document:
        """As a PolicyRule document, lists sorted, empty ones left out."""
        lists = {
            "verbs": self.verbs,
            "apiGroups": self.groups,
            "resources": self.resources,
            "resourceNames": self.names,
            "nonResourceURLs": self.urls,
        }
        return {name: sorted(values) for name, values in lists.items() if values}

    def allows_resource(self, verb: str, group: str, resource: str, subresource: str) -> bool:
        """Whether the rule speaks of this at all; ``names`` may still restrict it."""
        if verb not in self.verbs and "*" not in self.verbs:
            return False
        if group not in self.groups and "*" not in self.groups:
            return False
        if "*" in self.resources:
            return True
        if not subresource:
            return resource in self.resources
        both = f"{resource}/{subresource}"
        return both in self.resources or f"*/{subresource}" in self.resources

    def allows_url(self, verb: str, path: str) -> bool:
        """Non-resource paths: exact, or with a trailing ``*`` a prefix."""
        if verb not in self.verbs and "*" not in self.verbs:
            return False
        return _url_covered(self.urls, path)

    def covers(self, other: Rule) -> bool:
        """Whether whoever has this rule has all of ``other`` (one breakdown of a rule)."""
        return (
            _all_in(other.verbs, self.verbs)
            and _all_in(other.groups, self.groups)
            and all(_resource_covered(self.resources, wanted) for wanted in other.resources)
            and (not self.names or (bool(other.names) and other.names <= self.names))
            and all(_url_covered(self.urls, url) for url in other.urls)
        )

    def breakdown(self) -> Iterator[Rule]:
        """The smallest rules that this one consists of."""
        for verb, url in product(sorted(self.verbs), sorted(self.urls)):
            yield Rule(frozenset([verb]), urls=frozenset([url]))
        names = [frozenset([name]) for name in sorted(self.names)] or [frozenset[str]()]
        for group, resource, name in product(sorted(self.groups), sorted(self.resources), names):
            for verb in sorted(self.verbs):
                yield Rule(frozenset([verb]), frozenset([group]), frozenset([resource]), name)

    def __str__(self) -> str:
        """``{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}``, as upstream writes it."""
        lists = {
            "APIGroups": self.groups,
            "Resources": self.resources,
            "NonResourceURLs": self.urls,
            "ResourceNames": self.names,
            "Verbs": self.verbs,
        }
        parts = [f"{name}:{quoted(sorted(values))}" for name, values in lists.items() if values]
        return "{" + ", ".join(parts) + "}"


@dataclass(frozen=True, slots=True)
class Grant:
    """One subject of one binding: who is given which role, where ("" is everywhere)."""

    binding: str
    namespace: str
    role_kind: str
    role: str
    subject: str  # as reasons write it: 'Group "system:masters"'

    def __str__(self) -> str:
        if self.namespace:
            kind, name = "RoleBinding", f"{self.binding}/{self.namespace}"
        else:
            kind, name = "ClusterRoleBinding", self.binding
        return f'{kind} "{name}" of {self.role_kind} "{self.role}" to {self.subject}'


@dataclass(slots=True)
class _ClusterRole:
    rules: list[Rule]
    labels: Mapping[str, str]
    aggregates: list[Selector] | None


# Who is meant: ("User", name) or ("Group", name). Then the grants of each binding, by its key.
_Subject = tuple[str, str]
_GrantsByBinding = dict[str, tuple[Grant, ...]]


@dataclass(slots=True)
class RbacIndex:
    """Roles by name and grants by subject. ``on_change`` is called after each change."""

    on_change: Callable[[], None]
    _roles: dict[tuple[str, str], list[Rule]] = field(default_factory=dict)
    _cluster_roles: dict[str, _ClusterRole] = field(default_factory=dict)
    _effective: dict[str, list[Rule]] = field(default_factory=dict)
    _grants: dict[_Subject, _GrantsByBinding] = field(default_factory=dict)
    _subjects: dict[str, tuple[_Subject, ...]] = field(default_factory=dict)  # by binding's key
    _watches: list[Subscription] = field(default_factory=list)

    def follow(self, store: Store) -> None:
        """Read what is in ``store`` and keep up with it."""
        for plural, keep in (
            ("roles", self._keep_role),
            ("clusterroles", self._keep_cluster_role),
            ("rolebindings", self._keep_binding),
            ("clusterrolebindings", self._keep_binding),
        ):
            self._follow(store, f"{_PREFIX}{plural}/", keep)

    def close(self) -> None:
        """Stop following."""
        for watch in self._watches:
            watch.close()
        self._watches.clear()

    def grants(self, user: Requester, namespace: str) -> Iterator[Grant]:
        """What ``user`` is given in ``namespace``: cluster-wide grants first ("": these alone)."""
        subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
        held = [
            grant
            for subject in subjects
            for grants in self._grants.get(subject, {}).values()
            for grant in grants
        ]
        yield from (grant for grant in held if not grant.namespace)
        if namespace:
            yield from (grant for grant in held if grant.namespace == namespace)

    def rules(self, kind: str, name: str, namespace: str = "") -> list[Rule] | None:
        """A role's rules, those that it aggregates included; None if there is no such role."""
        if kind == "Role":
            return self._roles.get((namespace, name))
        if name not in self._effective and name in self._cluster_roles:
            self._effective[name] = list(dict.fromkeys(self._aggregate(name, set())))
        return self._effective.get(name)

    def rules_of(self, user: Requester, namespace: str) -> tuple[list[Rule], list[str]]:
        """All rules that ``user`` has in ``namespace``, and what went wrong finding them."""
        rules: list[Rule] = []
        problems: list[str] = []
        for grant in self.grants(user, namespace):
            found = self.rules(grant.role_kind, grant.role, grant.namespace)
            if found is None:
                problems.append(missing_role(grant))
            rules.extend(found or ())
        return rules, list(dict.fromkeys(problems))

    def _follow(
        self, store: Store, prefix: str, keep: Callable[[str, Document | None], None]
    ) -> None:
        state = store.range(prefix)
        for record in state.records:
            keep(record.key, record.value)

        def sink(change: Change) -> None:
            record: Record | None = change.record if change.kind == "PUT" else None
            keep(change.key, record.value if record else None)
            self.on_change()

        self._watches.append(store.watch(prefix, state.revision, sink))

    def _keep_role(self, key: str, document: Document | None) -> None:
        namespace, name = key.split("/")[-2:]
        if document is None:
            self._roles.pop((namespace, name), None)
        else:
            self._roles[namespace, name] = _rules(document)

    def _keep_cluster_role(self, key: str, document: Document | None) -> None:
        name = key.rpartition("/")[2]
        self._effective.clear()
        if document is None:
            self._cluster_roles.pop(name, None)
            return
        labels = document["metadata"].get("labels") or {}
        self._cluster_roles[name] = _ClusterRole(_rules(document), labels, _aggregates(document))

    def _keep_binding(self, key: str, document: Document | None) -> None:
        for subject in self._subjects.pop(key, ()):
            by_binding = self._grants[subject]
            by_binding.pop(key, None)
            if not by_binding:
                del self._grants[subject]
        if document is None:
            return
        grants = list(_grants_of(document))
        for subject, grant in grants:
            by_binding = self._grants.setdefault(subject, {})
            by_binding[key] = (*by_binding.get(key, ()), grant)
        self._subjects[key] = tuple(dict.fromkeys(subject for subject, _ in grants))

    def _aggregate(self, name: str, seen: set[str]) -> Iterator[Rule]:
        """The rules of ``name`` and of all roles that it selects, each role once."""
        seen.add(name)
        role = self._cluster_roles[name]
        yield from role.rules
        for selector in role.aggregates or ():
            for other in sorted(self._cluster_roles):
                if other not in seen and selector.matches(self._cluster_roles[other].labels):
                    yield from self._aggregate(other, seen)


def missing_role(grant: Grant) -> str:
    """The error text of a binding whose role does not exist."""
    return f'{grant.role_kind.lower()}.{GROUP} "{grant.role}" not found'


def missing_rules(owned: Iterable[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """The parts of ``wanted`` that ``owned`` does not cover, joined where only verbs differ."""
    owned = list(owned)
    verbs: dict[Rule, frozenset[str]] = {}
    for rule in wanted:
        for part in rule.breakdown():
            if not any(own.covers(part) for own in owned):
                rest = Rule(frozenset(), part.groups, part.resources, part.names, part.urls)
                verbs[rest] = verbs.get(rest, frozenset()) | part.verbs
    return [
        Rule(verbs_of, rest.groups, rest.resources, rest.names, rest.urls)
        for rest, verbs_of in verbs.items()
    ]


def quoted(values: Iterable[str]) -> str:
    """Go's ``%q`` of a list of strings: ``["a" "b"]``."""
    return "[" + " ".join(f'"{value}"' for value in values) + "]"


def _rules(document: Document) -> list[Rule]:
    return [Rule.of(rule) for rule in document.get("rules") or ()]


def _aggregates(document: Document) -> list[Selector] | None:
    selectors = (document.get("aggregationRule") or {}).get("clusterRoleSelectors")
    if not selectors:
        return None
    try:
        return [label_selector(selector) for selector in selectors]
    except ApiError:
        return None  # validation refuses such a selector; one written before it gives nothing


def _grants_of(document: Document) -> Iterator[tuple[_Subject, Grant]]:
    metadata, reference = document["metadata"], document.get("roleRef") or {}
    namespace = metadata.get("namespace", "")
    for subject in document.get("subjects") or ():
        kind, name = subject.get("kind", ""), subject.get("name", "")
        meant: _Subject = (kind, name)
        if kind == "ServiceAccount":
            home = subject.get("namespace") or namespace
            if not home:
                continue
            meant, name = ("User", service_account_username(home, name)), f"{name}/{home}"
        elif kind not in ("User", "Group"):
            continue
        yield (
            meant,
            Grant(
                metadata["name"],
                namespace,
                reference.get("kind", ""),
                reference.get("name", ""),
                f'{kind} "{name}"',
            ),
        )


def _all_in(wanted: frozenset[str], held: frozenset[str]) -> bool:
    return "*" in held or wanted <= held


def _resource_covered(held: frozenset[str], wanted: str) -> bool:
    if "*" in held or wanted in held:
        return True
    _, slash, subresource = wanted.partition("/")
    return bool(slash) and f"*/{subresource}" in held


def _url_covered(held: frozenset[str], path: str) -> bool:
    if "*" in held or path in held:
        return True
    return any(url.endswith("*") and path.startswith(url.rstrip("*")) for url in held)
