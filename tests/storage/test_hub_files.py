"""The hub answers at once or not at all, and what it said comes out in words."""

import time

import pytest
from huggingface_hub import errors

from visalign.storage import hub_files


@pytest.fixture
def no_hub(monkeypatch):
    """The hub's client believes in a hub that nobody runs."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda repository, name: f"http://127.0.0.1:9/{repository}/{name}")


def test_without_a_network_a_file_is_given_up_after_one_try(no_hub):
    started = time.perf_counter()
    with pytest.raises(Exception) as refused:  # noqa: B017 - of whatever kind: hub_reason finds the words
        hub_files.hub_file("someone/something", "model_index.json")
    assert time.perf_counter() - started < 5
    assert "cannot be reached" in hub_files.hub_reason(refused.value)


def test_what_is_in_the_cache_needs_no_network(no_hub, monkeypatch, tmp_path):
    import huggingface_hub

    def cached(repository, name, local_files_only=False):
        assert local_files_only
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert hub_files.hub_file("someone/something", "model_index.json") == tmp_path / "model_index.json"


@pytest.mark.parametrize("kind, words", [
    (errors.GatedRepoError, "licence must be accepted"), (errors.RepositoryNotFoundError, "no such repository"),
    (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE"), (errors.EntryNotFoundError, "no such file")])
def test_reasons_say_what_helps(kind, words):
    assert words in hub_files.hub_reason(kind.__new__(kind))


def test_other_reasons_are_told_as_they_are():
    assert hub_files.hub_reason(ValueError("a  b")) == "ValueError: a b"
