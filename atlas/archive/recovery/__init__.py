"""Bringing a database up to its vault, and what the vault keeps for it; see docs/adoption.md."""
