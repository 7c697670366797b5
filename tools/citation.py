"""Write the references of CITATION.cff from src/fastssm/papers.bib, or only compare them: --check."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pybtex.database import Entry, Person, parse_file
from pybtex.richtext import Text

ROOT = Path(__file__).parents[1]
FILE = ROOT / "CITATION.cff"
TYPES = {"article": "article", "inproceedings": "conference-paper", "misc": "generic"}


def quoted(latex: str) -> str:
    """Return a field as a string of YAML."""
    return json.dumps(str(Text.from_latex(latex)), ensure_ascii=False)


def author(person: Person) -> str:
    """Return a person in YAML, on one line."""
    given, last = " ".join(person.first_names + person.middle_names), " ".join(person.prelast_names + person.last_names)
    names = {"family-names": last, "given-names": given} if given else {"name": last}
    return "{ " + ", ".join(f"{key}: {quoted(name)}" for key, name in names.items()) + " }"


def reference(entry: Entry) -> Iterator[str]:
    """Yield the lines of one paper."""
    fields: dict[str, Any] = entry.fields
    yield f"  - type: {TYPES[entry.type]}"
    yield f"    title: {quoted(fields['title'])}"
    yield "    authors:"
    yield from (f"      - {author(person)}" for person in entry.persons["author"])
    yield f"    year: {fields['year']}"
    if "booktitle" in fields:
        yield f"    conference: {{ name: {quoted(fields['booktitle'])} }}"
    if "journal" in fields:
        yield f"    journal: {quoted(fields['journal'])}"
    if "volume" in fields:
        yield f"    volume: {fields['volume']}"
    if "eprint" in fields:
        yield f"    url: https://arxiv.org/abs/{fields['eprint']}"


def written(text: str) -> str:
    """Return CITATION.cff with the references that papers.bib has, but for fastssm itself."""
    entries = parse_file(str(ROOT / "src" / "fastssm" / "papers.bib"), "bibtex").entries
    papers = [line for key, entry in entries.items() if key != "fastssm" for line in reference(entry)]
    before = text.partition("references:\n")[0]
    return f"{before}references:\n" + "\n".join(papers) + "\n"


if __name__ == "__main__":
    current = FILE.read_text()
    if "--check" not in sys.argv:
        FILE.write_text(written(current))
    elif written(current) != current:
        sys.exit("CITATION.cff does not have the papers of src/fastssm/papers.bib: run `make generate`.")
