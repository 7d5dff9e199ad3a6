"""Running something after the transaction of a caller has committed, and only then.

SQLAlchemy's ``after_commit`` fires for savepoints as well, and a savepoint that was released may
still be undone with what surrounds it. So each piece of work belongs to the (nested) transaction it
was given in, moves to the parent when that one commits, runs when the outermost commits, and is
dropped when its transaction ends in any other way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

__all__ = ["after_commit"]

_KEY = "atlas.after_commit"


@dataclass(slots=True)
class _Work:
    transaction: SessionTransaction | None
    run: Callable[[], None]


def after_commit(session: AsyncSession, run: Callable[[], None]) -> None:
    """Call ``run`` once the outermost transaction of ``session`` has committed, and only then.

    ``run`` must not raise, and must not use the session. A transaction is begun if there is none,
    so that work given before the session's first statement belongs to the transaction of that
    statement. In a session of `Database.autocommit` every statement has committed: at once.
    """
    inner = session.sync_session
    if inner.info.get("atlas.autocommit"):
        run()
        return
    if not inner.in_transaction():
        inner.begin()
    work: list[_Work] | None = inner.info.get(_KEY)
    if work is None:
        work = inner.info[_KEY] = []
        event.listen(inner, "after_commit", _committed)
        event.listen(inner, "after_transaction_end", _ended)
    work.append(_Work(_current(inner), run))


def _current(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _committed(session: Session) -> None:
    work: list[_Work] = session.info[_KEY]
    transaction = _current(session)
    parent = transaction.parent if transaction is not None and transaction.nested else None
    done = [item for item in work if item.transaction is transaction]
    if parent is not None:
        for item in done:
            item.transaction = parent
        return
    work[:] = [item for item in work if item.transaction is not transaction]
    for item in done:
        item.run()


def _ended(session: Session, transaction: SessionTransaction) -> None:
    work: list[_Work] = session.info[_KEY]
    work[:] = [item for item in work if item.transaction is not transaction]
