"""Add up the radii of circles.json, if the packing is one. Frozen during a run.

Decimals are read as fractions and compared as such: there is no tolerance. Nothing that the
candidate wrote is run here.
"""

import json
import sys
from fractions import Fraction
from itertools import combinations

COUNT = 26
# Letters of the file and of one number, and the largest exponent: fractions grow without end
MOST, LONGEST, EXPONENT = 100_000, 40, 30


def number(text):
    exponent = text.lower().partition("e")[2]
    if len(text) > LONGEST or abs(int(exponent or 0)) > EXPONENT:
        sys.exit(f"{text[:60]} is too long a number.")
    return Fraction(text)


def no_number(text):
    sys.exit(f"{text} is no number.")


def read(name):
    with open(name, encoding="utf-8") as file:
        text = file.read(MOST + 1)
    if len(text) > MOST:
        sys.exit(f"{name} is too long.")
    try:
        found = json.loads(text, parse_float=number, parse_int=number, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        sys.exit(f"{name} is no JSON: {error}.")
    if not isinstance(found, list) or len(found) != COUNT:
        sys.exit(f"{name} is no list of {COUNT} circles.")
    for circle in found:
        if not isinstance(circle, list) or [*map(type, circle)] != [Fraction] * 3:
            sys.exit(f"{name} holds something that is not [x, y, radius].")
    return found


def main():
    circles = read("circles.json")
    for n, (x, y, radius) in enumerate(circles):
        if radius <= 0:
            sys.exit(f"Circle {n} has no radius above zero.")
        if min(x, y) < radius or max(x, y) > 1 - radius:
            sys.exit(f"Circle {n} leaves the square.")
    for (n, (x, y, radius)), (m, (u, v, other)) in combinations(enumerate(circles), 2):
        if (x - u) ** 2 + (y - v) ** 2 < (radius + other) ** 2:
            sys.exit(f"Circles {n} and {m} overlap.")
    print(f"sum_of_radii: {float(sum(radius for _, _, radius in circles)):.12f}")


main()
