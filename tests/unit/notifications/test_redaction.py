"""No secret leaves the process in a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas.config import Settings
from atlas.redaction import Redactor, secrets_of

SECRETS = {
    "database_url": "postgresql://atlas:p%40ss-w0rd!x@db.example/atlas",
    "hf_token": "hf_abcdefGHIJKL0123456789",
    "youtube_api_key_pool_json": '["AIzaSyA-first-key-000000000000000000", "plain-second-key"]',
    "event_bus_webhook_secret": "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0",
    "event_bus_webhook_url": "https://example.org/hooks/path-token-123",
    "discord_webhook_alerts": "https://discord.com/api/webhooks/1/discord-token-456",
}
PLANTED = [
    SECRETS["database_url"],
    "p%40ss-w0rd!x",
    "p@ss-w0rd!x",
    SECRETS["hf_token"],
    "AIzaSyA-first-key-000000000000000000",
    "plain-second-key",
    SECRETS["event_bus_webhook_secret"],
    "path-token-123",
    "discord-token-456",
]
redactor = Redactor(
    secrets_of(Settings(_env_file=None, **{k: SecretStr(v) for k, v in SECRETS.items()}))
)


@given(st.sampled_from(PLANTED), st.text(max_size=50), st.text(max_size=50))
def test_a_configured_secret_is_masked_wherever_it_stands(
    secret: str, before: str, after: str
) -> None:
    assert secret not in redactor(before + secret + after)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key AIzaSyD-unknown-key-11111111111111111 was refused", "AIzaSyD"),
        ("token hf_ZZZZZZZZZZZZZZZZZZZZ", "hf_ZZ"),
        ("postgres://me:pa@ss/w?rd@host/db", "pa@ss"),
        ("GET https://x/y?key=abcdef123&part=snippet", "abcdef123"),
        ("GET https://x/y?access_token=abcdef123", "abcdef123"),
        ("Authorization: Bearer abc.def-ghi", "abc.def"),
        ("{'authorization': 'Basic dXNlcjpwdw=='}", "dXNlcjpwdw"),
        ("https://discord.com/api/webhooks/123/tok-en_1", "tok-en_1"),
        ("https://discordapp.com/api/v10/webhooks/123/tok-en_1", "tok-en_1"),
        ("https://hooks.slack.com/services/T0/B0/xyz", "xyz"),
        ("password = 'hunter2-hunter2'", "hunter2"),
        ('"client_secret": "abc-def"', "abc-def"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut off", "MIIE"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, secret: str) -> None:
    assert secret not in Redactor()(text)


@pytest.mark.parametrize(
    "text",
    ["video dQw4w9WgXcQ has 5 views", "keyboard: qwerty", "https://example.org/a?part=snippet", ""],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redactor(text) == text
