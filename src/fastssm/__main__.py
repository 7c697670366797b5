"""`python -m fastssm` is the same as the command `fastssm`."""

from __future__ import annotations

import sys

from fastssm.cli import main

if __name__ == "__main__":
    sys.exit(main())
