"""What SQLAlchemy is told of Django's table, and in which modes Django has the pool."""

from __future__ import annotations

from datetime import datetime

import pytest
from sqlalchemy import DateTime, MetaData, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.app.models import Item

in_both_modes = pytest.mark.parametrize("pool", ["session", "transaction"], indirect=True)


class Base(DeclarativeBase):
    """The tables."""

    metadata = MetaData()


class Thing(Base):
    """Django's `Item`, as SQLAlchemy sees it."""

    __tablename__ = Item._meta.db_table

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), insert_default=func.now())


names = select(Thing.name).order_by(Thing.name)


def stored() -> list[str]:
    """Return the names of all items, as Django reads them."""
    return sorted(Item.objects.values_list("name", flat=True))
