"""The fixtures of the command line serve here too."""

from __future__ import annotations

from tests.integration.conftest import atlas

__all__ = ["atlas"]
