"""Bearer tokens: ServiceAccount JWTs as Kubernetes issues and checks them, and static tokens.

A ServiceAccount token is bound: it dies with its ServiceAccount and, if it names one, with its
Pod, Secret or Node. So a check is two: the signature (cached by a hash of the token) and the
objects (looked up each time, which is a few dictionary look-ups). Claims, limits and messages are
those of ``pkg/serviceaccount/claims.go`` and ``pkg/registry/core/serviceaccount/storage/token.go``.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from kubarium.base.chance import Chance
from kubarium.base.clock import Clock, parse_rfc3339, rfc3339
from kubarium.base.errors import ConfigError, FieldError, bad_request, conflict, invalid, not_found
from kubarium.server.authn import (
    TokenError,
    User,
    service_account_groups,
    service_account_username,
)
from kubarium.server.pki import write_private
from kubarium.store import Store

Document = dict[str, Any]

# (plural of a core kind, namespace or "", name) -> the stored object.
Lookup = Callable[[str, str, str], Document | None]

ISSUER = "https://kubernetes.default.svc.cluster.local"
ALGORITHM = "ES256"

DEFAULT_SECONDS = 3600
MIN_SECONDS = 600
MAX_SECONDS = 1 << 32

# How long a token outlives the deletionTimestamp of what it is bound to (clock skew; upstream's
# jwt.DefaultLeeway).
DELETION_LEEWAY_S = 60.0

# Verified tokens remembered; a cluster's pods hold about one each, and one entry is about 1 kB.
CACHED_TOKENS = 4_096

# Bytes of a token that is looked at; the longest that we issue is under 2 kB.
MAX_TOKEN_BYTES = 16 * 1024

CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
_EXTRA = "authentication.kubernetes.io/{}-{}"
_BOUND_PLURALS = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


def store_lookup(store: Store) -> Lookup:
    """Look objects of the core group up in ``store``."""

    def lookup(plural: str, namespace: str, name: str) -> Document | None:
        record = store.get(f"/core/{plural}/{namespace or '-'}/{name}")
        return record.value if record else None

    return lookup


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A signed token, and when it ends in seconds since the epoch."""

    token: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class BoundObject:
    """What a token dies with, besides its ServiceAccount. ``kind``: Pod, Secret or Node."""

    kind: str
    name: str
    uid: str


class ServiceAccountTokens:
    """Issues and verifies ServiceAccount tokens (``authn.TokenAuthenticator``)."""

    def __init__(
        self,
        key_pem: bytes,
        lookup: Lookup,
        clock: Clock,
        chance: Chance,
        *,
        issuer: str = ISSUER,
        audiences: Sequence[str] = (),
    ) -> None:
        """``audiences`` are the API server's own names; by default the issuer."""
        self._key = ECKey.import_key(key_pem)
        self._key_id = self._key.thumbprint()
        self._lookup = lookup
        self._clock = clock
        self._chance = chance
        self.issuer = issuer
        self.audiences = tuple(audiences) or (issuer,)
        self._verified: OrderedDict[bytes, Mapping[str, Any]] = OrderedDict()

    # Issuing

    def issue(
        self,
        service_account: Document,
        *,
        audiences: Sequence[str] = (),
        seconds: int = DEFAULT_SECONDS,
        bound: BoundObject | None = None,
        node: tuple[str, str] | None = None,
    ) -> IssuedToken:
        """Sign a token for ``service_account``, valid from now for ``seconds``.

        ``node`` is the (name, uid) of the node that the bound Pod runs on.
        """
        metadata = service_account["metadata"]
        now = int(self._clock.now())
        private: Document = {
            "namespace": metadata["namespace"],
            "serviceaccount": _reference(metadata["name"], metadata.get("uid", "")),
        }
        if bound is not None:
            private[bound.kind.lower()] = _reference(bound.name, bound.uid)
        if node is not None:
            private["node"] = _reference(*node)
        claims = {
            "aud": list(audiences) or list(self.audiences),
            "exp": now + seconds,
            "iat": now,
            "iss": self.issuer,
            "jti": self._chance.uid(),
            "kubernetes.io": private,
            "nbf": now,
            "sub": service_account_username(metadata["namespace"], metadata["name"]),
        }
        header = {"alg": ALGORITHM, "kid": self._key_id}
        token = jws.serialize_compact(header, orjson.dumps(claims), self._key, [ALGORITHM])
        return IssuedToken(token, float(now + seconds))

    def answer_request(self, request: Document, namespace: str, name: str) -> Document:
        """The TokenRequest ``request`` for a ServiceAccount, with its status filled in.

        ApiError 404 if the account is not there, 400, 409 or 422 if the request is not right.
        """
        account = self._lookup("serviceaccounts", namespace, name)
        if account is None:
            raise not_found("serviceaccounts", "", name)
        spec = request.get("spec") or {}
        seconds = _requested_seconds(spec, (request.get("metadata") or {}).get("name", ""))
        bound, node = self._requested_binding(spec, account)
        audiences = list(spec.get("audiences") or self.audiences)
        issued = self.issue(account, audiences=audiences, seconds=seconds, bound=bound, node=node)
        return {
            **request,
            "metadata": {
                **(request.get("metadata") or {}),
                "name": name,
                "namespace": namespace,
                "creationTimestamp": rfc3339(self._clock.now()),
            },
            "spec": {**spec, "audiences": audiences, "expirationSeconds": seconds},
            "status": {
                "token": issued.token,
                "expirationTimestamp": rfc3339(issued.expires_at),
            },
        }

    def _requested_binding(
        self, spec: Document, account: Document
    ) -> tuple[BoundObject | None, tuple[str, str] | None]:
        reference = spec.get("boundObjectRef")
        if not reference:
            return None, None
        kind, name = reference.get("kind", ""), reference.get("name", "")
        plural = _BOUND_PLURALS.get(kind)
        if plural is None or reference.get("apiVersion", "v1") != "v1":
            group = reference.get("apiVersion", "")
            raise bad_request(f"cannot bind token for {group}/{kind}: only v1 Pod, Secret or Node")
        namespace = "" if kind == "Node" else account["metadata"]["namespace"]
        held = self._lookup(plural, namespace, name)
        if held is None:
            raise not_found(plural, "", name)
        uid = held["metadata"].get("uid", "")
        if reference.get("uid") and reference["uid"] != uid:
            why = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the "
                f"UID in record. The object might have been deleted and then recreated"
            )
            raise conflict(plural, "", name, why)
        return BoundObject(kind, name, uid), self._node_of(account, held) if kind == "Pod" else None

    def _node_of(self, account: Document, pod: Document) -> tuple[str, str] | None:
        """The pod's node, for the node claim; ApiError 400 if the pod is another account's."""
        spec = pod.get("spec") or {}
        wanted = account["metadata"]["name"]
        if spec.get("serviceAccountName", "") != wanted:
            raise bad_request(
                f"cannot bind token for serviceaccount {wanted!r} to pod running with different "
                f"serviceaccount name.".replace("'", '"')
            )
        node = self._lookup("nodes", "", spec.get("nodeName", "")) if spec.get("nodeName") else None
        return (node["metadata"]["name"], node["metadata"].get("uid", "")) if node else None

    # Verifying

    def authenticate_token(
        self, token: str, audiences: Sequence[str]
    ) -> tuple[User, tuple[str, ...]] | None:
        """See ``authn.TokenAuthenticator``. Not ours: no JWT, or one of another issuer."""
        claims = self._claims(token)
        if claims is None:
            return None
        self._check_times(claims)
        wanted = tuple(audiences) or self.audiences
        agreed = tuple(name for name in wanted if name in _audiences_of(claims))
        if not agreed:
            raise TokenError(
                f"token audiences {_quoted(_audiences_of(claims))} is invalid for the target "
                f"audiences {_quoted(wanted)}"
            )
        return self._user(claims), agreed

    def _claims(self, token: str) -> Mapping[str, Any] | None:
        """The claims of a token that we have signed; TokenError if it only says that we have."""
        digest = sha256(token.encode("utf-8", "replace")).digest()
        claims = self._verified.get(digest)
        if claims is not None:
            self._verified.move_to_end(digest)
            return claims
        if len(token) > MAX_TOKEN_BYTES or _unverified(token).get("iss") != self.issuer:
            return None
        try:
            claims = orjson.loads(jws.deserialize_compact(token, self._key, [ALGORITHM]).payload)
        except (JoseError, ValueError) as error:
            raise TokenError("invalid bearer token: its signature is not this cluster's") from error
        assert isinstance(claims, dict)  # _unverified found an issuer in it
        self._verified[digest] = claims
        while len(self._verified) > CACHED_TOKENS:
            self._verified.popitem(last=False)
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock.now()
        if now >= claims.get("exp", 0):
            raise TokenError("service account token has expired")
        if now < claims.get("nbf", 0):
            raise TokenError("service account token is not valid yet")

    def _user(self, claims: Mapping[str, Any]) -> User:
        private: Mapping[str, Any] = claims["kubernetes.io"]
        namespace, account = private["namespace"], private["serviceaccount"]
        self._check_held("serviceaccounts", namespace, account, "service account")
        extra = {CREDENTIAL_ID: (f"JTI={claims['jti']}",)}
        for kind in ("pod", "secret", "node"):
            reference = private.get(kind)
            if reference is None:
                continue
            if kind != "node" or "pod" not in private:  # the node of a pod is information only
                scope = "" if kind == "node" else namespace
                self._check_held(f"{kind}s", scope, reference, kind)
            if kind != "secret":
                extra[_EXTRA.format(kind, "name")] = (reference["name"],)
                extra[_EXTRA.format(kind, "uid")] = (reference["uid"],)
        return User(
            service_account_username(namespace, account["name"]),
            account["uid"],
            service_account_groups(namespace),
            extra,
        )

    def _check_held(
        self, plural: str, namespace: str, reference: Mapping[str, str], what: str
    ) -> None:
        """TokenError unless the object is there, is the same one, and is not long deleted."""
        held = self._lookup(plural, namespace, reference["name"])
        if held is None:
            raise TokenError(
                f"service account token has been invalidated: {plural} {reference['name']} is gone"
            )
        metadata = held["metadata"]
        if metadata.get("uid", "") != reference["uid"]:
            claim = "claim" if plural == "serviceaccounts" else f"service account {what} ref claim"
            uid = metadata.get("uid", "")
            raise TokenError(f"{what} UID ({uid}) does not match {claim} ({reference['uid']})")
        deleted = metadata.get("deletionTimestamp")
        if deleted and parse_rfc3339(deleted) < self._clock.now() - DELETION_LEEWAY_S:
            raise TokenError("service account token has been invalidated")

    # OpenID discovery, for those who check our tokens elsewhere

    def openid_configuration(self, jwks_uri: str) -> Document:
        """``/.well-known/openid-configuration``."""
        return {
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        }

    def key_set(self) -> Document:
        """``/openid/v1/jwks``: the public key."""
        public = self._key.as_dict(private=False)
        return {"keys": [{**public, "use": "sig", "alg": ALGORITHM, "kid": self._key_id}]}


class StaticTokens:
    """Tokens that name a user for good (``authn.TokenAuthenticator``): the admin's, in tests."""

    def __init__(self, users: Mapping[str, User]) -> None:
        # By hash, so that how long a look-up takes says nothing about how much of a guess fits.
        self._users = {sha256(token.encode()).digest(): user for token, user in users.items()}

    def authenticate_token(
        self, token: str, audiences: Sequence[str]
    ) -> tuple[User, tuple[str, ...]] | None:
        """See ``authn.TokenAuthenticator``. Static tokens know no audience."""
        user = self._users.get(sha256(token.encode("utf-8", "replace")).digest())
        return (user, ()) if user else None


def stored_token(path: Path) -> str:
    """The secret token in ``path`` (0600), made there if there is none; ConfigError if unusable."""
    try:
        if path.exists():
            token = path.read_text().strip()
        else:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            token = secrets.token_urlsafe(32)
            write_private(path, token.encode() + b"\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot keep the admin's token here: {error}") from error
    if len(token) < 16 or any(character.isspace() for character in token):
        raise ConfigError(
            f"{path}: not a token (one word of 16 characters or more). Remove the file to have a "
            "new one made"
        )
    return token


def _reference(name: str, uid: str) -> Document:
    return {"name": name, "uid": uid}


def _requested_seconds(spec: Document, name: str) -> int:
    seconds = spec.get("expirationSeconds")
    if seconds is None:
        return DEFAULT_SECONDS
    path, detail = "spec.expirationSeconds", ""
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        detail = "must be an integer"
    elif seconds < MIN_SECONDS:
        detail = "may not specify a duration less than 10 minutes"
    elif seconds > MAX_SECONDS:
        detail = "may not specify a duration larger than 2^32 seconds"
    if detail:
        error = FieldError("Invalid", path, seconds, detail)
        raise invalid("TokenRequest", "authentication.k8s.io", name, [error])
    return int(seconds)


def _audiences_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    audience = claims.get("aud", ())
    return (audience,) if isinstance(audience, str) else tuple(audience)


def _quoted(names: Sequence[str]) -> str:
    """Go's ``%q`` of a list of strings."""
    return "[" + " ".join(f'"{name}"' for name in names) + "]"


def _unverified(token: str) -> Document:
    """The claims that a token makes, to see whose it might be; {} if it is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
