"""Train an energy with accelerate: `prepare` gets the loss module, which owns the network.

Run `pip install accelerate`, then `accelerate launch examples/recipes/accelerate_fit.py`, or `python` instead of
`accelerate launch` for one process.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset

import fastssm
from fastssm.data import toys


def main() -> None:
    """Train, and print the exact loss before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    smoke = parser.parse_args().smoke

    accelerator = Accelerator()
    set_seed(0)
    rows = toys.TOYS["moons"](2000 if smoke else 20_000, torch.Generator().manual_seed(0)).float()
    rows = (rows - rows.mean(0)) / rows.std(0)
    held_out = rows[:500].to(accelerator.device)

    net = fastssm.nn.MLP(2, [64, 64])  # log p = -E + const
    objective = fastssm.SlicedScoreLoss(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(rows[500:]), batch_size=256, shuffle=True)
    objective, optimiser, loader = accelerator.prepare(objective, optimiser, loader)
    before = fastssm.exact_loss(net, held_out)
    for _ in range(3 if smoke else 20):
        for (x,) in loader:
            optimiser.zero_grad()
            accelerator.backward(objective(x))
            optimiser.step()
    after = fastssm.exact_loss(net, held_out)
    accelerator.print(f"exact loss of held-out rows: {before:.3f} before, {after:.3f} after")
    accelerator.end_training()


if __name__ == "__main__":
    main()
