"""Tables as people write them: dialects, encodings, headers, numbers, and one report of all faults."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastssm.data import Table, read_table

Rows = list[list[float]]
GENERATOR = np.random.default_rng(15)
NUMBERS = GENERATOR.normal(10, 2, size=(120, 3)).round(3)


def lines(separator: str, decimal: str = ".", rows: np.ndarray = NUMBERS, end: str = "") -> str:
    return "".join(separator.join(f"{x:.3f}".replace(".", decimal) for x in row) + end + "\n" for row in rows)


def read(path: Path, content: str | bytes, **options: Any) -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


ABC = ("a", "b", "c")
NUMBERED = ("column 1", "column 2", "column 3")
DIALECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "commas": ("a,b,c\n" + lines(","), ABC),
    "commas and blanks": ("a, b, c\n" + lines(", "), ABC),
    "semicolons": ("a;b;c\n" + lines(";"), ABC),
    "semicolons and decimal commas": ("a;b;c\n" + lines(";", ","), ABC),
    "tabs": ("a\tb\tc\n" + lines("\t"), ABC),
    "tabs and decimal commas": ("a\tb\tc\n0,5\t0,25\t1,5\n" + lines("\t", ","), ABC),
    "bars": ("a|b|c\n" + lines("|"), ABC),
    "bars on both sides": ("|a|b|c|\n" + "".join(f"|{line}|\n" for line in lines("|").split()), ABC),
    "blanks": ("a b c\n" + lines(" "), ABC),
    "runs of blanks, no header": ("".join(f"  {line}\n" for line in lines("   ").splitlines()), NUMBERED),
    "blanks and tabs": ("a b c\n" + lines(" \t "), ABC),
    "Excel's sep line": ("sep=;\na;b;c\n" + lines(";"), ABC),
    "comments": ("# made by an instrument, 7\n# units: mm\na,b,c\n" + lines(",") + "# end\n", ABC),
    "names in a comment": ("# a b c\n" + lines(" "), ABC),
    "trailing commas": ("a,b,c,\n" + lines(",", end=","), ABC),
    "trailing commas below the names": ("a,b,c\n" + lines(",", end=","), ABC),
    "a header of years": ("2019,2020,2021\n" + lines(","), ("2019", "2020", "2021")),
    "an unnamed index": (",a,b,c\n" + "".join(f"{i},{line}\n" for i, line in enumerate(lines(",").split())), ABC),
    "an index read again": (
        "Unnamed: 0,a,b,c\n" + "".join(f"{i},{x}\n" for i, x in enumerate(lines(",").split())),
        ABC,
    ),
    "row names of R": ("a b c\n" + "".join(f'"r{i}" {x}\n' for i, x in enumerate(lines(" ").splitlines())), ABC),
    "empty lines": ("\n\na,b,c\n\n" + lines(",").replace("\n", "\n\n", 50) + "  \n\n", ABC),
    "quoted cells": ('"a","b","c"\n' + "".join(f'"{x}"\n' for x in lines('","').splitlines()), ABC),
    "a quoted line feed": ('a,"b",c\n'.replace("b", "b\nb") + lines(","), ("a", "b b", "c")),
    "Windows": (("a,b,c\n" + lines(",")).replace("\n", "\r\n"), ABC),
    "old Mac": (("a,b,c\n" + lines(",")).replace("\n", "\r"), ABC),
    "no last line feed": (("a,b,c\n" + lines(","))[:-1], ABC),
    "umlauts": ("länge,höhe,ß\n" + lines(","), ("länge", "höhe", "ß")),
}


def test_every_dialect(path: Path) -> None:
    for case, (content, names) in DIALECTS.items():
        table = read(path, content)
        assert table.names == names, case
        rows = table.values[1:] if case == "tabs and decimal commas" else table.values
        np.testing.assert_array_equal(rows, NUMBERS, err_msg=case)
        assert table.row_numbers.tolist() == list(range(1, len(table.values) + 1))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_every_encoding(path: Path, encoding: str) -> None:
    table = read(path, ("länge;höhe;c\n" + lines(";")).encode(encoding))
    assert table.names == ("länge", "höhe", "c")
    np.testing.assert_array_equal(table.values, NUMBERS)
    assert any("Latin-1" in note for note in table.notes) == (encoding == "latin-1")


def test_latin_1_far_into_the_file(path: Path) -> None:
    """The first block is plain ASCII, so that the encoding is found out only later."""
    rows = "".join(f"{i},{i + 0.5}\n" for i in range(200_000))
    table = read(path, b"a,b\n" + rows.encode() + "# gemessen in Köln\n1,2\n".encode("latin-1"))
    assert table.values.shape == (200_001, 2)
    np.testing.assert_array_equal(table.values[:-1, 0], np.arange(200_000))


def test_blocks_join_without_a_seam(path: Path) -> None:
    """A fault far from the start goes the slow way from its block on; both ways agree."""
    rows = GENERATOR.normal(size=(30_000, 4))
    text = "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist())
    np.testing.assert_array_equal(read(path, text, header=False).values, rows)
    np.testing.assert_array_equal(read(path, text + '"1","2","3","4"\n', header=False).values[:-1], rows)
    late = read(path, text + "1,2,,4\n" + text, header=False, missing="drop")
    assert late.row_numbers[-1] == 60_001
    np.testing.assert_array_equal(late.values, np.concatenate([rows, rows]))


CELLS: dict[str, tuple[str, Rows, str]] = {
    "quoted thousands": (
        'p,q\n"989,558",9.5\n"1,023,270",7.3\n',
        [[989558, 9.5], [1023270, 7.3]],
        "989,558 is read as 989558",
    ),
    "thousands and decimals": ('p,q\n"1,234.5",9\n950,7\n', [[1234.5, 9], [950, 7]], "read as 1234.5"),
    "points for thousands": ("p;q\n1.234,5;2\n950;7\n", [[1234.5, 2], [950, 7]], "read as 1234.5"),
    "blanks for thousands": ("p;q\n1 234,5;2\n950;7\n", [[1234.5, 2], [950, 7]], "read as 1234.5"),
    "thin blanks": ("p;q\n1\u202f234;2\n950;7\n", [[1234, 2], [950, 7]], "read as 1234"),
    "apostrophes": ("p,q\n1'234.5,2\n950,7\n", [[1234.5, 2], [950, 7]], "read as 1234.5"),
    "percent": ("p,q\n9.9%,2\n50 %,7\n", [[0.099, 2], [0.5, 7]], "'p' has percentages"),
    "dollars": ("p,q\n$9.78,2\n-$5,7\n", [[9.78, 2], [-5, 7]], "'p' has the sign $"),
    "euros behind": ("p;q\n9,5 €;2\n5 €;7\n", [[9.5, 2], [5, 7]], "'p' has the sign €"),
    "bools": ("p,q\nTrue,2\nFALSE,7\n", [[1, 2], [0, 7]], ""),
    "a minus sign": ("p,q\n\u22129.5,2\n5,7\n", [[-9.5, 2], [5, 7]], ""),
    "exponents": ("p,q\n1e-3,2E5\n+5,.5\n", [[0.001, 2e5], [5, 0.5]], ""),
    "semicolons prove decimal commas": ("p;q\n9,896;2\n1,234;7\n", [[9.896, 2], [1.234, 7]], "9,896 is read as 9.896"),
    "one column of decimal commas": ("p\n9,896\n10,233\n", [[9.896], [10.233]], "9,896 is read as 9.896"),
    "repeated names": ("p,p\n1,2\n3,4\n", [[1, 2], [3, 4]], "became 'p (2)'"),
}


def test_numbers_as_people_write_them(path: Path) -> None:
    for case, (content, rows, note) in CELLS.items():
        table = read(path, content)
        np.testing.assert_array_equal(table.values, rows, err_msg=case)
        assert note in " ".join(table.notes), case


FAULTS: dict[str, tuple[str, list[str]]] = {
    "missing": (
        "a,b,c\n1,2,\n?,2,3\n4,NA,6\n",
        [
            "'a' has 1 missing value, first '?' in row 2; --missing drop",
            "'b' has 1 missing value, first 'NA' in row 3",
            "'c' has 1 missing value, first the empty cell in row 1",
        ],
    ),
    "underscore": ("a,b\n9895_000,2\n3,4\n", ["'a' has an underscore in '9895_000' in row 1", "--drop 'a'"]),
    "text": ("a,b\n1,red\n2,blue\n", ["'b' holds text, 2 different values, first 'red' in row 1; --categorical drop"]),
    "dates": ("a,b\n1,2020-01-31\n2,2020-02-01\n", ["'b' holds dates or times", "--categorical drop"]),
    "text in one cell": (
        "a,b\n1,2\n2,oops\n3,4\n",
        ["'b' has text in 1 cell among its numbers, first 'oops' in row 2"],
    ),
    "infinite": ("a,b\n1,inf\n2,1e999\n", ["'b' has 2 infinite or too large values, first in row 1"]),
    "mixed percent": ("a,b\n1,5%\n2,6\n", ["'b' has '5%' in row 1, but other cells without a percent sign"]),
    "mixed bools": ("a,b\n1,True\n2,6\n", ["'b' mixes numbers with 'True' in row 1"]),
    "mixed currencies": ("a,b\n1,$5\n2,€6\n", ["'b' mixes the currencies $ and €"]),
    "mixed decimal signs": ("a;b\n1,5;1.25\n2,5;2\n", ["'b' has a decimal point in '1.25' in row 1", "--decimal ."]),
    "thousands or decimals, quoted": ('a,b\n"1,234",5\n"2,950",6\n', ["'1,234' in row 1, which may have", "--decimal"]),
    "thousands or decimals, beside": ("a;b\n1,234;5\n950;6\n", ["'1,234' beside '950' may have", "--decimal"]),
    "points in thousands or decimals": ("a;b\n1.234;5\n950;6\n", ["'1.234' beside '950' may have", "--decimal"]),
    "dollars in thousands or decimals": ('a,b\n"$1,234",5\n"$2,950",6\n', ["'$1,234' in row 1, which may have"]),
    "ragged blanks": ("1.5 2\n3.5 1\n4.5\n5.5 1 2\n", ["2 rows have another number of cells than 2: row 3 has 1 cell"]),
    "infinite numbers alone": ("a,b\n1,1e999\n2,3\n", ["'b' has 1 infinite or too large value, first in row 1"]),
    "one or two columns": ("9,05\n10,233\n", ["9,05 may be two numbers or one", "--decimal"]),
    "numbers or names": (
        "2019,2030,2021\n1.5,2.5,3.5\n",
        ["(2019, 2030, 2021) may be names or numbers", "--no-header"],
    ),
    "a counted header": ("0,1,2,3\n5,3,2,9\n5,1,1,7\n", ["may be names or numbers"]),
    "wavelengths": ("400.5,401,401.5,402\n.1,.2,.3,.5\n.1,.2,.2,.2\n", ["may be names or numbers"]),
    "short and long rows": (
        "a,b\n1,2\n3\n4,5,6\n7,8\n",
        ["2 rows have another number of cells than 2: row 2 has 1 cell"],
    ),
    "one name too many": ("a,b,c\n1,2\n3,4\n", ["3 names, but most rows have 2 cells"]),
    "one name too few": ("a,b\n7,1,2\n3,3,4\n", ["2 names, but most rows have 3 cells"]),
    "an open quotation": ('a,b\n1,2\n3,"4\n5,6\n', ["check its quotation marks"]),
    "empty column": ("a,b\n1,\n2,\n", ["'b' has no value"]),
    "a page of HTML": ("<html>\n<body>404</body>\n</html>\n", ["text"]),
}


def test_faults_name_column_row_and_option(path: Path) -> None:
    for case, (content, sentences) in FAULTS.items():
        with pytest.raises(ValueError, match=r"table\.csv") as error:
            read(path, content)
        for sentence in sentences:
            assert sentence in str(error.value), case


def test_all_faults_come_in_one_report(path: Path) -> None:
    with pytest.raises(ValueError, match="5 faults must be dealt with") as error:
        read(path, "a,b,c,d\n1,?,x,1_0\n2,5,y,3\n3,6,z\n4,7,w,inf\n")
    for part in (
        "row 3 has 3 cells",
        "'b' has 1 missing",
        "'c' holds text",
        "'d' has an underscore",
        "'d' has 1 infinite",
    ):
        assert part in str(error.value)
    many = ",".join(f"c{i}" for i in range(60))
    with pytest.raises(ValueError, match="60 faults must be dealt with") as error:
        read(path, f"{many}\n{',' * 59}\n{','.join('1' * 60)}\n")
    assert len(str(error.value).splitlines()) == 1 + 25 + 1


def test_options_decide_what_is_doubtful(path: Path) -> None:
    assert read(path, 'a,b\n"1,234",5\n', decimal=".").values.tolist() == [[1234.0, 5.0]]
    assert read(path, 'a,b\n"1,234",5\n', decimal=",").values.tolist() == [[1.234, 5.0]]
    assert read(path, "a;b\n1,234;5\n950;6\n", decimal=",").values[0, 0] == 1.234
    assert read(path, "a;b\n1,234;5\n950;6\n", decimal=".").values[0, 0] == 1234.0
    assert read(path, "9,05\n10,233\n", decimal=",").values.tolist() == [[9.05], [10.233]]
    assert read(path, "9,05\n10,233\n", decimal=".").values.tolist() == [[9.0, 5.0], [10.0, 233.0]]
    years = "2019,2030,2021\n1.5,2.5,3.5\n"
    assert read(path, years, header=True).names == ("2019", "2030", "2021")
    assert read(path, years, header=False).values.shape == (2, 3)
    assert read(path, "2019,2020,2021\n1.5,2.5,3.5\n", header=False).values.shape == (2, 3)


def test_a_first_row_of_data_is_never_a_header(path: Path) -> None:
    iris = "5.1,3.5,setosa\n4.9,3.0,setosa\n6.3,3.3,virginica\n"
    assert read(path, iris, categorical="drop").values.tolist() == [[5.1, 3.5], [4.9, 3.0], [6.3, 3.3]]
    assert read(path, "1,2\n3,4\n5,7\n").values.shape == (3, 2)
    assert read(path, "1,2,3\n2,3,4\n3,4,6\n").values.shape == (3, 3)
    assert read(path, "?,2\n3,4\n5,7\n", missing="drop").row_numbers.tolist() == [2, 3]
    assert read(path, "country,2019,2020\nFR,1.5,2.5\nDE,2.5,3.5\n", categorical="drop").names == ("2019", "2020")


COMPRESSORS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", [*COMPRESSORS, ".zst"])
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    if suffix == ".zst":
        pyarrow = pytest.importorskip("pyarrow")
        compress = pyarrow.Codec("zstd").compress
    else:
        compress = COMPRESSORS[suffix]
    content = bytes(compress(("a,b,c\n" + lines(",")).encode()))
    for name in (f"table.csv{suffix}", "table.csv"):  # by the name, and in spite of it
        np.testing.assert_array_equal(read(tmp_path / name, content).values, NUMBERS)
    for cut in (len(content) // 2, len(content) - 9, 11):
        with pytest.raises(ValueError, match=r"table\.csv"):
            read(tmp_path / f"table.csv{suffix}", content[:cut])
    with pytest.raises(ValueError, match="as its name says, but is not"):
        read(tmp_path / f"table.csv{suffix}", "a,b,c\n")
