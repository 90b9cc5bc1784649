"""The terminal's output when a run has ended: numbers, the verdict, where to look, and what to type next."""

import shlex

import click

from visalign.errors import speaks


def print_result(config, result, own: str) -> None:
    """config: of the run. own: the last of the three commands, for the user's own model or data. Of several processes
    the first prints."""
    from visalign.reports.before_after import BEFORE_AFTER
    from visalign.trainers.summary import result_figures

    if not speaks():
        return
    lines = result_figures(result)
    lines["verdict"] = f"{result.verdict.word}: {'; '.join(result.verdict.reasons)}"
    lines["time"] = f"{result.seconds:.0f} s"
    lines["before and after"] = result.folder / BEFORE_AFTER
    lines["report"] = result.folder / "report.html"
    for name, text in lines.items():
        click.echo(f"{name:36} {text}")
    click.echo("\nnext:")
    for command in (*commands_of(config, result.folder), own):
        click.echo(f"  {command}")


def print_language_result(settings, result) -> None:
    """The same of a language run, with its first answers before and after."""
    from visalign.evaluators.persuasion import rates_of
    from visalign.reports.before_after import first_and_last
    from visalign.storage.run_folder import read_metrics
    from visalign.trainers.summary import result_figures

    if not speaks():
        return
    lines = result_figures(result)
    lines["verdict"] = f"{result.verdict.word}: {'; '.join(result.verdict.reasons)}"
    lines["time"] = f"{result.seconds:.0f} s"
    lines["report"] = result.folder / "report.html"
    for name, text in lines.items():
        click.echo(f"{name:36} {text}")
    held = [row for row in read_metrics(result.folder) if row["kind"] == "held_out"]
    for when, row in (("before", held[0]), ("after", held[-1])):
        if "persuasion" in row:
            click.echo(f"{f'persuasion {when}':36} {rates_of(row['persuasion']).text()}")
    shown = first_and_last(result.folder, held)[:3]
    for row in shown:
        click.echo(f"\n{row.prompt}\n  before: {row.before[0]}\n  after:  {row.after[0]}")
    click.echo("\nnext:")
    for words in (["python", "-m", "webbrowser", str(result.folder / "report.html")],
                  ["visalign", "lm", "generate", str(result.folder), shown[0].prompt]):
        click.echo(f"  {shlex.join(words)}")


def commands_of(config, folder) -> list[str]:
    """Commands that open the report, and that sample the aligned model as it was measured, or away from a negative
    adapter, for which guidance must be on."""
    from visalign.storage.run_folder import read_metrics

    adapter = config.model.tuning != "full"
    prompt = next(row["prompts"][0] for row in read_metrics(folder) if row["kind"] == "held_out")
    scale, loading = _scale_of(config), "--negative-adapter" if _leads_away(config) else "--lora"
    options = {loading: folder if adapter else None, "--steps": config.eval.steps, "--guidance-scale": scale,
               "--user": "PAIRS.jsonl" if config.model.tuning == "user" else None,
               "--goal": "best" if config.goals else None, "-o": folder / "more"}
    given = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    given += [word for setting in _of_the_file(config.model) for word in ("--set", setting)] if adapter else []
    model = config.model.source if adapter else str(folder / "export" / "pipeline")
    return [shlex.join(["python", "-m", "webbrowser", str(folder / "report.html")]),
            shlex.join(["visalign", "generate", model, prompt, *given])]


def demo_of(config, folder) -> str:
    """The command that shows the aligned model beside its base, or guidance with and without a negative adapter."""
    from visalign.evaluation.source_words import AWAY_FROM

    model = config.model.source
    words = [f"base={model}", f"aligned={folder}"]
    if _leads_away(config):
        words = [f"plain={model}", f"away={model}{AWAY_FROM}{folder}", "--guidance-scale", str(_scale_of(config)),
                 *(word for setting in _of_the_file(config.model) for word in ("--set", setting))]
    return shlex.join(["visalign", "demo", *words])


def _leads_away(config) -> bool:
    """Whether what was trained is a negative adapter."""
    return config.model.tuning == "lora" and config.loop == "offline" and config.data.swap


def _scale_of(config) -> float | None:
    """The guidance scale to look at a run's result with: its own, at which a negative adapter may have no branch."""
    own = config.eval.guidance_scale
    return max(own or 0.0, 2.0) if _leads_away(config) else own


def _of_the_file(model) -> list[str]:
    """The settings without which a model that is in several places is not found again."""
    own = [f"parts.{name}={path}" for name, path in model.parts.items()]
    own += [f"base={model.base}"] if model.base else []
    own += [f"without=[{','.join(model.without)}]"] if model.without else []
    return own + ([f"prediction={model.prediction}"] if model.prediction != "auto" else [])
