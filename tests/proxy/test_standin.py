"""The answers of the relay while no profiler serves the API; end_to_end/test_profiler_dies.py has it serve them."""

from __future__ import annotations

import json

import pytest

from pgtattle.proxy.standin import answer


def parts(head: bytes) -> tuple[str, dict[str, str], bytes]:
    top, _, body = answer(head, "why\n\x1b").partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/api/v1/session?limit=3", "/livez/x", "*"])
def test_there_is_no_profiler(path: str) -> None:
    status, headers, body = parts(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert headers["Content-Type"] == "application/json"
    assert headers["Retry-After"] == "1"
    assert headers["Connection"] == "close"
    assert int(headers["Content-Length"]) == len(body)
    assert json.loads(body) == {"error": {"code": "no_profiler", "message": "why\n\x1b", "details": {}}}


@pytest.mark.parametrize("line", ["GET /livez HTTP/1.1", "GET /livez?verbose HTTP/1.0", "HEAD /livez HTTP/1.1"])
def test_the_relay_lives(line: str) -> None:
    status, headers, body = parts(f"{line}\r\n\r\n".encode())
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Length"] == "3"
    assert body == (b"" if line.startswith("HEAD") else b"ok\n")


@pytest.mark.parametrize("head", [b"", b"\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET /livez\r\n\r\n", b"x" * 20_000])
def test_what_is_no_request(head: bytes) -> None:
    assert parts(head)[0] == "HTTP/1.1 400 Bad Request"
