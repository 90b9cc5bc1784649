"""A server's address and key, checked before anything is sent."""

import os
import re
import unicodedata
from urllib.parse import urlsplit

import httpx

from visalign.errors import UserError

CHAT_PARTS = ("/chat/completions", "/completions", "/models")
"""Last parts of a chat endpoint's address that people paste with it."""


def clean_url(url: str, pasted: tuple[str, ...] = CHAT_PARTS, form: str = "http(s)://HOST[:PORT]/v1") -> str:
    """The url without a pasted last part, such as that of the endpoint itself. form: what is expected, in words.

    Raises ValueError for anything but a server's address, without repeating a secret that it may contain.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        secret = parts.username or parts.password or parts.query or parts.fragment
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        parts, secret, known = None, "?" in text or "@" in text, False
    if secret:
        raise ValueError("url must not hold a password, a key or a query; put the key into an environment variable, "
                         "which key_env or token_env names")
    if not known or re.search(r"\s", text):
        raise ValueError(f"url is {url!r}; expected {form}")
    return re.sub(rf"({'|'.join(map(re.escape, pasted))})?/*$", "", text)


def check_variable(setting: str, name: str, secret: str) -> None:
    """Raise ValueError when a setting that names an environment variable holds something else: the secret itself."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{setting} must be the name of an environment variable that holds the {secret}, not the "
                         f"{secret}")


def key_in(variable: str) -> str | None:
    """The key in an environment variable, None where there is none.

    Raises UserError, without the key, when it holds a character that no key has.
    """
    key = os.environ.get(variable)
    for sign in key or "":
        if not "!" <= sign <= "~" or sign in "\"'`":
            code = ord(sign)
            name = "a line break" if sign in "\r\n" else unicodedata.name(sign, "a sign that cannot be seen").lower()
            raise UserError(f"the environment variable {variable} holds {name} (U+{code:04X}), which no API key has; "
                            "set it again to the key alone, without quotes, blanks or line breaks around it")
    return key or None


def same_server(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def v1_hint(url: str) -> str:
    """'; ...' where the url has no version in its path, as nearly all servers expect."""
    if re.search(r"/v\d", urlsplit(url).path):
        return ""
    return f"; most servers want a url that ends in /v1, try {url}/v1"
