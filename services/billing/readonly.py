"""The ledger's database for who only reads: on SQLite, a file that stays byte for byte as it is, evidence included.

SQLite opens it with `mode=ro` (sqlite.org/uri.html), so that what a running service has in its WAL is seen, too. Where
nothing can be written beside the file, such as on a read-only medium, that fails for a file that was used with a WAL;
as long as there is none, nobody writes, and it is opened as immutable.
"""

import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote, urlencode

from sqlalchemy import URL, Engine, create_engine, event, make_url

from services.billing.database import BUSY_TIMEOUT_S, begin_sqlite, connect


def connect_to_read(url: str) -> Engine:
    """An engine that changes nothing; nothing is opened yet. Raises ArgumentError, ImportError, ValueError."""
    parsed = make_url(url)
    if (file := sqlite_file(parsed)) is None:
        return connect(url)
    given = {name: value for name, value in parsed.query.items() if name != "uri"}  # vfs, or immutable
    engine = create_engine(url, creator=lambda: _open(file, {**given, "mode": "ro"}))
    event.listen(engine, "begin", begin_sqlite)
    return engine


def sqlite_file(url: URL) -> Path | None:
    """The file that a URL is of, in the form of a path or of a URI; None where it is of no SQLite file."""
    name = url.database
    if not url.drivername.startswith("sqlite") or not name or name == ":memory:":
        return None
    return Path(unquote(name.removeprefix("file:").partition("?")[0])) if name.startswith("file:") else Path(name)


def _open(file: Path, query: dict[str, object]) -> sqlite3.Connection:
    try:
        return _opened(file, query)
    except sqlite3.OperationalError:
        wal = file.with_name(f"{file.name}-wal")
        if not file.exists() or wal.exists():
            raise
        return _opened(file, query | {"immutable": "1"})


def _opened(file: Path, query: dict[str, object]) -> sqlite3.Connection:
    """Raises sqlite3.OperationalError where not even the schema can be read."""
    uri = f"file:{quote(str(file.absolute()))}?{urlencode(query)}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection
