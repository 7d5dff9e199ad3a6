"""The declarative base, its naming convention and the column aliases every table shares."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

from sqlalchemy import (
    BigInteger,
    Connection,
    DateTime,
    MetaData,
    SmallInteger,
    Text,
    Uuid,
    event,
    func,
    inspect,
    text,
)
from sqlalchemy.orm import DeclarativeBase, mapped_column

#: A timezone-aware moment.
UtcTimestamp = Annotated[datetime, mapped_column(DateTime(timezone=True))]
#: When the row was made, by the database's clock.
CreatedAt = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=func.now(), nullable=False)
]
#: An external id; byte-wise collation, because order must not depend on the server's locale.
ExternalId = Annotated[str, mapped_column(Text(collation="C"))]
#: A counter as YouTube reports it; None is "not known", never zero.
Counter = Annotated[int, mapped_column(BigInteger)]
#: Claims since the last report; grows the back-off.
Attempts = Annotated[
    int, mapped_column(SmallInteger, server_default=text("0"), default=0, nullable=False)
]
#: Names the lease a worker holds; a report with another token is stale.
LeaseToken = Annotated[uuid.UUID, mapped_column(Uuid)]


class Base(DeclarativeBase):
    """Base of all models. Relations are not mapped: joins are written where they are needed."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, int: BigInteger}

    def __repr__(self) -> str:
        # reads only what is loaded, so that it works on a detached or expired row
        state = inspect(self)
        loaded = {
            column.key: state.dict[column.key]
            for column in state.mapper.primary_key
            if column.key in state.dict
        }
        facts = ", ".join(f"{name}={value!r}" for name, value in loaded.items())
        return f"{type(self).__name__}({facts})"


def after_create(model: type[Base], statement: str) -> None:
    """Run a statement, as it is, each time the table of a model was created."""

    def run(_: object, connection: Connection, **__: object) -> None:
        connection.exec_driver_sql(statement)

    event.listen(model.__table__, "after_create", run)
