"""Images from registries, by skopeo where it is installed: it knows their protocols and logins."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubarium.base.trees import remove_tree
from kubarium.node.oci.config import this_platform
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.load import load
from kubarium.node.oci.reference import Reference
from kubarium.node.oci.store import PULLED, ImageStore, Record

_POLICIES = ("/etc/containers/policy.json", "~/.config/containers/policy.json")
_LOCAL = ("localhost", "127.")
_PREFIX = ".pull-"
Auths = Mapping[str, Any]


class Skopeo:
    """The program at ``path``."""

    def __init__(self, path: str, store: ImageStore) -> None:
        self._path = path
        self._store = store

    @staticmethod
    def find(store: ImageStore) -> Skopeo | None:
        path = shutil.which("skopeo")
        return Skopeo(path, store) if path else None

    async def digest(self, reference: Reference, auths: Auths) -> str:
        """What the registry has under this name now. ImageProblem."""
        with _authfile(auths, self._store.root) as login:
            arguments = [*login, *self._tls(reference, "--tls-verify=false"), "--raw"]
            out = await self._run("inspect", *arguments, _source(reference))
        return f"sha256:{hashlib.sha256(out).hexdigest()}"

    async def pull(self, reference: Reference, auths: Auths) -> Record:
        """Copy it into the store, under its name; blobs that are there are not fetched again.
        ImageProblem."""
        index = reference.digest or await self.digest(reference, auths)
        self._store.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        here = this_platform()
        with (
            tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._store.root) as folder,
            _authfile(auths, self._store.root) as login,
        ):
            await asyncio.to_thread(self._store.lend, Path(folder) / "image" / "blobs" / "sha256")
            wanted = ["--override-os", here.os, "--override-arch", here.architecture]
            arguments = [*login, *self._tls(reference, "--src-tls-verify=false")]
            target = f"oci:{folder}/image:pulled"
            await self._run(*wanted, "copy", *arguments, "--quiet", _source(reference), target)
            names = [reference.canonical]
            await asyncio.to_thread(load, self._store, f"{folder}/image", names, None, PULLED)
        record = replace(self._store.records()[reference.canonical], index=index)
        with self._store.locked():
            self._store.remember(reference.canonical, record)
        return record

    @staticmethod
    def _tls(reference: Reference, option: str) -> list[str]:
        """Registries of this machine need no certificate, as with docker."""
        return [option] if reference.name.startswith(_LOCAL) else []

    async def _run(self, *arguments: str) -> bytes:
        argv = [self._path, *_lax(), *arguments]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, problem = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise ImageProblem(_last_words(problem.decode(errors="replace")))
        return out


def _lax() -> list[str]:
    """Skopeo refuses to work without any policy on signatures; the machine's own is kept to."""
    there = any(os.path.exists(os.path.expanduser(path)) for path in _POLICIES)
    return [] if there else ["--insecure-policy"]


def _source(reference: Reference) -> str:
    return f"docker://{reference.canonical}"


def _last_words(text: str) -> str:
    """The message of skopeo's last log line (time="…" level=fatal msg="…")."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "skopeo failed")
    _, found, message = line.partition("msg=")
    if not found:
        return line.strip()
    with contextlib.suppress(ValueError):
        return str(json.loads(message))
    return message


@contextlib.contextmanager
def _authfile(auths: Auths, root: Path) -> Any:
    """The options that log in with ``auths``; the file has gone afterwards."""
    if not auths:
        yield []
        return
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", prefix=f"{_PREFIX}auth-", dir=root) as file:
        json.dump({"auths": dict(auths)}, file)
        file.flush()
        yield ["--authfile", file.name]


def remove_leftovers(root: Path) -> None:
    """What pulls of an agent that was killed have left."""
    for path in root.glob(f"{_PREFIX}*") if root.is_dir() else ():
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


def pull_secrets(
    pod: Mapping[str, Any], secret: Callable[[str, str], Mapping[str, Any] | None]
) -> dict[str, Any]:
    """Logins from the pod's ``imagePullSecrets``, by registry; what cannot be read is none."""
    namespace = pod["metadata"].get("namespace", "")
    found: dict[str, Any] = {}
    for reference in pod["spec"].get("imagePullSecrets") or ():
        data = (secret(namespace, reference.get("name", "")) or {}).get("data") or {}
        for key, auths in _configs(data.items()):
            given = auths.get("auths") if key == ".dockerconfigjson" else auths
            found |= given if isinstance(given, dict) else {}
    return found


def _configs(data: Iterable[tuple[str, str]]) -> Iterable[tuple[str, dict[str, Any]]]:
    for key, text in data:
        if key in (".dockerconfigjson", ".dockercfg"):
            with contextlib.suppress(ValueError):
                found = json.loads(base64.b64decode(text))
                if isinstance(found, dict):
                    yield key, found
