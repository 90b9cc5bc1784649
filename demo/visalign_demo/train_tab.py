"""Training on the votes: pairs, recipe and command; starting it only where that is allowed."""

import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from visalign.config.recipes import find_recipe
from visalign.errors import UserError
from visalign.generators import locate_model
from visalign.storage.run_folder import write_atomically
from visalign.storage.yaml_files import dump_yaml, read_mapping
from visalign.votes import Exported, export_votes
from visalign_demo.compare_tab import problem_html
from visalign_demo.context import Demo, client_of, render_fragment, sentence_of

EMBEDDED_SOURCES = {"tiny-sd3": "ai_feedback.yaml", "tiny-sdxl": "quickstart.yaml",
                    "tiny-wan": "video/flow_dpo.yaml"}
BY_PROCESS = {"flow": "sd3_flow_dpo.yaml", "diffusion": "sdxl_dpo.yaml"}
"""Shipped recipes whose objective and optimiser are used."""
LOG_LINES, LOG_END = 12, 64 * 1024
CLIENT_PLANS, CLIENT_STARTS = 20, 5
"""Exports, and training runs, that one client may start in a minute."""


@dataclass(frozen=True)
class VoteTrainingPlan:
    """What was exported, the recipe that trains on it, and its file."""

    exported: Exported
    recipe: str
    file: Path

    @property
    def command(self) -> str:
        return f"visalign train {shlex.quote(str(self.file))}"


def recipe_of(demo: Demo, exported: Exported) -> dict:
    """A shipped recipe that fits the first model, on the votes. Raises UserError without a model."""
    source = next((source for source in demo.sources.values() if source.model), None)
    if source is None:
        raise UserError("Only folders are compared here, so there is no model to train; name one, such as "
                        "base=tiny-sd3.")
    model = source.model
    shipped = EMBEDDED_SOURCES.get(model.source) or BY_PROCESS[locate_model(model).family.process_kind]
    like = read_mapping(find_recipe(shipped), "recipe")
    data = {"path": str(exported.comparisons.resolve())} | ({"holdout": 0.1} if exported.decided >= 20 else {})
    steps = max(60, min(like["train"]["steps"], 4 * exported.decided))
    rewards = demo.settings.rewards
    evaluation = {"prompts": str(prompts_file(demo)), "max_prompts": 32, "samples_per_prompt": 3, "steps": demo.steps,
                  "guidance_scale": demo.guidance_scale, "reward": rewards[0] if rewards else None,
                  "also": list(rewards[1:]), "features": demo.settings.features}
    return {"model": model.model_dump(mode="json", exclude_defaults=True), "data": data, "objective": like["objective"],
            "optim": like["optim"], "train": like["train"] | {"steps": steps,
                                                              "batch_size": min(16, exported.decided)},
            "eval": evaluation, "output": {"folder": str(free_folder(demo.settings.runs))}}


def prompts_file(demo: Demo) -> Path:
    """The demo's prompts as a text file beside the votes."""
    file = (demo.settings.folder / "prompts.txt").resolve()
    write_atomically(file, ("\n".join(demo.prompts) + "\n").encode())
    return file


def free_folder(runs: Path) -> Path:
    number = 1
    while (folder := runs / f"votes-{number}").exists():
        number += 1
    return folder


_writing = threading.Lock()


def plan_training(demo: Demo) -> VoteTrainingPlan:
    """Export the votes and write the recipe beside them. Raises UserError when there is nothing to train on."""
    with _writing:
        exported = export_votes(demo.book, demo.settings.folder / "export")
        text = dump_yaml(recipe_of(demo, exported))
        file = demo.settings.folder / "train_on_votes.yaml"
        write_atomically(file, f"# Votes of {exported.decided} decided pairs.\n{text}".encode())
        return VoteTrainingPlan(exported, text, file)


class TrainingProcess:
    """At most one training run at a time, as a process of its own."""

    def __init__(self, log: Path):
        self.log, self._process, self._lock = log, None, threading.Lock()

    def start(self, file: Path) -> None:
        """Raises UserError while another one runs."""
        with self._lock:
            if self.running:
                raise UserError("A training run is in progress already; watch it under Runs.")
            self._begin(file)

    def _begin(self, file: Path) -> None:
        with self.log.open("wb") as out:
            self._process = subprocess.Popen([sys.executable, "-m", "visalign", "train", str(file)], stdout=out,
                                             stderr=subprocess.STDOUT)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def status(self) -> str:
        """In words, with the end of what it printed."""
        if self._process is None:
            return ""
        code = self._process.poll()
        state = "Training" if code is None else "The training has ended" if code == 0 else f"It stopped (exit {code})"
        with self.log.open("rb") as file:  # only its end: a long run prints much
            file.seek(max(0, self.log.stat().st_size - LOG_END))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
        return "\n".join([state, *lines[-LOG_LINES:]])


def build_train_tab(demo: Demo, tab: gr.Tab) -> None:
    """The tab."""
    trainer = TrainingProcess(demo.settings.folder / "training.log")
    refresh = gr.Button("Count the votes and write the recipe", variant="primary", elem_id="train-plan")
    shown = gr.HTML(elem_id="train-shown")
    recipe = gr.Code(language=None, label="Recipe", interactive=False)

    def plan(request: gr.Request):
        try:
            demo.limits.check(client_of(request), "plan", CLIENT_PLANS)
            made = plan_training(demo)
            return render_fragment("train.html.j2", plan=made, allowed=demo.settings.allow_train), made.recipe
        except Exception as error:
            return problem_html(sentence_of(error)), ""

    quiet = {"show_progress": "hidden", "queue": False}
    refresh.click(plan, None, [shown, recipe], api_name="train_plan", **quiet)
    tab.select(plan, None, [shown, recipe], api_visibility="private", **quiet)
    if not demo.settings.allow_train:
        return  # no handler, so that no request can start one either
    go = gr.Button("Start training", variant="stop", elem_id="train-start")
    status = gr.Textbox(label="Training", lines=LOG_LINES, interactive=False, elem_id="train-status")
    ticking = gr.Timer(2, active=False)

    def start(request: gr.Request):
        try:
            demo.limits.check(client_of(request), "start", CLIENT_STARTS)
            trainer.start(plan_training(demo).file)
            return trainer.status(), gr.Timer(active=True)
        except Exception as error:
            return sentence_of(error), gr.skip()

    go.click(start, None, [status, ticking], api_name="train_start", **quiet)
    ticking.tick(lambda: (trainer.status(), gr.Timer(active=trainer.running)), None, [status, ticking],
                 api_visibility="private", **quiet)
