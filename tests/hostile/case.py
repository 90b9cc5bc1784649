"""One bad (or odd, but good) input: what lies in the folder, what is typed, and what must be said."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """given: writes the inputs into the folder that is passed to it; or {name: text or bytes}.

    command: what is typed after `visalign`, shell-quoted; `{folder}` is the folder, `{sd3}`, `{sdxl}` ... a tiny
    pipeline. says: words that must appear (any case). succeeds: whether the exit code must be 0 (a bad input must end
    with another one). lacks: words that must not appear. writes: files that must be there afterwards.
    """

    id: str
    command: str
    says: tuple[str, ...] = ()
    succeeds: bool = False
    given: Callable[[Path], None] | dict[str, str | bytes] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def lay_out(self, folder: Path) -> None:
        if callable(self.given):
            self.given(folder)
            return
        for name, content in self.given.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
