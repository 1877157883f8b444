"""Making responses."""

from http import HTTPStatus
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from opencode_lifecycle.api.schemas import OperationShape, Outgoing
from opencode_lifecycle.model.operation import Operation

JSON: Final = "application/json"


def respond(
    shape: Outgoing, *, status: int = HTTPStatus.OK, location: str | None = None, no_store: bool = False
) -> web.Response:
    headers = CIMultiDict({"Content-Type": JSON})
    if location is not None:
        headers["Location"] = location
    if no_store:
        headers["Cache-Control"] = "no-store"
    return web.Response(status=status, body=shape.json_bytes(), headers=headers)


def accepted(operation: Operation) -> web.Response:
    """Answer that *operation* was accepted, and where its progress is."""
    return respond(
        OperationShape.from_domain(operation),
        status=HTTPStatus.ACCEPTED,
        location=location_of_operation(operation.id),
    )


def location_of_operation(operation_id: str) -> str:
    return f"/v1/operations/{operation_id}"
