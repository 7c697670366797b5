"""Tables: `read_table` reads one from a file, and its `Schema` reads other rows in the same way."""

from fastssm.data.tables.options import ReadOptions
from fastssm.data.tables.read import READERS, read_table, read_with
from fastssm.data.tables.table import Column, Schema, Table

__all__ = ["READERS", "Column", "ReadOptions", "Schema", "Table", "read_table", "read_with"]
