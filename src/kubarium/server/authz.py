"""May this user do that: RBAC decisions, access reviews, and the guard against escalation.

A decision is looked up in a cache by (user, namespace, verb, resource); the cache is dropped
whenever a role or binding changes. Messages are the API server's
(``endpoints/handlers/responsewriters/errors.go``, ``plugin/pkg/auth/authorizer/rbac``,
``pkg/registry/rbac/validation``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from kubarium.base.errors import ApiError, FieldError, bad_request, forbidden, invalid, not_found
from kubarium.server.authn import MASTERS, User
from kubarium.server.rbac import (
    GROUP,
    RbacIndex,
    Rule,
    missing_role,
    missing_rules,
    quoted,
)
from kubarium.server.requests import Requester
from kubarium.store import Store

Document = dict[str, Any]

# Decisions remembered. One is some 300 bytes, and a busy cluster of a few dozen identities asks
# a few thousand different questions.
CACHED_DECISIONS = 50_000

AUTHORIZATION_GROUP = "authorization.k8s.io"
_ANY: Literal[True] = True
_ROLE_PLURALS = {"Role": "roles", "ClusterRole": "clusterroles"}

# What the rules say of a question without a name: yes for any name, or for these names only.
_Names = Literal[True] | frozenset[str]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for: a resource, or with ``path`` a non-resource URL."""

    user: Requester
    verb: str
    namespace: str = ""
    api_group: str = ""
    api_version: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    path: str = ""

    def denial(self) -> str:
        """The sentence that says what the user cannot do."""
        cannot = f'User "{self.user.name}" cannot {self.verb}'
        if self.path:
            return f'{cannot} path "{self.path}"'
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'{cannot} resource "{resource}" in API group "{self.api_group}" {where}'


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer with its reason, as a SubjectAccessReview shows it."""

    allowed: bool
    reason: str = ""


class Authorizer:
    """Decides by the roles and bindings in ``store``, which it follows."""

    def __init__(self, store: Store) -> None:
        self._cache: dict[tuple[object, ...], _Names] = {}
        self.index = RbacIndex(on_change=self._cache.clear)
        self.index.follow(store)

    def close(self) -> None:
        """Stop following the store."""
        self.index.close()

    def allowed(self, attributes: Attributes) -> bool:
        """Whether the user may; ``system:masters`` always may."""
        user = attributes.user
        if MASTERS in user.groups:
            return True
        a = attributes
        key = (
            user.name, user.groups, a.verb, a.namespace, a.api_group, a.resource, a.subresource,
            a.path,
        )  # fmt: skip
        names = self._cache.get(key)
        if names is None:
            names = self._names(attributes)
            if len(self._cache) >= CACHED_DECISIONS:
                self._cache.clear()
            self._cache[key] = names
        return names is _ANY or attributes.name in names

    def confirm(self, attributes: Attributes) -> None:
        """ApiError 403 in upstream's words unless the user may."""
        if not self.allowed(attributes):
            raise self.denial(attributes)

    def confirm_access(
        self,
        user: User,
        verb: str,
        api_group: str,
        resource: str,
        subresource: str,
        namespace: str,
        name: str,
    ) -> None:
        """:meth:`confirm` as an ``authn.ConfirmAccess``."""
        self.confirm(
            Attributes(
                user,
                verb,
                namespace,
                api_group,
                resource=resource,
                subresource=subresource,
                name=name,
            )
        )

    def denial(self, attributes: Attributes) -> ApiError:
        """The 403 of a request that is not allowed."""
        why = attributes.denial()
        reason = self.decide(attributes).reason
        if reason:
            why = f"{why}: {reason}"
        if attributes.path:
            return ApiError(403, "Forbidden", f"forbidden: {why}", {})
        return forbidden(attributes.resource, attributes.api_group, attributes.name, why)

    def decide(self, attributes: Attributes) -> Decision:
        """The answer and why: the first binding that allows it, or what hindered the search."""
        if MASTERS in attributes.user.groups:
            return Decision(True)
        problems: list[str] = []
        for grant in self.index.grants(attributes.user, _scope(attributes)):
            rules = self.index.rules(grant.role_kind, grant.role, grant.namespace)
            if rules is None:
                problems.append(missing_role(grant))
            elif any(_allows(rule, attributes) for rule in rules):
                return Decision(True, f"RBAC: allowed by {grant}")
        return Decision(False, f"RBAC: {_listed(problems)}" if problems else "")

    def _names(self, attributes: Attributes) -> _Names:
        """For which names the rules allow it."""
        names: set[str] = set()
        rules, _ = self.index.rules_of(attributes.user, _scope(attributes))
        for rule in rules:
            if not _speaks_of(rule, attributes):
                continue
            if attributes.path or not rule.names:
                return _ANY
            names |= rule.names
        return frozenset(names)

    # Reviews: the answers of the authorization.k8s.io kinds, which are never stored

    def answer_subject_review(self, document: Document) -> Document:
        """A SubjectAccessReview with its status; ApiError 422 if it asks nothing or for nobody."""
        errors = _review_errors(document, asks_for_user=True)
        return self._answer("SubjectAccessReview", document, errors, None)

    def answer_self_review(self, document: Document, user: User) -> Document:
        """A SelfSubjectAccessReview of ``user`` with its status (``kubectl auth can-i``)."""
        errors = _review_errors(document, asks_for_user=False)
        return self._answer("SelfSubjectAccessReview", document, errors, user)

    def answer_local_review(self, document: Document, namespace: str) -> Document:
        """A LocalSubjectAccessReview in ``namespace`` with its status."""
        errors = _review_errors(document, asks_for_user=True)
        spec = document.get("spec") or {}
        asked = (spec.get("resourceAttributes") or {}).get("namespace", "")
        if spec.get("nonResourceAttributes") is not None:
            path = "spec.nonResourceAttributes"
            value = spec["nonResourceAttributes"]
            errors.append(FieldError("Invalid", path, value, "disallowed on this kind of request"))
        elif asked != namespace:
            path = "spec.resourceAttributes.namespace"
            errors.append(FieldError("Invalid", path, asked, "must match metadata.namespace"))
        return self._answer("LocalSubjectAccessReview", document, errors, None)

    def answer_rules_review(self, document: Document, user: User) -> Document:
        """A SelfSubjectRulesReview with all that ``user`` may do in its namespace."""
        namespace = (document.get("spec") or {}).get("namespace", "")
        if not namespace:
            raise bad_request("no namespace on request")
        rules, problems = self.index.rules_of(user, namespace)
        if MASTERS in user.groups:  # may do anything, whatever the bindings say
            anything = frozenset("*")
            rules = [Rule(anything, anything, anything), Rule(anything, urls=anything), *rules]
        parts = [rule.document() for rule in dict.fromkeys(rules)]
        status: Document = {
            "resourceRules": [part for part in parts if "resources" in part],
            "nonResourceRules": [part for part in parts if "nonResourceURLs" in part],
            "incomplete": bool(problems),
        }
        if problems:
            status["evaluationError"] = _listed(problems)
        return {**document, "status": status}

    def _answer(
        self, kind: str, document: Document, errors: list[FieldError], user: User | None
    ) -> Document:
        if errors:
            raise invalid(kind, AUTHORIZATION_GROUP, "", errors)
        spec = document["spec"]
        decision = self.decide(_review_attributes(spec, user or _review_user(spec)))
        status: Document = {"allowed": decision.allowed}
        if decision.reason:
            status["reason"] = decision.reason
        return {**document, "status": status}

    # Escalation

    def confirm_role_write(
        self, user: Requester, document: Document, old: Document | None = None
    ) -> None:
        """ApiError 403 if writing this Role or ClusterRole grants more than ``user`` has.

        ``old`` is what an update replaces: rules that stay as they are need no rights.
        """
        metadata, kind = document["metadata"], document["kind"]
        namespace = metadata.get("namespace", "") if kind == "Role" else ""
        plural, name = _ROLE_PLURALS[kind], metadata.get("name", "")
        if _same(document, old, "rules") and _same(document, old, "aggregationRule"):
            return
        if self.allowed(Attributes(user, "escalate", namespace, GROUP, "", plural, name=name)):
            return
        wanted = [Rule.of(rule) for rule in document.get("rules") or ()]
        if document.get("aggregationRule"):
            everything = frozenset("*")
            full = [Rule(everything, everything, everything), Rule(everything, urls=everything)]
            owned, _ = self.index.rules_of(user, "")
            if missing_rules(owned, full):
                why = "must have cluster-admin privileges to use the aggregationRule"
                raise forbidden(plural, GROUP, name, why)
        self._confirm_owns(user, namespace, wanted, plural, name)

    def confirm_binding_write(
        self, user: Requester, document: Document, old: Document | None = None
    ) -> None:
        """ApiError 403 if this binding grants more than ``user`` has, 404 if its role is missing.

        The verb ``bind`` on the role is an alternative to having all of its rights.
        """
        metadata, reference = document["metadata"], document["roleRef"]
        namespace = metadata.get("namespace", "") if document["kind"] == "RoleBinding" else ""
        if _same(document, old, "subjects") and _same(document, old, "roleRef"):
            return
        role_plural = _ROLE_PLURALS.get(reference["kind"], "")
        bind = Attributes(user, "bind", namespace, GROUP, "", role_plural, name=reference["name"])
        if self.allowed(bind):
            return
        rules = self.index.rules(reference["kind"], reference["name"], namespace)
        if rules is None:
            raise not_found(role_plural, GROUP, reference["name"])
        plural = "rolebindings" if namespace else "clusterrolebindings"
        self._confirm_owns(user, namespace, rules, plural, metadata.get("name", ""))

    def _confirm_owns(
        self, user: Requester, namespace: str, wanted: Iterable[Rule], plural: str, name: str
    ) -> None:
        owned, problems = self.index.rules_of(user, namespace)
        missing = missing_rules(owned, wanted)
        if not missing:
            return
        why = (
            f'user "{user.name}" (groups={quoted(user.groups)}) is attempting to grant RBAC '
            "permissions not currently held:\n" + "\n".join(sorted(map(str, missing)))
        )
        if problems:
            why = f"{why}; resolution errors: {_listed(problems)}"
        raise forbidden(plural, GROUP, name, why)


def _scope(attributes: Attributes) -> str:
    return "" if attributes.path else attributes.namespace


def _speaks_of(rule: Rule, attributes: Attributes) -> bool:
    a = attributes
    if a.path:
        return rule.allows_url(a.verb, a.path)
    return rule.allows_resource(a.verb, a.api_group, a.resource, a.subresource)


def _allows(rule: Rule, attributes: Attributes) -> bool:
    if not _speaks_of(rule, attributes):
        return False
    return bool(attributes.path) or not rule.names or attributes.name in rule.names


def _same(document: Document, old: Document | None, field_name: str) -> bool:
    return old is not None and (document.get(field_name) or None) == (old.get(field_name) or None)


def _listed(problems: list[str]) -> str:
    """An aggregate of errors as Go prints it."""
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"


def _review_errors(document: Document, *, asks_for_user: bool) -> list[FieldError]:
    spec = document.get("spec") or {}
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    errors: list[FieldError] = []
    if resource is not None and path is not None:
        detail = "cannot be specified in combination with resourceAttributes"
        errors.append(FieldError("Invalid", "spec.nonResourceAttributes", path, detail))
    elif resource is None and path is None:
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        errors.append(FieldError("Invalid", "spec.resourceAttributes", None, detail))
    if asks_for_user and not spec.get("user") and not spec.get("groups"):
        detail = "at least one of user or group must be specified"
        errors.append(FieldError("Invalid", "spec.user", spec.get("user", ""), detail))
    return errors


def _review_user(spec: Document) -> User:
    extra = {key.lower(): tuple(values) for key, values in (spec.get("extra") or {}).items()}
    return User(spec.get("user", ""), spec.get("uid", ""), tuple(spec.get("groups") or ()), extra)


def _review_attributes(spec: Document, user: User) -> Attributes:
    path = spec.get("nonResourceAttributes")
    if path is not None:
        return Attributes(user, path.get("verb", ""), path=path.get("path", "") or "/")
    asked = spec["resourceAttributes"]
    return Attributes(
        user,
        asked.get("verb", ""),
        asked.get("namespace", ""),
        asked.get("group", ""),
        asked.get("version", ""),
        asked.get("resource", ""),
        asked.get("subresource", ""),
        asked.get("name", ""),
    )
