"""One tensor of the weights may be several of ours, each a share of its rows."""

import pytest
import torch
from torch import nn

from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import SourceLayout, Split

LAYOUT = SourceLayout(
    name="the others",
    marks=(r"qkv\.weight",),
    renames=(),
    splits=(
        Split(
            r"qkv\.(weight|bias)",
            ((r"query.\1",), (), (r"value.\1", r"second_value.\1")),
            otherwise="nobody asks",
        ),
        Split(r"proj\.(weight|bias)", ((r"output.\1",),), otherwise="nothing is put out"),
    ),
)


class Small(nn.Module):
    """Some of the parts that the layout knows."""

    def __init__(self, *parts):
        super().__init__()
        for part in parts:
            self.add_module(part, nn.Linear(4, 4))


def make_source(rows=12):
    generator = torch.Generator().manual_seed(3)
    shapes = {"qkv.weight": (rows, 4), "qkv.bias": (12,), "proj.weight": (4, 4), "proj.bias": (4,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def test_each_share_goes_to_all_of_its_keys_that_the_model_has():
    model, source = Small("query", "value", "second_value", "output"), make_source()
    report = load_weights(model, source, layouts=[LAYOUT])
    query, _, value = source["qkv.weight"].chunk(3)
    assert torch.equal(model.query.weight, query)
    assert torch.equal(model.value.weight, value)
    assert torch.equal(model.second_value.weight, value)
    assert torch.equal(model.second_value.bias, source["qkv.bias"][8:])
    assert torch.equal(model.output.weight, source["proj.weight"])
    assert report.loaded["value.bias"] == "qkv.bias (part 3 of 3)"
    assert report.loaded["output.bias"] == "proj.bias"
    assert report.unused == {
        "qkv.weight (part 2 of 3)": "nobody asks",
        "qkv.bias (part 2 of 3)": "nobody asks",
    }


def test_a_share_for_nobody_is_unused_and_says_why():
    report = load_weights(Small("second_value"), make_source(), layouts=[LAYOUT])
    assert report.loaded.keys() == {"second_value.weight", "second_value.bias"}
    assert report.unused["qkv.bias (part 1 of 3)"] == "nobody asks"
    assert report.unused["proj.weight"] == "nothing is put out"


def test_a_key_that_no_share_has_is_missing():
    with pytest.raises(ValueError, match="key.weight of the model: the weights do not have it"):
        load_weights(Small("query", "key"), make_source(), layouts=[LAYOUT])


def test_rows_that_do_not_divide_and_other_shapes_are_refused():
    wanted = Small("query").state_dict()
    with pytest.raises(ValueError, match="qkv.weight of the weights is 13 x 4, not 3 equal parts"):
        match_layout(LAYOUT, wanted=wanted, source=make_source(13))
    with pytest.raises(ValueError, match=r"query.weight is 4 x 4, but qkv.weight \(part 1 of 3\)"):
        match_layout(LAYOUT, wanted=wanted, source=make_source(9))
