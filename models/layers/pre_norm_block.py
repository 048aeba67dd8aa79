"""The block of the vision transformer around any attention.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, Eq. 2 and 3; with Swin's and
DeiT's epsilons it is theirs too.
"""

from torch import Tensor, nn

from gopstream.models.layers.drop_path import DropPath


class PreNormBlock(nn.Module):
    """Attention and MLP, each after a norm and with its skip."""

    def __init__(
        self,
        attention: nn.Module,
        *,
        width: int,
        mlp_ratio: float,
        norm_epsilon: float,
        drop_path_rate: float,
    ) -> None:
        """Put a block around an attention.

        Args:
            attention: Maps tokens (B, ..., width) to what is added to them, of the same shape.
            width: Channels of a token.
            mlp_ratio: Hidden width of the MLP over `width`, rounded down.
            norm_epsilon: Of both norms.
            drop_path_rate: Of both branches; the sample is the clip, whose frames are dropped
                together.

        Raises:
            ValueError: If the rate is outside [0, 1).
        """
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention_norm = nn.LayerNorm(width, eps=norm_epsilon)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width, eps=norm_epsilon)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, ..., width) tokens to tokens of the same shape."""
        tokens = tokens + self.drop_path(self.attention(self.attention_norm(tokens)))
        mixed: Tensor = tokens + self.drop_path(self.mlp(self.mlp_norm(tokens)))
        return mixed
