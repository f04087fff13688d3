"""Stand-ins for images that have files, folders and accounts of their own."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from kubarium.api.kinds import SECRETS
from kubarium.node import isolation
from kubarium.node.config import ImageConfig

from .conftest import process_world
from .test_process_pods import available

PASSWD = "root:x:0:0::/root:/bin/sh\nann:x:1000:1007::/home/ann:/bin/sh\n"
IMAGE = ImageConfig(
    "own",
    cmd=("sh",),
    files={"/etc/passwd": PASSWD, "/home/ann/.settings": "at $(POD_IP), $$5\n"},
    folders=("/home/ann",),
)
ANN = {"image": "own", "securityContext": {"runAsUser": 1000}}


@pytest.fixture(params=[isolation.USER_NAMESPACE, isolation.ROOT])
def level(request):
    if not available(request.param):
        pytest.skip(f"isolation level {request.param} is not to be had on this machine")
    return request.param


def test_a_container_sees_the_images_own_files_and_may_write_to_its_folders(level):
    async def main():
        async with process_world(level, images=(IMAGE,)) as world:
            await world.pod(
                "own",
                "id -un; id -g; echo ~; cat ~/.settings; cd ~ && echo mine > new && cat new",
                container=ANN,
            )
            said = (await world.output("own")).split("\n")
            address = (await world.get("own"))["status"]["podIP"]
            assert said[:5] == ["ann", "1007", "/home/ann", f"at {address}, $5", "mine"]

    asyncio.run(main())


def test_the_machine_and_the_next_attempt_have_nothing_of_what_is_written_to_them(level):
    async def main():
        async with process_world(level, images=(IMAGE,)) as world:
            script = (
                "! grep more ~/.settings || exit 3; echo more >> ~/.settings || exit 4; "
                "echo more >> /etc/passwd; [ ! -e /kept/again ] || exit 0; "
                "touch /kept/again; exit 1"
            )
            await world.pod(
                "twice",
                script,
                container=ANN
                | {
                    "securityContext": {"runAsUser": 0},
                    "env": [{"name": "HOME", "value": "/home/ann"}],
                    "volumeMounts": [{"name": "kept", "mountPath": "/kept"}],
                },
                volumes=[{"name": "kept", "emptyDir": {}}],
                restartPolicy="OnFailure",
            )
            ended = await world.phase("twice", "Succeeded")
            assert ended["status"]["containerStatuses"][0]["restartCount"] == 1

    before = Path("/etc/passwd").read_text()
    asyncio.run(main())
    assert Path("/etc/passwd").read_text() == before


def test_where_nothing_could_see_them_the_pod_says_so():
    async def main():
        async with process_world(isolation.PLAIN, images=(IMAGE,)) as world:
            await world.pod("own", "true", container=ANN)
            message = await world.waiting("own", "CreateContainerError")
            assert 'image "own" has files of its own (/etc/passwd, /home/ann/.settings)' in message
            assert "see kubarium status" in message

    asyncio.run(main())


def test_a_key_that_its_group_may_read_is_one_that_ssh_takes(level):
    """ssh refuses a key that is its user's own and open to a group; one that is root's and open to
    the pod's group, as ``fsGroup`` makes it, is none of its business."""

    async def main():
        async with process_world(level, images=(IMAGE,)) as world:
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "keys"},
                "data": {"key": base64.b64encode(b"secret").decode()},
            }
            await world.create(SECRETS, secret)
            item = {"key": "key", "path": "id_rsa", "mode": 0o640}
            await world.pod(
                "keys",
                "stat -L -c '%u %g %a' /keys/id_rsa; cat /keys/id_rsa",
                container=ANN | {"volumeMounts": [{"name": "keys", "mountPath": "/keys"}]},
                volumes=[{"name": "keys", "secret": {"secretName": "keys", "items": [item]}}],
                securityContext={"fsGroup": 1007},
            )
            stat, content = (await world.output("keys")).splitlines()
            root = level == isolation.ROOT
            assert stat == ("0 1007 640" if root else "1000 1007 600")
            assert content == "secret"

    asyncio.run(main())
