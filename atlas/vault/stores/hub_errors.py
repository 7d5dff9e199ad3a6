"""What the Hub's client raises, by the error tree."""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import urlsplit

from atlas.errors import VaultDenied, VaultError, VaultFull, VaultUnavailable


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status of an error or of what caused it (a failed upload is a bare RuntimeError)."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _retry_after(error: BaseException) -> float | None:
    """The seconds of ``Retry-After``; its other form, a date, counts as none."""
    response = getattr(error, "response", None)
    said = "" if response is None else response.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else None


def raise_translated(error: Exception, key: str, repo: str, endpoint: str) -> NoReturn:
    """What the client raised, by status and type; its own text is left out, it may quote the request."""
    import httpx2
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    path, where = key or None, f"dataset {repo}, {key}" if key else f"dataset {repo}"
    status = status_of(error)
    if isinstance(error, RepositoryNotFoundError):
        # the Hub answers alike for a repository that is missing and one that the token may not see
        raise VaultDenied(
            f"{where}: no such repository for this token",
            path=path,
            hint="create the dataset, correct HF_REPO_ID, or give HF_TOKEN access to it",
        ) from error
    if status in (401, 403):
        hint = "HF_TOKEN needs write access to the dataset"
        raise VaultDenied(f"{where}: the Hub refused the token", path=path, hint=hint) from error
    if status in (402, 413, 507):
        raise VaultFull(f"{where}: the Hub answered {status}", path=path) from error
    if status is not None and (status in (408, 409, 412, 429) or status >= 500):
        unavailable = VaultUnavailable(f"{where}: the Hub answered {status}", path=path)
        unavailable.retry_after = _retry_after(error)
        raise unavailable from error
    if status is None and isinstance(error, httpx2.HTTPError | OSError | RuntimeError):
        said = f"no answer from {urlsplit(endpoint).netloc} ({type(error).__name__})"
        raise VaultUnavailable(f"{where}: {said}", path=path) from error
    if status is None and not isinstance(error, ValueError):
        raise error  # nothing the client is known to raise: a mistake in a program
    wrong_id = "a repository id is owner/name" if isinstance(error, HFValidationError) else None
    said = f"the Hub answered {status}" if status else type(error).__name__
    raise VaultError(f"{where}: {said}", path=path, hint=wrong_id) from error
