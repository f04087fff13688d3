"""The quota tree against sums taken by hand and against brute force."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kubarium.engine.queueing.quota import (
    MAX_PARENTS,
    TOO_MANY_PARENTS,
    NodeSpec,
    Quota,
    QuotaTree,
    lowest_fitting_height,
)

CPU = ("default", "cpu")
QUEUES = ["a", "b", "c", "d"]
COHORTS = ["x", "y", "z"]


def limits():
    return st.none() | st.integers(0, 6)


@st.composite
def specs(draw):
    """Queues and cohorts in a tree: parents come from further down the list, so no circle."""
    cohorts = []
    for index, name in enumerate(COHORTS):
        parent = draw(st.sampled_from(["", *COHORTS[index + 1 :]]))
        has_parent = bool(parent)
        quota = Quota(
            draw(st.integers(0, 6)),
            draw(limits()) if has_parent else None,
            draw(limits()) if has_parent else None,
        )
        cohorts.append(NodeSpec(name, parent, {CPU: quota}))
    queues = []
    for name in QUEUES:
        parent = draw(st.sampled_from(["", *COHORTS]))
        nominal = draw(st.integers(0, 8))
        borrowing = draw(limits()) if parent else None
        lending = draw(st.none() | st.integers(0, nominal)) if parent else None
        queues.append(NodeSpec(name, parent, {CPU: Quota(nominal, borrowing, lending)}))
    return queues, cohorts


def brute_force_available(tree, queue):
    """The largest amount that, charged to the queue, breaks no limit anywhere."""
    best = None
    for amount in range(-40, 80):
        twin = tree.fork()
        node = twin.queues[queue.name]
        if amount > 0:
            node.add(CPU, amount)
        if amount <= 0 or respects(twin, node):
            best = amount
    return best


def respects(tree, queue):
    """Root within its quota; every node on the path within its borrowing limit."""
    for node in (queue, *queue.path_to_root()):
        used = node.usage.get(CPU, 0)
        if node.parent is None:
            if used > node.subtree_quota.get(CPU, 0):
                return False
        else:
            limit = node.quota(CPU).borrowing_limit
            if limit is not None and used > node.subtree_quota.get(CPU, 0) + limit:
                return False
    return True


@settings(max_examples=150, deadline=None)
@given(specs(), st.lists(st.tuples(st.sampled_from(QUEUES), st.integers(0, 6)), max_size=5))
def test_available_is_the_most_that_breaks_no_limit(world, charges):
    tree = QuotaTree.build(*world)
    for name, amount in charges:
        node = tree.queues[name]
        if amount <= node.available(CPU):
            node.add(CPU, amount)
    for queue in tree.queues.values():
        assert max(0, queue.available(CPU)) == brute_force_available(tree, queue)


@settings(max_examples=100, deadline=None)
@given(specs())
def test_potential_is_what_is_available_in_an_empty_tree(world):
    tree = QuotaTree.build(*world)
    for queue in tree.queues.values():
        assert queue.potential_available(CPU) == queue.available(CPU)


@settings(max_examples=100, deadline=None)
@given(specs(), st.data())
def test_removing_what_was_added_restores_every_usage(world, data):
    tree = QuotaTree.build(*world)
    charged = []
    for _ in range(data.draw(st.integers(1, 8))):
        node = tree.queues[data.draw(st.sampled_from(QUEUES))]
        amount = data.draw(st.integers(0, 9))  # over-admission included
        node.add(CPU, amount)
        charged.append((node, amount))
        tree.check()
    order = data.draw(st.permutations(charged))
    for node, amount in order:
        node.remove(CPU, amount)
        tree.check()
    assert all(not any(node.usage.values()) for node in tree.nodes())


@settings(max_examples=100, deadline=None)
@given(
    specs(),
    st.lists(st.tuples(st.sampled_from(QUEUES), st.integers(0, 9)), max_size=4),
    st.lists(st.tuples(st.sampled_from(QUEUES), st.integers(-9, 9)), max_size=4),
)
def test_what_is_charged_and_discharged_leaves_no_trace_be_it_negative(world, held, tried):
    """An elastic workload may want less of one resource and more of another."""
    tree = QuotaTree.build(*world)
    for name, amount in held:
        tree.queues[name].charge({CPU: amount})
    before = {repr(node): dict(node.usage) for node in tree.nodes()}
    for name, amount in tried:
        tree.queues[name].charge({CPU: amount})
    for name, amount in reversed(tried):
        tree.queues[name].discharge({CPU: amount})
    after = {repr(node): dict(node.usage) for node in tree.nodes()}
    assert {n: {k: v for k, v in u.items() if v} for n, u in after.items()} == {
        n: {k: v for k, v in u.items() if v} for n, u in before.items()
    }


@settings(max_examples=100, deadline=None)
@given(specs(), st.sampled_from(QUEUES), st.integers(0, 20))
def test_the_lowest_fitting_subtree_holds_the_amount(world, name, amount):
    tree = QuotaTree.build(*world)
    node = tree.queues[name]
    height, below_root = lowest_fitting_height(node, CPU, amount)
    if not node.borrows(CPU, amount):
        assert height == 0
    assert 0 <= height <= node.root.height()
    assert below_root <= (node.parent is not None)


class QuotaMachine(RuleBasedStateMachine):
    """Whatever is charged only where it fits, no root ever holds more than it owns."""

    @initialize(world=specs())
    def build(self, world):
        self.tree = QuotaTree.build(*world)
        self.held = []

    @rule(name=st.sampled_from(QUEUES), amount=st.integers(1, 7))
    def admit(self, name, amount):
        node = self.tree.queues[name]
        if node.fits({CPU: amount}):
            node.add(CPU, amount)
            self.held.append((name, amount))

    @rule(data=st.data())
    def release(self, data):
        if self.held:
            index = data.draw(st.integers(0, len(self.held) - 1))
            name, amount = self.held.pop(index)
            self.tree.queues[name].remove(CPU, amount)

    @rule()
    def fork_is_equal_and_apart(self):
        twin = self.tree.fork()
        twin.check()
        for node in twin.queues.values():
            node.add(CPU, 1)

    @invariant()
    def sums_hold(self):
        if hasattr(self, "tree"):
            self.tree.check()
            for root in self.tree.roots():
                assert root.usage.get(CPU, 0) <= root.subtree_quota.get(CPU, 0)
            total = sum(amount for _, amount in self.held)
            assert sum(q.usage.get(CPU, 0) for q in self.tree.queues.values()) == total


TestQuotaMachine = QuotaMachine.TestCase
TestQuotaMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_lending_limit_keeps_quota_at_home():
    tree = QuotaTree.build(
        [NodeSpec("lender", "x", {CPU: Quota(10, lending_limit=3)}), NodeSpec("taker", "x", {})]
    )
    assert tree.queues["taker"].available(CPU) == 3
    tree.queues["lender"].add(CPU, 7)
    assert tree.queues["taker"].available(CPU) == 3  # seven of the ten were never to be lent
    tree.queues["lender"].add(CPU, 1)
    assert tree.queues["taker"].available(CPU) == 2


def test_borrowing_limit_caps_what_a_queue_takes_from_its_cohort():
    tree = QuotaTree.build(
        [
            NodeSpec("a", "x", {CPU: Quota(2, borrowing_limit=1)}),
            NodeSpec("b", "x", {CPU: Quota(5)}),
        ]
    )
    assert tree.queues["a"].available(CPU) == 3
    assert tree.queues["b"].available(CPU) == 7


def test_a_circle_of_cohorts_disables_its_queues_only():
    tree = QuotaTree.build(
        [NodeSpec("in", "x", {CPU: Quota(1)}), NodeSpec("out", "", {CPU: Quota(1)})],
        [NodeSpec("x", "y"), NodeSpec("y", "x"), NodeSpec("w", "y")],
    )
    assert list(tree.left_out) == ["w", "x", "y"]
    assert list(tree.queues) == ["out"]
    tree.check()


def test_available_is_negative_after_quota_was_taken_away():
    tree = QuotaTree.build([NodeSpec("a", "", {CPU: Quota(2)})])
    tree.queues["a"].add(CPU, 5)
    assert tree.queues["a"].available(CPU) == -3
    assert not tree.queues["a"].fits({CPU: 1})
    assert tree.queues["a"].fits({CPU: 0})


def test_a_chain_of_too_many_cohorts_is_left_out_and_the_rest_counts():
    quota = {CPU: Quota(5)}
    chain = [NodeSpec(f"c{n:04}", f"c{n - 1:04}" if n else "") for n in range(1500)]
    queues = [NodeSpec("deep", "c1499", quota), NodeSpec("fine", f"c{MAX_PARENTS:04}", quota)]
    tree = QuotaTree.build(queues, chain)
    assert list(tree.queues) == ["fine"]
    assert tree.queues["fine"].available(CPU) == 5
    assert set(tree.left_out.values()) == {TOO_MANY_PARENTS}
    assert list(tree.left_out) == [spec.name for spec in chain[MAX_PARENTS + 1 :]]
    tree.queues["fine"].add(CPU, 3)
    assert tree.cohorts["c0000"].usage == {CPU: 3}
    assert list(tree.queues["fine"].root.queues()) == [tree.queues["fine"]]
    tree.fork().check()
