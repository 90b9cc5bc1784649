"""What the terminal says when a run has ended: figures, the verdict, where to look, and what to type next."""

import shlex

import click


def print_result(config, result, own: str) -> None:
    """config: of the run. own: the last of the three commands, which leads to a model or data of one's own."""
    from visalign.jobs.train import result_figures
    from visalign.reports.before_after import FILE

    lines = result_figures(result)
    lines["verdict"] = f"{result.verdict.word}: {'; '.join(result.verdict.reasons)}"
    lines["time"] = f"{result.seconds:.0f} s"
    lines["before and after"] = result.folder / FILE
    lines["report"] = result.folder / "report.html"
    for name, text in lines.items():
        click.echo(f"{name:36} {text}")
    click.echo("\nnext:")
    for command in (*commands_of(config, result.folder), own):
        click.echo(f"  {command}")


def commands_of(config, folder) -> list[str]:
    """To open the page, and to sample the aligned model as it was measured."""
    from visalign.data.prompts import read_prompts

    model = config.model.source if config.model.tuning == "lora" else str(folder / "export" / "pipeline")
    words = ["visalign", "generate", model, read_prompts(config.eval.prompts, 1)[0]]
    words += ["--lora", str(folder)] if config.model.tuning == "lora" else []
    words += ["--set", f"base={config.model.base}"] if config.model.base and config.model.tuning == "lora" else []
    words += ["--steps", str(config.eval.steps), "--guidance-scale", f"{config.eval.guidance_scale:g}"]
    return [shlex.join(["python", "-m", "webbrowser", str(folder / "report.html")]),
            shlex.join([*words, "-o", str(folder / "more")])]
