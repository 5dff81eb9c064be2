"""The OpenAPI document: what the framework makes of the routes, and what it cannot know of them.

That is who may ask, what errors look like in each vendor's words, which limits every request has, and the bodies that
the vendors' sessions read themselves. `tests/service/test_openapi.py` holds the service to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from fastapi import FastAPI

from callreel.service.refusals import vendor_of

__all__ = ["allowed_methods", "describe"]

JSON: Final = "application/json"
EDITION: Final = re.compile(r"^/(v1\.0|beta)(?=/)")
"""Of Microsoft Graph: all have the same paths, which the document has once."""
TEXT: Final = {"type": "string"}

SCHEMES: Final[Mapping[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "a tenant's token"},
    "aws": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "AWS Signature Version 4, for the service `chime`",
        "x-amazon-apigateway-authtype": "awsSigv4",
    },
    "sinchBasic": {"type": "http", "scheme": "basic", "description": "application key and secret"},
    "sinchApplication": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Application key:signature`, with x-timestamp",
    },
    "entra": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "of Microsoft Entra, with the role Calls.AccessMedia.All",
    },
    "recordingAccessToken": {"type": "http", "scheme": "bearer", "description": "of the notification"},
}
SECURITY: Final[Mapping[str, list[dict[str, list[str]]]]] = {
    "native": [{"token": []}],
    "chime": [{"aws": []}],
    "sinch": [{"sinchBasic": []}, {"sinchApplication": []}],
    "graph": [{"entra": []}],
    "/graph/recordings/{call_id}/{recording_id}": [{"recordingAccessToken": []}],
    "/metrics": [{"token": []}],
}
"""By path, or else by tag; what is in neither is everybody's."""


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


ERRORS: Final[Mapping[str, Any]] = {
    "chime": _object("Code Message", Code=TEXT, Message=TEXT),
    "sinch": _object(
        "errorCode message reference",
        errorCode={"type": "integer", "minimum": 40000},
        message=TEXT,
        reference={"type": "string", "format": "uuid"},
    ),
    "graph": _object(
        "error",
        error=_object(
            "code message innerError",
            code=TEXT,
            message=TEXT,
            innerError=_object("request-id date", **{"request-id": TEXT, "date": TEXT, "code": TEXT}),
        ),
    ),
}
"""The body of each vendor's errors."""
ERROR_HEADERS: Final[Mapping[str, Any]] = {
    "chime": {
        "x-amzn-ErrorType": {"required": True, "schema": {"type": "string", "pattern": "Exception$"}},
        "x-amzn-RequestId": {"required": True, "schema": TEXT},
    }
}
LIMITS: Final[Mapping[str, str]] = {
    "400": "not JSON in UTF-8, nested too deep, or wrong in another way",
    "403": "not allowed; of an open service, what another site's page has a browser ask",
    "405": "the path has other methods",
    "408": "the body did not come in time",
    "413": "the body is too large",
}
"""What every request of an API may be answered."""
CHALLENGE: Final = {"WWW-Authenticate": {"required": True, "schema": TEXT}}


def describe(app: FastAPI) -> None:
    """Have the application's document say all of it."""
    by_framework = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _finished(by_framework())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def allowed_methods(app: FastAPI, path: str) -> str:
    """What `Allow` says of a path (RFC 9110, 10.2.1): the framework names the methods of one of its routes alone."""
    found = {
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if _pattern(template).fullmatch(EDITION.sub("", path))
        for method in operations
    }
    return ", ".join(sorted(found))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """What a path of the document stands for; the key of a recording in Drive may have slashes."""
    parts = re.split(r"\{(\w+)\}", template)
    names = {name: ".+" if name == "key" else "[^/]+" for name in parts[1::2]}
    written = [names[part] if number % 2 else re.escape(part) for number, part in enumerate(parts)]
    return re.compile("".join(written), re.DOTALL)


def _finished(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # errors are told otherwise here
        schemas.pop(name, None)
    for vendor, schema in ERRORS.items():
        schemas[f"{vendor.capitalize()}Error"] = schema
    components["securitySchemes"] = dict(SCHEMES)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _finish(path, operation)
    return document


def _finish(path: str, operation: dict[str, Any]) -> None:
    tag = operation["tags"][0]
    security = SECURITY.get(path, SECURITY.get(tag))
    if security is not None:
        operation["security"] = security
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    if tag == "operation":
        return
    vendor = vendor_of(path)
    error = "ErrorBody" if vendor is None else f"{vendor.capitalize()}Error"
    for status, words in LIMITS.items():
        responses.setdefault(status, {"description": words})
    for status, response in responses.items():
        if status >= "400":
            response["content"] = {JSON: {"schema": {"$ref": f"#/components/schemas/{error}"}}}
            headers = dict(ERROR_HEADERS.get(vendor or "", {}))
            if status == "401":
                headers |= CHALLENGE
            if headers:
                response["headers"] = headers
