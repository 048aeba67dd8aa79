"""Parameters and multiply-adds of every model and variant, beside the authors' code and the papers.

Counted without memory for weights. Fails if a figure is more than `TOLERANCE` off a reference or
a paper and no line says why.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.model_variants import PST, VIDEO_FOCALNET, Variant, catalogue_variants
from gopstream.jobs.bench.motion_variants import CUES, DVT, SIFA
from gopstream.models.catalogue import MODELS
from gopstream.models.cost import ModelCost, measure_model

TOLERANCE: Final = 1e-3
_MILLION: Final = 1e6
_OTHER_CLASSES: Final = (400, 174, 48)
"""Of the data sets that the papers have; they print one number for several."""


def all_variants() -> list[Variant]:
    """Return every row of the table, in its order."""
    return [*catalogue_variants(), *VIDEO_FOCALNET, *PST, *DVT, *CUES, *SIFA]


class Comparison(NamedTuple):
    """One figure beside a published one."""

    name: str
    """Of the figure: parameters or GMACs."""
    whose: str
    """The reference's or the paper's."""
    measured: float
    """In the unit of the published one."""
    published: float

    @property
    def deviation(self) -> float:
        """Relative to the published figure."""
        return self.measured / self.published - 1

    @property
    def is_rounded(self) -> bool:
        """Whether the measured figure, with as many decimals, is the published one."""
        decimals = len(f"{self.published:.10g}".partition(".")[2])
        return round(self.measured, decimals) == self.published

    @property
    def words(self) -> str:
        """Describe the deviation."""
        return f"{self.name}: {self.deviation:+.2%} off {self.whose} {self.published:g}"


def measure_variant(variant: Variant) -> dict[str, Any]:
    """Count a variant; returns its row of the table."""
    cost = measure_model(
        variant.model,
        num_classes=variant.num_classes,
        num_frames=variant.num_frames,
        size=variant.size,
        **variant.options,
    )
    contract = MODELS[variant.model].contract
    compared = comparisons(variant, cost)
    off = [each for each in compared if abs(each.deviation) > TOLERANCE]
    explained = {each.words: explain(variant, each) for each in off}
    reference = variant.reference
    return {
        "title": variant.title,
        "model": variant.model,
        "options": dict(variant.options),
        "classes": variant.num_classes,
        "clip": [
            variant.num_frames or contract.num_frames,
            variant.size or contract.size,
        ],
        "parameters": cost.parameters,
        "gmacs": round(cost.gmacs, 4),
        "reference": None if reference is None else reference._asdict(),
        "paper": {"params_millions": variant.paper_params_millions, "gmacs": variant.paper_gmacs},
        "deviations_percent": {
            f"{each.name}, {each.whose}": round(100 * each.deviation, 4) for each in compared
        },
        "explanations": [f"{words}: {why}" for words, why in explained.items() if why],
        "unexplained": [words for words, why in explained.items() if not why],
        "notes": list(variant.notes),
    }


def explain(variant: Variant, off: Comparison) -> str | None:
    """Say why a figure differs; None if nothing tells."""
    if off.is_rounded:
        return "rounded"
    if off.name in variant.remarks:
        return variant.remarks[off.name]
    if off.name == "parameters" and off.whose == "the paper's":
        for num_classes in _OTHER_CLASSES:
            cost = measure_model(
                variant.model,
                num_classes=num_classes,
                num_frames=variant.num_frames,
                size=variant.size,
                **variant.options,
            )
            millions = cost.parameters / _MILLION
            if off._replace(measured=millions).is_rounded:
                return f"it is the number with {num_classes} classes, {millions:.2f}"
    return None


def comparisons(variant: Variant, cost: ModelCost) -> list[Comparison]:
    """Return what there is to compare."""
    millions = cost.parameters / _MILLION
    found = []
    if variant.reference is not None:
        theirs = variant.reference
        if theirs.parameters is not None:
            in_millions = theirs.parameters / _MILLION
            found.append(Comparison("parameters", "the reference's", millions, in_millions))
        if theirs.gmacs is not None:
            found.append(Comparison("GMACs", "the reference's", cost.gmacs, theirs.gmacs))
    if variant.paper_params_millions is not None:
        published = variant.paper_params_millions
        found.append(Comparison("parameters", "the paper's", millions, published))
    if variant.paper_gmacs is not None:
        found.append(Comparison("GMACs", "the paper's", cost.gmacs, variant.paper_gmacs))
    return found


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name each deviation that no line explains."""
    return [f"{row['title']}: {words}" for row in rows for words in row["unexplained"]]


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("network", "classes", "parameters", "off code", "GMACs", "off code", "off paper")
    for row in rows:
        off = row["deviations_percent"]
        table.add_row(
            row["title"],
            str(row["classes"]),
            f"{row['parameters']:,}",
            _percent(off.get("parameters, the reference's")),
            f"{row['gmacs']:.3f}",
            _percent(off.get("GMACs, the reference's")),
            _percent(off.get("GMACs, the paper's")),
        )
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f} %"


def main() -> int:
    """Count, compare and report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.model_table",
        description="Sizes and arithmetic of the models, beside the authors' code and the papers.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    given = parser.parse_args()
    rows = [measure_variant(variant) for variant in all_variants()]
    found = failures(rows)
    content = {
        "command": "python -m gopstream.jobs.bench.model_table --json FILE",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "counted": "multiply-adds of convolutions, linear layers, matrix products and DVT's "
        "sampled points for one clip, in 10**9; without norms, softmax, activations",
        "claim": f"each figure is within {TOLERANCE:.1%} of the authors' code and of the paper, "
        "or a line says why not",
        "holds": not found,
        "failures": found,
        "models": rows,
    }
    given.json_file.parent.mkdir(parents=True, exist_ok=True)
    given.json_file.write_text(json.dumps(content, indent=2) + "\n")
    Console(width=130).print(_table(rows))
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
