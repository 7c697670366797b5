"""Train an energy with Lightning: the loss module owns the network, so that every strategy of the trainer works.

Run `pip install lightning`, then `python examples/recipes/lightning_fit.py`.
"""

import argparse

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastssm
from fastssm.data import toys


class Density(lightning.LightningModule):
    """Learns an energy, and logs its exact loss on held-out rows."""

    def __init__(self, features: int, lr: float = 3e-3) -> None:
        super().__init__()
        self.net = fastssm.nn.MLP(features, [64, 64])  # log p = -E + const
        self.loss = fastssm.SlicedScoreLoss(self.net)
        self.lr = lr

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return self.loss(batch[0])

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Log the exact loss."""
        self.log("exact_loss", fastssm.exact_loss(self.net, batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam on the network's parameters."""
        return torch.optim.Adam(self.net.parameters(), lr=self.lr)


def main() -> None:
    """Train, and print the exact loss before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    smoke = parser.parse_args().smoke

    lightning.seed_everything(0, verbose=False)
    rows = toys.TOYS["moons"](2000 if smoke else 20_000, torch.Generator().manual_seed(0)).float()
    rows = (rows - rows.mean(0)) / rows.std(0)
    held_out = DataLoader(TensorDataset(rows[:500]), batch_size=500)
    batches = DataLoader(TensorDataset(rows[500:]), batch_size=256, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=3 if smoke else 20,
        inference_mode=False,  # the exact loss takes derivatives
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Density(2)
    (before,) = trainer.validate(model, held_out, verbose=False)
    trainer.fit(model, batches)
    (after,) = trainer.validate(model, held_out, verbose=False)
    print(f"exact loss of held-out rows: {before['exact_loss']:.3f} before, {after['exact_loss']:.3f} after")


if __name__ == "__main__":
    main()
