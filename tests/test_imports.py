"""Imports run one way, and `import fastssm` is quiet and light."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src/fastssm"

# A module may import from the rows above its own, never from its own row or below.
ROWS = [
    {"activations", "citations", "compiling", "domains", "errors", "graphs", "options", "text"},
    {"directions", "native", "nn"},
    {"recognition"},
    {"checks", "sweeps"},
    {"jets", "noise"},
    {"backends"},
    {"conditionals", "operators", "sampling"},
    {"losses"},
    {"diagnostics", "diffusion", "graphical", "integrations"},
    {"__init__"},  # the public names
    {"data"},
    {"training"},
    {"plots", "sklearn"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {module: rank for rank, row in enumerate(ROWS) for module in row}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def source_of(path: Path) -> str:
    """Return the source of a file of the package; of its `__init__`, without the names that it imports on first use."""
    source = (PACKAGE / path).read_text()
    if path == Path("__init__.py"):
        before, block, after = source.partition("\nif TYPE_CHECKING:")
        assert block, "nothing is imported on first use"
        source = before + after[after.index("\n\n") :]
    return source


def imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Yield the fastssm module named by each import of `source`, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names = [(*base, alias.name) for alias in node.names]
        else:
            continue
        own = [(*name, "__init__")[1] for name in names if name[0] == "fastssm"]
        yield from (name if name in RANK or (PACKAGE / name).exists() else "__init__" for name in own)


def test_imports_run_one_way():
    wrong = {}
    for path in MODULES:
        module = path.parts[0].removesuffix(".py")
        assert module in RANK, f"give {module} its row in this file"
        others = set(imported(source_of(path), ("fastssm", *path.parts[:-1]))) - {module}
        wrong[str(path)] = {other for other in others if RANK[other] >= RANK[module]}
    assert {path: others for path, others in wrong.items() if others} == {}


FORMS = {
    "from .cli import main": "cli",
    "from . import cli": "cli",
    "import fastssm.cli": "cli",
    "import fastssm": "__init__",
    "from fastssm import sliced_loss": "__init__",
    "def f():\n    from fastssm.cli import main": "cli",
}


def test_the_reader_of_imports_sees_every_form():
    assert {source: list(imported(source, ("fastssm",))) for source in FORMS} == {s: [m] for s, m in FORMS.items()}


def name_of(path: Path) -> str:
    """Return the name by which a file of the package is imported."""
    return ".".join(("fastssm", *path.with_suffix("").parts)).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


def modules_imported(source: str) -> set[str]:
    """Return the modules of fastssm that a file imports, imports for type checkers included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & NAMES
        elif isinstance(node, ast.ImportFrom) and node.module in NAMES:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}  # modules, or names of node.module
            found |= {name if name in NAMES else node.module for name in whole}
    return found


def circle(sources: dict[str, str]) -> list[str]:
    """Return modules that import each other in a circle, or nothing."""
    graph = {name: modules_imported(source) - {name} for name, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    """Inside a package too."""
    sources = {name_of(path): source_of(path) for path in MODULES}
    assert circle(sources) == []
    sources["fastssm.options"] += "\nif TYPE_CHECKING:\n    from fastssm.losses.sliced import sliced_loss\n"
    assert {"fastssm.options", "fastssm.losses.sliced"} <= set(circle(sources))


PROBE = """
import sys, torch

def refuse(*args, **kwargs):
    raise AssertionError("importing fastssm touched CUDA")

torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = refuse
before = set(sys.modules)
import fastssm
heavy = {name.split(".")[0] for name in set(sys.modules) - before} & set(sys.argv[1:])
assert not heavy, heavy
"""


def test_import_is_quiet_light_and_leaves_cuda_alone():
    heavy = ["matplotlib", "rich", "sklearn", "pandas", "pyarrow", "scipy", "pytest", "hypothesis"]
    done = subprocess.run([sys.executable, "-c", PROBE, *heavy], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_starts_no_build_and_no_compiler():
    code = "import sys, fastssm; assert not {'torch.utils.cpp_extension', 'torch._inductor'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


LAZY = """
import sys, fastssm
assert not {name for name in sys.modules if name.startswith(("fastssm.training", "fastssm.data", "fastssm.diffusion"))}
for name in ("diffusion", "sampling", "diagnostics", "data", "training", "integrations", "graphical"):
    assert name in dir(fastssm)
    assert getattr(fastssm, name) is sys.modules[f"fastssm.{name}"]
    assert vars(fastssm)[name] is getattr(fastssm, name)
assert fastssm.diffusion.VP and fastssm.load is fastssm.training.load
from fastssm import *
assert load is fastssm.load and data is fastssm.data
try:
    fastssm.diffusoin
except AttributeError as error:
    assert str(error) == "module 'fastssm' has no attribute 'diffusoin'"
else:
    raise AssertionError("a misspelt name was found")
"""


def test_parts_of_the_package_are_imported_on_first_use():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
