"""`visalign lm`: language models, trained by TRL."""

import shlex
from pathlib import Path

import click

from visalign.cli.options import device_option, ranged, read_recipe, recipe_arguments, resume_options, resumes
from visalign.cli.verbs import Verb, Verbs
from visalign.validation.ranges import AnswerTokens, Few, Share, Temperature


@click.group(cls=Verbs)
def lm() -> None:
    """Language models: align them to preferences or rewards, answer with them.

    \b
    visalign lm train language/dpo                          a first run, minutes on a CPU
    visalign lm train language/dpo data.path=pairs.jsonl data.feedback=null
    visalign lm generate smollm2 "What is salt?"            answer a prompt
    visalign lm adapt language/adapt_sd3                    learn to write prompts for a generator
    """


@lm.command(cls=Verb)
@recipe_arguments
@click.option("--dry-run", is_flag=True, help="Print settings, sizes, what is known of the data and a memory estimate; "
                                              "of the model only its configuration is read.")
@click.option("--card", type=click.FloatRange(1, 1024), metavar="GIB",
              help="With --dry-run: plan for a GPU with this memory, which need not be here.")
@resume_options
def train(config: str, overrides: tuple[str, ...], dry_run: bool, card: float | None, resume: bool,
          auto_resume: bool) -> None:
    """Fine-tune a language model as CONFIG says, a file or the name of a shipped recipe; KEY=VALUE overrides it."""
    if card is not None and not dry_run:
        raise click.UsageError("--card is for --dry-run: a run computes on what is here")
    settings = read_recipe(config, overrides, None, not dry_run)
    run_language(settings, dry_run, resume, auto_resume, card)


def run_language(settings, dry_run: bool, resume: bool, auto_resume: bool, card: float | None = None) -> None:
    """Train as a recipe of a language model says, and print what came of it. card: GiB of a GPU to plan for."""
    from visalign.config import LanguageSettings
    from visalign.config.adapter import AdaptConfig
    from visalign.errors import UserError

    if isinstance(settings, AdaptConfig):
        run_adapt(settings, dry_run, resume, auto_resume)
        return
    if not isinstance(settings, LanguageSettings):
        raise UserError("lm train: this recipe is for images or videos; start it with `visalign train` (a recipe of a "
                        "language model says `loop: language`)")
    if dry_run:
        from visalign.jobs.language_dry_run import describe_language_run

        click.echo(describe_language_run(settings, card))
        return
    from visalign.cli.after_run import print_language_result
    from visalign.language.run import train_language

    print_language_result(settings, train_language(settings, resumes(settings, resume, auto_resume)))


@lm.command(cls=Verb)
@recipe_arguments
@click.option("--rounds", type=ranged(Few), help="As rounds.count of the recipe.")
@click.option("--resume", is_flag=True, help="Continue the rounds in output.folder.")
def rounds(config: str, overrides: tuple[str, ...], rounds: int | None, resume: bool) -> None:
    """Answer, reward, pair and train again and again, each round from the model of the one before.

    \b
    visalign lm rounds language/rounds                      three rounds of DPO on SmolLM2's own answers
    visalign lm rounds language/rounds_cream --rounds 2     pairs weighed by how far two rewards agree
    visalign lm rounds language/rounds_tree                 pairs of steps of answers, by tree search
    """
    from visalign.language.rounds import PAGE, train_rounds

    settings = read_recipe(config, (*overrides, *([f"rounds.count={rounds}"] if rounds else ())))
    found = train_rounds(settings, resume, lambda each: click.echo(f"round {each.number}: {each.verdict}, reward "
                                                                   f"{each.reward:+.3f}"))
    rows = found.table()
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in ({name: name for name in widths}, *rows):
        click.echo("  ".join(f"{row[name]:{width}}" for name, width in widths.items()))
    click.echo(f"\n{found.ended}; page: {Path(settings.output.folder).expanduser() / PAGE}")


@lm.command(cls=Verb)
@recipe_arguments
@click.option("--dry-run", is_flag=True, help="Print the settings and how many renders there will be; load nothing.")
@resume_options
def adapt(config: str, overrides: tuple[str, ...], dry_run: bool, resume: bool, auto_resume: bool) -> None:
    """Teach a language model to rewrite prompts for a generator (Prompt-A-Video), as CONFIG says.

    Rewards of the generator's own images or videos are the teacher; `visalign generate MODEL PROMPTS --rewrite RUN`
    uses what was learnt.
    """
    from visalign.config.adapter import AdaptConfig
    from visalign.errors import UserError

    settings = read_recipe(config, overrides)
    if not isinstance(settings, AdaptConfig):
        raise UserError("lm adapt: this recipe is none for rewriting prompts (one says `loop: adapt`); start it with "
                        "`visalign train`")
    run_adapt(settings, dry_run, resume, auto_resume)


def run_adapt(settings, dry_run: bool, resume: bool, auto_resume: bool) -> None:
    """Adapt as a recipe says, and print what came of it."""
    from visalign.language.adapter import adapt as run_stages
    from visalign.language.adapter import describe_adapt
    from visalign.reports.adapting import table_in_words

    if dry_run:
        click.echo(describe_adapt(settings))
        return
    folder, found = run_stages(settings, resumes(settings, resume, auto_resume))
    for line in table_in_words(found):
        click.echo(line)
    generator = settings.generator.model.source
    click.echo(f"\nreport {folder / 'report.html'}\n\nnext:")
    click.echo(f"  {shlex.join(['visalign', 'generate', generator, '@prompts.txt', '--rewrite', str(folder)])}")


@lm.command(cls=Verb)
@click.argument("model")
@click.argument("prompts", nargs=-1, required=True)
@click.option("--samples-per-prompt", default=1, show_default=True, type=ranged(Few))
@click.option("--max-tokens", default=128, show_default=True, type=ranged(AnswerTokens))
@click.option("--temperature", default=1.0, show_default=True, type=ranged(Temperature))
@click.option("--top-p", default=1.0, show_default=True, type=ranged(Share))
@click.option("--system", help="Text of the system's turn (default: of a run what it learnt with, else the "
                            "template's own).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--revise", default=0, show_default=True, type=click.IntRange(0, 100),
              help="How often the model is asked for a better answer; the last one counts (for models of srpo).")
@click.option("--out", "-o", type=click.Path(path_type=Path),
              help="A folder for samples.jsonl, as `score`, `data pairs` and `evaluate` read it.")
@device_option
def generate(model: str, prompts: tuple[str, ...], samples_per_prompt: int, max_tokens: int, temperature: float,
             top_p: float, system: str | None, seed: int, revise: int, out: Path | None, device: str) -> None:
    """Answer PROMPTS (texts, or one file or set of them) with MODEL: smollm2, a folder, a run, hub id or FILE.gguf."""
    from visalign.config.language_answers import AnswerSettings
    from visalign.language.generate import generate_answers

    settings = AnswerSettings(max_tokens=max_tokens, temperature=temperature, top_p=top_p)
    samples = generate_answers(model, prompts, samples_per_prompt, settings, system=system, seed=seed, revise=revise,
                               out=out, device=device)
    for sample in samples if out is None else ():
        click.echo(f"{sample.prompt}\n  {sample.answer}")
    if out is not None:
        click.echo(f"{len(samples)} answers in {out}; score them with: visalign score {shlex.quote(str(out))} -r ...")
