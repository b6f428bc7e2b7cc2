"""Names that look the same are paired where no doubt is left, and shown so that they differ."""

import pytest

from src.base.spelling import by_look, look, match_names, shown

ALIKE = [
    ("caf\u00e9", "cafe\u0301"),  # NFC, NFD
    ("\uc0ac\uc9c4", "\u1109\u1161\u110c\u1175\u11ab"),  # Korean in both
    ("IMG 1.JPG", "img\u00a01.jpg"),
    ("a-b", "a\u2013b"),
    ("x1", "\uff58\uff11"),  # full width
    ("photo", "ph\u043et\u03bf"),  # one letter Cyrillic, one Greek
    ("x", "\u200bx\ufeff "),
    ("\u2764", "\u2764\ufe0f"),  # with a selector of its picture
    ("stra\u00dfe", "STRASSE"),
]


@pytest.mark.parametrize(("name", "other"), ALIKE)
def test_what_looks_the_same_is_paired_and_shown_to_differ(name, other):
    assert name != other and look(name) == look(other)
    assert match_names([name], [other]) == {name: other}
    assert match_names([name], [other, name]) == {name: name}
    assert shown(name) == name and shown(other).isascii()


def test_a_doubtful_pair_is_none():
    assert match_names(["A"], ["a", "\uff41"]) == {}
    assert match_names(["A", "\uff41"], ["a"]) == {}
    assert match_names(["A", "a"], ["a", "\uff41"]) == {"a": "a", "A": "\uff41"}, "one is left on each side"
    assert match_names(["b"], ["a"]) == {} and match_names([], []) == {}
    assert by_look(["a", "b", "A", "a"]) == {"a": ["a", "A"], "b": ["b"]}


def test_names_of_other_scripts_are_shown_as_they_are():
    for name in ("\uc0ac\uc9c4 1", "\u0444\u043e\u0442\u043e", "caf\u00e9", "0213074526", "\u5199\u771f"):
        assert shown(name) == name
    assert shown("a\u0430") == r"'a\u0430'", "of two scripts"
