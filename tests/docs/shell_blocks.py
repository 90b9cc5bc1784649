"""The shell commands of the documentation: the ```bash blocks of README, CONTRIBUTING and docs/, command by command."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """The words of one command, and the page and line where it stands."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {shlex.join(self.words)}"


def commands_of(page: Path) -> list[Command]:
    """Every command of a page's bash blocks; `&&` and `;` part two, a backslash joins two lines."""
    text, found = page.read_text(encoding="utf-8"), []
    for block in BLOCK.finditer(text):
        number = text[:block.start(1)].count("\n") + 1
        for line in block[1].replace("\\\n", " ").split("\n"):
            where = f"{page.relative_to(ROOT)}:{number}"
            number += 1
            found += [Command(where, words) for words in _parted(shlex.split(line, comments=True)) if words]
    return found


def _parted(words: list[str]) -> list[tuple[str, ...]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", ";"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [tuple(part) for part in parts]
