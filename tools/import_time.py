"""Measures what `import fastssm` costs over `import torch`, and fails above a limit.

Run `python tools/import_time.py --limit 0.2`.
"""

import argparse
import os
import statistics
import subprocess
import sys

# The collector starts from zero: where torch's import left it, it passes over all of torch's objects in ours, or not.
PROBE = """
import gc, time, torch, numpy
gc.collect()
start = time.perf_counter()
import fastssm
print(time.perf_counter() - start)
"""


def measure() -> float:
    """Return the seconds that `import fastssm` takes in a fresh interpreter that has imported torch."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    probe = [sys.executable, "-c", PROBE]
    return float(subprocess.run(probe, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> int:
    """Print the median of several fresh interpreters; return 1 where it is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    measure()  # the first run also writes the byte code
    seconds = [measure() for _ in range(arguments.repeats)]
    median = statistics.median(seconds)
    print(f"import fastssm: {median:.3f} s over torch (median of {len(seconds)}, limit {arguments.limit} s)")
    return int(median > arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
