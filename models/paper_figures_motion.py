"""What the papers of DVT, MViT and SIFA say about the models of the catalogue.

Sources: Wang and Torresani, "Deformable Video Transformer", CVPR 2022 (tables 2, 4 and 5); Long et
al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022 (tables 2 to 4).
"""

from collections.abc import Mapping
from typing import Final

from gopstream.models.paper_figures import PaperFigures, top1_rows

_NO_CODE: Final = (
    "no code was published; the form is the one that fits the paper's parameters and multiply-adds"
)
_SAMPLING: Final = (
    "five multiply-adds are counted for each sampled number, four between its neighbours and one "
    "for its weight, as the paper's figures seem to have it"
)
_SIFA_GMACS: Final = (
    "the paper does not say at what size it counts, and its figure fits its authors' code with a "
    "second branch that the paper does not have, at 224 pixels (style='released'); the paper's "
    "network is counted here at 224, without the attention itself"
)
_NO_SMALLER: Final = "the paper has this network on Swin-B alone"
_SIFA_SWIN_GMACS: Final = (
    "the paper's figure is near its authors' code (274.9), which has dense convolutions along time "
    "that the paper does not speak of; the paper's network is counted here, without the attention "
    "itself"
)

MOTION_FIGURES: Final[Mapping[str, PaperFigures]] = {
    "dvt_mvit_b": PaperFigures(
        params_millions=73.9,
        gmacs=128.3,
        source="Table 2",
        num_classes=400,
        top1=(
            *top1_rows(
                "Table 4",
                ("Kinetics-400", "", "5x1", 79.0),
                ("Kinetics-400", "ImageNet-1K", "5x1", 80.8),
                ("Kinetics-400", "ImageNet-21K", "5x1", 81.5),
            ),
            *top1_rows(
                "Table 5",
                ("Something-Something V2", "Kinetics-400", "", 67.5),
                ("Something-Something V2", "ImageNet-1K", "", 67.4),
                ("Something-Something V2", "ImageNet-21K", "", 67.8),
                ("Something-Something V2", "ImageNet-21K, Kinetics-400", "", 68.0),
            ),
            *top1_rows("Table 7", ("Diving48 V2", "ImageNet-1K", "", 86.0)),
        ),
        deviations=(_NO_CODE, _SAMPLING),
    ),
    "dvt_vit_b": PaperFigures(
        params_millions=None,
        gmacs=325,
        source="Table 4",
        num_classes=400,
        top1=(
            *top1_rows("Table 4", ("Kinetics-400", "ImageNet-21K", "5x1", 80.5)),
            *top1_rows(
                "Table 5",
                ("Something-Something V2", "ImageNet-21K, Kinetics-400", "", 67.0),
            ),
            *top1_rows("Table 7", ("Diving48 V2", "ImageNet-1K", "", 83.5)),
        ),
        deviations=(_NO_CODE, _SAMPLING),
    ),
    "mvit_b": PaperFigures(
        params_millions=36.6,
        gmacs=70.5,
        source="Table 2 of the DVT paper",
        num_classes=400,
        official_params=36_610_672,
        official_gmacs=70.599,
        top1=(
            *top1_rows("Table 4 of the DVT paper", ("Kinetics-400", "", "5x1", 78.4)),
            *top1_rows(
                "Table 5 of the DVT paper",
                ("Something-Something V2", "Kinetics-400", "", 64.7),
            ),
        ),
    ),
    "sifa_net_r50": PaperFigures(
        params_millions=None,
        gmacs=25,
        source="Table 2",
        num_classes=400,
        top1=(
            *top1_rows("Table 2", ("Kinetics-400", "ImageNet-1K", "10x3", 77.4)),
            *top1_rows("Table 3", ("Kinetics-600", "ImageNet-1K", "10x3", 79.6)),
            *top1_rows(
                "Table 4",
                ("Something-Something V1", "", "1x3", 52.7),
                ("Something-Something V2", "", "1x3", 64.8),
            ),
        ),
        deviations=(_SIFA_GMACS,),
    ),
    "sifa_net_r101": PaperFigures(
        params_millions=None,
        gmacs=39,
        source="Table 2",
        num_classes=400,
        top1=(
            *top1_rows("Table 2", ("Kinetics-400", "ImageNet-1K", "10x3", 78.7)),
            *top1_rows("Table 3", ("Kinetics-600", "ImageNet-1K", "10x3", 80.8)),
            *top1_rows(
                "Table 4",
                ("Something-Something V1", "", "1x3", 53.7),
                ("Something-Something V2", "", "1x3", 65.9),
            ),
        ),
        deviations=(_SIFA_GMACS,),
    ),
    "sifa_swin_t": PaperFigures(
        params_millions=None,
        gmacs=None,
        source="not in the paper",
        num_classes=400,
        deviations=(_NO_SMALLER,),
    ),
    "sifa_swin_s": PaperFigures(
        params_millions=None,
        gmacs=None,
        source="not in the paper",
        num_classes=400,
        deviations=(_NO_SMALLER,),
    ),
    "sifa_swin_b": PaperFigures(
        params_millions=None,
        gmacs=270,
        source="Table 2",
        num_classes=400,
        top1=(
            *top1_rows("Table 2", ("Kinetics-400", "", "4x3", 83.1)),
            *top1_rows("Table 3", ("Kinetics-600", "", "4x3", 84.5)),
            *top1_rows(
                "Table 4",
                ("Something-Something V1", "", "1x3", 57.3),
                ("Something-Something V2", "", "1x3", 69.8),
            ),
        ),
        deviations=(_SIFA_SWIN_GMACS,),
    ),
}
