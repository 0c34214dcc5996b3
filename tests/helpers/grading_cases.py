r"""Table of test cases for the grader: an answer, its reference, and whether the answer is right.

In `BOXES`, an answer is the content of a `\boxed{}`; in `TEXTS`, it is a whole completion. A comment names the dataset
that a reference comes from. `[e]` marks cases that other graders were seen to get wrong.
"""

Case = tuple[str, str, bool]

NUMBERS: list[Case] = [
    ("73", "73", True),  # aime24
    ("073", "73", True),
    ("+73", "73", True),
    ("-73", "73", False),
    ("73.0", "73", True),
    ("73.", "73", True),
    ("73.5", "73", False),
    ("730", "73", False),
    ("-0", "0", True),
    ("1,000", "1000", True),
    ("1000", "1,000", True),
    ("1,00", "100", False),
    ("1,450,000", "1450000", True),  # gsm8k
    ("114{,}200", "114,200", True),  # gsm8k
    (r"10{,}080", r"10,\!080", True),  # math500
    ("11111111100", r"11,\! 111,\! 111,\! 100", True),  # math500
    (r"\$32,348", r"\$32,\!348", True),  # math500
    ("32348", r"\$32,\!348", True),
    (r"\text{No, it is impossible} = 29621", r"\text{No}", False),
    (r"\text{No, it is impossible}, 52324", r"\text{No}", False),
    (r"\text{No, it is impossible because } 2 = 3", r"\text{No}", True),
    (r"\text{less than } 0\leqb\leq2", r"0\leqb\leq2", False),
    (r"\text{not } 0\lebb\le2", r"0\lebb\le2", False),  # a command that does not exist
    (r"0 \le b \le 2", r"0\leqb\leqslant2", True),
    (r"17810 = \sqrt{5} \approx 2.24", "2.24", False),
    (r"\sqrt{20} = 2\sqrt{5} \approx 4.47", "4.47", True),
    ("x == 7", "x = 7", True),  # as in programs
    (r"\frac{\piR}{2}", r"\frac{\pi R}{2}", True),  # orz_math writes \piR
    (r"\gcd(m, n)", r"\gcd(m, n) = 1", False),
    ("a 0", "a = 0", False),
    ("18.9", r"\$18.90", True),  # math500
    ("18.9", r"\$18.09", False),
    (".35625", "0.35625", True),  # math500
    ("0.0000672", ".0000672", True),  # math500
    (r"6.72 \times 10^{-5}", ".0000672", True),
    (r"6.72 \cdot 10^{-4}", ".0000672", False),
    ("0.0000671", ".0000672", False),  # the rounding rule needs six significant digits, not six decimals
    ("1e3", "1000", False),  # in mathematical notation e is a number
    ("0.5", r"\frac{1}{2}", True),
    ("1/2", r"\frac{1}{2}", True),
    (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
    (r"\tfrac12", r"\frac{1}{2}", True),
    (r"\frac{2}{4}", r"\frac{1}{2}", True),
    (r"\frac{-1}{2}", r"-\frac{1}{2}", True),
    (r"\frac{1}{-2}", r"-\frac{1}{2}", True),
    (r"\frac43", r"\frac{4}{3}", True),  # [e]
    (r"\frac43", r"\frac43", True),  # math500, [e]
    (r"\frac{4}{3}", r"\frac43", True),
    (r"\frac34", r"\frac43", False),
    (r"\frac{59}{1}", r"\frac 59", False),  # math500
    (r"5/9", r"\frac 59", True),
    (r"\frac{9}{19}", r"\frac9{19}", True),  # math500
    ("0.333333", r"\frac{1}{3}", True),
    ("0.3333", r"\frac{1}{3}", False),
    ("0.333334", r"\frac{1}{3}", False),
    (r"1\frac{4}{5}", "1.8", True),
    ("1.8", r"1\frac{4}{5}", True),  # math500
    (r"\frac{9}{5}", r"1\frac{4}{5}", True),
    (r"\frac{4}{5}", r"1\frac{4}{5}", False),
    ("137.5", r"137 \frac{1}{2}", True),  # math500
    ("137 1/2", r"137 \frac{1}{2}", True),
    (r"-1\frac{4}{5}", "-1.8", True),
    (r"\frac{240}{11}", r"21\frac{9}{11}", True),  # orz
    (r"2^{27} - 2^{11}", r"2^{27} - 2^{11}", True),  # orz
    ("134215680", r"2^{27} - 2^{11}", True),
    (r"2^{27} - 2^{10}", r"2^{27} - 2^{11}", False),
    ("2^{1990}", r"2^{1990} - 1", False),  # orz
    (r"4^{995} - 1", r"2^{1990} - 1", True),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", False),  # [e]
    (r"2^{-98}", r"\frac{1}{2^{98}}", True),
    ("0", r"\frac{1}{10^{10}}", False),  # orz
    (r"10^{-10}", r"\frac{1}{10^{10}}", True),
    (r"\frac{\pi}{2^{99}}", r"\frac{\pi}{2^{98}}", False),
    (r"\frac{2\pi}{2^{99}}", r"\frac{\pi}{2^{98}}", True),
    ("40320", "8!", True),  # orz
    (r"\binom{15}{8}", r"\binom{15}{7}", True),  # orz
    ("6435", r"\binom{15}{7}", True),
    ("6434", r"\binom{15}{7}", False),
    ("2013", r"3\times11\times61", True),  # orz
    ("-2^{2}", "4", False),
    ("(-2)^{2}", "4", True),
    (r"\sqrt{16}", "4", True),
    ("9" * 90, "9" * 90, True),
    ("9" * 90, "9" * 89 + "8", False),
]

UNITS: list[Case] = [
    ("90", r"90^\circ", True),  # math500
    ("90°", r"90^\circ", True),
    (r"90^{\circ}", "90", True),
    (r"90\text{ degrees}", r"90^\circ", True),
    ("91", r"90^\circ", False),
    (r"\frac{270}{7}", r"\frac{270}7\text{ degrees}", True),  # math500
    (r"\frac{\pi}{2}", r"90^\circ", True),
    (r"90^\circ", r"\frac{\pi}{2}", True),
    (r"\frac{\pi}{2} \text{ radians}", r"90^\circ", True),
    (r"\frac{\pi}{3}", r"90^\circ", False),
    (r"90 \text{ radians}", r"90^\circ", False),
    ("5.4", r"5.4 \text{ cents}", True),  # math500
    ("5.4 cents", r"5.4 \text{ cents}", True),
    (r"5.4 \text{ dollars}", r"5.4 \text{ cents}", False),
    ("864", r"864 \mbox{ inches}^2", True),  # math500
    (r"864 \text{ in}^2", r"864 \mbox{ inches}^2", True),
    (r"864 \text{ square inches}", r"864 \mbox{ inches}^2", True),
    (r"864 \text{ cm}^2", r"864 \mbox{ inches}^2", False),
    ("15 cm^2", r"15\mbox{ cm}^2", True),  # math500
    (r"15\,\mathrm{cm}^{2}", r"15 \, \text{cm}^2", True),  # orz
    (r"15\text{ cm}", r"15\mbox{ cm}^2", False),
    ("995", r"995\text{ dollars}", True),  # orz
    (r"\$995", r"995\text{ dollars}", True),
    ("620", r"620 \text{ minutes}", True),  # orz
    (r"620 \text{ seconds}", r"620 \text{ minutes}", False),
    (r"4\pi", r"4\pi \text{ cm}", True),  # orz
    ("12", r"12 \text{ apples}", True),
    (r"5 \text{ or more}", "5", False),
    ("2", "2h", False),  # orz: h is a length
    ("50%", r"50\%", True),
    ("50", r"50\%", True),
    ("0.5", r"50\%", True),
    (r"50\%", "50", True),
    (r"\frac{1}{2}", r"50\%", True),
    (r"5\%", r"50\%", False),
    ("5", r"50\%", False),
    (r"9 \frac{1}{11}\%", r"\frac{100}{11}\%", True),  # orz
    (r"50\text{ percent}", r"50\%", True),
]

TEXTUAL: list[Case] = [
    (r"\text{Evelyn}", r"\text{Evelyn}", True),  # math500
    ("Evelyn", r"\text{Evelyn}", True),
    (r"\textbf{evelyn}", r"\text{Evelyn}", True),
    (r"\text{Navin}", r"\text{Evelyn}", False),
    ("east", r"\text{east}", True),  # math500
    ("seat", r"\text{east}", False),  # the same letters
    ("odd", r"\text{even}", False),  # math500
    ("No", r"\text{No}", True),  # orz
    ("on", r"\text{No}", False),
    ("Yes", r"\text{No}", False),
    ("Blue", "blue", True),  # orz
    (r"\mathrm{ellipse}", r"\text{ellipse}", True),  # math500
    ("7", r"\text{ellipse}", False),
    (r"\text{(C)}", r"\text{(C)}", True),  # math500
    ("C", r"\text{(C)}", True),
    ("(C)", r"\text{(C)}", True),
    (r"\textbf{(C)}", r"\text{(C)}", True),
    ("C.", "C", True),
    ("B", r"\text{(C)}", False),
    ("c", r"\text{(C)}", False),
    ("3", r"\text{(C)}", False),
    ("D", r"(D) \ 1", True),  # orz
    (r"(D)\ 1", "(D)", True),
    ("1", r"(D) \ 1", True),
    ("2", r"(D) \ 1", False),
    (r"(D) \ 2", r"(D) \ 1", False),
    (r"(A) \ 1", r"(D) \ 1", False),
    ("n", "n", True),  # orz
    ("N", "n", False),
    ("m", "n", False),
    ("ABC", r"\triangle ABC", False),
    ("BCA", "ABC", False),
    (r"52_8", "52_8", True),  # math500
    (r"52_{8}", "52_8", True),
    ("52", "52_8", False),
    ("42", "52_8", False),
    ("52_9", "52_8", False),
    (r"4210_5", r"4210_{5}", True),  # math500
]

SYMBOLS: list[Case] = [
    ("3", r"3\sqrt{13}", False),  # math500, [e]
    (r"3\sqrt{13}", r"3\sqrt{13}", True),
    (r"3 \sqrt {13}", r"3\sqrt{13}", True),
    (r"\sqrt{117}", r"3\sqrt{13}", True),
    (r"3√13", r"3\sqrt{13}", True),
    ("10.816654", r"3\sqrt{13}", True),
    ("10.8", r"3\sqrt{13}", False),
    (r"11\sqrt{2}", r"11\sqrt2", True),  # math500
    (r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt{3}}", True),
    (r"\sqrt{2}-1", r"\frac{1}{\sqrt{2} + 1}", True),  # orz
    ("5", "6 - 5i", False),  # math500, [e]
    ("-5i+6", "6 - 5i", True),
    ("6+5i", "6 - 5i", False),
    ("7", r"3, 5, 7", False),  # math500, [e]
    ("q - p", "p - q", False),  # math500
    ("-q + p", "p - q", True),
    (r"2\pi + 18", r"18+2\pi", True),  # math500
    ("24.283185", r"18+2\pi", True),
    (r"n^2-2n+1", "(n-1)^2", True),  # orz
    (r"n^2-2n-1", "(n-1)^2", False),
    (r"(b+2)(a+5)", "(a+5)(b+2)", True),  # math500
    (r"2^n \cdot 2 - 2n - 2", "2^{n+1} - 2(n+1)", True),  # orz
    (r"\frac{1}{24}\ln(5)", r"\frac{1}{24}\ln5", True),  # orz
    (r"\frac{1 }{2}n", r"\frac{n}{2}", True),  # orz
    (r"\cot{x}", r"\cot x", True),  # math500
    (r"\tan x", r"\cot x", False),
    (r"\frac{\cos x}{\sin x}", r"\cot x", True),
    ("e", " e ", True),  # orz
    ("2.718282", " e ", True),
]

EQUATIONS: list[Case] = [
    ("2^{10} - 1 = 1023", "|f_n - g_n| = 1", False),  # orz, both: neither has a solution
    ("4", "n = 4", True),  # orz
    ("n=4", "n = 4", True),
    ("n=4", "4", True),
    (r"\boldsymbol{n} = 4", "5", False),
    ("n=5", "n = 4", False),
    ("m=4", "n = 4", False),
    ("4=n", "n = 4", True),
    ("x = 5", "x=5", True),  # math500
    ("5 = 4", "4", False),
    ("2x+3 = 4", "4", False),
    ("0", "5x - 7y + 11z + 4 = 0", False),  # math500
    ("11z + 5x - 7y + 4 = 0", "5x - 7y + 11z + 4 = 0", True),
    ("-4 = 5x - 7y + 11z", "5x - 7y + 11z + 4 = 0", True),
    ("2x + 3", "y = 2x + 3", True),  # math500
    ("y - 2x = 3", "y = 2x + 3", True),
    ("y = 3x + 2", "y = 2x + 3", False),
    ("x^2", "f(x) = x^2", True),  # orz
    ("f(x) = x^3", "f(x) = x^2", False),
    ("2", r"\frac{TM}{MK} = 2", True),  # orz
    ("1023", "2^{10} - 1 = 1023", True),  # orz
    ("1", "x = y = z = 1", True),  # orz
    ("2", "x = y = z = 1", False),
    ("a=332, b=7", "a = 332, b = 7", True),  # orz
    ("b=7, a=332", "a = 332, b = 7", True),
    ("a=7, b=332", "a = 332, b = 7", False),
    ("8", "a = 8^{1/8}", False),  # orz
    (r"\lambda=2", r"\lambda = 2", True),  # orz
]

SETS: list[Case] = [
    ("-2,1", "1,-2", True),  # math500
    (r"1 \text{ and } -2", "1,-2", True),
    (r"x = 1 \text{ or } x = -2", "1,-2", True),
    (r"\{-2, 1\}", "1,-2", True),
    ("1", "1,-2", False),
    ("1,2", "1,-2", False),
    ("1,-2,3", "1,-2", False),
    ("7, 5, 3", "3, 5, 7", True),  # math500
    (r"27, 1", r"1 \text{ and } 27", True),  # orz
    (r"\{0, -3, 6, 2\}", r"\{-3, 0, 2, 6\}", True),  # orz
    (r"\{0, 3, 6, 2\}", r"\{-3, 0, 2, 6\}", False),
    (r"\left\{3\right\}", "3", True),
    (r"1 + \sqrt{19}, 1 - \sqrt{19}", r"1 \pm \sqrt{19}", True),  # math500
    (r"1 ± √19", r"1 \pm \sqrt{19}", True),
    (r"1 + \sqrt{19}", r"1 \pm \sqrt{19}", False),
    (r"\{-2, 1-\sqrt{5}, 1+\sqrt{5}\}", r"\{1\pm\sqrt{5},-2\}", True),  # math500
    (r"\{2, 1-\sqrt{5}, 1+\sqrt{5}\}", r"\{1\pm\sqrt{5},-2\}", False),
    (r"\pm 3", "3, -3", True),
    ("3", r"\pm 3", False),
    ("(2, 56), (28, -48)", "(28, -48), (2, 56)", True),  # orz
    ("(56, 2), (28, -48)", "(28, -48), (2, 56)", False),
]

TUPLES: list[Case] = [
    (r"(3, \pi/2)", r"\left( 3, \frac{\pi}{2} \right)", True),  # math500
    (r"\left(\frac{\pi}{2}, 3\right)", r"\left( 3, \frac{\pi}{2} \right)", False),
    ("(6, 31, -1)", "(6,31,-1)", True),  # math500
    ("(31, 6, -1)", "(6,31,-1)", False),
    ("6,31,-1", "(6,31,-1)", True),
    ("(1,-2)", "(-2,1)", False),  # math500: as open intervals both would be empty
    ("(1,-3)", "(1,-2)", False),
    (r"\{-2,1\}", "(-2,1)", False),
    (r"\{(6,31,-1)\}", "(6,31,-1)", True),
    ("(2,1.50)", "(2, 1.5)", True),  # orz
    ("(x, y)=(2,1)", "(2, 1)", True),  # orz
    (
        r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}",  # math500
        r"\begin{bmatrix} -\frac13 \\ \frac23 \\ \frac53 \end{bmatrix}",
        True,
    ),
    (r"\begin{pmatrix} 2/3 \\ -1/3 \\ 5/3 \end{pmatrix}", r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}", False),
    (r"\begin{pmatrix}-1&0\\0&-1\end{pmatrix}", r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", True),  # math500
    (r"\begin{pmatrix}1&0\\0&-1\end{pmatrix}", r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", False),
    (r"(-2, -14, -7)", r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}", True),  # math500
    (r"\begin{pmatrix} -2 & -14 & -7 \end{pmatrix}", r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}", False),
    ("8:2", "4:1", True),  # orz
    ("4/1", "4:1", True),
    ("1:4", "4:1", False),
    ("6:10:14", "3:5:7", True),  # orz
    ("3:7:5", "3:5:7", False),
]

INTERVALS: list[Case] = [
    ("(3, 4]", "(3,4]", True),  # math500
    ("[3,4]", "(3,4]", False),
    ("(3,4)", "(3,4]", False),
    (r"3 < x \le 4", "(3,4]", True),
    ("(3,4]", r"3<x\le4", True),  # [e]
    (r"3 \le x \le 4", "(3,4]", False),
    (r"4 \ge x > 3", "(3,4]", True),
    (r"x \in (3,4]", "(3,4]", True),
    ("[-2,7]", r"x \in [-2,7]", True),  # math500
    (r"-2 \leq x \leq 7", r"x \in [-2,7]", True),
    ("[-2,7)", r"x \in [-2,7]", False),
    (r"x > 2", r"(2,\infty)", True),  # math500
    (r"2 < x", r"(2,\infty)", True),
    (r"x \ge 2", r"(2,\infty)", False),
    (r"(2, +\infty)", r"(2,\infty)", True),
    (r"(-∞, 0]", r"(-\infty, 0]", True),  # math500
    (r"x \leqslant 0", r"(-\infty, 0]", True),
    (r"(9,36) \cup (0,9)", r"(0,9) \cup (9,36)", True),  # math500
    (r"(0,36)", r"(0,9) \cup (9,36)", False),
    (r"(0,9] \cup (9,36)", r"(0,9) \cup (9,36)", False),
    (r"[2,\infty)", r"M = [2, \infty)", True),  # orz
    (r"n \geq 381", r"n \ge 381", True),  # orz
    (r"n > 381", r"n \ge 381", False),
    ("381", r"n \ge 381", False),
    (r"381 \le n", r"n \ge 381", True),
    (r"3 < x > 4", "(3,4)", False),
    (r"4 > x > 3", "(3,4)", True),
    (r"m \ge 381", r"n \ge 381", False),
    (r"c \ge 2", r" c \geq 2 ", True),  # orz
    (r"k \ne 2", r"k \neq 2", True),  # orz
    (r"k = 2", r"k \neq 2", False),
]

RATIOS: list[Case] = [
    ("0:0:0", "1:2:3", False),
    ("1:2:3", "0:0:0", False),
    ("x-x:y-y:z-z", "1:2:3", False),
    ("0:1:5", "0:2:5", False),
    ("0:3:7", "0:1:2", False),
    ("1:0:2", "1:1:2", False),
    ("0:0", "5", False),
    ("0:0:0", "0:0:0", True),
    ("0:2:10", "0:1:5", True),
    ("2:0:4", "1:0:2", True),
    ("0:5", "0:3", True),
    (r"2\sqrt{2}:2:4", r"\sqrt{2}:1:2", True),
    ("2a:2b:2c", "a:b:c", True),
]

FREE_LETTERS: list[Case] = [
    (r"2k, k\in\mathbb{Z}", r"2\pi", False),
    (r"2\pi", r"2k, k\in\mathbb{Z}", False),
    (r"k^2, k\in\mathbb{Z}", "e^2", False),
    (r"2+3k, k\in\mathbb{Z}", "2+3i", False),
    (r"C, C \text{ is a constant}", r"\pi", False),
    (r"3k{2}, k\in\mathbb{Z}", r"3\sqrt{2}", False),
    (r"2k(x), k\in\mathbb{Z}", r"2\sin(x)", False),
    (r"\mathbb{k}, k\in\mathbb{Z}", r"\mathbb{R}", False),
    (r"k, k\in\mathbb{Z}", "(B)", False),
    (r"k, k\in\mathbb{Z}", "B", False),
    (r"k, k\in\mathbb{Z}", "n", False),
    (r"x=k, k\in\mathbb{Z}", "x=n", False),
    (r"kn, k,n\in\mathbb{Z}", "AB", False),
    (r"\frac{b}{a}, a,b\in\mathbb{R}", r"\frac{a}{b}", False),
    (r"b-a, \text{ where } a, b \text{ are real numbers}", "a-b", False),
    (r"(b,a), a,b\in\mathbb{R}", "(a,b)", False),
    (r"\frac{m}{n}, m,n\in\mathbb{Z}", r"\frac{a}{b}", False),
    (r"a+n\pi, a,n\in\mathbb{Z}", r"b+k\pi, k\in\mathbb{Z}", False),  # b comes from the question
    (r"x=p-q, p,q\in\mathbb{R}", "x=a-b", False),
    (r"2n+3m, m,n\in\mathbb{Z}", r"2m+3n, m,n\in\mathbb{Z}", True),
    (r"2i-1, i\in\mathbb{Z}", r"2k-1, k\in\mathbb{Z}", True),
    (r"2k\pi, k\in\mathbb{Z}", r"2n\pi", True),
    (r"2k\pi", r"2n\pi, n\in\mathbb{Z}", True),
    (r"P(x)=cx+d, \text{ where } c, d \text{ are constants}", "P(x) = ax + b", True),  # orz
    (r"f(x)=k, k\in\mathbb{R}", "f(x) = c", True),  # orz
]

RESIDUES: list[Case] = [
    (r"2^{2023} \bmod 7", "2", False),
    (r"7^{2024}\pmod{100}", "1", False),
    (r"123\cdot 456 \bmod 10", "8", False),
    (r"2023 \bmod 7", "0", False),
    (r"x \equiv 2^{2023} \pmod 7", r"x\equiv 2\pmod 7", False),
    (r"3 \bmod 7", "3", True),
    (r"x \equiv -4 \pmod 7", r"x\equiv 3\pmod 7", True),
]

PIECES: list[Case] = [
    (
        r"\begin{cases}2 & x=7\\1&\text{otherwise}\end{cases}",
        r"\begin{cases}1 & x>0\\2&\text{otherwise}\end{cases}",
        False,
    ),
    (
        r"\begin{cases}1 & \text{otherwise}\\2&\text{otherwise}\end{cases}",
        r"\begin{cases}1 & x>0\\2&x\le0\end{cases}",
        False,
    ),
    (r"\begin{cases}2&\text{else}\\1 & x>0\end{cases}", r"\begin{cases}1 & x>0\\2&\text{otherwise}\end{cases}", True),
    (r"\begin{cases}2&\text{otherwise}\\1 & x>0\end{cases}", r"\begin{cases}1 & x>0\\2&x\le0\end{cases}", True),
    (r"\begin{cases}2&x\le0\\1 & 0<x\end{cases}", r"\begin{cases}1 & x>0\\2&\text{otherwise}\end{cases}", True),
]

CONDITIONS: list[Case] = [
    (r"\{2x \mid x>1\}", r"(1,\infty)", False),
    (r"\{-x : x>1\}", "x>1", False),
    (r"(1,\infty)", r"\{x^2 \mid x>1\}", False),
    (r"\{(x,y) \mid x+y>1\}", "x+y>1", True),
    (r"\{(x,y) \in \mathbb{R}^2 \mid x+y>1\}", "x+y>1", True),
    (r"\{x \in (0,5) \mid x>1\}", r"(1,\infty)", False),
    (r"x>\sqrt2 \text{ and } x<\sqrt3", r"(\sqrt2,\sqrt3)", True),
    (r"x>\sqrt2, x<\sqrt3", r"(\sqrt2,\sqrt3)", True),
    (r"x>a \text{ and } x<b", "a<x<b", True),
    (r"x>\sqrt2 \text{ and } x<\sqrt3", r"\mathbb{R}", False),
    (r"x<\sqrt2 \text{ and } x>\sqrt3", r"x<\sqrt2 \text{ or } x>\sqrt3", False),
    (r"x<\sqrt2 \text{ and } x>\sqrt3", r"(-\infty,\sqrt2)\cup(\sqrt3,\infty)", False),
    (r"1<x<5 \text{ and } x>2", r"(1,\infty)", False),
    (r"\begin{cases}x>1\\x<3\end{cases}", "(1,3)", True),
    (r"\begin{cases}x>1\\x<3\end{cases}", r"\mathbb{R}", False),
    (r"x\le3 \text{ and } x\ge3", r"\emptyset", False),
    (r"x\le3 \text{ and } x\ge3", "3", True),
    (r"x\le3 \text{ and } x>3", r"\emptyset", True),
    (r"x<1 \text{ or } x>3", "|x-2|>1", True),
]

CHOICES: list[Case] = [
    ("A. 5; B. 6; C. 7; D. 8", "A", False),
    ("A. 5\nB. 6", "A", False),
    ("A. Option B", "A", False),
    ("Option A. also B", "A", False),
    ("(C) 12, D. 15, E. 18", "C", False),
    ("B. 5; A", "B", False),
    ("B. A cat", "B", True),
    ("A. Vitamin C", "A", True),
    ("(A) x + C", "A", True),
]

ROUNDED: list[Case] = [
    (r"\pi \approx 3.14", r"\pi", True),
    (r"e \approx 2.718", "e", True),
    (r"\pi \approx 5", "5", False),
    (r"\infty \approx 5", "5", False),
    ("3.14159", r"\pi", True),
    ("3.14160", r"\pi", False),
    ("3.1416", r"\pi", False),
    ("1.41421", r"\sqrt2", True),
    ("31415.927", r"10000\pi", True),
    ("0", r"\sqrt{8}-2\sqrt{2}", True),
    (r"10^{-10}\pi", "0", False),
]

DESCRIBED: list[Case] = [
    ("m+n=41", "41", True),
    ("m+n=12+29=41", "41", True),
    ("m+n=12+28=41", "41", False),
    ("|z|=5", "5", True),
    (r"\cos\theta=\frac12", r"\frac12", True),
    (r"\angle A=30^\circ", r"30^\circ", True),
    (r"\overline{AB}=5", "5", True),
    (r"P(X=2)=\frac14", r"\frac14", True),
    (r"\text{Area of triangle}=25\pi", r"25\pi", True),
    (r"A\cup B=[1,2]", "[1,2]", True),
    ("AB=BC=5", "5", True),
    ("-x=5", "5", False),
    ("x^2=4", "4", False),
    ("4", "x+y=4", False),
    (r"\neg x=5", "5", False),
    (r"\text{not the answer}=5", "5", False),
]

BOMBS: list[Case] = [
    (r"9^{9^{9^{9^9}}}", "x + 1", False),  # [e]
    (r"10^{10^{10^{10}}}", "4", False),  # [e]
    ("2^{100000000000}", "4", False),
    ("((2^{1000})^{1000})^{1000}", "4", False),
    ("1000000000!", "x + 1", False),
    ("((9!)!)!", "4", False),
    ("5!!!", "4", False),
    ("9" * 5000, "4", False),
    ("(" * 400 + "1" + ")" * 400, "2", False),
    (r"\frac{1}{" * 60 + "2" + "}" * 60, "2", False),
    (r"\sqrt" * 100 + "{x}", "2", False),
    (r"\frac{1}{0}", "0", False),
    (r"\frac{1}{0}", r"\frac{2}{0}", False),
    (r"\frac{", "1", False),
    (r"\frac{}{}", "1", False),
    (r"\begin{pmatrix} 1 \\", "1", False),
    (r"\binom{(\infty)(0.5)}{\infty}", "2010", False),
    (r"32-e+\log_{0.5} \infty", r"\frac{4^n + 2}{3}", False),
    (r"\begin{pmatrix} x \\ 0.5 \end{pmatrix}\cdot |1164|", "256", False),
    (r"\text{not } 4", "4", False),
    ("4 is wrong, 5", "4", False),
    ("The answer is 4", "4", False),
    ("$ 4 $ or $ 5 $", "4", False),
    ("3^{6567340}", "3^{6567340}", True),  # orz
    ("3^{6567341}", "3^{6567340}", False),
    ("", "4", False),
    ("?", "4", False),
]

BOXES = [
    *(*NUMBERS, *UNITS, *TEXTUAL, *SYMBOLS, *EQUATIONS, *SETS, *TUPLES, *INTERVALS, *RATIOS, *FREE_LETTERS, *RESIDUES),
    *(*PIECES, *CONDITIONS, *CHOICES, *ROUNDED, *DESCRIBED, *BOMBS),
]

TEXTS: list[Case] = [
    (r"so it is \boxed{67}.", "67", True),
    (r"\boxed{66}, no: \boxed{67}", "67", True),
    (r"\boxed{67}, no: \boxed{66}", "67", False),
    (r"\boxed{67} and then \boxed{6", "67", True),
    (r"\boxed{3}\boxed{5}\boxed{7}", r"\{3, 5, 7\}", False),  # [e]
    (r"\boxed{\boxed{67}}", "67", True),
    (r"<think>\boxed{67}</think>", "67", False),  # [e] a box in the thinking block does not count
    (r"<think>\boxed{67}", "67", False),
    (r"<think>\boxed{1}</think>\boxed{67}", "67", True),
    ("67", "67", False),  # [e]
    ("The answer is 67", "67", False),
    (r"\boxed 67", "67", False),
    (r"\boxed{\text{a \} b}} \boxed{67}", "67", True),
    (r"{ \boxed{67}", "67", True),
    (r"\boxed{67}" + "1" * 10**6, "67", True),
    ("{" * 10**5 + r"\boxed{67}", "67", True),
    (r"\boxed{67} \boxed{" + "1" * 10**6 + "}", "67", False),  # [e] the last box is the answer
    ("", "67", False),
]
"""Cases whose answer is in a whole completion."""

CASES: list[Case] = [*((rf"\boxed{{{box}}}", answer, right) for box, answer, right in BOXES), *TEXTS]
