r"""What is wrong with a question, by its text alone, and how its markup is taken off it. Pure functions of text.

The patterns are those that the web's collections of competition problems call for: links of a wiki around every other
word, figures in Asymptote, solutions that were pasted along with the question, ligatures and backslashes that some
program took for control characters.
"""

import html
import re
import unicodedata

_TAGS = "a|b|br|center|code|details|div|em|font|h[1-6]|hr|i|li|ol|p|pre|s|small|span|strong|summary|table|td|th|tr|u|ul"
_ATTRIBUTES = r"""(?:\s+[\w-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*"""
_TAG = re.compile(rf"<(/?)({_TAGS}){_ATTRIBUTES}\s*/?>", re.IGNORECASE)
_POWER = re.compile(r"<(sup|sub)>([^<>]{1,100})</\1>", re.IGNORECASE)
_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\((?:https?://|www\.)[^\s()]*(?:\([^\s()]*\)[^\s()]*)*\)")
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\[\](){}\"']+")
_IMAGE = re.compile(r"!\[[^\[\]]*\]\([^\s()]*\)")

_FIGURE = re.compile(
    r"""\[asy\] | \\includegraphics | \\begin\{tikzpicture\} | !\[[^\]]*\]\( | <img\b | \[img\b | \bsee\ attached\b
    | \.(?:png|jpe?g|gif|svg)\b
    | \b(?:figure|diagram|picture|image|drawing)s?\ (?:below|above|shows?|shown|(?:on|to|at)\ the\ (?:right|left))\b
    | \b(?:in|from|on|see)\ (?:the|this)\ (?:(?:following|accompanying|attached|given)\ )?(?:figure|diagram|picture)s?\b
    | \b(?:in|see)\ (?:figure|diagram|picture)s?\b
    | \b(?:as|is|are)\ (?:shown|pictured|depicted|illustrated)\b(?!\ that)
    | \bshown\ (?:below|above|(?:on|to|at)\ the\ (?:right|left))\b
    | \baccompanying\ (?:figure|diagram|picture|graph|table)""",
    re.IGNORECASE | re.VERBOSE,
)
_SOLUTION = re.compile(
    r"\\boxed\s*\{|<summary>\s*(?:solution|answer)|\[hide\s*=\s*\"?(?:solution|answer)|^\**(?:solution|answer)[:.]\**\s",
    re.IGNORECASE | re.MULTILINE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# What a backslash becomes when it is read as an escape: \theta a tab, \neq a new line, \right a carriage return.
_LOST_BACKSLASH = re.compile(r"\t(?:heta|imes|ext\{|riangle|frac)|\n(?:eq|abla)\b|\r(?:ight|ho)\b")

_SPACING = re.compile(r"\\(?:left|right|displaystyle|quad|qquad|[,;:! ])(?![a-zA-Z])|[\s$~]")


def strip_markup(text: str) -> str:
    """`text` without HTML and URLs: links keep their words, powers and indices become TeX, entities characters.

    Tags are known ones, written as tags: the signs of `a<b and c>d` stay.
    """
    if "<" in text:
        closed = {match[2].lower() for match in _TAG.finditer(text) if match[1]}
        text = _POWER.sub(lambda match: ("^{" if match[1].lower() == "sup" else "_{") + match[2] + "}", text)
        # A lone <b> may be the middle of a < b > c; as a tag it would have an end.
        text = _TAG.sub(lambda match: match[0] if len(match[2]) == 1 and match[2].lower() not in closed else " ", text)
    if "&" in text:
        text = re.sub(r"&(?:[a-z]{2,8}|#[0-9]{1,6});", lambda match: html.unescape(match[0]), text)
    if "http" in text or "www." in text:
        text = _URL.sub("", _LINK.sub(r"\1", _IMAGE.sub("", text)))
    return text


def needs_figure(text: str) -> bool:
    """Whether the question shows a figure, or speaks of one."""
    return _FIGURE.search(text) is not None


def holds_solution(text: str) -> bool:
    """Whether the question brings its own solution along."""
    return _SOLUTION.search(text) is not None


def is_garbled(text: str) -> bool:
    """Whether characters were lost: control characters, or a TeX command without its backslash."""
    return _CONTROL.search(text) is not None or _LOST_BACKSLASH.search(text) is not None


def normalise(text: str) -> str:
    """What two ways of writing one question have in common: no case, white space, dollar signs or TeX spacing.

    Signs and digits all stay, for they make another question.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _SPACING.sub("", text).rstrip(".?!")
