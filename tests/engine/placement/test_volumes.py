"""Volume claims limit the nodes of their pods."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine import reasons
from kubarium.engine.model import Disk, Gang, Node, Pod, PodShape, Provision, VolumeClaim
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.placement.volumes import _chosen, _match, volume_score, waiting_of
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

from .worlds import snapshot_of

DATA = ("ns", "data")
ZONE = "topology.kubernetes.io/zone"


def on_host(name):
    return (NodeTerm((Requirement("host", "In", (name,)),)),)


def world(claim):
    cluster = [
        Node(n, (("cpu", 1000), ("pods", 10)), {"host": n, ZONE: f"z-{n}"}) for n in ("a", "b")
    ]
    snapshot = snapshot_of(cluster)
    if claim is not None:
        snapshot.volumes[claim.key] = claim
    return Placer(snapshot)


def pod(name="p"):
    return Pod(("ns", name), PodShape(requests=(("cpu", 100),)), volumes=(DATA,))


def test_a_bound_claim_pulls_its_pod_to_the_volumes_node():
    placement = world(VolumeClaim(DATA, terms=on_host("b"))).place(pod())
    assert placement is not None
    assert placement.node == "b"


def test_a_volumes_zone_counts_as_its_label():
    zone = Requirement(ZONE, "In", ("z-b", "z-c"))
    placement = world(VolumeClaim(DATA, zones=(zone,))).place(pod())
    assert placement is not None
    assert placement.node == "b"


def test_nobody_minds_an_unbound_claim_once_the_plugins_that_would_are_off():
    """Upstream: VolumeBinding's and VolumeZone's PreFilter."""
    claim = VolumeClaim(DATA, unbound=True)
    binding, both = frozenset({"VolumeBinding"}), frozenset({"VolumeBinding", "VolumeZone"})
    for off, fits in ((binding, False), (both, True)):
        profile = Profile(disabled=off, unprepared=off)
        assert (Placer(world(claim).snapshot, profile).place(pod()) is not None) == fits
        own = replace(pod(), own_volumes=(DATA,), uid="u")
        assert Placer(world(None).snapshot, profile).place(own) is None  # it must be made first
        mine = world(replace(claim, owner="u")).snapshot
        assert Placer(mine, profile).place(own) is not None


def test_a_claim_that_waits_goes_where_some_volume_can_be_reached():
    placement = world(VolumeClaim(DATA, choices=(("x", on_host("x")), ("b", on_host("b"))))).place(
        pod()
    )
    assert placement is not None
    assert placement.node == "b"
    nowhere = world(VolumeClaim(DATA, choices=()))
    assert nowhere.place(pod()) is None
    assert nowhere.account(pod()).counts == {reasons.VOLUME_BINDING: 2}


def test_a_missing_claim_is_named():
    placer = world(None)
    assert placer.place(pod()) is None
    text = '0/2 nodes are available: persistentvolumeclaim "data" not found.'
    assert placer.account(pod()).message() == text


def test_a_claim_that_is_not_made_yet_for_an_ephemeral_volume_is_waited_for():
    placer = world(None)
    own = replace(pod(), own_volumes=(DATA,))
    assert placer.account(own).everywhere == (
        'waiting for ephemeral volume controller to create the persistentvolumeclaim "data"'
    )


def test_an_exclusive_claim_has_one_pod_at_a_time():
    placer = world(VolumeClaim(DATA, exclusive=True))
    assert placer.place(pod("first")) is not None
    assert placer.place(pod("second")) is None
    assert placer.account(pod("second")).counts == {reasons.VOLUME_IN_USE: 2}
    placer.snapshot.displace(("ns", "first"))
    assert placer.place(pod("second")) is not None


def test_volumes_of_a_driver_are_counted_once_for_each_node():
    placer = world(None)
    snapshot = placer.snapshot
    for i in range(4):
        key = ("ns", f"v{i}")
        snapshot.volumes[key] = VolumeClaim(key, attaches=("csi", str(min(i, 2))))
    snapshot.volume_limits = {"a": {"csi": 2}, "b": {"csi": 0, "other": 9}}

    def using(name, *numbers):
        claims = tuple(("ns", f"v{n}") for n in numbers)
        return Pod(("ns", name), PodShape(requests=(("cpu", 100),)), volumes=claims)

    assert placer.place(using("one", 0, 1)).node == "a"
    assert placer.place(using("same", 0)).node == "a"
    assert placer.place(using("third", 2)) is None
    assert placer.account(using("third", 2)).counts == {reasons.VOLUME_LIMIT: 2}
    snapshot.displace(("ns", "one"))  # volume 1 is free again, 0 still in use
    assert placer.place(using("third", 2)).node == "a"
    # v3 is the same volume as v2: no further attachment.
    assert placer.place(using("again", 3)).node == "a"


def test_what_is_attached_without_a_pod_counts_too():
    placer = world(VolumeClaim(DATA, attaches=("csi", "1")))
    placer.snapshot.volume_limits = {"a": {"csi": 1}, "b": {"csi": 1}}
    placer.snapshot.attachments = {"a": frozenset({("csi", "left-over")})}
    assert placer.place(pod()).node == "b"


def test_one_disk_is_on_a_node_twice_only_to_read():
    def user(name, kind="gce", read_only=False, names=("d",)):
        shape = PodShape(requests=(("cpu", 100),))
        return Pod(("ns", name), shape, disks=(Disk(kind, names, read_only),))

    placer = world(None)
    assert placer.place(user("first", read_only=True)).node == "a"
    assert placer.place(user("writer")).node == "b"
    assert placer.place(user("reader", read_only=True)).node == "a"
    assert placer.place(user("late")) is None
    assert placer.account(user("late")).counts == {reasons.DISK_CONFLICT: 2}
    assert placer.place(user("other", names=("e",))) is not None


def test_a_node_without_zones_takes_any_volume_and_old_labels_match_new_ones():
    zone = Requirement("failure-domain.beta.kubernetes.io/zone", "In", ("z-b",))
    placer = world(VolumeClaim(DATA, zones=(zone,)))
    assert placer.place(pod()).node == "b"
    placer.snapshot.displace(("ns", "p"))
    placer.snapshot.set_node(Node("a", (("cpu", 2000), ("pods", 10)), {"host": "a"}))
    assert placer.place(pod()).node == "a"


def test_a_volume_is_made_only_where_there_is_room():
    room = (LabelSelector((Requirement("host", "In", ("b",)),)),)
    placer = world(VolumeClaim(DATA, choices=(), provision=Provision(None, room)))
    assert placer.place(pod()).node == "b"
    full = world(VolumeClaim(DATA, choices=(), provision=Provision(on_host("a"), ())))
    assert full.account(pod()).counts == {reasons.VOLUME_SPACE: 1, reasons.VOLUME_BINDING: 1}


def test_two_claims_need_two_volumes():
    def claims(*volumes):
        placer = world(None)
        for name in ("x", "y"):
            placer.snapshot.volumes["ns", name] = VolumeClaim(("ns", name), choices=volumes)
        return placer

    both = Pod(("ns", "p"), PodShape(requests=(("cpu", 100),)), volumes=(("ns", "x"), ("ns", "y")))
    one = ("only", on_host("a"))
    assert claims(one).place(both) is None
    assert claims(one).account(both).counts == {reasons.VOLUME_BINDING: 2}
    assert claims(one, ("more", None)).place(both).node == "a"


def test_a_claim_that_was_decided_a_moment_ago_binds_the_next_pod_too():
    placer = world(VolumeClaim(DATA, choices=(), provision=Provision()))
    home = placer.place(pod("first")).node
    assert placer.place(pod("second")).node == home
    # And the volume that one claim takes is not there for another.
    other = ("ns", "other")
    placer = world(VolumeClaim(DATA, choices=(("pv", None),)))
    placer.snapshot.volumes[other] = VolumeClaim(other, choices=(("pv", None),))
    mark = placer.snapshot.checkpoint()
    assert placer.place(pod()) is not None
    late = Pod(("ns", "late"), PodShape(requests=(("cpu", 100),)), volumes=(other,))
    assert placer.place(late) is None
    placer.snapshot.rollback(mark)
    assert placer.place(late) is not None


def _has_room(snapshot, name, wanted):
    """The rule, read plainly off the node's pods."""
    there = snapshot.pods_on[snapshot.rows[name]].values()
    claims = [snapshot.volumes[k] for p in there for k in p.volumes if k in snapshot.volumes]
    used = {claim.attaches for claim in claims}
    attached = len(used | snapshot.attachments.get(name, frozenset()))
    limit = snapshot.volume_limits.get(name, {}).get("csi")
    return limit is None or wanted <= used or attached + len(wanted - used) <= limit


changes = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.integers(0, 5), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("bind"), st.integers(0, 5), st.integers(0, 3)),
        st.tuples(st.just("limit"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("attach"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("gone"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("try"), st.integers(0, 5), st.integers(0, 3)),
    ),
    max_size=25,
)


@given(changes)
def test_what_is_kept_about_attached_volumes_is_what_a_new_count_gives(steps):
    snapshot, names = Snapshot(), [f"n{i}" for i in range(4)]
    wanted = {("csi", "1"), ("csi", "new")}
    for what, number, other in [*(("node", i, 0) for i in range(4)), *steps]:
        key, name = ("ns", f"p{number}"), names[number % 4]
        if what == "node":
            snapshot.set_node(Node(name, (("pods", 20),)))
        elif what == "place":
            snapshot.place(Pod(key, PodShape(), volumes=(key,)), names[other])
        elif what == "leave":
            snapshot.displace(key)
        elif what == "bind":
            snapshot.volumes[key] = VolumeClaim(key, attaches=("csi", str(other)))
            snapshot.volume_changed(key)
        elif what == "limit":
            snapshot.volume_limits[name] = {"csi": other}
            snapshot.volumes_changed_on(name)
        elif what == "attach":
            snapshot.attachments[name] = frozenset({("csi", str(other))})
            snapshot.volumes_changed_on(name)
        elif what == "gone":
            snapshot.remove_node(name)
            snapshot.set_node(Node(name, (("pods", 20),)))
        else:
            mark = snapshot.checkpoint()
            snapshot.place(Pod(key, PodShape(), volumes=(key,)), names[other])
            snapshot.attached.within_limits(snapshot, wanted)
            snapshot.rollback(mark)
        kept = snapshot.attached.within_limits(snapshot, wanted)
        for name in snapshot.rows:
            assert kept[snapshot.rows[name]] == _has_room(snapshot, name, wanted)


def wanting(*names, own=(), uid=""):
    keys = tuple(("ns", name) for name in names)
    shape = PodShape(requests=(("cpu", 100),))
    return Pod(("ns", "p"), shape, uid, volumes=keys, own_volumes=tuple(("ns", n) for n in own))


def with_claims(*claims):
    placer = world(None)
    for claim in claims:
        placer.snapshot.volumes[claim.key] = claim
    return placer


def claim(name, **more):
    return VolumeClaim(("ns", name), **more)


def test_a_node_is_told_of_a_bound_claim_and_of_a_waiting_one_at_once():
    bound = claim("bound", terms=on_host("a"))
    waiting = claim("waiting", choices=(("pv", on_host("a")),))
    placer = with_claims(bound, waiting)
    placer.snapshot.set_node(Node("a", (("cpu", 0), ("pods", 10)), {"host": "a"}))
    assert placer.account(wanting("bound", "waiting")).by_node["b"] == (
        reasons.VOLUME_NODE,
        reasons.VOLUME_BINDING,
    )


def test_the_first_waiting_claim_that_fails_says_why():
    """Volumes that exist are for the smallest claims; then it is asked where others are made."""
    nowhere = claim("large", choices=(), size=2)
    full = claim("small", choices=(), size=1, provision=Provision(None, ()))
    placer = with_claims(nowhere, full)
    assert placer.account(wanting("large", "small")).counts == {reasons.VOLUME_SPACE: 2}
    placer = with_claims(nowhere, replace(full, size=3))
    assert placer.account(wanting("large", "small")).counts == {reasons.VOLUME_BINDING: 2}


def test_a_volume_that_is_being_made_for_a_node_is_waited_for_there():
    made = claim("data", choices=(("pv", None),), selected="b", provision=Provision())
    assert with_claims(made).place(wanting("data")).node == "b"
    gone = replace(made, selected="gone")
    assert with_claims(gone).account(wanting("data")).counts == {reasons.VOLUME_BINDING: 2}
    # It takes no volume that exists: that is for another claim of the pod.
    other = claim("other", choices=(("pv", None),))
    placer = with_claims(made, other)
    assert placer.place(wanting("data", "other")).node == "b"
    assert placer.snapshot.assumed_volumes == {
        ("ns", "data"): ("b", ""),
        ("ns", "other"): ("b", "pv"),
    }


def test_problems_of_claims_come_in_the_order_of_upstreams_plugins():
    lost, unbound = claim("lost", problem="lost"), claim("unbound", unbound=True)
    gone = claim("gone", gone="pv")

    def told(*claims, **more):
        names = [c if isinstance(c, str) else c.key[1] for c in claims]
        placer = with_claims(*(c for c in claims if not isinstance(c, str)))
        return placer.account(wanting(*names, **more)).everywhere

    assert told(unbound, lost, "none") == 'persistentvolumeclaim "none" not found'
    assert told(gone, unbound, lost) == "lost"
    assert told(gone, unbound) == reasons.VOLUMES_UNBOUND
    assert told(gone) == 'persistentvolume "pv" not found'
    assert told(lost, "none", own=["none"]) == "lost"
    assert told("none", lost, own=["none"]) == (
        'waiting for ephemeral volume controller to create the persistentvolumeclaim "none"'
    )


def test_a_lost_volume_and_zones_are_judged_otherwise_for_ephemeral_volumes():
    gone = claim("p-v", gone="pv", owner="u")
    placer = with_claims(gone)
    assert placer.account(wanting("p-v", own=["p-v"], uid="u")).counts == {reasons.VOLUME_GONE: 2}
    zoned = claim("p-v", zones=(Requirement(ZONE, "In", ("z-b",)),), owner="u")
    assert with_claims(zoned).place(wanting("p-v", own=["p-v"], uid="u")).node == "a"
    assert with_claims(zoned).place(wanting("p-v")).node == "b"


def test_a_driver_that_must_be_there_keeps_pods_from_nodes_without_it():
    placer = with_claims(claim("data", attaches=("csi", "1")))
    placer.snapshot.csi_drivers = {"b": frozenset({"csi"})}
    assert placer.place(wanting("data")).node == "a"
    placer.snapshot.displace(("ns", "p"))
    placer.snapshot.needed_drivers.add("csi")
    assert placer.place(wanting("data")).node == "b"
    placer.snapshot.displace(("ns", "p"))
    placer.snapshot.csi_drivers = {}
    assert placer.account(wanting("data")).counts == {
        "csi CSI driver is not installed on the node": 2
    }


def test_an_exclusive_claim_of_a_nominated_pod_is_in_use_on_its_node_at_most():
    """Upstream looks there only for pods that name disks besides."""
    placer = with_claims(claim("data", exclusive=True))
    coming = replace(wanting("data"), key=("ns", "coming"), priority=9)
    placer.snapshot.place(coming, "a")
    placer.nominated = (coming.key,)
    assert placer.account(wanting("data")).by_node["a"] == ()
    new = replace(wanting("data"), disks=(Disk("gce", ("d",)),))
    assert placer.account(new).by_node["a"] == (reasons.VOLUME_IN_USE,)
    assert placer.place(new).node == "b"
    placer.snapshot.displace(("ns", "p"))
    placer.nominated = ()
    assert placer.place(wanting("data")) is None


GIB = 2**30


def storage_scores(*claims, shape=((0, 10), (100, 0)), profile=DEFAULT):
    placer = with_claims(*claims)
    snapshot = placer.snapshot
    found = volume_score(
        snapshot,
        wanting(*(c.key[1] for c in claims)),
        snapshot.alive,
        replace(profile, storage_shape=shape),
    )
    return None if found is None else [found.item(snapshot.rows[name]) for name in ("a", "b")]


def test_nodes_where_storage_stays_emptier_score_higher():
    two = (("small", on_host("a")), ("large", on_host("b")))
    static = claim("x", size=5 * GIB, choices=two, capacities=(10 * GIB, 40 * GIB))
    assert storage_scores(static) == [50, 88]
    assert storage_scores(static, shape=((0, 0), (100, 10))) == [50, 12]
    # Upstream's score goes by what its own filter has found.
    off = Profile(disabled=frozenset({"VolumeBinding"}))
    assert storage_scores(static, profile=off) is None
    # What is left where volumes are made: 3 and 6 of 10 GiB, and more than there is.
    rooms = tuple(LabelSelector((Requirement("host", "In", (n,)),)) for n in ("a", "b"))
    made = claim("x", size=3 * GIB, choices=(), provision=Provision(None, rooms, (10 * GIB, GIB)))
    assert storage_scores(made) == [70, 0]
    assert storage_scores(made, replace(made, key=("ns", "y"))) == [40, 0]
    # Classes are averaged, and volumes that exist go before those that are made.
    other = replace(made, key=("ns", "y"), storage_class="other")
    assert storage_scores(made, other) == [70, 0]
    assert storage_scores(static, other) == [50, 88]
    assert storage_scores(claim("x", choices=(), provision=Provision())) is None


def test_storage_decides_between_equal_nodes():
    two = (("small", on_host("a")), ("large", on_host("b")))
    static = claim("x", size=5 * GIB, choices=two, capacities=(10 * GIB, 40 * GIB))
    assert with_claims(static).place(wanting("x")).node == "b"


choices = st.lists(
    st.tuples(st.sampled_from(["v0", "v1", "v2"]), st.sampled_from([None, "a", "b"])),
    max_size=3,
    unique_by=lambda choice: choice[0],
)


@given(st.lists(st.tuples(choices, st.integers(0, 3), st.booleans()), min_size=1, max_size=4))
def test_what_is_matched_on_all_nodes_at_once_is_what_one_node_gives(wanted):
    claims = [
        claim(
            str(i),
            choices=tuple((name, on_host(host) if host else None) for name, host in free),
            size=size,
            selected="a" if selected else "",
        )
        for i, (free, size, selected) in enumerate(wanted)
    ]
    snapshot = with_claims(*claims).snapshot
    waiting = waiting_of(snapshot, claims)
    found = _chosen(snapshot, waiting, snapshot.alive)
    for name, row in snapshot.rows.items():
        plain, taken = {}, set()
        for one in sorted((c for c in claims if not c.selected), key=lambda c: c.size):
            reached = (
                n for n, t in one.choices if n not in taken and (t is None or t == on_host(name))
            )
            plain[one.key] = next(reached, "")
            taken.add(plain[one.key])
        for one in claims:
            index = found[one.key].item(row)
            assert (one.choices[index][0] if index >= 0 else "") == plain.get(one.key, "")
        assert _match(snapshot, waiting, snapshot.node(name)) == {
            one.key: plain.get(one.key, "") for one in claims
        }


def test_disks_that_a_driver_serves_in_truth_count_as_its_volumes():
    inline = Disk("gce", ("gce/d",), True, ("pd.csi", "d"))
    only_counts = Disk("", attaches=("disk.csi", "e"))
    placer = with_claims(claim("data", attaches=("pd.csi", "other")))
    snapshot = placer.snapshot
    snapshot.volume_limits = {"a": {"pd.csi": 1, "disk.csi": 0}, "b": {"pd.csi": 1}}
    snapshot.place(Pod(("ns", "user"), PodShape(), disks=(inline,)), "a")
    assert placer.account(wanting("data")).by_node["a"] == (reasons.VOLUME_LIMIT,)
    assert placer.place(wanting("data")).node == "b"
    shared = Pod(("ns", "reader"), PodShape(), disks=(inline, only_counts))
    assert placer.account(shared).by_node["a"] == (reasons.VOLUME_LIMIT,)
    assert placer.account(replace(shared, disks=(inline,))).by_node["a"] == ()


def test_pods_of_a_gang_that_write_one_disk_are_kept_apart():
    """Also those that are placed by what room there is, without a look at all filters."""
    writes = (Disk("gce", ("d",)),)
    gang = Gang(("ns", "g"), 2)
    shape = PodShape(requests=(("cpu", 100),))
    pods = [Pod(("ns", f"g{i}"), shape, gang=gang.key, disks=writes) for i in range(3)]
    placer = with_claims()
    [decision] = plan_cycle(placer, [QueueItem(tuple(pods[:2]), gang)]).decisions
    assert sorted(p.node for p in decision.placements) == ["a", "b"]
    [decision] = plan_cycle(with_claims(), [QueueItem(tuple(pods), Gang(gang.key, 3))]).decisions
    assert not decision.placements
    placer = with_claims()
    placer.snapshot.place(Pod(("ns", "x"), shape, disks=writes), "a")
    assert placer.place_on(pods[0], placer.snapshot.rows["a"]) is None
