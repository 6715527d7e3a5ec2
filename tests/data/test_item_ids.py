import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.item_ids import escape, unescape

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(ANY_TEXT)
def test_any_text_comes_back_and_is_one_word_of_one_line(item_id):
    word = escape(item_id)
    assert unescape(word) == item_id
    assert word.split() == ([word] if item_id else [])
    assert len(f"{word}\n".splitlines()) == 1
    assert word.encode().decode("utf-8-sig") == word  # no byte order mark that a reader would drop


@given(ANY_TEXT, ANY_TEXT)
def test_two_ids_never_have_the_same_word(one, other):
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize("item_id, word", [
    ("214536502", "214536502"), ("żółw-7%20", "żółw-7%20"), ("a b", r"a\{20}b"), ("a\u00a0b", r"a\{a0}b"),
    ("tab\t", r"tab\{9}"), ("C:\\x", r"C:\\x"), ("\\{20}", r"\\{20}"),
])
def test_the_form_in_files(item_id, word):
    assert escape(item_id) == word


@pytest.mark.parametrize("word", ["\\", "a\\b", r"\{}", r"\{110000}", r"\{d800}", r"\{20", r"\{1234567}"])
def test_a_backslash_that_begins_no_escape_stands_for_itself(word):
    assert unescape(word) == word
