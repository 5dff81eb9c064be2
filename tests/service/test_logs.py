"""Logs as JSON: one line a record, with the call, without secrets, whatever the text."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callreel.service.logs import JsonFormatter, without_secrets


@pytest.fixture
def log():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("callreel.test")
    logger.addHandler(handler)
    logger.lines = lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    return logger


def formatted(message, *arguments, **more):
    record = logging.LogRecord("callreel", logging.INFO, "x.py", 1, message, arguments, None)
    vars(record).update(more)
    return JsonFormatter().format(record)


def test_a_record_is_a_line_with_its_time_level_logger_message_and_call(log):
    log.warning("%s failed", "deliver:7", extra={"call_id": "c-1", "lane": "s3://b"})
    (line,) = log.lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "callreel.test",
        "message": "deliver:7 failed",
        "call_id": "c-1",
        "lane": "s3://b",
        "thread": "MainThread",
    }


def test_an_error_comes_with_its_traceback_in_the_same_line(log):
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("that went wrong")
    (line,) = log.lines()
    assert line["error"] == "ValueError"
    assert line["traceback"].endswith("ValueError: a\nb")


@given(st.text(), st.text(), st.text())
def test_any_text_is_one_line_of_ascii_that_can_be_read_again(message, argument, call_id):
    line = formatted("%s: " + message.replace("%", "%%"), argument, call_id=call_id)
    assert line.isascii()
    assert "\n" not in line
    assert "\r" not in line
    told = json.loads(line)
    assert told["message"] == without_secrets(f"{argument}: {message}")
    assert told["call_id"] == without_secrets(call_id)


@pytest.mark.parametrize(
    "hostile",
    [
        'x\n{"level": "info", "message": "forged"}',
        "\u2028forged",
        "\x1b[2J",
        "\ud800",
        "\x00",
        '"}\r\n{"a": "',
    ],
)
def test_a_strangers_text_forges_no_record(log, hostile):
    log.info("call %s", hostile, extra={"call_id": hostile})
    (line,) = log.lines()
    assert line["call_id"] == hostile
    assert line["message"] == f"call {hostile}"


def test_what_is_not_named_is_not_written(log):
    log.info("x", extra={"token": "abc", "call_id": "c-1", "payload": {"a": 1}})
    assert set(log.lines()[0]) == {"time", "level", "logger", "message", "call_id", "thread"}


def test_a_text_that_is_too_long_loses_its_middle(log):
    log.info("%s", "x" * 1_000_000)
    (line,) = log.lines()
    assert len(line["message"]) < 8100
    assert "992000 characters" in line["message"]


def test_arguments_that_do_not_fit_cost_no_record():
    assert json.loads(formatted("%s %s", 1))["message"] == "%s %s (its arguments do not fit: TypeError)"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRET0123456789",
        "authorization: basic SECRET0123456789",
        "Application key:SECRET0123456789=",
        "GET https://user:SECRET@example.net/x",
        "https://b.example/x?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET/20260101",
        "X-Amz-Security-Token=SECRET",
        '{"password": "SECRET", "a": 1}',
        "aws_secret_access_key = SECRET",
        "client_secret=SECRET",
        "api_key: 'SECRET'",
        "access_token=SECRET&x=1",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text):
    assert "SECRET" in text
    assert "SECRET" not in json.loads(formatted("%s", text))["message"]


@pytest.mark.parametrize(
    "text",
    [
        "take 0123456789abcdef waits: the key is not there",
        "deliver:7 failed, denied: AccessDenied (403); check the credentials",
        "s3://bucket/key@2x.wav, sip:agent@pbx.example.net",
        "draining: running recordings may take 30 s",
    ],
)
def test_ordinary_words_stay(text):
    assert without_secrets(text) == text


@given(st.text())
def test_hiding_twice_hides_no_more(text):
    once = without_secrets(text)
    assert without_secrets(once) == once
