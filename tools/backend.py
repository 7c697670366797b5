"""The build backend that pyproject.toml names: setuptools', or a sentence that says which setuptools is needed."""

import re
import sys
from importlib import metadata

OLDEST = 77  # reads `license = "MIT"` in pyproject.toml
PACKAGES = f"'setuptools>={OLDEST}' cmake ninja pybind11"


def found() -> str:
    """Return the version of the setuptools that is installed; empty if there is none."""
    try:
        return metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        return ""


if int(re.match(r"\d*", found())[0] or 0) < OLDEST:
    sys.exit(
        f"fastssm: to build it takes setuptools {OLDEST} or later, and there is {found() or 'none'} here; "
        f"run `pip install --upgrade {PACKAGES}`, or leave out --no-build-isolation."
    )

from setuptools.build_meta import *  # noqa: E402, F403
