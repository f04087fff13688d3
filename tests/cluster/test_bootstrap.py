"""What a cluster has from the start, and what an upgrade makes of it."""

from __future__ import annotations

import copy

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.cel.rules import RuleNode, Rules
from kubarium.api.kinds import CLUSTER_ROLES, CUSTOM_RESOURCE_DEFINITIONS
from kubarium.api.validation import custom
from kubarium.base.chance import Chance
from kubarium.cluster import bootstrap as module
from kubarium.cluster.bootstrap import MANAGER, bootstrap, documents
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore
from kubarium.testing.cluster import run_virtual

FAULTS, AGENT = "faults.kubarium.dev", "kubarium:node-agent"


@pytest.fixture
def story_run():
    def runner(story):
        async def main():
            server = ApiServer(MemoryStore(), Catalog.builtin(), VirtualClock(), Chance(0))
            await story(server, LocalClient(server, "system:admin", MANAGER))

        run(main())

    return runner


def older(found):
    """The same, as an earlier version would have had it: without a field and without a right."""
    found = copy.deepcopy(found)
    for document in found:
        if document["metadata"]["name"] == FAULTS:
            schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            del schema["properties"]["status"]["properties"]["pending"]
        if document["metadata"]["name"] == AGENT and document["kind"] == "ClusterRole":
            document["rules"] = document["rules"][1:]
    return found


async def begin_older(client, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, "documents", lambda *given: older(documents(*given)))
        await bootstrap(client)


def pending(definition):
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["status"]["properties"].get("pending")


@pytest.mark.parametrize("noted", [True, False])
def test_an_upgrade_brings_definitions_and_rights_up_to_date(story_run, monkeypatch, noted):
    async def story(_, client):
        await begin_older(client, monkeypatch)
        if not noted:  # as versions did that made no note
            await client.delete(module.CONFIG_MAPS, "kubarium-bootstrap", "kube-system")
        definition = await client.get(CUSTOM_RESOURCE_DEFINITIONS, FAULTS)
        assert pending(definition) is None
        await bootstrap(client)
        changed = await client.get(CUSTOM_RESOURCE_DEFINITIONS, FAULTS)
        assert pending(changed) is not None
        assert changed["metadata"]["uid"] == definition["metadata"]["uid"]
        role = await client.get(CLUSTER_ROLES, AGENT)
        wanted = next(d for d in documents(1) if d["metadata"]["name"] == AGENT)
        assert role["rules"] == wanted["rules"]

    story_run(story)


def test_what_somebody_else_has_written_to_is_left_alone(story_run, monkeypatch, caplog):
    async def story(server, client):
        await begin_older(client, monkeypatch)
        user = LocalClient(server, "system:admin", "kubectl-edit")
        definition = copy.deepcopy(await user.get(CUSTOM_RESOURCE_DEFINITIONS, FAULTS))
        definition["spec"]["names"]["shortNames"] = ["mishaps"]
        await user.update(CUSTOM_RESOURCE_DEFINITIONS, definition)
        await bootstrap(client)
        kept = await client.get(CUSTOM_RESOURCE_DEFINITIONS, FAULTS)
        assert kept["spec"]["names"]["shortNames"] == ["mishaps"]
        assert pending(kept) is None
        assert f"CustomResourceDefinition {FAULTS} is left as kubectl-edit has it" in caplog.text

    story_run(story)


def test_the_same_version_writes_nothing_again(story_run):
    async def story(server, client):
        await bootstrap(client)
        before = server.store.revision
        await bootstrap(client)
        assert server.store.revision == before

    story_run(story)


@pytest.mark.parametrize("with_fabric", [False, True])
def test_what_a_cluster_has_from_the_start_is_valid(story_run, with_fabric):
    """The cluster's own client says so, and nobody looks again."""

    async def story(_, client):
        await bootstrap(client, with_fabric=with_fabric)

    story_run(story)


def test_a_cluster_starts_without_compiling_rules(monkeypatch):
    """Each environment of CEL costs ten milliseconds, and the first one 10 MB."""
    asked = []

    def rules_of(schema):
        asked.append(schema)
        return Rules(RuleNode(schema), [])

    monkeypatch.setattr(custom, "rules_of", rules_of)

    async def story(cluster):
        assert (await cluster.client.list(CUSTOM_RESOURCE_DEFINITIONS)).items

    run_virtual(story)
    assert asked == []
