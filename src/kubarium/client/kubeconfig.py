"""Which cluster to speak to: kubeconfig files, merged by kubectl's rules.

Knows no HTTP. The order is kubectl's: an explicit path, then ``KUBECONFIG`` (several files, the
first that names something wins), then ``~/.kube/config``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError

_START_ONE = "`kubarium up` starts a cluster and writes a kubeconfig"
_FILE_FIELDS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_SECTIONS = (("clusters", "cluster"), ("users", "user"), ("contexts", "context"))


def kubeconfig_paths(explicit: str = "") -> list[Path]:
    """The files that kubectl would read, whether they exist or not."""
    if explicit:
        return [Path(explicit).expanduser()]
    listed = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return [Path(part).expanduser() for part in listed or ["~/.kube/config"]]


def load_kubeconfig(explicit: str = "") -> Document:
    """One kubeconfig document merged from all files, with absolute file paths in it.

    Raises :class:`ConfigError` when there is none or one cannot be read.
    """
    paths = kubeconfig_paths(explicit)
    found = [path for path in paths if path.is_file()]
    if not found or (explicit and not paths[0].is_file()):
        names = ", ".join(str(path) for path in paths)
        raise ConfigError(f"kubeconfig: {names} does not exist; {_START_ONE}")
    merged: Document = {"current-context": "", "clusters": [], "users": [], "contexts": []}
    for path in found:
        _merge(merged, _read(path))
    return merged


def _read(path: Path) -> Document:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"kubeconfig {path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"kubeconfig {path}: is not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path}: must be a mapping, is a {type(document).__name__}")
    for section, entry in _SECTIONS:
        items = document.get(section) or []
        if not isinstance(items, list):
            raise ConfigError(f"kubeconfig {path}: {section} must be a list")
        for item in items:
            _check_entry(path, section, entry, item)
            _make_absolute(path, item[entry])
    return document


def _check_entry(path: Path, section: str, entry: str, item: Any) -> None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ConfigError(f"kubeconfig {path}: every item of {section} needs a name")
    if item.get(entry) is None:
        item[entry] = {}
    if not isinstance(item[entry], dict):
        raise ConfigError(
            f"kubeconfig {path}: {section} {item['name']!r}: {entry} must be a mapping"
        )


def _make_absolute(path: Path, entry: Document) -> None:
    for name in _FILE_FIELDS:
        if entry.get(name):
            entry[name] = str(path.parent.absolute() / entry[name])


def _merge(merged: Document, document: Document) -> None:
    merged["current-context"] = merged["current-context"] or document.get("current-context") or ""
    for section, _ in _SECTIONS:
        known = {item["name"] for item in merged[section]}
        merged[section] += [
            item for item in document.get(section) or [] if item["name"] not in known
        ]


def select_context(config: Document, context: str = "") -> tuple[str, Document, Document, str]:
    """(context name, cluster, user, namespace) of ``context`` or of the current one.

    Raises :class:`ConfigError` naming what is missing and what there is.
    """
    name = context or config["current-context"]
    contexts = {item["name"]: item["context"] for item in config["contexts"]}
    known = ", ".join(sorted(contexts)) or "none"
    if not name:
        raise ConfigError(f"kubeconfig: no current context is set; contexts: {known}")
    if name not in contexts:
        raise ConfigError(f"kubeconfig: there is no context {name!r}; contexts: {known}")
    chosen = contexts[name]
    cluster = _named(config, "clusters", "cluster", str(chosen.get("cluster", "")), name)
    if not cluster.get("server"):
        raise ConfigError(f"kubeconfig: cluster {chosen.get('cluster')!r} has no server")
    user = _named(config, "users", "user", chosen["user"], name) if chosen.get("user") else {}
    return name, cluster, user, chosen.get("namespace") or "default"


def _named(config: Document, section: str, entry: str, name: str, context: str) -> Document:
    for item in config[section]:
        if item["name"] == name:
            return dict(item[entry])
    known = ", ".join(sorted(item["name"] for item in config[section])) or "none"
    raise ConfigError(
        f"kubeconfig: context {context!r} names {entry} {name!r}, which is not in {section}; "
        f"{section}: {known}"
    )
