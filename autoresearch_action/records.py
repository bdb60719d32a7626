"""The nouns that travel: Proposal, Measurement, Verdict, Confirmation, Experiment, and what asks for them.

Plain frozen data, safe to write to the ledger and to send to another machine. No behaviour beyond
small derived facts; nothing here reads a clock, a file or a process.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["val", "holdout"]
Side = Literal["base", "head"]
Outcome = Literal["ok", "crash", "discard", "stopped", "lost"]
Status = Literal["keep", "discard", "crash"]
INHERITED = "inherited"  # among a proposal's details: the run whose whole stack it is


class Record(BaseModel):
    """Frozen, closed (an unknown key is an error), NaN and infinities allowed and kept in JSON as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Usage(Record):
    """What a proposal cost: tokens as the model's reply reports them, dollars from the price list."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class Proposal(Record):
    """An edit that an agent made: `patch` is a unified diff (git format) against the commit `parent`."""

    parent: str
    patch: str
    agent: str
    description: str  # one line, what was changed
    hypothesis: str = ""  # why it should help, in the agent's words
    expected: str = ""  # the effect it expects, in the agent's words
    comparable: bool = True  # False: training loss cannot be compared with the incumbent's (other loss, schedule, …)
    usage: Usage = Usage()
    details: dict[str, str] = Field(default_factory=dict)  # the agent's own notes, read back from the ledger


class StopRule(Record):
    """When to end a trial early: its smoothed loss lies above `limits` at equal elapsed seconds.

    `elapsed` (seconds from the first progress line, increasing) and `limits` (loss) are arrays of one length; judged from
    `elapsed[0]` on.
    """

    elapsed: list[float]
    limits: list[float]
    smoothing: float = 0.9  # weight of the past in the exponential mean of the loss


class Trial(Record):
    """A request: measure one commit once. Everything that the machine doing it has to know beside the brief."""

    number: int  # of the experiment; 0 is the baseline
    commit: str
    seed: int
    split: Split = "val"
    slice: int = 0  # hold-out slice; meaningful for split == "holdout"
    side: Side = "head"
    scale: Literal["search", "transfer"] = "search"
    time_budget: float | None = None  # seconds; None: the brief's
    limits: dict[str, float] = Field(default_factory=dict)  # hard wall-clock seconds by phase; missing: the default
    clock_limit: float | None = None  # seconds on the trial's own clock (CPU or wall) that equal time allows
    reseed: bool = False  # literal seeds in the trial's copy are replaced
    stop: StopRule | None = None
    purpose: Literal["baseline", "screen", "reference", "prune", "confirm", "transfer"] = "screen"
    index: int = 0  # counts trials over the whole run: names logs and scratch
    asked_by: int = 0  # the experiment whose screen asked for it (a reference run of the incumbent has another number)
    group: str = ""  # confirm and transfer: which attempt this run belongs to


class Measurement(Record):
    """What one trial gave. `value` is the metric (None unless outcome is "ok")."""

    trial: Trial
    outcome: Outcome
    reason: str = ""  # one sentence when outcome is not "ok"
    value: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)  # every `name: value` that run and evaluate printed
    blocks: list[float] = Field(default_factory=list)  # per-document-block metric where the scorer prints it
    self_reported: bool = False  # no frozen scorer: the number is the candidate's own word
    curve: list[tuple[float, float]] = Field(default_factory=list)  # (seconds since start, training loss), thinned
    started: float = 0.0  # unix seconds
    seconds: float = 0.0  # wall clock, all phases
    spoilt: float = 0.0  # seconds of runs before this one that others' use of the card made worthless
    clock: float = 0.0  # the clock equal time is judged by, `run` phase, whole process tree
    pace: float = 1.0  # seconds of it that one second of training takes: the threads on processor cores, 1 on a GPU
    phases: dict[str, float] = Field(default_factory=dict)  # wall seconds by phase: checkout, check, compile, run, evaluate
    slot: str = ""  # device or slot name
    sandbox: str = ""  # "full", "reduced" or "none"
    log: str = ""  # path of the log, relative to the state folder
    tail: str = ""  # last lines of the log, for failures
    hashes: dict[str, str] = Field(default_factory=dict)  # frozen, data, patch, environment
    notes: list[str] = Field(default_factory=list)  # "shared the card", "reseeded train.py:12"


class Verdict(Record):
    """The decision on one experiment. `reason` is one sentence a person understands."""

    number: int
    status: Status
    reason: str
    description: str
    agent: str
    metrics: dict[str, float] = Field(default_factory=dict)  # means over this candidate's runs
    patch: str = ""  # path of the patch, relative to the state folder
    started: float = 0.0
    seconds: float = 0.0
    usd: float = 0.0
    commit: str = ""  # the candidate's commit
    parent: str = ""  # the incumbent that it was judged against
    estimate: float | None = None  # improvement in the metric's unit, > 0 is better; a search estimate, biased
    spread: float | None = None  # its standard error
    runs: int = 0
    origin: int | None = None  # the experiment whose edit this carries on, to a new incumbent or to a second measurement
    hashes: dict[str, str] = Field(default_factory=dict)  # tree, frozen, data, environment, patch (16 digits each); sandbox level


class Confirmation(Record):
    """The outcome of re-measuring base and head on fresh seeds and held-out data. Improvement > 0 is better."""

    held: bool
    baseline: float | None = None  # mean of the base runs
    best: float | None = None  # mean of the head runs
    estimate: float | None = None  # improvement of head over base, metric's unit
    low: float | None = None  # 95 % interval of the improvement
    high: float | None = None
    adjusted: float | None = None  # selection-adjusted estimate
    pairs: int = 0
    p_value: float | None = None
    level: float | None = None  # the level it was tested at
    test: str = ""  # name of the test
    over: str = ""  # what the interval is over: "seeds", "seeds and document blocks"
    reason: str = ""
    head: str = ""  # the confirmed commit
    tree: str = ""  # its git tree: what is published must have this tree
    numbers: list[int] = Field(default_factory=list)  # experiments that make up the head, in order
    notes: list[str] = Field(default_factory=list)  # "hold-out use 14 of 20", "equal time: base got 0.3 s more"


class Experiment(Record):
    """One number of the ledger: the fold over its events."""

    number: int
    proposal: Proposal | None = None  # None for the baseline
    commit: str = ""
    parent: str = ""
    runs: list[Measurement] = Field(default_factory=list)
    verdict: Verdict | None = None
    origin: int | None = None
    started: float = 0.0

    @property
    def description(self) -> str:
        return self.proposal.description if self.proposal else "baseline"


class Run(Record):
    """What is true of a whole run: written once at its start, read by the report and by `publish`."""

    id: str
    started: float
    base: str  # commit that everything is measured against
    branch: str = ""  # branch the base was on
    repository: str = ""  # owner/name where known
    working_directory: str = "."
    program: str = "program.md"
    brief_id: str = ""
    brief_hash: str = ""
    prose: str = ""
    metric: str = "val_bpb"
    goal: Literal["minimize", "maximize"] = "minimize"
    contract: dict[str, Any] = Field(default_factory=dict)  # front matter that differs from the defaults
    agents: list[str] = Field(default_factory=list)
    budget: dict[str, float | None] = Field(default_factory=dict)
    frozen: str = ""  # hash over the frozen files
    data: str = ""  # hash of the data manifest or of setup's outputs
    environment: dict[str, str] = Field(default_factory=dict)  # hardware, versions, sandbox level
    checkpoint: dict[str, str] = Field(default_factory=dict)  # uri, sha256
    seeds: Literal["seeded", "reseeded", "blind", "exact"] = "seeded"
    visibility: Literal["full", "hash"] = "full"
    holdout: bool = False  # frozen code reads AUTORESEARCH_SPLIT: the confirmation was scored on data of its own
