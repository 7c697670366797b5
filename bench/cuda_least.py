"""The fewest bytes that passes of the layer-by-layer path can move: each row in and out once, each parameter once."""

from bench.problems import Size

FLOAT, BFLOAT16 = 4, 2  # bytes
PASSES = ("up", "down", "down_score", "chain", "curve")


def pass_of(kernel: str) -> str:
    """Return the pass that a kernel makes, or nothing: "up" of "up_softplus_float"."""
    name = "up" if kernel.startswith("up_") else kernel.removesuffix("_float")
    return name if name in PASSES else ""


def least(name: str, kind: str, size: Size, loss: str, layer: int, narrow: bool) -> int:
    """Return the minimum of bytes of a pass through one layer.

    Args:
        name: of the pass.
        kind: of the network.
        size: of the call; the network has no skips, no conditioning, and biases everywhere.
        loss: "SSM" or "SSM-VR".
        layer: counted from the bottom.
        narrow: whether products read bfloat16.
    """
    merged, energy = loss == "SSM-VR", kind == "energy"
    curved = energy and not merged  # whether a curvature goes up and down with the tangents
    first, last = layer == 0, layer == size.L - 1
    kinds, fresh = size.M + 1 + curved, curved and first
    operand = BFLOAT16 if narrow else FLOAT
    samples, parameters = FLOAT * size.B, FLOAT * size.H
    row, out = size.B * size.H * FLOAT, size.B * size.H * operand
    kept = row if narrow and last else 0  # what the top reads, a row in float32 besides
    if name == "up":
        return (kinds - fresh) * row + kinds * (out + kept) + row * (merged and energy) + parameters
    if name == "chain":
        return 2 * row + (parameters if last else row) + out + parameters + samples
    if name == "curve":
        return 3 * row + out + kept + parameters + samples
    entering = size.M + 1 + (energy and not fresh)  # z, zd_m and zk
    above = (kinds + (merged and energy)) * row
    if energy and last:
        above = parameters + samples * (1 if merged else 1 + size.M)  # the readout and coefficients
    return entering * row + above + (kinds - fresh) * out + 2 * parameters
