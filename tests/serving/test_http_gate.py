"""Who may use the server, by which name and from which page: nothing else reads a byte of the request."""

from __future__ import annotations

import httpx
import pytest
from raw_http import request, send_raw
from server import running_server

PATHS = ["/v1/files", "/v1/files/file-1", "/v1/nothing", "/v1/jobs/x/events", "/v1/models"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("gate")) as running:
        yield running
    assert running.errors == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer x", "Basic {token}", "{token}", "Bearer {token}x", "Bearer {half}"],
)
def test_a_wrong_token_is_refused_before_the_path_is_looked_at(server, path, authorization):
    headers = {}
    if authorization is not None:
        headers["Authorization"] = authorization.format(token=server.token, half=server.token[:20])
    answer = httpx.get(server.url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.json()["error"]["message"].endswith("Authorization: Bearer TOKEN.")


def test_two_tokens_are_none(server):
    both = [f"Authorization: Bearer {server.token}", "Authorization: Bearer wrong"]
    assert send_raw(server.url, request("GET", "/v1/files", "Host: localhost", *both)).status == 401


def test_the_right_token_in_any_spelling_of_bearer(server):
    for kind in ("Bearer", "bearer", "BEARER"):
        assert (
            httpx.get(server.url + "/v1/files", headers={"Authorization": f"{kind} {server.token}"}).status_code == 200
        )


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[("127.0.0.1:{port}", 200), ("127.0.0.1", 200), ("localhost:1", 200), ("LOCALHOST", 200), ("[::1]:80", 200)],
        *[("evil.example", 421), ("evil.example:{port}", 421), ("127.0.0.1.evil.example", 421), ("localhost.", 421)],
        *[("localhost@evil.example", 421), ("127.0.0.2", 421), ("", 421), ("localhost:x", 421), ("2130706433", 421)],
        *[("192.168.1.1", 421), ("localhost evil", 421), ("::1", 421)],
    ],
)
def test_the_host_header_must_name_this_server(server, host, status):
    named = f"Host: {host.format(port=server.url.rpartition(':')[2])}"
    answer = send_raw(server.url, request("GET", "/v1/files", named, f"Authorization: Bearer {server.token}"))
    assert answer.status == status
    if status == 421:
        assert "--allow-host" in answer.json["error"]["message"]


def test_no_host_and_two_hosts(server):
    token = f"Authorization: Bearer {server.token}"
    assert send_raw(server.url, request("GET", "/v1/files", token, version="1.0")).status == 421
    assert send_raw(server.url, request("GET", "/v1/files", token)).status == 400
    assert send_raw(server.url, request("GET", "/v1/files", "Host: localhost", "Host: evil", token)).status == 400


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "", "x"])
def test_pages_of_another_origin_may_do_nothing(server, origin):
    with server.client() as client:
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("OPTIONS", "/v1/files"), ("GET", "/")):
            answer = client.request(method, path, headers={"Origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_its_own_page_may(server):
    with server.client() as client:
        own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
        assert client.get("/v1/files", headers=own).status_code == 200
        for site in ("cross-site", "same-site"):
            assert client.get("/v1/files", headers={"Sec-Fetch-Site": site}).status_code == 403


def test_every_answer_forbids_frames_sniffing_and_caches(server):
    for path in ("/openapi.json", "/v1/files", "/nothing"):
        headers = httpx.get(server.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_without_a_token_the_other_checks_remain(tmp_path):
    with running_server(tmp_path, no_token=True) as server:
        assert not (server.state_dir / "token").exists()
        assert httpx.get(server.url + "/v1/files").status_code == 200
        assert httpx.get(server.url + "/v1/files", headers={"Host": "evil.example"}).status_code == 421
        assert httpx.post(server.url + "/v1/files", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_server_for_other_machines_warns_and_goes_by_its_address_or_a_name_that_is_allowed(tmp_path):
    with running_server(tmp_path, host="0.0.0.0", allow_host="desk.example") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        for host, status in (("192.168.7.7:80", 200), ("desk.example", 200), ("0.0.0.0", 200), ("evil.example", 421)):
            assert httpx.get(url + "/v1/files", headers={**server.headers, "Host": host}).status_code == status
    assert server.errors == ["warning: 0.0.0.0: other machines can reach it, and the token is sent to it unencrypted\n"]
