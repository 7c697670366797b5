"""Puts a source file and all that it includes into one text, for NVRTC, which sees no files.

Run `python tools/amalgamate.py SOURCE ROOT OUTPUT [-DNAME ...]`; the names are defined on top.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"\n]+)"[^\n]*$', re.MULTILINE)
ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[^\n]*\n", re.MULTILINE)


def amalgamate(source: Path, root: Path) -> str:
    """Return the text of a file with its own includes in their place, each once; names in <> stay.

    Args:
        source: the file.
        root: the folder that messages of the compiler name files from.
    """
    return _text(source.resolve(), root.resolve(), set())


def _text(file: Path, root: Path, seen: set[Path]) -> str:
    seen.add(file)
    content, name = file.read_text(), file.relative_to(root)

    def included(match: re.Match[str]) -> str:
        target = (file.parent / match[1]).resolve()
        line = content.count("\n", 0, match.start()) + 2
        inner = "" if target in seen else _text(target, root, seen)
        return f'{inner}\n#line {line} "{name}"'

    return f'#line 1 "{name}"\n' + ONCE.sub("\n", INCLUDE.sub(included, content))


if __name__ == "__main__":
    defined = "".join(f"#define {flag.removeprefix('-D')}\n" for flag in sys.argv[4:])
    Path(sys.argv[3]).write_text(defined + amalgamate(Path(sys.argv[1]), Path(sys.argv[2])))
