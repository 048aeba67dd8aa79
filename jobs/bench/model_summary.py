"""What ``gopstream bench model`` prints."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def tables(content: Mapping[str, Any]) -> list[Table | str]:
    """Return what a person reads."""
    machine = content["hardware"]
    parts: list[Table | str] = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads of torch "
        f"{content['versions']['torch']}; medians of {content['rounds']} rounds"
    ]
    if content["quick"]:
        parts.append("a quick run shows that everything runs; its figures mean nothing")
    parts.append(_cpu_table(content["cpu"]))
    if content["cuda"] is None:
        parts.append(
            "no CUDA device: training in bfloat16 and the PST paper's Table 6 are left out"
        )
    else:
        parts.append(machine["gpu"])
        parts += [_training_table(content["cuda"]["training"]), _table6(content["cuda"]["table6"])]
    return [*parts, *content["failures"]]


def _cpu_table(measured: Mapping[str, Any]) -> Table:
    table = Table(
        f"CPU, {measured['precision']}",
        "clip",
        "train s (plain)",
        "ratio",
        "infer s (plain)",
        "ratio",
        "train MiB (plain)",
        "ratio",
    )
    for row in measured["models"]:
        if not row["agrees"]:
            table.add_row(row["model"], _clip(row), "the forms differ")
            continue
        cells = []
        for figure, ratio in row["plain_over_gopstream"].items():
            ours, plain = (row["forms"][form][figure] for form in ("gopstream", "plain"))
            shown = ",.0f" if figure.endswith("mib") else ".2f"
            cells += [f"{ours:{shown}} ({plain:{shown}})", f"{ratio:.2f}"]
        table.add_row(row["model"], _clip(row), *cells)
    return table


def _training_table(measured: Mapping[str, Any]) -> Table:
    title = f"training, {measured['precision']}, batch {measured['batch']}"
    table = Table(title, "clip", "form", "ms a step", "clips/s", "peak MiB")
    for row in measured["models"]:
        for form, figures in row["forms"].items():
            if "missing" in figures:
                table.add_row(row["model"], _clip(row), form, figures["missing"])
                continue
            peak = figures["train_peak_mib"]
            table.add_row(
                row["model"],
                _clip(row),
                form,
                f"{1e3 * figures['train_seconds']:.1f}",
                f"{figures['clips_per_second']:.1f}",
                "" if peak is None else f"{peak:,.0f}",
            )
    return table


def _table6(measured: Mapping[str, Any]) -> Table:
    table = Table("Table 6", "form", "figure", "ratio", "paper")
    for ratio in measured["ratios"]:
        table.add_row(
            f"{ratio['of']} / {ratio['to']}",
            ratio["form"],
            ratio["figure"],
            f"{ratio['ratio']:.2f}",
            f"{ratio['paper']:.2f}",
        )
    return table


def _clip(row: Mapping[str, Any]) -> str:
    frames, size = row["clip"]
    return f"{frames} x {size}"
