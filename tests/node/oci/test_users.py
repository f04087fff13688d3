"""Who a container runs as, by its image's own accounts."""

from __future__ import annotations

import pytest

from kubarium.node.environment import ConfigProblem
from kubarium.node.isolation import ROOT
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.users import Accounts
from kubarium.node.security import Known, identity_of

PASSWD = """root:x:0:0:root:/root:/bin/sh
app:x:1234:2345:App:/home/app:/bin/sh
# comment:x:1:1:::
broken
odd:x:nine:1:::
"""
GROUP = "root:x:0:\napp:x:2345:\naudio:x:29:app,root\nvideo:x:44:app\n"
ACCOUNTS = Accounts(PASSWD, GROUP)


@pytest.mark.parametrize(
    ("text", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (29,), "/root"),
        ("0", 0, 0, (29,), "/root"),
        ("app", 1234, 2345, (29, 44), "/home/app"),
        ("1234", 1234, 2345, (29, 44), "/home/app"),
        ("app:audio", 1234, 29, (29, 44), "/home/app"),
        ("app:99", 1234, 99, (29, 44), "/home/app"),
        ("4000", 4000, 0, (), "/"),
        ("4000:4001", 4000, 4001, (), "/"),
    ],
)
def test_users(text, uid, gid, groups, home):
    found = ACCOUNTS.resolve(text)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize("text", ["nobody", "odd", "app:nogroup", "comment"])
def test_users_that_an_image_does_not_have(text):
    with pytest.raises(ImageProblem, match=r"unable to find (user|group) .*: no matching entries"):
        ACCOUNTS.resolve(text)


@pytest.mark.parametrize("text", ["²", "app:²", "9" * 5000, "big"])
def test_what_only_looks_like_a_number_is_a_name(text):
    accounts = Accounts(PASSWD + "big:x:9999999999:1:::\nodd2:x:²:1:::\n", GROUP + "odd:x:²:\n")
    with pytest.raises(ImageProblem, match=r"unable to find (user|group) .*: no matching entries"):
        accounts.resolve(text)


@pytest.mark.parametrize("text", ["2147483648", "app:2147483648", "99999999999"])
def test_numbers_that_are_no_users(text):
    with pytest.raises(ImageProblem, match="uids and gids must be in range 0-2147483647, not "):
        ACCOUNTS.resolve(text)


def identity(user, pod=None, own=None):
    document = {"spec": {"securityContext": pod or {}}}
    container = {"name": "c", "securityContext": own or {}}
    return identity_of(
        document, container, ROOT, None, "p", Known(ACCOUNTS, ACCOUNTS.resolve(user))
    )


def test_the_images_user_unless_the_pod_names_one():
    assert identity("app").user.groups == [29, 44]
    assert identity("app").home == "/home/app"
    asked = identity("app", {"runAsUser": 0, "supplementalGroups": [7]})
    assert (asked.user.uid, asked.user.gid, asked.user.groups) == (0, 0, [7, 29])
    assert identity("", {"runAsUser": 1234}).user.gid == 2345
    assert identity("app", {"runAsGroup": 5}).user.gid == 5
    strict = {"supplementalGroupsPolicy": "Strict", "fsGroup": 3}
    assert identity("app", strict).user.groups == [3]


def test_run_as_non_root():
    asked = {"runAsNonRoot": True}
    assert identity("1234", asked).uid == 1234
    with pytest.raises(ConfigProblem, match=r"has non-numeric user \(app\), cannot verify"):
        identity("app", asked)
    with pytest.raises(ConfigProblem, match="image will run as root"):
        identity("0", asked)
    assert identity("app", asked | {"runAsUser": 5}).uid == 5
