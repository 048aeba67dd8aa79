"""What ``gopstream models`` prints: the catalogue, measured, beside what was published."""

from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from gopstream.jobs.errors import UserError
from gopstream.jobs.summaries import Summary, fact_table, render
from gopstream.models import list_models
from gopstream.models.catalogue import find_model
from gopstream.models.catalogue_entry import CatalogueEntry
from gopstream.models.cost import measure_model
from gopstream.models.paper_figures import PaperFigures

CLASSES: Final = 400
"""Of models that no paper has; the others are counted with the classes of their figures."""


def catalogue_summary(name: str | None, *, measured: bool = False) -> Summary:
    """Describe one model, or list all.

    Args:
        name: The model, which is counted; None for all.
        measured: Count all of the list, which takes seconds for each.

    Raises:
        UserError: If there is no such model.
    """
    try:
        names = list_models() if name is None else [find_model(name).name]
    except ValueError as error:
        raise UserError(str(error)) from error
    counted = measured or name is not None
    rows = {each: _facts(find_model(each), counted=counted) for each in names}
    if name is not None:
        return Summary(render(*_one_model(rows[name])), rows)
    remark = (
        "M: 10**6 parameters. Official: the authors' code, counted. Clip: frames x pixels.\n"
        "'gopstream models NAME' counts one, tells more, and why figures differ."
    )
    return Summary(render(_catalogue_table(rows, counted=counted), remark), rows)


def published_numbers(figures: PaperFigures) -> dict[str, Any]:
    """Return the sizes that are published, as JSON has them."""
    return {
        "source": figures.source,
        "num_classes": figures.num_classes,
        "paper_params_millions": figures.params_millions,
        "paper_gmacs": figures.gmacs,
        "official_parameters": figures.official_params,
        "official_gmacs": figures.official_gmacs,
    }


def _facts(entry: CatalogueEntry, *, counted: bool) -> dict[str, Any]:
    figures = entry.figures
    num_classes = CLASSES if figures is None else figures.num_classes
    cost = measure_model(entry.name, num_classes=num_classes) if counted else None
    return {
        "name": entry.name,
        "family": entry.family,
        "num_classes": num_classes,
        "parameters": None if cost is None else cost.parameters,
        "gmacs": None if cost is None else cost.gmacs,
        "published": None if figures is None else published_numbers(figures),
        "top1": [] if figures is None else [row._asdict() for row in figures.top1],
        "deviations": [] if figures is None else list(figures.deviations),
        "paper": f"{entry.paper.title} ({entry.paper.year})",
        "notes": entry.notes,
        "weights_that_fit": list(entry.weights_that_fit),
        "options": list(entry.options),
        "contract": asdict(entry.contract),
    }


def _catalogue_table(rows: dict[str, dict[str, Any]], *, counted: bool) -> Table:
    table = Table("model")
    for unit in ("M", "GMACs"):
        for header in (unit, "official", "paper") if counted else (f"{unit} official", "paper"):
            table.add_column(header)
    table.add_column("clip")
    table.add_column("planes")
    for name, facts in rows.items():
        contract, published = facts["contract"], facts["published"] or {}
        table.add_row(
            name,
            *([_shown(facts["parameters"], ".2f", scale=1e-6)] if counted else []),
            _shown(published.get("official_parameters"), ".2f", scale=1e-6),
            _shown(published.get("paper_params_millions"), "g"),
            *([_shown(facts["gmacs"], ".2f")] if counted else []),
            _shown(published.get("official_gmacs"), ".2f"),
            _shown(published.get("paper_gmacs"), "g"),
            f"{contract['num_frames']} x {contract['size']}",
            ", ".join(contract["planes"]),
        )
    return table


def _one_model(facts: dict[str, Any]) -> list[Table | str]:
    published = facts["published"] or {}
    shown = {
        "name": facts["name"],
        "parameters": f"{facts['parameters']:,} with {facts['num_classes']} classes"
        + _beside("official", published.get("official_parameters"), form=",")
        + _beside("paper", published.get("paper_params_millions"), form="g", unit=" M"),
        "GMACs": f"{facts['gmacs']:.4f}"
        + _beside("official", published.get("official_gmacs"), form=".4f")
        + _beside("paper", published.get("paper_gmacs"), form="g"),
        "paper": facts["paper"],
        "notes": facts["notes"],
        "weights that fit": "; ".join(facts["weights_that_fit"]) or "none are published",
        "options": ", ".join(facts["options"]),
        **{
            name.replace("_", " "): ", ".join(map(str, value))
            if isinstance(value, tuple)
            else value
            for name, value in facts["contract"].items()
            if value is not None
        },
    }
    parts: list[Table | str] = [fact_table(shown)]
    parts += [f"- {line}" for line in facts["deviations"]]
    if facts["top1"]:
        table = Table("top-1 in the paper", "weights from", "views", "%", "where")
        for row in facts["top1"]:
            table.add_row(
                row["dataset"],
                row["pretraining"],
                row["views"],
                f"{row['top1']:.1f}",
                row["source"],
            )
        parts.append(table)
    return parts


def _shown(value: float | None, form: str, *, scale: float = 1) -> str:
    return "" if value is None else format(value * scale, form)


def _beside(whose: str, value: float | None, *, form: str, unit: str = "") -> str:
    return "" if value is None else f"; {whose} {value:{form}}{unit}"
