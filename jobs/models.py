"""What ``gopstream models`` prints: the catalogue, measured."""

from dataclasses import asdict
from typing import Any

from rich.table import Table

from gopstream.jobs.errors import UserError
from gopstream.jobs.summaries import Summary, fact_table, render
from gopstream.models import list_models
from gopstream.models.catalogue import find_model
from gopstream.models.cost import measure_model

_CLASSES = 400


def catalogue_summary(name: str | None) -> Summary:
    """Describe one model, or list all; sizes are measured with 400 classes.

    Raises:
        UserError: If there is no such model.
    """
    try:
        names = list_models() if name is None else [find_model(name).name]
    except ValueError as error:
        raise UserError(str(error)) from error
    rows = {each: _facts(each) for each in names}
    if name is not None:
        facts = rows[name]
        shown = {key: value for key, value in facts.items() if key != "contract"}
        return Summary(render(fact_table(shown | facts["contract"])), rows)
    table = Table("model", "parameters", "GMACs", "clip", "planes", "paper")
    for each, facts in rows.items():
        contract = facts["contract"]
        table.add_row(
            each,
            f"{facts['parameters'] / 1e6:.2f} M",
            f"{facts['gmacs']:.3f}",
            f"{contract['num_frames']}x{contract['frame_stride']}, {contract['size']} px",
            ", ".join(contract["planes"]),
            facts["paper"],
        )
    return Summary(render(table), rows)


def _facts(name: str) -> dict[str, Any]:
    entry = find_model(name)
    cost = measure_model(name, num_classes=_CLASSES)
    return {
        "name": name,
        "parameters": cost.parameters,
        "gmacs": cost.gmacs,
        "paper": f"{entry.paper.title} ({entry.paper.year})",
        "notes": entry.notes,
        "contract": asdict(entry.contract),
    }
