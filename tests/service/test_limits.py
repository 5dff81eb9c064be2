"""What a request may be, before anything else sees it."""

import asyncio

from callreel.service.limits import Limited


def handled(*messages):
    """The bodies that the application is given when those messages come."""
    seen, waiting = [], list(messages)

    async def app(scope, receive, send):
        seen.append((await receive())["body"])

    async def receive():
        return waiting.pop(0)

    async def send(message):
        raise AssertionError(message)

    asyncio.run(Limited(app)({"type": "http", "path": "/v1/calls"}, receive, send))
    return seen


def part(body, *, more):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_that_comes_in_pieces_is_one():
    assert handled(part(b"id=1", more=True), part(b"23", more=False)) == [b"id=123"]


def test_half_a_request_is_not_carried_out():
    gone = {"type": "http.disconnect"}
    assert handled(part(b"id=1", more=True), gone) == []
    assert handled(gone) == []
