"""RuntimeClass admission: overhead and scheduling of the class become the pod's."""

from kubarium.api.kinds import RUNTIME_CLASSES

SCHEDULING = {
    "nodeSelector": {"sandboxed": "yes"},
    "tolerations": [{"key": "sandbox", "operator": "Exists", "effect": "NoSchedule"}],
}


async def with_class(w, **more):
    document = {"metadata": {"name": "vm"}, "handler": "kata"}
    await w.client.create(RUNTIME_CLASSES, document | more)


def test_a_class_adds_its_overhead_selector_and_tolerations(world):
    async def story(w):
        overhead = {"podFixed": {"cpu": "250m", "memory": "120Mi"}}
        await with_class(w, overhead=overhead, scheduling=SCHEDULING)
        own = {"key": "mine", "operator": "Exists", "effect": "NoSchedule"}
        pod = await w.pod(
            runtimeClassName="vm",
            nodeSelector={"zone": "a"},
            tolerations=[own, *SCHEDULING["tolerations"]],
        )
        spec = pod["spec"]
        assert spec["overhead"] == overhead["podFixed"]
        assert spec["nodeSelector"] == {"zone": "a", "sandboxed": "yes"}
        keys = [toleration["key"] for toleration in spec["tolerations"]]
        assert keys.count("sandbox") == keys.count("mine") == 1
        same = await w.pod(
            "same", runtimeClassName="vm", overhead={"cpu": "0.25", "memory": "120Mi"}
        )
        assert same["spec"]["overhead"] == overhead["podFixed"]

    world(story)


def test_a_class_that_says_nothing_changes_nothing(world):
    async def story(w):
        await with_class(w)
        spec = (await w.pod(runtimeClassName="vm"))["spec"]
        assert "overhead" not in spec
        assert "nodeSelector" not in spec

    world(story)


def test_what_contradicts_the_class_is_refused(world):
    async def story(w):
        error = await w.refused(w.pod(runtimeClassName="ghost"))
        assert error.code == 403
        assert error.message.endswith('is forbidden: pod rejected: RuntimeClass "ghost" not found')
        await with_class(w, overhead={"podFixed": {"cpu": "1"}}, scheduling=SCHEDULING)
        error = await w.refused(w.pod(runtimeClassName="vm", overhead={"cpu": "2"}))
        assert "Pod's Overhead doesn't match RuntimeClass's defined Overhead" in error.message
        error = await w.refused(w.pod(runtimeClassName="vm", nodeSelector={"sandboxed": "no"}))
        assert (
            "conflict: runtimeClass.scheduling.nodeSelector[sandboxed] = yes; "
            "pod.spec.nodeSelector[sandboxed] = no"
        ) in error.message
        error = await w.refused(w.pod(overhead={"cpu": "1"}))
        assert "Pod Overhead set without corresponding RuntimeClass" in error.message

    world(story)
