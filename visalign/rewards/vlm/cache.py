"""Answers that were paid for once: an SQLite file that survives a crash and may be shared by processes."""

import sqlite3
import threading
from pathlib import Path

from visalign.errors import UserError

_BATCH = 500


class AnswerCache:
    """Texts by key. Each `put` is on disk when it returns. Raises UserError naming a file that is no such cache."""

    def __init__(self, file: str | Path):
        self.file = Path(file).expanduser()
        self._local = threading.local()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._connection().execute("SELECT 1 FROM answers LIMIT 1")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cache {self.file}: cannot be used as a cache of answers ({error})") from None

    def _connection(self) -> sqlite3.Connection:
        """One connection a thread, as SQLite asks."""
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.file, timeout=60, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            self._local.connection = connection
        return self._local.connection

    def get(self, keys: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for start in range(0, len(keys), _BATCH):
            part = keys[start:start + _BATCH]
            marks = ",".join("?" * len(part))
            found |= dict(self._connection().execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part))
        return found

    def put(self, key: str, answer: str) -> None:
        self._connection().execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))
