"""The recipes for other trainers run, and train."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parents[1] / "examples" / "recipes").glob("*.py"))


def test_there_are_recipes() -> None:
    assert [path.stem for path in RECIPES] == ["accelerate_fit", "lightning_fit"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_lowers_the_loss(path: Path, tmp_path: Path) -> None:
    package = path.stem.partition("_")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; `make recipes` installs it and runs this test")
    done = subprocess.run(
        [sys.executable, str(path), "--smoke"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"exact loss of held-out rows: (\S+) before, (\S+) after", done.stdout)
    assert found, done.stdout
    before, after = map(float, found.groups())
    assert after < before - 0.1
