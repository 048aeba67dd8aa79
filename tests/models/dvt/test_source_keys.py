"""Weights of MViT and ViT in a DVT: every key has its place or its reason."""

import re

import pytest
import torch
from torchvision.models import VisionTransformer
from torchvision.models.video import mvit_v1_b

from gopstream.models.dvt import dvt_mvit_b, dvt_vit_b
from gopstream.models.dvt.source_keys import LAYOUTS
from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import recognise_layout

TO_PYSLOWFAST = (
    (r"conv_proj\.", "patch_embed.proj."),
    (r"pos_encoding\.class_token", "cls_token"),
    (r"pos_encoding\.(spatial|temporal|class)_pos", r"pos_embed_\1"),
    (r"attn\.project\.0\.", "attn.proj."),
    (r"attn\.pool_([qkv])\.pool\.", r"attn.pool_\1."),
    (r"attn\.pool_([qkv])\.norm_act\.0\.", r"attn.norm_\1."),
    (r"mlp\.0\.", "mlp.fc1."),
    (r"mlp\.3\.", "mlp.fc2."),
    (r"(blocks\.\d+)\.project\.", r"\1.proj."),
    (r"head\.1\.", "head.projection."),
)


def pyslowfast(state, *, separate=False):
    """The same weights under PySlowFast's names and in its shapes."""
    renamed = {}
    for key, tensor in state.items():
        for pattern, name in TO_PYSLOWFAST:
            key = re.sub(pattern, name, key)
        if key.startswith(("cls_token", "pos_embed")):
            tensor = tensor.reshape(1, -1, tensor.shape[-1])
        if separate and ".qkv." in key:
            for name, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[key.replace("qkv", name)] = rows
        else:
            renamed[key] = tensor
    return renamed


def vit_weights(*, width=768, depth=12, patch=16, side=14, classes=1000, seed=0):
    """Names and shapes of timm's vit_base_patch16_224, of other sizes if wanted."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side**2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }
    leaves = {
        "norm1": (width,),
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "norm2": (width,),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    for block in range(depth):
        for leaf, shape in leaves.items():
            shapes[f"blocks.{block}.{leaf}.weight"] = shape
            shapes[f"blocks.{block}.{leaf}.bias"] = shape[:1]
    if torch.get_default_device().type == "meta":
        return {key: torch.empty(shape) for key, shape in shapes.items()}
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


SMALL_VIT = {
    "num_frames": 8,
    "size": 12,
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 2,
    "patch_kernel": (2, 4, 4),
    "patch_stride": (2, 4, 4),
}


def kinds_left(report):
    """The parts that keep their fresh values, without the numbers of blocks and stages."""
    return {
        re.sub(r"\.\d+\.", ".N.", key.rsplit(".", 1)[0] + ".").rstrip(".")
        for key in report.left_random
    }


NEW_IN_BOTH = {
    "blocks.N.attention.sampling",
    "blocks.N.multi_scale_attention.sampling.N",
    "blocks.N.multi_scale_attention.coarse_scale.convolution",
    "blocks.N.multi_scale_attention.coarse_scale.norm",
    "blocks.N.fusion.norm",
    "blocks.N.fusion.mlp.N",
    "motion_tokenizers.N.projection",
}


@pytest.mark.parametrize("rename", [lambda state: state, pyslowfast])
def test_mvit_b_leaves_random_what_no_mvit_has(rename):
    with torch.device("meta"):
        model, source = dvt_mvit_b(400), rename(mvit_v1_b().state_dict())
    wanted = model.state_dict()
    report = match_layout(recognise_layout(LAYOUTS, source), wanted=wanted, source=source).report
    assert report.loaded.keys() | report.left_random.keys() == wanted.keys()
    assert kinds_left(report) == NEW_IN_BOTH
    unused = {re.sub(r"\.\d+\.", ".N.", key, count=1) for key in report.unused}
    assert {key for key in unused if "attn" not in key} <= {
        "pos_encoding.class_token",
        "pos_encoding.class_pos",
        "cls_token",
        "pos_embed_class",
    }
    assert report.loaded["blocks.1.attention.pooling.convolution.weight"].startswith("blocks.1.")
    assert report.resized.keys() == {"patch_embedding.space", "patch_embedding.time"}


@pytest.mark.parametrize("attention", ["space_time", "multi_scale", "both"])
@pytest.mark.parametrize("projections", ["query_value", "value_output"])
def test_vit_b_leaves_random_what_no_vit_has(attention, projections):
    with torch.device("meta"):
        model = dvt_vit_b(1000, attention=attention, projections=projections)
        source = vit_weights()
    wanted = model.state_dict()
    report = match_layout(recognise_layout(LAYOUTS, source), wanted=wanted, source=source).report
    assert report.loaded.keys() | report.left_random.keys() == wanted.keys()
    expected = {"patch_embedding", "head"} | NEW_IN_BOTH
    if attention != "both":
        expected = {key for key in expected if "fusion" not in key}
    if attention == "space_time":
        expected = {key for key in expected if "multi_scale" not in key}
    if attention == "multi_scale":
        expected = {key for key in expected if ".attention." not in key and "motion" not in key}
    assert kinds_left(report) == expected
    assert "patch_embedding.time" in report.left_random
    assert "patch_embedding.space" in report.loaded
    assert report.inflated == {"patch_embedding.projection.weight": "inflated 2D -> 2 frames"}
    matrix = "output" if projections == "value_output" else "query"
    for kind in {"space_time": ["attention"], "multi_scale": ["multi_scale_attention"]}.get(
        attention, ["attention", "multi_scale_attention"]
    ):
        assert f"blocks.11.{kind}.{matrix}.bias" in report.loaded


@torch.no_grad()
def test_vit_rows_of_queries_and_values_go_to_both_attentions():
    weights = vit_weights(width=8, depth=2, patch=4, side=3)
    model = dvt_vit_b(5, **SMALL_VIT)
    load_weights(model, weights, layouts=LAYOUTS)
    for index, block in enumerate(model.blocks):
        query, _, value = weights[f"blocks.{index}.attn.qkv.weight"].chunk(3)
        for attention in (block.attention, block.multi_scale_attention):
            assert torch.equal(attention.query.weight, query)
            assert torch.equal(attention.value.weight, value)
            assert torch.equal(
                attention.value.bias, weights[f"blocks.{index}.attn.qkv.bias"].chunk(3)[2]
            )
        assert torch.equal(block.mlp[2].weight, weights[f"blocks.{index}.mlp.fc2.weight"])
        assert torch.equal(block.mlp_norm.bias, weights[f"blocks.{index}.norm2.bias"])
    model = dvt_vit_b(5, projections="value_output", **SMALL_VIT)
    report = load_weights(model, weights, layouts=LAYOUTS)
    output = model.blocks[1].multi_scale_attention.output
    assert torch.equal(output.weight, weights["blocks.1.attn.proj.weight"])
    assert "blocks.1.attn.qkv.weight (part 1 of 3)" in report.unused


@torch.no_grad()
def test_a_still_clip_has_the_patches_that_the_image_had():
    weights = vit_weights(width=8, depth=2, patch=4, side=3)
    model = dvt_vit_b(5, **SMALL_VIT)
    load_weights(model, weights, layouts=LAYOUTS)
    image = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    tokens = model.patch_embedding(image.unsqueeze(2).expand(-1, -1, 8, -1, -1))
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    patches = torch.nn.functional.conv2d(image, kernel, bias, stride=4).flatten(2).transpose(1, 2)
    expected = (patches + weights["pos_embed"][:, 1:]).unflatten(1, (3, 3)).unsqueeze(1)
    expected = expected + model.patch_embedding.time
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("separate", [False, True])
def test_mvit_tokens_and_mlps_are_those_of_its_own_network(separate):
    torchvision = pytest.importorskip("torchvision.models.video.mvit")
    torch.manual_seed(0)
    none = {"kernel_q": [], "stride_q": []}
    pooled = {"kernel_q": [3, 3, 3], "stride_q": [1, 2, 2]}
    values = {"kernel_kv": [3, 3, 3], "stride_kv": [1, 2, 2]}
    theirs = torchvision.MViT(
        spatial_size=(16, 16),
        temporal_size=8,
        block_setting=[
            torchvision.MSBlockConfig(1, 8, 16, **none, **values),
            torchvision.MSBlockConfig(2, 16, 16, **pooled, **values),
        ],
        residual_pool=False,
        residual_with_cls_embed=False,
        rel_pos_embed=False,
        proj_after_attn=False,
        num_classes=3,
    ).eval()
    model = dvt_mvit_b(
        3, num_frames=8, size=16, embed_dim=8, depth=2, stage_starts=(1,), subclip_tokens=2
    ).eval()
    state = theirs.state_dict()
    load_weights(
        model, pyslowfast(state, separate=separate) if separate else state, layouts=LAYOUTS
    )
    frames = torch.randn(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens = theirs.pos_encoding(theirs.conv_proj(frames).flatten(2).transpose(1, 2))
    ours = model.patch_embedding(frames)
    torch.testing.assert_close(ours.flatten(1, 3), tokens[:, 1:], rtol=1e-5, atol=1e-5)
    first, block = theirs.blocks[0], model.blocks[0]
    torch.testing.assert_close(block.mlp(ours), first.mlp(ours), rtol=1e-5, atol=1e-5)
    assert torch.equal(block.skip_projection.weight, first.project.weight)
    second, pooling = theirs.blocks[1].attn, model.blocks[1].multi_scale_attention.pooling
    queries = torch.randn(2, 4, 4, 4, 16, generator=torch.Generator().manual_seed(2))
    heads = queries.unflatten(-1, (2, 8)).movedim(-2, 1).flatten(2, 4)
    expected, _ = second.pool_q(torch.cat([heads[:, :, :1], heads], dim=2), (4, 4, 4))
    got = pooling(queries).unflatten(-1, (2, 8)).movedim(-2, 1).flatten(2, 4)
    torch.testing.assert_close(got, expected[:, :, 1:], rtol=1e-5, atol=1e-5)
    assert torch.equal(model.head.weight, state["head.1.weight"])


def test_weights_with_a_part_that_does_not_divide_are_refused():
    weights = vit_weights(width=8, depth=2, patch=4, side=3)
    weights["blocks.0.attn.qkv.bias"] = torch.zeros(25)
    with pytest.raises(ValueError, match=r"blocks.0.attn.qkv.bias .* is 25, not 3 equal parts"):
        load_weights(dvt_vit_b(5, **SMALL_VIT), weights, layouts=LAYOUTS)


@torch.no_grad()
def test_names_are_those_of_timm():
    timm = pytest.importorskip("timm", reason="timm, whose names are the reference, is not there")
    image = timm.models.vision_transformer.VisionTransformer(
        img_size=12, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=7
    )
    shapes = {key: tensor.shape for key, tensor in image.state_dict().items()}
    ours = vit_weights(width=8, depth=2, patch=4, side=3, classes=7)
    assert shapes == {key: tensor.shape for key, tensor in ours.items()}


@torch.no_grad()
@pytest.mark.parametrize("projections", ["query_value", "value_output"])
def test_vit_of_torchvision_gives_what_that_of_timm_gives(projections):
    image = VisionTransformer(
        image_size=12,
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=32,
        num_classes=7,
    )
    source = {key: torch.randn_like(tensor) for key, tensor in image.state_dict().items()}
    names = {
        "class_token": "cls_token",
        "encoder.pos_embedding": "pos_embed",
        "conv_proj": "patch_embed.proj",
        "encoder.layers.encoder_layer_": "blocks.",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "self_attention.in_proj_": "attn.qkv.",
        "self_attention.out_proj": "attn.proj",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
        "encoder.ln": "norm",
        "heads.head": "head",
    }
    timm = {}
    for key, tensor in source.items():
        for theirs, other in names.items():
            key = key.replace(theirs, other)
        timm[key] = tensor
    assert timm.keys() == vit_weights(width=8, depth=2, patch=4, side=3, classes=7).keys()
    models, reports = [], []
    for weights in (source, timm):
        torch.manual_seed(0)
        models.append(dvt_vit_b(5, projections=projections, **SMALL_VIT))
        reports.append(load_weights(models[-1], weights, layouts=LAYOUTS))
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    assert reports[0].loaded.keys() == reports[1].loaded.keys()
    assert reports[0].left_random == reports[1].left_random
