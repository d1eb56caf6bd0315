"""`/docs`: the API on one page that needs no other, drawn from the OpenAPI description.

FastAPI's own page loads Swagger UI from the web, which an endpoint on a closed network does not reach. A package that
brings it is three megabytes of scripts for a handful of routes; this is a template.
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from caspi import page
from serve.operations import PAGE_POLICY


def add_to(app: FastAPI) -> None:
    """Add the route. The page is drawn at its first visit, when all routes are there."""

    @app.get("/docs", include_in_schema=False)
    async def show_reference() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()), headers={"Content-Security-Policy": PAGE_POLICY})


def render(description: dict[str, Any]) -> str:
    """The page of an OpenAPI description."""
    templates = page.environment(Path(__file__).with_name("web"))
    return templates.get_template("reference.html.j2").render(
        title=description["info"]["title"],
        summary=description["info"].get("summary", ""),
        operations=[
            {"method": method.upper(), "path": path, "fields": _fields(operation), **operation}
            for path, methods in description["paths"].items()
            for method, operation in methods.items()
        ],
        schemas={
            name: [
                {"name": field, "type": _type(described), "description": described.get("description", "")}
                for field, described in schema.get("properties", {}).items()
            ]
            for name, schema in description["components"]["schemas"].items()
        },
        descriptions={
            name: schema.get("description", "") for name, schema in description["components"]["schemas"].items()
        },
        type_of=_answer,
    )


def _fields(operation: dict[str, Any]) -> list[dict[str, str]]:
    """What can be sent: parameters of the path, and the fields of a form or a JSON body."""
    fields = [
        {"name": each["name"], "type": _type(each["schema"]), "description": f"In the {each['in']}."}
        for each in operation.get("parameters", [])
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        required = content["schema"].get("required", [])
        for name, described in content["schema"].get("properties", {}).items():
            words = [described.get("description", ""), "Required." if name in required else ""]
            fields.append({"name": name, "type": _type(described), "description": " ".join(filter(None, words))})
    return fields


def _answer(response: dict[str, Any]) -> str:
    kinds = []
    for media_type, content in response.get("content", {}).items():
        kind = _type(content.get("schema", {}))
        kinds.append(f"{media_type}: {kind}" if kind else media_type)
    return ", ".join(kinds)


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words: `list of string`, `SegmentJson`, `auto or object`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_type, schema["anyOf"])))
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "file"
    return str(schema.get("type", ""))
