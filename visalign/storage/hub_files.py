"""Files of the model hub, with an answer at once where there is no network.

The hub's own client tries for more than 20 seconds before it says so. Here one short request is made first; what is in
the local cache needs none.
"""

from collections.abc import Callable
from pathlib import Path

TIMEOUT = 3.0
"""Seconds that the hub is given to answer the first request."""


def hub_file(repository: str, name: str) -> Path:
    """A file of a hub repository, downloaded unless it is in the cache. Raises many kinds of Exception."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, local_files_only=True))
    except LocalEntryNotFoundError:
        get_hf_file_metadata(hf_hub_url(repository, name), timeout=TIMEOUT)
        return Path(hf_hub_download(repository, name))


def hub_folder(repository: str, wanted: Callable[[list[str]], list[str]]) -> Path:
    """A folder with the files of a hub repository that `wanted` chooses from the names of all; the rest stays there.

    Without a network it is the folder that was downloaded before. Raises many kinds of Exception.
    """
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    try:
        names = [file.rfilename for file in HfApi().repo_info(repository, timeout=TIMEOUT).siblings]
    except Exception:  # the hub raises many kinds of errors, and a folder from before needs none of it
        before = try_to_load_from_cache(repository, "model_index.json")
        if not isinstance(before, str):
            raise
        return Path(before).parent
    return Path(snapshot_download(repository, allow_patterns=wanted(names)))


def check_hub_dataset(repository: str) -> None:
    """Raises one of many kinds of Exception unless the hub has this data set and lets us read it."""
    from huggingface_hub import HfApi

    HfApi().dataset_info(repository, timeout=TIMEOUT)


def hub_reason(error: Exception) -> str:
    """Why the hub did not give something, in words and with what helps."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for kind, words in _REASONS.items():
        if kind in kinds:
            return words
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


_REASONS = {
    "LocalTokenNotFoundError": "nobody is signed in; `hf auth login` does that",
    "GatedRepoError": "its licence must be accepted on its page first, then `hf auth login`",
    "RepositoryNotFoundError": "it has no such repository, or a private one; then `hf auth login` helps",
    "RevisionNotFoundError": "it has no such revision",
    "EntryNotFoundError": "the repository has no such file",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
    "ConnectError": "it cannot be reached from here; offline, name a local folder",
    "ConnectionError": "it cannot be reached from here; offline, name a local folder",
    "TimeoutException": "it did not answer in time; offline, name a local folder",
    "Timeout": "it did not answer in time; offline, name a local folder"}
"""By the name of the error's kind, since the hub's client has changed the library beneath it; the first that fits."""
