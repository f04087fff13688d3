"""RBAC: what rules allow, how denials read, reviews, and that nobody grants what he has not."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.base.errors import ApiError
from kubarium.server import authz as authz_module
from kubarium.server.authn import User
from kubarium.server.authz import Attributes, Authorizer
from kubarium.server.policy import bootstrap_policy
from kubarium.server.rbac import GROUP, Rule, missing_rules
from kubarium.store import MemoryStore

PLURALS = {
    "Role": "roles",
    "ClusterRole": "clusterroles",
    "RoleBinding": "rolebindings",
    "ClusterRoleBinding": "clusterrolebindings",
}
ALICE = User("alice", groups=("team-a", "system:authenticated"))
MASTER = User("root", groups=("system:masters",))


class Rbac:
    """A store, an authorizer on it, and short ways to write roles and bindings."""

    def __init__(self):
        self.store = MemoryStore()
        self.authorizer = Authorizer(self.store)

    def put(self, document):
        metadata = document["metadata"]
        namespace = metadata.get("namespace", "-")
        plural = PLURALS[document["kind"]]
        self.store.put(f"/{GROUP}/{plural}/{namespace}/{metadata['name']}", document)

    def role(self, name, *rules, namespace="", **rest):
        self.put(role(name, *rules, namespace=namespace, **rest))

    def bind(self, role_name, *subjects, namespace="", kind="ClusterRole", name="b"):
        self.put(binding(role_name, *subjects, namespace=namespace, kind=kind, name=name))

    def delete(self, plural, name, namespace="-"):
        self.store.delete(f"/{GROUP}/{plural}/{namespace}/{name}")

    def may(self, user, text, name=""):
        return self.authorizer.allowed(attributes(user, text, name))


def role(name, *rules, namespace="", **rest):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    metadata |= rest.pop("metadata", {})
    kind = "Role" if namespace else "ClusterRole"
    return {"kind": kind, "metadata": metadata, "rules": list(rules), **rest}


def binding(role_name, *subjects, namespace="", kind="ClusterRole", name="b"):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role_name},
        "subjects": [subject(text) for text in subjects],
    }


def subject(text):
    """``User:alice``, ``Group:team-a``, ``ServiceAccount:dev/builder``."""
    kind, _, name = text.partition(":")
    namespace, slash, short = name.rpartition("/")
    return {"kind": kind, "name": short, **({"namespace": namespace} if slash else {})}


def rule(verbs, group, resources, *names):
    document = {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}
    return {**document, **({"resourceNames": list(names)} if names else {})}


def attributes(user, text, name=""):
    """``get pods.core/log @dev`` or ``get /healthz``."""
    verb, what, *rest = text.split()
    if what.startswith("/"):
        return Attributes(user, verb, path=what)
    qualified, _, subresource = what.partition("/")
    resource, _, group = qualified.partition(".")
    namespace = rest[0].removeprefix("@") if rest else ""
    return Attributes(user, verb, namespace, group, "v1", resource, subresource, name)


@pytest.fixture
def rbac():
    return Rbac()


def test_nothing_is_allowed_without_a_binding_except_to_masters(rbac):
    assert not rbac.may(ALICE, "get pods @dev")
    assert rbac.may(MASTER, "delete nodes")
    assert rbac.may(MASTER, "get /metrics")


@pytest.mark.parametrize(
    ("resources", "asked", "allowed"),
    [
        ("pods", "get pods @dev", True),
        ("pods", "get pods/log @dev", False),
        ("pods/log", "get pods/log @dev", True),
        ("pods/log", "get pods @dev", False),
        ("*", "get pods/log @dev", True),
        ("*/scale", "get deployments/scale @dev", True),
        ("*/scale", "get deployments @dev", False),
        ("*/scale", "get deployments/status @dev", False),
        ("pods", "list pods @dev", False),
        ("pods", "get pods.metrics.k8s.io @dev", False),
    ],
)
def test_resources_and_subresources(rbac, resources, asked, allowed):
    rbac.role("r", rule("get", "", resources))
    rbac.bind("r", "User:alice")
    assert rbac.may(ALICE, asked) is allowed


def test_resource_names_allow_those_names_and_no_list(rbac):
    rbac.role("r", rule("get list create", "", "configmaps", "a", "b"))
    rbac.bind("r", "User:alice")
    assert rbac.may(ALICE, "get configmaps @dev", "a")
    assert rbac.may(ALICE, "get configmaps @dev", "b")
    assert not rbac.may(ALICE, "get configmaps @dev", "c")
    assert not rbac.may(ALICE, "list configmaps @dev")
    assert not rbac.may(ALICE, "create configmaps @dev")


@pytest.mark.parametrize(
    ("url", "path", "allowed"),
    [
        ("/healthz", "/healthz", True),
        ("/healthz", "/healthz/etcd", False),
        ("/healthz/*", "/healthz/etcd", True),
        ("/healthz/*", "/healthz", False),
        ("/open*", "/openapi/v3", True),
        ("*", "/anything", True),
    ],
)
def test_non_resource_urls(rbac, url, path, allowed):
    rbac.role("r", {"verbs": ["get"], "nonResourceURLs": [url]})
    rbac.bind("r", "Group:team-a")
    assert rbac.may(ALICE, f"get {path}") is allowed
    assert not rbac.may(ALICE, f"post {path}")


@pytest.mark.parametrize(
    ("who", "user"),
    [
        ("User:alice", ALICE),
        ("Group:team-a", ALICE),
        ("ServiceAccount:dev/builder", User("system:serviceaccount:dev:builder")),
        ("ServiceAccount:builder", User("system:serviceaccount:dev:builder")),
    ],
)
def test_subjects(rbac, who, user):
    rbac.role("r", rule("get", "", "pods"), namespace="dev")
    rbac.bind("r", who, namespace="dev", kind="Role")
    assert rbac.may(user, "get pods @dev")
    assert not rbac.may(user, "get pods @prod")
    assert not rbac.may(user, "get pods")
    assert not rbac.may(User("bob"), "get pods @dev")


def test_a_role_binding_limits_a_cluster_role_to_its_namespace(rbac):
    rbac.role("r", rule("*", "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]})
    rbac.bind("r", "User:alice", namespace="dev")
    assert rbac.may(ALICE, "delete secrets @dev")
    assert not rbac.may(ALICE, "delete secrets @prod")
    assert not rbac.may(ALICE, "get nodes")
    assert not rbac.may(ALICE, "get /metrics")


def test_changes_take_effect_with_the_write(rbac):
    assert not rbac.may(ALICE, "get pods @dev")
    rbac.bind("r", "User:alice")
    assert not rbac.may(ALICE, "get pods @dev")
    rbac.role("r", rule("get", "", "pods"))
    assert rbac.may(ALICE, "get pods @dev")
    rbac.role("r", rule("list", "", "pods"))
    assert not rbac.may(ALICE, "get pods @dev")
    assert rbac.may(ALICE, "list pods @dev")
    rbac.bind("r", "User:bob")
    assert not rbac.may(ALICE, "list pods @dev")
    assert rbac.may(User("bob"), "list pods @dev")
    rbac.delete("clusterroles", "r")
    assert not rbac.may(User("bob"), "list pods @dev")
    rbac.role("r", rule("list", "", "pods"))
    assert rbac.may(User("bob"), "list pods @dev")
    rbac.delete("clusterrolebindings", "b")
    assert not rbac.may(User("bob"), "list pods @dev")


def test_what_was_stored_before_is_known_at_the_start(rbac):
    rbac.role("r", rule("get", "", "pods"))
    rbac.bind("r", "User:alice")
    late = Authorizer(rbac.store)
    assert late.allowed(attributes(ALICE, "get pods @dev"))
    late.close()
    rbac.delete("clusterroles", "r")
    assert late.allowed(attributes(ALICE, "get pods @dev"))


def test_aggregated_roles_follow_their_parts_also_nested_and_in_circles(rbac):
    def aggregate(name, label, own):
        selector = {"matchExpressions": [{"key": label, "operator": "Exists"}]}
        rule_of = {"clusterRoleSelectors": [selector]}
        rbac.role(name, aggregationRule=rule_of, metadata={"labels": {own: "true"}})

    aggregate("big", "to-big", "to-small")
    aggregate("small", "to-small", "to-big")
    rbac.bind("big", "User:alice")
    assert not rbac.may(ALICE, "get pods @dev")
    rbac.role("part", rule("get", "", "pods"), metadata={"labels": {"to-small": "true"}})
    assert rbac.may(ALICE, "get pods @dev")
    rbac.delete("clusterroles", "part")
    assert not rbac.may(ALICE, "get pods @dev")


@pytest.mark.parametrize(
    ("asked", "name", "message"),
    [
        (
            "list pods @default",
            "",
            'pods is forbidden: User "alice" cannot list resource "pods" in API group "" '
            'in the namespace "default"',
        ),
        (
            "get deployments.apps/scale @dev",
            "web",
            'deployments.apps "web" is forbidden: User "alice" cannot get resource '
            '"deployments/scale" in API group "apps" in the namespace "dev"',
        ),
        (
            "delete nodes",
            "n1",
            'nodes "n1" is forbidden: User "alice" cannot delete resource "nodes" in API group '
            '"" at the cluster scope',
        ),
        ("get /metrics", "", 'forbidden: User "alice" cannot get path "/metrics"'),
    ],
)
def test_denials_read_as_upstreams(rbac, asked, name, message):
    with pytest.raises(ApiError) as caught:
        rbac.authorizer.confirm(attributes(ALICE, asked, name))
    assert caught.value.message == message
    assert (caught.value.code, caught.value.reason) == (403, "Forbidden")


def test_a_binding_to_a_missing_role_is_named_in_the_denial(rbac):
    rbac.bind("ghost", "User:alice")
    missing = f'RBAC: clusterrole.{GROUP} "ghost" not found'
    with pytest.raises(ApiError) as caught:
        rbac.authorizer.confirm(attributes(ALICE, "list pods @dev"))
    assert caught.value.message.endswith(f'in the namespace "dev": {missing}')


def test_reasons_name_the_binding(rbac):
    rbac.role("r", rule("get", "", "pods"))
    rbac.bind("r", "Group:team-a", namespace="dev", name="devs")
    decision = rbac.authorizer.decide(attributes(ALICE, "get pods @dev"))
    expected = 'RBAC: allowed by RoleBinding "devs/dev" of ClusterRole "r" to Group "team-a"'
    assert (decision.allowed, decision.reason) == (True, expected)


def test_subject_access_reviews(rbac):
    rbac.role("r", rule("get", "apps", "deployments"))
    rbac.bind("r", "Group:team-a")
    asked = {"verb": "get", "group": "apps", "resource": "deployments", "namespace": "dev"}
    document = {"spec": {"resourceAttributes": asked, "groups": ["team-a"]}}
    status = rbac.authorizer.answer_subject_review(document)["status"]
    assert status["allowed"]
    assert status["reason"].startswith("RBAC: allowed by ClusterRoleBinding")
    self_review = {"spec": {"resourceAttributes": asked}}
    assert rbac.authorizer.answer_self_review(self_review, ALICE)["status"]["allowed"]
    bob = rbac.authorizer.answer_self_review(self_review, User("bob"))
    assert bob["status"] == {"allowed": False}
    assert rbac.authorizer.answer_local_review(document, "dev")["status"]["allowed"]
    path = {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/x"}, "user": "alice"}}
    assert rbac.authorizer.answer_subject_review(path)["status"] == {"allowed": False}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({}, "exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        (
            {"resourceAttributes": {}, "nonResourceAttributes": {}, "user": "a"},
            "cannot be specified in combination with resourceAttributes",
        ),
        ({"resourceAttributes": {}}, "at least one of user or group must be specified"),
    ],
)
def test_bad_reviews_are_invalid(rbac, spec, complaint):
    with pytest.raises(ApiError, match=complaint) as caught:
        rbac.authorizer.answer_subject_review({"spec": spec})
    assert caught.value.code == 422


def test_local_reviews_stay_in_their_namespace(rbac):
    other = {"spec": {"user": "a", "resourceAttributes": {"namespace": "prod"}}}
    with pytest.raises(ApiError, match=r"must match metadata\.namespace"):
        rbac.authorizer.answer_local_review(other, "dev")
    path = {"spec": {"user": "a", "nonResourceAttributes": {"path": "/"}}}
    with pytest.raises(ApiError, match="disallowed on this kind of request"):
        rbac.authorizer.answer_local_review(path, "dev")


def test_rules_review_lists_what_one_may_do(rbac):
    rbac.role("r", rule("get", "", "pods"), {"verbs": ["get"], "nonResourceURLs": ["/x"]})
    rbac.bind("r", "User:alice")
    rbac.bind("ghost", "User:alice", name="broken")
    answer = rbac.authorizer.answer_rules_review({"spec": {"namespace": "dev"}}, ALICE)
    assert answer["status"] == {
        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}],
        "incomplete": True,
        "evaluationError": f'clusterrole.{GROUP} "ghost" not found',
    }
    with pytest.raises(ApiError, match="no namespace on request"):
        rbac.authorizer.answer_rules_review({"spec": {}}, ALICE)
    full = rbac.authorizer.answer_rules_review({"spec": {"namespace": "dev"}}, MASTER)
    assert full["status"]["resourceRules"][0]["verbs"] == ["*"]


def test_nobody_grants_what_he_has_not(rbac):
    rbac.role("mine", rule("get list", "", "pods"))
    rbac.bind("mine", "User:alice", namespace="dev", name="mine")
    granted = role("new", rule("get", "", "pods"), namespace="dev")
    rbac.authorizer.confirm_role_write(ALICE, granted)
    more = role("new", rule("get list delete patch", "", "pods secrets"), namespace="dev")
    with pytest.raises(ApiError) as caught:
        rbac.authorizer.confirm_role_write(ALICE, more)
    assert caught.value.message == (
        f'roles.{GROUP} "new" is forbidden: user "alice" (groups=["team-a" '
        '"system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n'
        '{APIGroups:[""], Resources:["pods"], Verbs:["delete" "patch"]}\n'
        '{APIGroups:[""], Resources:["secrets"], Verbs:["delete" "get" "list" "patch"]}'
    )
    with pytest.raises(ApiError):
        rbac.authorizer.confirm_role_write(ALICE, {**granted, "metadata": {"namespace": "prod"}})
    rbac.authorizer.confirm_role_write(MASTER, more)
    rbac.authorizer.confirm_role_write(ALICE, more, old=more)
    with pytest.raises(ApiError, match="attempting to grant"):
        rbac.authorizer.confirm_role_write(ALICE, more, old=granted)


def test_nobody_grants_paths_or_names_that_he_has_not(rbac):
    path = {"verbs": ["get"], "nonResourceURLs": ["/metrics/*"]}
    rbac.role("mine", path, rule("get", "", "secrets", "a"))
    rbac.bind("mine", "User:alice")
    inside = {"verbs": ["get"], "nonResourceURLs": ["/metrics/slis"]}
    rbac.authorizer.confirm_role_write(ALICE, role("new", inside, rule("get", "", "secrets", "a")))
    for more in (
        {"verbs": ["get"], "nonResourceURLs": ["/logs"]},
        {"verbs": ["post"], "nonResourceURLs": ["/metrics/slis"]},
        rule("get", "", "secrets", "b"),
        rule("get", "", "secrets"),
    ):
        with pytest.raises(ApiError, match="attempting to grant"):
            rbac.authorizer.confirm_role_write(ALICE, role("new", more))


def test_a_binding_that_gains_a_subject_is_checked_again(rbac):
    rbac.role("power", rule("*", "*", "*"))
    before, after = binding("power", "User:bob"), binding("power", "User:bob", "User:alice")
    rbac.authorizer.confirm_binding_write(ALICE, before, old=before)
    with pytest.raises(ApiError, match="attempting to grant"):
        rbac.authorizer.confirm_binding_write(ALICE, after, old=before)


def test_escalate_and_bind_are_ways_around(rbac):
    more = role("new", rule("*", "*", "*"), namespace="dev")
    rbac.role("power", rule("escalate bind", GROUP, "roles clusterroles", "new"))
    rbac.bind("power", "User:alice", name="power")
    rbac.authorizer.confirm_role_write(ALICE, more)
    rbac.put(more)
    bound = binding("new", "User:eve", namespace="dev", kind="Role")
    rbac.authorizer.confirm_binding_write(ALICE, bound)
    with pytest.raises(ApiError, match="attempting to grant RBAC permissions"):
        rbac.authorizer.confirm_binding_write(User("bob"), bound)


def test_binding_a_missing_role_is_404(rbac):
    with pytest.raises(ApiError, match=rf'clusterroles\.{GROUP} "ghost" not found') as caught:
        rbac.authorizer.confirm_binding_write(ALICE, binding("ghost", "User:alice"))
    assert caught.value.code == 404


def test_aggregation_needs_everything(rbac):
    selects_all = {"clusterRoleSelectors": [{}]}
    document = role("all", aggregationRule=selects_all)
    with pytest.raises(ApiError, match="must have cluster-admin privileges to use the aggreg"):
        rbac.authorizer.confirm_role_write(ALICE, document)
    rbac.role("root", rule("*", "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]})
    rbac.bind("root", "User:alice", name="root")
    rbac.authorizer.confirm_role_write(ALICE, document)


WORDS = st.sets(st.sampled_from(["a", "b", "*"]), max_size=2).map(frozenset)
RESOURCES = st.sets(st.sampled_from(["p", "p/s", "*/s", "*"]), max_size=2).map(frozenset)
NAMES = st.sets(st.sampled_from(["x", "y"]), max_size=2).map(frozenset)
RULES = st.lists(st.builds(Rule, WORDS, WORDS, RESOURCES, NAMES), max_size=3)


@given(RULES, RULES)
def test_covered_rules_allow_nothing_more(owned, wanted):
    """If nothing is missing, each single request that ``wanted`` allows, ``owned`` allows."""
    if missing_rules(owned, wanted):
        return
    for asked in product("abz", "abz", ("p", "q"), ("", "s", "t"), ("x", "y", "z", "")):
        assert not allowed(wanted, *asked) or allowed(owned, *asked)


def allowed(rules, verb, group, resource, subresource, name):
    return any(
        rule.allows_resource(verb, group, resource, subresource)
        and (not rule.names or name in rule.names)
        for rule in rules
    )


@given(RULES)
def test_everybody_has_what_he_has(rules):
    assert missing_rules(rules, rules) == []


@pytest.fixture
def cluster(rbac):
    for document in bootstrap_policy():
        rbac.put(document)
    return rbac


def test_bootstrap_roles_are_all_bound_to_roles_that_exist(cluster):
    names = {d["metadata"]["name"] for d in bootstrap_policy() if d["kind"] == "ClusterRole"}
    bound = [d for d in bootstrap_policy() if d["kind"] == "ClusterRoleBinding"]
    assert {d["roleRef"]["name"] for d in bound} <= names
    assert {"cluster-admin", "admin", "edit", "view"} <= names


@pytest.mark.parametrize(
    ("bound_role", "allowed", "denied"),
    [
        (
            "view",
            ["list pods @dev", "get pods/log @dev", "watch jobsets.jobset.x-k8s.io @dev"],
            ["get secrets @dev", "create pods @dev", "list roles.rbac.authorization.k8s.io @dev"],
        ),
        (
            "edit",
            [
                "list pods @dev",
                "get secrets @dev",
                "create pods/exec @dev",
                "patch jobs.batch @dev",
            ],
            ["create rolebindings.rbac.authorization.k8s.io @dev", "update resourcequotas @dev"],
        ),
        (
            "admin",
            ["get secrets @dev", "create rolebindings.rbac.authorization.k8s.io @dev"],
            ["update resourcequotas @dev", "list pods @prod", "get nodes"],
        ),
    ],
)
def test_view_edit_admin(cluster, bound_role, allowed, denied):
    cluster.bind(bound_role, "User:alice", namespace="dev")
    assert [asked for asked in allowed if not cluster.may(ALICE, asked)] == []
    assert [asked for asked in denied if cluster.may(ALICE, asked)] == []


def test_everybody_may_discover_and_ask_about_himself(cluster):
    anonymous = User("system:anonymous", groups=("system:unauthenticated",))
    assert cluster.may(ALICE, "get /apis/apps/v1")
    assert cluster.may(ALICE, "create selfsubjectaccessreviews.authorization.k8s.io")
    assert cluster.may(anonymous, "get /readyz")
    assert not cluster.may(anonymous, "get /api")


def test_nodes_and_scheduler_may_do_their_work_and_no_more(cluster):
    node = User("system:node:n1", groups=("system:nodes",))
    scheduler = User("system:kube-scheduler")
    assert cluster.may(node, "patch pods/status @dev")
    assert cluster.may(node, "create resourceslices.resource.k8s.io")
    assert not cluster.may(node, "delete nodes")
    assert cluster.may(scheduler, "create pods/binding @dev")
    assert cluster.may(scheduler, "patch podgroups.scheduling.k8s.io/status @dev")
    assert not cluster.may(scheduler, "create pods @dev")


def test_the_cache_is_bounded(cluster, monkeypatch):
    monkeypatch.setattr(authz_module, "CACHED_DECISIONS", 10)
    cluster.bind("view", "User:alice", namespace="ns7")
    for number in range(40):
        assert cluster.may(ALICE, f"get pods @ns{number}") is (number == 7)
        assert len(cluster.authorizer._cache) <= 10
