"""Tables of cuda_static.csv and cuda_products.csv for the documentation: predictions, not measurements."""

from collections.abc import Iterator, Sequence

from bench.cuda_devices import DEVICES
from bench.cuda_least import pass_of
from bench.harness import RESULTS
from bench.measure import Row
from bench.problems import Size
from bench.table import header, line
from bench.targets import size_of

OUT = RESULTS / "cuda_static.csv"
PRODUCTS = RESULTS / "cuda_products.csv"
UNIT = 2.0**-24  # half a unit in the last place of float32
WHOLE_NETS = ("small_objective", "small_score")
PASSES_OF = Size(100, 512, 3, 64, 1)


def call_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per call: kernel launches, operators of autograd, and device rooflines in microseconds."""
    mine = [row for row in rows if row["row"] == "call"]
    yield from header(["d,H,L,B,M", "kind", "loss", "path", "launches", "autograd", *DEVICES])
    for key in dict.fromkeys(map(_key, mine)):
        its = {row["device"]: row for row in mine if _key(row) == key}
        first = next(iter(its.values()))
        cells = (f"{float(its[name]['roofline_us']):.3g} µs" if name in its else "" for name in DEVICES)
        yield line([str(size_of(first)), *key[1:], first["launches"], first["autograd_operators"], *cells])


def _key(row: Row) -> tuple[str, ...]:
    precision = "" if row["precision"] == "full" else f", {row['precision']}"
    return (str(size_of(row)), row["kind"], row["loss"], row["path"] + precision)


def whole_net_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per device and call of the whole-net kernel: its resources, and its bytes over the minimum."""
    held = ("blocks", "registers", "shared KB", "warps")
    yield from header(["d,H,L,B,M", "kind", "loss", "device", *held, "moved / minimum"])
    for row in (row for row in rows if row["row"] == "kernel" and row["kernel"].startswith(WHOLE_NETS)):
        shared, over = int(row["shared_bytes"]) / 1024, float(row["moved_over_minimum"])
        takes = row["blocks"], row["registers"], f"{shared:.0f}", row["warps_per_multiprocessor"]
        yield line([str(size_of(row)), row["kind"], row["loss"], row["device"], *takes, f"{over:.3f}"])


def pass_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per pass of a call in layers on an H100: its bytes over the minimum, all and once for a block."""
    ratios = "moved / minimum", "fetched / minimum"
    yield from header(["d,H,L,B,M", "kind", "loss", "products", "kernel", "bytes moved", *ratios])
    for row in rows:
        if row["row"] == "kernel" and row["device"] == "H100" and pass_of(row["kernel"]) and size_of(row) == PASSES_OF:
            products = row["path"].partition(", ")[2], row["precision"]
            over = (f"{float(row[f'{way}_over_minimum']):.3f}" for way in ("moved", "fetched"))
            names = row["kind"], row["loss"], " ".join(filter(None, products)), f"`{row['kernel']}`"
            yield line([str(size_of(row)), *names, row["bytes_moved"], *over])


def error_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per kind of data: errors of both products by depth, and the largest ratio over all scales."""
    mine = [row for row in rows if row["row"] == "error"]
    depths = dict.fromkeys(row["k"] for row in mine)
    scales = len({row["scale"] for row in mine})
    yield from header(["data", *(f"split, float32 at k = {k}" for k in depths), f"largest ratio over {scales} scales"])
    for data in dict.fromkeys(row["data"] for row in mine):
        its = [row for row in mine if row["data"] == data]
        at_one = {row["k"]: row for row in its if float(row["scale"]) == 1}
        errors = ((float(at_one[k][name]) / UNIT for name in ("error", "float32_error")) for k in depths)
        ratio = max(float(row["error_over_float32"]) for row in its)
        yield line([data, *(f"{own:.2f}, {other:.2f}" for own, other in errors), f"{ratio:.2f}"])


def code_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per product kernel and architecture: its instructions and resources."""
    counted, held = (
        ("HMMA", "HGMMA", "LDSM", "LDGSTS"),
        ("registers", "spilled_bytes", "shared_bytes", "blocks_per_multiprocessor"),
    )
    yield from header(["kernel", "architecture", *counted, "registers", "spilled", "shared bytes", "blocks held"])
    for row in (row for row in rows if row["row"] in ("code", "wgmma")):
        yield line([f"`{row['kernel']}`", row["architecture"], *(row[name] for name in (*counted, *held))])


def traffic_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per product: bytes of global memory over those of its tiles, and turns of shared memory."""
    yield from header(["kernel", "product", "m,n,k", "bytes moved", "moved / minimum", "turns / minimum"])
    for row in (row for row in rows if row["row"] == "traffic"):
        over = (f"{float(row[name]):.3f}" for name in ("moved_over_minimum", "shared_turns_over_minimum"))
        size = ",".join(row[name] for name in "mnk")
        yield line([f"`{row['kernel']}`", row["data"], size, row["bytes_moved"], *over])


def choice_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per size and product of a hidden layer: predicted cycles, and whether it is split."""
    yield from header(["d,H,L,B,M", "device", "product", "m,n,k", "split", "float32", "float32 / split", "is split"])
    for row in (row for row in rows if row["row"] == "choice"):
        split, full = (int(row[f"{way}_cycles"]) for way in ("split", "float32"))
        device = row["device"] + " with wgmma" * (row["device"] == "H100")
        cells = str(split), str(full), f"{full / split:.2f}", "yes" if split < full else "no"
        yield line([str(size_of(row)), device, row["data"], ",".join(row[name] for name in "mnk"), *cells])


TABLES = {"calls": call_table, "whole net": whole_net_table, "passes": pass_table}
PRODUCT_TABLES = {"errors": error_table, "code": code_table, "traffic": traffic_table, "choices": choice_table}
