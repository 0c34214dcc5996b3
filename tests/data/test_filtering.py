"""What is wrong with a question, by its text: cases from collections of competition problems, and their look-alikes."""

import pytest

from raml_trl.data.filtering import holds_solution, is_garbled, needs_figure, normalise, strip_markup


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("In [right triangle](https://example.org/wiki/Right_triangle) $ABC$", "In right triangle $ABC$"),
        ("a [link](http://example.org/a_(b)) to it", "a link to it"),
        ("see https://example.org/x?y=1 now", "see  now"),
        ("![Image](https://example.org/a.png) find $x$", " find $x$"),
        ("$x$<sup>2</sup> and $a$<sub>10</sub>", "$x$^{2} and $a$_{10}"),
        ('<span style="font-size:75%">small</span>', " small "),
        ("<p>one<br/>two</p>", " one two "),
        ("Tom &amp; Ann &lt; 3 &#39;", "Tom & Ann < 3 '"),
        ("<b>bold</b>", " bold "),
    ],
)
def test_markup_goes(text: str, stripped: str) -> None:
    assert strip_markup(text) == stripped


@pytest.mark.parametrize(
    "text",
    [
        "if a<b and c>d then",
        "$a <b> c$",
        "$0<x<y$ and $p>q$",
        r"\langle x \rangle & y \\",
        "f[x](y) and [0,1](x)",
        "<think>",
        r"\begin{align} a&b \end{align}",
        "x<i and j>y",
    ],
)
def test_mathematics_stays(text: str) -> None:
    assert strip_markup(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "[asy]draw((0,0));[/asy]",
        "![](https://example.org/x.png)",
        "as shown in the figure below",
        "The diagram shows twenty circles",
        "In the accompanying figure, the square",
        "a circle is removed, as shown. Which",
        "the squares shown below",
        "(See figure.) Continue",
        "from the following diagram",
        r"\includegraphics{x}",
        "Problem 15.png",
    ],
)
def test_figures(text: str) -> None:
    assert needs_figure(text)


@pytest.mark.parametrize(
    "text",
    [
        "the image of $f$",
        "he earned it from selling pictures he took",
        "It can be shown that $x$ is",
        "as is shown that",
        "five-figure numbers",
        "inscribed in the remaining figure.",
        "the graph of $y = x$",
        "how many figures are below 10",
        "numbers below 100",
    ],
)
def test_no_figures(text: str) -> None:
    assert not needs_figure(text)


def test_solutions() -> None:
    assert holds_solution(r"Find $n$. <details><summary>Solution</summary>It is $\boxed{573}$.</details>")
    assert holds_solution("Find $n$.\n**Solution:** it is 3")
    assert not holds_solution("Find the solution: $x^2 = 1$. <summary>Clarifications</summary>")
    assert not holds_solution("What is the volume of the solution? The box is 3.")


@pytest.mark.parametrize(
    "text", ["The \x0cgure", "is \x08inom", "$\theta$".replace("\\t", "\t"), "$\times 2$", "a $\neq$", "bad \ud800"]
)
def test_garbled(text: str) -> None:
    assert is_garbled(text)


@pytest.mark.parametrize("text", ["a\n\tb", r"$\theta \times \neq$", "one\r\ntwo", "a\n eq", "é ∑"])
def test_not_garbled(text: str) -> None:
    assert not is_garbled(text)


def test_normalised() -> None:
    assert normalise(r"Let  $x$ be, \, \dfrac{1}{2}.") == normalise(r"let $x$ be, \frac{1}{2}")
    assert normalise("\uff11\uff0b\uff11") == normalise("1+1")
    for one, other in (("1+1", "1-1"), ("f(x)", "f(y)"), (r"\leq", r"\left"), ("a < b", "a > b")):
        assert normalise(one) != normalise(other)
