"""The state of the claims as a research job hands it over, and how much of it is believed.

It decides at what level later runs may claim, so that a job that ran a model's code could raise or
ruin that for good. The memory branch's own state stands; one run adds to it what one run can. What
the levels are is acceptance/claims.py's, the file research/claim_record.py's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os.path import commonprefix
from typing import Annotated

from pydantic import Field

from autoresearch_action.acceptance.claims import Claims
from autoresearch_action.records import Record
from autoresearch_action.research.claim_record import SLICES

# Attempts of one run and of those before it that could not be published; slices likewise
MOST_NEW = SLICES
MOST_ATTEMPTS = 100_000

Slice = Annotated[int, Field(ge=0, lt=SLICES)]
Dice = Annotated[int, Field(ge=0, lt=1 << 32)]


class Stream(Record):
    """What claims.json holds."""

    used: list[Slice] = []
    accounted: list[Dice] = []
    claims: Claims = Claims()

    def after(self, told: Stream, held: bool) -> Stream:
        """The state once a run has handed over `told`: further slices and attempts as it says, yet
        no more than a run makes; of further claims one, where it `held` something.
        """
        used = told.used[len(commonprefix([self.used, told.used])) :][:MOST_NEW]
        known = {*self.accounted}
        accounted = [dice for dice in told.accounted if dice not in known][:MOST_NEW]
        claims, attempts = self.claims, self.claims.attempts + len(accounted)
        further = told.claims.claimed[len(claims.claimed) :]
        further = [attempt for attempt in further if claims.attempts < attempt <= attempts]
        claimed = [*claims.claimed, *further[:held]]
        return Stream(
            used=[*self.used, *used],
            accounted=[*self.accounted, *accounted],
            claims=claims.model_copy(update={"attempts": attempts, "claimed": claimed}),
        )

    def written(self) -> bytes:
        return json.dumps(self.model_dump(mode="json")).encode()


def stream(raw: bytes) -> Stream:
    """The state in a file, an empty one where there is none. Raises ValueError for one that this
    tool does not write.
    """
    if not raw:
        return Stream()
    told = Stream.model_validate_json(raw, strict=True)
    claims = told.claims
    if claims.fdr != Claims().fdr or not 0 <= claims.attempts <= MOST_ATTEMPTS:
        raise ValueError("another stream")
    if not _increasing([0, *claims.claimed, claims.attempts + 1]):
        raise ValueError("claims that were no attempts")
    return told


def _increasing(numbers: Sequence[int]) -> bool:
    return all(one < two for one, two in zip(numbers, numbers[1:], strict=False))
