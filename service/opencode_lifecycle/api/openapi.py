"""The description of the API for machines: OpenAPI 3.1, made from the route table and the shapes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from opencode_lifecycle.api import schemas
from opencode_lifecycle.api.identifiers import ORPHAN_ID_PATTERN, ULID_PATTERN
from opencode_lifecycle.api.problems import ERRORS, HTTP_CODES, PROBLEM_TYPE
from opencode_lifecycle.api.routes import Route
from opencode_lifecycle.model.identifiers import GROUP_PATTERN, USER_ID_PATTERN
from opencode_lifecycle.model.principal import Role

_REFERENCE: Final = "#/components/schemas/{model}"
_LIST: Final = re.compile(r"\bListShape[_\[](\w+?)Shape[_\]]")
_SHAPE: Final = re.compile(r"\b(\w+)Shape\b")
_PATH_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")
_PATTERNS: Final = {
    "user_id": USER_ID_PATTERN,
    "operation_id": f"^op_{ULID_PATTERN}$",
    "rollout_id": f"^ro_{ULID_PATTERN}$",
    "release_id": r"^rel_[A-Za-z0-9]{16,26}$",
    "group": GROUP_PATTERN,
    "token_id": f"^tok_{ULID_PATTERN}$",
    "condition_id": f"^cond_{ULID_PATTERN}$",
    "orphan_id": f"^{ORPHAN_ID_PATTERN}$",
}
_DESCRIPTION: Final = (
    "Gives every user a private OpenCode server. A write is accepted and answered with an operation; what it asked for is "
    "then made true. Errors are RFC 9457 problems: branch on `code`."
)


def describe(routes: Sequence[Route], *, version: str) -> Mapping[str, Any]:
    """Return the whole document, in which shapes bear names that a reader or a generated client can use."""
    document: Mapping[str, Any] = _with_plain_names(_document(routes, version))
    return document


def _document(routes: Sequence[Route], version: str) -> Mapping[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenCode lifecycle control plane",
            "version": version,
            "description": _DESCRIPTION,
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "responses": {
                "Problem": {
                    "description": "What is wrong, as RFC 9457 says.",
                    "content": {PROBLEM_TYPE: {"schema": _reference(schemas.ProblemShape)}},
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "x-problem-codes": _problem_codes(),
    }


def _operation(route: Route) -> Mapping[str, Any]:
    responses = {str(status): _response(status, answer) for status, answer in route.answers.items()}
    if not route.is_public:
        responses["default"] = {"$ref": "#/components/responses/Problem"}
    operation: dict[str, Any] = {
        "operationId": route.handler,
        "summary": route.summary,
        "description": _permissions(route),
        "parameters": _parameters(route),
        "responses": responses,
        "security": [] if route.is_public else [{"token": []}],
        "x-roles": sorted(route.roles),
    }
    if route.takes is not None:
        operation["requestBody"] = {
            "required": any(field.is_required() for field in route.takes.model_fields.values()),
            "content": {"application/json": {"schema": _reference(route.takes)}},
        }
    return operation


def _permissions(route: Route) -> str:
    if route.is_public:
        return "Needs no token."
    names = [
        f"{role} (own stack)" if role is Role.USER else str(role) for role in Role if role in route.roles
    ]
    return f"For {', '.join(names)}. Counts against the rate `{route.rate}`."


def _parameters(route: Route) -> Sequence[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": _PATTERNS[name]},
        }
        for name in _PATH_PARAMETER.findall(route.path)
    ]
    found += [
        {
            "name": parameter.name,
            "in": "query",
            "required": False,
            "schema": dict(parameter.schema),
            "description": parameter.description,
        }
        for parameter in route.query
    ]
    if route.idempotent:
        found.append(
            _header(
                "Idempotency-Key", "Do this once, however often it is sent in 24 h.", r"^[\x21-\x7e]{1,255}$"
            )
        )
    if route.conditional:
        found.append(_header("If-Match", "Only if the stack is at this generation.", '^"[1-9][0-9]*"$'))
    return found


def _header(name: str, description: str, pattern: str) -> Mapping[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": pattern},
        "description": description,
    }


def _response(status: int, answer: type[BaseModel] | str | None) -> Mapping[str, Any]:
    if answer is None:
        return {"description": "Done."}
    response: dict[str, Any] = {"description": _DESCRIPTIONS.get(status, "As asked.")}
    if isinstance(answer, str):
        response["content"] = {answer: {}}
    else:
        response["content"] = {"application/json": {"schema": _reference(answer)}}
    if status in {201, 202}:
        response["headers"] = {"Location": {"schema": {"type": "string"}}}
    return response


_DESCRIPTIONS: Final = {
    201: "Made; `Location` names it.",
    202: "Accepted; `Location` is the operation that tells the progress.",
    503: "Not all of it is well.",
}


def _models(routes: Sequence[Route]) -> Sequence[type[BaseModel]]:
    models: list[type[BaseModel]] = [schemas.ProblemShape, schemas.WrappedCredentialsShape]
    for route in routes:
        models += [answer for answer in route.answers.values() if isinstance(answer, type)]
        if route.takes is not None:
            models.append(route.takes)
    return list(dict.fromkeys(models))


def _schemas(routes: Sequence[Route]) -> Mapping[str, Any]:
    modes = [
        (model, "validation" if issubclass(model, schemas.Incoming) else "serialization")
        for model in _models(routes)
    ]
    _, document = models_json_schema(modes, ref_template=_REFERENCE)  # type: ignore[arg-type] # a literal, widened
    definitions: Mapping[str, Any] = document["$defs"]
    return definitions


def _reference(model: type[BaseModel]) -> Mapping[str, Any]:
    if model is schemas.CredentialsShape:
        return {"oneOf": [_named(model), _named(schemas.WrappedCredentialsShape)]}
    return _named(model)


def _named(model: type[BaseModel]) -> Mapping[str, str]:
    name = re.sub(r"[^A-Za-z0-9.\-_]", "_", model.__name__)
    return {"$ref": _REFERENCE.format(model=name)}


def _with_plain_names(node: Any) -> Any:
    """Return a part of the document with `StackShape` called `Stack`, and `ListShape[StackShape]` `StackList`."""
    if isinstance(node, list):
        return [_with_plain_names(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {_plain(name): _with_plain_names(each) for name, each in node.items()}
    assert len(plain) == len(node), "two shapes would bear one name"
    for key in ("$ref", "title"):
        if isinstance(plain.get(key), str):
            plain[key] = _plain(plain[key])
    return plain


def _plain(name: str) -> str:
    return _SHAPE.sub(r"\1", _LIST.sub(r"\1List", name))


def _problem_codes() -> Sequence[Mapping[str, Any]]:
    """List every `code` that can come, with its status and what it means."""
    known = [
        {"code": kind.code, "status": answer.status, "title": answer.title} for kind, answer in ERRORS.items()
    ]
    known += [
        {"code": code, "status": status, "title": detail}
        for status, (code, detail) in HTTP_CODES.items()
        if code not in {kind.code for kind in ERRORS}
    ]
    return [*known, {"code": "internal", "status": 500, "title": "Internal error"}]
