"""From the spellings of DATABASE_URL that services hand out to what each driver understands.

asyncpg reads most of libpq's names itself. The rest is taken out here: what has a counterpart is
turned into it (``connect_timeout``, ``sslrootcert=system``), what asyncpg cannot do and can do
without (``channel_binding``, keepalives) is left to libpq alone.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from atlas.errors import ConfigurationError

_SCHEMES = frozenset({"postgres", "postgresql", "postgres+asyncpg", "postgresql+asyncpg"})
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

#: libpq's names that asyncpg reads from its DSN or hands on to the server.
_SHARED = frozenset(
    {
        *("host", "port", "dbname", "user", "password", "passfile", "service", "krbsrvname"),
        *("sslmode", "sslnegotiation", "sslpassword", *_SSL_FILES),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("target_session_attrs", "application_name", "options"),
    }
)
#: libpq's names without effect in asyncpg, which neither needs nor offers them.
_LIBPQ_ONLY = frozenset(
    {
        *("channel_binding", "connect_timeout", "client_encoding", "fallback_application_name"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "gssencmode", "sslsni", "sslcompression", "load_balance_hosts"),
    }
)
#: Seconds to wait for a connection where the URL has no ``connect_timeout``.
CONNECT_TIMEOUT = 15.0

#: RFC 3986, appendix B. (urllib refuses bracketed addresses among several hosts, in some releases.)
_URL = re.compile(
    r"(?P<scheme>[^:/?#]+)://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(\?(?P<query>[^#]*))?(#(?P<fragment>.*))?"
)
#: The name in ``-c name=value`` or ``--name=value``.
_OPTION = re.compile(r"(?:^|\s)(?:-c\s*|--)([\w-]+)=")
_HOST = re.compile(r"(?P<name>\[[^\]]+\]|[^:\[\]]*)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Target:
    """A database to connect to. ``where`` names it in messages, without user or password."""

    where: str
    #: For libpq: psql, pg_dump, ADBC.
    libpq_url: str = field(repr=False)
    #: For ``asyncpg.connect(**asyncpg)``.
    asyncpg: dict[str, Any] = field(repr=False)
    #: Whether the URL names the program itself.
    has_application_name: bool = False
    #: Settings of the server that the URL's ``options`` name, in lower case.
    options: frozenset[str] = frozenset()


def translate_url(url: str) -> Target:
    """Read a PostgreSQL URL in any of the usual spellings.

    Several hosts (``host1:5432,host2``), Unix sockets (``?host=/folder``) and percent-encoded user
    and password work. Raises `ConfigurationError`, which never shows the password, for another
    scheme, a malformed host or port, and a query name or value that libpq does not know.
    """
    parts = _URL.fullmatch(url.strip())
    if parts is None or parts["scheme"] not in _SCHEMES:
        raise ConfigurationError(
            "DATABASE_URL does not begin with postgresql://",
            hint="use postgresql://user:password@host:5432/database",
        )
    path = parts["path"]
    # behind a character that is not encoded, the rest of a password looks like another part of the URL
    if parts["fragment"] is not None or "@" in path + (parts["query"] or ""):
        raise _unreadable()
    userinfo, at, hosts = parts["netloc"].rpartition("@")
    if set(userinfo) & set("[]") or not all(_is_host(host) for host in hosts.split(",")):
        raise _unreadable()
    user, colon, password = userinfo.partition(":")
    credentials = f"{_requoted(user)}{colon}{_requoted(password)}{at}"
    query = _query(parts["query"] or "")
    database = query.get("dbname") or unquote(path.removeprefix("/"))
    where = f"{hosts or query.get('host') or 'the default host'}/{database}"
    shared = {name: value for name, value in query.items() if name in _SHARED}
    arguments: dict[str, Any] = {"timeout": _timeout(query.get("connect_timeout"))}
    if query.get("sslrootcert") == "system":
        # libpq 16: the system's certificates, and always verify-full
        del shared["sslrootcert"]
        arguments["ssl"] = ssl.create_default_context()
    if "[" in hosts and "," in hosts:
        # asyncpg reads the authority by urllib, which in some releases of Python takes one address only
        arguments["dsn"] = _compose(credentials or "@", path, {**shared, "host": hosts})
    else:
        arguments["dsn"] = _compose(credentials + hosts, path, shared)
    return Target(
        where=where,
        libpq_url=_compose(credentials + hosts, path, query),
        asyncpg=arguments,
        has_application_name="application_name" in query,
        options=frozenset(_option_names(query.get("options", ""))),
    )


def with_setting(libpq_url: str, name: str, value: str) -> str:
    """The same URL, for sessions that begin with a setting of the server."""
    address, _, text = libpq_url.partition("?")
    query = dict(parse_qsl(text.replace("+", "%2B"), keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} -c {name}={value}".strip()
    return f"{address}?{urlencode(query, quote_via=quote, safe='/,:[]')}"


def _query(text: str) -> dict[str, str]:
    # in libpq a plus sign is a plus sign
    pairs = parse_qsl(text.replace("+", "%2B"), keep_blank_values=True)
    query = dict(pairs)
    for name in query:
        if not name.isidentifier():
            raise _unreadable()  # rather the rest of a password that was cut at its question mark
        if name not in _SHARED | _LIBPQ_ONLY:
            raise ConfigurationError(
                f"DATABASE_URL: unknown parameter {name!r}",
                hint="remove it; the parameters of libpq are understood",
            )
    mode = query.get("sslmode")
    if mode is not None and mode not in _SSL_MODES:
        raise ConfigurationError(
            f"DATABASE_URL: sslmode is {mode!r}", hint=f"use one of {', '.join(_SSL_MODES)}"
        )
    for name in _SSL_FILES:
        file = query.get(name, "system")
        if file != "system" and not Path(file).is_file():
            raise ConfigurationError(
                f"DATABASE_URL: {name} names {file!r}, which is not a file",
                hint=f"correct {name}",
            )
    return query


def _option_names(options: str) -> list[str]:
    return [name.lower().replace("-", "_") for name in _OPTION.findall(options)]


def _timeout(value: str | None) -> float | None:
    if value is None:
        return CONNECT_TIMEOUT
    try:
        seconds = int(value)
    except ValueError:
        raise ConfigurationError(
            f"DATABASE_URL: connect_timeout is {value!r}", hint="use a whole number of seconds"
        ) from None
    return float(seconds) if seconds > 0 else None


def _is_host(host: str) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and int(match["port"] or 1) in range(1, 65536)


def _requoted(text: str) -> str:
    return quote(unquote(text), safe="")


def _compose(authority: str, path: str, query: dict[str, str]) -> str:
    tail = f"?{urlencode(query, quote_via=quote, safe='/,:[]')}" if query else ""
    return f"postgresql://{authority}{path}{tail}"


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "DATABASE_URL cannot be read",
        hint="use postgresql://user:password@host:5432/database, with the characters "
        "@ : / ? # [ ] % of user and password percent-encoded",
    )
