"""Count the products of scheme.json, if they multiply 4×4 matrices. Frozen during a run.

The coefficients are compared with those of the matrix product for every pair of entries and every
place, in integers: what passes is right for all matrices over every ring.
"""

import json
import sys
from collections import Counter

SIZE = 4
PLACES = SIZE * SIZE
# Letters of the file, products, and the largest coefficient
MOST, PRODUCTS, LARGEST = 100_000, 64, 1_000


def no_integer(text):
    sys.exit(f"{text[:60]} is no integer.")


def vector(found):
    right = isinstance(found, list) and len(found) == PLACES
    if not right or any(type(entry) is not int or abs(entry) > LARGEST for entry in found):
        sys.exit(f"scheme.json holds something that is not {PLACES} small integers.")
    return {place: entry for place, entry in enumerate(found) if entry}


def read(name):
    with open(name, encoding="utf-8") as file:
        text = file.read(MOST + 1)
    if len(text) > MOST:
        sys.exit(f"{name} is too long.")
    try:
        found = json.loads(text, parse_float=no_integer, parse_constant=no_integer)
    except (ValueError, RecursionError) as error:
        sys.exit(f"{name} is no JSON: {error}.")
    if not isinstance(found, list) or len(found) > PRODUCTS:
        sys.exit(f"{name} is no list of at most {PRODUCTS} products.")
    if any(not isinstance(product, list) or len(product) != 3 for product in found):
        sys.exit(f"{name} holds a product that is not [a, b, c].")
    return [[vector(side) for side in product] for product in found]


def main():
    products = read("scheme.json")
    given = Counter()
    for left, right, out in products:
        for a, one in left.items():
            for b, other in right.items():
                for c, times in out.items():
                    given[a, b, c] += one * other * times
    wanted = {
        (row * SIZE + inner, inner * SIZE + column, row * SIZE + column): 1
        for row in range(SIZE)
        for inner in range(SIZE)
        for column in range(SIZE)
    }
    wrong = [key for key in given.keys() | wanted if given[key] != wanted.get(key, 0)]
    if wrong:
        sys.exit(f"It is no matrix product: {len(wrong)} coefficients are wrong.")
    print(f"multiplications: {len(products)}")


main()
