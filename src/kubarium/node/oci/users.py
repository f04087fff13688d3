"""Users and groups as an image's own ``/etc/passwd`` and ``/etc/group`` name them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.tree import LayeredTree

_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
# What runc takes, too.
_MOST = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ImageUser:
    """Whom a config's ``User`` means. ``named``: it is no number."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    named: str = ""


class Accounts:
    """The two files, parsed; lines that are broken are no lines."""

    def __init__(self, passwd: str, group: str) -> None:
        self._users = [f for f in _fields(passwd, 7) if _is_id(f[2]) and _is_id(f[3])]
        self._groups = [f for f in _fields(group, 4) if _is_id(f[2])]

    @staticmethod
    def of(tree: LayeredTree) -> Accounts:
        texts = (tree.read(path).decode(errors="replace") for path in ("etc/passwd", "etc/group"))
        return Accounts(*texts)

    def resolve(self, text: str) -> ImageUser:
        """``user[:group]``, each a name or a number; "" is root. ImageProblem in runc's words."""
        user, colon, group = text.partition(":")
        found = self.of_number(_id(user)) if _NUMBER.fullmatch(user) else self._of_name(user)
        if not colon:
            return found
        return ImageUser(found.uid, self._group(group), found.groups, found.home, found.named)

    def of_number(self, uid: int) -> ImageUser:
        """Any number is a user, who may have no entry: then with group 0."""
        for fields in self._users:
            if int(fields[2]) == uid:
                return self._user(fields)
        return ImageUser(uid, 0)

    def _of_name(self, name: str) -> ImageUser:
        if not name:
            return self.of_number(0)
        for fields in self._users:
            if fields[0] == name:
                found = self._user(fields)
                return ImageUser(found.uid, found.gid, found.groups, found.home, name)
        raise ImageProblem(f"unable to find user {name}: no matching entries in passwd file")

    def _user(self, fields: list[str]) -> ImageUser:
        gid = int(fields[3])
        member = [int(g[2]) for g in self._groups if fields[0] in g[3].split(",")]
        groups = tuple(g for g in dict.fromkeys(member) if g != gid)
        return ImageUser(int(fields[2]), gid, groups, fields[5] or "/")

    def _group(self, name: str) -> int:
        if _NUMBER.fullmatch(name):
            return _id(name)
        for fields in self._groups:
            if fields[0] == name:
                return int(fields[2])
        raise ImageProblem(f"unable to find group {name}: no matching entries in group file")


def _is_id(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and int(text) <= _MOST


def _id(number: str) -> int:
    if not _is_id(number):
        raise ImageProblem(f"uids and gids must be in range 0-{_MOST}, not {number}")
    return int(number)


def _fields(text: str, least: int) -> list[list[str]]:
    rows = (line.split(":") for line in text.splitlines() if not line.startswith("#"))
    return [row for row in rows if len(row) >= least]
