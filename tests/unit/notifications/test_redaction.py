"""No secret leaves the process in a text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas.config import Settings
from atlas.notifications.message import plain
from atlas.redaction import MARGIN, Redactor, secrets_of

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


TOKEN = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
#: Spellings of a secret that no setting holds; each may stand in the middle of anything.
SHAPES = [
    "AIza{}",
    "hf_{}",
    "ghp_{}",
    "whsec_{}",
    "postgres://me:{}@host/db",
    " api_key={}",
    " apiKey: '{}'",
    '{{"client_secret": "{}"}}',
    '{{\\"password\\": \\"{}\\"}}',
    " password = 'two words and {}'",
    "\nAuthorization: Bearer {}\n",
    "https://discord.com/api/webhooks/1/{}",
    "https://hooks.slack.com/services/{}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
]
hostile = st.text(st.characters(codec=None), max_size=60) | st.sampled_from(
    [
        "://",
        "a://b:",
        "key=",
        "'",
        '"',
        "\\",
        "@",
        "\x00",
        "\ud800",
        "Bearer ",
        "-----BEGIN PRIVATE KEY-----",
    ]
)


@example("key=", " password = 'two words and {}'", "", 0)
@example("key=", "\nAuthorization: Bearer {}\n", "", 0)
@example("key= token:", " password= 'two words and {}'", "", 0)
@given(hostile, st.sampled_from(SHAPES), hostile, st.integers(0, 3))
def test_a_secret_is_masked_by_its_shape_in_any_text(
    before: str, shape: str, after: str, times: int
) -> None:
    text = before + shape.format(TOKEN) + after * times
    assert TOKEN not in redactor(text) and TOKEN not in plain(text)


@given(st.sampled_from(PLANTED), st.integers(0, 40), st.integers(0, 5_000))
def test_no_part_of_a_secret_is_left_where_a_text_is_cut(
    secret: str, shift: int, masked: int
) -> None:
    text = (
        f"key={'k' * 9} " * masked + "x" * max(0, 100 - 14 * masked - shift) + secret + "y" * 9_000
    )
    assert secret[:8] not in redactor(text, 100)


@pytest.mark.parametrize("secret", PLANTED)
def test_no_part_of_a_secret_comes_forward_where_what_stands_before_it_is_masked(
    secret: str,
) -> None:
    for seen in range(8, len(secret)):
        before = f"key={'k' * (100 + MARGIN - 5 - seen)} "
        assert secret[:8] not in redactor(before + secret + "y" * 9_000, 100)


@pytest.mark.parametrize("part", ["a.", "a_", "a://b:", "key=", "-----BEGIN ", "\\", "bearer "])
def test_no_text_makes_it_hang(part: str) -> None:
    Redactor()(part * 100_000)  # with a pattern that is not linear this would take minutes


@pytest.mark.parametrize(
    "text",
    ["video dQw4w9WgXcQ has 5 views", "keyboard: qwerty", "https://example.org/a?part=snippet", ""],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redactor(text) == text
