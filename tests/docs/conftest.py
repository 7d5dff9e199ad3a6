"""The fixtures of the command line serve here too."""

from __future__ import annotations

from tests.integration.conftest import _program, atlas

__all__ = ["_program", "atlas"]
