"""Each key of the weights and of the model is accounted for, or the model stays as it was."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import Merge, SourceLayout, recognise_layout


class Small(nn.Module):
    """Two parts, a head and a buffer."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.patch_embedding = nn.Conv3d(3, 4, (2, 1, 1))
        self.qkv = nn.Linear(4, 12)
        self.register_buffer("count", torch.tensor(0))
        self.head = nn.Linear(4, num_classes)


def repeat_frames(key, source, wanted):
    if key == "patch_embedding.weight" and source.dim() == 4:
        return source.unsqueeze(2).repeat(1, 1, wanted[2], 1, 1) / wanted[2], "inflated 2D -> 3D"
    if key == "qkv.bias" and source.dim() == 1:
        return source.repeat(wanted[0] // len(source)), "resized rows"
    return None


LAYOUT = SourceLayout(
    name="the others",
    marks=(r"stem\.weight", r"blocks\.\d+\.qkv\.weight"),
    renames=(
        (r"stem\.(weight|bias)", r"patch_embedding.\1"),
        (r"blocks\.0\.(qkv)\.(\w+)", r"\1.\2"),
        (r"fc\.(weight|bias)", r"head.\1"),
    ),
    ignored=((r".*\.index", "an index is computed"),),
    left_random=((r"count", r"they count nothing \1"),),
    adapt=repeat_frames,
)


def make_source(*, num_classes=5):
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "stem.weight": (4, 3, 1, 1),
        "stem.bias": (4,),
        "blocks.0.qkv.weight": (12, 4),
        "blocks.0.qkv.bias": (6,),
        "fc.weight": (num_classes, 4),
        "fc.bias": (num_classes,),
    }
    source = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {**source, "blocks.0.index": torch.arange(3)}


def copied(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def assert_unchanged(model, before):
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_every_key_is_loaded_or_has_its_reason():
    model, source = Small(), make_source()
    report = load_weights(model, source, layouts=[LAYOUT])
    assert report.layout == "the others"
    assert report.loaded == {
        "patch_embedding.weight": "stem.weight",
        "patch_embedding.bias": "stem.bias",
        "qkv.weight": "blocks.0.qkv.weight",
        "qkv.bias": "blocks.0.qkv.bias",
        "head.weight": "fc.weight",
        "head.bias": "fc.bias",
    }
    assert report.inflated == {"patch_embedding.weight": "inflated 2D -> 3D"}
    assert report.resized == {"qkv.bias": "resized rows"}
    assert report.left_random == {"count": r"they count nothing \1"}
    assert report.unused == {"blocks.0.index": "an index is computed"}
    assert set(report.loaded) | set(report.left_random) == set(model.state_dict())
    assert set(report.loaded.values()) | set(report.unused) == set(source)


def test_values_arrive_where_the_report_says():
    model, source = Small(), make_source()
    load_weights(model, source, layouts=[LAYOUT])
    assert torch.equal(model.qkv.weight, source["blocks.0.qkv.weight"])
    assert torch.equal(model.qkv.bias, source["blocks.0.qkv.bias"].repeat(2))
    for frame in range(2):
        assert torch.equal(model.patch_embedding.weight[:, :, frame], source["stem.weight"] / 2)
    assert torch.equal(model.head.weight, source["fc.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_summary_names_one_key_for_each_reason():
    text = load_weights(Small(), make_source(num_classes=7), layouts=[LAYOUT]).summary()
    assert text.splitlines() == [
        "weights of the others: 4 loaded (1 inflated, 1 resized), 3 left random; "
        "3 of the source unused",
        "  inflated: patch_embedding.weight: inflated 2D -> 3D",
        "  resized: qkv.bias: resized rows",
        "  left random: head.weight and 1 more: the weights have 7 classes, the model 5",
        r"  left random: count: they count nothing \1",
        "  unused: blocks.0.index: an index is computed",
        "  unused: fc.weight and 1 more: the weights have 7 classes, the model 5",
    ]


def test_head_of_other_classes_keeps_its_fresh_values():
    model = Small()
    before = copied(model)
    report = load_weights(model, make_source(num_classes=7), layouts=[LAYOUT])
    why = "the weights have 7 classes, the model 5"
    assert {key: report.left_random[key] for key in ("head.weight", "head.bias")} == {
        "head.weight": why,
        "head.bias": why,
    }
    assert report.unused["fc.weight"] == why
    assert torch.equal(model.head.weight, before["head.weight"])
    assert torch.equal(model.head.bias, before["head.bias"])
    assert not torch.equal(model.qkv.weight, before["qkv.weight"])


def test_head_of_another_width_is_a_fault_not_another_head():
    source = make_source(num_classes=7)
    source["fc.weight"] = torch.ones(7, 9)
    with pytest.raises(ValueError, match=r"head.weight is 5 x 4, but fc.weight is 7 x 9"):
        load_weights(Small(), source, layouts=[LAYOUT])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.ones(1)}, "extra of the weights: no rule of the layout covers it"),
        ({"blocks.0.index_old": torch.ones(1)}, "index_old of the weights: no rule of the layout"),
        ({"fc.weight_old": torch.ones(1)}, "weight_old of the weights: no rule of the layout"),
        ({"blocks.0.qkv.scale": torch.ones(1)}, "it would be qkv.scale, which this model does"),
        ({"fc.bias": None}, "head.bias of the model: the weights do not have it"),
        ({"stem.bias": torch.ones(5)}, "patch_embedding.bias is 4, but stem.bias is 5"),
        ({"stem.bias": torch.ones(4).long()}, "is torch.float32, but stem.bias is torch.int64"),
    ],
)
def test_strict_refuses_what_is_not_accounted_for_and_loads_nothing(change, message):
    model = Small()
    before, source = copied(model), {**make_source(), **change}
    source = {key: tensor for key, tensor in source.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        load_weights(model, source, layouts=[LAYOUT])
    assert_unchanged(model, before)


def test_faults_are_all_listed_up_to_a_dozen():
    source = {**make_source(), **{f"extra{index:02}": torch.ones(1) for index in range(15)}}
    with pytest.raises(ValueError, match=r"(?s)extra00 .*extra11 .*\n  and 3 more$"):
        load_weights(Small(), source, layouts=[LAYOUT])


def test_not_strict_reports_instead():
    model, source = Small(), {**make_source(), "extra": torch.ones(1)}
    del source["fc.bias"]
    report = load_weights(model, source, layouts=[LAYOUT], strict=False)
    assert report.unused["extra"] == "no rule of the layout covers it"
    assert report.left_random["head.bias"] == "the weights do not have it"
    assert torch.equal(model.head.weight, source["fc.weight"])


def test_not_strict_still_refuses_shapes():
    source = {**make_source(), "stem.bias": torch.ones(5)}
    with pytest.raises(ValueError, match="patch_embedding.bias is 4, but stem.bias is 5"):
        load_weights(Small(), source, layouts=[LAYOUT], strict=False)


def test_two_sources_of_one_key_are_refused():
    layout = LAYOUT._replace(renames=(*LAYOUT.renames, (r"ema_fc\.(weight|bias)", r"head.\1")))
    source = {**make_source(), "ema_fc.bias": torch.ones(5)}
    with pytest.raises(ValueError, match="fc.bias and ema_fc.bias of the weights are both head.b"):
        load_weights(Small(), source, layouts=[layout])


def split_qkv(source):
    """Query, key and value apart, and in another order, as HuggingFace keeps them."""
    split = {key: tensor for key, tensor in source.items() if "qkv" not in key}
    weight, bias = source["blocks.0.qkv.weight"], source["blocks.0.qkv.bias"].repeat(2)
    for place in (2, 0, 1):
        rows = slice(4 * place, 4 * place + 4)
        split[f"b.0.{'qkv'[place]}.weight"] = weight[rows]
        split[f"b.0.{'qkv'[place]}.bias"] = bias[rows]
    return split


MERGING = LAYOUT._replace(
    marks=(r"b\.0\.q\.weight",),
    merges=(
        Merge((r"b\.\d\.q\.(\w+)", r"b\.\d\.k\.(\w+)", r"b\.\d\.v\.(\w+)"), r"qkv.\1"),
    ),
)  # fmt: skip


def test_parts_are_merged_in_the_order_of_the_rule():
    model, source = Small(), make_source()
    report = load_weights(model, split_qkv(source), layouts=[MERGING])
    assert report.loaded["qkv.weight"] == "b.0.q.weight + b.0.k.weight + b.0.v.weight"
    assert torch.equal(model.qkv.weight, source["blocks.0.qkv.weight"])
    assert torch.equal(model.qkv.bias, source["blocks.0.qkv.bias"].repeat(2))


def test_missing_part_is_said():
    source = split_qkv(make_source())
    del source["b.0.k.weight"]
    with pytest.raises(ValueError, match="b.0.v.weight of the weights: qkv.weight needs more part"):
        load_weights(Small(), source, layouts=[MERGING])


def test_parts_of_different_width_are_refused():
    source = split_qkv(make_source())
    source["b.0.k.weight"] = torch.ones(4, 3)
    with pytest.raises(ValueError, match="differ in more than their rows"):
        load_weights(Small(), source, layouts=[MERGING])


def test_ignored_wins_over_renames_and_the_first_rename_wins():
    layout = LAYOUT._replace(
        renames=((r"fc\.bias", "head.bias"), *LAYOUT.renames, (r".*", "nowhere")),
        ignored=((r"fc\.weight", "not wanted"), *LAYOUT.ignored),
        left_random=(*LAYOUT.left_random, (r"head\.weight", "not wanted")),
    )
    report = load_weights(Small(), make_source(), layouts=[layout])
    assert report.loaded["head.bias"] == "fc.bias"
    assert report.unused["fc.weight"] == report.left_random["head.weight"] == "not wanted"


def test_own_state_dict_is_taken_before_any_layout():
    """Some layouts have names like ours and other meanings: an ImageNet head to be dropped."""
    greedy = SourceLayout(name="greedy", marks=(r".*",), renames=(), ignored=((r".*", "all"),))
    torch.manual_seed(1)
    other, model = Small(), Small()
    report = load_weights(model, other.state_dict(), layouts=[greedy])
    assert report.layout == "gopstream"
    assert_unchanged(model, other.state_dict())


def test_own_state_dict_of_other_classes_leaves_the_head():
    model, other = Small(), Small(num_classes=9)
    report = load_weights(model, other.state_dict(), layouts=[])
    assert set(report.left_random) == {"head.weight", "head.bias"}
    assert torch.equal(model.qkv.weight, other.qkv.weight)


@pytest.mark.parametrize(
    ("caution", "told"),
    [
        (None, []),
        (lambda model: None, []),
        (
            lambda model: f"trained with {model.head.out_features - 1} classes",
            ["trained with 4 classes"],
        ),
    ],
)
def test_a_layout_can_say_what_the_model_does_otherwise(caution, told):
    layout = LAYOUT._replace(caution=caution)
    report = load_weights(Small(), make_source(), layouts=[layout])
    assert report.cautions == told
    lines = [line for line in report.summary().splitlines() if "caution" in line]
    assert lines == [f"  caution: {words}" for words in told]


def test_first_recognised_layout_wins():
    first, second = LAYOUT._replace(name="first"), LAYOUT._replace(name="second")
    assert recognise_layout([first, second], make_source()).name == "first"
    first = first._replace(marks=(*first.marks, r"head\.fc"))
    assert recognise_layout([first, second], make_source()).name == "second"


def test_mark_must_match_the_whole_key():
    with pytest.raises(ValueError, match="no known layout; known for this model: the others; the"):
        recognise_layout([LAYOUT], ["stem.weight", "blocks.0.qkv.weight_old"])


def test_meta_tensors_can_be_matched():
    """Key listings of full-size models are checked without their weights."""
    with torch.device("meta"):
        model = Small()
    source = {key: tensor.to("meta") for key, tensor in make_source().items()}
    match = match_layout(LAYOUT, wanted=model.state_dict(), source=source)
    assert {key: tensor.shape for key, tensor in match.tensors.items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items() if key != "count"
    }


def test_model_on_the_meta_device_cannot_be_loaded():
    with torch.device("meta"):
        model = Small()
    with pytest.raises(ValueError, match="the model is on the meta device"):
        load_weights(model, make_source(), layouts=[LAYOUT])


def test_dtype_of_the_model_is_kept():
    model = Small().double()
    source = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in make_source().items()
    }
    load_weights(model, source, layouts=[LAYOUT])
    assert model.qkv.weight.dtype == torch.float64
    assert torch.equal(model.qkv.weight, source["blocks.0.qkv.weight"].double())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_is_loaded(tmp_path, suffix):
    path, model = tmp_path / f"w{suffix}", Small()
    if suffix == ".pth":
        torch.save({"state_dict": make_source(), "epoch": 1}, path)
    else:
        save_file(make_source(), path)
    report = load_weights(model, path, layouts=[LAYOUT])
    assert report.layout == "the others"
    assert torch.equal(model.qkv.weight, make_source()["blocks.0.qkv.weight"])
