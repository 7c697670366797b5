"""The papers behind what is public: none is missing, BibTeX parses, and docstrings and CITATION.cff have the same."""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import fastssm
from fastssm import citations, diagnostics, diffusion, domains, graphical, nn, operators, sampling
from fastssm.integrations import ebmkit
from tests.covering import each

PUBLIC = (fastssm, operators, diffusion, sampling, diagnostics, graphical, domains, nn, ebmkit, fastssm.directions)
NOT_PUBLIC = {"philox", "rademacher"}  # of fastssm.directions, which has no list of its public names


def plain(text: str) -> str:
    """Return a text without accents, neither as characters nor as LaTeX writes them."""
    decomposed = unicodedata.normalize("NFD", re.sub(r"\{\\.(\w)\}", r"\1", text))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def with_sources() -> Iterator[tuple[str, Any, str]]:
    """Yield what is public and names a source with a year: its name, itself, what the docstring says."""
    found = {}
    for package in PUBLIC:
        names = set(getattr(package, "__all__", vars(package))) - NOT_PUBLIC
        found.update({name: getattr(package, name) for name in names if not name.startswith("_")})
    for name, public in found.items():
        source = (inspect.getdoc(public) or "").partition("Source:")[2].partition("Raises:")[0]
        if callable(public) and public.__module__.startswith("fastssm") and re.search(r"\b\d{4}\b", source):
            yield name, public, source


SOURCES = {name: (public, source) for name, public, source in with_sources()}


@each("name", sorted(SOURCES))
def test_a_docstring_and_the_table_name_the_same_papers(name: str) -> None:
    """By the years, and by the first author of each paper; a twin may name only some of its function's."""
    public, source = SOURCES[name]
    entries = [citations.papers()[key] for key in citations.keys_of(public)]
    authors = [plain(entry.partition("author = {")[2]).split(",")[0] for entry in entries]
    papers = set(zip(authors, (entry.split("year = {")[1][:4] for entry in entries), strict=True))
    years = set(re.findall(r"\b(?:19|20)\d{2}\b", source))
    if hasattr(public, "loss"):
        assert years <= {year for _, year in papers}
    else:
        assert years == {year for _, year in papers}
        assert [author for author, _ in papers if author not in plain(source)] == []


def test_every_loss_and_operator_has_papers() -> None:
    public = [name for package in (fastssm, diffusion) for name in package.__all__ if name.endswith("_loss")]
    public += ["divergence", "jacobian_diag", "laplacian", "hvp_form", "terms", "score", "entropy_gradient"]
    assert len(public) >= 20
    assert [name for name in public if name not in citations.CITED] == []
    assert len(SOURCES) >= 70


def test_the_table_and_the_entries_have_the_same_keys() -> None:
    used = {key for keys in [*citations.CITED.values(), citations.SELF] for key in keys.split()}
    assert set(citations.papers()) == used


def test_the_entries_are_bibtex() -> None:
    database = pytest.importorskip("pybtex.database", reason="the [test] extra has it")
    entries = database.parse_string("\n\n".join(citations.papers().values()), "bibtex").entries
    assert set(entries) == set(citations.papers())
    for key, entry in entries.items():
        assert {"title", "year"} <= set(entry.fields), key
        assert entry.persons["author"], key
        assert {"article": "journal", "inproceedings": "booktitle"}.get(entry.type, "year") in entry.fields, key
        assert "@" not in "".join(entry.fields.values()), key


def test_the_citation_file_has_the_same_papers() -> None:
    pytest.importorskip("pybtex", reason="the [test] extra has it")
    from tools import citation

    text = citation.FILE.read_text()
    assert citation.written(text) == text
    assert citation.written(text.replace("Hyvärinen", "Hyvarinen")) == text
    assert text.count("  - type: ") == len(citations.papers()) - 1


class Mine(fastssm.DomainLoss):
    """A subclass of a user."""


NET = nn.MLP(2, [4])
WAYS = {
    "domain_loss": ["domain_loss", "fastssm.domain_loss", fastssm.domain_loss, fastssm.DomainLoss, "DomainLoss"],
    "elbo_loss": ["ElboLoss", "diffusion.elbo_loss", diffusion.ElboLoss],
    "sliced_loss": [fastssm.SlicedScoreLoss(NET), fastssm.SlicedScoreLoss],
    "VP": [diffusion.VP(), diffusion.VP],
    "MLP": [NET],
}


@each("name", WAYS)
def test_functions_twins_instances_and_names_are_accepted(name: str) -> None:
    for way in WAYS[name]:
        assert citations.keys_of(way) == citations.CITED[name].split(), way
    assert citations.keys_of(Mine) == citations.CITED["domain_loss"].split()


def test_a_citation_is_shown_as_text_and_each_paper_once() -> None:
    both = fastssm.cite(fastssm.sliced_loss, "terms", fastssm.denoising_loss)
    assert re.findall(r"^@\w+\{(\w+),$", both, re.MULTILINE) == ["song2019sliced", "vincent2011connection"]
    assert repr(both) == both == str(both)
    assert fastssm.cite().startswith("@misc{fastssm,")
    assert "song2019sliced" in fastssm.cite()


def score(x: torch.Tensor) -> torch.Tensor:
    """Share a name with a function of fastssm."""
    return x


@each("wrong", ["slice_loss", 3, len, score, None, torch.nn.Linear(2, 2), ""])
def test_what_has_no_paper_is_refused(wrong: object) -> None:
    with pytest.raises(LookupError, match="knows no paper behind") as refusal:
        fastssm.cite(wrong)
    assert ("did you mean sliced_loss" in str(refusal.value)) == (wrong == "slice_loss")
