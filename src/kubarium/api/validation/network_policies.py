"""networking.k8s.io/v1 NetworkPolicy.

Source: ``pkg/apis/networking/validation/validation.go``: its rules, in its order, in its words.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.metadata import check_label_selector
from kubarium.api.validation.report import Report

_SPEC: Path = (None, "spec")
_TYPES = ("Egress", "Ingress")


def check_network_policy(document: Document, report: Report) -> None:
    """Selectors, ports, peers and the directions that the policy speaks of."""
    spec = document.get("spec") or {}
    check_label_selector(spec.get("podSelector"), at(_SPEC, "podSelector"), report)
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            place = at(_SPEC, direction, index)
            for number, port in enumerate(rule.get("ports") or ()):
                _check_port(port, at(place, "ports", number), report)
            for number, peer in enumerate(rule.get(side) or ()):
                _check_peer(peer, at(place, side, number), report)
    types = spec.get("policyTypes") or ()
    if len(types) > len(_TYPES):
        path = at(_SPEC, "policyTypes")
        report.invalid(path, types, "may not specify more than two policyTypes")
        return
    for index, type_ in enumerate(types):
        if type_ not in _TYPES:
            report.not_supported(at(_SPEC, "policyTypes", index), type_, _TYPES)


def _check_port(entry: Document, path: Path, report: Report) -> None:
    port, end = entry.get("port"), entry.get("endPort")
    if isinstance(port, str):
        report.format(at(path, "port"), port, formats.port_name)
        if end is not None:
            detail = "may not be specified when `port` is non-numeric"
            report.invalid(at(path, "endPort"), end, detail)
    elif port is not None:
        _check_number(port, at(path, "port"), report)
        if end is not None:
            if end < port:
                detail = "must be greater than or equal to `port`"
                report.invalid(at(path, "endPort"), end, detail)
            _check_number(end, at(path, "endPort"), report)
    elif end is not None:
        detail = "may not be specified when `port` is not specified"
        report.invalid(at(path, "endPort"), end, detail)


def _check_number(value: int, path: Path, report: Report) -> None:
    for complaint in formats.port_number(value):
        report.invalid(path, value, complaint)


def _check_peer(peer: Document, path: Path, report: Report) -> None:
    block = peer.get("ipBlock")
    selectors = [f for f in ("podSelector", "namespaceSelector") if peer.get(f) is not None]
    for field in selectors:
        check_label_selector(peer[field], at(path, field), report)
    if block is not None:
        _check_block(block, at(path, "ipBlock"), report)
    if block is None and not selectors:
        report.required(path, "must specify a peer")
    elif block is not None and selectors:
        report.forbidden(path, "may not specify both ipBlock and another peer")


def _check_block(block: Document, path: Path, report: Report) -> None:
    text = block.get("cidr") or ""  # an empty one is refused by the schema
    if not text or not report.format(at(path, "cidr"), text, formats.cidr):
        return
    whole: Any = ip_network(text, strict=False)
    for index, except_ in enumerate(block.get("except") or ()):
        place = at(path, "except", index)
        if not report.format(place, except_, formats.cidr):
            continue
        part: Any = ip_network(except_, strict=False)
        inside = part.version == whole.version and part.subnet_of(whole)
        if not inside or part.prefixlen <= whole.prefixlen:
            report.invalid(place, except_, "must be a strict subset of `cidr`")
