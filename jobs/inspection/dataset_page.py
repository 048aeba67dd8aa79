"""Write a split of a dataset, or a shard, as one page that needs nothing else, not even a script.

Every text in it is of people who made videos, classes and file names: all of it goes through
`_text`.
"""

import base64
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from gopstream.jobs.inspection.app_failures import FailureQuery, search_failures
from gopstream.jobs.inspection.dataset_summary import dataset_summary
from gopstream.jobs.inspection.page import encode_page, page_html, read_static, written_whole
from gopstream.jobs.summaries import megabytes
from gopstream.shards.errors import ShardError
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage, as_storage

SHOWN_SAMPLES: Final = 60
SHOWN_FAILURES: Final = 200
_SHOWN_VALUES: Final = 20

_SPREADS: Final = (
    ("frames", "Frames", "{:,.4g}"),
    ("duration_seconds", "Length", "{:,.4g} s"),
    ("mean_motion_pixels", "Mean motion", "{:.2f} px"),
    ("predicted_share", "Predicted blocks", "{:.1%}"),
    ("zero_residual_share", "Zero residual", "{:.1%}"),
)
_COUNTS: Final = (
    ("fps", "Frames per second"),
    ("sizes", "Picture sizes"),
    ("codecs", "Source codecs"),
    ("exactness", "Residual"),
)


def write_dataset_page(
    dataset: ShardDataset,
    path: Path,
    *,
    storage: Storage | None = None,
    shards: Collection[str] | None = None,
    num_samples: int = SHOWN_SAMPLES,
) -> None:
    """Write a page of what a split is made of, with pictures of some samples.

    Args:
        dataset: The split, or shards of it.
        path: The file; it appears whole or not at all.
        storage: Where the dataset lies; None opens its place with the default options of a store.
        shards: Names of the shards that the dataset has of the split; None for all. Failures are of
            the whole split, and shown with all shards alone.
        num_samples: Samples that are shown, evenly spread over the split.

    Raises:
        ShardError: If the split's tables are missing or damaged. A sample that cannot be read is
            shown with the reason.
    """
    storage = storage or as_storage(dataset.root)
    content = dataset_summary(dataset, storage=storage, shards=shards).content
    body = "\n".join(
        [
            '<main class="dataset">',
            _header(content, shards),
            _classes(content),
            _histogram(content["mean_motion_pixels"], "Motion", "Mean length of vectors, pixels"),
            _histogram(content["frames"], "Lengths", "Frames of a sample"),
            _facts(content),
            _failures(storage, dataset.split) if shards is None else "",
            _gallery(dataset, num_samples),
            "</main>",
        ]
    )
    page = page_html(
        title=f"{content['dataset']}/{_place(content, shards)} - gopstream",
        body=body,
        style=read_static("player.css") + read_static("dataset.css"),
    )
    with written_whole(path) as file:
        file.write(encode_page(page))


def _text(value: object) -> str:
    """Return any value as text that is safe in elements and in quoted attributes."""
    return html.escape(str(value), quote=True)


def _panel(title: str, *parts: str, css: str = "") -> str:
    return f'<section class="panel {css}"><h2>{_text(title)}</h2>{"".join(parts)}</section>'


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>'


def _place(content: Mapping[str, Any], shards: Collection[str] | None) -> str:
    return "/".join([content["split"], *([] if shards is None else [", ".join(shards)])])


def _header(content: Mapping[str, Any], shards: Collection[str] | None) -> str:
    tiles = [("Samples", f"{content['samples']:,}", "")]
    if shards is None:
        failed = content["failed"]
        tiles.append(("Videos", f"{content['videos']:,}", ""))
        tiles.append(("Failed", f"{failed:,}", "bad" if failed else ""))
    tiles += [
        ("Classes", f"{len(content['classes']):,}", ""),
        ("Shards", f"{content['shards']:,}", ""),
        ("Size", megabytes(content["bytes"]), ""),
    ]
    shown = "".join(
        f'<div class="{css}"><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>'
        for name, value, css in tiles
    )
    name = str(content["dataset"]).rstrip("/").rpartition("/")[2]
    return (
        f"<header><h1>{_text(name)} / {_text(_place(content, shards).replace('/', ' / '))}</h1>"
        f"<p>{_text(content['dataset'])}</p>"
        f"<p>{_text(', '.join(content['planes']))}; {_text(content['mode'])} vectors</p>"
        f'<dl class="tiles">{shown}</dl></header>'
    )


def _classes(content: Mapping[str, Any]) -> str:
    rows = sorted(content["classes"].items(), key=lambda item: (-item[1], item[0]))
    if not rows:
        return _panel("Class balance", _note("The samples have no labels."))
    sizes = np.array([count for _, count in rows])
    note = (
        f"Samples of a class: {sizes.min():,} to {sizes.max():,}, median {np.median(sizes):,g}. "
        f"Without any: {np.count_nonzero(sizes == 0):,} classes."
    )
    if content["unlabelled"]:
        rows.append(("without a label", content["unlabelled"]))
    return _panel("Class balance", _note(note), _bars(rows, "Samples of each class"))


def _histogram(spread: Mapping[str, Any], title: str, note: str) -> str:
    edges = [f"{edge:g}" for edge in spread["histogram"]["edges"]]
    names = [f"{low} to {high}" for low, high in zip(edges, edges[1:], strict=False)]
    names.append(f"{edges[-1]} and more")
    rows = list(zip(names, map(int, spread["histogram"]["counts"]), strict=True))
    return _panel(title, _note(f"{note}: {_spread(spread)}"), _bars(rows, title))


def _facts(content: Mapping[str, Any]) -> str:
    rows = [(title, _spread(content[name], form)) for name, title, form in _SPREADS]
    for name, title in _COUNTS:
        rows.append((title, _counts(content[name])))
    rows.append(("Damaged frames", f"in {content['damaged_samples']:,} samples"))
    rows.append(("Scene cuts", f"in {content['cut_samples']:,} samples"))
    shown = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows)
    return _panel("Samples", f'<dl class="facts">{shown}</dl>')


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{value}: {count:,}" for value, count in islice(counts.items(), _SHOWN_VALUES)]
    rest = len(counts) - len(shown)
    return "; ".join(shown + [f"and {rest:,} more"] * bool(rest))


def _spread(spread: Mapping[str, Any], form: str = "{:,.4g}") -> str:
    if not spread["known"]:
        return "not known of any sample"
    names = ("minimum", "maximum", "median")
    low, high, middle = (form.format(spread[name]) for name in names)
    return low if low == high else f"{low} to {high}, median {middle}"


def _failures(storage: Storage, split: str) -> str:
    found = search_failures(storage, split, FailureQuery(limit=SHOWN_FAILURES))
    rows, total = found.rows, found.num_failures
    if not total:
        return _panel("Failures", _note("No video failed."), css="wide")
    cells = "".join(
        f"<tr><td>{_text(row['source'])}</td><td>{_text(row['stage'])}</td>"
        f"<td>{_text(row['message'])}</td></tr>"
        for row in rows
    )
    table = (
        '<div class="failures"><table><thead><tr><th>Video</th><th>Stage</th><th>Why</th></tr>'
        f"</thead><tbody>{cells}</tbody></table></div>"
    )
    rest = _note(f"The first {len(rows):,} of {total:,}.") if len(rows) < total else ""
    return _panel("Failures", _bars(found.reasons, "Failures by reason"), table, rest, css="wide")


def _bars(rows: Sequence[tuple[str, int]], caption: str) -> str:
    """Return a table of names, bars and counts.

    A bar is drawn by attributes: the page's policy lets no element have a style of its own.
    """
    highest = max([count for _, count in rows], default=0) or 1
    cells = "".join(
        f'<tr><th scope="row" title="{_text(name)}">{_text(name)}</th>'
        '<td><svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * count / highest:.2f}" height="10"/></svg></td>'
        f"<td>{count:,}</td></tr>"
        for name, count in rows
    )
    return (
        f'<div class="bars" tabindex="0"><table aria-label="{_text(caption)}">{cells}</table></div>'
    )


def _gallery(dataset: ShardDataset, num_samples: int) -> str:
    number = min(len(dataset), num_samples)
    positions = np.linspace(0, len(dataset) - 1, number).round().astype(int).tolist()
    note = f"{number:,} of {len(dataset):,} samples, the frame in the middle of each."
    items = "".join(_items(dataset, positions))
    return _panel("Gallery", _note(note), f'<ul class="gallery">{items}</ul>', css="wide")


def _items(dataset: ShardDataset, positions: Iterable[int]) -> Iterable[str]:
    for position in positions:
        key, label = dataset.key(position), dataset.label(position)
        name = "without a label" if label < 0 else dataset.classes[label]
        yield (
            f"<li><figure>{_thumbnail(dataset, position)}"
            f'<figcaption title="{_text(name)}">{_text(name)}<span>{_text(key)}</span>'
            "</figcaption></figure></li>"
        )


def _thumbnail(dataset: ShardDataset, position: int) -> str:
    """Return a sample's middle picture, or why there is none."""
    try:
        stored = len(dataset.sample(position).frame_index_of_jpeg)
        if not stored:
            return '<div class="without">no pictures are stored</div>'
        (jpeg,) = dataset.read_jpegs(position, np.array([stored // 2]))
    except ShardError as error:
        return f'<div class="without">{_text(error)}</div>'
    content = base64.b64encode(bytes(jpeg)).decode("ascii")
    return f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{content}">'
