"""Who comes in: by which name, from which page, past which proxy, with which password."""

import base64
import re
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from visalign.errors import UserError
from visalign_demo.context import Demo, network_of
from visalign_demo.gate import check_names, host_name
from visalign_demo.login import FREE_TRIES, LONGEST_WAIT, Waits
from visalign_demo.server import app_of, check_access

HERE = "http://127.0.0.1:7860"


@pytest.fixture
def client_of(settings):
    def make(client=("127.0.0.1", 5000), base_url=HERE, **change):
        app = app_of(Demo(replace(settings, pairs=0, **change)))
        return TestClient(app, base_url=base_url, client=client, raise_server_exceptions=False)

    return make


def test_a_name_that_is_not_allowed_is_told_which_option_allows_it(client_of):
    client = client_of(allowed_hosts=("demo.example.org", "*.tunnel.example"))
    for name in ("demo.example.org", "DEMO.example.org:443", "a.tunnel.example", "localhost:7860", "[::1]:7860",
                 "192.168.3.4:7860", "127.0.0.1"):
        assert client.get("/theme.css", headers={"Host": name}).status_code == 200, name
    for name in ("evil.example", "demo.example.org.evil.example", "tunnel.example", "eviltunnel.example"):
        answer = client.get("/theme.css", headers={"Host": name})
        assert answer.status_code == 400 and f"--allowed-host {name}" in answer.text
    for name in ("", "<script>", "a b", "[", "a:b:c"):
        answer = client.get("/theme.css", headers={"Host": name})
        assert answer.status_code == 400 and "--allowed-host NAME" in answer.text
        assert answer.headers["content-type"].startswith("text/plain")


def test_another_address_to_serve_on_does_not_make_every_name_good(client_of):
    client = client_of(host="0.0.0.0")
    assert client.get("/theme.css", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/theme.css", headers={"Host": "10.0.0.7:7860"}).status_code == 200


ORIGINS = [
    ({}, True), ({"Origin": HERE}, True), ({"Origin": "http://127.0.0.1:7861"}, False), ({"Origin": "null"}, False),
    ({"Origin": "https://evil.example"}, False), ({"Origin": "http://127.0.0.1"}, False),
    ({"Origin": "http://["}, False),
    ({"Sec-Fetch-Site": "same-origin"}, True), ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "same-site"}, False), ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": HERE}, False),
    ({"Origin": "https://demo.example.org"}, True)]


def test_another_site_s_page_can_send_nothing(client_of):
    client = client_of(allowed_hosts=("demo.example.org",))
    files = {"files": ("a.png", b"x", "image/png")}
    for headers, allowed in ORIGINS:
        for answer in (client.post("/gradio_api/run/ballot", json={"data": ["ann", ""]}, headers=headers),
                       client.post("/gradio_api/upload", files=files, headers=headers),
                       client.post("/gradio_api/cancel", json={"session_hash": "s", "fn_index": 0, "event_id": "x"},
                                   headers=headers)):
            assert (answer.status_code != 403) == allowed, (headers, answer.text)


def test_another_site_may_link_here_and_neither_read_nor_frame(client_of):
    client, elsewhere = client_of(), {"Sec-Fetch-Site": "cross-site"}
    answer = client.get("/", headers=elsewhere | {"Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200 and "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    for path in ("/config", "/gradio_api/info", "/media/x"):
        assert client.get(path, headers=elsewhere | {"Sec-Fetch-Mode": "cors"}).status_code == 403
        assert client.get(path, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.options("/gradio_api/upload", headers={"Origin": "https://evil.example"}).status_code == 403


def root_of(answer):
    return re.search(r'"root": ?"([^"]*)"', answer.text)[1]


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "demo.example.org", "X-Forwarded-For": "203.0.113.9"}


def test_nobody_s_forwarded_headers_are_believed(client_of):
    client = client_of()
    for headers in (FORWARDED, {"X-Gradio-Server": "https://evil.example"}, {"Forwarded": "host=evil.example"}):
        assert root_of(client.get("/", headers=headers)) == HERE


def test_a_trusted_proxy_s_are_believed_for_scheme_host_and_address(client_of):
    trusted = {"trusted_proxies": ("10.0.0.0/8",), "allowed_hosts": ("demo.example.org",)}
    proxied = client_of(client=("10.1.2.3", 5000), **trusted)
    answer = proxied.get("/", headers=FORWARDED)
    assert root_of(answer) == "https://demo.example.org" and "Secure" in answer.headers["set-cookie"]
    assert proxied.get("/", headers=FORWARDED | {"X-Forwarded-Host": "evil.example"}).status_code == 400
    assert root_of(client_of(client=("11.1.2.3", 5000), **trusted).get("/", headers=FORWARDED)) == HERE


def test_limits_count_the_client_behind_a_trusted_proxy_and_nobody_s_claims(client_of):
    def refused(client, addresses):
        wrong = [base64.b64encode(f"ann:{i}".encode()).decode() for i in range(FREE_TRIES + 2)]
        answers = [client.get("/", headers={"Authorization": f"Basic {each}", "X-Forwarded-For": addresses(i)})
                   for i, each in enumerate(wrong)]
        return [answer.status_code for answer in answers].count(429)

    login, claims = {"user": "ann", "password": "right"}, "203.0.113.{}".format
    assert refused(client_of(client=("10.1.2.3", 1), **login), claims) == 2
    proxied = client_of(client=("10.1.2.3", 1), trusted_proxies=("10.1.2.3",), **login)
    assert refused(proxied, claims) == 0
    assert refused(proxied, lambda i: "203.0.113.99") == 2


def test_wrong_passwords_make_wait_longer_each_time_and_pages_that_are_in_stay_in(client_of):
    client = client_of(user="ann", password="right")
    def basic(word):
        return {"Authorization": "Basic " + base64.b64encode(f"ann:{word}".encode()).decode()}

    for _ in range(2):  # the first answer gives the cookie by which the page is known from the second on
        assert client.get("/", headers=basic("right")).status_code == 200
    stranger = TestClient(client.app, base_url=HERE, client=("127.0.0.1", 6000))
    for i in range(FREE_TRIES):
        assert stranger.get("/", headers=basic(f"wrong {i}")).status_code == 401
    answer = stranger.get("/", headers=basic("right"))
    assert answer.status_code == 429 and "Too many wrong passwords; try again in 2 s." in answer.text
    assert answer.headers["retry-after"] == "2"
    assert client.get("/", headers=basic("right")).status_code == 200
    assert stranger.get("/").status_code == 401  # without a password nothing is tried


def test_waits_double_up_to_a_quarter_of_an_hour_and_are_forgotten_after_an_hour():
    now = [0.0]
    waits, seen = Waits(lambda: now[0]), []
    for i in range(20):
        waits.wrong("a", str(i))
        seen.append(waits.left("a"))
        now[0] += waits.left("a")
    assert seen[:FREE_TRIES - 1] == [0.0] * (FREE_TRIES - 1) and seen[FREE_TRIES - 1:FREE_TRIES + 2] == [2.0, 4.0, 8.0]
    assert seen[-1] == LONGEST_WAIT and waits.left("b") == 0
    now[0] += 3600
    waits.wrong("a", "x")
    assert waits.left("a") == 0


def test_the_same_wrong_password_again_is_one_try():
    waits = Waits(lambda: 0.0)
    for _ in range(50):
        waits.wrong("a", "same")
    assert waits.left("a") == 0


@pytest.mark.parametrize("change, words", [
    ({"user": "ann"}, "--user needs a password"), ({"password": "x"}, "needs a --user"),
    ({"user": "", "password": "x"}, "needs a --user"), ({"user": "ann", "password": ""}, "--user needs a password"),
    ({"password": ""}, "needs a --user"), ({"user": "a:b", "password": "x"}, "cannot hold a colon"),
    ({"allowed_hosts": ("https://x.org",)}, "--allowed-host is a name"), ({"allowed_hosts": ("*",)}, "--allowed-host"),
    ({"allowed_hosts": ("x.org:80",)}, "--allowed-host"), ({"trusted_proxies": ("*",)}, "--trusted-proxy is an addr"),
    ({"trusted_proxies": ("proxy.org",)}, "--trusted-proxy"), ({"trusted_proxies": ("10.0.0.1/8",)}, "--trusted-proxy"),
    ({"root_path": "demo"}, "--root-path is a path"), ({"root_path": "//evil.example"}, "--root-path"),
    ({"root_path": "/a/../b"}, "--root-path"), ({"root_path": '/"><script>'}, "--root-path"),
    ({"root_path": "https://x.org/demo"}, "--root-path")])
def test_what_means_nothing_is_refused_before_anything_is_loaded(settings, change, words):
    with pytest.raises(UserError, match=words):
        check_access(replace(settings, **change))


def test_what_means_something_is_taken():
    check_names(("demo.example.org", "*.x.org", "localhost", "::1", "10.0.0.1"), ("127.0.0.1", "fd00::/8"), "/a/b.c")
    assert [host_name(host) for host in ("A.b.:1", "[::1]:2", "x@y", "a/b", "1.2.3.4")] == [
        "a.b", "::1", "", "", "1.2.3.4"]
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::") and network_of("1.2.3.4") == "1.2.3.4"


@pytest.mark.parametrize("stripped", [True, False])
def test_under_a_root_path_everything_is_found_where_the_page_says(settings, stripped):
    """Whether the proxy takes the path off, or passes it on as it is."""
    demo = Demo(replace(settings, root_path="/demo/", pairs=0))
    name = demo.media_store.put_table(b"a,b")
    client = TestClient(app_of(demo), base_url=HERE)

    def get(path):
        assert path.startswith("/demo/")
        return client.get(path.removeprefix("/demo") if stripped else path, follow_redirects=False)

    page = get("/demo/")
    assert page.status_code == 200 and root_of(page) == f"{HERE}/demo" and "Path=/demo;" in page.headers["set-cookie"]
    assert root_of(get("/demo/config")) == f"{HERE}/demo"
    assets = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page.text)
    assert assets and all(get(f"/demo/{each}").status_code == 200 for each in assets[:4])
    assert get(demo.media_url(name)).content == b"a,b"
    for path in ("/demo/theme.css", "/demo/gradio_api/info", "/demo/manifest.json"):
        assert get(path).status_code == 200, path
    said = client.post(("" if stripped else "/demo") + "/gradio_api/run/ballot", json={"data": ["ann", ""]})
    assert said.status_code == 200
    if not stripped:
        assert client.get("/demo", follow_redirects=False).headers["location"] == "/demo/"
        assert client.get("/demonstration").status_code == 404
