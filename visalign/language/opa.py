"""OPA-DPO's data: what a model said, what an expert corrected in it, and the truth.

A row has prompt, image, own (the model's own answer), corrected and truth. `sft` imitates truth and correction, which
makes them answers that the model may give; pairs then prefer truth to own, correction to own, and the correction with
the image to the same with a share of the image hidden (`dpo` with `anchor_weight`).

Yang et al. 2025 (arXiv 2501.09695).
"""

from visalign.config.language import OpaSettings
from visalign.data.rows import BadRow


def opa_rows(row: dict, where: str, settings: OpaSettings, compared: bool) -> list[dict]:
    """The pairs, or answers, that a row of OPA-DPO's data stands for. Raises BadRow for a column that is missing."""
    for name in ("truth", "corrected", *(("own",) if compared else ())):
        if not isinstance(row.get(name), str):
            raise BadRow(f"{where}: '{name}' is missing; data.opa needs prompt, image, own, corrected and truth")
    kept = {name: value for name, value in row.items() if name not in ("truth", "corrected", "own")}
    if not compared:
        return [kept | {"chosen": row[name]} for name in ("truth", "corrected")]
    pairs = [kept | {"chosen": row[name], "rejected": row["own"], "weight": weight, "masked": 0.0} for name, weight in (
        ("truth", settings.truth_weight), ("corrected", settings.corrected_weight)) if weight]
    if settings.masked_weight:
        pairs.append(kept | {"chosen": row["corrected"], "rejected": row["corrected"],
                             "weight": settings.masked_weight, "masked": settings.masked_share})
    return pairs
