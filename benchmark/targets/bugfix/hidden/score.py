"""Count the functions that answered wrongly. Frozen, and seen by the scorer alone.

Reads answers.json as data. What is right is worked out anew, by slower ways than a library would.
"""

import calendar
import json
import os
import sys
from datetime import date, timedelta

sys.path.append(os.getcwd())
sys.dont_write_bytecode = True
from questions import questions  # noqa: E402

SIZES = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse(text):
    total, digits = 0, ""
    for letter in text:
        if letter.isdigit():
            digits += letter
        elif letter in SIZES:
            total, digits = total + int(digits) * SIZES[letter], ""
    return -total if text[0] == "-" else total


def spell(seconds):
    rest, said = abs(seconds), []
    for unit, size in SIZES.items():
        count, rest = divmod(rest, size)
        said += [f"{count}{unit}"] * (count > 0)
    return "0s" if not said else "-" * (seconds < 0) + " ".join(said)


def add_months(day, months):
    year, month, number = map(int, day.split("-"))
    step = 1 if months > 0 else -1
    for _ in range(abs(months)):
        month += step
        if month in (0, 13):
            year, month = year + step, 12 if month == 0 else 1
    return f"{year:04}-{month:02}-{min(number, calendar.monthrange(year, month)[1]):02}"


def workdays(first, end):
    day, count = date.fromisoformat(first), 0
    while day < date.fromisoformat(end):
        count += day.strftime("%a") not in ("Sat", "Sun")
        day += timedelta(days=1)
    return count


def iso_week(day):
    return date.fromisoformat(day).strftime("%G-W%V")


def merge(spans):
    covered = {place for start, end in spans for place in range(start, end)}
    starts = sorted(place for place in covered if place - 1 not in covered)
    ends = sorted(place + 1 for place in covered if place + 1 not in covered)
    return [list(pair) for pair in zip(starts, ends, strict=True)]


RIGHT = {f.__name__: f for f in (parse, spell, add_months, workdays, iso_week, merge)}


def main():
    asked = [*questions(os.environ.get("AUTORESEARCH_SEED", "1"))]
    with open("answers.json", encoding="utf-8") as file:
        answers = json.load(file)
    if not isinstance(answers, list) or len(answers) != len(asked):
        sys.exit(f"answers.json is no list of {len(asked)} answers.")
    wrong = {}
    for (name, words), answer in zip(asked, answers, strict=True):
        # As text: 1, 1.0 and true are three things
        if json.dumps(answer) != json.dumps(RIGHT[name](*words)):
            wrong[name] = wrong.get(name, 0) + 1
    print(f"failing: {len(wrong)}")
    print(f"wrong_answers: {sum(wrong.values())}")


main()
