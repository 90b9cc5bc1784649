"""`visalign lm generate`: answers to prompts, printed or kept as other verbs read them."""

from collections.abc import Sequence
from pathlib import Path

from visalign.config.language import AnswerSettings
from visalign.data.prompts import read_prompts
from visalign.data.sources import is_table
from visalign.data.text_generations import write_answers
from visalign.errors import UserError
from visalign.generators.hardware.devices import pick_device
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.samples import Sample
from visalign.storage.language_models import load_language_model, locate_language_model


def generate_answers(source: str, prompts: Sequence[str], per_prompt: int, settings: AnswerSettings, *,
                     system: str | None = None, seed: int = 0, out: Path | None = None,
                     device: str = "auto") -> list[Sample]:
    """`per_prompt` answers to each prompt; out: a folder that gets them as samples.jsonl.

    prompts: the texts, or one name of a file or set that `read_prompts` knows. Raises UserError.
    """
    asked = prompts_given(prompts)
    locate_language_model(source, "model")
    if out is not None and (out / "samples.jsonl").exists():
        raise UserError(f"out {out}: already holds samples; choose another folder")
    model = load_language_model(source, where="model")
    model.model.to(pick_device(device))
    samples = sample_answers(Answerer(model.model, model.tokenizer, system), asked, per_prompt, settings, seed=seed,
                             label="answers")
    if out is not None:
        write_answers(samples, out)
    return samples


def prompts_given(prompts: Sequence[str]) -> list[str]:
    """Prompts as texts, or those of the one file or embedded set that is named."""
    only = prompts[0]
    if len(prompts) == 1 and (Path(only).is_file() or is_table(Path(only)) or only.startswith("topics:")):
        return read_prompts(only)
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("prompts: one is empty")
    return list(prompts)
