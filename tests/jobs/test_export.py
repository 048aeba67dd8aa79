"""What is exported is the network, whole, and runs where gopstream is not."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gopstream.jobs.deploy_commands import export
from gopstream.jobs.errors import UserError
from gopstream.jobs.export import export_checkpoint
from gopstream.jobs.recipe import recipe_from
from gopstream.models import create_model
from untrained import recipe_of, write_checkpoint

ROOT = Path(__file__).parents[2]
VERBS_AND_NOUNS = {"verb_class": ("open", "close"), "noun_class": ("door", "tap", "lid")}
# Each block takes a second to trace: with these there is still one of each kind. DVT has tests of
# its own.
FAMILIES = {
    "mvit": {"depth": 2},
    "pst": {"depths": (2,), "num_heads": (2,)},
    "sifa_net": {},
    "sifa_swin": {"depths": (2,), "num_heads": (1,)},
    "video_focalnet": {},
}

OWN_NETWORKS = '''
import torch
from torch import nn

class Mean(nn.Module):
    """Colours of a clip, into logits."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, clip):
        return self.head(clip.mean(dim=(2, 3, 4)))

class OneByOne(Mean):
    def forward(self, clip):
        return torch.cat([super(OneByOne, self).forward(one[None]) for one in clip])

class Untraceable(Mean):
    def forward(self, clip):
        return super().forward(clip) * float(clip.mean().item() > 0)

class Random(Mean):
    def forward(self, clip):
        return super().forward(clip) + torch.rand(len(clip), 1)

class Pair(Mean):
    def forward(self, clip):
        return super().forward(clip), clip

class Tied(Mean):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.other = self.head

def maker(kind):
    return lambda *, num_classes, num_frames: kind(num_classes)

mean, one_by_one, untraceable, random, pair, tied = map(
    maker, (Mean, OneByOne, Untraceable, Random, Pair, Tied)
)
'''


@pytest.fixture(scope="module")
def dvt(tmp_path_factory):
    """(folder of the export, the network of the averaged weights, what is returned)."""
    folder = tmp_path_factory.mktemp("export")
    recipe = recipe_of(
        "dvt_tiny",
        train={"precision": "bfloat16", "ema": 0.9, "label_sets": list(VERBS_AND_NOUNS)},
        test={"views": "4x3", "average": "logits"},
    )
    network = write_checkpoint(
        folder / "checkpoint.pt", recipe, VERBS_AND_NOUNS, settings={"fps": 15}, averaged=True
    )
    content = export_checkpoint(folder, folder / "exported")
    return folder / "exported", network, content


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function: (name of an own network, **how) -> its export's content, its network."""
    (tmp_path / "own_networks.py").write_text(OWN_NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)

    def exported(name, *, change=lambda network: None, **how):
        recipe = recipe_of(f"own_networks:{name}", model={"mean": [0.5] * 3, "std": [0.25] * 3})
        network = write_checkpoint(tmp_path / "checkpoint.pt", recipe, {"": ("a", "b", "c")})
        if how.pop("broken", False):
            content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
            content["model"]["head.bias"][0] = torch.nan
            torch.save(content, tmp_path / "checkpoint.pt")
        return export_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "out", **how), network

    return exported


def load_program(folder):
    with (folder / "model.pt2").open("rb") as file:
        return torch.export.load(file).module()


@pytest.fixture(scope="module")
def program(dvt):
    return load_program(dvt[0])


def draw(inputs, *, clips, seed=5):
    """Draw inputs as ``model.json`` describes them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, facts in inputs.items():
        assert facts["shape"][0] == "clips"
        values = torch.randn((clips, *facts["shape"][1:]), generator=generator)
        kind = getattr(torch, facts["dtype"])
        drawn[name] = values > -1 if kind == torch.bool else values.to(kind)
    return drawn


def assert_same(program, network, inputs, *, clips):
    given = draw(inputs, clips=clips)
    frames = given.pop("frames")
    with torch.no_grad():
        wanted, got = network(frames, **given), program(frames, **given)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_becomes_a_program_for_any_number_of_clips(family, tmp_path):
    recipe = recipe_of(f"{family}_tiny", FAMILIES[family])
    write_checkpoint(tmp_path / "checkpoint.pt", recipe, {"": ("a", "b", "c")})
    content = export_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "out", file_format="pt2")
    assert list(content["files"]) == ["model.pt2"]
    assert content["program"]["clips"] == "any"
    assert content["program"]["largest_difference"] <= 1e-5
    assert content["inputs"].keys() == {"frames"}


def test_the_program_says_what_the_averaged_weights_say(dvt, program):
    _, network, content = dvt
    for clips in (1, 4):
        assert_same(program, network, content["inputs"], clips=clips)


def test_the_program_takes_motion_into_account(dvt, program):
    _, _, content = dvt
    given = draw(content["inputs"], clips=1)
    frames = given.pop("frames")
    still = given | {"motion": torch.zeros_like(given["motion"])}
    assert not torch.equal(program(frames, **given), program(frames, **still))


def test_create_model_takes_the_weights(dvt):
    folder, network, content = dvt
    weights = folder / "model.safetensors"
    loaded = create_model(content["model"], weights=weights, **content["options"]).eval()
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
        assert tensor.dtype != torch.bfloat16
    assert_same(loaded, network, content["inputs"], clips=2)


def test_the_weights_say_what_they_are(dvt):
    folder, _, _ = dvt
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        facts = file.metadata()
    assert facts["model"] == "dvt_tiny"
    assert recipe_from(json.loads(facts["recipe"]), where="weights").train.ema == 0.9
    assert json.loads(facts["classes"]) == [
        {"name": name, "classes": list(classes)} for name, classes in VERBS_AND_NOUNS.items()
    ]


def test_model_json_says_what_goes_in_and_what_comes_out(dvt):
    folder, network, content = dvt
    assert content["inputs"].keys() == {"frames", "motion", "valid"}
    assert content["program"]["clips"] == "any"
    assert content["program"]["largest_difference"] <= 1e-5
    assert json.loads((folder / "model.json").read_text()) == content
    assert content["inputs"]["frames"] == {
        "shape": ["clips", 3, network.num_frames, network.size, network.size],
        "dtype": "float32",
    }
    assert content["inputs"]["valid"]["dtype"] == "bool"
    assert content["output"] == {"shape": ["clips", 5], "dtype": "float32"}
    assert (content["mean"], content["std"]) == ([0.45] * 3, [0.225] * 3)
    assert [labels["name"] for labels in content["label_sets"]] == list(VERBS_AND_NOUNS)
    assert content["clip"]["num_frames"] == network.num_frames
    assert content["clip"]["motion"]["query_stride"] == network.query_stride
    assert content["test"] == {"views": "4x3", "average": "logits"}
    assert (content["settings"], content["step"]) == ({"fps": 15}, 7)
    assert content["files"].keys() == {"model.safetensors", "model.pt2"}
    for name, facts in content["files"].items():
        data = (folder / name).read_bytes()
        assert facts == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_nothing_else_is_left_in_the_folder(dvt):
    assert sorted(path.name for path in dvt[0].iterdir()) == [
        "model.json",
        "model.pt2",
        "model.safetensors",
    ]


def test_the_program_names_no_folder_of_this_machine(dvt):
    program = (dvt[0] / "model.pt2").read_bytes()
    assert str(ROOT).encode() not in program
    assert b"site-packages" not in program


def documented(number):
    """Return an example of docs/deploying.md: 0 takes the weights, 1 the program."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[number]


def test_the_documents_example_of_weights_makes_the_network(dvt, tmp_path, monkeypatch):
    (tmp_path / "exported").symlink_to(dvt[0])
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(documented(0), "deploying.md", "exec"), names)
    assert_same(names["model"], dvt[1], dvt[2]["inputs"], clips=1)


def test_the_documents_example_of_the_program_runs_without_gopstream(dvt, tmp_path):
    fence = "import sys\nsys.modules['gopstream'] = None\n"
    (tmp_path / "exported").symlink_to(dvt[0])
    command = [sys.executable, "-c", fence + documented(1)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"(verb_class (open|close) 0\.\d+\nnoun_class (door|tap|lid) 0\.\d+\n)", done.stdout
    )


def test_a_network_that_was_trained_without_motion_is_not_asked_for_it(tmp_path):
    recipe = recipe_of("dvt_tiny", model={"use_motion": False})
    write_checkpoint(tmp_path / "checkpoint.pt", recipe, {"": ("a", "b")})
    content = export_checkpoint(tmp_path, tmp_path / "out", file_format="safetensors")
    assert list(content["inputs"]) == ["frames"]
    assert content["clip"]["motion"] is None
    assert list(content["files"]) == ["model.safetensors"]
    assert not (tmp_path / "out" / "model.pt2").exists()


def test_a_network_of_ones_own_is_exported(own, tmp_path):
    content, network = own("mean")
    assert content["program"]["clips"] == "any"
    assert content["options"] == {"num_classes": 3, "num_frames": 4}
    assert content["mean"] == [0.5] * 3
    assert_same(load_program(tmp_path / "out"), network, content["inputs"], clips=4)


def test_a_network_that_counts_its_clips_becomes_a_program_for_one(own, tmp_path, capsys):
    content, network = own("one_by_one")
    assert content["program"]["clips"] == 1
    assert "the program takes one clip at a time" in capsys.readouterr().err
    assert_same(load_program(tmp_path / "out"), network, content["inputs"], clips=1)


def test_weights_under_two_names_are_written_under_both(own, tmp_path):
    _, network = own("tied", file_format="safetensors")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == network.state_dict().keys()
        assert torch.equal(file.get_tensor("other.bias"), network.head.bias)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("untraceable", r"own_networks:untraceable cannot be traced by torch\.export"),
        ("random", "the exported program differs from the network by"),
        ("pair", r"logits of shape \(clips, classes\) = \(1, 3\) in evaluation mode, got tuple"),
    ],
)
def test_a_network_that_cannot_be_exported_leaves_nothing(own, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        own(name)
    assert not (tmp_path / "out").exists()


def test_a_network_that_diverged_is_refused(own):
    with pytest.raises(UserError, match="its training diverged"):
        own("mean", broken=True)


def test_a_folder_with_something_in_it_is_refused(dvt, tmp_path):
    folder, _, _ = dvt
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"is not empty \(it has model\.json\); remove it"):
        export_checkpoint(folder.parent, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file; choose a new folder"):
        export_checkpoint(folder.parent, tmp_path / "file")


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    write_checkpoint(tmp_path / "checkpoint.pt", recipe_of("deit_tiny_tps"), {"": ("a", "b")})
    words = {"out": tmp_path / "out", "file_format": "safetensors"}
    assert export(tmp_path, **words, json_file=str(tmp_path / "said.json")) == 0
    said = capsys.readouterr().out
    assert said == f"deit_tiny_tps in {tmp_path / 'out'}: model.safetensors, model.json\n"
    assert json.loads((tmp_path / "said.json").read_text()) == json.loads(
        (tmp_path / "out" / "model.json").read_text()
    )
