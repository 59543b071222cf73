"""Files -> tables: formats, damage, and which columns the model takes."""

import re

import numpy as np
import pytest
from helpers.checking import raises

from lrp_tf.tables.cells import TableError, header_width, is_number, read_cells
from lrp_tf.tables.files import Choice, is_table, read


def refused(*words):
    """The error, with each of `words` in its message."""
    return raises(TableError, *map(re.escape, words))


def saved(folder, content, name="t.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


ROWS = [[63, 1.5, -2], [40, 0.25, 3e-4]]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "encoding", "content"),
    [
        ("commas.csv", "utf-8", "age,dose,Größe\n63,1.5,-2\n40,.25,3e-4\n"),
        ("excel.csv", "utf-8-sig", 'sep=;\nage;dose;"Größe"\n63;1,5;-2\n"40";0,25;0,0003\n'),
        ("tabs.tsv", "utf-16", "age\tdose\tGröße\n63\t1,5\t-2\n\n40\t0,25\t3e-4\n"),
        ("quotes.csv", "utf-8", 'age, "dose", "Größe"\n"63",1.5, -2\n,,\n40,"0.25",3E-4\n\n'),
        ("points.csv", "utf-8-sig", "age;dose;Größe\n+63;1.5;-2.0\n40;0.25;0.0003"),
    ],
)
def test_one_table_in_many_spellings(tmp_path, name, encoding, content, ends):
    path = saved(tmp_path, content.replace("\n", ends), name, encoding)
    assert header_width(path) == 3
    assert is_table(path, 3)
    table = read(path, 3)
    assert table.names == ("age", "dose", "Größe")
    assert table.labels == ("1", "2")
    np.testing.assert_array_equal(table.values, ROWS)
    assert not table.bad
    assert table.comma == (("," in content and ";" in content) or "\t" in content)
    assert table.key(1) == f"{path}:2"


def test_names_hold_separators_and_line_breaks(tmp_path):
    path = saved(tmp_path, '"mass (kg; dry)","a, b","two\nlines"\n1,2,3\n4,"5\n",x\n')
    table = read(path, 3)
    assert table.names == ("mass (kg; dry)", "a, b", "two\nlines")
    assert table.bad[1].startswith("line 5, column 'two\\nlines': 'x'")
    assert table.values[0].tolist() == [1, 2, 3]


def test_commas_are_decimal_only_where_no_point_is(tmp_path):
    """1,234 beside 0.5 are thousands, and no number of ours."""
    table = read(saved(tmp_path, "a;b\n1,234;0.5\n2;1.5\n"), 2)
    assert not table.comma
    assert "'1,234' is no finite number" in table.bad[0]
    assert table.values[1].tolist() == [2, 1.5]
    assert read(saved(tmp_path, "a;b\n1.234,5;1\n1,5;2\n"), 2).bad.keys() == {0}


@pytest.mark.parametrize(
    "cell", ["", "four", "nan", "NaN", "inf", "-inf", "1e999", "1_000", "5 %", "0x10", "NA", "1,5"]
)
def test_a_bad_cell_costs_its_row(tmp_path, cell):
    quoted = f'"{cell}"' if "," in cell else cell
    table = read(saved(tmp_path, f"a,b\n1,2\n3,{quoted}\n5,6\n"), 2)
    assert list(table.bad) == [1]
    assert table.bad[1].startswith("line 3, column 'b': ")
    assert ("the cell is empty" if not cell else repr(cell)) in table.bad[1]
    assert table.values[[0, 2]].tolist() == [[1, 2], [5, 6]]
    assert np.isnan(table.values[1]).all()


def test_rows_of_another_length_cost_themselves(tmp_path):
    table = read(saved(tmp_path, "a,b\n1,2\n3\n1,2,3\n,x\n"), 2)
    assert table.bad.keys() == {1, 2, 3}
    assert "line 3: 1 cells. Expected 2" in table.bad[1]
    assert "3 cells" in table.bad[2]
    assert "column 'a': the cell is empty, and 1 more" in table.bad[3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,2,3\n4,5,6\n", ["no header", "such as 1", "It has 3 columns", "takes 3 features"]),
        ("17.9,M\n1,2\n", ["no header", "17.9", "2 columns", "3 features"]),
        ("a,b\n1,2\n", ["2 columns", "takes 3 features", "a, b", "`columns`", "`drop`"]),
        ("a,b,c,d,e,f,g,h\n1,2,3,4,5,6,7,8\n", ["8 columns", "3 features", "a, b, c, d, e, f and 2 more"]),
        ("a,b,c\n", ["no rows", "3 columns"]),
        ("", ["empty"]),
        ("\n\n", ["empty"]),
        (b"a,b\xfc,c\n1,2,3\n", ["no UTF-8", "CSV UTF-8"]),
        (b"a,b\0,c\n1,2,3\n", ["NUL"]),
        ('a,b,c\n1,2,"' + "9" * 200_000, ["no CSV file", "field"]),
    ],
)
def test_files_that_are_no_tables_say_why(tmp_path, content, words):
    with refused(*words):
        read(saved(tmp_path, content), 3)


def test_files_that_cannot_be_read(tmp_path):
    with refused("No such file"):
        read(tmp_path / "none.csv", 3)
    assert not is_table(tmp_path / "none.csv", 3)
    assert not is_table(tmp_path / "none.npy", 3)
    assert not is_table(saved(tmp_path, b"nothing", "bad.npy"), 3)
    with refused("numpy.save"):
        read(tmp_path / "bad.npy", 3)


# --- columns -----------------------------------------------------------------------------------

WIDE = "who,age,label,dose\nann,1,sick,2\nbob,3,well,4\ncid,5,sick,6\n"


@pytest.mark.parametrize(
    ("choice", "names", "labels"),
    [
        (Choice(columns=("dose", "age")), ("dose", "age"), ("1", "2", "3")),
        (Choice(drop=("who", "label")), ("age", "dose"), ("1", "2", "3")),
        (Choice(drop=("label",)), ("age", "dose"), ("ann", "bob", "cid")),  # a first column of different words
        (Choice(drop=("label",), id="who"), ("age", "dose"), ("ann", "bob", "cid")),
        (Choice(columns=("age", "dose"), id="who"), ("age", "dose"), ("ann", "bob", "cid")),
        (Choice(columns=("age", "dose"), id="dose"), ("age", "dose"), ("2", "4", "6")),
    ],
)
def test_the_columns_that_the_model_takes(tmp_path, choice, names, labels):
    table = read(saved(tmp_path, WIDE), 2, choice)
    assert table.names == names
    assert table.labels == labels
    expected = {"age": [1, 3, 5], "dose": [2, 4, 6]}
    np.testing.assert_array_equal(table.values.T, [expected[name] for name in names])
    assert table.row(labels[1]) == 1
    with refused("no row 9", labels[0], labels[2]):
        table.row("9")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(drop=("lable",)), ["`drop`", "'lable'", "Similar names: label"]),
        (Choice(columns=("xyz",)), ["`columns`", "Its columns: who, age"]),
        (Choice(id="name", drop=("label",)), ["`id`", "'name'"]),
        (Choice(id="label", drop=("who",)), ["'sick' in lines 2 and 4", "leave out `id`"]),
        (Choice(drop=("who", "age", "label", "dose")), ["0 columns", "2 features"]),
        (Choice(), ["4 columns", "2 features"]),
    ],
)
def test_columns_that_do_not_fit_say_so(tmp_path, choice, words):
    with refused(*words):
        read(saved(tmp_path, WIDE), 2, choice)


def test_first_columns_of_labels_are_no_names(tmp_path):
    """Classes repeat themselves; numbers may be a feature."""
    for content in ("kind,a,b\nsick,1,2\nsick,3,4\n", "no,a,b\n1,1,2\n2,3,4\n"):
        with refused("3 columns", "2 features"):
            read(saved(tmp_path, content), 2)
    for content in (",a,b\n0,1,2\n1,3,4\n", "a,b\n0,1,2\n1,3,4\n"):  # an index without name: pandas, R
        table = read(saved(tmp_path, content), 2)
        assert table.names == ("a", "b")
        assert table.labels == ("0", "1")
        assert table.values.tolist() == [[1, 2], [3, 4]]


def test_names_that_come_twice_or_are_missing(tmp_path):
    path = saved(tmp_path, "a,a,\n1,2,3\n")
    assert read(path, 3).names == ("a", "a", "column 3")
    with refused("`drop`", "'a' is the name of several columns: 1, 2"):
        read(path, 2, Choice(drop=("a",)))
    with refused("no name in line 3"):
        read(saved(tmp_path, "id,b\nx,1\n,2\n"), 1, Choice(id="id"))
    assert read(saved(tmp_path, "a,b,c\n1,2,3\n")).names == ("a", "b", "c")  # any number of features
    with refused("no column is left"):
        read(saved(tmp_path, "b\n1\n"), None, Choice(drop=("b",)))


def test_what_is_a_table_and_what_a_signal(tmp_path):
    assert not is_table(saved(tmp_path, "volt\n1\n2\n"), 2)  # a signal of two points
    assert is_table(saved(tmp_path, "volt\n1\n2\n"), 1)
    assert is_table(saved(tmp_path, "1,2\n3,4\n"), 5)  # refused later, with a reason
    assert header_width(saved(tmp_path, b"\xff\xfea\0,\0b\0\n\0" + b"1\0,\0" * 40_000)) == 2
    for shape, features, found in (
        ((4, 3), 3, True),
        ((4, 3), None, True),
        ((4, 3), 4, False),
        ((3,), 3, False),
        ((3, 1), 3, False),
        ((0, 3), 3, False),
        ((2, 2, 3), 3, False),
    ):
        np.save(tmp_path / "a.npy", np.zeros(shape))
        assert is_table(tmp_path / "a.npy", features) == found, (shape, features)
    assert not is_table(tmp_path / "a.txt", 3)


def test_arrays_as_tables(tmp_path):
    values = np.array([[1, 2, 3], [4, np.nan, np.inf]], "float32")
    np.save(tmp_path / "a.npy", values)
    table = read(tmp_path / "a.npy", 3)
    assert table.names == ("feature 0", "feature 1", "feature 2")
    assert table.bad == {1: "2 NaN or Inf among its 3 numbers"}
    with refused("`drop`", "no names"):
        read(tmp_path / "a.npy", 3, Choice(drop=("a",)))
    with refused("(N, 4)", "(2, 3)"):
        read(tmp_path / "a.npy", 4)
    np.save(tmp_path / "b.npy", np.array(["a"]))
    with refused("numpy.save"):
        read(tmp_path / "b.npy", 1)
    np.savez(tmp_path / "c.npz", values)
    (tmp_path / "c.npz").rename(tmp_path / "c.npy")
    assert not is_table(tmp_path / "c.npy", 3)
    with refused("archive of several"):
        read(tmp_path / "c.npy", 3)


def test_what_a_number_is():
    assert all(map(is_number, ["1", "-1.5", "+.5", "3.", "1e5", "1,5", "nan", "Inf"]))
    assert not any(map(is_number, ["", "a", "1 2", "1.2.3", "e5", ".", "1_0", "2020-01-01"]))


def test_cells_keep_their_lines(tmp_path):
    cells = read_cells(saved(tmp_path, 'a,b\n\n1,"x\ny"\n2,3\n'))
    assert cells.lines == [4, 5]
    assert cells.rows == [["1", "x\ny"], ["2", "3"]]
