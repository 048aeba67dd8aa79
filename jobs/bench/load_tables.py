"""What ``gopstream bench load`` claims, and how it shows its figures."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from gopstream.jobs.bench.load_material import SMALL, SMALL_GOP
from gopstream.jobs.bench.load_rounds import core_rate, median_ratio

_Answers = Mapping[str, list[dict[str, Any]]]

_DISK: Final = "disk, 0 workers"
_COLD: Final = "disk, 0 workers, cold"
_DISK_TWO: Final = "disk, 2 workers"
_STORE: Final = "S3, 0 workers"
_STORE_TWO: Final = "S3, 2 workers"
_CEILING: Final = "ceiling"
_GET_LOOP: Final = "GET loop, 16 in flight"
_DECODERS: Final = ("PyAV", "decord", "torchcodec", "cv2")


def claims_of(content: Mapping[str, Any], answers: _Answers) -> list[dict[str, Any]]:
    """Return what follows from the figures: ratios alone, with the aim where there is one."""
    small, store = f"{_DISK}|{SMALL}", f"{_STORE_TWO}|{SMALL}"
    claims = []
    for material, ours, least in (
        (SMALL, small, 8.0),
        (SMALL_GOP, small, None),
        ("720p", f"{_DISK}|720p", 30.0),
        ("1080p", f"{_DISK}|1080p", None),
    ):
        if (best := _best_decoder(answers, material)) is not None:
            name = f"one process, of the best decoder ({best.partition('|')[0]}), {material}"
            claims += _ratio(answers, name, (ours, best), least=least)
    ceiling = f"{_CEILING}|{SMALL}"
    claims += _ratio(answers, "one process, of the ceiling", (small, ceiling), least=0.92)
    for name in ("webdataset", "MosaicML streaming"):
        claims += _ratio(answers, f"one process, of {name}", (small, f"{name}|{SMALL}"))
    for name, runs, aim in (
        ("one process, files not in memory, of files in memory", (f"{_COLD}|{SMALL}", small), None),
        ("two workers, of one process", (f"{_DISK_TWO}|{SMALL}", small), None),
        ("S3, of disk, two workers", (store, f"{_DISK_TWO}|{SMALL}"), 0.8),
        ("S3, of disk, one process", (f"{_STORE}|{SMALL}", small), None),
        ("S3, two workers, of what its requests alone reach", (store, f"{_GET_LOOP}|"), None),
    ):
        claims += _ratio(answers, name, runs, least=aim, by_clock=True)
    costs, throttled = content["costs"], content["throttled"]
    for name, ours, model in (
        ("requests", "server_requests", "model_requests"),
        ("bytes", "server_bytes", "model_bytes"),
    ):
        if costs:
            claims.append(
                _claim(
                    f"{name} per clip, of the cost model's", costs[ours] / costs[model], most=1.1
                )
            )
    if throttled:
        claims.append(_claim("of what a request rate allows", throttled["share"], least=0.9))
    return claims


def _ratio(
    answers: _Answers,
    name: str,
    runs: tuple[str, str],
    *,
    least: float | None = None,
    by_clock: bool = False,
) -> list[dict[str, Any]]:
    """Compare two runs, if both were measured."""
    if not all(run in answers for run in runs):
        return []
    one, other = (answers[run] for run in runs)
    clock = median_ratio(one, other)
    if by_clock:
        return [_claim(name, clock, least=least)]
    value = median_ratio(one, other, speed=core_rate)
    return [_claim(name, value, least=least) | {"by_clock": clock}]


def _claim(
    name: str, value: float, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    claim: dict[str, Any] = {"claim": name, "value": value}
    if least is not None:
        return claim | {"at_least": least, "met": value >= least}
    if most is not None:
        return claim | {"at_most": most, "met": value <= most}
    return claim


def _best_decoder(answers: _Answers, material: str) -> str | None:
    """Return the run of the decoder that makes most clips of its CPU time."""
    runs = [run for run in answers if run.endswith(f"|{material}") and run.startswith(_DECODERS)]
    return max(runs, key=lambda run: statistics.median(map(core_rate, answers[run])), default=None)


def tables(content: Mapping[str, Any]) -> Sequence[Table | str]:
    """Return what a person reads."""
    clip, hardware = content["clip"], content["hardware"]
    parts: list[Table | str] = [
        f"clips of {clip['frames']} frames, every {clip['stride']}th, {clip['size']}x"
        f"{clip['size']}, in batches of {clip['batch_size']}; {hardware['processor']}, "
        f"{hardware['cores']} cores; medians of {content['rounds']} rounds"
    ]
    if content["quick"]:
        parts.append("a quick run shows that everything runs; its figures mean nothing")
    parts += [_speed_table(content), _claim_table(content)]
    if content["costs"]:
        parts.append(_cost_table(content))
    parts += [_stage_table(name, stages) for name, stages in content["stages"].items()]
    return [*parts, *(f"- {note}" for note in content["notes"])]


def _speed_table(content: Mapping[str, Any]) -> Table:
    table = Table("reader", "material", "clips/s", "CPU ms/clip", "of it workers")
    for row in sorted(content["rows"], key=lambda row: (row["material"], row["contestant"])):
        workers = row.get("worker_cpu_ms_per_clip")
        cpu = row.get("cpu_ms_per_clip")
        table.add_row(
            row["contestant"],
            row["material"],
            f"{row['clips_per_second']:,.1f}",
            "" if cpu is None else f"{cpu + (workers or 0.0):.2f}",
            f"{workers:.2f}" if workers else "",
        )
    for name, why in content["missing"].items():
        table.add_row(name, why)
    return table


def _claim_table(content: Mapping[str, Any]) -> Table:
    aims = () if content["quick"] else ("aim", "met")
    table = Table("ratio", "value", "by the clock", *aims)
    for claim in content["claims"]:
        aim = f">= {claim['at_least']:g}" if "at_least" in claim else ""
        aim = f"<= {claim['at_most']:g}" if "at_most" in claim else aim
        met = {True: "yes", False: "no", None: ""}[claim.get("met")]
        clock = f"{claim['by_clock']:.2f}" if "by_clock" in claim else ""
        cells = (claim["claim"], f"{claim['value']:.2f}", clock, aim, met)
        table.add_row(*cells[: 3 + len(aims)])
    table.caption = "one process: by CPU time, in which other processes do not count"
    return table


def _cost_table(content: Mapping[str, Any]) -> Table:
    costs, throttled = content["costs"], content["throttled"]
    clips = costs["clips"]
    table = Table("S3, per clip", "loader says", "server saw", "cost model")
    for name, ours, server, model in (
        ("requests", "requests", "server_requests", "model_requests"),
        ("kB", "bytes_read", "server_bytes", "model_bytes"),
    ):
        unit = 1e3 if name == "kB" else 1.0
        figures = (f"{costs[key] / clips / unit:,.2f}" for key in (ours, server, model))
        table.add_row(name, *figures)
    table.add_row("kB wanted", "", "", f"{costs['bytes_wanted'] / clips / 1e3:,.2f}")
    caption = f"cost model: a request costs as much as {costs['merge_gap_bytes']:,} bytes"
    if throttled:
        caption += (
            f"; at {throttled['requests_per_second']:.0f} requests/s the server allows "
            f"{throttled['clips_per_second_allowed']:.1f} clips/s, and "
            f"{throttled['clips_per_second']:.1f} came"
        )
    table.caption = caption
    return table


def _stage_table(name: str, stages: Mapping[str, Any]) -> Table:
    table = Table(f"stage ({name}, one process)", "share", "ms/clip")
    whole = stages["milliseconds_per_clip"]
    for stage, share in stages["shares"].items():
        table.add_row(stage, f"{share:.1%}", f"{share * whole:.2f}")
    table.add_row("all", "", f"{whole:.2f}")
    return table
