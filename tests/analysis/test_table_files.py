"""Tables as people and trackers write them: files, numbers with units, words of states."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis.quantities import Unclear, numbers
from tokenlaw.analysis.row_filter import keep
from tokenlaw.analysis.table import prepare
from tokenlaw.analysis.table_files import is_table, read, stem

CSV = "C,N,loss\n1e18,1e8,3.5\n2e18,2e8,2.75\n"
COLUMNS = {"C": [1e18, 2e18], "N": [1e8, 2e8], "loss": [3.5, 2.75]}
WORDS = "C;N;loss\n1e18;100000000;3,5\n2e18;200000000;2,75\n"
RECORDS = [{"C": 1e18, "N": 1e8, "loss": 3.5}, {"C": 2e18, "N": 2e8, "loss": 2.75}]
JSON = pd.DataFrame(RECORDS)

# name of the file -> content, line of the first row
GOOD: dict[str, tuple[str | bytes, int]] = {
    "runs.csv": (CSV, 2),
    "RUNS.CSV": (CSV, 2),
    "runs.csv.gz": (gzip.compress(CSV.encode()), 2),
    "runs.CSV.GZ": (gzip.compress(CSV.encode()), 2),
    "runs.Tsv": (CSV.replace(",", "\t"), 2),
    "bars.txt": (CSV.replace(",", "|"), 2),
    "spaces.txt": (CSV.replace(",", "   "), 2),
    "semicolons.csv": (CSV.replace(",", ";"), 2),
    "spaced.csv": (CSV.replace(",", ", "), 2),
    "decimal.csv": (WORDS, 2),
    "thousands.csv": (WORDS.replace("100000000", "100.000.000"), 2),
    "grouped.csv": (CSV.replace("1e8", '"100,000,000"').replace("2e8", '"200,000,000"'), 2),
    "mark.csv": ("\ufeff" + CSV, 2),
    "wide.csv": (CSV.encode("utf-16"), 2),
    "dos.csv": (CSV.replace("\n", "\r\n"), 2),
    "comments.csv": (f"# made by hand\n\n# of 2\n{CSV}# end\n", 5),
    "numpy.csv": ("# " + CSV, 2),
    "hint.csv": ("sep=;\n" + CSV.replace(",", ";"), 3),
    "trailing.csv": (CSV.replace("\n", ",\n"), 2),
    "lines.jsonl": (JSON.to_json(orient="records", lines=True), 1),
    "records.json": (JSON.to_json(orient="records"), 0),
    "columns.JSON": (JSON.to_json(), 0),
    "lists.json": (JSON.to_json(orient="split").replace('"index":[0,1]', '"index":[5,6]'), 0),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_table_of_any_kind_is_read(name: str, tmp_path: Path) -> None:
    content, line = GOOD[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert is_table(str(path)) and stem(str(path)) == name.split(".")[0]
    frame = read(path)
    data = prepare(frame, {}, ("x", "y", "n"))
    assert {data.roles[role]: data.columns[role].tolist() for role in "xny"} == COLUMNS
    assert data.run_ids[0] == (f"line {line}" if line else "row 1")


def test_parquet_is_read(tmp_path: Path) -> None:
    JSON.to_parquet(tmp_path / "runs.Parquet")
    assert read(tmp_path / "runs.Parquet").equals(JSON)


# name of the file -> content, words of the error
BAD: dict[str, tuple[str | bytes, str]] = {
    "runs.xlsx": (b"PK", "is a spreadsheet; save the sheet as .csv"),
    "runs.feather": ("x", "ends in '.feather'; known: .csv, .tsv, .txt, .jsonl, .json, .parquet"),
    "empty.csv": ("", "it is empty"),
    "blank.csv": (" \n\n", "it is empty"),
    "empty.csv.gz": (gzip.compress(b""), "it is empty"),
    "comments.csv": ("# C,N\n", "comment lines alone"),
    "header.csv": ("C,N\n", "a header and no rows"),
    "one.csv": ("C\n1\n2\n", "one column ('C'); separators: comma, semicolon, tab, | or spaces"),
    "twice.csv": ("C,N,C\n1,2,3\n", "column 'C' appears 2 times (columns 1, 3)"),
    "numbers.csv": ("1,2\n3,4\n", "line 1 holds numbers where the names of columns belong"),
    "short.csv": ("# a\nC,N\n1,2\n3\n", "line 4 has 1 fields, the header has 2"),
    "long.csv": ("C,N\n1,2\n3,4,5\n", "line 3 has 3 fields, the header has 2"),
    "latin.csv": ("C,N\n1,\xe9\n".encode("latin-1"), "line 2 is not UTF-8 (byte 0xe9)"),
    "unmarked.csv": (CSV.encode("utf-16-le"), "zero bytes"),
    "broken.csv.gz": (b"C,N\n1,2\n", "cannot be read"),
    "cut.csv.gz": (gzip.compress(CSV.encode() * 99)[:40], "cannot be read"),
    "broken.parquet": (b"PAR1", "cannot be read"),
    "broken.json": ("{", "it is not JSON"),
    "broken.jsonl": ('{"C": 1, "N": 2}\n{\n', "line 2 is not JSON"),
    "number.json": ("3", "neither a list of records nor an object of columns"),
    "list.json": ("[1, 2]", "record 1 is no object"),
    "none.json": ("[]", "no columns and no rows"),
    "uneven.json": ('{"C": [1, 2], "N": [3]}', "its columns differ in length"),
    "twice.json": ('[{"C": 1, "C": 2}]', "column 'C' appears 2 times"),
    "deep.json": ("[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_table_is_one_line(name: str, tmp_path: Path) -> None:
    content, words = BAD[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        read(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"table: {str(path)!r}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://example.org/runs.csv", "is an address; download it"),
        (".", "is a folder"),
        ("nowhere.csv", "is not a file"),
    ],
)
def test_a_source_that_is_no_file_is_one_line(source: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(source)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["4B", "125M", "1.3 b"], [4e9, 125e6, 1.3e9]),
        (["125m", "1.3B"], [125e6, 1.3e9]),
        (["28.06%", "3 %"], [28.06, 3]),
        (["1,000", "2,000,000"], [1000, 2e6]),
        (["1,000.5", "2"], [1000.5, 2]),
        (["1e9", "1.5E+9", "2*10^9", "3\u00d710^9", "10^9"], [1e9, 1.5e9, 2e9, 3e9, 1e9]),
        (["3.5 M", "1_000_000", "2 000 000", "2\u202f000\u202f000"], [3.5e6, 1e6, 2e6, 2e6]),
        (["3,5", "2,750", "0,1"], [3.5, 2.75, 0.1]),
        (["1.234,5", "2"], [1234.5, 2]),
        (["5T tokens", "300B tokens"], [5e12, 3e11]),
        (["3 PFLOPs", "1e18 FLOPs", "2 EFLOP"], [3e15, 1e18, 2e18]),
        (["1.3B", "7e9"], [1.3e9, 7e9]),
        (["-", "n/a", "", None, "?", "7"], [np.nan] * 5 + [7]),
        (["\N{MINUS SIGN}3", "4"], [-3, 4]),
    ],
)
def test_numbers_with_units_are_read(texts: list[str | None], expected: list[float]) -> None:
    found = numbers(pd.Series(texts, dtype=object), counts=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("texts", "place", "reason"),
    [
        (["2", "1,000"], 1, "may be a thousand or one"),
        (["1.3B", "350"], 1, "has no unit, other values have (B)"),
        (["28%", "0.3"], 1, "has no %"),
        (["125m", "3M"], 0, "million or thousandth"),
        (["3,5", "2,000,000"], 1, "a decimal comma or thousands"),
        (["3.1 \u00b1 0.1"], 0, "put the number and its error into two columns"),
        (["~4B"], 0, "is no number"),
        (["1-2"], 0, "is no number"),
        (["4BB"], 0, "is no number"),
        (["128x128"], 0, "is no number"),
        (["1.2.3"], 0, "is no number"),
        (["3h"], 0, "is no number"),
        (["12,34,5"], 0, "is no number"),
    ],
)
def test_a_value_that_could_be_two_numbers_is_refused(
    texts: list[str], place: int, reason: str
) -> None:
    with pytest.raises(Unclear) as error:
        numbers(pd.Series(texts), counts=True)
    assert error.value.place == place and reason in str(error.value)


def test_an_unclear_value_is_named_by_column_line_and_value(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("# of 3\n" + CSV + "3e18,400,2.5\n".replace("400", "4e8?"))
    words = "--n: column 'N' holds '4e8?' in line 5, which is no number"
    with pytest.raises(ValueError, match=re.escape(words)):
        prepare(read(path), {}, ("x", "y", "n"))
    # A filter may remove the row.
    assert prepare(read(path), {}, ("x", "y", "n"), where="loss > 2.6").num_rows == 2
    with pytest.raises(ValueError, match="in row 2, which is unclear: million or thousandth"):
        prepare(JSON.assign(loss=["3", "125m"]), {}, ("x", "y"))


def test_units_are_said_and_may_be_filtered_by() -> None:
    frame = JSON.assign(N=["100M", "0.2B"])
    data = prepare(frame, {}, ("x", "y", "n"), where="C/N > 1e9 and N >= 2e8")
    assert data.columns["n"].tolist() == [2e8]
    (told,) = [one.message for one in data.notices if one.code == "W-UNITS"]
    assert told == "column 'N': '100M' is read as 1e+08"


@pytest.mark.parametrize("column", ["status", "Status", "State", "state"])
def test_states_of_other_trackers(column: str) -> None:
    words = ["FINISHED", "success", "completed", "Succeeded", "crashed", "RUNNING", None, "done "]
    frame = pd.DataFrame({"C": np.geomspace(1, 9, 8), "loss": 1.0, column: words})
    data = prepare(frame, {}, ("x", "y"))
    assert data.run_ids == ("row 1", "row 2", "row 3", "row 4", "row 8")
    assert [(one.reason, one.count, one.rows) for one in data.left_out] == [
        (f"{column} is crashed", 1, ("row 5",)),
        (f"{column} is missing", 1, ("row 7",)),
        (f"{column} is running", 1, ("row 6",)),
    ]
    none = frame.assign(**{column: "failed"})
    with pytest.raises(ValueError, match=rf"no row is left .*8 rows: {column} is failed"):
        prepare(none, {}, ("x", "y"))


def test_a_state_that_is_a_place_filters_nothing() -> None:
    frame = pd.DataFrame({"C": [1.0, 2.0], "loss": 1.0, "State": ["Texas", "Ohio"]})
    assert prepare(frame, {}, ("x", "y")).num_rows == 2


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("machine_hours", False),
        ("macro_f1", False),
        ("mac_mini_hours", False),
        ("emacs", False),
        ("forward_gmacs", True),
        ("MACs", True),
        ("trainMACs", True),
        ("TMACs (train)", True),
        ("multiply_adds", True),
    ],
)
def test_columns_of_multiply_adds(name: str, macs: bool) -> None:
    data = prepare(JSON.rename(columns={"C": name}), {"x": name}, ("x", "y"))
    assert ("W-MACS" in {one.code for one in data.notices}) == macs
    assert (data.flops_rule is not None) == macs


def test_a_missing_flops_rule_is_no_second_rule() -> None:
    frame = JSON.assign(flops_rule=["6ND", None])
    assert prepare(frame, {}, ("x", "y")).flops_rule == "6ND"
    assert prepare(frame.assign(flops_rule=None), {}, ("x", "y")).flops_rule is None


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("Training FLOP", "val/loss", "Model Size"), "xyn"),
        (("train_flops", "Validation Loss", "Params"), "xyn"),
        (("C", "loss", "N"), "xyn"),
    ],
)
def test_usual_names_are_found(names: tuple[str, ...], roles: str) -> None:
    frame = JSON.set_axis([names[0], names[2], names[1]], axis="columns")
    found = prepare(frame.rename(columns={"val/loss": "val_loss"}), {}, tuple(roles)).roles
    assert len(found) == 3


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("D/C < 1e-10", [0, 1, 0]),
        ("-C < -3", [0, 1, 1]),
        ("(C - 1) ** 2 + 1 > 10 or C % 2 == 1", [0, 0, 1]),
        ("log10(C) > 2 and sqrt(C) < 1e9", [0, 0, 1]),
        ("max(C, 5) == min(C, 5)", [0, 0, 0]),
        ("C / (C - C) > 0", [0, 0, 0]),
        ("abs(2 - C) <= 2", [1, 1, 0]),
        ("N >= 4e9", [0, 0, 1]),
        ("N == 4e9", [0, 0, 1]),
        ("2 * 3 == 6", [1, 1, 1]),
    ],
)
def test_arithmetic_in_where(expression: str, expected: list[int]) -> None:
    frame = pd.DataFrame({"C": [2.0, 4.0, 1e3], "N": ["1B", None, "4B"], "D": [1, 1e-10, 1e9]})
    assert keep(frame, expression).tolist() == [bool(one) for one in expected]


@pytest.mark.parametrize(
    "expression",
    ["C.max() > 1", "open('x') > 1", "log(C, 2) > 1", "log(x=C) > 1", "arm + 1 > 2", "'a' * 9 > 1"]
    + ["C + True > 1", "C @ C > 1", "C // 2 > 1", "C << 2 > 1", "log > 1", "2 ** 'a' > 1", "C + 1"]
    + ["__import__(C) > 1", "(log)(C)(C) > 1", f"C > {'9' * 400} + 1", "max(*C) > 1"],
)
def test_arithmetic_that_is_refused(expression: str) -> None:
    frame = pd.DataFrame({"C": [2.0, 4.0], "arm": ["vq", "crt"]})
    with pytest.raises(ValueError, match="^where: ") as error:
        keep(frame, expression)
    assert "\n" not in str(error.value)


def test_a_power_without_end_costs_nothing() -> None:
    frame = pd.DataFrame({"C": [2.0, 4.0]})
    assert keep(frame, "9 ** 9 ** 9 ** 9 > C").tolist() == [False, False]
