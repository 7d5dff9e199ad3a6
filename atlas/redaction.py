"""Taking secrets out of text that leaves the process: notifications, tracked errors, answers of webhooks.

First the exact values of all configured secrets, then what looks like one.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from atlas.config import Settings, get_settings
from atlas.errors import ConfigurationError

__all__ = ["Redactor", "redact"]

MASK = "***"
#: Shorter values are no secrets worth the name, and would mask half of a text.
_SHORTEST = 6
#: Characters of a text that are kept, unless asked otherwise; and those behind them that are looked at, so
#: that no part of a secret is left at the cut.
_LONGEST, MARGIN = 100_000, 4_096

# Bounded repetitions only: a text may be hostile, and each start must cost little.
_WORD = (
    r"""(?:\\*["']?(?:bearer|basic|token)\s+)?"""
    r"""(?:"[^"\n]{0,500}"|'[^'\n]{0,500}'|\\*["']?[^\s"'&,;}\])]+)"""
)
#: A value may be a name of its own: ``key= password = 'two words'`` is masked to its end.
_VALUE = _WORD + r"(?:(?:\s{0,9}[=:]|(?<=[=:]))\s{0,9}" + _WORD + "){0,3}"
#: Words of which one must be there, in small letters; the pattern; what it becomes.
_PATTERNS = (
    # API keys of Google, tokens of Hugging Face and GitHub, secrets of webhooks
    (("aiza",), re.compile(r"AIza[0-9A-Za-z_-]{20,}"), MASK),
    (("hf_", "ghp_", "gho_", "ghs_"), re.compile(r"(?:hf|ghp|gho|ghs)_[A-Za-z0-9]{10,}"), MASK),
    (("whsec_",), re.compile(r"whsec_[A-Za-z0-9+/=_-]{8,}"), MASK),
    (
        ("private key",),
        re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}KEY-----|\Z)", re.S),
        MASK,
    ),
    # addresses that are secrets themselves
    (
        ("/webhooks/",),
        re.compile(r"(discord(?:app)?\.com/api/(?:v\d+/)?webhooks/)[^\s\"'<>]+", re.I),
        rf"\1{MASK}",
    ),
    (("hooks.slack.com",), re.compile(r"(hooks\.slack\.com/)[^\s\"'<>]+", re.I), rf"\1{MASK}"),
    # a password in a DSN; one that is not escaped may hold any character, up to the last @
    (
        ("://",),
        re.compile(r"([a-z][a-z0-9+.-]{0,20}://[^\s:/@\"']{0,100}:)[^\s\"'<>]{0,500}@", re.I),
        rf"\1{MASK}@",
    ),
    # whatever a name ends with: access_token, apiKey, also monkey: too much is better than too little
    (
        ("key", "token", "password", "passwd", "pwd", "secret", "signature", "authorization"),
        re.compile(
            r"((?:key|token|password|passwd|pwd|secret|signature|authorization)\\*[\"']?\s{0,9}[=:]\s{0,9})"
            + _VALUE,
            re.I,
        ),
        rf"\1{MASK}",
    ),
    (("bearer",), re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\1{MASK}"),
)  # fmt: skip


class Redactor:
    """Masks ``secrets``, in the spellings that texts have them in, and what looks like a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spellings = {
            spelling
            for secret in secrets
            for spelling in _spellings(secret)
            if len(spelling) >= _SHORTEST
        }
        # the longest first: one may be a part of another
        ordered = sorted(spellings, key=lambda one: (-len(one), one))
        self._exact = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str, limit: int = _LONGEST) -> str:
        """The text without secrets, at most ``limit`` characters of it."""
        text, was_longer = text[: limit + MARGIN], len(text) > limit + MARGIN
        if self._exact is not None:
            text = self._exact.sub(MASK, text)
        small = text.lower()
        for words, pattern, replacement in _PATTERNS:
            if any(word in small for word in words):
                text = pattern.sub(replacement, text)
        # what was masked has made it shorter: the cut may have come forward
        return (text[:-MARGIN] if was_longer else text)[:limit]


def redact(text: str, limit: int = _LONGEST) -> str:
    """`Redactor` of the secrets in this process's settings. Never raises."""
    try:
        redactor = _of_settings(get_settings())
    except ConfigurationError:
        redactor = _PATTERNS_ONLY
    return redactor(text, limit)


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret that the settings hold, and the parts of them that are secret by themselves."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        secret = value.get_secret_value()
        yield secret
        for part in secret.split():
            if "://" in part:
                yield from _parts(part)
    # a list that cannot be read is masked as a whole
    with contextlib.suppress(ConfigurationError, ValueError):
        yield from [key.get_secret_value() for key in settings.youtube_api_keys]


def _parts(address: str) -> Iterator[str]:
    try:
        parts = urlsplit(address)
        password = parts.password
    except ValueError:
        return
    if password:
        yield password
        yield unquote(password)
    # the last part of a webhook's path is its token
    if parts.scheme.startswith("http"):
        yield parts.path.rstrip("/").rpartition("/")[2]


def _spellings(secret: str) -> Iterator[str]:
    secret = secret.strip()
    yield secret
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    # several in one value, as while a secret rotates
    yield from secret.split()


_last: tuple[Settings, Redactor] | None = None


def _of_settings(settings: Settings) -> Redactor:
    """The redactor of the settings, made once: they are frozen."""
    global _last
    known = _last
    if known is None or known[0] is not settings:
        _last = known = (settings, Redactor(secrets_of(settings)))
    return known[1]


_PATTERNS_ONLY = Redactor()
