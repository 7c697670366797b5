"""Published peak rates of devices, and roofline times."""

from typing import NamedTuple

GIGA, TERA = 1e9, 1e12


class Published(NamedTuple):
    """Dense peak rates of a device from its data sheet.

    Attributes:
        capability: compute capability, such as 80 for 8.0.
        bandwidth: memory bandwidth, bytes per second.
        float32: operations per second outside the tensor cores.
        tf32: operations per second on the tensor cores, 0 if they do not support the format.
        bf16: same for bfloat16.
    """

    capability: int
    bandwidth: float
    float32: float
    tf32: float
    bf16: float

    def seconds(self, kernel: str, moved: float, flops: float) -> float:
        """Return the roofline time of a kernel: the larger of the times for its bytes and its operations."""
        maker, _, precision = kernel.partition("_")
        rates = {"tf32": self.tf32, "bf16": self.bf16} if maker in ("product", "cublas") else {}
        rate = rates.get(precision, self.float32)
        return max(moved / self.bandwidth, flops / rate)


DEVICES = {  # data sheets of NVIDIA: T4, A100 80 GB SXM, Ada architecture paper, H100 SXM, HGX B200
    "T4": Published(75, 320 * GIGA, 8.1 * TERA, 0, 0),
    "A100": Published(80, 2039 * GIGA, 19.5 * TERA, 156 * TERA, 312 * TERA),
    "RTX 4090": Published(89, 1008 * GIGA, 82.6 * TERA, 82.6 * TERA, 165.2 * TERA),
    "H100": Published(90, 3350 * GIGA, 67 * TERA, 494 * TERA, 989 * TERA),
    "B200": Published(100, 8000 * GIGA, 75 * TERA, 1100 * TERA, 2250 * TERA),
}
