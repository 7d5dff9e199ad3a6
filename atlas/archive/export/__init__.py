"""Samples and finished videos on their way to the vault."""
