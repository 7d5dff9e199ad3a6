"""The program ``atlas`` as tests run it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

#: Arguments as strings, environment variables as keywords.
Run = Callable[..., subprocess.CompletedProcess[str]]
