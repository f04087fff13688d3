"""What servers beside ours are told of who may call them."""

from __future__ import annotations

import json

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import CONFIG_MAPS
from kubarium.base.chance import Chance
from kubarium.cluster import delegated_authn
from kubarium.cluster.bootstrap import bootstrap
from kubarium.cluster.delegated_authn import NAME, NAMESPACE
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import User
from kubarium.server.authz import Attributes
from kubarium.server.local import LocalClient
from kubarium.server.pki import Authority
from kubarium.store import MemoryStore

TEN_YEARS_S = 3650 * 86400.0


def test_components_with_a_port_of_their_own_may_read_whom_to_believe(tmp_path):
    async def main():
        clock = VirtualClock()
        server = ApiServer(MemoryStore(), Catalog.builtin(), clock, Chance(0))
        client = LocalClient(server, "system:admin", "kubarium")
        await bootstrap(client)
        authority = Authority.open(tmp_path / "pki", clock)
        await delegated_authn.publish(client, authority)
        await delegated_authn.publish(client, authority)
        found = await client.get(CONFIG_MAPS, NAME, NAMESPACE)
        assert found["data"]["client-ca-file"] == authority.ca_pem.decode()
        assert found["data"]["requestheader-client-ca-file"] != authority.ca_pem.decode()
        assert json.loads(found["data"]["requestheader-allowed-names"]) == ["front-proxy-client"]

        def may(user, verb, name=NAME):
            asked = Attributes(User(user), verb, NAMESPACE, resource="configmaps", name=name)
            return server.authorizer.allowed(asked)

        for user in ("system:kube-scheduler", "system:kube-controller-manager"):
            assert all(may(user, verb) for verb in ("get", "list", "watch"))
        assert not may("system:kube-scheduler", "get", "other")
        assert not may("eve", "get")

        await clock.sleep(TEN_YEARS_S)
        renewed = Authority.open(tmp_path / "pki", clock)
        await delegated_authn.publish(client, renewed)
        found = await client.get(CONFIG_MAPS, NAME, NAMESPACE)
        assert (
            found["data"]["client-ca-file"] == renewed.ca_pem.decode() != authority.ca_pem.decode()
        )

    run(main())
