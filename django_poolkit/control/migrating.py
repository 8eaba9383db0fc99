"""What `pooladvise --migrate` shows: tables of what changes, and settings to paste.

The settings are statements that change entries of `DATABASES`, so that no host, user or password
has to be in them; what is not shown is referred to where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django_poolkit.conf.moves import Kept, Left, Move
from django_poolkit.control.tables import Cell, Table, printable

_CHANGES: Final = ("WHAT", "WAS", "BECOMES", "~")
_POOLER: Final = (
    "Something in the entry speaks of PgBouncer. With pool_mode = transaction write 'pooler': "
    "'pgbouncer-transaction', with session 'pgbouncer-session': else session state may be lost."
)
_HEAD: Final = "# To paste below DATABASES, or to write out in its entries:"


def tables(found: Sequence[Move | Left]) -> list[Table]:
    """Return a table for each alias that moves, and a line for each that stays."""
    return [_moved(each) if isinstance(each, Move) else _left(each) for each in found]


def settings_text(found: Sequence[Move | Left]) -> str:
    """Return Python for the end of a settings file; nothing where no alias moves."""
    blocks = ["\n".join(_statements(each)) for each in found if isinstance(each, Move)]
    return "\n\n".join([_HEAD, *blocks]) if blocks else ""


def document(found: Sequence[Move | Left]) -> dict[str, Any]:
    """Return the same for JSON."""
    moves = [each for each in found if isinstance(each, Move)]
    return {
        "version": 1,
        "moves": [_as_dict(move) for move in moves],
        "left": [each._asdict() for each in found if isinstance(each, Left)],
        "settings": settings_text(found),
    }


def _as_dict(move: Move) -> dict[str, Any]:
    return {
        "alias": move.alias,
        "from": {"engine": move.engine, "name": move.source},
        "engine": move.to,
        "pool": {
            key: {"as": list(value.path)} if isinstance(value, Kept) else value
            for key, value in move.pool.items()
        },
        "removed": [*move.gone_above, *(f"OPTIONS.{key}" for key in move.gone)],
        "may_be_pooler": move.may_be_pooler,
        "changes": [change._asdict() for change in move.changes],
        "notes": _notes(move),
    }


def _notes(move: Move) -> list[str]:
    return [*move.notes, _POOLER] if move.may_be_pooler else move.notes


def _moved(move: Move) -> Table:
    return Table(
        title=Cell(printable(f"Alias {move.alias}: from {move.source} to {move.to}"), "head"),
        columns=_CHANGES if move.changes else (),
        rows=[[Cell(printable(text)) for text in change] for change in move.changes],
        notes=[Cell(printable(note), "warn") for note in _notes(move)],
    )


def _left(left: Left) -> Table:
    return Table(title=Cell(printable(f"Alias {left.alias}: {left.engine or '-'} {left.why}")))


def _statements(move: Move) -> Iterator[str]:
    entry = f"DATABASES[{_quoted(move.alias)}]"
    yield f"{entry} |= {{"
    yield f'    "ENGINE": "{move.to}",'
    yield '    "CONN_MAX_AGE": 0,'
    yield '    "OPTIONS": {'
    if move.gone:
        gone = ", ".join(f'"{key}"' for key in move.gone)
        yield "        **{"
        yield "            key: value"
        yield f'            for key, value in {entry}["OPTIONS"].items()'
        yield f"            if key not in {{{gone}}}"
        yield "        },"
    else:
        yield f'        **{entry}.get("OPTIONS", {{}}),'
    if move.pool or move.may_be_pooler:
        yield '        "pool": {'
        for key, value in move.pool.items():
            yield f"            {_quoted(key)}: {_value(entry, value)},"
        if move.may_be_pooler:
            yield '            # "pooler": "pgbouncer-transaction",  # or -session: its pool_mode'
        yield "        },"
    else:
        yield '        "pool": {},'
    yield from ("    },", "}")
    for key in move.gone_above:
        yield f'del {entry}["{key}"]'


def _value(entry: str, value: object) -> str:
    if isinstance(value, Kept):
        return entry + "".join(f"[{_quoted(key)}]" for key in value.path)
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    # As the settings' own text: keys come from there, and may be anything.
    return f'"{text}"' if text.isidentifier() else repr(text)
