"""Time the examples, and lay out the gallery of the documentation.

``python -m bench.gallery`` from the repository root writes bench/results/gallery.csv: the seconds of one core that each
example takes. With --figures it also draws the figures of docs/figures that `DRAWN` names. Each example runs in a
separate process. `python tools/fill_tables.py` then writes docs/gallery.md.
"""

import argparse
import ast
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from bench.harness import RESULTS, ROOT, WHO, environment, read, write_rows
from bench.measure import Row

OUT = RESULTS / "gallery.csv"
COLUMNS = (*WHO, "threads", "example", "seconds")
DOCS = ROOT / "docs"
THREADS = 1
DRAWN = {"energy_2d": "energy_2d.png", "score_net": "score_net.png", "custom_loss": "custom_loss.png"}
FIGURES = DRAWN | {  # of the other examples whose figure has another name
    "composite_density": "composite.png",
    "custom_sde": "diffusion_whirl.png",
    "heavy_tails": "preconditioned.png",
    "tempered_mixture": "tempered.png",
    "truncated": "domains.png",
}
GALLERY = {  # by the headings of the page: the title of each example
    "First steps": {
        "energy_2d": "An energy of a ring",
        "score_net": "A score, and samples",
        "custom_loss": "A loss of your own",
        "diagnostics": "How many projections",
    },
    "Losses": {
        "denoising": "Denoising",
        "annealed": "Annealed noise levels",
        "composite_density": "Autoregressive densities",
        "finite_difference": "Finite differences",
        "truncated": "Truncated densities",
        "heavy_tails": "Heavy tails",
        "tempered_mixture": "Distant modes",
    },
    "Diffusions and flows": {
        "diffusion_likelihood": "Diffusion likelihoods",
        "custom_sde": "A diffusion of your own",
        "edm_denoiser": "An EDM denoiser",
        "flow_matching": "Flow matching",
    },
    "Science": {
        "causal_order": "The order of causes",
        "simulation_inference": "Posteriors of a simulator",
        "variational_monte_carlo": "Ground states",
        "poisson": "Poisson's equation",
    },
    "Trainers and devices": {
        "recipes/lightning_fit": "Lightning",
        "recipes/accelerate_fit": "accelerate",
        "distributed": "Many devices",
    },
}
NAMES = [name for titles in GALLERY.values() for name in titles]


def source(name: str) -> str:
    """Return the path of an example in the repository."""
    return f"examples/{name}.py"


def figure(name: str) -> str | None:
    """Return the file of an example's figure in docs/figures, if it has one."""
    file = FIGURES.get(name, f"{name}.png")
    return file if (DOCS / "figures" / file).exists() else None


def sentence(name: str) -> str:
    """Return the first sentence of an example's docstring."""
    return (ast.get_docstring(ast.parse((ROOT / source(name)).read_text())) or "").split("\n\n")[0]


def descriptions() -> dict[str, str]:
    """Return the texts that other pages give for the figures, by file."""
    pages = [page.read_text() for page in DOCS.rglob("*.md") if page.name != "gallery.md"]
    found = re.findall(r"!\[([^\]]+)\]\((?:\.\./)?figures/([\w.]+)\)", "\n".join(pages))
    return {file: text for text, file in found} | {
        "energy_2d.png": "Points around a ring, and the density learned from them",
        "score_net.png": "Arrows of the learned score over the data, and Langevin samples",
        "custom_loss.png": "Scores learned with and without the weight, beside the true score, which is constant",
    }


def duration(seconds: float) -> str:
    """Return seconds in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def cards(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the gallery: pictures with their titles, then the programs."""
    times, texts = {row["example"]: float(row["seconds"]) for row in rows}, descriptions()
    machines = sorted({row["machine"].partition(",")[0] for row in rows})
    yield from (f"Times are processor time on one thread ({', '.join(machines)}).", "")
    for heading, titles in GALLERY.items():
        yield from (f"## {heading}", "", '<div class="gallery" markdown>', "")
        for name, title in titles.items():
            anchor = name.rpartition("/")[2]
            yield from ('<div class="card" markdown>', "")
            if file := figure(name):
                yield from (f"[![{texts[file]}](figures/{file}){{ loading=lazy }}](#{anchor})", "")
            took = f" · {duration(times[name])}" if name in times else ""
            yield from (f"**[{title}](#{anchor})**{took}", "", sentence(name), "", "</div>", "")
        yield from ("</div>", "")
    yield "## The programs"
    for name in NAMES:
        path = source(name)
        yield from ("", f'??? example "{path}"', "", f'    <a id="{name.rpartition("/")[2]}"></a>', "")
        yield from ("    ```python", f'    --8<-- "{path}"', "    ```")


def seconds(name: str, draw: bool) -> float:
    """Run an example, and return the seconds of processor time that it took."""
    variables = {"OMP_NUM_THREADS": str(THREADS), "MPLBACKEND": "Agg"}
    command = [sys.executable, str(ROOT / source(name))]
    if draw and name in DRAWN:
        command += ["--figure", str(DOCS / "figures" / DRAWN[name])]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, env=os.environ | variables, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    """Time the examples, and update the file after each."""
    options = argparse.ArgumentParser(prog="python -m bench.gallery", description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)} (default: all)")
    options.add_argument("--figures", action="store_true", help=f"draw {', '.join(DRAWN.values())}")
    chosen = options.parse_args(argv)
    for name in chosen.names or NAMES:
        row = environment() | {"threads": THREADS, "example": name, "seconds": f"{seconds(name, chosen.figures):.1f}"}
        print(f"{name}: {row['seconds']} s", flush=True)
        kept = [row for row in read(OUT) if row["example"] != name]
        write_rows(sorted([*kept, row], key=lambda row: row["example"]), OUT, COLUMNS)


if __name__ == "__main__":
    main()
