"""The networks of the table of models that follow motion: DVT, its baseline, and SIFA.

No code of DVT was published: its references are counts of a prototype that was fitted to the
paper's parameters and FLOPs (Table 2, Table 4). SIFA's are counts of the authors' code.
"""

from collections.abc import Mapping
from typing import Final

from gopstream.jobs.bench.model_variants import MHPA, NO_CODE, Reference, Variant

_FITTED: Final = "a prototype fitted to the paper's tables"
_OFFICIAL: Final = "the authors' code, counted"

_MISPRINT: Final = (
    "the paper's own rows of the two attentions add up to 83.9 before any fusion, and 91.3 with a "
    "linear one: 81.9 is a misprint of 91.9 by all signs, from which this is 1.1 % off"
)


def _dvt(
    title: str,
    *,
    fitted: tuple[float | None, float],
    paper: tuple[float | None, float],
    model: str = "dvt_mvit_b",
    remarks: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
    num_frames: int | None = None,
    size: int | None = None,
) -> Variant:
    """Return a row; `fitted` and `paper` are millions of parameters and GMACs."""
    millions, gmacs = fitted
    return Variant(
        title,
        model,
        {} if options is None else options,
        num_frames=num_frames,
        size=size,
        reference=Reference(None if millions is None else millions * 1e6, gmacs, _FITTED),
        paper_params_millions=paper[0],
        paper_gmacs=paper[1],
        remarks={"parameters": NO_CODE, "GMACs": NO_CODE} if remarks is None else remarks,
    )


DVT: Final = (
    Variant(
        "MViT-B with MHPA, Table 2",
        "mvit_b",
        reference=Reference(36_610_672, 70.599, "torchvision's and PySlowFast's code, counted"),
        paper_params_millions=36.6,
        paper_gmacs=70.5,
        remarks={"GMACs": MHPA},
    ),
    _dvt(
        "D-ST-A on MViT-B, Table 2",
        fitted=(31.89, 57.4),
        paper=(31.9, 57.4),
        options={"attention": "space_time"},
    ),
    _dvt(
        "D-MS-A on MViT-B, Table 2",
        fitted=(32.37, 61.0),
        paper=(32.4, 61.3),
        options={"attention": "multi_scale"},
    ),
    _dvt(
        "D-ST+MS-A (L) on MViT-B, Table 2",
        fitted=(45.08, 90.9),
        paper=(45.1, 81.9),
        remarks={"parameters": NO_CODE, "GMACs": _MISPRINT},
        options={"fusion": "linear"},
    ),
    _dvt(
        "D-ST+MS-A (M) on MViT-B, Table 2",
        fitted=(73.98, 127.9),
        paper=(73.9, 128.3),
    ),
    _dvt(
        "D-ST+MS-A (M) on MViT-B, 32 frames, Table 4",
        fitted=(None, 255.8),
        paper=(None, 259),
        num_frames=32,
    ),
    *(
        _dvt(
            f"D-ST+MS-A (M) on ViT-B, {size} pixels, Table 4",
            model="dvt_vit_b",
            fitted=(180.7 if size == 224 else None, fitted),
            paper=(None, paper),
            size=size,
        )
        for size, fitted, paper in ((224, 324, 325), (336, 729, 731), (448, 1295, 1300))
    ),
)

CUES: Final = tuple(
    Variant(f"D-ST+MS-A (M) on MViT-B, cue {cue}", "dvt_mvit_b", {"cue": cue})
    for cue in ("residual", "difference", "average", "none")
)

_FIRST_FRAME: Final = (
    "the authors' code estimates offsets for the first frame of a clip too and throws them away"
)
_NO_OPERATOR: Final = (
    "the attention itself is not counted here; the authors' kernels take 10 multiply-adds for each "
    "tap and channel, 0.15 to 1.2 GMACs in all (tests/models/sifa/test_resnet_costs.py)"
)
_HALF_FIT: Final = (
    "the paper does not say at what size it counts; its R101 fits the authors' code at 224 pixels "
    "with the second branch, its R50 is 4 to 14 % above that, and 112 is not four times 25"
)
_IDLE: Final = (
    "the authors' code has parameters in every block that it never uses; without those it has as "
    "many"
)


def _released(
    backbone: str, num_frames: int, *, parameters: int, gmacs: float, paper: float
) -> Variant:
    return Variant(
        f"SIFA-Net {backbone.upper()}, authors' form, {num_frames} frames, Table 2",
        f"sifa_net_{backbone}",
        {"style": "released"},
        num_frames=num_frames,
        reference=Reference(parameters, gmacs, _OFFICIAL),
        paper_gmacs=paper,
        remarks={"GMACs": f"{_FIRST_FRAME}; {_NO_OPERATOR}; {_HALF_FIT}"},
    )


def _by_stages(title: str, stages: tuple[int, ...] | None, *, paper: float) -> Variant:
    return Variant(
        f"SIFA-Net R50 in {title}, 256 pixels, Table 1(d)",
        "sifa_net_r50",
        {"variant": "none"} if stages is None else {"sifa_stages": stages},
        size=256,
        paper_gmacs=paper,
        remarks={"GMACs": f"{_NO_OPERATOR}; with it the rows are within 4 % of the paper's"},
    )


def _released_swin(
    letter: str, *, parameters: int, gmacs: float, paper: float | None = None
) -> Variant:
    return Variant(
        f"SIFA-Transformer Swin-{letter.upper()}, authors' form, 64 frames",
        f"sifa_swin_{letter}",
        {"style": "released"},
        reference=Reference(parameters, gmacs, _OFFICIAL),
        paper_gmacs=paper,
        remarks={"parameters": _IDLE, "GMACs": f"{_NO_OPERATOR}; it is 2.31 for Swin-B"},
    )


def _ablation(title: str, options: Mapping[str, object]) -> Variant:
    return Variant(f"SIFA-Net R50, {title}", "sifa_net_r50", options)


SIFA: Final = (
    *(
        _released("r50", frames, parameters=43_040_928, gmacs=gmacs, paper=paper)
        for frames, gmacs, paper in ((16, 23.903, 25), (32, 47.801, 51), (64, 95.598, 112))
    ),
    *(
        _released("r101", frames, parameters=63_554_272, gmacs=gmacs, paper=paper)
        for frames, gmacs, paper in ((16, 39.013, 39), (32, 78.020, 78), (64, 156.035, 157))
    ),
    _released_swin("t", parameters=34_319_050, gmacs=79.47),
    _released_swin("s", parameters=60_954_586, gmacs=155.80),
    _released_swin("b", parameters=108_134_216, gmacs=274.94, paper=270),
    _by_stages("no stage", None, paper=23),
    _by_stages("res5", (5,), paper=24),
    _by_stages("res4 and 5", (4, 5), paper=24),
    _by_stages("res3 to 5", (3, 4, 5), paper=25),
    _by_stages("res2 to 5", (2, 3, 4, 5), paper=26),
    _ablation("SIFA_C, Table 1(a)", {"variant": "correlation"}),
    _ablation("SIFA_R, Table 1(a)", {"variant": "regular"}),
    _ablation("SIFA*, Table 1(a)", {"variant": "bidirectional"}),
    _ablation("offsets of a frame, Table 1(b)", {"offset_source": "frame"}),
    _ablation("offsets of the clip, Table 1(b)", {"offset_source": "clip"}),
    _ablation("offsets of the difference, Table 1(b)", {"offset_source": "difference"}),
    *(
        _ablation(f"regions of {side} x {side}, Table 1(c)", {"region": side})
        for side in (1, 5, 7, 9)
    ),
)
