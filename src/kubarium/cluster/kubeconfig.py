"""Kubeconfig entries of ours in a file that may hold others': added, replaced and removed safely.

The file is replaced atomically and never readable by others (0600). Whatever is not ours keeps its
place. A file that cannot be understood is left as it is, and an error says so.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from kubarium.base.errors import ConfigError

_SECTIONS = ("clusters", "users", "contexts")


def default_kubeconfig() -> Path:
    """The file that kubectl would write to: the first of $KUBECONFIG, else ~/.kube/config."""
    named = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(named[0]) if named else Path.home() / ".kube" / "config"


def entry(context: str, server: str, ca: str, user: dict[str, str]) -> dict[str, Any]:
    """A complete kubeconfig with one context. ``ca`` and ``user`` hold base64 PEM data."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": context, "cluster": {"server": server, "certificate-authority-data": ca}}
        ],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }


def check(path: Path) -> None:
    """ConfigError if ``path`` exists and is not a kubeconfig that entries can be put into."""
    _read(path)


def merge(path: Path, ours: dict[str, Any]) -> str:
    """Put our context into ``path`` and make it current; returns the context that was current."""
    document = _read(path)
    previous = str(document.get("current-context") or "")
    name = ours["current-context"]
    for section in _SECTIONS:
        kept = [item for item in document.get(section) or [] if item.get("name") != name]
        document[section] = kept + ours[section]
    document["current-context"] = name
    write(path, document)
    return previous if previous != name else ""


def remove(path: Path, context: str, previous: str = "") -> None:
    """Take our context out; the one that was current before us becomes current again."""
    if not path.exists():
        return
    document = _read(path)
    ours = [
        item
        for section in _SECTIONS
        for item in document.get(section) or []
        if item.get("name") == context
    ]
    if not ours:
        return
    for section in _SECTIONS:
        kept = [item for item in document.get(section) or [] if item.get("name") != context]
        document[section] = kept
    if document.get("current-context") == context:
        known = {item.get("name") for item in document["contexts"]}
        document["current-context"] = previous if previous in known else ""
    write(path, document)


def write(path: Path, document: dict[str, Any]) -> None:
    """Replace ``path`` in one step, mode 0600. A symbolic link is followed, not replaced."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=".kubeconfig-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yaml.safe_dump(document, file, sort_keys=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict[str, Any]:
    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        return {"apiVersion": "v1", "kind": "Config"}
    way_out = "move the file away, or name another with KUBECONFIG or --kubeconfig"
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid YAML and is left as it is: {error}; {way_out}"
        ) from None
    sections_ok = isinstance(document, dict) and all(
        isinstance(document.get(section) or [], list)
        and all(isinstance(item, dict) for item in document.get(section) or [])
        for section in _SECTIONS
    )
    if not sections_ok:
        raise ConfigError(f"{path} is not a kubeconfig and is left as it is; {way_out}")
    return dict(document)
