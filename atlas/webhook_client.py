"""Small POSTs to addresses that an operator configured: webhooks.

aiohttp is used because gcsfs needs it anyway, and because its connector lets the resolved address
be judged at the moment of connecting, so that a name cannot point elsewhere between check and use.
No redirect is followed, no proxy of the environment is used, no cookie is kept, and no address ever
enters a message: for webhooks the path is the secret.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from atlas.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "Client", "check_url", "client", "retry_after"]

#: How much of an answer's body is read, in bytes.
BODY_LIMIT = 65_536


class _PrivateAddress(OSError):
    """The host is at a private address; an OSError, as a failed connect is to aiohttp."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: header names in small letters, at most `BODY_LIMIT` bytes of body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


class Client:
    """Sends POSTs over connections that are reused until the `client` block ends."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST ``body`` and return the answer, whatever its status.

        Raises `Unavailable` where there was no answer: refused, timed out, cut off, or at a private
        address. Whether the request had an effect is then not known.
        """
        import aiohttp

        try:
            async with self._session.post(
                url, data=body, headers=dict(headers), allow_redirects=False
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_chunked(8192):
                    content += chunk
                    if len(content) >= BODY_LIMIT:
                        break
                names = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, names, bytes(content[:BODY_LIMIT]))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            if _is_private(error):
                raise Unavailable(
                    "the address is private, loopback or link-local", hint="see docs/events.md"
                ) from None
            # the error's own text may hold the address
            raise Unavailable(f"no answer: {type(error).__name__}") from None


@asynccontextmanager
async def client(*, timeout: float, allow_private: bool) -> AsyncIterator[Client]:
    """A `Client` for the running loop.

    ``timeout`` bounds one request from connecting to the last byte, in seconds. Without
    ``allow_private`` only globally reachable addresses are connected to.
    """
    import aiohttp

    connector = aiohttp.TCPConnector(socket_factory=None if allow_private else _public_socket)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "pleiades-atlas"},
        raise_for_status=False,
    ) as session:
        yield Client(session)


def check_url(url: str, variable: str) -> str:
    """Return ``url`` if it is an http(s) address, else raise `ConfigurationError` that hides it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            f"{variable}: got a masked value that is not an http or https address",
            hint=f"set {variable}=https://host/path",
        )
    return url


def retry_after(answer: Answer) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date; None without one."""
    value = answer.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if seconds == seconds else None  # "nan" is a float, too


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    """Make the socket for a resolved address, or refuse one that is not globally reachable."""
    family, kind, protocol, _, address = info
    ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global or ip.is_multicast:
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
