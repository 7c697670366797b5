"""The version is written once, the types are shipped, two packages are needed; and what is compiled, or why not."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastssm
from fastssm import data
from fastssm.cli import info
from fastssm.data import builtin
from fastssm.native import extension
from tests.covering import each

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


VERSIONS = [
    (Path(fastssm.__file__).with_name("papers.bib"), r"^  note = \{Version (.+)\},$"),
    ("CITATION.cff", r"^version: (.+)$"),
    ("CHANGELOG.md", r"^## \[([\d.]+)\]"),
    ("CHANGELOG.md", r"^\[Unreleased\]: \S+/compare/v([\d.]+)\.\.\.HEAD$"),
]


@each("place", VERSIONS)
def test_version_agrees_with(place):
    file, pattern = place
    assert re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)[1] == fastssm.__version__


def test_the_release_has_its_date_and_a_link():
    changelog, citation = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "CITATION.cff"))
    versions = dict(re.findall(r"^## \[([\d.]+)\] - (.*)$", changelog, re.MULTILINE))
    assert "## [Unreleased]\n" in changelog
    assert versions[fastssm.__version__] == re.search(r"^date-released: (.+)$", citation, re.MULTILINE)[1]
    links = "https://github.com/fastssm/fastssm/releases/tag/v"
    assert [version for version in versions if f"[{version}]: {links}{version}\n" not in changelog] == []


def test_a_tag_names_the_version():
    git = ["git", "-C", str(ROOT), "tag", "--points-at", "HEAD", "v*"]
    tags = subprocess.run(git, capture_output=True, text=True).stdout.split() if shutil.which("git") else []
    assert set(tags) <= {f"v{fastssm.__version__}"}


def test_types_are_shipped(project):
    assert (Path(fastssm.__file__).parent / "py.typed").exists()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["fastssm"]


def test_the_data_sets_are_shipped(tmp_path, monkeypatch):
    """As a wheel's modules are built; then they are found from any folder, without the source tree."""
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path / "lib")]
    environment = {**os.environ, "FASTSSM_BUILD": "none"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if "to build it takes setuptools" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    sets = tmp_path / "lib" / "fastssm" / "data" / "sets"
    for path in (ROOT / "data").iterdir():
        assert (sets / path.name).read_bytes() == path.read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtin, "SOURCE_DATA", tmp_path / "absent")
    monkeypatch.setattr(builtin, "PACKAGED_DATA", sets)
    assert len(data.load("white-wine").rows) == 4898


def test_torch_is_no_build_requirement(project):
    assert not [name for name in project["build-system"]["requires"] if name.startswith("torch")]


def test_runtime_dependencies(project):
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in project["project"]["dependencies"]]
    assert names == ["torch", "numpy", "safetensors"]


# What is compiled, or why nothing is

THIS = {
    "torch": str(torch.__version__),
    "python": "{}.{}".format(*sys.version_info),
    "compiler": "c++ 1.2",
    "levels": ["baseline", "avx2"],
}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return what fastssm makes of a record; opening the module fails, unless `import_module` is given."""

    def load(record, import_module=None):
        monkeypatch.delenv(extension.OFF, raising=False)
        monkeypatch.setattr(extension, "RECORD", tmp_path / "_build.json")
        monkeypatch.setattr(extension.importlib, "import_module", import_module or (lambda name: pytest.fail(name)))
        if record is not None:
            extension.RECORD.write_text(record if isinstance(record, str) else json.dumps(record))
        return extension._load.__wrapped__()

    return load


def test_the_module_that_was_built_is_loaded(load):
    module, sentence = load(THIS, lambda name: SimpleNamespace(__file__=__file__, name=name))
    assert module.name == "fastssm._C"
    assert (
        sentence
        == f"The compiled module fastssm._C is loaded: baseline, avx2, by c++ 1.2, for torch {torch.__version__}."
    )


@each("built", ["cpu", "cu130", "rocm6.4", "xpu"])
def test_a_module_fits_the_same_torch_for_another_device(load, monkeypatch, built):
    monkeypatch.setattr(torch, "__version__", "2.99.1+cu999")
    record = {**THIS, "torch": f"2.99.1+{built}"}
    assert load(record, lambda name: SimpleNamespace(__file__=__file__))[0]
    for other in (f"2.99.0+{built}", "2.99.1+git1234"):
        assert load({**THIS, "torch": other})[0] is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"reason": "there is no C++ compiler"}, "was not built: there is no C++ compiler."),
        (None, "was not built: this copy of fastssm was never installed; run `pip install"),
        ({**THIS, "torch": "1.0"}, f"was built for torch 1.0, but {torch.__version__} is running; run `pip install"),
        ({**THIS, "python": "3.1"}, f"was built for python 3.1, but {THIS['python']} is running; run `pip install"),
        ("{", "cannot be loaded (JSONDecodeError"),
        ({}, "cannot be loaded (KeyError"),
    ],
)
def test_a_module_that_does_not_fit_is_not_opened(load, record, why):
    module, sentence = load(record)
    assert module is None
    assert sentence.startswith(f"The compiled module fastssm._C {why}")
    assert sentence.endswith(".")


def test_a_module_that_cannot_be_opened_is_no_error(load):
    def undefined(name):
        raise ImportError("undefined symbol: f")

    module, sentence = load(THIS, undefined)
    assert module is None
    assert "cannot be loaded (ImportError: undefined symbol: f); run `pip install" in sentence


@pytest.mark.parametrize(("value", "off"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_the_switch_of_the_environment(monkeypatch, load, value, off):
    def open_it():
        monkeypatch.setenv(extension.OFF, value)
        return extension._load.__wrapped__()

    load(THIS, lambda name: SimpleNamespace(__file__=__file__))
    module, sentence = open_it()
    assert (module is None) == off
    assert (f"is switched off by FASTSSM_NO_NATIVE={value}." in sentence) == off


def test_info_says_what_is_compiled(capsys):
    info.run(None)
    printed = capsys.readouterr().out
    assert extension.status() in printed
    assert ("CPU engine: " in printed) == (extension.module() is not None)
    assert (f"runs with torch {torch.__version__}" in printed) == (extension.module() is not None)


ONE_OPENMP = """
import torch, fastssm
net = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.Softplus(), torch.nn.Linear(64, 1))
torch.set_num_threads(2)
fastssm.sliced_loss(net, torch.randn(4096, 10), backend="cpu").backward()
print(*{line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.rsplit("/", 1)[-1]}, sep="\\n")
"""


@pytest.mark.skipif(extension.module() is None, reason=extension.status())
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_process_has_one_openmp():
    found = subprocess.run(
        [sys.executable, "-c", ONE_OPENMP], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(found) == 1, found


# What an editable install shows


def test_a_module_older_than_its_sources_is_named(monkeypatch, tmp_path, load):
    for name in ("cpu/a.h", "tests/b.cpp"):
        (tmp_path / "csrc" / name).parent.mkdir(parents=True)
        (tmp_path / "csrc" / name).touch()
    module = tmp_path / "_C.so"
    module.touch()
    monkeypatch.setattr(extension, "SOURCES", tmp_path / "csrc")
    os.utime(tmp_path / "csrc/cpu/a.h", (0, 0))
    os.utime(module, (1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extension.newer_source(module) is None  # though csrc/tests is newer
        load(THIS, lambda name: SimpleNamespace(__file__=str(module)))
    os.utime(tmp_path / "csrc/cpu/a.h", (2, 2))
    with pytest.warns(fastssm.FastSSMWarning) as warned:
        loaded, _ = load(THIS, lambda name: SimpleNamespace(__file__=str(module)))
    assert loaded.__file__ == str(module)
    assert str(warned[0].message) == (
        "The compiled module fastssm._C is older than csrc/cpu/a.h; run "
        f"`pip install --no-deps --editable {tmp_path}` to compile what changed."
    )


@pytest.fixture
def editable():
    """Return the folder that an editable install puts on the path, or skip."""
    for distribution in metadata.distributions(name="fastssm"):
        url = json.loads(distribution.read_text("direct_url.json") or "{}")
        if url.get("dir_info", {}).get("editable"):
            break
    else:
        pytest.skip("fastssm is not installed as editable")
    (path,) = [file for file in distribution.files if file.suffix == ".pth"]
    return Path(path.locate().read_text().strip())


def test_an_editable_install_is_a_path_that_type_checkers_follow(editable):
    """mypy and pyright read paths from .pth files, but do not run finders."""
    assert (editable / "fastssm/py.typed").exists()


@pytest.mark.slow
def test_mypy_sees_an_editable_install_from_any_folder(editable, tmp_path):
    pytest.importorskip("mypy")
    program = "import fastssm.errors\nreveal_type(fastssm.errors.UnsupportedError())\nfastssm.errors.Missing\n"
    (tmp_path / "program.py").write_text(program)
    clean = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir=cache", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert 'Revealed type is "fastssm.errors.UnsupportedError"' in done.stdout, done.stdout
    assert 'Module has no attribute "Missing"' in done.stdout
