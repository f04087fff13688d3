"""A fresh API server on virtual time for each story, and short ways to make objects."""

import asyncio
import copy
import json

import orjson
import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import NAMESPACES, NODES, PODS
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import Authenticator, User
from kubarium.server.http import ApiApplication
from kubarium.server.local import LocalClient
from kubarium.server.tokens import StaticTokens
from kubarium.store import MemoryStore


class World:
    """An API server with the namespace ``default``, and a client with all rights."""

    def __init__(self):
        self.store = MemoryStore()
        self.clock = VirtualClock()
        self.server = ApiServer(self.store, Catalog.builtin(), self.clock, Chance(1))
        self.client = LocalClient(self.server, "system:tester", "tester")

    async def prepare(self):
        await self.client.create(NAMESPACES, {"metadata": {"name": "default"}})

    async def pod(self, name="web", namespace="default", metadata=None, **spec):
        document = {
            "metadata": {"name": name, **(metadata or {})},
            "spec": {"containers": [{"name": "main", "image": "busybox"}], **spec},
        }
        return await self.client.create(PODS, document, namespace)

    async def node(self, name="n1", **metadata):
        return await self.client.create(NODES, {"metadata": {"name": name, **metadata}})

    async def bind(self, pod, node="n1", namespace="default"):
        target = {"target": {"kind": "Node", "name": node}}
        return await self.client.create(PODS, target, namespace, name=pod, subresource="binding")

    async def refused(self, awaitable):
        """The ApiError that the call raises; fails if it goes through."""
        try:
            result = await awaitable
        except ApiError as error:
            return error
        raise AssertionError(f"not refused: {result}")

    def check(self):
        self.store.check()


@pytest.fixture
def world():
    """Run a story (an async function of a World) on a virtual loop."""

    def tell(story):
        async def main():
            made = World()
            await made.prepare()
            result = await story(made)
            made.check()
            return result

        return run(main())

    return tell


class Untouched:
    """Notices changes of documents that are shared."""

    def __init__(self, *documents):
        self.documents = documents
        self.before = copy.deepcopy(documents)

    def check(self):
        assert self.documents == self.before


@pytest.fixture
def untouched():
    return Untouched


ADMIN_HEADERS = {"authorization": "Bearer admin-token"}


class Response:
    def __init__(self):
        self.status = 0
        self.headers = {}
        self.all_headers = []
        self.body = b""

    @property
    def json(self):
        return orjson.loads(self.body)


class Http:
    """Drives the ASGI application as uvicorn would, without sockets."""

    def __init__(self, world):
        self.world = world
        tokens = StaticTokens({"admin-token": User("admin", groups=("system:masters",))})
        authenticator = Authenticator([tokens], world.server.authorizer.confirm_access)
        self.application = ApiApplication(world.server, authenticator, "test")

    def scope(self, method, target, headers):
        path, _, query = target.partition("?")
        given = ADMIN_HEADERS | {"user-agent": "pytest/1.0"} | (headers or {})
        return {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items() if v],
            "server": ("127.0.0.1", 6443),
        }

    async def __call__(self, method, target, body=b"", headers=None, chunks=None, end_after=None):
        """One exchange; a watch is ended after ``end_after`` chunks of the response."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()  # takes integers of any size
        parts = chunks if chunks is not None else [body]
        messages = [
            {"type": "http.request", "body": part, "more_body": part is not parts[-1]}
            for part in parts
        ]
        gone = asyncio.Event()
        response = Response()
        pieces = []

        async def receive():
            if messages:
                return messages.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                response.status = message["status"]
                response.all_headers = [(k.decode(), v.decode()) for k, v in message["headers"]]
                response.headers = dict(response.all_headers)
            elif message.get("body"):
                pieces.append(message["body"])
                if end_after is not None and len(pieces) >= end_after:
                    gone.set()

        await self.application(self.scope(method, target, headers), receive, send)
        response.body = b"".join(pieces)
        return response


@pytest.fixture
def http_world():
    """Run a story (an async function of a World and its Http) on a virtual loop."""

    def tell(story):
        async def main():
            made = World()
            await made.prepare()
            result = await story(made, Http(made))
            made.check()
            return result

        return run(main())

    return tell
