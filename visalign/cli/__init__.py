"""The command line. Heavy imports wait until a command runs."""

import sys

import click

from visalign import __version__
from visalign.cli import data, doctor, hub, language, people, sampling, scoring, training
from visalign.cli.advise import advise
from visalign.cli.bench import bench
from visalign.cli.init import init
from visalign.cli.soup import soup
from visalign.cli.verbs import Root
from visalign.errors import notice


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show tracebacks and library warnings.")
@click.version_option(__version__, prog_name="visalign")
def main(debug: bool) -> None:
    """Preference alignment for image and video generators: fine-tune, score, see what it cost, compare.

    \b
    visalign quickstart                                     a first run, in minutes on a CPU
    visalign train sdxl_dpo data.path=pairs.jsonl           your pairs, a shipped recipe
    visalign train sft_folder data.path=my_images           a folder of images with captions
    visalign generate tiny-sd3 "a red heart"                sample a model
    visalign list recipes                                   all shipped recipes
    """
    import os

    notice.cache_clear()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names that are not UTF-8, terminals that know no é
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads would take the decoding threads' cores
    if not debug:
        quiet_libraries()


def quiet_libraries() -> None:
    """Silence notices that a user cannot act on."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    for name in ("root", "torch.utils._pytree", "bitsandbytes"):  # the last two speak up when they are imported
        logging.getLogger(name).setLevel(logging.ERROR)


SECTIONS = {
    "Train": (training.quickstart, advise, init, training.train, scoring.reward, sampling.guide, soup, hub.push),
    "Language models": (language.lm,),
    "Sample": (sampling.generate,),
    "Score and evaluate": (scoring.score, scoring.evaluate, scoring.compare, bench, data.benchmark),
    "Data": (data.data,),
    "People": (people.demo, people.votes),
    "This installation": (doctor.list_group, doctor.doctor, doctor.completion),
}
for title, commands in SECTIONS.items():
    for command in commands:
        main.add_command(command)
    main.sections = main.sections | {title: tuple(command.name for command in commands)}
