"""The committed table of broken rules and products belongs to the sources as they are."""

import csv
import re
from pathlib import Path

import mutants

RESULT = Path(__file__).parents[1] / "bench" / "results" / "mutants.csv"


def test_every_mutant_was_tried_and_caught():
    with RESULT.open() as file:
        found = list(csv.DictReader(file))
    listed = [(row["file"], row["rule"], row["term"], row["change"]) for row in found]
    assert listed == [mutant[:4] for mutant in mutants.every_mutant()], "run make mutants again"
    assert {row["caught"] for row in found} == {"yes"}


def test_every_function_of_the_products_has_a_mutant():
    text = (mutants.CSRC / mutants.PRODUCT).read_text()
    functions = set(re.findall(r"^[a-z].* (\w+)\(", text, re.MULTILINE))
    assert functions - {function for function, *_ in mutants.PRODUCTS} == {"rows_at_once", "fetch"}, (
        "whose values change no result"
    )
