"""Train variational autoencoders with implicit encoders, as `implicit_vae` does, on pictures of clothes.

The pictures are 5,000 of Fashion-MNIST, from a Debian package (`apt install dataset-fashion-mnist`); the smoke run has
digits.

Run `python -m experiments.implicit_vae_fashion`.
"""

from __future__ import annotations

from bench import experiments
from experiments.implicit_vae import FULL, SMOKE, run


def main() -> None:
    """Run the experiment."""
    chosen = experiments.options("implicit_vae_fashion", "The same autoencoders on Fashion-MNIST.", seeds=2)
    size = SMOKE if chosen.smoke else FULL._replace(digits="fashion")
    run(chosen, size, {"VAE": ("Gaussian", "SSM-VR", "CSM", "spectral")})


if __name__ == "__main__":
    main()
