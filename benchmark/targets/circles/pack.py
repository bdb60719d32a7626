"""Pack 26 circles into the unit square. This is the file that the agent edits."""

import json

SIDE = 5
RADIUS = 0.5 / SIDE

circles = [
    [(2 * column + 1) * RADIUS, (2 * row + 1) * RADIUS, RADIUS]
    for row in range(SIDE)
    for column in range(SIDE)
]
# One more in the gap between four of them
circles.append([2 * RADIUS, 2 * RADIUS, 0.0414])
# The decimals are taken at their word: keep a hair apart
circles = [[round(x, 12), round(y, 12), radius - 1e-12] for x, y, radius in circles]
with open("circles.json", "w") as file:
    json.dump(circles, file)
