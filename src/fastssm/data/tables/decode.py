"""Turn the bytes of a text file into blocks of whole lines."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastssm.data.tables.sources import Source

BLOCK = 2**18  # characters read at once
LONGEST_LINE = 2**26
BOMS = (  # that of UTF-32 first, because it starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive or an Excel file",
    b"PAR1": "a Parquet file",
    b"ARROW1": "a Feather file",
    b"\x93NUMPY": "an NPY file",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF file",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
}
LEFT_OUT = re.compile(r"^ *(?:[ \t]*#.*)?\n", re.MULTILINE)


def guess_encoding(source: Source) -> str:
    """Return the encoding that the first bytes tell, `"utf-8"` if they tell none.

    Raises:
        ValueError: if they are not those of a text.
    """
    head = source.head(4096)
    for mark, encoding in BOMS:
        if head.startswith(mark):
            return encoding
    for magic, name in OTHER_FORMATS.items():
        if head.startswith(magic):
            raise ValueError(f"{source.label}: expected text, but this is {name}; give the file its own extension")
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > 0.3 * len(head) / 2 and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    if any(byte < 9 or 13 < byte < 27 for byte in head):
        raise ValueError(f"{source.label}: not a text file; give a file of another format its own extension")
    return "utf-8"


@dataclass
class Lines:
    """The lines of a text, without empty lines and comments.

    Args:
        source: the file.
        encoding: how to decode it.
        comments: the comments found so far.
    """

    source: Source
    encoding: str
    comments: int = 0
    first_comments: list[str] = field(default_factory=list)

    def blocks(self) -> Iterator[str]:
        """Yield blocks of whole lines, each ended by a line feed.

        Raises:
            UnicodeDecodeError: if the text has another encoding.
            ValueError: if a line is too long.
        """
        with io.TextIOWrapper(self.source.open(), self.encoding, newline=None) as file:
            while block := file.read(BLOCK):
                if not block.endswith("\n"):
                    tail = file.readline(LONGEST_LINE)
                    if len(tail) == LONGEST_LINE:
                        raise ValueError(
                            f"{self.source.label}: a line is longer than {LONGEST_LINE:,} characters; is it a table?"
                        )
                    block += tail if tail.endswith("\n") else tail + "\n"
                if "\0" in block:
                    raise ValueError(f"{self.source.label}: not a text file; it has zero bytes")
                block = self._without_comments(block)
                if block:
                    yield block

    def _without_comments(self, block: str) -> str:
        if not ("#" in block or "\n\n" in block or " \n" in block or block.startswith("\n")):
            return block
        left_out = [line for line in LEFT_OUT.findall(block) if line.strip()]
        if left_out and not self.comments:
            start = block.lstrip(" \n")
            while start.lstrip().startswith("#"):
                comment, _, start = start.partition("\n")
                self.first_comments.append(comment.strip().lstrip("#").strip())
        self.comments += len(left_out)
        return LEFT_OUT.sub("", block)
