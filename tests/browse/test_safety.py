"""The guard in front of the page: foreign hosts, other sites, missing tokens; and what every answer says to the browser."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from beholder.browse.safety import Guard, new_token

PORT = 8000
OWN = f"http://127.0.0.1:{PORT}"


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers everything with 200."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"reached"})


def ask(
    guard: Guard, path: str = "/api/set", *, method: str = "GET", host: str | None = None, **headers: str
) -> httpx.Response:
    """One request; header names with _ for -."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}

    async def one() -> httpx.Response:
        transport = httpx.ASGITransport(app=guard)
        async with httpx.AsyncClient(transport=transport, base_url=OWN) as client:
            return await client.request(method, path, headers={**given, **({"host": host} if host is not None else {})})

    return asyncio.run(one())


@pytest.fixture
def guard() -> Guard:
    return Guard(behind, port=PORT)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "192.168.1.7:9", "127.0.0.1", "localhost:1234"]
)
def test_own_hosts_are_answered(guard: Guard, host: str) -> None:
    assert ask(guard, host=host).text == "reached"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
     "evil.example#127.0.0.1", "", "localhost evil", "127.0.0.1,evil.example", "xn--localhost", "[::1", "localhost/.", "0x7f"],
)  # fmt: skip
def test_foreign_host_names_are_refused_since_they_may_have_been_rebound(guard: Guard, host: str) -> None:
    found = ask(guard, host=host)
    assert found.status_code == 403
    assert "reached" not in found.text


def test_the_name_that_was_asked_for_is_a_host_too() -> None:
    guard = Guard(behind, port=PORT, host_names=["Box.lan"])
    assert ask(guard, host="box.LAN:8000").status_code == 200
    assert ask(guard, host="other.lan:8000").status_code == 403


def test_two_host_headers_are_refused(guard: Guard) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost"), (b"Host", b"evil.example")]}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/api/set", "/thumb/x/160/0", "/picture/x/0", "/api/export", "/static/app.js"])
def test_other_sites_can_embed_and_ask_for_nothing(guard: Guard, site: str, path: str) -> None:
    for mode in ("no-cors", "cors", "navigate"):
        assert ask(guard, path, sec_fetch_site=site, sec_fetch_mode=mode).status_code == 403


def test_other_sites_can_link_to_the_page(guard: Guard) -> None:
    assert ask(guard, "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate").status_code == 200
    assert ask(guard, "/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status_code == 403
    assert ask(guard, "/", sec_fetch_site="none", sec_fetch_mode="navigate").status_code == 200


ALLOWED: list[dict[str, str]] = [
    {"origin": OWN, "content_type": "application/json"},
    {"sec_fetch_site": "same-origin", "content_type": "application/json; charset=utf-8"},
    {"origin": OWN, "sec_fetch_site": "same-origin", "content_type": "application/json"},
]
REFUSED: list[dict[str, str]] = [
    {"content_type": "application/json"},
    {"origin": "http://evil.example", "content_type": "application/json"},
    {"origin": "null", "content_type": "application/json"},
    {"origin": "http://127.0.0.1:8001", "content_type": "application/json"},
    {"origin": "http://localhost:8000", "content_type": "application/json"},
    {"origin": OWN, "sec_fetch_site": "cross-site", "content_type": "application/json"},
    {"origin": OWN, "sec_fetch_site": "same-site", "content_type": "application/json"},
    {"sec_fetch_site": "none", "content_type": "application/json"},
    {"origin": OWN, "content_type": "text/plain"},
    {"origin": OWN, "content_type": "application/x-www-form-urlencoded"},
    {"origin": OWN},
]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_changes_come_from_the_page_itself_only(guard: Guard, method: str) -> None:
    for headers in ALLOWED:
        assert ask(guard, "/api/marks", method=method, **headers).status_code == 200, headers
    for headers in REFUSED:
        assert ask(guard, "/api/marks", method=method, **headers).status_code == 403, headers


def test_no_other_site_is_told_that_it_may_ask(guard: Guard) -> None:
    found = ask(guard, "/api/marks", method="OPTIONS", origin="http://evil.example", access_control_request_method="POST")
    assert found.status_code == 403
    assert not [name for name in found.headers if name.startswith("access-control")]


def test_every_answer_carries_the_headers(guard: Guard) -> None:
    for found in (ask(guard), ask(guard, "/"), ask(guard, host="evil.example"), ask(guard, "/thumb/x/160/0")):
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert found.headers["cross-origin-resource-policy"] == "same-origin"
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in found.headers["content-security-policy"]
        assert "unsafe" not in found.headers["content-security-policy"]
    assert "sandbox" in ask(guard, "/picture/x/0").headers["content-security-policy"]


def test_without_the_token_nothing_is_answered() -> None:
    token = new_token()
    guard = Guard(behind, port=PORT, token=token)
    for path in (
        "/",
        "/api/set",
        "/static/app.js",
        "/?token=",
        "/?token=x",
        f"/?token={token}x",
        f"/?token={token[:-1]}",
        "/?token=%ff",
    ):
        found = ask(guard, path)
        assert found.status_code == 401, path
        assert "set-cookie" not in found.headers
        assert token not in found.text
    assert ask(guard, "/", method="HEAD").content == b""


def test_the_token_gives_a_cookie_that_scripts_and_other_sites_cannot_use() -> None:
    token = new_token()
    guard = Guard(behind, port=PORT, token=token)
    first = ask(guard, f"/?token={token}", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert first.status_code == 200
    cookie = first.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    name, value = cookie.split(";")[0].split("=", 1)
    assert str(PORT) in name, "cookies are shared by the ports of a host"
    assert token not in cookie
    assert ask(guard, cookie=f"{name}={value}").status_code == 200
    assert ask(guard, cookie=f"other=1; {name}={value}").status_code == 200
    for beside in ('prefs={"a":1}', "a", "=", "x=a,b c", 'q="', "w%C3%B6rter=[1]", f"{name}=old", f"{name}x={value}"):
        for header in (f"{beside}; {name}={value}", f"{name}={value}; {beside}", f"{beside};{name}={value};{beside}"):
            assert ask(guard, cookie=header).status_code == 200, header
        assert ask(guard, cookie=beside).status_code == 401, beside
    for wrong in (f"{name}={value}x", f"{name}={value[:-1]}", f"{name}=", f"x{name}={value}", "=;;,", f"{name}={token}"):
        assert ask(guard, cookie=wrong).status_code == 401, wrong
    assert ask(Guard(behind, port=PORT, token=token), cookie=f"{name}={value}").status_code == 401, "of another run"


def test_a_token_does_not_open_the_door_to_other_sites() -> None:
    token = new_token()
    guard = Guard(behind, port=PORT, token=token)
    assert ask(guard, f"/api/set?token={token}", host="evil.example").status_code == 403
    found = ask(
        guard, f"/api/marks?token={token}", method="POST", origin="http://evil.example", **{"content_type": "application/json"}
    )
    assert found.status_code == 403


def test_tokens_differ_and_are_long() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert min(len(new_token()) for _ in range(100)) >= 43


def test_web_sockets_are_closed(guard: Guard) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
