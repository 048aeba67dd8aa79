"""What docs/loading.md and docs/loading_reference.md say holds.

Their Python runs, and the tables list what the code has, with its defaults.
"""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch

import gopstream.shards
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.publish import SAMPLE_COLUMNS
from gopstream.jobs.recipe import Recipe, load_recipe
from gopstream.jobs.recipe_sections import (
    ClipRecipe,
    DataRecipe,
    EvaluationRecipe,
    GroupRecipe,
    ModelRecipe,
    OptimiserRecipe,
    PaperRecipe,
    ScheduleRecipe,
    TrainRecipe,
)
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.jobs.train import train
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.loading.augment_policy import POLICIES
from gopstream.shards.loading.batch_ops import MixSpec

ROOT = Path(__file__).parents[1]
GUIDE, REFERENCE = ROOT / "docs" / "loading.md", ROOT / "docs" / "loading_reference.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
PUBLIC = {name: getattr(gopstream.shards, name) for name in gopstream.shards.__all__}
VALUE_TYPES = ["ClipSpec", "MotionSpec", "RgbResidualSpec", "VectorSpec", "TransformSpec"]
VALUE_TYPES += ["Shuffle", "ReadOptions", "Cache", "StoreOptions"]
RECIPE_PARTS = {
    "model": ModelRecipe,
    "clip": ClipRecipe,
    "mix": MixSpec,
    "data": DataRecipe,
    "train": TrainRecipe,
    "optimiser": OptimiserRecipe,
    "[optimiser.groups]": GroupRecipe,
    "schedule": ScheduleRecipe,
    "test": EvaluationRecipe,
    "paper": PaperRecipe,
}


@pytest.fixture(scope="module")
def documented(tmp_path_factory, write_video):
    """What the pages assume: ``shards`` with the splits train and val, and a column ``camera``."""
    folder = tmp_path_factory.mktemp("documents")
    rows = ["path,label,split,camera"]
    for number in range(12):
        label, split = ("left", "right")[number % 2], "train" if number < 9 else "val"
        write_video(folder / f"{number}.mp4", 20, width=64, height=64, seed=number)
        rows.append(f"{number}.mp4,{label},{split},cam{number % 3}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    shard_folder(
        folder,
        folder / "shards",
        options=ExtractionOptions(canonical=CanonicalFormat(gop=10)),
        annotations=folder / "list.csv",
        choice=PlanChoice(videos_per_shard=3),
    )
    return folder


def blocks(page, language):
    """Return the code of a page as (first line, text)."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def table(heading, page=REFERENCE):
    """Return the rows of the first table below a heading."""
    lines = page.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip("#") == f" {heading}")
    first = next(i for i in range(start, len(lines)) if lines[i].startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def told_defaults(heading):
    """Return what a table says: names and defaults."""
    return {
        row[0].strip("`"): MISSING
        if row[1] == "required"
        else eval(row[1].strip("`"), dict(PUBLIC))
        for row in table(heading)
    }


def own_defaults(kind):
    return {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(kind)
    }


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # fewer cores than workers
@pytest.mark.parametrize("page", [GUIDE, REFERENCE], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, documented, monkeypatch):
    monkeypatch.chdir(documented)
    names = {"__name__": "__main__"}
    assert blocks(page, "python")
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, str(page), "exec"), names)


@pytest.mark.parametrize("name", VALUE_TYPES)
def test_a_table_has_the_fields_and_defaults_of_its_type(name):
    assert told_defaults(name) == own_defaults(PUBLIC[name])


@pytest.mark.parametrize("name", sorted(RECIPE_PARTS))
def test_a_table_has_the_keys_and_defaults_of_a_recipe(name):
    assert told_defaults(f"[{name}]") == own_defaults(RECIPE_PARTS[name])


def test_each_part_of_a_recipe_has_a_table():
    assert {item.name for item in fields(Recipe)} == {*RECIPE_PARTS, "transform"} - {
        "[optimiser.groups]"
    }


def test_the_loader_s_arguments_are_those_of_the_table():
    parameters = list(inspect.signature(PUBLIC["StreamingLoader"]).parameters.values())[2:]
    own = {
        item.name: MISSING if item.default is inspect.Parameter.empty else item.default
        for item in parameters
    }
    assert told_defaults("StreamingLoader") == own


def test_a_view_s_fields_are_those_of_the_table():
    assert tuple(told_defaults("View")) == PUBLIC["View"]._fields


def test_the_columns_are_those_that_are_written():
    told = [(row[0].strip("`"), row[1]) for row in table("where")]
    assert told == [(field.name, str(field.type)) for field in SAMPLE_COLUMNS]


def test_the_policies_are_those_there_are():
    told = [name for row in table("Policies") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted(POLICIES)


def test_the_batch_holds_what_its_table_says(documented):
    rows = {row[0].strip("`"): row for row in table("ClipBatch")}
    kind = PUBLIC["ClipBatch"]
    assert set(rows) == {item.name for item in fields(kind)} | {"frames"}
    spec = PUBLIC["ClipSpec"](
        num_frames=8,
        transform=PUBLIC["TransformSpec"](size=32),
        motion=PUBLIC["MotionSpec"](query_stride=3, subclip_frames=4, grid=16),
        vectors=PUBLIC["VectorSpec"](grid=16),
        residual=True,
    )
    dataset = PUBLIC["ShardDataset"](documented / "shards", "train")
    batch = next(iter(PUBLIC["StreamingLoader"](dataset, spec, batch_size=2, seed=0)))
    letters = {"B": 2, "T": 8, "H": 32, "W": 32, "Q": 4, "J": 4, "g": 16}
    for name, row in rows.items():
        value = getattr(batch, name)
        if isinstance(value, torch.Tensor) and name != "pixels":
            axes = [axis for axis in re.split(r"[(), ]+", row[1]) if axis]
            assert list(value.shape) == [letters.get(axis) or int(axis) for axis in axes], name
            assert str(value.dtype) == f"torch.{row[2].strip('`')}", name


def test_what_the_papers_use_can_be_said_so():
    rows = table("What the papers use")
    assert len(rows) == 8
    for row in rows:
        for code in re.findall("`(.*?)`", row[2]):
            eval(f"TransformSpec({code})", dict(PUBLIC))
        for code in re.findall("`(.*?)`", row[3]):
            eval(f"MixSpec({code})", {"MixSpec": MixSpec})


def test_the_recipe_to_copy_trains_on_the_default_shards(documented, tmp_path):
    [(_, text)] = blocks(REFERENCE, "toml")
    (tmp_path / "my_recipe.toml").write_text(text)
    changes = ["train.steps=1", "train.batch_size=2", "train.workers=0"]
    recipe = load_recipe(str(tmp_path / "my_recipe.toml"), changes)
    outcome = train(recipe, documented / "shards", out=tmp_path / "run")
    assert outcome.checkpoint.is_file()


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: page.name)
def test_shards_are_imported_by_one_road(page):
    roads = re.findall(r"from (gopstream\.shards\S*) import", page.read_text())
    assert set(roads) <= {"gopstream.shards", "gopstream.shards.loading.batch_ops"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_page_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        led = page.parent / name if name else page
        assert led.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", led.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings]
            assert anchor in slugs, target
