r"""Rewrites LaTeX token by token, so that each command has one spelling and its arguments stand in braces.

`\dfrac12` and `1 \over 2` become `\frac{1}{2}`, `x^10` becomes `x^{10}`, and commands for fonts and sizes disappear.
"""

import re

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]+|[0-9]+|\s+|\*\*|[<>!]=|.", re.DOTALL)
_MAX_DEPTH = 60  # nested groups; deeper ones are not rewritten


_SYNONYMS = {
    "frac": ["dfrac", "tfrac", "cfrac", "sfrac", "nicefrac"],
    "binom": ["dbinom", "tbinom"],
    "le": ["leq", "leqslant", "leqq"],
    "ge": ["geq", "geqslant", "geqq"],
    "ne": ["neq"],
    "approx": ["simeq", "thickapprox", "doteq"],
    "emptyset": ["varnothing"],
    "epsilon": ["varepsilon"],
    "phi": ["varphi"],
    "theta": ["vartheta"],
    "ldots": ["dots", "cdots", "dotsc", "dotsb", "dotso"],
    "cdot": ["bullet"],
    "tan": ["tg"],
    "cot": ["ctg", "cotg"],
    "arctan": ["arctg"],
    "setminus": ["backslash", "smallsetminus"],
    "pmod": ["mod", "bmod"],
    "overline": ["bar", "widebar"],
    "mathbf": ["bm", "boldsymbol", "pmb"],
    "to": ["rightarrow", "longrightarrow"],
}
# fmt: off
_SAME = {
    **{rf"\{name}": rf"\{command}" for command, names in _SYNONYMS.items() for name in names},
    r"\lt": "<", r"\gt": ">", "<=": r"\le", ">=": r"\ge", "!=": r"\ne", r"\colon": ":", r"\%": "%", r"\prime": "'",
    r"\langle": "(", r"\rangle": ")", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]",
    r"\vert": "|", r"\lvert": "|", r"\rvert": "|", r"\lg": r"\log_{10}",
    r"\land": r"\text{ and }", r"\lor": r"\text{ or }", r"\vee": r"\text{ or }",
    **dict.fromkeys((r"\,", r"\;", r"\:", r"\!", r"\ ", r"\quad", r"\qquad", r"\enspace", r"\thinspace", "~"), " "),
    **dict.fromkeys((r"\(", r"\)", r"\[", r"\]"), " "),
    **dict.fromkeys(("$", r"\$", "£", "€", "¥", "￥", "₹"), ""),
}
# fmt: on
_BIG = ("big", "bigl", "bigr", "bigg", "biggl", "biggr", "Big", "Bigl", "Bigr", "Bigg", "Biggl", "Biggr")
_SIZES = ("tiny", "small", "footnotesize", "normalsize", "large", "Large", "LARGE", "huge", "Huge")
_STYLES = ("displaystyle", "textstyle", "limits", "nolimits", "bf", "it", "rm", "sf", "tt", "bfseries", "itshape")
_DROPPED = {rf"\{name}" for name in ("left", "right", "middle", *_BIG, *_SIZES, *_STYLES, "hline")}
_MARKS = ("underline", "uline", "fbox", "boxed", "ensuremath", "mathcal", "mathscr", "mathop", "smash")
_UNWRAPPED = {rf"\{name}" for name in _MARKS}
_TEXT = ("text", "textbf", "textit", "textrm", "textsf", "texttt", "textnormal", "mbox", "hbox", "emph", "operatorname")
_TEXTS = {rf"\{name}" for name in (*_TEXT, "mathrm", "mathbf", "mathit", "mathsf", "mathtt")}
_GREEK = ("pi", "theta", "alpha", "beta", "gamma", "lambda", "omega")
_TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh")
_FUNCTIONS = {"sqrt", "ln", "log", "exp", "infty", *_GREEK, *_TRIGONOMETRIC}
_CLOSING = {"(": ")", "{": "}", r"\{": r"\}", "[": "]"}
_SIZED = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_THIN = re.compile(r"\\[,;:! ]")
_COUNTED = re.compile(r"\s*([+-]?\d[\d.,]*)\s+(\S.*)", re.DOTALL)


def spell(text: str) -> str:
    """Return `text` with one spelling for each command and with its arguments in braces."""
    return _Speller(text).sequence("")


class _Speller:
    """Recursive-descent rewriter. `place` is the index of the next token; "" is the end."""

    def __init__(self, text: str) -> None:
        self.tokens = [*_TOKEN.findall(text), ""]
        self.place = self.depth = 0

    def take(self) -> str:
        token = self.tokens[self.place]
        self.place += bool(token)
        return token

    def skip_spaces(self) -> str:
        """Skip spaces, and return the next token without taking it."""
        while self.tokens[self.place].isspace():
            self.place += 1
        return self.tokens[self.place]

    def sequence(self, closing: str) -> str:
        """Rewrite everything up to the token `closing`, and take that token."""
        pieces = list[str]()
        while True:
            token = self.take()
            if token in (closing, ""):
                return "".join(pieces)
            if token in (r"\over", r"\choose", r"\atop"):
                name = r"\frac" if token == r"\over" else r"\binom"
                return f"{name}{{{''.join(pieces).strip()}}}{{{self.sequence(closing).strip()}}}"
            piece = self.piece(token)
            if piece[:1].isalpha() and pieces and re.fullmatch(r"\\[A-Za-z]+", pieces[-1]):
                piece = " " + piece
            if piece:
                pieces.append(piece)

    def piece(self, token: str) -> str:
        """Rewrite `token`, which is taken already, with its arguments. Leave it unchanged if nested too deeply."""
        self.depth += 1
        rewritten = self.unit(token) if self.depth <= _MAX_DEPTH else token
        self.depth -= 1
        return rewritten

    def unit(self, token: str) -> str:
        if token in _FUNCTIONS:
            token = "\\" + token
        token = _SAME.get(token, token)
        if token.isspace():
            return " "
        if token == "{":
            return self.braces()
        if token in ("^", "_", "**"):
            return self.script(token)
        if token[:1] != "\\":
            return token
        if token in _DROPPED:
            if token in (r"\left", r"\right") and self.tokens[self.place] == ".":
                self.place += 1
            return ""
        if token in _UNWRAPPED:
            return self.argument()
        if token in _TEXTS:
            return self.words(token)
        if token in (r"\frac", r"\binom"):
            return f"{token}{{{self.argument()}}}{{{self.argument()}}}"
        if token in (r"\sqrt", r"\surd"):
            return self.root(whole=token == r"\surd")
        if token in (r"\color", r"\textcolor", r"\colorbox"):
            self.raw()
            return "" if token == r"\color" else self.argument()
        if token in (r"\dot", r"\overline", r"\pmod"):
            return f"{token}{{{self.argument(whole=True)}}}"
        if token == r"\mathbb":
            return rf"\mathbb{{{self.argument()}}}"
        if token == r"\exp":
            return self.exponential()
        if token == r"\degree":
            return r" \text{degrees} "
        if token in (r"\begin", r"\end"):
            return token + "{" + self.raw() + "}"
        if token == r"\not" and self.skip_spaces() in ("=", r"\in"):
            return r"\ne " if self.take() == "=" else r"\notin "
        if token == r"\overset" and self.argument() in (".", r"\cdot"):
            return rf"\dot{{{self.argument()}}}"
        return token

    def braces(self) -> str:
        """Rewrite a group in braces. The opening brace is taken already."""
        return f"{{{self.sequence('}')}}}"

    def argument(self, *, whole: bool = False) -> str:
        """Rewrite one argument and drop its braces.

        An argument without braces is one digit or letter. If `whole` is true, it may be a number of several digits.
        """
        token = self.skip_spaces()
        if token in ("}", ")", ""):
            return ""
        if token.isalnum() and len(token) > 1 and not (whole and token.isdigit()) and token not in _FUNCTIONS:
            self.tokens[self.place] = token[1:]
            return token[0]
        self.place += 1
        return self.braces()[1:-1].strip() if token == "{" else self.piece(token)

    def script(self, sign: str) -> str:
        """Rewrite a power or an index: `^2`, `^{-1}`, `^(1/2)`, or the sign of degrees."""
        sign = "_" if sign == "_" else "^"
        token = self.skip_spaces()
        if token in ("+", "-"):
            self.place += 1
            content = token + self.argument(whole=True)
        elif token == "(" and sign == "^":
            self.place += 1
            content = f"({self.sequence(')')})"
        else:
            content = self.argument(whole=True)
        if content == r"\circ":
            return r" \text{degrees} "
        return content if content and not content.strip("'") else f"{sign}{{{content}}}"

    def root(self, *, whole: bool) -> str:
        """Rewrite the index and the argument of a root.

        An argument without braces is one digit or letter. If `whole` is true, it may be a number of several digits.
        """
        index = ""
        if self.skip_spaces() == "[":
            self.place += 1
            index = f"[{self.sequence(']').strip()}]"
        if self.skip_spaces() == "(":
            self.place += 1
            return rf"\sqrt{index}{{{self.sequence(')').strip()}}}"
        return rf"\sqrt{index}{{{self.argument(whole=whole)}}}"

    def exponential(self) -> str:
        r"""Rewrite `\exp(x)` as a power of e."""
        if self.skip_spaces() not in ("(", "{"):
            return r"\exp "
        return f"e^{{{self.sequence(_CLOSING[self.take()]).strip()}}}"

    def raw(self) -> str:
        """Take one argument and return it as it is written, without its braces."""
        if self.skip_spaces() != "{":
            return self.take()
        start, depth = self.place + 1, 0
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0 or not token:
                return "".join(self.tokens[start : self.place - bool(token)])

    def words(self, command: str) -> str:
        r"""Rewrite a text command, such as `\text`, and its argument.

        If the argument is a number followed by words without digits, the number moves in front of the command. If the
        argument has no letters, or has other digits and no `^`, it stays and the command is dropped. In all other cases
        the command stays.
        """
        raw = _THIN.sub(" ", _SIZED.sub("", self.raw()))
        name = raw.strip()
        if command == r"\operatorname" and name in _FUNCTIONS:
            return self.piece(name)
        if not any(character.isalpha() for character in re.sub(r"\\[A-Za-z]+", "", raw)):
            return spell(raw)
        counted = _COUNTED.fullmatch(raw)
        if counted and not any(map(str.isdigit, counted[2])):
            return rf"{counted[1]} \text{{{counted[2]}}}"
        if any(map(str.isdigit, raw)) and "^" not in raw:
            return spell(raw)
        return command + "{" + re.sub("[{}$]", "", raw) + "}"
