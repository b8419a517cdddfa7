"""The report on executed notebooks: small ones made here, executed as students would, or spoilt as students do."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import os
import random

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from dfs_edu import cli
from dfs_edu.course import checks, publish, report
from dfs_edu.course import runner as course

pytestmark = pytest.mark.usefixtures("warm_kernels")


DECLARED = 'SCALE = "lesson"\nDATASET = "digits"\nSEED = 0\nDEVICE = "cpu"'
CHECKS = "from dfs_edu import checks, course"
RIGHT = "def mine(prediction, label):\n    return (prediction == label).double().mean()\n\n\nchecks.accuracy(mine)"
STUB = "def mine(g, h): ...\n\n\nchecks.cosine(mine)"
WRONG = STUB.replace("...", "return g @ h")
RECORD = "course.record('it works, and costs 1 € more', seed=SEED, rows=[1.5, float('nan')])"


def code(source, *outputs, count=1):
    return new_code_cell(source, execution_count=count, outputs=list(outputs))


def notebook(path, cells):
    """Write a notebook with a parameters cell and these, strings as cells that were not run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    parameters = new_code_cell(DECLARED, metadata={"tags": ["parameters"]}, execution_count=1)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=[parameters, *cells], metadata={"kernelspec": kernel}), path)
    return path


def said(exercise, state, sentence="so"):
    """What a check leaves in the outputs."""
    bundle = {report.CHECK: {"exercise": exercise, "state": state}, "text/plain": sentence}
    return new_output("display_data", data=bundle)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A folder of three students: Anna's notebooks were executed here, Ben's and Eve's are made up."""
    folder = tmp_path_factory.mktemp("handed in")
    fresh = folder / "fresh"
    one = notebook(fresh / "01_one.ipynb", [CHECKS, RIGHT, WRONG, RECORD])
    two = notebook(fresh / "02_two.ipynb", [CHECKS, STUB, "1 / 0", RIGHT, RECORD])
    handed_in = folder / "all"
    results = course.run([one, two], seed=3, out=handed_in / "anna", timeout=60)
    assert [bool(result.error) for result in results] == [False, True]
    notebook(handed_in / "ben" / "week 1" / "01_one.ipynb", [code(CHECKS), code(RIGHT, said("a", "passed")), STUB, " "])
    (handed_in / "ben" / ".ipynb_checkpoints").mkdir()
    notebook(handed_in / "ben" / ".ipynb_checkpoints" / "01_one.ipynb", [])
    (handed_in / "eve").mkdir()
    (handed_in / "eve" / "01_one.ipynb").write_text('{"cells": [', encoding="utf-8")
    nbformat.write(new_notebook(cells=[code("1")]), handed_in / "eve" / "diary.ipynb")
    for name, content in {"list": "[]", "empty": "", "object": "{}", "latin": "\xff", "number": "3"}.items():
        (handed_in / "eve" / f"{name}.ipynb").write_bytes(content.encode("latin-1"))
    return handed_in


@pytest.fixture(scope="module")
def entries(executed):
    return {(entry.person, entry.notebook): entry for entry in report.collect([executed])}


def test_what_was_executed_here_is_read_back(entries):
    anna = entries["anna", "01_one"]
    assert anna.exercises == {
        "the accuracy": ("passed", "✓ the accuracy: right, on 8 inputs."),
        "the cosine": ("wrong", "✗ the cosine: that is the inner product: divide by both lengths"),
    }
    assert anna.findings == ["it works, and costs 1 € more"]
    assert anna.values == {"seed": 3, "rows": [1.5, None]}
    assert anna.problems == []


def test_an_error_and_what_was_not_run_behind_it_are_named(entries):
    anna = entries["anna", "02_two"]
    assert [(name, state) for name, (state, _) in anna.exercises.items()] == [
        ("the cosine", "not yet"),
        ("checks.accuracy", "not run"),
    ]
    error, left = anna.problems
    assert error == "error in the cell `1 / 0`: ZeroDivisionError: division by zero"
    assert "2 of 7 cells were not run, the first the cell `def mine(prediction, label):`" in left  # one is papermill's
    assert anna.findings == []


def test_a_notebook_that_was_not_run_to_its_end_is_reported(entries):
    ben = entries["ben", "01_one"]
    assert ben.named("passed") == ["a"]
    assert ben.named("not run") == ["checks.cosine"]
    assert ben.problems == ["not run to the end: 1 of 4 cells were not run, the first the cell `def mine(g, h): ...`"]
    assert [person for person, _ in entries].count("ben") == 1  # the editor's old version is none


def test_what_is_no_notebook_of_the_course_is_named(entries):
    eve = {entry.notebook: entry for (person, _), entry in entries.items() if person == "eve"}
    assert set(eve) == {"01_one", "diary", "list", "empty", "object", "latin", "number"}
    for entry in eve.values():
        assert not entry.readable
        assert entry.exercises == {}
        assert entry.problems[0].startswith("cannot be read: ")
    assert "not a notebook of the course" in eve["diary"].problems[0]


def test_table_has_a_row_for_each_person_and_notebook(executed, entries):
    lines = report.table(report.collect([executed])).splitlines()
    columns = ["person", "notebook", "scale", "dataset", "seed"]
    assert lines[0].split() == [*columns, "passed", "wrong", "not", "yet", "not", "run", "found"]
    assert len(lines) == 1 + len(entries) + 3
    assert lines[1].split()[:9] == ["anna", "01_one", "lesson", "digits", "3", "1", "1", "0", "0"]
    assert lines[1].endswith(
        "✗ the cosine: that is the inner product: divide by both lengths; it works, and costs 1 € more"
    )
    assert lines[2].split()[:9] == ["anna", "02_two", "lesson", "digits", "3", "0", "0", "1", "1"]
    assert lines[-2] == "persons: 3, notebooks: 10, with problems: 9"
    assert lines[-1] == "exercises: 2 passed, 1 wrong, 1 not yet, 2 not run"


def test_only_some_notebooks_and_persons_without_them(executed):
    only = report.collect([executed], ["02"])
    assert [(entry.person, entry.notebook, entry.problems == ["missing"]) for entry in only] == [
        ("anna", "02_two", False),
        ("ben", "02", True),
        ("eve", "02", True),
    ]
    with pytest.raises(ValueError, match="no notebook 07 in"):
        report.collect([executed], ["07"])


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *[("03_a.ipynb", "03"), ("anna_03_a (1).ipynb", "03"), ("04b_a.ipynb", "04b"), ("anna_04b_a(1).ipynb", "04b")],
        *[("2026_a.ipynb", None), ("2026b_a.ipynb", None), ("04bc_a.ipynb", None), ("thesis.ipynb", None)],
    ],
)
def test_number_of_a_file(tmp_path, name, number):
    assert report.number(tmp_path / name) == number


def test_the_csv_can_be_read_by_machines(executed, tmp_path):
    report.write_csv(report.collect([executed]), tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == report.COLUMNS
    assert len(rows) == 10
    one, two = rows[:2]
    assert [one[state] for state in report.STATES] == ["1", "1", "0", "0"]
    assert (one["scale"], one["dataset"], one["seed"]) == ("lesson", "digits", "3")
    assert one["reasons"] == "✗ the cosine: that is the inner product: divide by both lengths"
    assert one["exercises"] == "the accuracy: passed; the cosine: wrong"
    assert one["findings"] == "it works, and costs 1 € more"
    assert json.loads(one["values"]) == {"seed": 3, "rows": [1.5, None]}
    assert two["problems"].startswith(
        "error in the cell `1 / 0`: ZeroDivisionError: division by zero; not run to the end"
    )


def test_a_spreadsheet_finds_no_formula(tmp_path):
    finding = {report.RESULT: {"finding": '=HYPERLINK("http://x")', "values": {}}, "text/plain": "Found"}
    notebook(tmp_path / "@eve" / "01_a.ipynb", [code("f()", new_output("display_data", data=finding))])
    report.write_csv(report.collect([tmp_path]), tmp_path / "all.csv")
    line = (tmp_path / "all.csv").read_text(encoding="utf-8-sig").splitlines()[1]
    assert line.startswith('"\'@eve",')
    assert ",=" not in line
    assert ',"=' not in line


def test_the_last_of_two_copies_of_an_exercise_counts(tmp_path):
    path = notebook(tmp_path / "01_a.ipynb", [code(RIGHT, said("a", "wrong")), code(RIGHT, said("a", "passed"))])
    (entry,) = report.collect([path])
    assert (entry.person, entry.named("passed"), entry.named("wrong")) == (tmp_path.name, ["a"], [])


def test_a_check_that_is_only_a_comment_is_no_exercise(tmp_path):
    (entry,) = report.collect([notebook(tmp_path / "01_a.ipynb", ["# checks.cosine(mine)"])])
    assert entry.exercises == {}


def test_an_unknown_state_is_named(tmp_path):
    (entry,) = report.collect([notebook(tmp_path / "01_a.ipynb", [code("f()", said("a", "perfect"))])])
    assert entry.problems == ["cannot be read: an exercise is 'perfect'"]


def test_normalising_keeps_what_a_check_left():
    cell = code("f()", said("the loop", "not yet", "… the loop: not yet."))
    once = publish.normalise(new_notebook(cells=[cell]))
    assert once.cells[0].outputs == cell.outputs
    assert publish.normalise(once) == once
    assert "… the loop: not yet." in publish.page(once, "a page")


def test_outside_of_a_notebook_a_check_prints(capsys):
    checks.cosine(lambda g, h: None)
    assert capsys.readouterr().out == "… the cosine: not yet. Write the function, then run this cell again.\n"


def test_command(executed, tmp_path, capsys):
    """Status 0 where each file could be read, whatever the students did; 1 where one could not."""
    assert cli.main(["course", "--report", str(executed / "anna"), str(executed / "ben")]) == 0
    assert "persons: 2, notebooks: 3" in capsys.readouterr().out  # Ben's lies in a folder of his own: he is "week 1"
    assert cli.main(["course", "--report", "--out", str(executed / "anna"), "--csv", str(tmp_path / "a.csv")]) == 0
    assert len((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert cli.main(["course", "--report", str(executed)]) == 1
    assert "diary" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--report --scale smoke", "leave out parameters"),
        ("--report --write-back", "leave out parameters"),
        ("--csv all.csv", "belongs to --report"),
        ("--report nowhere", "nowhere: no such notebook or folder"),
    ],
)
def test_command_refuses_what_makes_no_sense(words, complaint, capsys):
    with contextlib.chdir("/"):
        assert cli.main(["course", *words.split()]) == 1
    assert complaint in capsys.readouterr().err


def result(value):
    return code("f()", new_output("display_data", data={report.RESULT: value, "text/plain": "Found"}))


GOOD = {"finding": "it works", "values": {}}
HOSTILE = [
    {},
    5,
    None,
    "a",
    [1],
    {"finding": None, "values": {}},
    {"finding": 3, "values": {}},
    {"finding": "a"},
    {"finding": "a", "values": [1, 2]},
    {"finding": "a", "values": None},
]


@pytest.mark.parametrize("value", HOSTILE, ids=str)
def test_a_result_of_any_content_is_a_row_that_says_so(tmp_path, value):
    notebook(tmp_path / "mallory" / "01_a.ipynb", [result(value), result(GOOD)])
    notebook(tmp_path / "anna" / "01_a.ipynb", [result(GOOD)])
    anna, mallory = report.collect([tmp_path])
    assert anna.findings == mallory.findings == ["it works"]
    assert not anna.problems
    assert "a result without a finding and values" in mallory.problems[0]


def test_a_cell_that_displays_5_as_a_result_fails_the_notebook_not_the_course(tmp_path):
    source = f"from IPython.display import display\ndisplay({{{report.RESULT!r}: 5, 'text/plain': 'x'}}, raw=True)"
    results = course.run([notebook(tmp_path / f"0{i}_a.ipynb", [source]) for i in (1, 2)], out=tmp_path / "out")
    assert ["a result without a finding" in str(result.error) for result in results] == [True, True]
    assert course.table(results).count("FAILED") == 2


def mutants(content, number):
    """A notebook's JSON with one thing in it replaced by another of any type, `number` times."""
    generator = random.Random(0)
    others = [None, 5, -1.5, "", "x\n=1\x1b[2K\u2028\x9b", "\ud800", [], {}, [None], {"a": 1}, True, [[1]], {"": []}]

    def places(value, path=()):
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        return [path, *(place for key in keys for place in places(value[key], (*path, key)))]

    everywhere = places(content)
    for _ in range(number):
        mutant = [copy.deepcopy(content)]  # in a list: the whole can be replaced as well
        *path, last = (0, *generator.choice(everywhere))
        parent = mutant
        for key in path:
            parent = parent[key]
        parent[last] = generator.choice(others)
        yield json.dumps(mutant[0])


def test_every_mutant_of_a_notebook_becomes_a_row(executed, tmp_path):
    content = json.loads((executed / "anna" / "01_one.ipynb").read_text(encoding="utf-8"))
    for number, text in enumerate(mutants(content, 400)):
        (tmp_path / f"{number:03}").mkdir()
        (tmp_path / f"{number:03}" / "01_one.ipynb").write_text(text, encoding="utf-8")
    entries = report.collect([tmp_path])
    assert len(entries) == 400
    assert len(report.table(entries).splitlines()) == 1 + 400 + 3
    report.write_csv(entries, tmp_path / "all.csv")
    content = (tmp_path / "all.csv").read_text(encoding="utf-8-sig")
    assert len(content.splitlines()) == 1 + 400
    assert all(character.isprintable() or character == "\n" for character in content)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"cells": ' * 20_000,
        b"1" * 10_000,
        b"\x00" * 100,
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"cells": null}',
        b'{"cells": [{"cell_type": "code", "source": 5, "metadata": [], "outputs": 3}]}',
    ],
)
def test_a_file_of_any_content_is_a_row(tmp_path, content):
    (tmp_path / "01_a.ipynb").write_bytes(content)
    (entry,) = report.collect([tmp_path])
    assert entry.problems[0].startswith("cannot be read: ")


@pytest.mark.parametrize("source", ["\n" * 300_000 + "x", "a:\n" * 300_000, "a" * 300_000, "a" + " " * 300_000 + "x"])
def test_no_text_takes_more_than_its_length(source, tmp_path):
    """It would be hours, were it quadratic."""
    (entry,) = report.collect([notebook(tmp_path / "01_a.ipynb", [code(source)])])
    assert entry.readable


def test_links_pipes_folders_and_huge_files_are_rows_and_are_not_opened(executed, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LARGEST", 100_000)
    secret = notebook(tmp_path / "elsewhere" / "01_a.ipynb", [result(GOOD)])
    folder = tmp_path / "all"
    for person in "abcdef":
        (folder / person).mkdir(parents=True)
    (folder / "a" / "01_a.ipynb").symlink_to(secret)
    (folder / "b" / "01_a.ipynb").symlink_to("/dev/zero")
    os.mkfifo(folder / "c" / "01_a.ipynb")
    (folder / "d" / "01_a.ipynb").write_bytes(b" " * 100_001)
    (folder / "e" / "01_a.ipynb").symlink_to("nowhere")
    notebook(folder / "f" / "01_a.ipynb", [result(GOOD)])
    (folder / "g").symlink_to(tmp_path / "elsewhere")
    entries = {entry.person: entry for entry in report.collect([folder])}
    assert sorted(entries) == list("abcdefg")
    assert entries["f"].findings == ["it works"]
    reasons = {
        "a": "a link",
        "b": "a link",
        "c": "not a regular file",
        "d": "more than",
        "e": "a link",
        "g": "no notebook: g",
    }
    for person, reason in reasons.items():
        assert reason in entries[person].problems[0], person
        assert not entries[person].readable
        assert not entries[person].findings
    named = [report.collect([folder / person / "01_a.ipynb"])[0] for person in "abcde"]  # as hand-ins/*/01_a.ipynb
    assert not any(entry.readable for entry in named)


def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys):
    (tmp_path / "ben").mkdir()
    (tmp_path / "ben" / "essay.docx").write_text("x")
    notebook(tmp_path / "anna" / "01_a.ipynb", [])
    (tmp_path / "anna" / "01_a.html").write_text("the page that executing it wrote")
    (tmp_path / "anna" / "notes.txt").write_text("x")
    assert cli.main(["course", "--report", str(tmp_path)]) == 1  # Ben has nothing that could be read
    said = capsys.readouterr().out
    assert "no notebook: essay.docx" in said
    assert "no notebook: notes.txt" in said
    assert ".html" not in said


def test_an_empty_folder_is_a_row_that_says_so(tmp_path, capsys):
    notebook(tmp_path / "anna" / "01_a.ipynb", [])
    (tmp_path / "ben" / "week 1").mkdir(parents=True)
    (tmp_path / "eve").mkdir()
    (tmp_path / "eve" / ".DS_Store").write_text("x")
    anna, ben, eve = report.collect([tmp_path])
    assert not anna.problems
    for entry, person in ((ben, "ben"), (eve, "eve")):
        assert (entry.person, entry.notebook, entry.readable) == (person, "", False)
        assert entry.problems == ["an empty folder: nothing was handed in"]
    _, alone = report.collect([tmp_path / "anna", tmp_path / "eve"])  # as a shell expands hand-ins/*
    assert (alone.person, alone.problems) == ("eve", eve.problems)
    rows = [(entry.person, entry.notebook) for entry in report.collect([tmp_path], only=["01"])]
    assert rows == [("anna", "01_a"), ("ben", ""), ("ben", "01"), ("eve", ""), ("eve", "01")]
    assert cli.main(["course", "--report", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("nothing was handed in") == 2
    with pytest.raises(ValueError, match="no notebook in"):
        report.collect([tmp_path / "eve"])


def test_names_and_findings_cannot_forge_rows(tmp_path):
    forged = {"finding": "fine\n\x1b[1Aeve  01_a  \u202e" + "long " * 500, "values": {"a\u2028\x9b": "x\ny"}}
    name = os.fsdecode(b"b\nben  01_a  3" + b"\xff")
    notebook(tmp_path / name / "01_a.ipynb", [result(forged)])
    entries = report.collect([tmp_path])
    rows = report.table(entries).splitlines()
    assert len(rows) == 5
    assert all(row.isprintable() for row in rows)
    assert max(map(len, rows)) < 400
    report.write_csv(entries, tmp_path / "all.csv")
    content = (tmp_path / "all.csv").read_text(encoding="utf-8-sig")
    assert len(content.splitlines()) == 2
    (row,) = csv.DictReader(content.splitlines())
    assert len(row["findings"]) > 2500
    assert json.loads(row["values"]) == forged["values"]


def test_only_exercises_of_what_was_handed_out_count(tmp_path):
    notebook(
        tmp_path / "out" / "01_a.ipynb", [code(RIGHT, said("the accuracy", "not yet")), code(STUB, said("b", "wrong"))]
    )
    notebook(
        tmp_path / "in" / "eve" / "eve_01_mine.ipynb",
        [code("f()", said("the accuracy", "passed"), said("ease", "passed"))],
    )
    notebook(tmp_path / "in" / "eve" / "07_own.ipynb", [code("f()", said("free", "passed"))])
    own, eve = report.collect([tmp_path / "in"], originals=tmp_path / "out")
    assert eve.exercises == {"the accuracy": ("passed", "so"), "b": ("not run", "")}
    assert eve.problems == ["exercises that the notebook does not have: ease"]
    assert own.named("passed") == ["free"]  # of a notebook that was not handed out


def test_the_exercises_of_the_courses_notebooks_are_found(tmp_path):
    found = report._exercises_of(course.NOTEBOOKS)
    assert found["02"] == ["the cosine", "the cosine matrix", "the share of conflict"]
    assert all(found.values())
