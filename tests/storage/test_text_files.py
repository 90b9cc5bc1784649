"""Text is read alike in whatever encoding a program saved it."""

import pytest

from visalign.errors import UserError
from visalign.storage.text_files import read_text

TEXT = "prompt\nein Käfer über dem Fluß\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_every_usual_encoding_gives_the_same_text(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.txt", "prompts a.txt") == TEXT


@pytest.mark.parametrize("text, encoding", [
    ("Ordner: Übergröße für schöne Äpfel und süße Nüsse", "cp1252"), ("une fête à la plage, été", "cp1252"),
    ("café", "cp1252"), ("“quoted” – dash…", "cp1252"), ("zażółć gęślą jaźń", "cp1250"),
    ("кот на красном ковре", "cp1251"), ("赤い猫が走る", "cp932"),
    ("一只红色的猫", "gb18030"), ("빨간 고양이", "cp949")])
def test_older_encodings_are_told_apart(tmp_path, text, encoding):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a.txt", "prompts a.txt") == text


def test_windows_line_ends_become_newlines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "a.txt", "x") == "a\nb\nc\n"


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UserError, match="prompts a.txt: not text"):
        read_text(tmp_path / "a.txt", "prompts a.txt")
    with pytest.raises(UserError, match="prompts b.txt: there is no such file"):
        read_text(tmp_path / "b.txt", "prompts b.txt")
