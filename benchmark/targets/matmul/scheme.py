"""Write a scheme that multiplies 4×4 matrices. This is the file that the agent edits."""

import json

SIZE = 4


def unit(row, column):
    """The matrix, row by row, that is 1 at one place."""
    return [int(place == row * SIZE + column) for place in range(SIZE * SIZE)]


products = [
    [unit(row, inner), unit(inner, column), unit(row, column)]
    for row in range(SIZE)
    for inner in range(SIZE)
    for column in range(SIZE)
]
with open("scheme.json", "w") as file:
    json.dump(products, file)
