"""Networks that a recipe names: one's own, given weights, a last layer that is trained alone."""

import sys

import pytest
import torch

from gopstream.jobs.checkpoint import load_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.network import build_network, clip_spec, input_contract
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.train import Watching, train
from gopstream.jobs.trained_run import load_trained

SHORT = ("train.steps=4", "train.batch_size=4", "train.log_every=1", "schedule.warmup_steps=0")
OWN = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, num_classes, num_frames, width):
        super().__init__()
        self.stem = nn.Conv3d(3, width, kernel_size=(num_frames, 8, 8), stride=8)
        self.norm = nn.BatchNorm3d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, frames):
        return self.head(self.norm(self.stem(frames)).relu().mean(dim=(2, 3, 4)))

class Moving(Network):
    query_stride, subclip_frames = 2, 4

    def forward(self, frames, motion=None, valid=None):
        return super().forward(frames) + motion.mean()

def make(*, num_classes, num_frames, width=4):
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return Network(num_classes, num_frames, width)

def moving(*, num_classes, num_frames):
    return Moving(num_classes, num_frames, 4)

def no_network(*, num_classes, num_frames):
    return num_classes
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos."""
    folder = tmp_path_factory.mktemp("network")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "train"), "--out", str(folder / "set"), "--short-side", "64"]
    assert main([*words, "--workers", "1"]) == 0
    return folder / "set"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module in the folder where the command is run."""
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("own_networks", None)  # of another test
    yield
    sys.modules.pop("own_networks", None)


def recipe(*words):
    return load_recipe("dvt_tiny_demo", [*SHORT, *words])


def run(root, out, *words):
    return train(recipe(*words), root, out=out, watching=Watching(tensorboard=False))


def test_a_network_of_ones_own_is_trained(own, root, tmp_path):
    words = ("model.name=own_networks:make", "model.options.width=6", "model.std=[0.5, 0.5, 0.5]")
    outcome = run(root, tmp_path / "run", *words)
    assert 0 < outcome.loss < 10
    trained = load_trained(tmp_path / "run")
    assert type(trained.network).__name__ == "Network"
    assert trained.network.head.weight.shape == (8, 6)
    assert input_contract(trained.recipe, trained.network).std == (0.5, 0.5, 0.5)
    fresh = build_network(recipe(*words), 8)
    assert not torch.equal(fresh.head.weight, trained.network.head.weight.cpu())


def test_motion_is_given_to_one_that_asks_for_it(own, root, tmp_path):
    wanted = recipe("model.name=own_networks:moving")
    network = build_network(wanted, 8)
    assert "motion" in input_contract(wanted, network).planes
    assert clip_spec(wanted, network).motion is not None
    run(root, tmp_path / "run", "model.name=own_networks:moving")
    wanted = recipe("model.name=own_networks:make")
    assert clip_spec(wanted, build_network(wanted, 8)).motion is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:make", "No module named 'no_such_module'; the name is package.module:f"),
        ("own_networks:mace", "has no attribute 'mace'; the name is package.module:function"),
        ("own_networks:no_network", "gave int, not a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused(own, name, said):
    with pytest.raises(UserError, match=said):
        build_network(recipe(f"model.name={name}"), 8)


def test_what_ones_own_function_refuses_is_said(own):
    with pytest.raises(UserError, match="own_networks:make: width must be at least 1, got 0"):
        build_network(recipe("model.name=own_networks:make", "model.options.width=0"), 8)
    with pytest.raises(UserError, match="own_networks:make: .*unexpected keyword argument 'wide'"):
        build_network(recipe("model.name=own_networks:make", "model.options.wide=1"), 8)


@pytest.fixture(scope="module")
def sifa_run(root, tmp_path_factory):
    """A run of a network with batch norms."""
    out = tmp_path_factory.mktemp("sifa") / "run"
    run(root, out, "model.name=sifa_net_tiny")
    return out


def test_a_run_begins_with_given_weights(root, sifa_run, tmp_path):
    """The head is drawn anew where the classes are others."""
    words = ("model.name=sifa_net_tiny", f"model.weights={sifa_run / 'checkpoint.pt'}")
    given = load_checkpoint(sifa_run)["model"]
    same, other = (build_network(recipe(*words), count).state_dict() for count in (8, 5))
    for name, value in same.items():
        assert torch.equal(value, given[name]), name
    assert other["head.weight"].shape[0] == 5
    for name in other.keys() - {"head.weight", "head.bias"}:
        assert torch.equal(other[name], given[name]), name


def test_the_head_is_trained_alone(root, sifa_run, tmp_path):
    """Statistics of batch norms stay too: the network runs as in evaluation, but for its head."""
    words = ("model.name=sifa_net_tiny", f"model.weights={sifa_run / 'checkpoint.pt'}")
    run(root, tmp_path / "run", *words, "train.trainable=head", "optimiser.weight_decay=0.5")
    before = build_network(recipe(*words), 8).state_dict()
    after = load_checkpoint(tmp_path / "run")["model"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    assert any(name.endswith("running_mean") for name in after)


def test_the_same_run_with_all_layers_changes_the_statistics(root, sifa_run, tmp_path):
    """Else the test above would show nothing."""
    words = ("model.name=sifa_net_tiny", f"model.weights={sifa_run / 'checkpoint.pt'}")
    run(root, tmp_path / "run", *words)
    before = build_network(recipe(*words), 8).state_dict()
    after = load_checkpoint(tmp_path / "run")["model"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if name.endswith("running_mean")} <= changed


def test_a_probe_of_no_weights_is_refused():
    with pytest.raises(UserError, match="trains the last layer of given weights alone; give mod"):
        recipe("train.trainable=head")


def test_weights_that_are_not_there_are_named():
    words = ("model.name=sifa_net_tiny", "model.weights=nowhere.pt")
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        build_network(recipe(*words), 8)


def test_weights_of_another_network_are_refused(sifa_run):
    words = ("model.name=pst_tiny", f"model.weights={sifa_run / 'checkpoint.pt'}")
    with pytest.raises(UserError, match="pst_tiny"):
        build_network(recipe(*words), 8)


def test_weights_of_ones_own_network_are_taken(own, root, tmp_path):
    run(root, tmp_path / "run", "model.name=own_networks:make")
    given = load_checkpoint(tmp_path / "run")["model"]
    words = ("model.name=own_networks:make", f"model.weights={tmp_path / 'run' / 'checkpoint.pt'}")
    for name, value in build_network(recipe(*words), 8).state_dict().items():
        assert torch.equal(value, given[name]), name
