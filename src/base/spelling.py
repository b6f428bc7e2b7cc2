"""Names that look the same and are other characters: how to compare, to pair and to show them."""

import re
import unicodedata
from collections.abc import Iterable

_OTHER_SCRIPTS = str.maketrans(
    # small letters of Cyrillic and Greek that look like Latin ones, or whose capitals do; dashes; quotation marks
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455"
    "\u03b1\u03b2\u03b5\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u03b6"
    "\u2010\u2011\u2012\u2013\u2014\u2212\u2018\u2019",
    "abekmhopctyxijsabehikmnoptyxz------''",
)
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u3164\ufe00-\ufe0f]")


def caseless(text: str) -> str:
    """The same for texts that differ in case or in the Unicode form of their letters (NFC, NFD) only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def look(text: str) -> str:
    """The same for texts that differ in what the eye misses: case, Unicode forms, full width, blanks, scripts."""
    if text.isascii():
        return " ".join(text.casefold().split())
    folded = _INVISIBLE.sub("", caseless(unicodedata.normalize("NFKC", text)))
    visible = "".join(letter for letter in folded if unicodedata.category(letter) != "Cf")
    return " ".join(visible.translate(_OTHER_SCRIPTS).split())


def by_look(names: Iterable[str]) -> dict[str, list[str]]:
    """Different names by their `look`, in the given order."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(look(name), []).append(name)
    return groups


def match_names(wanted: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """For each wanted name the one that is present: itself, else the one that looks the same.

    The latter only where the two are the only names left over that look so; a name without a match is absent.
    """
    asked, there = dict.fromkeys(wanted), dict.fromkeys(present)
    left = by_look(name for name in there if name not in asked)
    matches = {name: name for name in asked if name in there}
    for key, names in by_look(name for name in asked if name not in there).items():
        if len(names) == 1 == len(left.get(key, ())):
            matches[names[0]] = left[key][0]
    return matches


def shown(name: str) -> str:
    """The name, in quotation marks and with escaped characters where it may look like another one."""
    mixed = re.search("[A-Za-z]", name) and name.casefold().translate(_OTHER_SCRIPTS) != name.casefold()
    plain = name.isprintable() and name == " ".join(name.split()) == unicodedata.normalize("NFKC", name)
    return name if plain and not mixed and not _INVISIBLE.search(name) else ascii(name)
