"""Extended resources that DeviceClasses answer."""

from kubarium.view.extended import ExtendedResources, claim_spec_document


def device_class(name, resource="", created="2026-01-01T00:00:00Z"):
    spec = {"extendedResourceName": resource} if resource else {}
    return {"metadata": {"name": name, "creationTimestamp": created}, "spec": spec}


def classes(*documents):
    found = ExtendedResources()
    for document in documents:
        found.set_class(document)
    return found


def container(name, restart="", **limits):
    wanted = {key.replace("__", "/").replace("_", "."): value for key, value in limits.items()}
    found = {"name": name, "resources": {"limits": wanted}}
    return found | ({"restartPolicy": restart} if restart else {})


def test_the_newest_class_wins_and_then_the_first_by_name():
    resource = "example.com/gpu"
    found = classes(
        device_class("b", resource), device_class("a", resource), device_class("implicit")
    )
    assert found.class_for(resource) == "a"
    found.set_class(device_class("new", resource, "2026-02-02T00:00:00Z"))
    assert found.class_for(resource) == "new"
    found.remove_class("new")
    assert found.class_for(resource) == "a"
    assert found.class_for("deviceclass.resource.kubernetes.io/implicit") == "implicit"
    assert found.class_for("deviceclass.resource.kubernetes.io/other") == ""


def test_each_container_has_its_request_and_init_containers_use_one_of_them():
    found = classes(device_class("gpu", "example.com/gpu"))
    spec = {
        "initContainers": [
            container("warm", example_com__gpu="2"),
            container("large", example_com__gpu="4"),
            container("side", "Always", example_com__gpu="1"),
        ],
        "containers": [container("main", example_com__gpu=2), container("none", cpu="1")],
    }
    mapped = [(m.container, m.request, m.count) for m in found.mapped(spec)]
    assert mapped == [
        ("side", "container-2-request-0", 1),
        ("main", "container-3-request-0", 2),
        ("warm", "container-3-request-0", 2),
        ("large", "container-1-request-0", 4),
    ]
    requests = claim_spec_document(found.mapped(spec))["devices"]["requests"]
    assert [(r["name"], r["exactly"]["count"]) for r in requests] == [
        ("container-1-request-0", 4),
        ("container-2-request-0", 1),
        ("container-3-request-0", 2),
    ]
