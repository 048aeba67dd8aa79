"""A paper's scores beside those of a run, and what keeps the two from being the same thing."""

import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from gopstream.jobs.dataset_fit import check_fit
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import Recipe, list_recipes, load_recipe, recipe_content
from gopstream.jobs.recipe_sections import PaperRecipe
from gopstream.jobs.trained_run import TrainedRun

_CLASSES: Final[Mapping[str, Mapping[str, int]]] = {
    "kinetics400": {"": 400},
    "kinetics600": {"": 600},
    "ssv1": {"": 174},
    "ssv2": {"": 174},
    "diving48": {"": 48},
    "activitynet": {"": 200},
    "epic_kitchens100": {"verb_class": 97, "noun_class": 300},
}
"""Of each label set of the data sets that papers report, by the names of ``gopstream shard``."""

_NO_MATTER: Final = (
    "model.weights",  # said apart
    "train.accumulate",
    "train.checkpoint_every",
    "train.compile",
    "train.deterministic",
    "train.keep",
    "train.log_every",
    "train.seed",
    "train.threads",
    "train.validate_epochs",
    "train.workers",
    "test.batch_size",
    "clip.frames_on",
    "clip.motion_on",
)
"""Keys that make no other experiment of a recipe."""


def paper_report(run: TrainedRun, result: Mapping[str, Any], *, steps: int) -> dict[str, Any]:
    """Compare scores with those of the paper that a run reproduces.

    Args:
        run: What was evaluated.
        result: Its scores, as ``evaluate`` returns them.
        steps: Length of the whole run.

    Returns:
        ``source`` of the paper's scores and ``note``, empty without a ``[paper]``; ``rows`` with
        ``metric``, ``paper``, ``yours`` and ``difference`` in percent, None where the paper has
        none; ``differs``, a sentence for each thing that is not as in the paper; and
        ``published``, the recipes of the same model where this one has no ``[paper]``.
    """
    paper = run.recipe.paper
    return {
        "source": "" if paper is None else paper.source,
        "note": "" if paper is None else paper.note,
        "rows": list(_rows(paper, result)),
        "differs": list(_differences(run, result, steps=steps)),
        "published": published_recipes(run.recipe.model.name) if paper is None else [],
    }


def report_text(report: Mapping[str, Any]) -> str:
    """Return a report as people read it."""
    console = Console(file=io.StringIO(), width=110, highlight=False)

    def line(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if report["source"]:
        line(f"paper: {report['source']}")
    else:
        line(_without_paper(report["published"]))
    table = Table("percent", "paper", "yours", "difference")
    for row in report["rows"]:
        numbers = (row["paper"], row["yours"])
        shown = ["" if number is None else f"{number:.2f}" for number in numbers]
        difference = row["difference"]
        table.add_row(row["metric"], *shown, "" if difference is None else f"{difference:+.2f}")
    console.print(table)
    if report["note"]:
        line(f"note: {report['note']}")
    if report["source"]:
        line("what differs:" if report["differs"] else "what differs: nothing that is recorded")
    for difference in report["differs"]:
        line(f"- {difference}")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip()


def _rows(paper: PaperRecipe | None, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the table; of several label sets top-1 and top-5 are the action's."""
    sets: Mapping[str, Mapping[str, Any]] = result.get("sets", {})
    of_paper: dict[str, float | None] = {}
    if paper is not None:
        of_paper = {"top-1": paper.top1, "top-5": paper.top5, "action top-1": paper.action}
    yours: dict[str, float] = {"top-1": result["top1"], "top-5": result["top5"]}
    if sets:
        yours = {"action top-1": result["top1"], "action top-5": result["top5"]}
        for name, scores in sets.items():
            yours |= {f"{name} top-1": scores["top1"], f"{name} top-5": scores["top5"]}
    for metric in dict.fromkeys([*yours, *of_paper]):
        published, share = of_paper.get(metric), yours.get(metric)
        if published is None and share is None:
            continue
        measured = None if share is None else 100 * share
        difference = None
        if measured is not None and published is not None:
            difference = measured - published
        numbers = {"paper": published, "yours": measured, "difference": difference}
        yield {"metric": metric, **numbers}


def _differences(run: TrainedRun, result: Mapping[str, Any], *, steps: int) -> Iterator[str]:
    """Yield what is not as in the paper, as far as it is recorded."""
    recipe, content = run.recipe, run.trained.content
    test = recipe.test
    if result["views"] != test.views:
        yield f"views: {result['views']}, of the paper {test.views}"
    if result["split"] != test.split:
        yield f"split: {result['split']}, of the recipe {test.split}"
    if result["zero_motion"]:
        yield "the motion was zeroed (--zero-motion)"
    left_out = f", {result['skipped']} left out" if result["skipped"] else ""
    if recipe.paper is not None:
        yield from _of_dataset(run, recipe.paper)
        yield f"samples: {result['samples']} measured{left_out}; compare with the paper's split"
        yield from _of_weights(recipe.paper, content["weights"])
        yield from recipe_changes(recipe)
    elif left_out:
        yield f"samples: {result['samples']} measured{left_out}"
    if content["step"] < steps:
        yield f"steps: the checkpoint is of step {content['step']} of {steps}"
    try:
        check_fit(run.dataset.facts, recipe.data, url=run.dataset.root)
    except UserError:
        yield "the dataset was not made as [data] of the recipe asks (--force); see the warning"


def _of_dataset(run: TrainedRun, paper: PaperRecipe) -> Iterator[str]:
    wanted = _CLASSES.get(paper.dataset)
    held = {labels.name: len(labels.classes) for labels in run.targets.sets}
    if wanted is None:
        yield f"dataset: of the paper {paper.dataset}; not compared with {run.dataset.root}"
    elif held != wanted:
        of_paper, yours = (_in_words(counts) for counts in (wanted, held))
        yield f"dataset: of the paper {paper.dataset}, {of_paper}; yours has {yours}"


def _in_words(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {name or 'classes'}" for name, count in counts.items())


def _of_weights(paper: PaperRecipe, began: str) -> Iterator[str]:
    """Say with which weights both began; no file tells whether it is what the paper means."""
    if paper.weights or began:
        theirs, yours = (words or "fresh weights" for words in (paper.weights, began))
        yield f"weights to begin with: of the paper {theirs}; yours {yours}"


def recipe_changes(recipe: Recipe) -> Iterator[str]:
    """Yield each key that is not as in the recipe that comes with this ``[paper]``."""
    own = _flat(recipe_content(recipe))
    for name in list_recipes():
        published = load_recipe(name)
        if published.paper == recipe.paper:
            theirs = _flat(recipe_content(published))
            for key in dict.fromkeys([*theirs, *own]):
                if own.get(key) != theirs.get(key) and key not in _NO_MATTER:
                    yield f"recipe: {key} = {own.get(key)}, of {name} {theirs.get(key)}"
            return


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def published_recipes(model: str) -> list[str]:
    """Return the recipes with a ``[paper]`` of a model."""
    recipes = {name: load_recipe(name) for name in list_recipes()}
    return [
        name
        for name, recipe in recipes.items()
        if recipe.paper is not None and recipe.model.name == model
    ]


def _without_paper(published: list[str]) -> str:
    if not published:
        return "paper: none; the recipe has no [paper], and no published recipe is of its model"
    return f"paper: none in this recipe; published recipes of its model: {', '.join(published)}"
