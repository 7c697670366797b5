"""The version is written once, the types are shipped, two packages are needed; and what is compiled, or why not."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import fastssm
from fastssm.cli import info
from fastssm.native import extension
from tools import toolchain

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


# What is compiled, or why nothing is

THIS = {
    "torch": str(torch.__version__),
    "python": "{}.{}".format(*sys.version_info),
    "compiler": "c++ 1.2",
    "levels": ["baseline", "avx2"],
}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return what `fastssm.extension` makes of a record; opening the module fails, unless `import_module` is given."""

    def load(record, import_module=None):
        monkeypatch.delenv(extension.OFF, raising=False)
        monkeypatch.setattr(extension, "RECORD", tmp_path / "_build.json")
        monkeypatch.setattr(extension.importlib, "import_module", import_module or (lambda name: pytest.fail(name)))
        if record is not None:
            extension.RECORD.write_text(record if isinstance(record, str) else json.dumps(record))
        return extension._load.__wrapped__()

    return load


def test_the_module_that_was_built_is_loaded(load):
    module, sentence = load(THIS, lambda name: name)
    assert module == "fastssm._C"
    assert (
        sentence
        == f"The compiled module fastssm._C is loaded: baseline, avx2, by c++ 1.2, for torch {torch.__version__}."
    )


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

    load(THIS, lambda name: name)
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
def test_the_process_has_one_openmp():
    found = subprocess.run(
        [sys.executable, "-c", ONE_OPENMP], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(found) == 1, found


# The build


def build(where, **environment):
    options = ["egg_info", "--egg-base", str(where), "build", "--build-base", str(where)]
    command = [sys.executable, "setup.py", "--quiet", *options]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


NO_BUILD = [
    ({"FASTSSM_BUILD": "none"}, "FASTSSM_BUILD=none asked for pure Python"),
    ({"FASTSSM_BUILD": "auto", "CXX": "/bin/false"}, "cannot compile a small module (exit status 1)"),
    ({"FASTSSM_BUILD": "auto", "CXX": "no-such-compiler"}, "there is no C++ compiler; looked for no-such-compiler"),
]


@pytest.mark.parametrize(("environment", "reason"), NO_BUILD, ids=str)
def test_without_a_compiler_the_package_is_pure_and_says_why(tmp_path, environment, reason):
    pytest.importorskip("setuptools", "77")
    done = build(tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "lib/fastssm/_build.json").read_text())["reason"].count(reason) == 1
    assert not list(tmp_path.rglob("_C*"))


NO_CHOICE = [
    ({"FASTSSM_BUILD": "cpu", "CXX": "/bin/false"}, "fastssm: the compiled module was not built: "),
    ({"FASTSSM_BUILD": "gpu"}, "FASTSSM_BUILD must be one of auto, none, cpu, cuda, but is 'gpu'."),
]


@pytest.mark.parametrize(("environment", "message"), NO_CHOICE, ids=str)
def test_a_build_that_was_asked_for_fails(tmp_path, environment, message):
    pytest.importorskip("setuptools", "77")
    done = build(tmp_path, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_isolated_build_finds_torch(tmp_path):
    """Hide what is installed, as pip does, and look for torch."""
    hide = "import sys; sys.path[:] = [path for path in sys.path if 'site-packages' not in path]"
    (tmp_path / "sitecustomize.py").write_text(hide)
    look = "import importlib.util, toolchain; print(importlib.util.find_spec('torch'), toolchain.find_torch().version)"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'tools'}"}
    found = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == f"None {torch.__version__}\n"


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_only_what_changed_is_compiled_again(tmp_path):
    source, header = tmp_path / "a b.cpp", tmp_path / "a.h"
    source.write_text('#include "a.h"\n')
    header.write_text("int f();\n")
    command = ["c++", "-MMD", "-c", str(source), "-o", str(tmp_path / "a.o")]
    step = toolchain.Step(source, tmp_path / "a.o", command)
    assert not step.done()
    step.run()
    assert not step._replace(command=[*command, "-O1"]).done()
    os.utime(source, (0, 0))
    os.utime(header, (0, 0))
    assert step.done()
    os.utime(header)
    os.utime(step.target, (1, 1))
    assert not step.done()
    source.write_text("int f( {\n")
    with pytest.raises(toolchain.NotBuilt, match=r"cannot compile .*a b.cpp \(.*error: "):
        step.run()
