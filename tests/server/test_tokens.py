"""ServiceAccount tokens: upstream's claims, and death together with what they are bound to."""

import base64
import json

import pytest

from kubarium.base.chance import Chance
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError, ConfigError
from kubarium.server import tokens as tokens_module
from kubarium.server.authn import TokenError, User
from kubarium.server.pki import Authority
from kubarium.server.tokens import (
    ISSUER,
    BoundObject,
    ServiceAccountTokens,
    StaticTokens,
    store_lookup,
    stored_token,
)
from kubarium.store import MemoryStore

NOW = 1_800_000_000.0


class SetClock:
    time = NOW

    def now(self):
        return self.time

    def monotonic(self):
        return self.time

    async def sleep(self, seconds):
        self.time += seconds


def write(store, plural, name, namespace="", uid="", **rest):
    metadata = {"name": name, "uid": uid or f"uid-{name}", **rest.pop("metadata", {})}
    if namespace:
        metadata["namespace"] = namespace
    store.put(f"/core/{plural}/{namespace or '-'}/{name}", {"metadata": metadata, **rest})


def remove(store, plural, name, namespace="dev"):
    store.delete(f"/core/{plural}/{namespace}/{name}")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return Authority.open(tmp_path_factory.mktemp("pki"), SetClock()).service_account_key()


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def store():
    store = MemoryStore()
    write(store, "serviceaccounts", "builder", "dev")
    write(store, "nodes", "n1")
    spec = {"serviceAccountName": "builder", "nodeName": "n1"}
    write(store, "pods", "web", "dev", spec=spec)
    write(store, "secrets", "s", "dev")
    return store


@pytest.fixture
def tokens(key, store, clock):
    return ServiceAccountTokens(key, store_lookup(store), clock, Chance(1))


def account(store):
    return store.get("/core/serviceaccounts/dev/builder").value


def ask(tokens, **spec):
    return tokens.answer_request({"kind": "TokenRequest", "spec": spec}, "dev", "builder")


def claims_of(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_claims_are_upstreams(tokens, store):
    bound = BoundObject("Pod", "web", "uid-web")
    issued = tokens.issue(account(store), seconds=700, bound=bound, node=("n1", "uid-n1"))
    claims = claims_of(issued.token)
    jti = claims.pop("jti")
    assert len(jti) == 36
    assert claims == {
        "aud": [ISSUER],
        "exp": NOW + 700,
        "iat": NOW,
        "iss": ISSUER,
        "nbf": NOW,
        "sub": "system:serviceaccount:dev:builder",
        "kubernetes.io": {
            "namespace": "dev",
            "serviceaccount": {"name": "builder", "uid": "uid-builder"},
            "pod": {"name": "web", "uid": "uid-web"},
            "node": {"name": "n1", "uid": "uid-n1"},
        },
    }
    assert issued.expires_at == NOW + 700


def test_a_good_token_is_the_service_account(tokens, store):
    issued = tokens.issue(account(store), bound=BoundObject("Pod", "web", "uid-web"))
    user, audiences = tokens.authenticate_token(issued.token, ())
    jti = claims_of(issued.token)["jti"]
    assert user == User(
        "system:serviceaccount:dev:builder",
        "uid-builder",
        ("system:serviceaccounts", "system:serviceaccounts:dev"),
        {
            "authentication.kubernetes.io/credential-id": (f"JTI={jti}",),
            "authentication.kubernetes.io/pod-name": ("web",),
            "authentication.kubernetes.io/pod-uid": ("uid-web",),
        },
    )
    assert audiences == (ISSUER,)


def test_a_token_request_is_answered_as_upstream_does(tokens):
    answer = ask(tokens, boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "web"})
    assert answer["spec"]["expirationSeconds"] == 3600
    assert answer["spec"]["audiences"] == [ISSUER]
    assert answer["status"]["expirationTimestamp"] == rfc3339(NOW + 3600)
    assert (answer["metadata"]["name"], answer["metadata"]["namespace"]) == ("builder", "dev")
    private = claims_of(answer["status"]["token"])["kubernetes.io"]
    assert private["node"] == {"name": "n1", "uid": "uid-n1"}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: remove(s, "serviceaccounts", "builder"), "serviceaccounts builder is gone"),
        (
            lambda s: write(s, "serviceaccounts", "builder", "dev", "again"),
            r"service account UID \(again\) does not match claim \(uid-builder\)",
        ),
        (lambda s: remove(s, "pods", "web"), "pods web is gone"),
        (
            lambda s: write(s, "pods", "web", "dev", "again"),
            r"pod UID \(again\) does not match service account pod ref claim \(uid-web\)",
        ),
        (
            lambda s: write(
                s, "pods", "web", "dev", metadata={"deletionTimestamp": rfc3339(NOW - 61)}
            ),
            "has been invalidated",
        ),
    ],
)
def test_a_token_dies_with_what_it_is_bound_to(tokens, store, change, message, warm):
    bound = BoundObject("Pod", "web", "uid-web")
    token = tokens.issue(account(store), bound=bound).token
    if warm:
        assert tokens.authenticate_token(token, ())
    change(store)
    with pytest.raises(TokenError, match=message):
        tokens.authenticate_token(token, ())


def test_a_pod_that_is_just_being_deleted_may_still_speak(tokens, store):
    token = tokens.issue(account(store), bound=BoundObject("Pod", "web", "uid-web")).token
    write(store, "pods", "web", "dev", metadata={"deletionTimestamp": rfc3339(NOW - 59)})
    assert tokens.authenticate_token(token, ())


@pytest.mark.parametrize(("kind", "name"), [("Secret", "s"), ("Node", "n1")])
def test_other_bindings(tokens, store, kind, name):
    answer = ask(tokens, boundObjectRef={"kind": kind, "apiVersion": "v1", "name": name})
    token = answer["status"]["token"]
    assert tokens.authenticate_token(token, ())
    plural, namespace = ("secrets", "dev") if kind == "Secret" else ("nodes", "-")
    remove(store, plural, name, namespace)
    with pytest.raises(TokenError, match=f"{plural} {name} is gone"):
        tokens.authenticate_token(token, ())


def test_times_are_checked_also_on_cached_tokens(tokens, store, clock):
    token = tokens.issue(account(store), seconds=600).token
    assert tokens.authenticate_token(token, ())
    clock.time += 600
    with pytest.raises(TokenError, match="has expired"):
        tokens.authenticate_token(token, ())
    clock.time = NOW - 1
    with pytest.raises(TokenError, match="not valid yet"):
        tokens.authenticate_token(token, ())


def test_audience_must_be_ours_or_the_one_asked_for(tokens, store):
    token = tokens.issue(account(store), audiences=["vault", "db"]).token
    with pytest.raises(TokenError, match=r'token audiences \["vault" "db"\] is invalid'):
        tokens.authenticate_token(token, ())
    assert tokens.authenticate_token(token, ("db", "mail"))[1] == ("db",)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_changed_token_is_not_accepted(tokens, store, part):
    parts = tokens.issue(account(store)).token.split(".")
    for at in range(3, len(parts[part]) - 1, 7):
        old = parts[part]
        changed = old[:at] + ("A" if old[at] != "A" else "B") + old[at + 1 :]
        forged = ".".join([*parts[:part], changed, *parts[part + 1 :]])
        assert authenticated(tokens, forged) is None


def authenticated(tokens, token):
    try:
        return tokens.authenticate_token(token, ())
    except TokenError:
        return None


def test_unsigned_and_foreign_key_tokens_are_refused(tokens, store, tmp_path):
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    body = tokens.issue(account(store)).token.split(".")[1]
    with pytest.raises(TokenError, match="signature"):
        tokens.authenticate_token(f"{header}.{body}.", ())
    stranger = ServiceAccountTokens(
        Authority.open(tmp_path, SetClock()).service_account_key(),
        store_lookup(store),
        SetClock(),
        Chance(2),
    )
    with pytest.raises(TokenError, match="signature"):
        tokens.authenticate_token(stranger.issue(account(store)).token, ())


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.e30.c", "....", "é.é.é", "x" * 100_000])
def test_what_is_no_token_of_ours_is_left_to_others(tokens, token):
    assert tokens.authenticate_token(token, ()) is None


def test_the_cache_is_bounded(tokens, store, monkeypatch):
    monkeypatch.setattr(tokens_module, "CACHED_TOKENS", 3)
    issued = [tokens.issue(account(store)).token for _ in range(5)]
    for token in issued * 2:
        assert tokens.authenticate_token(token, ())
        assert len(tokens._verified) <= 3


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (599, "may not specify a duration less than 10 minutes"),
        (2**33, "may not specify a duration larger than 2\\^32 seconds"),
        ("1h", "must be an integer"),
    ],
)
def test_bad_durations(tokens, seconds, message):
    with pytest.raises(ApiError, match=rf"spec\.expirationSeconds: Invalid value: .*{message}"):
        ask(tokens, expirationSeconds=seconds)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ({"kind": "Pod", "name": "gone"}, 404),
        ({"kind": "Job", "name": "j"}, 400),
        ({"kind": "Pod", "apiVersion": "v2", "name": "web"}, 400),
        ({"kind": "Pod", "name": "web", "uid": "other"}, 409),
    ],
)
def test_bad_bindings(tokens, reference, code):
    with pytest.raises(ApiError) as caught:
        ask(tokens, boundObjectRef=reference)
    assert caught.value.code == code


def test_a_pod_of_another_account_cannot_be_bound(tokens, store):
    write(store, "pods", "web", "dev", spec={"serviceAccountName": "default"})
    with pytest.raises(ApiError, match='"builder" to pod running with different') as caught:
        ask(tokens, boundObjectRef={"kind": "Pod", "name": "web"})
    assert caught.value.code == 400


def test_no_account_no_token(tokens):
    with pytest.raises(ApiError, match='serviceaccounts "ghost" not found'):
        tokens.answer_request({}, "dev", "ghost")


def test_the_published_key_verifies_our_tokens(tokens, store):
    from joserfc import jwt
    from joserfc.jwk import KeySet

    keys = tokens.key_set()
    assert "d" not in keys["keys"][0]
    token = tokens.issue(account(store)).token
    decoded = jwt.decode(token, KeySet.import_key_set(keys), ["ES256"])
    assert decoded.claims["sub"] == "system:serviceaccount:dev:builder"
    assert tokens.openid_configuration("https://x/openid/v1/jwks")["issuer"] == ISSUER


def test_static_tokens():
    admin = User("admin", groups=("system:masters",))
    static = StaticTokens({"secret-token": admin})
    assert static.authenticate_token("secret-token", ()) == (admin, ())
    assert static.authenticate_token("secret-toke", ()) is None


def test_the_stored_token_is_kept_and_private(tmp_path):
    path = tmp_path / "state" / "admin.token"
    token = stored_token(path)
    assert stored_token(path) == token
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("short")
    with pytest.raises(ConfigError, match=r"admin\.token: not a token"):
        stored_token(path)
