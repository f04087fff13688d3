"""`kubarium run`: apply manifests, wait until everything that can end has ended, show a timeline.

What counts as an end: Jobs, JobSets and TrainJobs complete or fail, bare pods succeed or fail,
Deployments are available, pods that run for ever are ready. Anything else only has to exist.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError, ConfigError
from kubarium.cli.connection import ResourceFinder
from kubarium.cli.console import err, out
from kubarium.client.http import HttpClient
from kubarium.client.protocol import APPLY_PATCH

MANAGER = "kubarium-run"
LOOK_EVERY_S = 0.1
BAR_WIDTH = 36
GONE = "Deleted"
ALIVE = ("Pending", "Running")
COLOURS = {"Pending": "yellow", "Running": "green", "Succeeded": "blue", "Failed": "red"}
SUCCEEDED, FAILED, WAITING = "succeeded", "failed", "waiting"


def read_manifests(files: list[Path]) -> list[Document]:
    """All documents of the files ("-" is standard input); ConfigError with file and line."""
    documents: list[Document] = []
    for file in files:
        text = _read(file)
        try:
            loaded = list(yaml.load_all(text, yaml.CSafeLoader))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{file}:{mark.line + 1}" if mark else str(file)
            problem = getattr(error, "problem", error)
            raise ConfigError(f"{where}: not valid YAML: {problem}") from None
        for number, document in enumerate((d for d in loaded if d is not None), 1):
            documents += _flattened(file, number, document)
    if not documents:
        raise ConfigError(f"{', '.join(map(str, files))}: no objects in there")
    return documents


def _read(file: Path) -> str:
    try:
        if str(file) == "-":
            return Path("/dev/stdin").read_text(encoding="utf-8")
        if file.is_dir():
            parts = sorted(p for p in file.iterdir() if p.suffix in (".yaml", ".yml", ".json"))
            return "\n---\n".join(part.read_text(encoding="utf-8") for part in parts)
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None


def _flattened(file: Path, number: int, document: Any) -> list[Document]:
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: document {number} is no object, but {type(document).__name__}")
    for name in ("apiVersion", "kind"):
        if not isinstance(document.get(name), str):
            raise ConfigError(f"{file}: document {number} has no {name}")
    if document["kind"] == "List":
        items = document.get("items") or []
        if not isinstance(items, list):
            raise ConfigError(f"{file}: document {number}: items must be a list, is {items!r}")
        return [d for item in items for d in _flattened(file, number, item)]
    _check_metadata(file, number, document)
    return [document]


def _check_metadata(file: Path, number: int, document: Document) -> None:
    """What we read ourselves must have its type; the rest is for the server to judge."""
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        raise ConfigError(f"{file}: document {number}: metadata must be a mapping: {metadata!r}")
    for name in ("name", "generateName", "namespace"):
        value = metadata.get(name, "")
        if not isinstance(value, str):
            raise ConfigError(
                f"{file}: document {number}: metadata.{name} must be text, but is {value!r}; "
                "put it in quotes"
            )


@dataclass
class _Track:
    """When a pod was first seen in each phase, in seconds since the start."""

    name: str
    phases: list[tuple[float, str]] = field(default_factory=list)

    def note(self, at: float, phase: str) -> bool:
        if self.phases and self.phases[-1][1] == phase:
            return False
        self.phases.append((at, phase))
        return True


class _Run:
    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.finder = ResourceFinder(client)
        self.began = monotonic()
        self.tracks: dict[str, _Track] = {}
        self.applied: list[tuple[Resource, str, str]] = []

    def elapsed(self) -> float:
        return monotonic() - self.began

    async def apply(self, document: Document) -> None:
        resource = await self.finder.of_document(document)
        metadata = document.setdefault("metadata", {})
        scope = metadata.get("namespace", "default") if resource.namespaced else ""
        if "name" in metadata:
            answer = await self.client.patch(
                resource,
                metadata["name"],
                document,
                scope,
                patch_type=APPLY_PATCH,
                field_manager=MANAGER,
            )
        else:  # generateName cannot be applied, only created
            answer = await self.client.create(resource, document, scope, field_manager=MANAGER)
        name = answer["metadata"]["name"]
        self.applied.append((resource, scope, name))
        out.print(f"{self._stamp()} {resource.qualified}/{name} applied")

    def _stamp(self) -> str:
        return f"[bright_black]{self.elapsed():6.1f} s[/]"

    async def watch_pods(self) -> None:
        pods = (await self.client.list(PODS)).items
        here = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods}
        for key, track in self.tracks.items():
            if key not in here and track.phases[-1][1] in ALIVE:
                track.note(self.elapsed(), GONE)
                out.print(f"{self._stamp()} pod/{key} was deleted")
        for pod in pods:
            key = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            phase = pod.get("status", {}).get("phase", "Pending")
            track = self.tracks.setdefault(key, _Track(key))
            if track.note(self.elapsed(), phase):
                out.print(f"{self._stamp()} pod/{key} [{COLOURS.get(phase, 'white')}]{phase}[/]")

    async def verdicts(self) -> dict[str, str]:
        found = {}
        for resource, scope, name in self.applied:
            label = f"{resource.plural}/{name}"
            try:
                document = await self.client.get(resource, name, scope)
            except ApiError as error:
                if error.code != 404:
                    raise
                found[label] = SUCCEEDED  # finished and removed by its own time to live
                continue
            found[label] = verdict(document)
        return found


def verdict(document: Document) -> str:
    """Whether an object has reached its end, and which."""
    status = document.get("status", {})
    true = {c.get("type") for c in status.get("conditions", []) if c.get("status") == "True"}
    match document["kind"]:
        case "Job" | "TrainJob":
            ends = (SUCCEEDED, "Complete" in true), (FAILED, "Failed" in true)
        case "JobSet":
            ends = (SUCCEEDED, "Completed" in true), (FAILED, "Failed" in true)
        case "Pod":
            phase = status.get("phase")
            runs_on = document["spec"].get("restartPolicy", "Always") == "Always"
            good = phase == "Succeeded" or (runs_on and "Ready" in true)
            ends = (SUCCEEDED, good), (FAILED, phase == "Failed")
        case "Deployment":
            ends = (SUCCEEDED, "Available" in true), (FAILED, "ReplicaFailure" in true)
        case _:
            return SUCCEEDED
    return next((name for name, reached in ends if reached), WAITING)


async def apply_and_wait(client: HttpClient, documents: list[Document], timeout_s: float) -> int:
    """Exit code: 0 all succeeded, 1 something failed or did not end within ``timeout_s``."""
    run = _Run(client)
    for document in documents:
        await run.apply(document)
    while True:
        await run.watch_pods()
        verdicts = await run.verdicts()
        if FAILED in verdicts.values() or WAITING not in verdicts.values():
            break
        if run.elapsed() > timeout_s:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    await run.watch_pods()
    out.print(timeline(list(run.tracks.values()), run.elapsed()))
    bad = {name: state for name, state in verdicts.items() if state != SUCCEEDED}
    for name, state in bad.items():
        late = f" after {timeout_s:.0f} s" if state == WAITING else ""
        err.print(f"[bold red]{name}: {state}{late}[/]")
    if not bad:
        out.print(f"[bold green]all succeeded[/] in {run.elapsed():.1f} s")
    return 1 if bad else 0


def timeline(tracks: list[_Track], end: float) -> Table:
    """One bar a pod: yellow pending, green running, blue succeeded, red failed."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(max_width=80 - BAR_WIDTH - 14, no_wrap=True)
    table.add_column(min_width=BAR_WIDTH, no_wrap=True)
    table.add_column(no_wrap=True)
    for track in sorted(tracks, key=lambda track: track.phases[0][0]):
        bar = Text()
        edges = [*track.phases, (end, "")]
        for (begin, phase), (until, _) in pairwise(edges):
            if not bar:
                bar.append(" " * round(begin / end * BAR_WIDTH))
            width = round(until / end * BAR_WIDTH) - round(begin / end * BAR_WIDTH)
            if phase == GONE:
                break
            bar.append("█" * max(1, width), COLOURS.get(phase, "white"))
        table.add_row(track.name.removeprefix("default/"), bar, track.phases[-1][1])
    return table
