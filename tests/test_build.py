"""The build: what it says where it cannot, what it compiles again, and which tools it asks for."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from tools import native_build

ROOT = Path(__file__).parents[1]


def build(where, **environment):
    options = ["egg_info", "--egg-base", str(where), "build", "--build-base", str(where)]
    command = [sys.executable, "setup.py", "--quiet", *options]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


NO_BUILD = [
    ({"FASTSSM_BUILD": "none"}, "FASTSSM_BUILD=none asked for pure Python"),
    ({"FASTSSM_BUILD": "auto", "CXX": "/bin/false"}, 'the C++ compiler "/bin/false" is not able to compile'),
    ({"FASTSSM_BUILD": "auto", "CXX": "no-such-compiler"}, "environment variable CXX: no-such-compiler"),
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


def environment_of(folder, code):
    """Return an environment whose Python sees no packages, as in pip's isolated builds, and begins with code."""
    folder.mkdir(exist_ok=True)
    hide = "import sys; sys.path[:] = [path for path in sys.path if 'site-packages' not in path]"
    (folder / "sitecustomize.py").write_text(f"{hide}\n{code}\n")
    return {**os.environ, "PYTHONPATH": f"{folder}:{ROOT / 'tools'}"}


@pytest.fixture
def overlay(tmp_path):
    """Return a folder with the packages of build requirements alone, as pip makes one for an isolated build."""
    installed = Path(pytest.importorskip("pybind11").__file__).parents[1]
    folder = tmp_path / "overlay"
    folder.mkdir()
    for package in (*installed.glob("pybind11*"), *installed.glob("cmake*")):
        (folder / package.name).symlink_to(package)
    return folder


ISOLATED = """
import importlib.util, json, sys
from native_build import Build, Path
print(json.dumps([importlib.util.find_spec("torch") is None, Build("cpu", Path(sys.argv[1])).facts["torch"]]))
"""


def test_an_isolated_build_finds_torch(tmp_path, overlay):
    """Hide what is installed, as pip does, and look for torch."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        pytest.skip("there is no C++ compiler")
    environment = environment_of(tmp_path / "site", f"sys.path.append({str(overlay)!r})")
    command = [sys.executable, "-c", ISOLATED, str(tmp_path / "build")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [True, torch.__version__]


CHANGES = """
from native_build import *
build = Build("cpu", Path("build"))
build.make("engine")
"""


@pytest.mark.slow
def test_only_what_changed_is_compiled_again(tmp_path):
    """In a copy of the sources: nothing the second time, then what includes a header, then all for other flags."""
    pytest.importorskip("pybind11")
    if not shutil.which(os.environ.get("CXX", "c++")):
        pytest.skip("there is no C++ compiler")
    for name in ("cmake", "csrc", "tools", "CMakeLists.txt", "src/fastssm/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "csrc/cpu/level.h").write_text("// new\n")
    source = tmp_path / "csrc/cpu/level.cpp"
    source.write_text('#include "level.h"\n' + source.read_text())

    def compiled(**environment):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "tools"), "CXXFLAGS": "-O0", **environment}
        done = subprocess.run(
            [sys.executable, "-c", CHANGES], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done, re.findall(r"Building CXX object \S*/(\w+\.cpp)", done.stderr)

    first, files = compiled()
    assert first.returncode == 0, first.stderr
    assert "level.cpp" in files
    assert len(files) > 3
    assert compiled()[1] == []
    os.utime(tmp_path / "csrc/cpu/level.h")
    assert compiled()[1] == ["level.cpp"]
    assert sorted(compiled(CXXFLAGS="-O0 -DFIRST -DSECOND")[1]) == sorted(files)
    (commands,) = {entry["command"].count("-O0 -DFIRST -DSECOND -o") for entry in commands_of(tmp_path)}
    assert commands == 1  # the caller's flags have the last word
    source.write_text("int f( {\n")
    failed, _ = compiled()
    assert re.search(r"NotBuilt: .*level.cpp:1:.* error: ", failed.stderr.splitlines()[-1])


def commands_of(folder):
    return json.loads((folder / "build/compile_commands.json").read_text())


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("a.cpp:1: warning: w\na.cpp:2:3: error: no x\nb.cpp:1: error: y\n", "a.cpp:2:3: error: no x"),
        ("CMake Error at a:1 (message):\n  Two words.  It\n  fails.\n\n\nCall Stack\n", "two words"),
        ("CMake Error at a:1 (message):\n  CMake 3.20 or\n  higher.\nCall Stack (x)\n", "CMake 3.20 or higher"),
        ("fine\n", ""),
    ],
)
def test_the_first_error_is_the_reason(output, reason):
    assert native_build.first_error(output) == reason


@pytest.mark.parametrize(("setting", "jobs"), [("3", 3), ("", None)])
def test_how_many_compilers_run_at_once(monkeypatch, setting, jobs):
    monkeypatch.setenv("MAX_JOBS", setting)
    assert native_build.jobs_at_once() == jobs or 1 <= native_build.jobs_at_once() <= os.cpu_count()


WINDOWS = """
import sys
sys.modules["fcntl"] = None  # there it does not exist
import native_build
sys.platform = "win32"
try:
    native_build.Build("cpu")
except native_build.NotBuilt as why:
    print(f"{why.what} was not built: {why}")
"""


def test_on_windows_nothing_is_built():
    done = subprocess.run([sys.executable, "-c", WINDOWS], cwd=ROOT / "tools", capture_output=True, text=True)
    assert done.stdout == "the compiled module was not built: it is built on Linux and macOS, and this is win32\n"


def test_on_macos_every_processor_compiles(monkeypatch):
    monkeypatch.setattr(native_build.sys, "platform", "darwin")
    monkeypatch.setenv("MAX_JOBS", "")
    monkeypatch.delattr(native_build.os, "sched_getaffinity")  # there it does not exist
    assert 1 <= native_build.jobs_at_once() <= os.cpu_count()


def test_without_cmake_it_says_what_brings_it(monkeypatch, tmp_path):
    monkeypatch.setattr(native_build.shutil, "which", lambda name, path: None)
    with pytest.raises(native_build.NotBuilt, match=r"^there is no ninja; `pip install cmake ninja pybind11`"):
        native_build.Build("cpu", tmp_path)


def test_without_torch_it_says_what_to_install(monkeypatch, tmp_path):
    if not shutil.which(os.environ.get("CXX", "c++")):
        pytest.skip("there is no C++ compiler")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "empty")], check=True)
    monkeypatch.setattr(native_build.sys, "executable", str(tmp_path / "empty/bin/python"))
    with pytest.raises(native_build.NotBuilt, match=r"^the build saw no torch; install torch, cmake, ninja,"):
        native_build.Build("auto", tmp_path / "build")


@pytest.mark.parametrize("version", ["65.5.0", None])
def test_an_old_setuptools_is_named_in_a_sentence(tmp_path, version):
    """As in a new environment of Python 3.11, or of 3.12, with --no-build-isolation."""
    old = f"import importlib.metadata as m; m.version = lambda name: {version!r} or m.distribution('no such thing')"
    for command in (["-c", "import backend"], [str(ROOT / "setup.py"), "--version"]):
        environment = environment_of(tmp_path, old)
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"fastssm: to build it takes setuptools 77 or later, and there is {version or 'none'} here; "
            "run `pip install --upgrade 'setuptools>=77' cmake ninja pybind11`, or leave out --no-build-isolation.\n"
        )


def test_the_source_distribution_has_all_that_its_tests_need(tmp_path):
    """It has every file that git tracks."""
    pytest.importorskip("setuptools", "77")
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs the git checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    command += ["sdist", "--dist-dir", str(tmp_path)]
    environment = {**os.environ, "FASTSSM_BUILD": "none"}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked.split("\0") if (ROOT / name).is_file()} - packed == set()
