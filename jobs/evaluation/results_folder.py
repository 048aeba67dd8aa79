"""What an evaluation leaves on disk: predictions, confusion matrices, the summary.

``summary.json`` is written first, as incomplete, and last: a folder that an interruption left is
known by it, and is replaced by the next evaluation as a complete one is.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluation.outcomes import Outcomes, action_labels
from gopstream.jobs.evaluation.scores import confusion
from gopstream.jobs.labels import LabelSet
from gopstream.jobs.trained_run import TrainedRun
from gopstream.shards.errors import ShardError
from gopstream.shards.layout import write_atomic
from gopstream.shards.storage import Storage, as_storage

PredictionsForm = Literal["parquet", "jsonl"]

SUMMARY_FILE: Final = "summary.json"
_FORMAT: Final = "gopstream evaluation 1"


def predictions_form(out: Path | None, wanted: PredictionsForm | None) -> PredictionsForm:
    """Return the form in which predictions are written.

    Raises:
        UserError: If they are not written at all, or pyarrow is not there.
    """
    if wanted is not None and out is None:
        raise UserError("--predictions is the form of a file in --out; give --out DIR")
    has_pyarrow = find_spec("pyarrow") is not None
    if wanted == "parquet" and not has_pyarrow:
        raise UserError("--predictions parquet needs pyarrow; pip install pyarrow, or take jsonl")
    return wanted or ("parquet" if has_pyarrow else "jsonl")


def check_results_folder(out: Path) -> None:
    """Refuse a folder that holds something else than an earlier evaluation.

    Raises:
        UserError: Naming it.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())) or _is_ours(out):
        return
    raise UserError(
        f"{out} is not empty and holds no evaluation of gopstream; choose another folder with --out"
    )


def write_results(
    out: Path,
    result: Mapping[str, Any],
    *,
    run: TrainedRun,
    root: Storage | Path | str,
    outcomes: Outcomes,
    form: PredictionsForm,
) -> None:
    """Write an evaluation into a folder, in place of an earlier one.

    Args:
        out: The folder; see :func:`check_results_folder`.
        result: The scores, for the summary.
        run: What was evaluated.
        root: The dataset.
        outcomes: Of each sample.
        form: Of the predictions.

    Raises:
        UserError: If the folder holds something else.
    """
    check_results_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "format": _FORMAT,
        "checkpoint_step": run.trained.content["step"],
        "dataset": run.dataset.root,
        "model": run.recipe.model.name,
    }
    _write_json(out / SUMMARY_FILE, about | {"complete": False})
    for path in [*out.glob("predictions.*"), *out.glob("confusion*.csv")]:
        path.unlink()
    sets = run.targets.sets
    sources = _sources(root, run.dataset.split, outcomes.keys)
    rows = list(_rows(outcomes, sets, sources))
    target = out / f"predictions.{form}"
    if form == "parquet":
        _write_parquet(target, rows)
    else:
        write_atomic(target, "".join(json.dumps(row) + "\n" for row in rows).encode())
    for number, labels in enumerate(sets):
        path = out / f"{_named('confusion', labels)}.csv"
        _write_confusion(path, outcomes, number, classes=labels.classes)
    _write_json(out / SUMMARY_FILE, about | {"complete": True, **result})


def _is_ours(out: Path) -> bool:
    try:
        content = json.loads((out / SUMMARY_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == _FORMAT


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _named(word: str, labels: LabelSet) -> str:
    return f"{word}_{labels.name}" if labels.name else word


def _rows(
    outcomes: Outcomes, sets: Sequence[LabelSet], sources: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each sample; of several label sets also the action's columns."""
    labels, guesses = outcomes.labels.tolist(), outcomes.guesses.tolist()
    shares = outcomes.probabilities.tolist()
    actions, products = outcomes.actions.tolist(), outcomes.action_probabilities.tolist()
    name = _action_names(sets)
    for number, key in enumerate(outcomes.keys):
        row: dict[str, Any] = {"key": key, "source": sources.get(key)}
        for place, one in enumerate(sets):
            row[_named("label", one)] = one.classes[labels[number][place]]
            known = [guess for guess in guesses[number][place] if guess >= 0]
            row[_named("top5", one)] = [one.classes[guess] for guess in known]
            row[_named("probabilities", one)] = shares[number][place][: len(known)]
        if len(sets) > 1:
            row["label_action"] = " ".join(
                one.classes[label] for one, label in zip(sets, labels[number], strict=True)
            )
            known = [action for action in actions[number] if action >= 0]
            row["top5_action"] = [name(action) for action in known]
            row["probabilities_action"] = products[number][: len(known)]
        yield row


def _action_names(sets: Sequence[LabelSet]) -> Callable[[int], str]:
    sizes = [len(labels.classes) for labels in sets]

    def name(action: int) -> str:
        parts = zip(sets, action_labels(action, sizes), strict=True)
        return " ".join(labels.classes[label] for labels, label in parts)

    return name


def _sources(root: Storage | Path | str, split: str, keys: Sequence[str]) -> dict[str, str]:
    """Return the video of each key; none, with a warning, if ``samples.parquet`` is not there."""
    if find_spec("pyarrow") is None:
        return {}
    from gopstream.shards.sample_table import read_samples

    wanted = set(keys)
    sources: dict[str, str] = {}
    try:
        for batch in read_samples(as_storage(root), split, columns=["key", "source"]):
            columns = (batch.column(name).to_pylist() for name in ("key", "source"))
            sources |= {key: source for key, source in zip(*columns, strict=True) if key in wanted}
    except ShardError as error:  # a dataset is whole without its table
        say(f"warning: the predictions name no source videos: {error}")
        return {}
    return sources


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {"top5": pa.list_(pa.string()), "probabilities": pa.list_(pa.float64())}
    schema = pa.schema([(name, kinds.get(name.partition("_")[0], pa.string())) for name in rows[0]])
    content = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows), schema), content)
    write_atomic(path, content.getvalue())


def _write_confusion(
    path: Path, outcomes: Outcomes, number: int, *, classes: Sequence[str]
) -> None:
    """Write a row for each class: its name, then how many of its samples got each class."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["label", *classes])
    counts = confusion(outcomes, number, num_classes=len(classes)).tolist()
    for name, row in zip(classes, counts, strict=True):
        table.writerow([name, *row])
    write_atomic(path, text.getvalue().encode())
