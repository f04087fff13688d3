"""Questions to a running cluster: `status`, `why`, and the MCP server that asks them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from kubarium.api.resource import Document, Resource
from kubarium.base.clock import Clock
from kubarium.base.collector import collector_paused
from kubarium.base.errors import ApiError, ConfigError
from kubarium.cli.connection import ResourceFinder, asking, running_record
from kubarium.cli.console import answered, out
from kubarium.cli.status import show_status, status_report
from kubarium.client.gather import gather
from kubarium.client.http import HttpClient
from kubarium.client.known_versions import as_wanted
from kubarium.client.near import near
from kubarium.cluster.clock import RealClock
from kubarium.view import why as view_why
from kubarium.view.explanation import Explanation


def _confirm_output(output: str) -> None:
    if output not in ("text", "json"):
        raise ConfigError(f"--output {output!r}: write text or json")


def status(name: str, output: str) -> None:
    """The state of a cluster of ours."""
    _confirm_output(output)
    record = running_record(name)
    report = asking(name, None, "", lambda client: status_report(client, record))
    if output == "json":
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_status(report)


async def explain(client: HttpClient, target: str, namespace: str, node: str = "") -> Explanation:
    """Why the object that ``target`` (kind/name) names does not run; on ``node``, if given."""
    kind, slash, name = target.partition("/")
    if not slash or not name:
        raise ConfigError(f"{target!r}: write kind/name, such as pod/train-0 or jobset/train")
    subject = await _existing(client, await ResourceFinder(client).all_named(kind), name, namespace)
    documents = await gather(
        client,
        view_why.RESOURCES_NEEDED,
        named=view_why.OBJECTS_NEEDED,
        needed=view_why.RESOURCES_INDISPENSABLE,
    )
    now, withheld = RealClock().now(), documents.withheld
    return view_why.explain(documents, subject, node=node, now=now, withheld=withheld)


async def _existing(
    client: HttpClient, resources: Sequence[Resource], name: str, namespace: str
) -> Document:
    """The object in the first of the resources that has it; two groups may have a PodGroup.

    ApiError 404 if none has, with what there is instead.
    """
    problem: ApiError | None = None
    for resource in resources:
        try:
            found = await client.get(resource, name, namespace if resource.namespaced else "")
        except ApiError as error:
            if error.code != 404:
                raise
            problem = problem or error
        else:
            named = {"apiVersion": resource.api_version, "kind": resource.kind, **found}
            return as_wanted(named, resource, view_why.RESOURCES_NEEDED)
    assert problem is not None
    for resource in resources:
        if text := await _nearest(client, resource, name, namespace):
            raise replace(problem, message=f"{problem.message}; {text}")
    raise problem


async def _nearest(client: HttpClient, resource: Resource, name: str, namespace: str) -> str:
    try:
        return (await near(client, resource, name, namespace if resource.namespaced else "")).text
    except (
        ApiError
    ):  # perhaps one that may not be listed; what is asked for is missing all the same
        return ""


def why(
    target: str,
    namespace: str,
    name: str,
    config: Path | None,
    context: str,
    output: str,
    node: str = "",
) -> None:
    """Print the explanation."""
    _confirm_output(output)
    with collector_paused():
        explanation = asking(name, config, context, lambda c: explain(c, target, namespace, node))
        if output == "json":
            text = orjson.dumps(explanation.to_json(), option=orjson.OPT_INDENT_2).decode()
            sys.stdout.write(text + "\n")
        else:
            for line in explanation.lines():
                out.print(line, markup=False)
        answered()


def serve(
    serve_stdio: Callable[[HttpClient, Clock], Awaitable[None]],
    name: str,
    config: Path | None,
    context: str,
) -> None:
    """Run an MCP server over this process's stdin and stdout until the client closes them."""
    asking(name, config, context, lambda client: serve_stdio(client, RealClock()))
