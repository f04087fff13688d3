"""Small stocks of devices and claims for tests of the allocator."""

from __future__ import annotations

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    AttributeValue,
    ClaimSpec,
    Constraint,
    CounterUse,
    DeviceClass,
    Request,
    RequestEntry,
    SelectorError,
    Slice,
)


def selects(expression, driver, device):
    """A tiny selector language: ``any``, or ``kind=value`` about the attribute d/kind.

    ``!kind=value`` fails at run time on a device without that attribute.
    """
    if expression == "any":
        return True
    if expression == "broken":
        raise SelectorError("does not compile", compile_time=True)
    name, _, value = expression.partition("=")
    found = device.attributes.get(f"d/{name.removeprefix('!')}")
    if found is None and name.startswith("!"):
        raise SelectorError(f"no such key: {name[1:]}", compile_time=False)
    return found is not None and value in found.values


def derives(expression, driver, device):
    """``name`` is the attribute d/name; ``name[i:j]`` a part of its text; missing is an error."""
    name, _, part = expression.partition("[")
    found = device.attributes.get(f"d/{name}")
    if found is None:
        raise SelectorError(f"no such key: {name}", compile_time=False)
    if not part:
        return found
    begin, end = (int(n) for n in part.rstrip("]").split(":"))
    return AttributeValue("string", frozenset(v[begin:end] for v in found.values))


def text(value):
    return AttributeValue("string", frozenset((value,)))


def inventory(devices, *, best_fit=False, counters=(), driver="d", pool="p", into=None, **more):
    """One pool on the node ``n``; ``more`` are fields of its slice."""
    found = into or Inventory(selects, best_fit=best_fit, derives=derives)
    found.set_class(DeviceClass("any", ("any",)))
    slices = more.pop("slice_count", 2 if counters else 1)
    where = {"node_name": "n", "generation": 1, **more}
    generation = where.pop("generation")
    found.set_slice(
        Slice(f"{driver}-{pool}", driver, pool, generation, slices, tuple(devices), **where)
    )
    if counters:
        name, sets = f"{driver}-{pool}-counters", tuple(counters)
        found.set_slice(
            Slice(name, driver, pool, generation, slices, counter_sets=sets, node_name="n")
        )
    return found


def use(amount, counter_set="gpu", counter="memory", groups=()):
    """What a device takes of one counter."""
    return (CounterUse(counter_set, ((counter, amount),), frozenset(groups)),)


def gpu(amount, counter_set="gpu", counter="memory"):
    """A counter set."""
    return (counter_set, ((counter, amount),))


def request(count=1, *selectors, name="r", **more):
    return RequestEntry(name, (Request(name, "any", tuple(selectors), count=count, **more),))


def first_available(*alternatives, name="r"):
    """A prioritised list of (name, fields of a request)."""
    options = tuple(Request(n, "any", **fields) for n, fields in alternatives)
    return RequestEntry(name, options, True)


def spec(*entries, match="", distinct=""):
    constraints = (Constraint((), match, distinct),) if match or distinct else ()
    return ClaimSpec(entries, constraints)


def search(stock, *specs):
    return stock.search("n", {}, [(f"c{i}", s) for i, s in enumerate(specs)])


def run(stock, *specs):
    return search(stock, *specs).run()


def names(allocations):
    return [[result.id.device for result in a.results] for a in allocations]
