"""The operations of each resource. kubectl reads here which query parameters a verb takes."""

from __future__ import annotations

from typing import Any

from kubarium.api.catalog import Kind
from kubarium.api.openapi.schemas import (
    DELETE_OPTIONS,
    PATCH,
    SCALE,
    STATUS,
    Components,
    definition_name,
    group_version_kind,
)

Json = dict[str, Any]

_PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
# Query parameters by group: (name, type).
_WRITE = (
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
)
_DELETE = (
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
)
_LIST = (
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
)
_QUERY: dict[str, tuple[tuple[str, str], ...]] = {
    "list": _LIST,
    "get": (),
    "post": _WRITE,
    "put": _WRITE,
    "patch": (*_WRITE, ("force", "boolean")),
    "delete": _DELETE,
    "deletecollection": (*_LIST[:-1], *_DELETE),
}
_METHODS = {"list": "get", "deletecollection": "delete"}
_DOCUMENT_SUBRESOURCES = ("status", "resize", "ephemeralcontainers", "approval")


class Paths:
    """Builds the ``paths`` of a document in OpenAPI 2 or 3."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._v3 = components.version == 3

    def of(self, kind: Kind) -> Json:
        """All paths of one kind."""
        resource = kind.resource
        prefix = f"/apis/{resource.group}" if resource.group else "/api"
        root = f"{prefix}/{resource.version}"
        scope = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
        if "get" not in kind.verbs:
            return {f"{scope}/{resource.plural}": self._item(kind, ["post"], resource.namespaced)}
        paths: Json = {}
        if resource.namespaced:
            paths[f"{root}/{resource.plural}"] = self._item(kind, ["list"], False)
        collection, actions = ["list"], ["get"]
        if kind.stored:
            collection.append("post")
            actions += ["put", "patch", "delete"]
        if "deletecollection" in kind.verbs:
            collection.append("deletecollection")
        paths[f"{scope}/{resource.plural}"] = self._item(kind, collection, resource.namespaced)
        named = f"{scope}/{resource.plural}/{{name}}"
        paths[named] = self._item(kind, actions, resource.namespaced, named=True)
        for subresource in sorted(kind.subresources):
            item = self._subresource(kind, subresource)
            if item:
                paths[f"{named}/{subresource}"] = item
        return paths

    def _subresource(self, kind: Kind, subresource: str) -> Json:
        namespaced = kind.resource.namespaced
        actions = ["get", "put", "patch"]
        if subresource in _DOCUMENT_SUBRESOURCES:
            return self._item(kind, actions, namespaced, named=True, subresource=subresource)
        if subresource == "scale":
            return self._item(kind, actions, namespaced, True, subresource, SCALE)
        return {}

    def _item(
        self,
        kind: Kind,
        actions: list[str],
        namespaced: bool,
        named: bool = False,
        subresource: str = "",
        body: str = "",
    ) -> Json:
        places = [("name", named), ("namespace", namespaced)]
        item: Json = {
            "parameters": [self._parameter(name, "string", "path") for name, used in places if used]
        }
        for action in actions:
            method = _METHODS.get(action, action)
            item[method] = self._operation(kind, action, namespaced, subresource, body)
        return item

    def _operation(
        self, kind: Kind, action: str, namespaced: bool, subresource: str, body: str
    ) -> Json:
        components = self._components
        document = components.reference(body or definition_name(kind))
        answer = components.list_reference(kind) if action == "list" else document
        if action in ("delete", "deletecollection"):
            answer = components.reference(STATUS)
        gvk = group_version_kind(kind)
        if body == SCALE:
            gvk = {"group": "autoscaling", "kind": "Scale", "version": "v1"}
        operation: Json = {
            "operationId": _operation_id(kind, action, namespaced, subresource),
            "tags": [_tag(kind)],
            "parameters": [self._parameter(*query, "query") for query in _QUERY[action]],
            "responses": {"200": self._response(answer)},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk,
        }
        if action in ("post", "put"):
            self._add_body(operation, document, ("application/json", "application/yaml"))
        elif action == "patch":
            types = tuple(t for t in _PATCH_TYPES if "strategic" not in t or not kind.custom)
            self._add_body(operation, components.reference(PATCH), types)
        elif action == "delete":
            json_only = ("application/json",)
            self._add_body(operation, components.reference(DELETE_OPTIONS), json_only, False)
        return operation

    def _add_body(
        self, operation: Json, schema: Json, types: tuple[str, ...], required: bool = True
    ) -> None:
        if self._v3:
            content = {type_: {"schema": schema} for type_ in types}
            operation["requestBody"] = {"content": content} | (
                {"required": True} if required else {}
            )
            return
        body = {"in": "body", "name": "body", "schema": schema}
        operation["parameters"].insert(0, body | ({"required": True} if required else {}))
        operation["consumes"] = list(types)

    def _response(self, schema: Json) -> Json:
        if self._v3:
            return {"description": "OK", "content": {"application/json": {"schema": schema}}}
        return {"description": "OK", "schema": schema}

    def _parameter(self, name: str, type_: str, place: str) -> Json:
        parameter: Json = {"in": place, "name": name}
        if place == "path":
            parameter["required"] = True
        if self._v3:
            return parameter | {"schema": {"type": type_, "uniqueItems": True}}
        return parameter | {"type": type_, "uniqueItems": True}


def _tag(kind: Kind) -> str:
    group = kind.resource.group.removesuffix(".k8s.io").replace(".", "_")
    return f"{group or 'core'}_{kind.resource.version}"


_VERBS = {
    "list": "list",
    "get": "read",
    "post": "create",
    "put": "replace",
    "patch": "patch",
    "delete": "delete",
    "deletecollection": "deleteCollection",
}


def _operation_id(kind: Kind, action: str, namespaced: bool, subresource: str) -> str:
    """As upstream names them: ``createCoreV1NamespacedPod``, ``listCoreV1PodForAllNamespaces``."""
    words = kind.resource.group.removesuffix(".k8s.io") or "core"
    group = "".join(word[:1].upper() + word[1:] for word in words.replace("-", ".").split("."))
    version = kind.resource.version.capitalize()
    scope = "Namespaced" if namespaced else ""
    tail = "ForAllNamespaces" if kind.resource.namespaced and not namespaced else ""
    sub = subresource.capitalize()
    return f"{_VERBS[action]}{group}{version}{scope}{kind.resource.kind}{sub}{tail}"
