"""A cache by key: an SQLite file that survives a crash and may be shared by processes."""

import sqlite3
import threading
from pathlib import Path

from visalign.errors import UserError

_BATCH = 500


class SqliteCache:
    """Texts or bytes by key; each `put` is on disk when it returns. Raises UserError for another file."""

    def __init__(self, file: str | Path):
        self.file = Path(file).expanduser()
        self._local = threading.local()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._connection().execute("SELECT 1 FROM answers LIMIT 1")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cache {self.file}: cannot be used as a cache of answers ({error})") from None

    def _connection(self) -> sqlite3.Connection:
        """One connection per thread, as SQLite requires."""
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.file, timeout=60, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            self._local.connection = connection
        return self._local.connection

    def get(self, keys: list[str]) -> dict[str, str | bytes]:
        found: dict[str, str | bytes] = {}
        for start in range(0, len(keys), _BATCH):
            part = keys[start:start + _BATCH]
            marks = ",".join("?" * len(part))
            found |= dict(self._connection().execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part))
        return found

    def put(self, key: str, answer: str | bytes) -> None:
        self.put_all({key: answer})

    def put_all(self, answers: dict[str, str | bytes]) -> None:
        """Several entries at once, all or none. Raises UserError when the disk is full."""
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", answers.items())
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise UserError(f"cache {self.file}: cannot be written ({error})") from None
