"""A forwarded connection is closed however its forwarding ends."""

import asyncio

import pytest

from kubarium.server.exec_portforward import PortForward, _Pair


class Port:
    """A pod's port that says nothing."""

    def __init__(self):
        self.closed = False

    async def read(self):
        await asyncio.Event().wait()

    async def write(self, data):
        await asyncio.Event().wait()

    def close_input(self):
        pass

    def close(self):
        self.closed = True

    async def open_port(self, namespace, name, port):
        return self


@pytest.mark.parametrize("times", [1, 2], ids=["cancelled", "cancelled twice"])
def test_a_forwarded_connection_is_closed(times):
    async def play():
        port, pair = Port(), _Pair(80)
        forwarding = asyncio.ensure_future(PortForward(None, port, "default", "p")._connect(pair))
        pair.incoming.put_nowait(b"x")
        for _ in range(3):
            await asyncio.sleep(0)
        for _ in range(times):  # by the stream's reset, and by the end of all streams
            forwarding.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await forwarding
        assert port.closed

    asyncio.run(play())
