"""Drop images or videos and see every reward's score of them."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from visalign.errors import UserError
from visalign.media.kinds import VIDEO_SUFFIXES, image_suffixes
from visalign.media.samples import Media, Sample
from visalign.media.video_files import read_media
from visalign.reports import media_uri
from visalign.rewards import Reward
from visalign_demo.compare_tab import LONGEST_PROMPT, problem_html, progress_html
from visalign_demo.context import Demo, client_of, render_fragment, sentence_of
from visalign_demo.model_worker import Job, Step

MOST_FILES, CLIENT_REQUESTS, FRAMES = 64, 20, 64


@dataclass(frozen=True)
class Scored:
    """A file's name, small image, values by reward and dimension, and what went wrong or was noted."""

    name: str
    uri: str | None
    values: dict[str, float]
    remark: str


def score_files(files: list[Path], prompt: str, rewards: list[Reward], job: Job) -> list[Scored]:
    """All rewards on all files, on the worker's thread. A file that cannot be read is a row that says so."""
    media: dict[Path, Media] = {}
    remarks: dict[Path, list[str]] = {file: [] for file in files}
    for file in files:
        job.check()
        try:
            media[file] = read_media(file, file.name, FRAMES)
        except UserError as error:
            remarks[file].append(str(error))
    values: dict[Path, dict[str, float]] = {file: {} for file in files}
    readable = list(media)
    for number, reward in enumerate(rewards):
        job.tell(Step(reward.name, number, len(rewards)))
        answer = reward.score([Sample(prompt).with_media(media[file]) for file in readable])
        for i, file in enumerate(readable):
            for dimension, value in zip(reward.dimensions, answer.values[i].tolist(), strict=True):
                if value == value:
                    values[file][f"{reward.name} {dimension}"] = value
            if i in answer.remarks:
                remarks[file].append(f"{reward.name}: {answer.remarks[i]}")
    return [Scored(file.name, media_uri(media[file], 224) if file in media else None, values[file],
                   "; ".join(remarks[file])) for file in files]


def columns_of(rows: list[Scored]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))


def gallery_html(rows: list[Scored], order: str | None) -> str:
    """Cards with a bar for each value, its length relative to the other files; the best by `order` first."""
    columns = columns_of(rows)
    spans = {name: (min(known), max(known)) for name in columns
             if (known := [row.values[name] for row in rows if name in row.values])}
    if order in columns:
        rows = sorted(rows, key=lambda row: -row.values.get(order, float("-inf")))

    def share(name: str, value: float) -> float:
        low, high = spans[name]
        return (value - low) / (high - low) if high > low else 1.0

    return render_fragment("scores.html.j2", rows=rows, share=share)


def scores_csv(rows: list[Scored], prompt: str) -> str:
    """The table. A cell that a spreadsheet would evaluate as a formula is quoted."""
    columns, text = columns_of(rows), io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "prompt", *columns, "remarks"])
    for row in rows:
        writer.writerow([harmless(row.name), harmless(prompt), *(row.values.get(name, "") for name in columns),
                         harmless(row.remark)])
    return text.getvalue()


def harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in tuple("=+-@\t\r") else cell


def build_score_tab(demo: Demo) -> None:
    """The tab."""
    names = [reward.name for reward in demo.rewards]
    with gr.Row():
        files = gr.File(label=f"Images and videos, at most {MOST_FILES}", file_count="multiple", height=160,
                        file_types=sorted(image_suffixes() | VIDEO_SUFFIXES), elem_id="score-files")
        with gr.Column():
            prompt = gr.Textbox(label="Prompt they were generated for (alignment rewards need it)",
                                max_length=LONGEST_PROMPT, elem_id="score-prompt")
            chosen = gr.CheckboxGroup(names, value=names, label="Rewards")
            go = gr.Button("Score", variant="primary", elem_id="score")
    with gr.Row():
        order = gr.Dropdown([], label="Sort by", elem_id="score-order")
        table = gr.Button("Download CSV", interactive=False, elem_id="score-csv")
    progress, shown, kept = gr.HTML(), gr.HTML(elem_id="scores"), gr.State([])

    def score(files, prompt, chosen, request: gr.Request):
        try:
            demo.limits.check(client_of(request), "score", CLIENT_REQUESTS)
            paths = [Path(file) for file in files or []]
            if not paths or not chosen:
                raise UserError("Drop at least one image or video, and choose a reward.")
            if len(paths) > MOST_FILES:
                raise UserError(f"{len(paths)} files were dropped; at most {MOST_FILES} are scored at once. "
                                "`visalign score` takes any number.")
            if len(prompt or "") > LONGEST_PROMPT:
                raise UserError(f"The prompt has {len(prompt)} characters; at most {LONGEST_PROMPT} are allowed.")
            rewards, rows = [reward for reward in demo.rewards if reward.name in chosen], []
            for step in demo.model_worker.submit(
                    lambda job: rows.extend(score_files(paths, prompt or "", rewards, job))):
                yield progress_html(step, 0), *[gr.skip()] * 4
            table = scores_csv(rows, prompt or "").encode("utf-8-sig")  # Excel needs the mark
            columns, file = columns_of(rows), demo.media_store.put_table(table)
            yield ("", gallery_html(rows, columns[0] if columns else None), rows,
                   gr.Dropdown(columns, value=columns[0] if columns else None),
                   gr.Button(link=demo.media_url(file), interactive=True))
        except Exception as error:
            yield problem_html(sentence_of(error)), *[gr.skip()] * 4

    go.click(score, [files, prompt, chosen], [progress, shown, kept, order, table], show_progress="hidden",
             api_name="score")
    order.input(gallery_html, [kept, order], shown, queue=False, show_progress="hidden", api_visibility="private")
