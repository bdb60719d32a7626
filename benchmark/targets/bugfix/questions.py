"""What `spans` is asked in a trial, from its seed. Frozen during a run."""

import random
from datetime import date, timedelta

EACH = 60


def questions(seed):
    """(function, arguments) of each question."""
    dice = random.Random(seed)

    def day():
        return date(2015, 1, 1) + timedelta(days=dice.randint(0, 4_400))

    for _ in range(EACH):
        parts = [f"{dice.randint(0, 40)}{dice.choice('dhms')}" for _ in range(dice.randint(1, 4))]
        yield "parse", [dice.choice(["", "-"]) + dice.choice(["", " "]).join(parts)]
        whole = dice.choice([1, 60, 3_600, 86_400]) * dice.randint(1, 3)
        yield "spell", [dice.choice([whole, dice.randint(-300_000, 300_000)])]
        # Ends of months more often than they come
        some = day()
        some = dice.choice([some, some.replace(day=1) - timedelta(days=1)])
        yield "add_months", [some.isoformat(), dice.randint(-30, 30)]
        first = day()
        yield "workdays", [first.isoformat(), (first + timedelta(dice.randint(0, 60))).isoformat()]
        yield "iso_week", [day().isoformat()]
        starts = [dice.randint(0, 40) for _ in range(dice.randint(0, 8))]
        yield "merge", [[[start, start + dice.randint(0, 9)] for start in starts]]
