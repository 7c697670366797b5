"""What public services read: the workflows, the citation, the project's URLs and the links of the README."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
REPOSITORY = "https://github.com/fastssm/fastssm"
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
CHECKER = shutil.which("check-jsonschema", path=str(Path(sys.executable).parent))


def workflow(path: Path) -> Any:
    yaml = pytest.importorskip("ruamel.yaml", reason="the [test] extra has check-jsonschema, which needs it")
    return yaml.YAML(typ="safe").load(path.read_text())


def checked(*command: str | Path) -> int:
    if CHECKER is None:
        pytest.skip("the [test] extra has check-jsonschema")
    return subprocess.run([CHECKER, "--builtin-schema", *map(str, command)], capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_fits_its_schema(path: Path) -> None:
    assert checked("vendor.github-workflows", path) == 0


BREAKS = [("runs-on:", "run-on:"), ("steps:", "step:"), ("    strategy:", "   strategy:"), ("uses: ", "use: ")]


@pytest.mark.parametrize(("old", "new"), BREAKS, ids=str)
def test_a_broken_workflow_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace(old, new, 1))
    assert broken.read_text() != WORKFLOWS[0].read_text()
    assert checked("vendor.github-workflows", broken) == 1


def test_make_lint_runs_both_schemas() -> None:
    assert "--builtin-schema vendor.github-workflows .github/workflows/*.yml" in MAKEFILE
    assert "--builtin-schema vendor.citation-file-format CITATION.cff" in MAKEFILE
    assert checked("vendor.citation-file-format", ROOT / "CITATION.cff") == 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_jobs_of_a_workflow_run_make_targets_that_exist(path: Path) -> None:
    jobs = workflow(path)["jobs"]
    for name, job in jobs.items():
        assert set(job.get("needs", ())) <= set(jobs), f"{name} needs a job that does not exist"
        for command in (step["run"] for step in job["steps"] if "run" in step):
            assert command.startswith("make "), f"{name} runs {command!r}: call a make target, as a developer does"
            targets = [word for word in shlex.split(command)[1:] if "=" not in word]
            assert [t for t in targets if not re.search(rf"^{t}:", MAKEFILE, re.MULTILINE)] == []


def test_the_tests_run_on_every_python_and_on_the_oldest_and_newest_torch() -> None:
    matrix = workflow(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    script = (ROOT / "tools" / "venvs.sh").read_text()
    assert matrix["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert matrix["torch"] == [re.search(rf"{which}:-([\d.]+)", script)[1] for which in ("OLDEST", "NEWEST")]  # type: ignore[index]
    assert matrix["torch"][0].startswith(re.search(r'"torch>=([\d.]+)"', PYPROJECT)[1])  # type: ignore[index]


def test_the_project_has_one_address() -> None:
    urls = re.search(r"\[project\.urls\]\n(.*?)\n\n", PYPROJECT, re.DOTALL)
    assert urls
    assert set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", urls[1])) == {REPOSITORY}
    assert f'repository-code: "{REPOSITORY}"\n' in (ROOT / "CITATION.cff").read_text()


def test_the_links_of_the_readme_work_on_another_site() -> None:
    """PyPI shows the README without the repository, so every link is absolute; into the repository, to what exists."""
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", (ROOT / "README.md").read_text())
    found = [markdown or html for markdown, html in links]
    assert [link for link in found if not link.startswith(("https://", "#"))] == []
    ours = rf"(?:{REPOSITORY}/(?:blob|tree)/main|https://raw\.githubusercontent\.com/fastssm/fastssm/main)/([^#]+)"
    files = [match[1] for link in found if (match := re.match(ours, link))]
    assert len(files) >= 20
    assert [file for file in files if not (ROOT / file).exists()] == []
