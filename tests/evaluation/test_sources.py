"""What samples are measured of: models, runs and folders, by what a user types."""

from visalign.config import ModelSettings
from visalign.evaluation.sources import source_of
from visalign.generators.export.ldm import write_single_file


def test_the_file_that_a_run_began_with_is_loaded_with_the_run_s_base(pipelines, tmp_path):
    from diffusers import DiffusionPipeline

    base, file = str(pipelines("sdxl")), tmp_path / "mine.safetensors"
    write_single_file(DiffusionPipeline.from_pretrained(base), file, "fp16", "mine")
    like = ModelSettings(source=str(file), base=base, precision="fp32")
    assert source_of("base", str(file), like).model == like
    other = source_of("other", base, like).model
    assert (other.source, other.base, other.precision) == (base, None, "fp32")
