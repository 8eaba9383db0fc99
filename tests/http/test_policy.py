"""Where a request may go: allowed hosts, redirects, proven servers, addresses at every hop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from django_poolkit.conf.http import HttpConfig
from django_poolkit.http.errors import RequestRefused
from django_poolkit.http.policy import Policy
from django_poolkit.http.shared import SharedClientSession
from django_poolkit.testing.waiting import wait_until
from tests.http.support import MakeSession
from tests.http.upstream import Upstream

SECRETS = {"X-Api-Key": "secret", "Authorization": "Bearer secret", "X-Anything": "secret"}


# -- cookies


def test_a_cookie_that_one_user_got_is_not_sent_for_the_next(
    session: SharedClientSession, upstream: Upstream
) -> None:
    url = upstream.url("/cookie", host="localhost")
    first = session.sync.get(url)
    assert first.headers["Set-Cookie"].startswith("sessionid=alice")
    session.sync.get(url)
    assert "Cookie" not in upstream.seen[-1].headers
    session.sync.get(url, cookies={"own": "1"})
    assert upstream.seen[-1].headers["Cookie"] == "own=1"
    session.sync.get(url)
    assert "Cookie" not in upstream.seen[-1].headers


def test_cookies_are_kept_where_the_settings_say_so(make: MakeSession, upstream: Upstream) -> None:
    session = make(COOKIES=True, cookies={"first": "1"})
    url = upstream.url("/cookie", host="localhost")
    session.sync.get(url)
    session.sync.get(url)
    assert upstream.seen[-1].headers["Cookie"] == "first=1; sessionid=alice"


# -- TLS


def test_a_server_that_nobody_vouches_for_is_refused(
    session: SharedClientSession, secure: Upstream
) -> None:
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        session.sync.get(secure.url())
    assert secure.seen == []
    assert session.stats().connect_errors == 1


def test_a_server_of_ones_own_authority_is_not(
    make: MakeSession, secure: Upstream, cafile: Path
) -> None:
    session = make(CAFILE=str(cafile))
    assert session.sync.get(secure.url()).status == 200
    assert session.sync.get(secure.url(host="localhost")).status == 200


def test_a_certificate_of_another_name_is_refused(
    make: MakeSession, authority: Any, cafile: Path
) -> None:
    session = make(CAFILE=str(cafile))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("somebody.else.example").configure_cert(context)
    with Upstream(context) as server, pytest.raises(aiohttp.ClientConnectorCertificateError):
        session.sync.get(server.url())


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def nameless() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


@pytest.mark.filterwarnings("ignore:verify_ssl:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:ssl_context:DeprecationWarning")
@pytest.mark.parametrize(
    "option",
    [
        lambda: {"ssl": False},
        lambda: {"ssl": trusting()},
        lambda: {"ssl": nameless()},
        lambda: {"verify_ssl": False},
        lambda: {"ssl_context": trusting()},
    ],
    ids=["ssl", "context", "no-name", "verify_ssl", "ssl_context"],
)
def test_no_request_may_give_up_verification(
    session: SharedClientSession, secure: Upstream, option: Callable[[], dict[str, Any]]
) -> None:
    with pytest.raises(RequestRefused, match="must not give up verification"):
        session.sync.get(secure.url(), **option())
    assert secure.seen == []
    assert session.stats().connects == 0


def test_a_request_may_bring_its_own_way_to_verify(
    session: SharedClientSession, secure: Upstream, cafile: Path
) -> None:
    context = ssl.create_default_context(cafile=cafile)
    assert session.sync.get(secure.url(), ssl=context).status == 200
    wrong = aiohttp.Fingerprint(bytes(32))
    with pytest.raises(aiohttp.ServerFingerprintMismatch):
        session.sync.get(secure.url(), ssl=wrong)
    # The connection of the one is not used for the other.
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        session.sync.get(secure.url())


def test_a_middleware_cannot_get_round_it_with_the_bare_session(
    make: MakeSession, secure: Upstream
) -> None:
    async def around(request: Any, handler: Any) -> Any:
        async with request.session.get(request.url, ssl=False, middlewares=None):
            pass
        return await handler(request)

    session = make(ALLOWED_HOSTS=["127.0.0.1"])
    with pytest.raises(RequestRefused):
        session.sync.get(secure.url(), middlewares=[around])
    assert secure.seen == []


@pytest.mark.parametrize("redirects", ["never", "same-origin", "any"])
def test_a_middleware_with_the_bare_session_is_led_to_no_other_origin(
    make: MakeSession, upstream: Upstream, other: Upstream, redirects: str
) -> None:
    said: list[Any] = []

    async def around(request: Any, handler: Any) -> Any:
        for to, options in (
            ("/echo", {}),
            (other.url(), {}),
            (other.url(), {"allow_redirects": False}),
            ("file:///etc/passwd", {}),
        ):
            url = upstream.url(f"/redirect?to={quote(to, safe='')}")
            try:
                async with request.session.get(url, headers=SECRETS, **options) as response:
                    said.append(response.status)
            except aiohttp.ClientError as error:
                said.append(type(error).__name__)
        return await handler(request)

    session = make(REDIRECTS=redirects)
    assert session.sync.get(upstream.url(), middlewares=[around]).status == 200
    kept = "RequestRefused" if redirects == "never" else 200
    assert said == [kept, "RequestRefused", 302, "NonHttpUrlRedirectClientError"]
    assert other.seen == []
    assert session.stats().used == 0


# -- hosts


@pytest.mark.parametrize(
    ("pattern", "host", "allowed"),
    [
        ("api.example.com", "api.example.com", True),
        ("api.example.com", "API.Example.COM", True),
        ("api.example.com", "api.example.com.", True),
        ("api.example.com", "example.com", False),
        ("api.example.com", "x.api.example.com", False),
        ("api.example.com", "api.example.com.evil.example", False),
        ("api.example.com", "evil-api.example.com", False),
        (".example.com", "example.com", True),
        (".example.com", "a.b.example.com", True),
        (".example.com", "evilexample.com", False),
        ("*", "anything.example", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.11", False),
        ("::1", "[::1]", True),
        ("xn--bcher-kva.example", "bücher.example", True),
        ("example.com", "user:example.com@evil.example", False),
        ("example.com", "evil.example/example.com", False),
        ("example.com", "evil.example#example.com", False),
        ("example.com", "evil.example\\@example.com", False),
    ],
)
def test_hosts_are_allowed_as_django_does(pattern: str, host: str, allowed: bool) -> None:
    policy = Policy("same-origin", (pattern,), direct=False)
    try:
        request = request_to(f"http://{host}/")
    except ValueError:
        assert not allowed  # aiohttp does not take it for a URL
        return
    if allowed:
        policy.verify(request)
    else:
        with pytest.raises(RequestRefused, match="none of the allowed hosts"):
            policy.verify(request)


def request_to(url: str, method: str = "GET") -> aiohttp.ClientRequest:
    """Return a request as the connector would get it; nothing is sent."""
    found: list[aiohttp.ClientRequest] = []

    async def keep(request: aiohttp.ClientRequest, handler: Any) -> Any:
        found.append(request)
        raise LookupError

    async def main() -> None:
        async with aiohttp.ClientSession(middlewares=[keep]) as session:
            await session.request(method, url)

    with pytest.raises(LookupError):
        asyncio.run(main())
    return found[0]


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=12), st.sampled_from("@/\\#?:. %;"))
def test_no_trick_of_a_url_passes_for_an_allowed_host(prefix: str, mark: str) -> None:
    policy = Policy("same-origin", ("good.example",), direct=False)
    for url in (f"http://{prefix}{mark}good.example/", f"http://good.example{mark}{prefix}/"):
        try:
            request = request_to(url)
        except (ValueError, pytest.fail.Exception):
            continue
        try:
            policy.verify(request)
        except RequestRefused:
            continue
        # What is asked for is what the connector resolves and what stands in the Host header.
        assert request.host.rstrip(".").lower() == "good.example"
        assert request.headers["Host"].partition(":")[0].rstrip(".").lower() == "good.example"


def test_a_host_that_is_not_allowed_is_not_asked(make: MakeSession, upstream: Upstream) -> None:
    session = make(ALLOWED_HOSTS=["localhost"])
    assert session.sync.get(upstream.url(host="localhost")).status == 200
    with pytest.raises(RequestRefused, match=r"http://127\.0\.0\.1:\d+ is none of the allowed"):
        session.sync.get(upstream.url("/echo?secret=1"))
    assert upstream.count("/echo") == 1


def test_a_base_url_is_the_only_host_unless_others_are_allowed(
    make: MakeSession, upstream: Upstream, other: Upstream
) -> None:
    base = upstream.url("/", host="localhost")
    session = make(base_url=base, headers=SECRETS)
    assert session.sync.get("echo").json()["headers"]["X-Api-Key"] == "secret"
    assert session.sync.get("/echo").status == 200
    with pytest.raises(RequestRefused):
        session.sync.get(other.url())
    session = make(base_url=base, ALLOWED_HOSTS=["*"])
    assert session.sync.get(other.url()).status == 200


def test_the_name_of_a_base_url_may_end_in_a_dot() -> None:
    """As where a resolver would else try its search domains first."""
    policy = Policy.of(HttpConfig(name="api"), URL("http://api.example.com./"))
    policy.verify(request_to("http://api.example.com./orders"))
    policy.verify(request_to("http://api.example.com/orders"))
    with pytest.raises(RequestRefused, match="none of the allowed hosts"):
        policy.verify(request_to("http://example.com./"))


def test_only_http_is_spoken(session: SharedClientSession) -> None:
    for url in ("ws://127.0.0.1/", "tcp://127.0.0.1/", "file:///etc/passwd"):
        with pytest.raises((RequestRefused, aiohttp.NonHttpUrlClientError, aiohttp.InvalidURL)):
            session.sync.get(url)
    with pytest.raises(RequestRefused, match=r"^a URL without a scheme is not HTTP$"):
        session.sync.get("//127.0.0.1/")


# -- redirects


def leading(upstream: Upstream, to: str, status: int = 302) -> str:
    return upstream.url(f"/redirect?status={status}&to={quote(to, safe='')}")


def test_a_redirect_within_the_origin_is_followed_with_all_headers(
    session: SharedClientSession, upstream: Upstream
) -> None:
    response = session.sync.get(leading(upstream, "/echo"), headers=SECRETS)
    assert response.url == upstream.url()
    assert response.json()["headers"].items() >= SECRETS.items()


def test_a_redirect_to_another_origin_is_refused(
    session: SharedClientSession, upstream: Upstream, other: Upstream
) -> None:
    for to in (other.url(), upstream.url(host="localhost"), f"//localhost:{upstream.port}/echo"):
        with pytest.raises(RequestRefused, match="which REDIRECTS does not allow"):
            session.sync.get(leading(upstream, to), headers=SECRETS)
    assert other.seen == []
    assert upstream.count("/echo") == 0
    assert session.stats().used == 0


def test_other_origins_do_not_get_the_headers_where_they_are_allowed(
    make: MakeSession, upstream: Upstream, other: Upstream
) -> None:
    session = make(REDIRECTS="any", headers={"X-Session": "secret"})
    back = leading(other, upstream.url())
    response = session.sync.get(leading(upstream, back), headers=SECRETS)
    assert response.url == upstream.url()
    [there], home = other.seen, upstream.seen[-1]
    assert (there.path, home.path) == ("/redirect", "/echo")
    for seen in (there, home):
        # Nor when it leads back: another one has chosen where.
        assert "secret" not in str(seen.headers)
        assert "Accept" in seen.headers
    assert upstream.seen[0].headers["X-Session"] == "secret"


@pytest.mark.parametrize("status", [307, 308])
def test_a_body_does_not_follow_to_another_origin(
    make: MakeSession, upstream: Upstream, other: Upstream, status: int
) -> None:
    session = make(REDIRECTS="any")
    with pytest.raises(RequestRefused, match="is not to see the body"):
        session.sync.post(leading(upstream, other.url(), status), data=b"secret")
    assert other.seen == []
    within = session.sync.post(leading(upstream, "/echo", status), data=b"secret")
    assert within.json()["body"] == "secret"


def test_nothing_is_led_from_https_to_http(
    make: MakeSession, secure: Upstream, upstream: Upstream, cafile: Path
) -> None:
    session = make(REDIRECTS="any", CAFILE=str(cafile))
    with pytest.raises(RequestRefused, match="which anybody could read"):
        session.sync.get(leading(secure, upstream.url()))
    assert upstream.seen == []
    assert session.sync.get(leading(upstream, secure.url())).status == 200


def test_no_redirect_is_followed_where_the_settings_say_so(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(REDIRECTS="never")
    assert session.sync.get(leading(upstream, "/echo")).status == 302
    with pytest.raises(ValueError, match="REDIRECTS is 'never'"):
        session.sync.get(leading(upstream, "/echo"), allow_redirects=True)


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(
    make: MakeSession, upstream: Upstream, other: Upstream
) -> None:
    session = make(REDIRECTS="any", ALLOWED_HOSTS=["127.0.0.1"])
    assert session.sync.get(leading(upstream, other.url())).status == 200
    with pytest.raises(RequestRefused, match="none of the allowed hosts"):
        session.sync.get(leading(upstream, other.url(host="localhost")))


# -- addresses


def test_addresses_of_ones_own_network_are_refused(make: MakeSession, upstream: Upstream) -> None:
    session = make(ADDRESSES="public")
    hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"]
    hosts += ["169.254.169.254", "10.0.0.1", "[fe80::1]", "[fd00:ec2::254]", "[64:ff9b::7f00:1]"]
    for host in hosts:
        with pytest.raises(RequestRefused, match="ADDRESSES allows"):
            session.sync.get(upstream.url(host=host))
    assert upstream.seen == []


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0177.0.0.1", "017700000001", "0x7f.0.0.1", "0x7f000001",
             "127.0.0.1.", "①②⑦.0.0.1", "127。0。0。1"],
)  # fmt: skip
def test_other_ways_to_write_an_address_lead_nowhere(
    make: MakeSession, upstream: Upstream, host: str
) -> None:
    session = make(ADDRESSES="public")
    with pytest.raises((RequestRefused, aiohttp.InvalidURL, aiohttp.ClientConnectorDNSError)):
        session.sync.get(upstream.url(host=host))
    assert upstream.seen == []


def test_a_redirect_to_such_an_address_is_refused(
    make: MakeSession, upstream: Upstream, other: Upstream
) -> None:
    session = make(ADDRESSES=["127.0.0.1/32"], REDIRECTS="any")
    assert session.sync.get(leading(upstream, other.url())).status == 200
    for host in ("127.0.0.2", "169.254.169.254", "[::1]"):
        with pytest.raises(RequestRefused, match="ADDRESSES allows"):
            session.sync.get(leading(upstream, upstream.url(host=host)))


def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    make: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere each time it is looked up."""
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2", "127.0.0.1"]]
    asked: list[str] = []

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        assert host == "rebound.example"
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answers[len(asked) - 1]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    session = make(ADDRESSES=["127.0.0.1/32"], use_dns_cache=False, force_close=True)
    with Upstream() as allowed, Upstream(host="127.0.0.2") as inner:
        url = allowed.url(host="rebound.example")
        assert session.sync.get(url).status == 200
        with pytest.raises(RequestRefused, match="no address that ADDRESSES allows"):
            session.sync.get(inner.url(host="rebound.example"))
        # Of several only those are tried that are allowed.
        assert session.sync.get(url).status == 200
        assert (len(asked), len(allowed.seen), inner.seen) == (3, 2, [])


def test_a_proxy_is_refused_where_addresses_are_looked_at(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(ADDRESSES=["127.0.0.0/8"])
    with pytest.raises(RequestRefused, match="a proxy looks up hosts by itself"):
        session.sync.get(upstream.url(), proxy=upstream.url("/"))
    assert upstream.seen == []


def test_the_environment_chooses_no_proxy(
    session: SharedClientSession, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert session.sync.get(upstream.url()).status == 200


def test_what_is_refused_takes_no_place(make: MakeSession, upstream: Upstream) -> None:
    session = make(ADDRESSES="public", limit=1)
    for _ in range(3):
        with pytest.raises(RequestRefused):
            session.sync.get(upstream.url())
    stats = session.stats()
    assert (stats.size, stats.used, stats.connecting) == (0, 0, 0)
    assert stats.errors == {"RequestRefused": 3}
    assert "127" not in str(stats)
    wait_until(lambda: upstream.connections == 0)


def test_the_policy_is_what_the_settings_say() -> None:
    config = HttpConfig(name="api", allowed_hosts=("a.example",), redirects="any")
    assert Policy.of(config, None) == Policy("any", ("a.example",), direct=False)
