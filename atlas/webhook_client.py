"""Small POSTs to addresses that an operator configured: webhooks.

aiohttp is used because gcsfs needs it anyway, and because its connector lets the resolved address
be judged at the moment of connecting, so that a name cannot point elsewhere between check and use.
No redirect is followed, no cookie is kept, nothing is decompressed, and no address ever enters a message: for
webhooks the path is the secret. HTTP_PROXY, HTTPS_PROXY and NO_PROXY are obeyed as by all that goes out
(docs/outgoing.md). Whatever a server answers or an address holds, an attempt ends in time, with an `Answer`
or as `Unavailable`.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from atlas.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "Client", "check_url", "client", "is_public", "retry_after", "url_problem"]

#: How much of an answer's body is read, in bytes.
BODY_LIMIT = 65_536
#: Longest wait that a ``Retry-After`` is granted, in seconds.
LONGEST_WAIT = 86_400.0
#: The environment is asked for an address's proxy so often, in seconds.
PROXY_SECONDS = 1.0

#: What `getproxies` looks at for http and https.
_PROXIES = tuple(
    spelled
    for name in ("http_proxy", "https_proxy", "no_proxy", "request_method")
    for spelled in (name, name.upper())
)
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, deprecated
#: Local-use translation (RFC 8215) and site-local addresses (RFC 3879).
_REFUSED_6 = (ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv6Network("fec0::/10"))
#: 6to4 relays (RFC 7526), and the address by which Azure reaches into its virtual machines.
_REFUSED_4 = (ipaddress.IPv4Network("192.88.99.0/24"), ipaddress.IPv4Network("168.63.129.16/32"))


class _PrivateAddress(OSError):
    """The host is at a private address; an OSError, as a failed connect is to aiohttp."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: headers whatever the case of their names, at most `BODY_LIMIT` bytes of body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


class Client:
    """Sends POSTs over connections that are reused until the `client` block ends."""

    def __init__(
        self, session: aiohttp.ClientSession, proxied: aiohttp.ClientSession, *, allow_private: bool
    ) -> None:
        self._session, self._proxied = session, proxied
        self._allow_private = allow_private
        self._proxies: dict[str, tuple[float, str | None]] = {}

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST ``body`` and return the answer, whatever its status.

        Raises `Unavailable` where there was no answer: refused, timed out, cut off, or at a private
        address. Whether the request had an effect is then not known.
        """
        import aiohttp

        try:
            proxy = self._proxy_of(url)
            if proxy is not None and not self._allow_private:
                _judge_name(url)
            session = self._session if proxy is None else self._proxied
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False, proxy=proxy
            ) as response:
                content = bytearray()
                while len(content) < BODY_LIMIT and (chunk := await response.content.readany()):
                    content += chunk
                return Answer(response.status, response.headers, bytes(content[:BODY_LIMIT]))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            if _is_private(error):
                raise Unavailable(
                    "the address is private, loopback or link-local", hint="see docs/events.md"
                ) from None
            # the error's own text may hold the address
            raise Unavailable(f"no answer: {type(error).__name__}") from None
        except Exception as error:
            # a host name that IDNA refuses, a header that cannot be sent: never another delivery's trouble
            raise Unavailable(f"cannot be sent: {type(error).__name__}") from None

    def _proxy_of(self, url: str) -> str | None:
        now = time.monotonic()
        known = self._proxies.get(url)
        if known is None or now - known[0] > PROXY_SECONDS:
            known = self._proxies[url] = (now, proxy_of(url))
        return known[1]


@asynccontextmanager
async def client(*, timeout: float, allow_private: bool) -> AsyncIterator[Client]:
    """A `Client` for the running loop.

    ``timeout`` bounds one request from connecting to the last byte, in seconds. Without
    ``allow_private`` only globally reachable addresses are connected to.
    """
    import aiohttp

    # callers bound what they have under way: the connector's own limit would let one server hold up another
    connector = aiohttp.TCPConnector(
        limit=0, socket_factory=None if allow_private else _public_socket
    )

    def session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "pleiades-atlas"},
            raise_for_status=False,
            auto_decompress=False,
        )

    # the proxy itself may be at a private address, and resolves the names
    async with session(connector) as direct, session(aiohttp.TCPConnector(limit=0)) as proxied:
        yield Client(direct, proxied, allow_private=allow_private)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address now; None: there is none, or NO_PROXY has it."""
    parts = urlsplit(url)
    # to go through the whole environment takes as long as half a request
    return _proxy_of(parts.scheme, parts.hostname or "", tuple(map(os.environ.get, _PROXIES)))


@functools.lru_cache(maxsize=256)
def _proxy_of(scheme: str, host: str, variables: tuple[str | None, ...]) -> str | None:
    return None if proxy_bypass(host) else getproxies().get(scheme)


def _judge_name(url: str) -> None:
    """Refuse an address in numbers that is not public; what a name stands for the proxy decides."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        raise _PrivateAddress("not a globally reachable address")
    with suppress(OSError):
        # also as one number, or with parts left out: what resolvers take for an address
        host = socket.inet_ntoa(socket.inet_aton(host))
    try:
        public = is_public(host)
    except ValueError:
        return
    if not public:
        raise _PrivateAddress("not a globally reachable address")


def check_url(url: str, variable: str) -> str:
    """Return ``url`` if it is an http(s) address, else raise `ConfigurationError` that hides it."""
    problem = url_problem(url)
    if problem is not None:
        raise ConfigurationError(
            f"{variable}: got a masked value that is not an http or https address: {problem}",
            hint=f"set {variable}=https://host/path",
        )
    return url


def url_problem(url: str) -> str | None:
    """What is wrong with an address, without repeating any of it; None: nothing."""
    if not url.isascii():
        return "it has characters outside of ASCII (write the host as xn--...)"
    if any(ord(character) <= 32 or ord(character) == 127 for character in url):
        return "it has white space or control characters"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "it cannot be read"
    if parts.scheme not in ("http", "https"):
        return "its scheme is neither http nor https"
    if not host or port == 0:
        return "it has no host, or port 0"
    if "@" in parts.netloc:
        return "it has a user name or password"
    if ":" in host:
        return None  # an IPv6 address, which urlsplit has checked
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or any(not _LABEL.fullmatch(label) for label in labels):
        return "its host is not a host name: labels have 1 to 63 letters, digits, - or _"
    return None


def retry_after(answer: Answer) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date; None without a usable one.

    Never negative, and a day at most.
    """
    value = answer.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            seconds = (moment - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    # "nan" is a float, too
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else None


def is_public(address: str) -> bool:
    """Whether an IP address is globally reachable, and so is the IPv4 address that it may embed."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _REFUSED_6):
            return False
        embedded = _embedded(ip)
        if embedded is not None:
            return is_public(str(embedded))
    elif any(ip in network for network in _REFUSED_4):
        return False
    return ip.is_global and not ip.is_multicast


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which a translator or a tunnel would take the packets."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.sixtofour


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    """Make the socket for a resolved address, or refuse one that is not globally reachable."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise _PrivateAddress("not a globally reachable address")
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setblocking(False)
    return made


def _is_private(error: BaseException | None) -> bool:
    """Whether a refused address is what lies at the bottom of ``error``."""
    while error is not None:
        if isinstance(error, _PrivateAddress) or (
            isinstance(error, ExceptionGroup) and any(map(_is_private, error.exceptions))
        ):
            return True
        error = getattr(error, "os_error", None) or error.__cause__
    return False
