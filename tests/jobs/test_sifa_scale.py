"""What attention between frames adds, beside what it is added to."""

import pytest

torch = pytest.importorskip("torch", reason="the models need torch")

from gopstream.jobs.bench.sifa_scale import added_shares  # noqa: E402
from gopstream.models.sifa import sifa_net_tiny  # noqa: E402
from gopstream.models.sifa.motion_block import InterFrameAttention, MotionOptions  # noqa: E402


@pytest.mark.parametrize(("scale", "share"), [("mean", 9 * 4.0), ("none", 9 * 4.0 * 5)])
def test_a_share_by_hand(scale, share):
    """Frames of 2 everywhere: nine taps, each 2 times the mean product 4, or the sum of five."""
    options = MotionOptions(variant="regular", scale=scale)
    network = torch.nn.Sequential(InterFrameAttention(5, options=options))
    frames = torch.full((1, 2, 101, 101, 5), 2.0)
    assert added_shares(network, frames) == [pytest.approx(share, rel=0.02)]  # edges have fewer


def test_dot_products_exceed_their_mean_by_the_width():
    frames = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    shares = {}
    for scale in ("mean", "none"):
        torch.manual_seed(0)
        shares[scale] = added_shares(sifa_net_tiny(3, scale=scale), frames)
    widths = [16 * 2, 16 * 2, 16 * 4, 16 * 4, 16 * 8, 16 * 8]
    assert len(shares["none"]) == len(widths)
    # The last norm of each fresh block is zero, so that no block sees what another added.
    ratios = [none / mean for none, mean in zip(shares["none"], shares["mean"], strict=True)]
    assert ratios == pytest.approx(widths, rel=1e-4)
