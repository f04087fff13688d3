"""Who is asking: from a client certificate, a bearer token and impersonation headers to a User.

The order is the API server's: a certificate that TLS has verified wins; else a bearer token, which
must then be good (a bad one is 401, never anonymous); else ``system:anonymous``. Tokens are checked
by :class:`TokenAuthenticator` objects (``tokens.py`` has two), so that this module needs no
cryptography.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import unquote

from kubarium.base.clock import rfc3339
from kubarium.base.errors import bad_request, unauthorized

Document = dict[str, Any]
Headers = Iterable[tuple[bytes, bytes]]  # as ASGI gives them: names in lower case
PeerCertificate = Mapping[str, Any]  # as ssl.SSLObject.getpeercert() gives it

ANONYMOUS = "system:anonymous"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
MASTERS = "system:masters"
SERVICE_ACCOUNTS = "system:serviceaccounts"
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
AUTHENTICATION_GROUP = "authentication.k8s.io"


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated identity (``user.Info``). Extra keys are lower case."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def document(self) -> Document:
        """As a ``UserInfo`` of a TokenReview or SelfSubjectReview."""
        info: Document = {"username": self.name}
        if self.uid:
            info["uid"] = self.uid
        if self.groups:
            info["groups"] = list(self.groups)
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info


class TokenError(Exception):
    """A bearer token is ours but not good; the text says why (a TokenReview shows it)."""


class TokenAuthenticator(Protocol):
    def authenticate_token(
        self, token: str, audiences: Sequence[str]
    ) -> tuple[User, tuple[str, ...]] | None:
        """The token's user and those of ``audiences`` it is for; None if it is not of this kind.

        Empty ``audiences`` mean the API server itself. TokenError if it is of this kind and bad.
        """
        ...


# (user, verb, API group, resource, subresource, namespace, name): raises ApiError 403 if denied.
ConfirmAccess = Callable[[User, str, str, str, str, str, str], None]


def service_account_username(namespace: str, name: str) -> str:
    """``system:serviceaccount:default:builder``."""
    return f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"


def split_service_account(username: str) -> tuple[str, str] | None:
    """(namespace, name) of a ServiceAccount's user name, else None."""
    if not username.startswith(SERVICE_ACCOUNT_PREFIX):
        return None
    namespace, colon, name = username.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
    return (namespace, name) if colon and namespace and name and ":" not in name else None


def service_account_groups(namespace: str) -> tuple[str, ...]:
    """The groups that every ServiceAccount of ``namespace`` is in."""
    return (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}")


def certificate_user(certificate: PeerCertificate) -> User | None:
    """Common name and organisations of a verified client certificate; None without a name."""
    parts = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
    names = [value for kind, value in parts if kind == "commonName"]
    if not names or not names[0]:
        return None
    groups = tuple(value for kind, value in parts if kind == "organizationName")
    return User(names[0], groups=groups)


class Authenticator:
    """Answers "who?" for each request. ``confirm`` is asked before somebody acts for another."""

    def __init__(
        self,
        tokens: Sequence[TokenAuthenticator],
        confirm: ConfirmAccess,
        *,
        allow_anonymous: bool = True,
    ) -> None:
        self._tokens = tuple(tokens)
        self._confirm = confirm
        self._allow_anonymous = allow_anonymous

    def authenticate(self, headers: Headers, certificate: PeerCertificate | None = None) -> User:
        """The user in whose name the request acts; ApiError 401, 403 (impersonation) or 400."""
        bearer = ""
        impersonation: list[tuple[str, str]] = []
        for name, value in headers:
            if name == b"authorization":
                bearer = _bearer(value)
            elif name.startswith(b"impersonate-"):
                impersonation.append((name.decode("latin-1"), value.decode("latin-1")))
        user = self._identify(bearer, certificate)
        return self._impersonate(user, impersonation) if impersonation else user

    def holder(self, headers: Headers, audience: str) -> User | None:
        """Whose bearer token this is, if it is good for ``audience``; else None."""
        bearer = next((_bearer(v) for name, v in headers if name == b"authorization"), "")
        try:
            found = authenticate_token(self._tokens, bearer, (audience,)) if bearer else None
        except TokenError:
            return None
        return found[0] if found and audience in found[1] else None

    def _identify(self, bearer: str, certificate: PeerCertificate | None) -> User:
        user = certificate_user(certificate) if certificate else None
        if user is None and bearer:
            try:
                found = authenticate_token(self._tokens, bearer, ())
            except TokenError:
                raise unauthorized() from None  # the reason is not told to whoever holds it
            if found is None:
                raise unauthorized()
            user = found[0]
        if user is not None:
            return _in_standard_groups(user)
        if not self._allow_anonymous:
            raise unauthorized()
        return User(ANONYMOUS, groups=(UNAUTHENTICATED,))

    def _impersonate(self, user: User, headers: list[tuple[str, str]]) -> User:
        wanted = impersonated_user(headers)
        account = split_service_account(wanted.name)
        if account:
            self._confirm(user, "impersonate", "", "serviceaccounts", "", *account)
        else:
            self._confirm(user, "impersonate", "", "users", "", "", wanted.name)
        for group in wanted.groups:
            self._confirm(user, "impersonate", "", "groups", "", "", group)
        if wanted.uid:
            self._confirm(user, "impersonate", AUTHENTICATION_GROUP, "uids", "", "", wanted.uid)
        for key, values in wanted.extra.items():
            for value in values:
                self._confirm(
                    user, "impersonate", AUTHENTICATION_GROUP, "userextras", key, "", value
                )
        if account and not wanted.groups:
            wanted = replace(wanted, groups=service_account_groups(account[0]))
        return _in_standard_groups(wanted)


def impersonated_user(headers: Iterable[tuple[str, str]]) -> User:
    """The user that Impersonate-* headers (names in lower case) ask for; ApiError 400."""
    name = uid = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    for header, value in headers:
        if header == "impersonate-user":
            name = value
        elif header == "impersonate-uid":
            uid = value
        elif header == "impersonate-group":
            groups.append(value)
        elif header.startswith("impersonate-extra-"):
            key = unquote(header.removeprefix("impersonate-extra-"))
            extra.setdefault(key, []).append(value)
    if not name:
        asked = ", ".join(sorted({header for header, _ in headers}))
        raise bad_request(
            f"impersonation needs the header Impersonate-User; the request has {asked}"
        )
    return User(name, uid, tuple(groups), {key: tuple(values) for key, values in extra.items()})


def authenticate_token(
    authenticators: Iterable[TokenAuthenticator], token: str, audiences: Sequence[str]
) -> tuple[User, tuple[str, ...]] | None:
    """What the first to accept ``token`` says; TokenError if none did, but one knew it."""
    failure: TokenError | None = None
    for authenticator in authenticators:
        try:
            found = authenticator.authenticate_token(token, audiences)
        except TokenError as error:
            failure = error
            continue
        if found is not None:
            return found
    if failure is not None:
        raise failure
    return None


def review_token(document: Document, authenticators: Iterable[TokenAuthenticator]) -> Document:
    """A TokenReview with its status filled in; ApiError 422 if there is no token to review."""
    spec = document.get("spec") or {}
    token, audiences = spec.get("token", ""), tuple(spec.get("audiences") or ())
    if not token:
        # Upstream answers 400 with this very text (registry/authentication/tokenreview).
        raise bad_request("token is required for TokenReview in authentication")
    status: Document = {"user": {}}
    try:
        found = authenticate_token(authenticators, token, audiences)
    except TokenError as error:
        found = None
        status["error"] = str(error)
    if found is not None:
        user, agreed = found
        status = {"authenticated": True, "user": _in_standard_groups(user).document()}
        if agreed:
            status["audiences"] = list(agreed)
    return {**document, "status": status}


def review_self(user: User, now: float) -> Document:
    """The answer to a SelfSubjectReview (``kubectl auth whoami``)."""
    return {
        "apiVersion": f"{AUTHENTICATION_GROUP}/v1",
        "kind": "SelfSubjectReview",
        "metadata": {"creationTimestamp": rfc3339(now)},
        "status": {"userInfo": user.document()},
    }


def _bearer(value: bytes) -> str:
    """The token of an Authorization header; "" for any other scheme, which upstream ignores."""
    scheme, _, token = value.decode("latin-1").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _in_standard_groups(user: User) -> User:
    """With ``system:authenticated``; an anonymous user with ``system:unauthenticated`` instead."""
    group = UNAUTHENTICATED if user.name == ANONYMOUS else AUTHENTICATED
    if AUTHENTICATED in user.groups or UNAUTHENTICATED in user.groups:
        return user
    return replace(user, groups=(*user.groups, group))
