"""The nouns that travel: Proposal, Trial, Measurement, Verdict, Confirmation, Experiment, Run.

Plain frozen data, safe to write to the ledger and to send to another machine. No behaviour beyond
small derived facts. Names have their shapes (shapes.py) for every reader; how long texts may be and
what is finite is judged where a ledger is handed over (github/handover.py).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from autoresearch_action.shapes import Branch, Hexadecimal, MetricName, ObjectName, Slug

Split = Literal["val", "holdout"]
Side = Literal["base", "head"]
Stage = Literal["search", "prune", "confirm", "transfer", "profile"]
Goal = Literal["minimize", "maximize"]
Outcome = Literal["ok", "crash", "discard", "stopped", "lost"]
Status = Literal["keep", "discard", "crash"]
# Among a proposal's details: the run whose whole stack it is
INHERITED = "inherited"


def sign_of(goal: Goal) -> int:
    """improvement = sign × (head − base)."""
    return 1 if goal == "maximize" else -1


class Record(BaseModel):
    """Frozen and closed (an unknown key is an error). NaN and infinities are strings in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Usage(Record):
    """What a proposal cost: tokens as the reply reports them, dollars from the price list."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        names = Usage.model_fields
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Proposal(Record):
    """An edit that an agent made: `patch` is a git diff against the commit `parent`."""

    parent: ObjectName
    patch: str
    agent: str
    # One line, what was changed
    description: str
    # Why it should help, and the effect that is expected; as a number in the metric's unit (> 0)
    hypothesis: str = ""
    expected: str = ""
    predicted: float | None = None
    # Whether its training loss can be compared with the incumbent's
    comparable: bool = True
    usage: Usage = Usage()
    # Its own notes
    details: dict[str, str] = Field(default_factory=dict)


class StopRule(Record):
    """When to end a trial early: its smoothed loss lies above `limits`, arrays of one length, at
    `elapsed` seconds since the first progress line, judged from `elapsed[0]` on.
    """

    elapsed: list[float]
    limits: list[float]
    # Weight of the past in the mean
    smoothing: float = 0.9


class Trial(Record):
    """A request: measure one commit once. All that the machine needs to know beside the brief.

    Whose run it is, is said once: by `number` and `stage`, for a reference run by `beside`, for a
    claim by `attempt`. `side`, `split`, `scale` and `purpose` follow from these.
    """

    # Of the experiment that is measured; 0 is the baseline
    number: int
    commit: ObjectName
    seed: int
    stage: Stage = "search"
    # Prune, confirm and transfer: git tree of the head that is tried
    attempt: str = ""
    # Search: the experiment that this run of its incumbent was asked for
    beside: int = 0
    # Hold-out slice of a confirmation
    slice: int = 0
    # Seconds; None: the brief's
    time_budget: float | None = None
    # Hard wall-clock seconds by phase (missing: the default), and what equal time allows on the
    # trial's own clock (CPU or wall)
    limits: dict[str, float] = Field(default_factory=dict)
    clock_limit: float | None = None
    # Literal seeds in the trial's copy are replaced
    reseed: bool = False
    # Its tree has passed the check
    checked: bool = False
    stop: StopRule | None = None
    # Counts trials over the whole run
    index: int = 0

    @property
    def asked_by(self) -> int:
        """The experiment whose screen asked for it; 0: the baseline's."""
        return self.beside or self.number

    @property
    def side(self) -> Side:
        return "base" if self.beside or not self.number else "head"

    @property
    def split(self) -> Split:
        return "holdout" if self.stage in ("confirm", "transfer") else "val"

    @property
    def scale(self) -> Literal["search", "transfer"]:
        return "transfer" if self.stage == "transfer" else "search"

    @property
    def purpose(self) -> str:
        """In a word, for people and file names."""
        if self.stage != "search":
            return self.stage
        return "reference" if self.beside else "screen" if self.number else "baseline"


class Measurement(Record):
    """What one trial gave. `value` is the metric (None unless outcome is "ok")."""

    trial: Trial
    outcome: Outcome
    # One sentence when outcome is not "ok"
    reason: str = ""
    # What it did to the scorer no honest candidate does
    suspicious: bool = False
    value: float | None = None
    # Every `name: value` that run and evaluate printed
    metrics: dict[str, float] = Field(default_factory=dict)
    # By block of documents where the scorer prints it
    blocks: list[float] = Field(default_factory=list)
    # No frozen scorer: the number is the candidate's own word
    self_reported: bool = False
    # (seconds since start, training loss), thinned
    curve: list[tuple[float, float]] = Field(default_factory=list)
    # Unix seconds
    started: float = 0.0
    # Wall clock, all phases
    seconds: float = 0.0
    # Seconds of runs before this one that others' use of the card made worthless
    spoilt: float = 0.0
    # The clock equal time is judged by, `run` phase, whole process tree
    clock: float = 0.0
    # Seconds of it that one second of training takes: the threads on processor cores, 1 on a GPU
    pace: float = 1.0
    # Wall seconds by phase: checkout, check, compile, run, evaluate
    phases: dict[str, float] = Field(default_factory=dict)
    # Name of the slot; "full", "reduced" or "none"
    slot: str = ""
    sandbox: str = ""
    # Path of the log, relative to the state folder
    log: str = ""
    # End of the log, of a failure or a profile
    tail: str = ""
    # Frozen, data, patch, environment
    hashes: dict[str, str] = Field(default_factory=dict)
    # "shared the card", "reseeded train.py:12"
    notes: list[str] = Field(default_factory=list)


class Verdict(Record):
    """The decision on one experiment. `reason` is one sentence a person understands."""

    number: int
    status: Status
    reason: str
    description: str
    agent: str
    # Means over this candidate's runs; path of the patch, relative to the state folder
    metrics: dict[str, float] = Field(default_factory=dict)
    patch: str = ""
    started: float = 0.0
    seconds: float = 0.0
    usd: float = 0.0
    # The candidate's, and the incumbent's that it was judged against
    commit: ObjectName = ""
    parent: ObjectName = ""
    suspicious: bool = False
    # Improvement in the metric's unit, > 0 is better, and its standard error: of the search, biased
    estimate: float | None = None
    spread: float | None = None
    # Both in logarithms, where the metric is a time or a rate
    effect: tuple[float, float] | None = None
    runs: int = 0
    # The experiment whose edit this carries on, to a new incumbent or to a second measurement
    origin: int | None = None
    # Tree, frozen, data, environment, patch (16 digits each); sandbox level
    hashes: dict[str, str] = Field(default_factory=dict)


class Confirmation(Record):
    """The outcome of measuring base and head on fresh seeds and held-out data."""

    held: bool
    # Mean of the base runs
    baseline: float | None = None
    # Mean of the head runs
    best: float | None = None
    # Improvement of head over base, metric's unit
    estimate: float | None = None
    # 95 % interval of the improvement
    low: float | None = None
    high: float | None = None
    # Selection-adjusted estimate
    adjusted: float | None = None
    pairs: int = 0
    p_value: float | None = None
    # The level it was tested at
    level: float | None = None
    # Name of the test
    test: str = ""
    # What the interval is over: "seeds", "seeds and document blocks"
    over: str = ""
    reason: str = ""
    # The confirmed commit
    head: ObjectName = ""
    # Its git tree: what is published must have this tree
    tree: ObjectName = ""
    # Experiments that make up the head, in order
    numbers: list[int] = Field(default_factory=list)
    # "hold-out use 14 of 20", "equal time: base got 0.3 s more"
    notes: list[str] = Field(default_factory=list)


class Experiment(Record):
    """One number of the ledger: the fold over its events."""

    number: int
    # None for the baseline
    proposal: Proposal | None = None
    commit: ObjectName = ""
    parent: ObjectName = ""
    runs: list[Measurement] = Field(default_factory=list)
    verdict: Verdict | None = None
    origin: int | None = None
    started: float = 0.0

    @property
    def description(self) -> str:
        return self.proposal.description if self.proposal else "baseline"


class Run(Record):
    """What is true of a whole run: written at its start, read by the report and by `publish`."""

    id: Slug
    started: float
    # Commit that everything is measured against
    base: ObjectName
    # Branch the base was on
    branch: Branch = ""
    # Owner/name where known
    repository: str = ""
    working_directory: str = "."
    program: str = "program.md"
    brief_id: Slug = ""
    brief_hash: Hexadecimal = ""
    prose: str = ""
    metric: MetricName = "val_bpb"
    goal: Goal = "minimize"
    # Front matter that differs from the defaults
    contract: dict[str, Any] = Field(default_factory=dict)
    agents: list[str] = Field(default_factory=list)
    budget: dict[str, float | None] = Field(default_factory=dict)
    # Hash over the frozen files
    frozen: Hexadecimal = ""
    # Hash of the data manifest or of setup's outputs
    data: Hexadecimal = ""
    # Hardware, versions, sandbox level
    environment: dict[str, str] = Field(default_factory=dict)
    # Uri, sha256
    checkpoint: dict[str, str] = Field(default_factory=dict)
    visibility: Literal["full", "hash"] = "full"
    # Frozen code reads AUTORESEARCH_SPLIT: the confirmation was scored on data of its own
    holdout: bool = False

    @property
    def sign(self) -> int:
        return sign_of(self.goal)
