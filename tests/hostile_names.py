"""Names that strangers give to categories and files: each kind of `KINDS`, and 450 of them put together."""

import random

KINDS = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\rb",
    "two\nlines",
    "tab\tbed",
    "nul\0byte",
    "\x7f\x9b31m",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    " =1",
    "$x^2$",
    "$\\frac{",
    "a_b^c\\d",
    "_hidden",
    "$",
    r"\$",
    "%d %s {0}",
    "שלום",
    "\u202egpj.exe",
    "\u2066a\u2069",
    "zero\u200bwidth",
    "\ufeffbom",
    "n" * 10_000,
    "\u0301" * 300,
    "\ud800",
    "half\udcff",
    "👩‍👩‍👧 🍎",
    "中文",
    "\U0010fffd",
    "",
    "   ",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&amp;",
    'quo"te',
    "a|b",
    "a,b;c",
    "`x` [y](z)",
    "../../up",
    "/etc/passwd",
    "CON",
    "[bold]rich[/bold]",
    "\u2028line",
)


def hostile_names(count: int, seed: int = 0) -> list[str]:
    """Different names, put together from one to three of the kinds."""
    draw, names = random.Random(seed), dict.fromkeys(KINDS)
    while len(names) < count:
        names["".join(draw.choice(KINDS) for _ in range(draw.randint(1, 3)))] = None
    return list(names)[:count]


def printed(capsys) -> str:
    """What a command has printed, after a check that no name spoils a terminal."""
    output = capsys.readouterr()
    assert all(line.isprintable() and len(line) < 2100 for line in (output.out + output.err).split("\n"))
    assert "Traceback" not in output.err
    return output.out
