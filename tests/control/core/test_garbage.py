from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import CONFIG_MAPS, WORKLOAD_PRIORITY_CLASSES
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.runtime.virtual import run
from kubarium.runtime.writes import owner_reference


def collector(world):
    return GarbageCollector(world.context, ServedResources(world.context))


def config_map(name, *owners, block=False, **metadata):
    references = [
        owner_reference(owner, controller=False, block_owner_deletion=block) for owner in owners
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": references, **metadata},
    }


def test_background_deletion_takes_the_whole_tree(world_run):
    async def story(world):
        await world.start(collector(world))
        root = await world.create(CONFIG_MAPS, config_map("root"))
        child = await world.create(CONFIG_MAPS, config_map("child", root))
        await world.create(CONFIG_MAPS, config_map("grandchild", child))
        await world.create(CONFIG_MAPS, config_map("other"))
        await world.settle()
        assert len(await world.names(CONFIG_MAPS)) == 4
        await world.client.delete(CONFIG_MAPS, "root", "default")
        await world.settle()
        assert await world.names(CONFIG_MAPS) == ["other"]

    world_run(story)


def test_one_living_owner_is_enough(world_run):
    async def story(world):
        await world.start(collector(world))
        first = await world.create(CONFIG_MAPS, config_map("first"))
        second = await world.create(CONFIG_MAPS, config_map("second"))
        await world.create(CONFIG_MAPS, config_map("child", first, second))
        await world.client.delete(CONFIG_MAPS, "first", "default")
        await world.settle()
        child = await world.get(CONFIG_MAPS, "child")
        [reference] = child["metadata"]["ownerReferences"]
        assert reference["uid"] == second["metadata"]["uid"]

    world_run(story)


def test_foreground_deletion_waits_for_blocking_dependents(world_run):
    async def story(world):
        await world.start(collector(world))
        root = await world.create(CONFIG_MAPS, config_map("root"))
        held = config_map("held", root, block=True, finalizers=["example.com/hold"])
        await world.create(CONFIG_MAPS, held)
        await world.create(CONFIG_MAPS, config_map("free", root))
        await world.settle()
        await world.client.delete(CONFIG_MAPS, "root", "default", propagation_policy="Foreground")
        await world.settle()
        assert await world.names(CONFIG_MAPS) == ["held", "root"]
        patch = {"metadata": {"finalizers": None}}
        await world.client.patch(CONFIG_MAPS, "held", patch, "default")
        await world.settle()
        assert await world.names(CONFIG_MAPS) == []

    world_run(story)


def test_orphaned_dependents_lose_the_reference_and_stay(world_run):
    async def story(world):
        await world.start(collector(world))
        root = await world.create(CONFIG_MAPS, config_map("root"))
        await world.create(CONFIG_MAPS, config_map("child", root))
        await world.settle()
        await world.client.delete(CONFIG_MAPS, "root", "default", propagation_policy="Orphan")
        await world.settle()
        child = await world.get(CONFIG_MAPS, "child")
        assert not child["metadata"].get("ownerReferences")
        assert await world.names(CONFIG_MAPS) == ["child"]

    world_run(story)


def test_an_owner_that_never_was_leads_to_deletion(world_run):
    async def story(world):
        await world.start(collector(world))
        ghost = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "ghost", "uid": "00000000-0000-4000-8000-000000000000"},
        }
        await world.create(CONFIG_MAPS, config_map("child", ghost))
        await world.settle()
        assert await world.names(CONFIG_MAPS) == []

    world_run(story)


def test_another_object_of_the_owners_name_is_not_the_owner(world_run):
    async def story(world):
        await world.start(collector(world))
        root = await world.create(CONFIG_MAPS, config_map("root"))
        await world.client.delete(CONFIG_MAPS, "root", "default")
        await world.create(CONFIG_MAPS, config_map("root"))
        await world.create(CONFIG_MAPS, config_map("child", root))
        await world.settle()
        assert await world.names(CONFIG_MAPS) == ["root"]

    world_run(story)


def test_an_owner_of_an_unknown_kind_is_not_taken_for_absent(world_run):
    async def story(world):
        await world.start(collector(world))
        strange = {
            "apiVersion": "example.com/v1",
            "kind": "Strange",
            "metadata": {"name": "s", "uid": "00000000-0000-4000-8000-000000000000"},
        }
        await world.create(CONFIG_MAPS, config_map("child", strange))
        await world.settle(300)
        assert await world.names(CONFIG_MAPS) == ["child"]

    world_run(story)


def test_owners_of_custom_kinds_are_found(world_run):
    async def story(world):
        await world.install("kueue.x-k8s.io")
        await world.start(collector(world))
        importance = {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "WorkloadPriorityClass",
            "metadata": {"name": "f"},
            "value": 1,
        }
        owner = await world.create(WORKLOAD_PRIORITY_CLASSES, importance)
        await world.create(CONFIG_MAPS, config_map("child", owner))
        await world.settle()
        assert await world.names(CONFIG_MAPS) == ["child"]
        await world.client.delete(WORKLOAD_PRIORITY_CLASSES, "f")
        await world.settle()
        assert await world.names(CONFIG_MAPS) == []

    world_run(story)


def test_a_circle_of_foreground_deletions_ends(world_run):
    async def story(world):
        await world.start(collector(world))
        first = await world.create(CONFIG_MAPS, config_map("first"))
        second = await world.create(CONFIG_MAPS, config_map("second", first, block=True))
        references = [owner_reference(second, controller=False)]
        patch = {"metadata": {"ownerReferences": references}}
        await world.client.patch(CONFIG_MAPS, "first", patch, "default")
        await world.settle()
        await world.client.delete(CONFIG_MAPS, "first", "default", propagation_policy="Foreground")
        await world.settle(30)
        assert await world.names(CONFIG_MAPS) == []

    world_run(story)


def test_unrelated_changes_cause_no_collecting(world_run):
    async def story(world):
        gc = collector(world)
        await world.start(gc)
        root = await world.create(CONFIG_MAPS, config_map("root"))
        await world.create(CONFIG_MAPS, config_map("child", root))
        await world.settle()
        before = gc.controller.reconciles
        for count in range(200):
            patch = {"data": {"count": str(count)}}
            await world.client.patch(CONFIG_MAPS, "child", patch, "default")
        await world.settle()
        assert gc.controller.reconciles == before
        gc.graph.check()

    world_run(story)


FORESTS = st.lists(st.integers(0, 5), min_size=1, max_size=8)
POLICIES = st.sampled_from(["Background", "Foreground"])


@given(parents=FORESTS, removed=st.integers(0, 7), policy=POLICIES)
@settings(max_examples=40, deadline=None)
def test_what_has_lost_all_owners_goes_and_nothing_else(world_class, parents, removed, policy):
    """Object i is owned by object parents[i] when that is an earlier one, else by nobody."""
    owner_of = {i: p for i, p in enumerate(parents) if p < i}
    removed %= len(parents)
    doomed = {removed}
    for child, owner in owner_of.items():
        if owner in doomed:
            doomed.add(child)

    async def main():
        world = world_class()
        gc = collector(world)
        await world.start(gc)
        made = []
        for i in range(len(parents)):
            owners = [made[owner_of[i]]] if i in owner_of else []
            made.append(await world.create(CONFIG_MAPS, config_map(f"o{i}", *owners, block=True)))
        await world.settle()
        await world.client.delete(CONFIG_MAPS, f"o{removed}", "default", propagation_policy=policy)
        await world.settle(30)
        gc.graph.check()
        return await world.names(CONFIG_MAPS)

    assert run(main()) == [f"o{i}" for i in range(len(parents)) if i not in doomed]
