# SPDX-License-Identifier: Apache-2.0
"""The admin API's OpenAPI 3.1 document, made from the same entries as its routes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from sealpod.kbs.admin.bodies import SUGGEST_BODY, TEST_BODY
from sealpod.kbs.admin.noun import Noun, Object
from sealpod.kbs.admin.nouns import NOUNS
from sealpod.kbs.admin.schema import Schema, array, structure, text
from sealpod.kbs.server.admin.answers import MAX_SENTENCE

PREFIX: Final = "/v1"
TEST: Final = f"{PREFIX}/policy-test"
SUGGEST: Final = f"{PREFIX}/policy-suggest"

_ERROR: Final = structure(
    {
        "error": structure(
            {
                "code": text("stable: area.reason"),
                "message": text("one sentence", most=MAX_SENTENCE),
                "remedy": text("what to do; may be empty", most=MAX_SENTENCE),
                "request": text("this request's number in the broker's log"),
            },
            "code",
            "message",
            "remedy",
            "request",
        )
    },
    "error",
)
_ERRORS: Final = {
    "400": "the request is not what is described here",
    "401": "no valid token",
    "403": "the database does not let the broker in",
    "404": "there is no such thing",
    "409": "something stands against it",
    "413": "the body is too large",
    "500": "a defect of the broker, or a file or disk that fails; its log says more",
    "503": "the database does not answer",
    "504": "something took too long",
}
_FREE: Final[list[Object]] = []


def document() -> Object:
    """The document."""
    paths: Object = {}
    for noun in NOUNS:
        paths[f"{PREFIX}/{noun.name}"] = {"get": _list(noun)}
        paths[f"{PREFIX}/{noun.name}/{{id}}"] = _one(noun)
    paths[TEST] = {
        "post": _operation(
            "testPolicies", "What a launch would get, and why not; nothing is released", _ANY, TEST_BODY
        )
    }
    paths[SUGGEST] = {
        "post": _operation("suggestPolicy", "The policy that allows just these guests", _ANY, SUGGEST_BODY)
    }
    for path, about in _OPEN.items():
        paths[path] = {"get": _open(path.strip("/").partition(".")[0], about)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sealpod key broker, admin API",
            "version": _version(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}, {"certificate": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
            "schemas": {"Error": _ERROR, **{_schema_name(noun): noun.shown for noun in NOUNS}},
        },
    }


_ANY: Final[Object] = {"type": "object"}
_OPEN: Final = {
    "/healthz": "Alive: the process answers",
    "/readyz": "Ready: database and keys are there, and it is not ending",
    "/metrics": "Numbers in Prometheus' text form",
    "/openapi.json": "This document",
}


def _list(noun: Noun) -> Object:
    shown = structure(
        {
            "schemaVersion": {"type": "integer", "const": 1},
            noun.key: array({"$ref": _reference(noun)}, noun.about),
        },
        "schemaVersion",
        noun.key,
    )
    return _operation(f"list{_schema_name(noun)}s", f"List {noun.name}: {noun.about}", shown)


def _one(noun: Noun) -> Object:
    shown: Object = {"$ref": _reference(noun)}
    name = _schema_name(noun)
    found = _operation(f"show{name}", f"Show one of the {noun.name}", shown)
    if noun.reveals:
        found["parameters"] = [
            {
                "name": "reveal",
                "in": "query",
                "description": "true: the value too, which is written to the audit log first",
                "schema": {"type": "boolean", "default": False},
            }
        ]
    one: Object = {"parameters": [_ID], "get": found}
    if noun.body is not None:
        one["put"] = _operation(f"set{name}", f"Make or replace one of the {noun.name}", shown, noun.body)
    one["delete"] = _operation(f"delete{name}", noun.deletes, None)
    return one


_ID: Final[Object] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "percent-encoded; may hold slashes",
    "schema": {"type": "string", "minLength": 1},
}


def _operation(name: str, about: str, shown: Schema | None, body: Schema | None = None) -> Object:
    done: Object = {"description": "done"}
    if shown is not None:
        done["content"] = {"application/json": {"schema": shown}}
    failed = {
        status: {
            "description": why,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status, why in _ERRORS.items()
    }
    made: Object = {
        "operationId": name,
        "summary": about,
        "responses": {"204" if shown is None else "200": done, **failed},
    }
    if body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return made


def _open(name: str, about: str) -> Object:
    kind = "text/plain" if name == "metrics" else "application/json"
    responses: Object = {"200": {"description": about, "content": {kind: {}}}}
    if name == "readyz":
        responses["503"] = {"description": "not ready; the body says why", "content": {kind: {}}}
    return {"operationId": name, "summary": about, "security": _FREE, "responses": responses}


def _schema_name(noun: Noun) -> str:
    return "".join(word.capitalize() for word in noun.noun.split("-"))


def _reference(noun: Noun) -> str:
    return f"#/components/schemas/{_schema_name(noun)}"


def _version() -> str:
    try:
        return version("sealpod")
    except PackageNotFoundError:
        return "0"
