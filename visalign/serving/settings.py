"""What a reward server is started with."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from visalign.errors import UserError
from visalign.storage.text_files import read_text
from visalign.validation.ranges import BatchSize, Limit, Megabytes, Milliseconds, Ranged

LEAST_TOKEN = 16
"""Characters of the shortest token that is accepted."""


@dataclass(frozen=True)
class ServeSettings(Ranged):
    """host, port: where it listens; port 0 is any free one. batch: samples scored together at most. wait_ms: how long
    the first of a batch waits for others. max_mb: of one request, in megabytes. max_samples: of one request. queue:
    samples in the server at once; more are answered with 503. max_megapixels: decoded images in the server at once, 3
    MB each. token: what clients send; needed unless host is this machine alone. folders: whose files requests may name.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    batch: BatchSize = 64
    wait_ms: Milliseconds = 20.0
    max_mb: Megabytes = 256.0
    max_samples: Limit = 256
    queue: Limit = 1024
    max_megapixels: Megabytes = 1024.0
    token: str | None = None
    folders: tuple[Path, ...] = ()

    def check(self) -> None:
        """Raise UserError for a server that others could reach without a token, or a folder that is not there."""
        if self.token is None and not is_this_machine(self.host):
            raise UserError(f"--host {self.host}: others could reach this server, so it needs a token: name a file "
                            "that holds one with --token-file")
        for folder in self.folders:
            if not folder.is_dir():
                raise UserError(f"--allow-folder {folder}: there is no such folder")

    @property
    def max_bytes(self) -> int:
        return int(self.max_mb * 1_000_000)


def is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(file: str | Path) -> str:
    """The token in a file. Raises UserError where it is short, or holds what no HTTP header can."""
    token = read_text(file, f"--token-file {file}").strip()
    if len(token) < LEAST_TOKEN or not all("!" <= sign <= "~" and sign not in "\"'`" for sign in token):
        raise UserError(f"--token-file {file}: expected one word of at least {LEAST_TOKEN} letters, digits and signs, "
                        "such as `openssl rand -hex 32` prints")
    return token
