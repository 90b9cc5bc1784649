"""Text as people's programs write it: with or without a byte order mark, in UTF-8, UTF-16 or an older encoding.

Every text that a user gives is read here, so that the locale of the machine decides nothing.
"""

import unicodedata
from pathlib import Path

from charset_normalizer import from_bytes

from visalign.errors import UserError

_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
          (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_OLDER = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp932", "gb18030", "big5", "cp949",
          "euc_jp"]
_TYPOGRAPHY = "\xa0«»‘’‚“”„–—…•°€£§©®™"


def decode_text(data: bytes, where: str) -> str:
    """Text of unknown encoding: by its byte order mark, else UTF-8, else the likeliest.

    Raises UserError starting with `where` for what is no text in any encoding.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data, encoding, where)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is not None and "\x00" not in text:
        return text
    if data[1::2].count(0) > len(data) // 4 or data[::2].count(0) > len(data) // 4:
        return _decoded(data, "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be", where)
    guess = None if b"\x00" in data else from_bytes(data, cp_isolation=_OLDER).best()
    if guess is None:
        raise UserError(f"{where}: not text in any known encoding; save it as UTF-8")
    if guess.encoding in ("cp1250", "cp1254"):  # too alike for statistics: of the three, the one that most write
        western = data.decode("cp1252", errors="replace")
        if all(c.isalpha() or c in _TYPOGRAPHY for c in western if not c.isascii()):
            return western
    return str(guess)


def read_text(path: str | Path, where: str) -> str:
    """The text of a file; see `decode_text`. Line ends become a single newline.

    Raises UserError starting with `where` when the file is missing, unreadable or no text.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UserError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return decode_text(data, where).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, encoding: str, where: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: begins as {encoding} and is not ({error.reason}); save it as UTF-8") from None


def printable(text: str) -> str:
    """The text with what is no character (bytes of a file name that is not UTF-8, half an emoji) written as \\xe9."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def normal_form(text: str) -> str:
    """A prompt as it is compared with others: one Unicode form (macOS takes letters and accents apart), no space
    around it."""
    return unicodedata.normalize("NFC", text).strip()
