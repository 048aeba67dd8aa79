"""Train a tiny network with a plain PyTorch loop, which stops and resumes exactly.

Example: python loop_plain.py demo/shards --steps 20 --resume-at 10
"""

import argparse

import torch
from torch import nn

from gopstream.shards import ClipSpec, ShardDataset, StreamingLoader, TransformSpec


class TinyNetwork(nn.Module):
    """(B, 3, T, H, W) uint8 to (B, classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, kernel_size=(2, 8, 8), stride=(2, 8, 8))
        self.head = nn.Linear(8, num_classes)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        # uint8 leaves the workers; it becomes float on the device.
        frames = (frames.float() / 255 - 0.45) / 0.225
        return self.head(self.stem(frames).relu().mean(dim=(2, 3, 4)))


def main(root: str, steps: int = 6, *, workers: int = 0, resume_at: int = 0) -> list[float]:
    """Train for some steps; at ``resume_at`` throw the loader away and go on with a new one."""
    torch.manual_seed(0)
    dataset = ShardDataset(root, "train")
    spec = ClipSpec(num_frames=8, stride=2, transform=TransformSpec(size=32, flip=0.5))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = TinyNetwork(len(dataset.classes)).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loader = StreamingLoader(dataset, spec, batch_size=2, seed=0, workers=workers)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in loader:  # the rest of an epoch; then the next one begins
            batch = batch.to(device, non_blocking=True)
            loss = nn.functional.cross_entropy(network(batch.frames), batch.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if len(losses) in (resume_at, steps):
                break
        if len(losses) == resume_at:
            state = loader.state_dict()  # plain numbers: save them with the weights
            loader = StreamingLoader(dataset, spec, batch_size=2, seed=0, workers=workers)
            loader.load_state_dict(state)
            resume_at = 0
    return losses


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="folder or address that 'gopstream shard' has written")
    parser.add_argument("--steps", type=int, default=6, help="train so many steps (default: 6)")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load; 0 loads in this one (default)"
    )
    parser.add_argument(
        "--resume-at",
        type=int,
        default=0,
        metavar="STEP",
        help="after this step go on with a new loader and the state of the old one",
    )
    return parser.parse_args()


# Workers that are spawned import this file again.
if __name__ == "__main__":
    given = read_arguments()
    losses = main(given.dataset, given.steps, workers=given.workers, resume_at=given.resume_at)
    for number, value in enumerate(losses, start=1):
        print(f"step {number}: loss {value:.4f}")
