"""Signatures by Standard Webhooks 1.0 (standard-webhooks/spec, ``spec/standard-webhooks.md``)."""

from __future__ import annotations

import base64
import binascii
import hmac

from atlas.errors import ConfigurationError

__all__ = ["read_secrets", "signature_headers"]

_PREFIX = "whsec_"


def read_secrets(text: str, name: str = "EVENT_BUS_WEBHOOK_SECRET") -> tuple[bytes, ...]:
    """The keys of a secret: one, or several in a row while one rotates.

    Each is ``whsec_`` and the base64 of 24 to 64 bytes. Raises `ConfigurationError` otherwise,
    since a key that was meant differently makes every receiver refuse every event.
    """
    keys = []
    for word in text.split():
        try:
            key = base64.b64decode(word.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not word.startswith(_PREFIX) or not 24 <= len(key) <= 64:
            raise ConfigurationError(
                f"{name}: got a masked value that is not a signing secret",
                hint="it takes whsec_ followed by the base64 of 24 to 64 random bytes",
            )
        keys.append(key)
    return tuple(keys)


def signature_headers(
    keys: tuple[bytes, ...], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers of an attempt at ``timestamp`` (unix seconds); without keys no signature."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    signed = f"{message_id}.{timestamp}.".encode() + body
    if keys:
        digests = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
        headers["webhook-signature"] = " ".join(f"v1,{digest}" for digest in digests)
    return headers
