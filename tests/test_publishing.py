"""What public services read: the workflows, the citation, the project's URLs and the links of the README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.covering import each

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
REPOSITORY = "https://github.com/fastssm/fastssm"
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def read_yaml(path: Path) -> Any:
    yaml = pytest.importorskip("ruamel.yaml", reason="the [test] extra has check-jsonschema, which needs it")
    return yaml.YAML(typ="safe").load(path.read_text())


def checked(*arguments: str | Path) -> int:
    """Run the command check-jsonschema here: a process of its own takes seconds to start."""
    checker = pytest.importorskip("check_jsonschema", reason="the [test] extra has check-jsonschema")
    testing = pytest.importorskip("click.testing", reason="check-jsonschema brings click")
    return int(testing.CliRunner().invoke(checker.main, ["--builtin-schema", *map(str, arguments)]).exit_code)


TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
FORMS = [path for path in sorted(TEMPLATES.glob("*.yml")) if path.name != "config.yml"]
SCHEMAS = {  # the files of each
    "vendor.github-workflows": WORKFLOWS,
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
    "vendor.github-issue-forms": FORMS,
    "vendor.github-issue-config": [TEMPLATES / "config.yml"],
}


@each("schema", SCHEMAS)
def test_what_github_reads_fits_its_schema(schema: str) -> None:
    """And `make lint` checks it."""
    assert SCHEMAS[schema]
    assert checked(schema, *SCHEMAS[schema]) == 0
    assert f"--builtin-schema {schema} " in MAKEFILE


BREAKS = [
    *((WORKFLOWS[0], old, new) for old, new in [("runs-on:", "run-on:"), ("    strategy:", "   strategy:")]),
    *((FORMS[0], old, new) for old, new in [("type: textarea", "type: text"), ("render: python", "render: 3")]),
]


@each("broken", BREAKS)
def test_a_broken_file_is_noticed(tmp_path: Path, broken: tuple[Path, str, str]) -> None:
    path, old, new = broken
    (tmp_path / path.name).write_text(path.read_text().replace(old, new, 1))
    assert old in path.read_text()
    assert checked(next(name for name, paths in SCHEMAS.items() if path in paths), tmp_path / path.name) == 1


def test_each_issue_form_asks_what_a_maintainer_needs() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature", "slow", "wrong_number"]
    for path in FORMS:
        questions = {part["id"]: part for part in read_yaml(path)["body"]}
        if path.stem != "feature":
            assert all(questions[name]["validations"]["required"] for name in ("info", "program")), path.name
        programs = questions["program"]["attributes"]["placeholder"]
        compile(programs, path.name, "exec")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_jobs_of_a_workflow_run_make_targets_that_exist(path: Path) -> None:
    jobs = read_yaml(path)["jobs"]
    for name, job in jobs.items():
        assert set(job.get("needs", ())) <= set(jobs), f"{name} needs a job that does not exist"
        for command in (step["run"] for step in job["steps"] if "run" in step):
            assert command.startswith("make "), f"{name} runs {command!r}: call a make target, as a developer does"
            targets = [word for word in shlex.split(command)[1:] if "=" not in word]
            assert [t for t in targets if not re.search(rf"^{t}:", MAKEFILE, re.MULTILINE)] == []


def test_the_tests_run_on_every_python_and_on_the_oldest_and_newest_torch() -> None:
    jobs = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    script = (ROOT / "tools" / "venvs.sh").read_text()
    assert matrix["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert matrix["torch"] == [re.search(rf"{which}:-([\d.]+)", script)[1] for which in ("OLDEST", "NEWEST")]  # type: ignore[index]
    assert jobs["wheels"]["env"]["TORCH"] == f"torch=={matrix['torch'][1]}"
    assert jobs["wheels"]["strategy"]["matrix"]["python"] == matrix["python"]
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
