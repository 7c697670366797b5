"""The version is written once, the types are shipped, and the runtime needs torch and numpy alone."""

import re
from importlib import metadata
from pathlib import Path

import pytest

import fastssm

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11+
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_agrees_with_the_installed_metadata():
    try:
        installed = metadata.version("fastssm")
    except metadata.PackageNotFoundError:
        pytest.skip("fastssm runs from its source tree")
    assert installed == fastssm.__version__


VERSIONS = [("CITATION.cff", r"^version: (.+)$"), ("CHANGELOG.md", r"^## \[([\d.]+)\]")]


@pytest.mark.parametrize(("file", "pattern"), VERSIONS)
def test_version_agrees_with(file, pattern):
    assert re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)[1] == fastssm.__version__


def test_types_are_shipped(project):
    assert (Path(fastssm.__file__).parent / "py.typed").exists()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["fastssm"]


def test_torch_is_no_build_requirement(project):
    assert not [name for name in project["build-system"]["requires"] if name.startswith("torch")]


def test_runtime_dependencies_are_torch_and_numpy(project):
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in project["project"]["dependencies"]]
    assert names == ["torch", "numpy"]
