"""Kernels of images and positions of other sizes keep what they mean."""

import pytest
import torch
from torch.nn.functional import conv2d, conv3d

from gopstream.models.weights.inflation import fit_places, fit_times, inflate_kernel


@pytest.mark.parametrize("frame_axis", [False, True])
def test_an_inflated_kernel_gives_a_still_clip_what_it_gave_the_image(frame_axis):
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    image = torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    source = kernel.unsqueeze(2) if frame_axis else kernel
    inflated, how = inflate_kernel(source, torch.Size((5, 3, 2, 4, 4)))
    assert how == "inflated 2D -> 2 frames"
    assert torch.equal(inflated[:, :, 0], inflated[:, :, 1])
    clip = image.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    got = conv3d(clip, inflated, stride=4)[:, :, 0]
    torch.testing.assert_close(got, conv2d(image, kernel, stride=4), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ((5, 3, 4, 4), (5, 3, 2, 8, 8)),
        ((5, 3, 4, 4), (6, 3, 2, 4, 4)),
        ((5, 3, 3, 4, 4), (5, 3, 2, 4, 4)),
        ((5, 3, 4, 4), (5, 3, 4, 4)),
    ],
)
def test_kernels_of_another_size_are_not_inflated(source, wanted):
    assert inflate_kernel(torch.zeros(source), torch.Size(wanted)) is None


def test_places_of_the_same_grid_only_change_their_form():
    rows = torch.randn(1, 1 + 9, 4, generator=torch.Generator().manual_seed(0))
    fitted, how = fit_places(rows, torch.Size((1, 1, 3, 3, 4)), side=3)
    assert how == "resized in form alone"
    assert torch.equal(fitted.flatten(0, 3), rows[0, 1:])
    whole, _ = fit_places(rows[0, 1:], torch.Size((9, 4)), side=3)
    assert torch.equal(whole, rows[0, 1:])


def test_places_of_another_grid_are_resized_and_rows_stay_rows():
    rows = torch.arange(4.0).view(4, 1).expand(4, 4)
    fitted, how = fit_places(rows.reshape(1, 16, 1), torch.Size((1, 1, 8, 8, 1)), side=8)
    assert how == "resized 4 x 4 -> 8 x 8 places"
    grid = fitted[0, 0, :, :, 0]
    assert torch.allclose(grid, grid[:, :1])
    # A quarter past row 1, the cubic of a = -0.75 weighs rows 0 to 3 with -27/256, 225/256,
    # 67/256 and -9/256.
    assert grid[3, 0].item() == pytest.approx((225 + 2 * 67 - 3 * 9) / 256)
    assert torch.all(grid[1:, 0] > grid[:-1, 0])


@pytest.mark.parametrize("count", [1, 8, 11])
def test_places_that_are_no_square_are_left_alone(count):
    # One row is a class token's or a grid of one cell; one that is a grid fits any.
    fitted = fit_places(torch.ones(count, 4), torch.Size((9, 4)), side=3)
    assert (fitted is None) == (count != 1)
    assert fit_places(torch.ones(9, 4), torch.Size((9, 8)), side=3) is None


def test_times_are_resized_linearly():
    rows = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 4, 1)
    fitted, how = fit_times(rows, torch.Size((1, 8, 1, 1, 1)), times=8)
    assert how == "resized 4 -> 8 token frames"
    assert fitted.flatten().tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    same, how = fit_times(rows, torch.Size((4, 1)), times=4)
    assert how == "resized in form alone"
    assert same.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert fit_times(rows, torch.Size((8, 2)), times=8) is None
