"""What of a network has a loss."""

import pytest
import torch

from gopstream.jobs.training.heads import TrainedHeads
from gopstream.models import create_model


@pytest.fixture
def frames():
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_network_has_one_head(frames):
    network = create_model("pst_tiny", num_classes=4).eval()
    (logits,) = TrainedHeads(network)(frames)
    assert torch.equal(logits, network(frames))


def test_motion_is_handed_on(frames):
    network = create_model("dvt_tiny", num_classes=4).eval()
    motion = torch.full((2, network.num_queries, 2, network.subclip_frames, 8, 8), 3.0)
    valid = torch.ones_like(motion[:, :, 0], dtype=torch.bool)
    heads = TrainedHeads(network)
    with torch.no_grad():
        (with_motion,) = heads(frames, motion=motion, valid=valid)
        assert torch.equal(with_motion, network(frames, motion=motion, valid=valid))


def test_both_heads_of_sifa_net_have_a_loss(frames):
    network = create_model("sifa_net_tiny", num_classes=4, style="released", dual_branch=True)
    network.eval()
    with torch.no_grad():
        first, second = TrainedHeads(network)(frames)
        assert not torch.equal(first, second)
        mean = (first.softmax(dim=1) + second.softmax(dim=1)) / 2
        torch.testing.assert_close(mean, network(frames).softmax(dim=1))


def test_parameters_stay_the_networks_own():
    network = create_model("pst_tiny", num_classes=4)
    heads = TrainedHeads(network)
    assert list(map(id, heads.parameters())) == list(map(id, network.parameters()))
