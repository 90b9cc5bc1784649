"""Runs of a study that several processes share, each done once: kept line by line, and taken under a lock."""

import json
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

from filelock import FileLock, Timeout


class SharedRuns:
    """The finished runs of a folder, in runs.jsonl, and which are being done. A process that is killed lets its run go.

    key: what tells a run from another, of its row.
    """

    def __init__(self, out: Path, key: Callable[[dict], Hashable]):
        self.out, self.key = out, key
        out.mkdir(parents=True, exist_ok=True)

    def done(self) -> list[dict]:
        file = self.out / "runs.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def do(self, names: Iterable[tuple[str, Hashable]], run: Callable[[Hashable], dict | None]) -> None:
        """Each run that is neither done nor being done elsewhere. names: of each a file's name and its key.

        run: gives the row that is kept, None where there is nothing to keep yet.
        """
        for name, key in names:
            try:
                with FileLock(self.out / f"{name}.lock").acquire(blocking=False):
                    if key in set(map(self.key, self.done())):
                        continue
                    row = run(key)
                    if row is not None:
                        self._keep(row)
            except Timeout:
                continue

    def _keep(self, row: dict) -> None:
        with FileLock(self.out / "runs.lock"), (self.out / "runs.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
