"""`visalign generate --engine ray`: the samples that folder.py draws, partition by partition, on a Ray cluster.

    OUT/000012/12288.png        the samples of partition 12
    OUT/part-000012-....parquet prompt, file and seed of each; it appears when all of them are there
    OUT/samples.jsonl           of all, where OUT is on a disk
"""

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from visalign.config import ModelSettings
from visalign.data.partitions import texts_digest
from visalign.errors import UserError
from visalign.jobs.on_ray import RaySettings, Work, WorkerShare, run_partitions
from visalign.jobs.partition_folder import PartitionFolder
from visalign.media.samples import Media
from visalign.media.source_images import content_of, is_edit
from visalign.media.video_files import write_media
from visalign.parallel.ray_cluster import check_ray
from visalign.sampling.feedback import samples_at
from visalign.sampling.folder import TOGETHER, Drawing, asked_row, drawing_of, sample_row
from visalign.sampling.seeds import place_seed
from visalign.storage.locations import Location

LIST = "samples.jsonl"


@dataclass(frozen=True)
class PlacesPart:
    """Places of a list of samples, and their prompts. first: the number of the first prompt."""

    places: range
    prompts: list[str]
    first: int

    def name(self) -> str:
        return f"samples {self.places.start} to {self.places.stop - 1}"

    def stamp(self) -> str:
        return f"{self.name()} {texts_digest(map(content_of, self.prompts))}"


def generate_on_ray(model: ModelSettings, prompts: list[str], out: str, ray: RaySettings, *, device: str = "auto",
                    **options) -> int:
    """Sample a model into a folder or URL, with the pixels of `generate_to_folder`; returns how many.

    options: of `drawing_of`. The same call continues where an earlier one was killed. Raises UserError.
    """
    check_ray("--engine ray")
    drawing, prompts = drawing_of(model, prompts, **options)
    prompts, place = list(dict.fromkeys(prompts)), Location(out)
    if not place.is_local and (drawing.video_format == "frames" or any(map(is_edit, prompts))):
        raise UserError(f"out {place}: source images and videos as folders of frames are written to a disk only")
    parts = cut_places(prompts, drawing.samples, ray.partition_size)
    settings = drawing.identity() | {"samples": drawing.samples, "steps": drawing.steps, "seed": drawing.seed,
                                     "guidance_scale": drawing.guidance_scale, "partition_size": ray.partition_size,
                                     "prompts": texts_digest(map(content_of, prompts))}
    folder = PartitionFolder(place, settings, [part.stamp() for part in parts])
    missing = {number: parts[number] for number in folder.open()}
    if missing:
        for _ in run_partitions(missing, functools.partial(drawer, drawing, folder), ray, device, "generating"):
            pass
    count = len(prompts) * drawing.samples
    if place.is_local:
        list_samples(folder, Path(place.path))
    folder.close({"rows": count})
    return count


def cut_places(prompts: list[str], samples: int, size: int) -> list[PlacesPart]:
    """All places in partitions of whole batches, so that each sample has the neighbours it has on one machine."""
    count, step = len(prompts) * samples, -(-size // TOGETHER) * TOGETHER
    parts = []
    for start in range(0, count, step):
        places = range(start, min(start + step, count))
        first = start // samples
        parts.append(PlacesPart(places, prompts[first:places[-1] // samples + 1], first))
    return parts


def drawer(drawing: Drawing, folder: PartitionFolder, share: WorkerShare) -> Work:
    """In a worker: what draws a partition."""
    generator = drawing.load(share.device)

    def work(number: int, part: PlacesPart) -> dict:
        if folder.has(number):
            return {"number": number}
        generator.check_prompts(part.prompts, "prompt")
        under = folder.out.child(f"{number:06d}")
        under.make_folder()
        rows = []
        for place, sample in samples_at(generator, part.prompts, drawing.samples, part.places, steps=drawing.steps,
                                        guidance_scale=drawing.guidance_scale, seed=drawing.seed, label="", quiet=True,
                                        first=part.first, asking=drawing.asking):
            name = write_sample(sample.media, under, f"{place:05d}", drawing.video_format)
            prompt = part.prompts[place // drawing.samples - part.first]
            row = sample_row(prompt, Path(folder.out.path)) | asked_row(prompt, drawing.asking)
            rows.append(row | {"file": f"{under.name}/{name}", "seed": place_seed(drawing.seed, place)})
        names = {name for row in rows for name in row}
        folder.write(number, [pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows])])
        return {"number": number}

    return work


def write_sample(media: Media, folder: Location, stem: str, video_format: str | None) -> str:
    """Write a sample into a folder or to a URL; its name."""
    if folder.is_local:
        return write_media(media, Path(folder.path) / stem, video_format).name
    with tempfile.TemporaryDirectory() as here:
        file = write_media(media, Path(here) / stem, video_format)
        folder.child(file.name).write(file.read_bytes())
    return file.name


def list_samples(folder: PartitionFolder, root: Path) -> None:
    """The list that other commands read, written a partition at a time."""
    unfinished = root / f".tmp-{LIST}"
    with unfinished.open("w") as file:
        for table in folder.tables():
            for row in table.to_pylist():
                file.write(json.dumps({name: value for name, value in row.items() if value is not None}) + "\n")
    unfinished.replace(root / LIST)
