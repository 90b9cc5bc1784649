"""`visalign doctor MODEL`: what a model is, from its headers and configurations."""

from torch import nn

from visalign.config import ModelSettings
from visalign.generators.files.locating import locate_model
from visalign.generators.files.sketching import sketch


def describe_model(settings: ModelSettings) -> list[str]:
    """What a model is, and its networks with their sizes and where they come from. Raises UserError."""
    location = locate_model(settings)
    generator = sketch(location, settings)
    lines = [f"{location.family.pipeline_class}: {generator.modality}s of {generator.shape}, "
             f"{generator.process.prediction_type} prediction"]
    for name, part in generator.pipeline.components.items():
        if isinstance(part, nn.Module):
            file = location.file_of(name, type(part).__name__)
            place = file.path if file else "/".join(filter(None, location.folder_of(name)))
            lines.append(f"  {name:16} {sum(p.numel() for p in part.parameters()) / 1e6:10,.2f} M from {place}")
    return lines
