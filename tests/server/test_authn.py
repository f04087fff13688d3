"""Who is asking: certificates before tokens, bad tokens never anonymous, acting for others."""

import pytest

from kubarium.base.errors import ApiError, forbidden
from kubarium.server.authn import (
    Authenticator,
    TokenError,
    User,
    certificate_user,
    review_self,
    review_token,
    split_service_account,
)

CERTIFICATE = {
    "subject": (
        (("organizationName", "team-a"),),
        (("organizationName", "team-b"),),
        (("commonName", "alice"),),
    )
}


class Tokens:
    """Knows "good", "bad" and nothing else."""

    def authenticate_token(self, token, audiences):
        if token == "bad":
            raise TokenError("the token has expired")
        return (User("bob", "u1", ("devs",)), tuple(audiences)) if token == "good" else None


class Confirm:
    """Remembers what it was asked, and denies what is named."""

    def __init__(self, denied=()):
        self.asked = []
        self.denied = denied

    def __call__(self, user, verb, group, resource, subresource, namespace, name):
        self.asked.append((user.name, verb, group, resource, subresource, namespace, name))
        if name in self.denied:
            raise forbidden(resource, group, name, "no")


def authenticate(*headers, certificate=None, confirm=None, **options):
    authenticator = Authenticator([Tokens()], confirm or Confirm(), **options)
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    return authenticator.authenticate(encoded, certificate)


def test_a_certificate_is_its_common_name_and_organisations():
    user = authenticate(certificate=CERTIFICATE)
    assert user == User("alice", groups=("team-a", "team-b", "system:authenticated"))


def test_a_certificate_wins_over_a_token():
    assert authenticate(("Authorization", "Bearer bad"), certificate=CERTIFICATE).name == "alice"


def test_a_certificate_without_a_name_is_nobodys():
    assert certificate_user({"subject": ((("organizationName", "x"),),)}) is None
    assert authenticate(certificate={"subject": ()}).name == "system:anonymous"


@pytest.mark.parametrize("header", ["Bearer good", "bearer good", "  Bearer   good "])
def test_a_good_token(header):
    user = authenticate(("Authorization", header))
    assert user == User("bob", "u1", ("devs", "system:authenticated"))


@pytest.mark.parametrize("header", ["Bearer bad", "Bearer unknown"])
def test_a_bad_token_is_401_and_never_anonymous(header):
    with pytest.raises(ApiError) as caught:
        authenticate(("Authorization", header))
    assert (caught.value.code, caught.value.message) == (401, "Unauthorized")


@pytest.mark.parametrize("headers", [(), (("Authorization", "Basic Zm9v"),)])
def test_nobody_is_anonymous(headers):
    assert authenticate(*headers) == User("system:anonymous", groups=("system:unauthenticated",))
    with pytest.raises(ApiError) as caught:
        authenticate(*headers, allow_anonymous=False)
    assert caught.value.code == 401


def test_acting_for_another_asks_for_each_part():
    confirm = Confirm()
    user = authenticate(
        ("Authorization", "Bearer good"),
        ("Impersonate-User", "carol"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Group", "qa"),
        ("Impersonate-Uid", "u9"),
        ("Impersonate-Extra-Acme.com%2Fproject", "p1"),
        ("Impersonate-Extra-Acme.com%2Fproject", "p2"),
        confirm=confirm,
    )
    groups = ("ops", "qa", "system:authenticated")
    assert user == User("carol", "u9", groups, {"acme.com/project": ("p1", "p2")})
    extra = ("authentication.k8s.io", "userextras", "acme.com/project", "")
    assert confirm.asked == [
        ("bob", "impersonate", "", "users", "", "", "carol"),
        ("bob", "impersonate", "", "groups", "", "", "ops"),
        ("bob", "impersonate", "", "groups", "", "", "qa"),
        ("bob", "impersonate", "authentication.k8s.io", "uids", "", "", "u9"),
        ("bob", "impersonate", *extra, "p1"),
        ("bob", "impersonate", *extra, "p2"),
    ]


def test_acting_for_a_service_account_brings_its_groups():
    confirm = Confirm()
    user = authenticate(
        ("Authorization", "Bearer good"),
        ("Impersonate-User", "system:serviceaccount:dev:builder"),
        confirm=confirm,
    )
    assert confirm.asked == [("bob", "impersonate", "", "serviceaccounts", "", "dev", "builder")]
    assert user.groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:dev",
        "system:authenticated",
    )


def test_acting_as_anonymous_is_unauthenticated():
    user = authenticate(("Authorization", "Bearer good"), ("Impersonate-User", "system:anonymous"))
    assert user.groups == ("system:unauthenticated",)


def test_one_part_denied_denies_all():
    with pytest.raises(ApiError) as caught:
        authenticate(
            ("Authorization", "Bearer good"),
            ("Impersonate-User", "carol"),
            ("Impersonate-Group", "system:masters"),
            confirm=Confirm(denied=("system:masters",)),
        )
    assert caught.value.code == 403


def test_groups_without_a_user_are_a_bad_request():
    with pytest.raises(ApiError, match=r"Impersonate-User.*impersonate-group") as caught:
        authenticate(("Authorization", "Bearer good"), ("Impersonate-Group", "ops"))
    assert caught.value.code == 400


def test_token_reviews():
    answer = review_token({"spec": {"token": "good", "audiences": ["vault"]}}, [Tokens()])
    assert answer["status"] == {
        "authenticated": True,
        "user": {"username": "bob", "uid": "u1", "groups": ["devs", "system:authenticated"]},
        "audiences": ["vault"],
    }
    bad = review_token({"spec": {"token": "bad"}}, [Tokens()])
    assert bad["status"] == {"user": {}, "error": "the token has expired"}
    unknown = review_token({"spec": {"token": "who"}}, [Tokens()])
    assert unknown["status"] == {"user": {}}
    with pytest.raises(ApiError, match="token is required") as caught:
        review_token({"spec": {}}, [Tokens()])
    assert caught.value.code == 400


def test_whoami():
    user = User("alice", "u1", ("g",), {"k": ("v",)})
    answer = review_self(user, 0.0)
    assert answer["status"]["userInfo"] == {
        "username": "alice",
        "uid": "u1",
        "groups": ["g"],
        "extra": {"k": ["v"]},
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("system:serviceaccount:dev:builder", ("dev", "builder")),
        ("system:serviceaccount:dev", None),
        ("system:serviceaccount::x", None),
        ("system:serviceaccount:a:b:c", None),
        ("alice", None),
    ],
)
def test_service_account_names(name, expected):
    assert split_service_account(name) == expected
