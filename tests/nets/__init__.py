"""Networks as people write them, family by family, for `tests/test_nets.py`."""

from tests.nets import densities, flows, images, physics, sequences, tables, timed, transformers, unets, unusual
from tests.nets.net import Net

FAMILIES: dict[str, list[Net]] = {
    module.__name__.rpartition(".")[2]: module.NETS
    for module in (images, unets, flows, physics, transformers, tables, densities, timed, sequences, unusual)
}
ALL: list[Net] = [net for nets in FAMILIES.values() for net in nets]
BY_NAME: dict[str, Net] = {net.name: net for net in ALL}

__all__ = ["ALL", "BY_NAME", "FAMILIES", "Net"]
