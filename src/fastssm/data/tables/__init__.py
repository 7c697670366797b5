"""Tables: `read_table` reads one from a file, and its `Schema` reads other rows in the same way."""

from fastssm.data.tables.encode import list_names
from fastssm.data.tables.options import Categorical, Decimal, Header, Missing, ReadOptions
from fastssm.data.tables.read import READERS, read_table, read_with
from fastssm.data.tables.sources import COMPRESSED, STANDARD_INPUT
from fastssm.data.tables.table import Column, Schema, Table

__all__ = [
    "COMPRESSED",
    "READERS",
    "STANDARD_INPUT",
    "Categorical",
    "Column",
    "Decimal",
    "Header",
    "Missing",
    "ReadOptions",
    "Schema",
    "Table",
    "list_names",
    "read_table",
    "read_with",
]
