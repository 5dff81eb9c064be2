"""What a request may be, before anything else sees it."""

import asyncio
import json
import time

import pytest

from callreel.service.limits import NESTING, Limited, is_too_deep, is_utf_8


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


@pytest.mark.parametrize("inner", ["", '"["', r'"\\"', r'"\"["', r'"\\\"]"'])
def test_brackets_count_where_json_has_them(inner):
    for depth, is_it in ((NESTING, False), (NESTING + 1, True)):
        text = "[" * depth + inner + "]" * depth
        json.loads(text)
        assert is_too_deep(text.encode()) is is_it


def test_what_is_utf_8_may_have_a_mark_that_says_so():
    text = json.dumps({"a": ["é", 1]}, ensure_ascii=False)
    assert is_utf_8(text.encode())
    assert is_utf_8(text.encode("utf-8-sig"))
    assert is_utf_8(b"")
    assert not any(
        is_utf_8(text.encode(name))
        for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
    )


def test_a_string_without_an_end_is_looked_through_once():
    body = b'"' + b'\\"' * 20_000 + b"[" * (NESTING + 1)
    began = time.process_time()
    assert not is_too_deep(body)
    assert time.process_time() - began < 0.5
