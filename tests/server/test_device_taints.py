"""Since when devices are tainted: tolerations with seconds count from there."""

from kubarium.api.kinds import DEVICE_TAINT_RULES, RESOURCE_SLICES
from kubarium.client.protocol import MERGE_PATCH

BEGIN, LATER = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"
GIVEN = "2025-06-01T00:00:00Z"


def resource_slice(*devices):
    pool = {"name": "p", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "d.example.com", "nodeName": "n", "pool": pool, "devices": list(devices)}
    return {"metadata": {"name": "s"}, "spec": spec}


def taint(key="k", effect="NoExecute", **more):
    return {"key": key, "effect": effect, **more}


def times(document):
    devices = document["spec"]["devices"]
    return {(d["name"], t["key"]): t["timeAdded"] for d in devices for t in d.get("taints") or ()}


def test_taints_of_a_slice_are_as_old_as_the_write_that_brings_them(world):
    async def story(w):
        plain = {"name": "g1"}
        tainted = {"name": "g0", "taints": [taint(), taint("set", timeAdded=GIVEN)]}
        made = await w.client.create(RESOURCE_SLICES, resource_slice(tainted, plain))
        assert times(made) == {("g0", "k"): BEGIN, ("g0", "set"): GIVEN}
        await w.clock.sleep(3600)
        more = {**plain, "taints": [taint()]}
        sent = {**made, "spec": resource_slice({**tainted, "taints": [taint()]}, more)["spec"]}
        changed = await w.client.update(RESOURCE_SLICES, sent)
        assert times(changed) == {("g0", "k"): BEGIN, ("g1", "k"): LATER}
        again = await w.client.update(RESOURCE_SLICES, {**changed, "spec": sent["spec"]})
        assert again["metadata"]["generation"] == changed["metadata"]["generation"] == 2
        other = [taint(effect="NoSchedule")]
        sent = {**again, "spec": resource_slice({**tainted, "taints": other}, plain)["spec"]}
        assert times(await w.client.update(RESOURCE_SLICES, sent)) == {("g0", "k"): LATER}

    world(story)


def test_the_time_of_a_rule_follows_its_effect(world):
    async def story(w):
        rule = {"metadata": {"name": "r"}, "spec": {"taint": taint(effect="None")}}
        made = await w.client.create(DEVICE_TAINT_RULES, rule)
        assert made["spec"]["taint"]["timeAdded"] == BEGIN

        async def patched(**change):
            patch = {"spec": {"taint": change}}
            found = await w.client.patch(DEVICE_TAINT_RULES, "r", patch, patch_type=MERGE_PATCH)
            return found["spec"]["taint"]["timeAdded"]

        await w.clock.sleep(3600)
        assert await patched(value="v") == BEGIN
        assert await patched(timeAdded=None) == BEGIN
        assert await patched(effect="NoExecute") == LATER
        assert await patched(effect="NoSchedule", timeAdded=GIVEN) == GIVEN

    world(story)


def test_what_has_no_spec_is_refused_in_words(world):
    async def story(w):
        for resource in (RESOURCE_SLICES, DEVICE_TAINT_RULES):
            error = await w.refused(w.client.create(resource, {"metadata": {"name": "x"}}))
            assert error.reason == "Invalid"

    world(story)
