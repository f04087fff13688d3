"""Progress of training: who may report it, for what, and what becomes of it."""

import json

import pytest

from kubarium.api.crds.definition import bundled
from kubarium.api.kinds import (
    CLUSTER_TRAINING_RUNTIMES,
    CUSTOM_RESOURCE_DEFINITIONS,
    SERVICE_ACCOUNTS,
    TRAIN_JOBS,
)
from kubarium.base.chance import Chance
from kubarium.cluster import training
from kubarium.server.authn import Authenticator, User
from kubarium.server.http import ApiApplication
from kubarium.server.pki import Authority
from kubarium.server.tokens import ServiceAccountTokens, StaticTokens, store_lookup

JOB = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/default/trainjobs/job/status"
AUDIENCE = "trainer.kubeflow.org/v1alpha1/namespaces/default/trainjobs/job/status"
NOW = "2026-11-28T12:00:00Z"


@pytest.fixture
def key(tmp_path):
    class Clock:
        def now(self):
            return 0.0

    return Authority.open(tmp_path, Clock()).service_account_key()


@pytest.fixture
def tell(http_world, key):
    """A story in a world with a TrainJob; the world can issue tokens."""

    def run(story):
        async def main(world, http):
            tokens = ServiceAccountTokens(
                key, store_lookup(world.store), world.clock, Chance(1).fork("tokens")
            )
            static = StaticTokens({"admin-token": User("admin", groups=("system:masters",))})
            authenticator = Authenticator([tokens, static], world.server.authorizer.confirm_access)
            http.application = ApiApplication(world.server, authenticator, "test")
            for definition in bundled():
                await world.client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
            for runtime in training.runtimes():
                await world.client.create(CLUSTER_TRAINING_RUNTIMES, runtime)
            await world.client.create(
                TRAIN_JOBS,
                {
                    "metadata": {"name": "job"},
                    "spec": {"runtimeRef": {"name": "torch-distributed"}},
                },
                "default",
            )
            account = await world.client.create(
                SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default"
            )

            async def post(body, path=JOB, audience=AUDIENCE, token=None):
                held = token
                if held is None:
                    held = tokens.issue(account, audiences=[audience]).token
                headers = {"authorization": f"Bearer {held}", "content-type": "application/json"}
                return await http("POST", path, body, headers)

            await story(world, post)

        http_world(main)

    return run


async def status(world):
    return (await world.client.get(TRAIN_JOBS, "job", "default")).get("status", {})


def test_a_report_replaces_the_one_before(tell):
    async def story(world, post):
        first = {
            "progressPercentage": 10,
            "estimatedRemainingSeconds": 90,
            "metrics": [{"name": "loss", "value": "0.5"}],
            "lastUpdatedTime": "2026-11-28T13:00:00.123456+01:00",
        }
        answer = await post({"trainerStatus": first})
        assert (answer.status, answer.json["trainerStatus"]["progressPercentage"]) == (200, 10)
        assert (await status(world))["trainerStatus"] == {**first, "lastUpdatedTime": NOW}
        second = {"progressPercentage": 20, "lastUpdatedTime": NOW}
        assert (await post({"trainerStatus": second})).status == 200
        assert (await status(world))["trainerStatus"] == second

    tell(story)


def test_an_empty_report_changes_nothing(tell):
    async def story(world, post):
        answer = await post({})
        assert (answer.status, answer.json) == (200, {})
        assert "trainerStatus" not in await status(world)

    tell(story)


@pytest.mark.parametrize(
    "audience",
    ["https://kubernetes.default.svc.cluster.local", AUDIENCE.replace("/job/", "/other/")],
)
def test_a_token_is_good_for_one_trainjob_only(tell, audience):
    async def story(world, post):
        answer = await post({"trainerStatus": {"lastUpdatedTime": NOW}}, audience=audience)
        assert (answer.status, answer.json["reason"]) == (403, "Forbidden")

    tell(story)


@pytest.mark.parametrize("token", ["", "admin-token", "a.b.c"])
def test_nobody_else_may_report(tell, token):
    async def story(world, post):
        assert (await post({"trainerStatus": {}}, token=token)).status == 403

    tell(story)


def test_the_token_opens_nothing_else(tell):
    async def story(world, post):
        path = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/default/trainjobs"
        assert (await post({"metadata": {"name": "x"}}, path=path)).status == 401

    tell(story)


def test_a_token_of_another_namespace_is_refused(tell):
    async def story(world, post):
        audience = AUDIENCE.replace("/default/", "/other/")
        answer = await post({}, path=JOB.replace("/default/", "/other/"), audience=audience)
        assert answer.status == 403

    tell(story)


def test_a_trainjob_that_is_gone_is_404(tell):
    async def story(world, post):
        audience = AUDIENCE.replace("/job/", "/gone/")
        body = {"trainerStatus": {"lastUpdatedTime": NOW}}
        answer = await post(body, path=JOB.replace("/job/", "/gone/"), audience=audience)
        assert (answer.status, answer.json["message"]) == (404, "Train job not found")

    tell(story)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Invalid payload"),
        ([], "an object is wanted"),
        ({"trainerStatus": 3}, "must be an object"),
        ({"trainerStatus": {"lastUpdatedTime": "now"}}, "not a time of RFC 3339: 'now'"),
        ({"trainerStatus": {"lastUpdatedTime": "2026-11-28T12:00:00"}}, "not a time"),
        ({"trainerStatus": {"metrics": [1], "lastUpdatedTime": NOW}}, "metrics must be a list"),
        ({"trainerStatus": {"progressPercentage": 5}}, "lastUpdatedTime is required"),
        ({"trainerStatus": {"progressPercentage": 101, "lastUpdatedTime": NOW}}, "101"),
        ({"trainerStatus": {"progressPercentage": "5", "lastUpdatedTime": NOW}}, "progress"),
        (
            {"trainerStatus": {"metrics": [{"name": "loss"}], "lastUpdatedTime": NOW}},
            "Required value",
        ),
    ],
)
def test_nonsense_is_422_and_says_what(tell, body, says):
    async def story(world, post):
        answer = await post(body)
        assert answer.status == 422
        assert says in answer.json["message"]
        assert "trainerStatus" not in await status(world)

    tell(story)


def test_a_report_has_a_limit(tell):
    async def story(world, post):
        body = json.dumps({"trainerStatus": {"x": "y" * (1 << 16)}}).encode()
        assert (await post(body)).status == 413

    tell(story)
