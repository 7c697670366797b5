"""What is published: complete, of one version, with a bill of materials that lists what of others is in a wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fastssm
from tools import release

ROOT = Path(__file__).parents[1]


def test_the_source_distribution_has_every_file_of_the_repository(tmp_path: Path) -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not any(files):
        pytest.skip("this is no repository")
    command = ["egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "setup.py", "--quiet", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert sdist.name == f"fastssm-{fastssm.__version__}.tar.gz"
    assert release.absent(sdist, list(filter(None, files))) == []
    assert release.absent(sdist, ["setup.py", "no/such.file"]) == ["no/such.file"]


def test_versions_and_kinds_of_files_are_checked() -> None:
    number = release.version()
    assert number == fastssm.__version__
    good = [f"fastssm-{number}.tar.gz", f"fastssm-{number}-cp312-cp312-manylinux_2_28_x86_64.whl"]
    assert release.wrong_names(good, number) == []
    assert release.wrong_names([], number) == ["there is no file *.tar.gz", "there is no file *.whl"]
    bad = [good[0], "fastssm-0.0.9-py3-none-any.whl", f"fastssm-{number}-cp312-cp312-linux_x86_64.whl"]
    first, second = release.wrong_names(bad, number)
    assert (first.split()[0], second.split()[0]) == (bad[1], bad[2])


def wheel(path: Path, files: dict[str, str]) -> Path:
    """Write a wheel that has only what its bill of materials depends on."""
    requires = "\n".join(f"Requires-Dist: {name}" for name in ("torch>=2.10", "numpy", 'rich; extra == "demo"'))
    meta = f"Metadata-Version: 2.4\nName: fastssm\nVersion: 0.1.0\nLicense-Expression: MIT\n{requires}\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {"fastssm-0.1.0.dist-info/METADATA": meta, **files}.items():
            archive.writestr(name, text)
    return path


def test_a_wheel_for_linux_has_both_engines(tmp_path: Path) -> None:
    whole = {"fastssm/_C.cpython-312-x86_64-linux-gnu.so": "", "fastssm/_cuda.so": ""}
    linux = tmp_path / "fastssm-0.1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
    assert release.wrong_contents(wheel(linux, whole)) == []
    assert release.wrong_contents(wheel(linux, {})) == [
        f"{linux.name} has no {what}" for what in ("CPU engine", "CUDA library")
    ]
    assert release.wrong_contents(wheel(tmp_path / "fastssm-0.1.0-py3-none-any.whl", {})) == []
    arm = tmp_path / "fastssm-0.1.0-cp312-cp312-manylinux_2_28_aarch64.whl"
    assert len(release.wrong_contents(wheel(arm, {}))) == 1


def test_a_bill_lists_what_of_others_a_wheel_contains(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx", reason="the [test] extra has it")
    from tools import sbom

    built = {"torch": "2.13.0", "pybind11": "3.1.0"}
    files = {"fastssm/_C.so": "", "fastssm/data/sets/winequality-red.csv": "", "fastssm/_build.json": json.dumps(built)}
    path = wheel(tmp_path / "fastssm-0.1.0-cp312-cp312-manylinux_2_28_x86_64.whl", files)
    sbom.main([str(path)])  # which validates it
    bill = json.loads(path.with_name(f"{path.stem}.cdx.json").read_text())
    assert bill["metadata"]["component"]["licenses"][0]["license"]["id"] == "MIT"
    found = {part["bom-ref"]: part for part in bill["components"]}
    assert set(found) == {"Wine Quality", "pybind11", "torch", "needs torch>=2.10", "needs numpy"}
    assert (found["torch"]["version"], found["pybind11"]["version"]) == ("2.13.0", "3.1.0")
    assert found["Wine Quality"]["licenses"][0]["license"]["id"] == "CC-BY-4.0"
    pure = wheel(tmp_path / "pure.whl", {"fastssm/_build.json": '{"reason": "none"}'})
    assert {part.name for part in sbom.bill(pure).components} == {"torch", "numpy"}


def test_the_list_of_licences_has_every_data_set_and_header() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text()
    listed = re.findall(r"`fastssm/data/sets/(.+?)`", text)
    data = [path.name for path in (ROOT / "data").iterdir() if path.name != "README.md"]
    assert [name for name in data if not any(Path(name).match(pattern) for pattern in listed)] == []
    sources = [path for path in (ROOT / "csrc").rglob("*.*") if "tests" not in path.parts]
    included = {header for path in sources for header in re.findall(r"#include <(\w+)/", path.read_text())}
    assert included - {"sys"} == {"ATen", "c10", "pybind11", "torch"}, "headers of others: list them in THIRD_PARTY.md"
    assert '"THIRD_PARTY.md"' in (ROOT / "pyproject.toml").read_text()  # wheels have it
