"""The proof that compiled models give the same: that it compares, and that it can fail."""

import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from gopstream.jobs.bench import models_compiled  # noqa: E402
from gopstream.models.catalogue import MODELS  # noqa: E402


def test_each_family_of_the_catalogue_is_tried_by_one_of_its_models():
    assert models_compiled.TRIED.keys() == {entry.family for entry in MODELS.values()}
    for family, name in models_compiled.TRIED.items():
        assert MODELS[name].family == family


def test_row_has_clips_of_two_shapes_and_the_largest_difference():
    row = models_compiled.try_model("deit_s_tps", backend="eager")
    first, second = row["clips"]
    assert (first["clips"], second["clips"]) == ((2, 3, 3, 16, 16), (3, 3, 3, 16, 16))
    apart = [clips[key] for clips in (first, second) for key in ("logits", "gradients")]
    assert row["max_difference"] == max(apart) <= models_compiled.TOLERANCE


class Halving(torch.nn.Module):
    """Returns (B, 2) of (B, 4); `factor` and `share` make another output and another gradient."""

    def __init__(self, weight, *, factor=1.0, share=1.0):
        super().__init__()
        self.weight, self.factor, self.share = weight, factor, share

    def forward(self, frames):
        halves = self.factor * frames @ self.weight
        return self.share * halves + (1 - self.share) * halves.detach()


def test_another_output_or_gradient_is_found():
    weight = torch.nn.Parameter(torch.arange(8.0).view(4, 2))
    inputs = {"frames": torch.ones(3, 4)}

    def difference(**other):
        found = models_compiled.compare(Halving(weight), Halving(weight, **other), inputs=inputs)
        return pytest.approx((found.logits, found.gradients), abs=1e-6)

    assert difference() == (0, 0)
    assert difference(factor=1.01) == (0.01, 0.0201)  # the gradient of a square
    assert difference(share=0.5) == (0, 0.5)


@pytest.mark.parametrize("apart", [2e-4, float("nan"), float("inf")])
def test_claim_fails_by_a_difference_or_a_family_that_was_not_tried(apart):
    rows = [
        {"family": family, "model": name, "max_difference": 1e-6}
        for family, name in models_compiled.TRIED.items()
    ]
    assert models_compiled.failures(rows) == []
    (missing,) = models_compiled.failures(rows[1:])
    assert f"no model of the family {rows[0]['family']} was tried" in missing
    rows[1]["max_difference"] = apart
    (problem,) = models_compiled.failures(rows)
    assert problem.startswith(rows[1]["model"])
