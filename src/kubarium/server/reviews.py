"""Kinds that are answered and never stored: access reviews, token reviews, legacy bindings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kubarium.api.catalog import Kind
from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.base.errors import bad_request, method_not_allowed
from kubarium.server.authn import TokenAuthenticator, User, review_self, review_token
from kubarium.server.authz import Authorizer
from kubarium.server.registry import Registry
from kubarium.server.requests import Call, Requester

# (kind of pods, namespace, pod's name, Binding, call): what pods/binding does.
Bind = Callable[[Kind, str, str, Document, Call], Document]


def as_user(user: Requester) -> User:
    """Whoever asks, as a value of ``authn``."""
    return user if isinstance(user, User) else User(user.name, user.uid, user.groups, user.extra)


class Reviews:
    """Answers ``create`` of the kinds that exist only for the call."""

    def __init__(
        self,
        registry: Registry,
        authorizer: Authorizer,
        tokens: Sequence[TokenAuthenticator],
        bind: Bind,
    ) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._tokens = tokens
        self._bind_pod = bind

    def create(self, kind: Kind, document: Document, namespace: str, call: Call) -> Document:
        """The document with its status filled in. ApiError 400, 405 or 422."""
        user, authorizer = as_user(call.user), self._authorizer
        document.setdefault("metadata", {})
        match kind.resource.plural:
            case "selfsubjectaccessreviews":
                return authorizer.answer_self_review(document, user)
            case "subjectaccessreviews":
                return authorizer.answer_subject_review(document)
            case "localsubjectaccessreviews":
                return authorizer.answer_local_review(document, namespace)
            case "selfsubjectrulesreviews":
                return authorizer.answer_rules_review(document, user)
            case "tokenreviews":
                return review_token(document, self._tokens)
            case "selfsubjectreviews":
                return review_self(user, self._registry.clock.now())
            case "bindings":
                return self._bind(document, namespace, call)
        raise method_not_allowed("create", kind.resource.plural, kind.resource.group)

    def _bind(self, document: Document, namespace: str, call: Call) -> Document:
        """``POST .../bindings``: the pod's name is the binding's."""
        name = document["metadata"].get("name", "")
        if not name:
            raise bad_request("name is required")
        pods = self._registry.kind_of(PODS.group, PODS.version, PODS.plural)
        return self._bind_pod(pods, namespace, name, document, call)
