"""Run the notebooks, and write what they print and draw: ``python -m bench.notebooks`` from the repository root.

Notebooks are stored without outputs. Each row of bench/results/notebooks.csv is a line that a cell printed, or the name
of a picture in docs/figures/. The pages in docs/notebooks/ are made of the notebooks, these rows and pictures.
"""

import argparse
import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.harness import RESULTS, ROOT, WHO, environment, read, write_rows
from bench.measure import Row

OUT = RESULTS / "notebooks.csv"
COLUMNS = (*WHO, "threads", "notebook", "digest", "cell", "kind", "text")
FOLDER, PAGES, FIGURES = ROOT / "notebooks", ROOT / "docs" / "notebooks", ROOT / "docs" / "figures"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOURCE = "https://github.com/fastssm/fastssm/blob/main/notebooks"
TIMEOUT, THREADS = 1800, 1
KEPT = {"alt", "smoke", "tags"}  # of the metadata of a cell: of a picture; of the parameters


def cells_of(path: Path, *, smoke: bool = False) -> list[dict[str, Any]]:
    """Return the cells of a notebook; of a smoke run, with small numbers after the cell of its parameters."""
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
        if smoke and "smoke" in cell["metadata"]:
            cell["source"] += "".join(f"\n{name} = {value!r}" for name, value in cell["metadata"]["smoke"].items())
    return cells


def digest(path: Path) -> str:
    """Return a number of the code of a notebook, by which outputs of older code are noticed."""
    code = "\n".join(cell["source"] for cell in cells_of(path) if cell["cell_type"] == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def executed(path: Path, *, smoke: bool = False) -> Iterator[tuple[int, str, str]]:
    """Run a notebook in a kernel; yield the number of a cell, "text" or "figure", and a line or a picture in base64.

    Raises:
        RuntimeError: if a cell prints to the error stream, such as a warning.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.from_dict(json.loads(path.read_text()) | {"cells": cells_of(path, smoke=smoke)})
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=TIMEOUT, resources={"metadata": {"path": folder}}).execute()
    for number, cell in enumerate(book.cells):
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path.name}, cell {number}: {output['text']}")
            data = output.get("data", {})
            if "image/png" in data:
                yield number, "figure", data["image/png"]
            else:
                text = output["text"] if "text" in output else data["text/plain"]
                yield from ((number, "text", line.rstrip()) for line in text.rstrip("\n").splitlines())


def rows_of(path: Path) -> Iterator[Row]:
    """Run a notebook, write its pictures, and yield its rows."""
    shared = environment() | {"threads": THREADS, "notebook": path.stem, "digest": digest(path)}
    for number, kind, text in executed(path):
        if kind == "figure":
            name = f"notebook_{path.stem}_{number}.png"
            (FIGURES / name).write_bytes(base64.b64decode(text))
            text = name
        yield shared | {"cell": number, "kind": kind, "text": text}


def page(path: Path, rows: Sequence[Row]) -> str:
    """Return a notebook with its outputs as a page of the documentation."""
    mine = [row for row in rows if row["notebook"] == path.stem]
    parts = [f"<!-- Made by `make notebooks` from notebooks/{path.name}. -->"]
    for number, cell in enumerate(cells_of(path)):
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"].replace("](../docs/", "](../").replace(".ipynb)", ".md)"))
            continue
        parts.append(f"```python\n{cell['source']}\n```")
        found = [row for row in mine if int(row["cell"]) == number]
        lines = [row["text"] for row in found if row["kind"] == "text"]
        parts += ["```text\n" + "\n".join(lines) + "\n```"] if lines else []
        alt = cell["metadata"].get("alt", "")
        parts += [f"![{alt}](../figures/{row['text']})" for row in found if row["kind"] == "figure"]
    parts.append(f"[The notebook]({SOURCE}/{path.name}) to run this page yourself.")
    return "\n\n".join(parts) + "\n"


def strip(path: Path) -> None:
    """Remove from a notebook what an editor left: outputs, counts and all metadata but ours."""
    book = json.loads(path.read_text())
    book["metadata"] = {name: book["metadata"][name] for name in ("kernelspec", "language_info")}
    book["metadata"]["language_info"] = {"name": "python"}
    for cell in book["cells"]:
        cell["metadata"] = {name: value for name, value in cell["metadata"].items() if name in KEPT}
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the notebooks, and update the file and the page after each."""
    options = argparse.ArgumentParser(prog="python -m bench.notebooks", description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(p.stem for p in NOTEBOOKS)}")
    options.add_argument("--smoke", action="store_true", help="only run them, with small numbers")
    options.add_argument("--strip", action="store_true", help="only remove outputs, after an edit")
    options.add_argument("--pages", action="store_true", help="only write the pages anew, from what was run")
    chosen = options.parse_args(argv)
    os.environ.pop("MPLBACKEND", None)  # a kernel draws into the notebook
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    PAGES.mkdir(exist_ok=True)
    for path in NOTEBOOKS:
        if chosen.names and path.stem not in chosen.names:
            continue
        if chosen.strip:
            strip(path)
            continue
        if chosen.smoke:
            print(
                f"== {path.stem}", *(text for _, kind, text in executed(path, smoke=True) if kind == "text"), sep="\n"
            )
            continue
        if not chosen.pages:
            kept = [row for row in read(OUT) if row["notebook"] != path.stem]
            fresh = list(rows_of(path))
            print(f"== {path.stem}", *(row["text"] for row in fresh), sep="\n", flush=True)
            write_rows(sorted([*kept, *fresh], key=lambda row: str(row["notebook"])), OUT, COLUMNS)
        (PAGES / f"{path.stem}.md").write_text(page(path, read(OUT)))


if __name__ == "__main__":
    main()
