"""Options of the commands that read images and videos: where prompts and files are."""

import click

PROMPT_SOURCES = ("auto", "sidecar", "metadata", "names")


def reading_options(command):
    """Options of every command that reads a folder or a manifest."""
    options = [
        click.option("--prompts-from", default="auto", show_default=True, type=click.Choice(PROMPT_SOURCES),
                     help="A text NAME.txt beside each file, the file's own metadata (of A1111, ComfyUI, InvokeAI, "
                          "Midjourney ...), or its name; auto: the text, else the metadata."),
        click.option("--prompts-from-names", is_flag=True, help="As auto, and where neither has a prompt, the name."),
        click.option("--media-root", type=click.Path(), help="Folder that a manifest's files lie in (default: its "
                                                             "own)."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def how_to_read(prompts_from: str, prompts_from_names: bool, media_root: str | None) -> dict:
    """Those options as `find_generations` takes them. Raises UsageError where two disagree."""
    if prompts_from_names and prompts_from not in ("auto", "names"):
        raise click.UsageError(f"--prompts-from {prompts_from} and --prompts-from-names exclude each other")
    together = prompts_from_names and prompts_from == "auto"
    return {"prompts_from": "auto+names" if together else prompts_from, "media_root": media_root}
