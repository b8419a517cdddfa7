"""CSV files: what comes back, and that no text in them is a formula, however a program parts the columns."""

import csv

import pytest

from dfs_edu import tables


@pytest.mark.parametrize("mark", list("=+-@＝＋－＠"))
@pytest.mark.parametrize("before", ["", " ", "\t", "\n", "\r\n", "x;", "x;  ", 'x;"', "x\t", "x\n", "'x';'", "a,b;"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_begins_like_a_formula(before, mark, delimiter, tmp_path):
    tables.write_csv(tmp_path / "t.csv", ["name", "n"], [[f"{before}{mark}cmd|' /C calc'!A0", 1]])
    text = (tmp_path / "t.csv").read_text("utf-8-sig")
    for row in csv.reader(text.splitlines(), delimiter=delimiter):
        for cell in row:
            assert not cell.lstrip(' \t\r\n"').startswith(mark)


def test_what_is_written_comes_back(tmp_path):
    rows = [['plain, text; of\nlines "quoted" - ö', 1.5, -2, None], ['{"a": [1, -2]}', True, 0.1, "\udc80"]]
    tables.write_csv(tmp_path / "t.csv", list("abcd"), rows)
    assert (tmp_path / "t.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    with (tmp_path / "t.csv").open(encoding="utf-8-sig", newline="") as file:
        back = list(csv.reader(file))
    assert back[0] == list("abcd")
    assert back[1] == [rows[0][0], "1.5", "-2", ""]
    assert back[2] == [rows[1][0], "True", "0.1", "\\udc80"]
