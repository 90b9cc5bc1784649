"""`visalign lm train --dry-run`: settings, data and sizes, without loading a model."""

from statistics import fmean

from visalign.config import LanguageOnlineConfig, LanguageSettings
from visalign.data.prompts import read_prompts
from visalign.language.chat import encode_pair, length_of
from visalign.language.group_shape import prompts_to_answer
from visalign.language.run import check_language
from visalign.storage.language_models import load_tokenizer, locate_language_model
from visalign.storage.yaml_files import dump_yaml


def describe_language_run(config: LanguageSettings) -> str:
    """What a run would do, in words; the tokenizer is read, and nothing else of the model. Raises UserError for
    whatever a run would refuse before it loads the model."""
    config, pairs = check_language(config)
    found = locate_language_model(config.model.source)
    tokenizer = load_tokenizer(found)
    train = config.train
    lines = [f"model             {found.described}", f"objective         {config.objective['name']}",
             f"steps             {train.steps} of {rows_a_step(config)}"]
    if pairs:
        lengths = [length_of(encode_pair(tokenizer, pair, i, config.model.system)) for i, pair in enumerate(pairs)]
        longer = sum(length > train.max_length for length in lengths)
        lines += [f"pairs             {len(pairs)}, {train.steps * train.batch_size / len(pairs):.1f} epochs",
                  f"tokens            {fmean(lengths):.0f} on average, {max(lengths)} at most; {longer} of "
                  f"{len(lengths)} pairs are longer than train.max_length {train.max_length}"]
    if isinstance(config, LanguageOnlineConfig):
        measured = frozenset(read_prompts(config.eval.prompts, config.eval.max_prompts))
        lines.append(f"prompts           {len(prompts_to_answer(config, tokenizer, measured))} to answer")
        rollout, credit = config.rollout, config.rollout.step_credit
        if credit is not None:
            tries = credit.most_tries(rollout.prompts_per_step, rollout.answers_per_step)
            lines.append(f"tries             at most {tries} a step, of {credit.max_tokens} tokens, beside "
                         f"{rollout.answers_per_step} answers of {rollout.max_tokens}: {credit.tries} x "
                         f"({rollout.prompts_per_step} prompts + {rollout.answers_per_step} answers x "
                         f"{credit.max_steps} parts)")
    lines.append(f"held-out prompts  {len(read_prompts(config.eval.prompts, config.eval.max_prompts))}")
    return "\n".join([*lines, "", dump_yaml(config.model_dump(mode="json"))])


def rows_a_step(config: LanguageSettings) -> str:
    """What a step learns from, in words."""
    if isinstance(config, LanguageOnlineConfig):
        rollout = config.rollout
        return f"{rollout.answers_per_step} answers, {rollout.prompts_per_step} prompts x {rollout.group_size}"
    return f"{config.train.batch_size * config.train.gradient_accumulation} rows a process"
