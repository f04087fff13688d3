"""Whatever is allocated, given back and republished, nothing is ever given away twice."""

from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Capacity,
    ClaimSpec,
    CounterUse,
    Device,
    DeviceClass,
    Request,
    RequestEntry,
    RequestPolicy,
    Slice,
)

DRIVER, NODE = "d.example.com", "n"
MEMORY = 8


def partitions(gpu, parts):
    """Parts of one GPU and the whole over one counter set."""
    sizes = [MEMORY // parts] * parts + [MEMORY]
    return [
        Device(f"gpu{gpu}-{i}", consumes=(CounterUse(f"set{gpu}", (("memory", size),)),))
        for i, size in enumerate(sizes)
    ]


def shared(index):
    policy = RequestPolicy(default=2, minimum=1, maximum=MEMORY, step=1)
    return Device(
        f"shared{index}", capacity={"memory": Capacity(MEMORY, policy)}, allow_multiple=True
    )


class Devices(RuleBasedStateMachine):
    """A pool that is republished with other partitions while claims come and go."""

    def __init__(self):
        super().__init__()
        self.inventory = Inventory(lambda expression, driver, device: True)
        self.inventory.set_class(DeviceClass("all"))
        self.generation = 0
        self.held = {}
        self.made = 0
        # What each device in use took of counters when it was allocated.
        self.took = {}
        self.publish(1, [2, 4], 1)

    @rule(
        plain=st.integers(0, 2),
        parts=st.lists(st.sampled_from([1, 2, 4, 8]), max_size=2),
        shares=st.integers(0, 2),
        takes=st.integers(0, 2),
    )
    def publish(self, plain, parts, shares, takes=0):
        """``takes`` is what a plain device takes of a counter, which may be nothing."""
        old = tuple(self.inventory.slices)
        self.generation += 1
        uses = (CounterUse("set0", (("memory", takes),)),) if takes and parts else ()
        devices = [Device(f"plain{i}", consumes=uses) for i in range(plain)]
        devices += [d for gpu, n in enumerate(parts) for d in partitions(gpu, n)]
        devices += [shared(i) for i in range(shares)]
        sets = tuple((f"set{gpu}", (("memory", MEMORY),)) for gpu in range(len(parts)))
        named = {"node_name": NODE}
        count = 2 if sets else 1
        where = (DRIVER, NODE, self.generation, count)
        self.inventory.set_slice(Slice(f"a{self.generation}", *where, tuple(devices), **named))
        if sets:
            self.inventory.set_slice(
                Slice(f"b{self.generation}", *where, counter_sets=sets, **named)
            )
        for name in old:
            self.inventory.remove_slice(name)

    @rule(count=st.integers(1, 3), memory=st.none() | st.integers(1, MEMORY), admin=st.booleans())
    def allocate(self, count, memory, admin):
        capacity = None if memory is None else (("memory", memory),)
        request = Request("r", "all", count=count, admin_access=admin or None, capacity=capacity)
        before = self.usage()
        spec = ClaimSpec((RequestEntry("r", (request,)),))
        found = self.inventory.search(NODE, {}, [("c", spec)]).run()
        assert self.usage() == before, "looking takes nothing"
        if found is None:
            return
        (allocation,) = found
        assert len(allocation.results) == count
        for result in allocation.results:
            if not admin and not result.shared:
                assert not self.inventory.ledger.in_use(result.id)
        for result in allocation.results:
            if not admin and not self.inventory.ledger.in_use(result.id):
                self.took[result.id] = self.inventory.device(result.id).consumes
        self.inventory.enter(allocation)
        self.held[self.made] = allocation
        self.made += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data):
        allocation = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        self.inventory.take_out(allocation)
        for result in allocation.results:
            if not self.inventory.ledger.in_use(result.id):
                self.took.pop(result.id, None)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def take_out_for_a_moment(self, data):
        """As preemption does to see whether it helps; whatever was published since."""
        allocation = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        before = self.inventory.counters_left((DRIVER, NODE))
        self.inventory.enter(allocation, self.inventory.take_out(allocation))
        assert self.inventory.counters_left((DRIVER, NODE)) == before

    def usage(self):
        ledger = self.inventory.ledger
        return {d: dict(ledger.consumed(d)) for d in sorted(ledger.devices())}

    @invariant()
    def counters_hold_what_was_taken_of_them(self):
        """However the pool has been published since: kubernetes#140802."""
        used = {}
        for uses in self.took.values():
            for use in uses:
                amount = sum(a for _, a in use.counters)
                used[use.counter_set] = used.get(use.counter_set, 0) + amount
        assert all(amount <= MEMORY for amount in used.values()), used

    @invariant()
    def the_book_is_consistent(self):
        self.inventory.ledger.check()

    @invariant()
    def exclusive_devices_have_one_holder(self):
        holders = {}
        for allocation in self.held.values():
            for result in allocation.results:
                if not result.admin_access and not result.shared:
                    assert result.id not in holders
                    holders[result.id] = allocation

    @invariant()
    def shares_stay_within_capacity(self):
        for device in self.inventory.ledger.devices():
            amounts = self.inventory.ledger.consumed(device)
            assert amounts.get("memory", Fraction(0)) <= MEMORY

    def teardown(self):
        for allocation in self.held.values():
            self.inventory.take_out(allocation)
        assert not list(self.inventory.ledger.devices()), "giving back restores"


Devices.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestDevices = Devices.TestCase
