"""Tables: `read_table` reads one from a file, and its `Schema` reads other rows in the same way."""

from fastssm.data.tables.encode import encode_piece, list_names, require_rows
from fastssm.data.tables.options import Categorical, Decimal, Header, Missing, ReadOptions
from fastssm.data.tables.read import READERS, read_pieces, read_table, read_with
from fastssm.data.tables.sources import COMPRESSED, STANDARD_INPUT
from fastssm.data.tables.survey import survey
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
    "encode_piece",
    "list_names",
    "read_pieces",
    "read_table",
    "read_with",
    "require_rows",
    "survey",
]
