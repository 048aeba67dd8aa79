"""Run the kernels in Triton's interpreter, on the CPU, and print how far they are from loops.

A program of its own, since Triton decides when it is imported whether it interprets.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
from aggregation_loops import draw_inputs, run, run_loops

from gopstream.models.sifa.aggregation import attend_neighbours
from gopstream.models.sifa.triton_aggregation import attend_fused


def distances(case, *, seed):
    """Return the largest difference of each tensor, of its largest value."""
    dtype = getattr(torch, case["dtype"])
    region, dilation = case["region"], case["dilation"]
    inputs = draw_inputs(
        seed,
        channels=case["channels"],
        region=region,
        has_offsets=case["offsets"],
        has_weights=case["weights"],
        dtype=dtype,
    )

    def attend(query, keys, offsets, weights):
        return attend_neighbours(
            query,
            keys,
            offsets_BPHWK2=offsets,
            region=region,
            dilation=dilation,
            tap_weights=weights,
            implementation="triton",
        )

    found = run(attend, inputs, dtype=dtype)
    assert all(tensor.dtype == dtype for tensor in found)
    return [
        ((one.double() - other).abs().max() / other.abs().max()).item()
        for one, other in zip(
            found, run_loops(inputs, region=region, dilation=dilation), strict=True
        )
    ]


def total_far_outside():
    """Return what all values and gradients come to where no tap reads anything."""
    frames = torch.randn(1, 2, 2, 3, 4, requires_grad=True)
    offsets = torch.tensor([1e3, -1e30, torch.inf, -torch.inf, torch.nan, 9.0])
    offsets = offsets.view(1, 1, 2, 3, 1, 1).expand(1, 1, 2, 3, 1, 2).clone().requires_grad_()
    result = attend_fused(frames[:, :-1], frames[:, 1:], offsets, None, 1, 1, 1.0)
    gradients = torch.autograd.grad(result.sum(), [frames, offsets])
    # A maximum could drop a NaN.
    return sum(tensor.abs().sum().item() for tensor in (result, *gradients))


def check_operation():
    """Let torch check what it was told of the operation: fake results, gradients, no aliases."""
    frames = torch.randn(1, 3, 2, 3, 4, requires_grad=True)
    offsets = torch.randn(1, 2, 2, 3, 1, 2, requires_grad=True)
    for given in (offsets, None):
        torch.library.opcheck(
            attend_fused, (frames[:, :-1], frames[:, 1:], given, None, 1, 1, 0.25)
        )
    return "ok"


torch.set_num_threads(1)  # tiny tensors

if __name__ == "__main__":
    cases = json.loads(sys.argv[1])
    found = {name: distances(case, seed=seed) for seed, (name, case) in enumerate(cases.items())}
    print(json.dumps({**found, "operation": check_operation(), "far": total_far_outside()}))
