"""Conventions kept on disk: a later process takes one short call, and a file that is wrong is written anew."""

import dataclasses

import pytest
import torch

from tests.families import load_tiny
from visalign.generators.observe import keeping, observer
from visalign.generators.observe.calling import EXAMPLE
from visalign.generators.observe.rows import stack
from visalign.generators.observe.running import ShortCalls


@pytest.fixture
def short_calls(tmp_path, monkeypatch):
    """How many short calls of the pipeline a generator takes to be observed, as in a new process."""
    calls, run = [], ShortCalls.run
    monkeypatch.setattr(ShortCalls, "run", lambda *given, **named: calls.append(1) or run(*given, **named))

    def observe(generator) -> int:
        monkeypatch.setattr(keeping, "FOLDER", tmp_path / "kept")  # not before: loading keeps them too
        monkeypatch.setattr(observer, "_KNOWN", {})
        calls.clear()
        generator.observe()
        return len(calls)

    return observe


@pytest.mark.parametrize("name", ["qwen_image", "wan-image"])
def test_a_second_process_takes_one_short_call_and_predicts_the_same(pipelines, short_calls, name):
    def predicted() -> torch.Tensor:
        with torch.no_grad():
            return generator.predict(latents, torch.tensor([0.5]), stack([generator.encoder.wanted(EXAMPLE)]))

    generator = load_tiny(pipelines(name), name)
    assert short_calls(generator) > 8
    first, latents = generator.conventions, torch.randn(1, *generator.conventions.shape)
    before = predicted()
    assert short_calls(generator) == 1
    assert generator.conventions is not first and str(generator.conventions) == str(first)
    assert torch.equal(predicted(), before)


def test_what_cannot_be_used_is_written_anew(pipelines, short_calls):
    generator = load_tiny(pipelines("sd15"), "sd15")
    taken = short_calls(generator)
    [file] = keeping.FOLDER.iterdir()
    right = generator.conventions
    for wrong in (dataclasses.replace(right, latents=("encoder_hidden_states",)), right.vae):
        torch.save(keeping._plain(wrong), file)
        assert short_calls(generator) >= taken
        assert short_calls(generator) == 1
    file.write_bytes(b"no tensors")
    assert short_calls(generator) == taken
    assert str(generator.conventions) == str(right)


def test_a_folder_that_takes_no_files_costs_only_time(pipelines, short_calls, tmp_path):
    (tmp_path / "kept").write_text("")
    generator = load_tiny(pipelines("sd15"), "sd15")
    assert short_calls(generator) == short_calls(generator) > 8


@pytest.mark.parametrize("name", ["diffusers.configuration_utils:ConfigMixin", "subprocess:Popen"])
def test_only_outputs_of_networks_are_made_by_name(name):
    with pytest.raises(ValueError, match="no output"):
        keeping._output(name)
