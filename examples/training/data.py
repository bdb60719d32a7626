"""What is learnt, and how much of it: noisy samples of a fixed function. Frozen during a run."""

import os
from collections.abc import Iterator

import numpy as np

SEED = int(os.environ.get("AUTORESEARCH_SEED", "1"))
FEATURES = 8
EXAMPLES = 20_000


def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` inputs, and what the function says of each, with noise on it."""
    x = rng.normal(size=(count, FEATURES))
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + 0.1 * rng.normal(size=(count, 1))
    return x, y


def batches(size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The examples of one training run, in the order of the seed."""
    x, y = sample(np.random.default_rng([SEED, 0]), EXAMPLES)
    for start in range(0, EXAMPLES, size):
        yield x[start : start + size], y[start : start + size]
