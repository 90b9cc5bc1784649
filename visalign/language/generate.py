"""`visalign lm generate`: answers to prompts, printed or kept as other verbs read them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from visalign.config.language_answers import AnswerSettings
from visalign.data.prompts import read_prompts
from visalign.data.sources import is_table
from visalign.data.text_generations import write_answers
from visalign.errors import UserError, notice
from visalign.evaluation.sources import is_run_of_language, run_config
from visalign.generators.hardware.devices import pick_device
from visalign.language.chat import to_revise
from visalign.language.goals import system_in_use
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.samples import Sample
from visalign.media.source_images import is_edit
from visalign.storage.language_models import load_language_model, locate_language_model


def generate_answers(source: str, prompts: Sequence[str], per_prompt: int, settings: AnswerSettings, *,
                     system: str | None = None, seed: int = 0, revise: int = 0, out: Path | None = None,
                     device: str = "auto") -> list[Sample]:
    """`per_prompt` answers to each prompt; revise: how often the model is asked for a better one, of which the last is
    kept. out: a folder that gets them as samples.jsonl.

    prompts: the texts, or one name of a file or set that `read_prompts` knows. Raises UserError.
    """
    asked = prompts_given(prompts)
    locate_language_model(source, "model")
    if out is not None and (out / "samples.jsonl").exists():
        raise UserError(f"out {out}: already holds samples; choose another folder")
    samples = answers_of_model(source, asked, per_prompt, settings, system, seed, revise, device)
    if out is not None:
        write_answers(samples, out)
    return samples


def answers_of_model(source: str, asked: Sequence[str], per_prompt: int, settings: AnswerSettings, system: str | None,
                     seed: int, revise: int, device: str) -> list[Sample]:
    """As `generate_answers`, of prompts that are texts."""
    model = load_language_model(source, where="model", vision=shown_images(asked, revise))
    model.model.to(pick_device(device))
    if system is None and is_run_of_language(source):
        system = system_in_use(run_config(Path(source).expanduser()))
        if system is not None:
            notice(f"model {source}: is asked with the system's turn that it learnt with, '{system[:120]}'")
    answerer = Answerer(model.model, model.tokenizer, system, model.processor)
    samples = sample_answers(answerer, asked, per_prompt, settings, seed=seed, label="answers")
    for turn in range(1, revise + 1):
        tries = [to_revise([{"role": "user", "content": each.prompt}], str(each.answer)) for each in samples]
        better = sample_answers(answerer, tries, 1, settings, seed=seed + turn, label=f"revision {turn}")
        samples = [replace(new, prompt=old.prompt) for old, new in zip(samples, better, strict=True)]
    return samples


def shown_images(prompts: Sequence[str], revise: int) -> bool:
    """Whether the prompts show images, which takes a vision-language model. Raises UserError where some do not, or
    where answers shall be revised."""
    bare = next((prompt for prompt in prompts if not is_edit(prompt)), None)
    if bare is not None and any(map(is_edit, prompts)):
        raise UserError(f"prompts: some show images and '{bare[:60]}' does not; answer them apart")
    if bare is None and revise:
        raise UserError("--revise: goes with prompts of words alone, and these show images")
    return bare is None


def prompts_given(prompts: Sequence[str]) -> list[str]:
    """Prompts as texts, or those of the one file or embedded set that is named."""
    only = prompts[0]
    named = only.startswith(("topics:", "mossbench:"))
    if len(prompts) == 1 and (named or Path(only).is_file() or is_table(Path(only))):
        return read_prompts(only)
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("prompts: one is empty")
    return list(prompts)
