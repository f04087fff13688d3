"""Kubarium for agents: a read-only MCP server over any cluster that we have a client of.

Six tools: list, get, describe, logs, events, why. They answer with summaries of bounded size that
say how to ask for the rest; what goes wrong comes back as a tool result with the way out. Values of
Secrets are never shown. The protocol is the official SDK's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from difflib import get_close_matches
from functools import wraps
from typing import Annotated, Any, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import orjson
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field
from typing_extensions import TypedDict

from kubarium import __version__
from kubarium.api.catalog import Catalog, Kind, version_priority
from kubarium.api.crds.definition import kinds_of
from kubarium.api.kinds import CUSTOM_RESOURCE_DEFINITIONS, EVENTS, PODS
from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.api.tables import printer_of
from kubarium.base.clock import Clock
from kubarium.base.collector import collector_paused
from kubarium.base.errors import ApiError, ConfigError
from kubarium.client.discovery import ServedResource, find_resource
from kubarium.client.gather import gather
from kubarium.client.near import near
from kubarium.client.protocol import Reader
from kubarium.dataplane import answers
from kubarium.view import why as view_why

P = ParamSpec("P")
R = TypeVar("R")

INSTRUCTIONS = (
    "Read-only view of a Kubernetes cluster. Start with `why` when something is pending or "
    "failing, `list` to see what there is, `describe` for one object with its conditions and "
    "events. Kinds may be written as kubectl takes them (po, deploy, workloads.kueue.x-k8s.io). "
    "Answers are cut to size and say how to get the rest."
)

# Rows of a list and events, by default and at most.
ROWS, MAX_ROWS = 50, 200

# Lines of a log by default and at most, characters of one line, and of the whole answer.
LINES, MAX_LINES = 100, 1_000
LINE_CHARACTERS = 1_000
LOG_CHARACTERS = 12_000

# Events read to find the newest: the API gives them in order of name. An hour of a busy cluster.
EVENTS_READ = 5_000

# Bytes of a log read to find its last lines.
LOG_BYTES = 16 * 1024 * 1024

READ_ONLY = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

KindName = Annotated[
    str,
    Field(description="Kind, plural or short name, optionally with .group: pod, deploy, jobsets"),
]
Name = Annotated[str, Field(description="metadata.name of the object")]
Namespace = Annotated[
    str, Field(description="Namespace; ignored for cluster-scoped kinds such as nodes")
]
LabelSelector = Annotated[str, Field(description="Such as app=web,tier!=cache")]


@runtime_checkable
class LogReader(Protocol):
    """A client that can also read the output of containers."""

    def logs(
        self, namespace: str, name: str, options: LogOptions | None = None
    ) -> AsyncIterator[bytes]: ...


class ListAnswer(TypedDict):
    resource: Annotated[str, Field(description="What was listed: plural.group/version")]
    columns: list[str]
    rows: Annotated[list[list[str]], Field(description="One row an object, a cell a column")]
    remaining: Annotated[int | None, Field(description="Objects after these, where it is known")]
    continue_token: Annotated[str, Field(description='For the next page; "" at the end')]
    note: str


class GetAnswer(TypedDict):
    object: Annotated[str, Field(description="kind/name and namespace")]
    path: str
    value: Annotated[Any, Field(description="The object, or its part at path, cut to size")]


class DescribeAnswer(TypedDict):
    object: str
    summary: Annotated[
        dict[str, str], Field(description="The columns that kubectl get -o wide has")
    ]
    labels: dict[str, str]
    owners: list[str]
    deleting: Annotated[str, Field(description="What a deletion waits for")]
    conditions: list[dict[str, str]]
    containers: list[dict[str, Any]]
    spec: Any
    status: Any
    events: list[dict[str, Any]]


class LogsAnswer(TypedDict):
    text: str
    lines: int
    note: str


class EventsAnswer(TypedDict):
    events: Annotated[list[dict[str, Any]], Field(description="Newest first")]
    note: str


class WhyAnswer(TypedDict):
    answer: Annotated[str, Field(description="What hinders it, and the smallest change that helps")]
    details: Any


class Found(NamedTuple):
    """A kind that a name means, and the other kind that it could have meant."""

    kind: Kind
    other: str


def build_server(client: Reader, clock: Clock) -> MCPServer:
    """The server over ``client``. Without a :class:`LogReader` there is no tool ``logs``."""
    server = MCPServer(
        name="kubarium", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    tools = ClusterTools(client, clock)
    offered: list[tuple[str, Callable[..., Awaitable[object]]]] = [
        ("list", tools.list_objects),
        ("get", tools.get),
        ("describe", tools.describe),
        ("events", tools.events),
        ("why", tools.why),
    ]
    if isinstance(client, LogReader):
        offered.append(("logs", PodLogs(client).logs))
    for name, tool in offered:
        server.add_tool(_speaking_plainly(tool), name=name, annotations=READ_ONLY)
    return server


async def serve_stdio(client: Reader, clock: Clock) -> None:
    """Serve until stdin ends. Nothing else may be written to stdout meanwhile."""
    await build_server(client, clock).run_stdio_async()


class ClusterTools:
    """The tools that read objects."""

    def __init__(self, client: Reader, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._kinds = KindFinder(client)

    async def list_objects(
        self,
        kind: KindName,
        namespace: Annotated[str, Field(description='"" lists all namespaces')] = "",
        label_selector: LabelSelector = "",
        field_selector: Annotated[str, Field(description="Such as status.phase=Pending")] = "",
        limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = ROWS,
        continue_token: Annotated[str, Field(description="From the page before")] = "",
    ) -> Annotated[CallToolResult, ListAnswer]:
        """Objects of a kind, one row each, with the columns that kubectl shows."""
        found = await self._kinds.find(kind)
        resource = found.kind.resource
        result = await self._client.list(
            resource,
            namespace if resource.namespaced else "",
            label_selector=label_selector,
            field_selector=field_selector,
            limit=limit,
            continue_token=continue_token,
        )
        show_namespace = resource.namespaced and not namespace
        columns, rows = self._table(found.kind, result.items, show_namespace)
        note = f"{kind} may also mean {found.other}" if found.other else ""
        answer: ListAnswer = {
            "resource": f"{resource.qualified}/{resource.version}",
            "columns": columns,
            "rows": rows,
            "remaining": result.remaining,
            "continue_token": result.continue_token,
            "note": note or ("" if rows else "nothing found"),
        }
        return _result(answer)

    async def get(
        self,
        kind: KindName,
        name: Name,
        namespace: Namespace = "default",
        path: Annotated[
            str, Field(description='Only this part: spec.template, status, data["file.txt"]')
        ] = "",
        offset: Annotated[
            int, Field(ge=0, description="Skip these items (list) or characters (text) at path")
        ] = 0,
    ) -> Annotated[CallToolResult, GetAnswer]:
        """One object as a document; large parts are left out and fetched with path and offset."""
        found, document = await self._read(kind, name, namespace)
        try:
            value = answers.select(answers.readable(document), path)
        except answers.PathError as error:
            raise ToolError(str(error)) from None
        shown = answers.fit(answers.page(value, offset), answers.ANSWER_CHARACTERS, path, offset)
        answer: GetAnswer = {"object": _title(found.kind, document), "path": path, "value": shown}
        return _result(answer)

    async def describe(
        self, kind: KindName, name: Name, namespace: Namespace = "default"
    ) -> Annotated[CallToolResult, DescribeAnswer]:
        """One object in short: state, conditions, containers, owners and its newest events."""
        found, document = await self._read(kind, name, namespace)
        shown = answers.readable(document)
        metadata, now = shown["metadata"], self._clock.now()
        columns, rows = self._table(found.kind, [document], False, wide=True)
        owners = metadata.get("ownerReferences") or ()
        status = {k: v for k, v in (shown.get("status") or {}).items() if k != "conditions"}
        body = {k: v for k, v in shown.items() if k not in _ENVELOPE}
        events, _ = await self._newest_events(metadata.get("namespace", ""), document, 10, "")
        answer: DescribeAnswer = {
            "object": _title(found.kind, document),
            "summary": dict(zip(columns, rows[0], strict=True)),
            "labels": metadata.get("labels") or {},
            "owners": [f"{owner['kind'].lower()}/{owner['name']}" for owner in owners],
            "deleting": _deleting(metadata),
            "conditions": answers.conditions(shown, now),
            "containers": answers.containers(shown) if found.kind.resource == PODS else [],
            "spec": answers.fit(shown.get("spec", body), _HALF, "spec" if "spec" in shown else ""),
            "status": answers.fit(status, _HALF, "status"),
            "events": events,
        }
        return _result(answer)

    async def events(
        self,
        namespace: Annotated[str, Field(description='"" means all namespaces')] = "",
        kind: Annotated[str, Field(description="With name: only about this object")] = "",
        name: Annotated[str, Field(description="With kind: only about this object")] = "",
        type: Annotated[str, Field(pattern="^(Normal|Warning)?$")] = "",
        limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = ROWS,
    ) -> Annotated[CallToolResult, EventsAnswer]:
        """What happened, newest first; of one object if kind and name are given."""
        subject: Document | None = None
        if kind or name:
            if not (kind and name):
                raise ToolError("give kind and name together, or neither of them")
            found = await self._kinds.find(kind)
            subject = {"kind": found.kind.resource.kind, "metadata": {"name": name}}
            namespace = namespace if found.kind.resource.namespaced else ""
        rows, more = await self._newest_events(namespace, subject, limit, type)
        note = f"{more} older ones are not shown; raise limit or narrow down" if more else ""
        answer: EventsAnswer = {"events": rows, "note": note or ("" if rows else "no events")}
        return _result(answer)

    async def why(
        self,
        kind: KindName,
        name: Name,
        namespace: Namespace = "default",
        node: Annotated[
            str, Field(description="Speak of this node alone, with every rule that it fails")
        ] = "",
    ) -> Annotated[CallToolResult, WhyAnswer]:
        """Why an object does not run: what is missing, and the smallest change that would help."""
        _, subject = await self._read(kind, name, namespace)
        wanted, named = view_why.RESOURCES_NEEDED, view_why.OBJECTS_NEEDED
        with collector_paused():
            documents = await gather(
                self._client, wanted, named=named, needed=view_why.RESOURCES_INDISPENSABLE
            )
            explanation = view_why.explain(
                documents,
                subject,
                node=node,
                now=self._clock.now(),
                withheld=documents.withheld,
            )
        text = "\n".join(explanation.lines())
        answer: WhyAnswer = {
            "answer": answers.fit(text, answers.ANSWER_CHARACTERS // 2),
            "details": answers.fit(explanation.to_json(), answers.ANSWER_CHARACTERS // 2),
        }
        return _result(answer)

    async def _read(self, kind: str, name: str, namespace: str) -> tuple[Found, Document]:
        found = await self._kinds.find(kind)
        resource = found.kind.resource
        scope = namespace if resource.namespaced else ""
        try:
            document = await self._client.get(resource, name, scope)
        except ApiError as error:
            if error.code != 404:
                raise
            raise ToolError(await self._not_found(found, name, scope)) from None
        # A list's items come without these, and so may a single object of some servers.
        named = {"apiVersion": resource.api_version, "kind": resource.kind}
        return found, {**named, **document}

    async def _not_found(self, found: Found, name: str, namespace: str) -> str:
        """What there is instead: the same name elsewhere, or similar names here."""
        resource = found.kind.resource
        around = await near(self._client, resource, name, namespace)
        where = f" in namespace {namespace}" if namespace else ""
        text = f'{resource.qualified} "{name}" not found{where}'
        if around.text:
            return f"{text}; {around.text}"
        other = f", or ask for {found.other}" if found.other else ""
        many = f"more than {around.others}" if around.more else str(around.others)
        return f"{text}; there are {many} others: see list{other}"

    async def _newest_events(
        self, namespace: str, subject: Document | None, limit: int, type_: str
    ) -> tuple[list[dict[str, Any]], int]:
        """The newest events, and how many more were found."""
        terms = [f"type={type_}"] if type_ else []
        if subject is not None:
            terms.append(f"involvedObject.kind={subject['kind']}")
            terms.append(f"involvedObject.name={subject['metadata']['name']}")
        held: list[Document] = []
        token = ""
        while len(held) < EVENTS_READ:
            result = await self._client.list(
                EVENTS, namespace, field_selector=",".join(terms), limit=500, continue_token=token
            )
            held += result.items
            token = result.continue_token
            if not token:
                break
        newest = answers.newest_first(held)
        rows = [answers.event_row(event, self._clock.now()) for event in newest[:limit]]
        return rows, len(newest) - len(rows)

    def _table(
        self, kind: Kind, documents: list[Document], show_namespace: bool, wide: bool = False
    ) -> tuple[list[str], list[list[str]]]:
        """Column names and rows as kubectl prints them."""
        printer, now = printer_of(kind), self._clock.now()
        shown = [at for at, column in enumerate(printer.columns) if wide or not column["priority"]]
        columns = [str(printer.columns[at]["name"]) for at in shown]
        rows = []
        for document in documents:
            cells = printer.cells(document, now)
            row = [answers.short(_cell(cells[at])) for at in shown]
            if show_namespace:
                row.insert(0, document["metadata"].get("namespace", ""))
            rows.append(row)
        return (["Namespace", *columns] if show_namespace else columns), rows


class PodLogs:
    """The tool that reads the output of containers."""

    def __init__(self, client: LogReader) -> None:
        self._client = client

    async def logs(
        self,
        name: Annotated[str, Field(description="Name of the pod")],
        namespace: Namespace = "default",
        container: Annotated[str, Field(description="Needed where a pod has several")] = "",
        lines: Annotated[int, Field(ge=1, le=MAX_LINES)] = LINES,
        skip: Annotated[
            int, Field(ge=0, le=100_000, description="Leave out this many of the newest lines")
        ] = 0,
        previous: Annotated[bool, Field(description="Of the run before the last restart")] = False,
        since_seconds: Annotated[int | None, Field(ge=1)] = None,
        timestamps: bool = False,
    ) -> Annotated[CallToolResult, LogsAnswer]:
        """The last lines that a container has written; page back with skip."""
        options = LogOptions(
            container=container,
            previous=previous,
            timestamps=timestamps,
            tail_lines=lines + skip,
            since_seconds=since_seconds,
        )
        data = b""
        async for chunk in self._client.logs(namespace, name, options):
            data = (data + chunk)[-LOG_BYTES:]
        held = data.decode("utf-8", "replace").splitlines()
        wanted = held[: len(held) - skip][-lines:] if skip < len(held) else []
        shown = _last_lines(wanted)
        note = ""
        if len(shown) < len(wanted):
            note = f"older lines do not fit; for those before, ask with skip={skip + len(shown)}"
        elif len(held) == lines + skip:
            note = f"there may be older lines; ask with skip={skip + len(shown)}"
        elif not shown:
            note = "no output" if not held else f"there are only {len(held)} lines"
        answer: LogsAnswer = {"text": "\n".join(shown), "lines": len(shown), "note": note}
        return _result(answer)


class KindFinder:
    """Kinds by any of their names: the built-in ones, and those of the cluster's definitions."""

    def __init__(self, client: Reader) -> None:
        self._client = client
        self._catalog = Catalog.builtin()
        self._served: list[ServedResource] = []

    async def find(self, text: str) -> Found:
        """The kind that ``text`` means; ToolError with similar names if none."""
        found = self._lookup(text.strip()) if self._served else None
        if found is None:  # perhaps defined since
            await self._learn()
            found = self._lookup(text.strip())
        if found is None:
            names = [entry.resource.plural for entry in self._served]
            close = get_close_matches(text.lower(), names, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""
            raise ToolError(
                f"this cluster knows no kind {text!r}{hint} `list` of customresourcedefinitions "
                "shows the kinds that were added to Kubernetes' own"
            )
        return found

    def _lookup(self, text: str) -> Found | None:
        entry = find_resource(self._served, text)
        kind = self._catalog.of(entry.resource) if entry else None
        if entry is None or kind is None:
            return None
        group = entry.resource.group
        rest = [other for other in self._served if other.resource.group != group]
        other = find_resource(rest, text)
        return Found(kind, other.resource.qualified if other else "")

    async def _learn(self) -> None:
        try:
            for definition in (await self._client.list(CUSTOM_RESOURCE_DEFINITIONS)).items:
                for kind in kinds_of(definition):
                    self._catalog.add(kind)
        except ApiError as error:
            if error.code not in (403, 404):
                raise  # not allowed to see definitions: the built-in kinds must do
        groups = list(self._catalog.groups())

        def order(kind: Kind) -> tuple[int, tuple[int, int, int, str]]:
            return groups.index(kind.resource.group), version_priority(kind.resource.version)

        kinds = sorted((kind for kind in self._catalog.kinds() if kind.stored), key=order)
        self._served = [ServedResource(k.resource, k.singular, k.short_names) for k in kinds]


_ENVELOPE = ("apiVersion", "kind", "metadata", "status")
_HALF = answers.ANSWER_CHARACTERS // 3


def _speaking_plainly(tool: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Errors of the cluster become tool results that the model can act on."""

    @wraps(tool)
    async def answered(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await tool(*args, **kwargs)
        except ApiError as error:
            raise ToolError(_advice(error)) from error
        except ConfigError as error:
            raise ToolError(str(error)) from error

    return answered


def _result(answer: Any) -> CallToolResult:
    """The answer as data and as compact text: the SDK's own text is indented, twice the tokens."""
    text = orjson.dumps(answer).decode()
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer)


def _advice(error: ApiError) -> str:
    """The server's message, and what to do about it."""
    ways = {
        401: "the credentials of this server's kubeconfig are not accepted any more",
        403: "the user that this server runs as lacks the right; ask for a role, do not retry",
        410: "the continue_token is too old; list again without it",
        429: "the API server is busy; try again in a few seconds",
        503: "the API server cannot answer now; `kubarium status` shows whether it runs",
    }
    way = ways.get(error.code, "")
    return f"{error.message} ({way})" if way else error.message


def _title(kind: Kind, document: Document) -> str:
    metadata = document["metadata"]
    title = f"{kind.singular}/{metadata['name']}"
    return f"{title} in namespace {metadata['namespace']}" if metadata.get("namespace") else title


def _deleting(metadata: Document) -> str:
    if not metadata.get("deletionTimestamp"):
        return ""
    waits = ", ".join(metadata.get("finalizers") or ()) or "its termination"
    return f"since {metadata['deletionTimestamp']}; waits for {waits}"


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _last_lines(lines: list[str]) -> list[str]:
    """As many of the last lines as fit, long ones cut."""
    shown: list[str] = []
    left = LOG_CHARACTERS
    for line in reversed(lines):
        cut = line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}…"
        left -= len(cut) + 1
        if left < 0 and shown:
            break
        shown.append(cut)
    return shown[::-1]
