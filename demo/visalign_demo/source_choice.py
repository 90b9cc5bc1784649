"""Source images of the demo's edits: what a page may name, by a key made of their content and never by a path."""

import hashlib
from pathlib import Path

from visalign.errors import UserError
from visalign.media.source_images import SEPARATOR, is_edit, read_source, sources_key, split_prompt, with_sources
from visalign_demo.media_store import MediaStore


class SourceChoice:
    """The source images that the demo's prompts name.

    options: (label, key) of each, in the prompts' order; [] where no prompt is an edit.
    """

    def __init__(self, prompts: list[str], store: MediaStore):
        self.store = store
        self.options: list[tuple[str, str]] = []
        self._files: dict[str, tuple[Path, ...]] = {}
        self._asked: dict[tuple[str, str], str] = {}
        self._names: dict[Path, str] = {}
        for prompt in prompts:
            words, key = self.parts(prompt)
            self._asked.setdefault((words, key), prompt)
            if key and key not in self._files:
                self._files[key] = split_prompt(prompt)[1]
                names = " and ".join(file.stem[:24] for file in self._files[key])
                self.options.append((f"{len(self._files)}: {names}", key))

    def parts(self, prompt: str) -> tuple[str, str]:
        """The words of a prompt and the key of its source images, '' where it has none."""
        if not is_edit(prompt):
            return prompt, ""
        words, files = split_prompt(prompt)
        return words, hashlib.sha256(sources_key(files).encode()).hexdigest()[:16]

    def asked(self, words: str, key: str) -> str:
        """The prompt of words and a key that a page names. Raises UserError for a key that is not offered, and for
        words that name a file themselves."""
        if (words, key) in self._asked:
            return self._asked[words, key]
        if SEPARATOR in words:
            raise UserError(f"A prompt here holds no {SEPARATOR}; choose its source image from the list.")
        if not key:
            return words
        if key not in self._files:
            raise UserError("There is no such source image here; choose one from the list.")
        return with_sources(words, self._files[key])

    def known(self, words: str, key: str) -> str:
        """As `asked`, of whatever a page holds: the words where it is no prompt of this demo."""
        return self._asked.get((words, key or ""), words)

    def media(self, prompt: str) -> list[str]:
        """Names under which a prompt's source images are shown, in order."""
        return [self._shown(file) for file in split_prompt(prompt)[1]] if is_edit(prompt) else []

    def _shown(self, file: Path) -> str:
        name = self._names.get(file)
        if name is None or self.store.find(name) is None:
            name = self._names[file] = self.store.put(read_source(file, "source image"))
        return name
