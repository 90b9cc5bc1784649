"""YAML 1.2: words stay words, nothing is read that is not data, and what is written reads back the same."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visalign.errors import UserError
from visalign.storage.yaml_files import dump_yaml, parse_yaml, read_mapping

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NAMES = WORDS.filter(str.isprintable)
SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
    | st.sampled_from(["off", "no", "yes", "010", "0x1F", "1:30", "2026-11-25", "null", "~", "<<", "a: b", " #"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12)


@pytest.mark.parametrize("text, value", [
    ("off", "off"), ("no", "no"), ("Yes", "Yes"), ("1:30", "1:30"), ("2026-11-25", "2026-11-25"), ("1_000", "1_000"),
    ("010", 10), ("0o10", 8), ("0x10", 16), ("1e-4", 1e-4), ("5.e-5", 5e-5), ("true", True), ("~", None), ("", None),
    ("a:b", "a:b"), ("[1, no]", [1, "no"]),
])
def test_core_schema(text, value):
    read = parse_yaml(f"key: {text}\n", "here")["key"]
    assert read == value and type(read) is type(value)


def test_a_version_line_changes_nothing():
    assert parse_yaml("%YAML 1.1\n---\na: off\n", "here") == {"a": "off"}


def test_anchors_and_merges_are_taken():
    assert parse_yaml("a: &x {c: 1}\nb: {<<: *x, d: 2}\n", "here")["b"] == {"c": 1, "d": 2}


BOMB = "a: &a [l,l,l,l,l,l,l,l,l]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize("text, words", [
    ("a: {b: 1}\na: 2\n", ("line 2", "a occurs twice")),
    ("m: {x: 1, x: 2}\n", ("x occurs twice",)),
    ("a:\n\tb: 1\n", ("line 2", "tab", "spaces")),
    ("a: !!python/object/apply:os.system [x]\n", ("line 1", "tags", "!!python")),
    ("a: !!bool maybe\n", ("tags",)),
    ("a: " + "[" * 100 + "]" * 100, ("nested",)),
    ("a: &x [*x]\n", ("more than",)),
    (BOMB, ("more than",)),
    ("a: " + "x" * 1_000_001, ("1,000,004 characters",)),
    ("a: " + "9" * 6000, ("digits",)),
    ("1: 2\n", ("the key 1", "quotes")),
    ("? [a, b]\n: 2\n", ("not a name",)),
    ("a: {b: .inf}\n", ("a.b is inf", "finite")),
    ("a: 1e999\n", ("a is inf",)),
    ('a: "\\ud83d"\n', ("a", "cannot occur in text")),
    ('a: "x\\0y"\n', ("cannot occur in text",)),
    ("- 1\n---\n- 2\n", ("another document",)),
    ("a: b: c\n", ("line 1",)),
    ("a: *nope\n", ("undefined alias",)),
    ("a: <<\n", ("line 1",)),
])
def test_what_is_no_settings_is_one_sentence(text, words):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "here")
    said = str(caught.value)
    assert said.startswith("here") and "\n" not in said and len(said) < 400
    for word in words:
        assert word in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_any_encoding_and_any_line_ends(tmp_path, encoding):
    text = "ordner: Übergröße für schöne Äpfel und süße Nüsse\r\nschritte: 3\r\n"
    (tmp_path / "r.yaml").write_bytes(text.encode(encoding))
    assert read_mapping(tmp_path / "r.yaml", "config") == {"ordner": "Übergröße für schöne Äpfel und süße Nüsse",
                                                           "schritte": 3}


@given(SETTINGS)
@settings(max_examples=150, deadline=None)
def test_what_is_written_reads_back_the_same(value):
    read = parse_yaml(dump_yaml({"key": value}), "here")["key"]
    assert read == value and repr(read) == repr(value)  # 1 is not 1.0, and not true


@given(st.text(max_size=60) | st.text("{}[]:,-#&*!|>'\"%@`?~ \t\n<a01.eE+", max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_value_or_a_sentence(text):
    try:
        value = parse_yaml(text, "here")
    except UserError as error:
        assert str(error).startswith("here") and "\n" not in str(error)
    else:
        assert not isinstance(value, float) or math.isfinite(value)
