"""The field's words: what a user reads and what the code calls things use the names of diffusers, TRL and lm-eval."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("visalign", "demo", "configs", "scripts", "docs")
SUFFIXES = (".py", ".yaml", ".md", ".j2", ".js")
READ = sorted(file for file in (*ROOT.glob("*.md"), *(each for room in ROOMS for each in (ROOT / room).rglob("*")))
              if file.suffix in SUFFIXES)

NOT_OURS = {
    "visalign/rewards/vlm/unified.py",  # published question texts
    "visalign/rewards/joint/vlm.py",  # the question that saved rewards were trained with
    "visalign/votes/book.py",  # columns of a database that exists
    "visalign/storage/old_names.py", "visalign/cli/renamed.py", "CHANGELOG.md",  # what was renamed
}

WORDS = {
    "image": r"(?<![/\"])pictures?(?![/\"])",
    "video": r"films?|(?:an?|the|each|one|every|of|whose|these) clips?(?!:)|clip's",
    "diversity": "variety",
    "annotation": r"judge?ments?",
    "reward, or to score": r"judg(?:es?|ed|ing)",
    "fix": r"mend(?:s|ed|ing)?",
    "matchup": r"contests?",
    "worker": "studio",
}
"""What to say, and instead of what. A `clip` is CLIP, or a bound; `docs/pictures` is a folder."""

ASKED_IN_WORDS = re.compile(r"vlm|llm|vision-language|asked in words|comparing judge|published judge", re.IGNORECASE)
"""Models that are asked in words are judges, as in LLM-as-a-judge."""


def wrong_lines(text: str, pattern: str) -> list[str]:
    word = re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)
    return [line.strip() for line in text.splitlines()
            if word.search(line.replace("CLIP", "")) and not ASKED_IN_WORDS.search(line)]


@pytest.mark.parametrize("instead", WORDS)
def test_the_field_s_words_are_used(instead):
    wrong = [f"{name}: {line[:140]}" for file in READ if (name := str(file.relative_to(ROOT))) not in NOT_OURS
             and not name.startswith("visalign/rewards/vlm/")
             for line in wrong_lines(file.read_text(encoding="utf-8"), WORDS[instead])]
    assert not wrong, f"say {instead}:\n" + "\n".join(wrong)


def test_other_meanings_are_left_alone():
    every = "|".join(WORDS.values())
    assert not wrong_lines("![a](docs/pictures/a.png)\nclip: 1.0e-4\ntiny-clip\na VLM judge\n", every)
    assert len(wrong_lines("a picture\nthe clips\nof a film\nthe judge\n", every)) == 4
