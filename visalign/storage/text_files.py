"""Text as other programs write it: with or without a byte order mark, in UTF-8, UTF-16 or an older encoding.

Every text that a user provides is read here, so that the machine's locale has no influence.
"""

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from charset_normalizer import from_bytes

from visalign.errors import UserError, notice

_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
          (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_OLDER = ["cp932", "gb18030", "cp949", "big5", "euc_jp", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255",
          "cp1256", "cp1257", "cp874", "koi8_r"]
_HIGH = re.compile(rb"[\x80-\xff]+")
_CHUNK = 1 << 20


def decode_text(data: bytes, where: str) -> str:
    """Text of unknown encoding: by its byte order mark, else UTF-8, else the most likely one.

    Raises UserError starting with `where` for what is not text in any encoding, or mixes two encodings.
    """
    encoding = _encoding([data], lambda: data, where)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise UserError(f"{where}: line {line} is not {encoding} as the rest is; save it all as UTF-8") from None


def read_text(path: str | Path, where: str) -> str:
    """The text of a file; see `decode_text`. Line ends become a single newline.

    Raises UserError starting with `where` when the file is missing, unreadable or not text.
    """
    return decode_text(_bytes_of(path, where), where).replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, where: str) -> list[str]:
    """The lines of a file; only line ends separate them, not U+2028, U+0085 and the like within a text."""
    return read_text(path, where).split("\n")


def open_text(path: Path, where: str) -> TextIO:
    """A text file opened for reading in pieces, with its line ends unchanged.

    A stray byte in otherwise valid UTF-8 becomes a lone surrogate, so that its line can be named. Raises
    UserError as `decode_text` does.
    """
    try:
        with path.open("rb") as file:
            encoding = _encoding(iter(lambda: file.read(_CHUNK), b""), lambda: _bytes_of(path, where), where)
        return path.open(newline="", encoding=encoding, errors="surrogateescape" if encoding == "utf-8" else "strict")
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({_reason(error)})") from None


def is_whole(text: str) -> bool:
    """Whether every character can be encoded: no lone surrogate (\\ud83c), no stray byte, no NUL."""
    return "\x00" not in text and not re.search("[\ud800-\udfff]", text)


def printable(text: str) -> str:
    """The text with non-characters (bytes of a file name that is not UTF-8, half an emoji) escaped as \\xe9."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def normal_form(text: str) -> str:
    """A prompt as it is compared with others: in one Unicode form (macOS separates letters and accents), without
    surrounding space."""
    return unicodedata.normalize("NFC", text).strip()


def file_name(text: str) -> str:
    """The text as a safe name of a file or folder; different texts have different names."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in text).lstrip(".")[:60]
    if safe == text.replace(" ", "-"):
        return safe
    return f"{safe}-{hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"


def _bytes_of(path: str | Path, where: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except (OSError, ValueError, RuntimeError) as error:  # a path with a NUL; ~ of a user who does not exist
        raise UserError(f"{where}: cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _encoding(chunks: Iterable[bytes], whole, where: str) -> str:
    """The encoding of a text read in pieces; whole() returns all of it, which only an older encoding needs."""
    pieces = iter(chunks)
    first = next(pieces, b"")
    encoding = next((name for mark, name in _MARKS if first.startswith(mark)), None)
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
    try:
        empty = b"\x00" in first
        decoder.decode(first)
        for piece in pieces:
            empty = empty or b"\x00" in piece
            decoder.decode(piece)
        decoder.decode(b"", final=True)
        if encoding or not empty:
            return encoding or "utf-8"
    except UnicodeDecodeError as error:
        if encoding:
            raise UserError(f"{where}: begins as {encoding} but is not ({error.reason}); save it as UTF-8") from None
    return _without_mark(whole(), where)


def _without_mark(data: bytes, where: str) -> str:
    """The encoding of a text that has no mark and is not entirely UTF-8."""
    if b"\x00" in data:
        odd, even = data[1::2].count(0), data[::2].count(0)
        guess = "utf-16-le" if odd >= even else "utf-16-be"
        if 4 * max(odd, even) > len(data) // 2 and _is(data, guess):
            return guess
        raise UserError(f"{where}: not text in any known encoding; save it as UTF-8")
    if _is_mostly_utf8(data.decode("utf-8", "surrogateescape")):
        return "utf-8"
    if _is_western(data):
        encoding = "cp1252"
    else:
        guess = from_bytes(data[:_CHUNK], cp_isolation=_OLDER).best()
        encoding = guess and guess.encoding
    if encoding is None or not _is(data, encoding):
        raise UserError(f"{where}: not text in any known encoding; save it as UTF-8")
    notice(f"{where}: is not UTF-8 and was read as {encoding}; save it as UTF-8 if letters come out wrong")
    return encoding


def _is(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_mostly_utf8(text: str) -> bool:
    """Whether stray bytes are few, or isolated like an accent in Latin-1; in other scripts they abound."""
    right = len(re.findall("[^\x00-\x7f\udc80-\udcff]", text))
    stray = len(re.findall("[\udc80-\udcff]", text))
    alone = len(re.findall("(?<![^\x00-\x7f])[\udc80-\udcff](?![^\x00-\x7f])", text))
    return right > 0 and (4 * stray <= right or stray == alone <= right)


def _is_western(data: bytes) -> bool:
    """Whether accents are isolated among plain letters, as in Latin-1 and Windows-1252.

    Other scripts come in runs; Central European letters would be symbols in the middle of words.
    """
    runs = [len(run) for run in _HIGH.findall(data)]
    if not _is(data, "cp1252") or 2 * sum(run for run in runs if run > 2) > sum(runs):
        return False
    text = data.decode("cp1252")
    return not any(before.isalpha() and after.isalpha() and not sign.isalpha() and sign not in "\u2019\u2013\u2014\xad"
                   for before, sign, after in zip(text, text[1:], text[2:], strict=False) if not sign.isascii())
