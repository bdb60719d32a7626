"""Markdown pages from a seed. Frozen during a run."""

import random

WORDS = (
    "amber birch cedar dune ember fern grove heath iris juniper kelp larch moss nettle oak pine"
    " quartz reed sedge thyme umber vetch willow yarrow snake_case 3.14 don't A&B x<y"
).split()


def words(dice, low, high):
    return " ".join(dice.choice(WORDS) for _ in range(dice.randint(low, high)))


def inline(dice):
    """A few words, mostly plain."""
    said = words(dice, 2, 9)
    name = dice.choice(WORDS[:20])
    return dice.choice(
        [
            said,
            said,
            said,
            f"*{said}*",
            f"**{said}**",
            f"_{name}_ {said}",
            f"`{name}({said})`",
            f"[{said}](/{name}/{dice.randint(1, 99)} '{name}')",
            f"[{name}][ref-{dice.randint(0, 3)}]",
            f"![{name}](/{name}.png)",
            f"<https://example.com/{name}>",
            f"https://example.com/{name}?a=1&b=2",
            f"~~{said}~~",
            f"<b class='{name}'>{said}</b>",
            f"{said}[^{dice.randint(1, 2)}]",
            f"\\*{said}\\* &amp; &copy;",
            f"**{name} *{said}* {name}**",
            f"{said}  \n{name}",
        ]
    )


def line(dice, low=1, high=5):
    return " ".join(inline(dice) for _ in range(dice.randint(low, high)))


def paragraph(dice):
    return "\n".join(line(dice) for _ in range(dice.randint(1, 4)))


def heading(dice):
    return f"{'#' * dice.randint(1, 6)} {words(dice, 1, 5)}"


def bullets(dice, depth=0):
    mark = dice.choice(["-", "*", "1."])
    tick = dice.choice(["", "", "[x] ", "[ ] "]) if mark != "1." else ""
    items = []
    for _ in range(dice.randint(2, 5)):
        items.append(f"{mark} {tick}{line(dice, 1, 2)}".replace("  \n", " "))
        if depth < 2 and dice.random() < 0.25:
            inner = bullets(dice, depth + 1).splitlines()
            items += [" " * (len(mark) + 1) + text for text in inner]
    return "\n".join(items)


def quote(dice):
    return "\n".join(f"> {text}" for text in paragraph(dice).splitlines())


def table(dice):
    width = dice.randint(2, 5)
    rows = [[words(dice, 1, 2) for _ in range(width)] for _ in range(dice.randint(2, 6))]
    lines = [" | ".join(row) for row in rows]
    lines.insert(1, " | ".join(dice.choice(["---", ":--", "--:", ":-:"]) for _ in range(width)))
    return "\n".join(f"| {text} |" for text in lines)


def fence(dice):
    code = "\n".join(
        f"{'    ' * dice.randint(0, 2)}{words(dice, 1, 8)};" for _ in range(dice.randint(2, 9))
    )
    return f"```{dice.choice(['python', 'c', ''])}\n{code}\n```"


def indented(dice):
    return "\n".join(f"    {words(dice, 1, 6)}" for _ in range(dice.randint(1, 4)))


def block_html(dice):
    return f"<div id='{dice.choice(WORDS[:20])}'>\n{words(dice, 2, 8)}\n</div>"


KINDS = (
    [paragraph] * 6 + [heading] * 3 + [bullets] * 3 + [quote, table, fence, indented, block_html]
)


def document(seed, number):
    """One page, of some 5,000 letters."""
    dice = random.Random(f"{seed}/{number}")
    blocks = [dice.choice(KINDS)(dice) for _ in range(dice.randint(15, 30))]
    blocks += [f"[ref-{n}]: https://example.com/{n} 'Reference {n}'" for n in range(3)]
    blocks += [f"[^{n}]: {line(dice, 1, 2)}".replace("  \n", " ") for n in (1, 2)]
    return "\n\n".join(blocks) + "\n"
