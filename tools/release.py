"""Check what is ready to publish: `python tools/release.py dist`, the folder of a source distribution and of wheels.

All have the version of fastssm, which CHANGELOG.md gives a date; the source distribution has every file of the
repository, and its own tests pass in it; twine finds no fault; each wheel gets a bill of materials.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("tests/test_contract.py", "tests/test_packaging.py", "tests/test_citations.py")


def version() -> str:
    """Return the version of fastssm, as `src/fastssm/__init__.py` has it."""
    return re.findall(r'^__version__ = "(.+)"$', (ROOT / "src/fastssm/__init__.py").read_text(), re.MULTILINE)[0]


def wrong_names(names: list[str], number: str) -> list[str]:
    """Return what is wrong with the files of a release: their versions, and kinds that are missing."""
    wrong = [f"{name} is not of version {number}" for name in names if not name.startswith(f"fastssm-{number}")]
    missing = [kind for kind in (".tar.gz", ".whl") if not any(name.endswith(kind) for name in names)]
    unrepaired = [name for name in names if "-linux_" in name]
    wrong += [f"there is no file *{kind}" for kind in missing]
    return wrong + [f"{name} is for this machine alone: `make wheel` repairs it" for name in unrepaired]


def wrong_contents(wheel: Path) -> list[str]:
    """Return what a wheel for a platform lacks of what is compiled; the CUDA library is for x86-64."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    wanted = {} if "-none-any" in wheel.name else {"fastssm/_C.": "CPU engine"}
    wanted |= {"fastssm/_cuda.so": "CUDA library"} if "x86_64" in wheel.name else {}
    missing = [what for start, what in wanted.items() if not any(name.startswith(start) for name in names)]
    return [f"{wheel.name} has no {what}" for what in missing]


def absent(sdist: Path, tracked: list[str]) -> list[str]:
    """Return the files of the repository that a source distribution does not have."""
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    return sorted(set(tracked) - inside)


def run(*command: str, folder: Path = ROOT) -> None:
    """Run a command in a source tree, and exit where it fails."""
    print("+", *command, flush=True)
    if code := subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder / "src")}).returncode:
        sys.exit(code)


def main(dist: Path) -> None:
    """Check the files of a folder."""
    files = sorted([*dist.glob("*.tar.gz"), *dist.glob("*.whl")])
    dated = re.search(
        rf"^## \[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    wrong = wrong_names([file.name for file in files], version())
    wrong += [] if dated else [f"CHANGELOG.md has no date for {version()}"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for sdist in dist.glob("*.tar.gz"):
        wrong += [f"{sdist.name} lacks {name}" for name in absent(sdist, list(filter(None, tracked)))]
    for wheel in dist.glob("*.whl"):
        wrong += wrong_contents(wheel)
    if wrong:
        sys.exit("\n".join(wrong))
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, files))
    run(sys.executable, "tools/sbom.py", *map(str, dist.glob("*.whl")))
    with tempfile.TemporaryDirectory() as folder, tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
        (source,) = Path(folder).iterdir()
        run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not editable", *TESTS, folder=source)
    print(f"fastssm {version()} is ready: {', '.join(file.name for file in files)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
