"""The attention of a block against loops over frames, windows, heads and tokens in float64."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from gopstream.models.layers.patterns import TILES
from gopstream.models.layers.windows import window_attention
from gopstream.models.layers.windows.attention_tables import WindowPlan, attention_tables
from gopstream.models.layers.windows.relative_position import PositionTable
from gopstream.models.layers.windows.window_attention import ChannelShift, WindowAttention

WIDTH, HEADS = 16, 2
WINDOW = 3


def make_attention(kind, *, frames=4, window=1, rolled=True, rule="official", **options):
    plan = WindowPlan(
        window=(window, WINDOW, WINDOW),
        rolled=rolled,
        pattern=options.get("pattern", "C") if kind == "tps" else "none",
        sign="code",
        shift_back=options.get("shift_back", True),
        phase=options.get("phase"),
        positions=PositionTable(frames, (WINDOW, WINDOW), rule, options.get("moved", True)),
    )
    torch.manual_seed(0)
    attention = WindowAttention(
        WIDTH,
        num_heads=HEADS,
        windows=plan,
        channel_shift=ChannelShift(4, "keep") if kind == "tcs" else None,
        qkv_bias=True,
    ).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def roll_cells(padded, frames, sign):
    """Roll each cell of the windows of (T, H, W, C) along the unpadded frames."""
    moved = padded.copy()
    for y, x in itertools.product(range(padded.shape[1]), range(padded.shape[2])):
        offset = TILES["C"][y % WINDOW % 3][x % WINDOW % 3]
        moved[:frames, y, x] = np.roll(padded[:frames, y, x], sign * offset, 0)
    return moved


def slow_attention(attention, tokens, *, kind, rule, window, rolled, back=True, moved=True):
    """Map (T, H, W, C) to the same, step by step as the paper and the authors' code do."""
    weights = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    frames, height, width, _ = tokens.shape
    head_dim = WIDTH // HEADS
    h = tokens.copy()
    if kind == "tcs":
        for start in range(0, WIDTH, head_dim):
            h[1:, ..., start : start + 2] = tokens[:-1, ..., start : start + 2]
            h[:-1, ..., start + 2 : start + 4] = tokens[1:, ..., start + 2 : start + 4]
    window = min(window, frames)
    cut = (window, WINDOW, WINDOW)
    h = np.pad(h, [(0, -frames % window), (0, -height % WINDOW), (0, -width % WINDOW), (0, 0)])
    shift = [
        side // 2 if rolled and axis > side else 0
        for axis, side in zip((frames, height, width), cut, strict=True)
    ]
    h = np.roll(h, (-shift[1], -shift[2]), (1, 2))
    if kind == "tps":
        h = roll_cells(h, frames, 1)
    h = np.roll(h, -shift[0], 0)
    qkv = h @ weights["qkv.weight"].T + weights["qkv.bias"]
    out = np.zeros_like(h)
    places = list(itertools.product(*map(range, h.shape[:3])))
    for place in places:
        mates = [
            other
            for other in places
            if all(a // side == b // side for a, b, side in zip(place, other, cut, strict=True))
        ]
        for head in range(HEADS):
            take = slice(head * head_dim, (head + 1) * head_dim)
            logits = []
            for mate in mates:
                query, key = qkv[place][:WIDTH][take], qkv[mate][WIDTH : 2 * WIDTH][take]
                dt = time_of(place, kind, moved, frames, shift[0], h.shape[0]) - time_of(
                    mate, kind, moved, frames, shift[0], h.shape[0], zero=rule == "official"
                )
                if rule == "paper" and not (kind == "tps" and moved):
                    dt = place[0] % window - mate[0] % window
                limit = attention.windows.positions.frames - 1
                row = (dt + limit) * 25 + (place[1] % 3 - mate[1] % 3 + 2) * 5
                row += place[2] % 3 - mate[2] % 3 + 2
                apart = any(
                    side_of(a, axis, by, side) != side_of(b, axis, by, side)
                    for a, b, axis, by, side in zip(
                        place, mate, h.shape[:3], shift, cut, strict=True
                    )
                )
                bias = weights["position_table"][row, head] - 100 * apart
                logits.append(query @ key / head_dim**0.5 + bias)
            chances = np.exp(np.array(logits) - max(logits))
            chances /= chances.sum()
            values = np.stack([qkv[mate][2 * WIDTH :][take] for mate in mates])
            out[place][take] = chances @ values
    out = np.roll(out, shift[0], 0)
    if kind == "tps" and back:
        out = roll_cells(out, frames, -1)
    out = np.roll(out, (shift[1], shift[2]), (1, 2))[:frames, :height, :width]
    return out @ weights["projection.weight"].T + weights["projection.bias"]


def time_of(place, kind, moved, frames, shift, padded, *, zero=False):
    offset = TILES["C"][place[1] % WINDOW % 3][place[2] % WINDOW % 3]
    frame = 0 if zero else (place[0] + shift) % padded
    return (frame - offset) % frames if kind == "tps" and moved else frame


def side_of(place, axis, shift, side):
    """Tell which end of a rolled axis a place of its last window comes from."""
    return shift > 0 and place >= axis - side and place >= axis - shift


CASES = {
    "plain": ("plain", {}),
    "plain, no roll": ("plain", {"rolled": False}),
    "plain, Eq. 5": ("plain", {"rule": "paper"}),
    "tcs": ("tcs", {}),
    "tps": ("tps", {}),
    "tps, no roll": ("tps", {"rolled": False}),
    "tps, Eq. 5": ("tps", {"rule": "paper"}),
    "tps, no way back": ("tps", {"back": False}),
    "tps, positions stay": ("tps", {"moved": False}),
    "two frames": ("tps", {"rule": "paper", "window": 2}),
    "two frames, tcs": ("tcs", {"rule": "paper", "window": 2}),
    "joint": ("plain", {"rule": "paper", "window": 16}),
}


@pytest.mark.parametrize("size", [(4, 6, 3), (3, 4, 5)])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_attention_is_that_of_loops(name, size):
    kind, options = CASES[name]
    options = {"rule": "official", "window": 1, "rolled": True} | options
    renamed = {{"back": "shift_back"}.get(key, key): value for key, value in options.items()}
    attention = make_attention(kind, **renamed)
    tokens = np.random.default_rng(0).normal(size=(2, *size, WIDTH))
    expected = np.stack([slow_attention(attention, clip, kind=kind, **options) for clip in tokens])
    got = attention(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-10)


@torch.no_grad()
def test_way_back_may_come_after_the_projection():  # property 14
    attention = make_attention("tps")
    tokens = torch.randn(2, 4, 6, 6, WIDTH, dtype=torch.float64)
    got = attention(tokens)
    with_identity = make_attention("tps")
    with_identity.projection = torch.nn.Identity()
    after = attention.projection(with_identity(tokens))
    torch.testing.assert_close(got, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["tcs", "tps"])
def test_gradient_is_that_of_differences(kind):
    attention = make_attention(kind, rolled=True)
    tokens = torch.randn(1, 4, 2, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, (tokens,), fast_mode=True)
    table = attention.position_table
    assert torch.autograd.gradcheck(
        lambda values: torch.func.functional_call(attention, {"position_table": values}, tokens),
        (table,),
        fast_mode=True,
    )


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("rolled", [False, True])
def test_windows_that_share_a_bias_or_have_copies_of_it_attend_alike(monkeypatch, rolled, frames):
    attention = make_attention("tps", rolled=rolled)
    tokens = torch.randn(3, frames, 4, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    found = []
    for largest in (0, 10**9):
        monkeypatch.setattr(window_attention, "_LARGEST_SPREAD", largest)
        added = attention(tokens)
        gradients = torch.autograd.grad(
            added.square().sum(), [tokens, attention.position_table, attention.qkv.weight]
        )
        found.append([added, *gradients])
    for shared, copied in zip(*found, strict=True):
        torch.testing.assert_close(shared, copied, rtol=0, atol=1e-11)


def bytes_of_biases(attention, tokens):
    """Measure the largest bias that any attention of a forward pass is given, as it is kept."""
    given = []

    def record(query, key, value, *, attn_mask):
        given.append(attn_mask.untyped_storage().nbytes())
        return scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
        attention(tokens)
    return max(given)


def test_a_large_bias_does_not_grow_with_the_clips_nor_with_the_windows(monkeypatch):
    monkeypatch.setattr(window_attention, "_LARGEST_SPREAD", 0)
    attention = make_attention("tps")
    sizes = [(1, 4, 6, 6), (5, 4, 6, 6), (1, 4, 30, 45)]
    biases = {bytes_of_biases(attention, torch.randn(*size, WIDTH).double()) for size in sizes}
    # 4 frames, and 4 places of a window: inside, and on either or both of the seams.
    assert biases == {4 * 4 * HEADS * 9 * 9 * 8}


@torch.no_grad()
def test_sparse_tokens_attend_among_themselves_and_the_others_add_nothing():
    attention = make_attention("sparse", phase=(0, 1), rule="paper", window=4, rolled=False)
    tokens = torch.randn(1, 4, 3, 6, WIDTH, dtype=torch.float64)
    added = attention(tokens)[0]
    # Rows 0 and 2, column 1 of each window of 3 x 3.
    attends = torch.zeros(3, 6, dtype=torch.bool)
    attends[0::2, 1::3] = True
    bias = attention.projection.bias
    assert torch.allclose(added[:, ~attends], bias.expand(4, 14, WIDTH), atol=0)
    query, key, value = attention.qkv(tokens[0, :, 0::2, 1]).reshape(8, 3, HEADS, -1).unbind(1)
    t, y = torch.arange(4).repeat_interleave(2), torch.arange(2).repeat(4) * 2
    rows = (t[:, None] - t + 3) * 25 + (y[:, None] - y + 2) * 5 + 2
    logits = torch.einsum("nhd,mhd->hnm", query, key) * (WIDTH // HEADS) ** -0.5
    logits = logits + attention.position_table[rows].permute(2, 0, 1)
    expected = torch.einsum("hnm,mhd->nhd", logits.softmax(-1), value).reshape(4, 2, WIDTH)
    expected = attention.projection(expected)
    torch.testing.assert_close(added[:, 0::2, 1], expected, rtol=0, atol=1e-12)


def test_tables_are_made_once_and_serve_training_after_inference():
    attention = make_attention("tps")
    tokens = torch.randn(1, 4, 5, 3, WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        attention(tokens)
    device = torch.device("cpu")
    tables = attention_tables(attention.windows, (4, 5, 3), device=device)
    assert attention_tables(attention.windows, (4, 5, 3), device=device) is tables
    attention(tokens.requires_grad_()).sum().backward()
    assert tokens.grad is not None
