"""Publishing: what was proven becomes one pull request, opened or brought up to date. Idempotent;
runs no candidate code.

Covers the branch, the pull request and its furniture. The commits are commits.py's, which pull
requests have had their day outdated.py's, the ledger's own branch memory.py's. A branch is moved
only from the commit that this tool itself had put there, by compare-and-swap; where a person has
pushed, a fresh branch is used. Nothing is ever rebased: what is published is the tree that was
confirmed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from github.PullRequest import PullRequest
from pydantic import ValidationError

from autoresearch_action import ledger as ledgers
from autoresearch_action import text
from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.github import commits, outdated, outputs
from autoresearch_action.github.api import Api, Refused, connect
from autoresearch_action.github.outdated import marker
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Confirmation, Run
from autoresearch_action.report import body as bodies
from autoresearch_action.report import tables

# Characters of a body that is not shortened further
SHORTEST = 600
LABEL = "Proposed and measured by autoresearch"
SUFFIXES = ("", *(f"-{number}" for number in range(2, 100)))
MOVE = """mutation($repository: ID!, $name: GitRefname!, $before: GitObjectID!, $after: GitObjectID!) {
  updateRefs(input: {repositoryId: $repository, refUpdates: [{name: $name, beforeOid: $before, afterOid: $after, force: true}]}) {
    clientMutationId
  }
}"""
# A server that is older than updateRefs
NO_MOVE = re.compile(r"doesn't exist on type|isn't a defined", re.IGNORECASE)

Operation = Literal["created", "updated", "closed", "none"]


@dataclass(frozen=True)
class PullRequestOptions:
    """How the pull request is to look; "" is the default."""

    base: str = ""
    branch: str = ""
    draft: bool = False
    labels: tuple[str, ...] = ("autoresearch",)
    reviewers: tuple[str, ...] = ()
    # What the caller expects to have been run
    program: str = ""
    working_directory: str = ""
    dry_run: bool = False
    # The token is the job's own GITHUB_TOKEN
    job_token: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> PullRequestOptions:
        def lines(name: str, default: str = "") -> tuple[str, ...]:
            return tuple(
                line.strip() for line in environ.get(name, default).splitlines() if line.strip()
            )

        def truth(name: str) -> bool:
            told = environ.get(f"AUTORESEARCH_{name}", "").strip().lower() or "false"
            if told not in ("true", "false"):
                raise InputError(
                    f"{name.lower().replace('_', '-')}: {told[:60]!r} is neither true nor false."
                )
            return told == "true"

        return cls(
            base=environ.get("AUTORESEARCH_BASE", "").strip(),
            branch=environ.get("AUTORESEARCH_BRANCH", "").strip(),
            draft=truth("DRAFT"),
            labels=lines("AUTORESEARCH_LABELS", "autoresearch"),
            reviewers=lines("AUTORESEARCH_REVIEWERS"),
            program=environ.get("AUTORESEARCH_PROGRAM", "").strip(),
            working_directory=environ.get("AUTORESEARCH_WORKING_DIRECTORY", "").strip(),
            dry_run=truth("DRY_RUN"),
            job_token=truth("JOB_TOKEN"),
        )


@dataclass(frozen=True)
class Published:
    """What was done; `words` is one sentence."""

    operation: Operation
    words: str
    branch: str = ""
    number: int | None = None
    url: str = ""
    head: str = ""
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        return "\n".join([self.words, *(f"Note: {note}" for note in self.notes)])

    def outputs(self) -> dict[str, str]:
        return {
            "branch": self.branch,
            "pull-request-number": str(self.number or ""),
            "pull-request-url": self.url,
            "pull-request-operation": self.operation,
            "pull-request-head-sha": self.head,
        }


def publish(
    state: Path, environ: Mapping[str, str], dry_run: bool = False, picture: str = ""
) -> Published:
    """Bring the brief's pull request in line with the run in `state`. Raises InputError,
    EnvironmentFault.
    """
    wishes, run_state = PullRequestOptions.of(environ), _study(state)
    run = run_state.run
    assert run is not None
    _expected(run, wishes)
    publisher = Publisher(
        connect(environ, run.repository), run_state, run, wishes, dry_run or wishes.dry_run, picture
    )
    done = publisher.publish()
    outputs.put(environ, **done.outputs())
    return done


def _study(state: Path) -> RunState:
    try:
        run_state = ledgers.read(state)
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{state} does not hold a ledger of this version ({type(error).__name__})."
        ) from None
    if run_state.run is None:
        raise InputError(f"The ledger in {state} has no run yet: there is nothing to publish.")
    return run_state


def _expected(run: Run, wishes: PullRequestOptions) -> None:
    """The ledger was made by a job that ran a model's code: it does not get to say which brief it
    answers.
    """
    for name, told, wanted in (
        ("program", run.program, wishes.program),
        ("working-directory", run.working_directory, wishes.working_directory),
    ):
        if wanted and Path(told) != Path(wanted):
            raise InputError(
                f"{name}: the run says {told[:100]!r}, this job expects {wanted!r}; nothing is published."
            )


class Publisher:
    """One run and one repository."""

    def __init__(
        self,
        api: Api,
        run_state: RunState,
        run: Run,
        wishes: PullRequestOptions,
        dry_run: bool,
        picture: str,
    ) -> None:
        self.api, self.run_state, self.run, self.wishes, self.dry_run, self.picture = (
            api,
            run_state,
            run,
            wishes,
            dry_run,
            picture,
        )
        self.repository = api.repository
        self.name = wishes.branch or f"autoresearch/{run.brief_id}"
        self.notes: list[str] = []

    def publish(self) -> Published:
        confirmation = self.run_state.confirmation
        if confirmation is None or not confirmation.held or not self.run_state.proven():
            return self._nothing()
        base = commits.Base(self.api, self.run.base)
        patches = [
            path.read_bytes().decode("utf-8", "surrogateescape") for path in self.run_state.proven()
        ]
        touched = commits.check(patches, self.run, commits.brief_of(base, self.run))
        steps = commits.applied({path: base.read(path) for path in touched}, patches)
        target = self._base_branch()
        behind = self._behind(target)
        if self.dry_run:
            return self._told(target, len(steps))
        branch, head, shas = self._branch(base, steps, confirmation)
        notes = (behind,) if behind else ()
        return self._pull(
            target, branch, head, notes, dict(zip(self._numbers(), shas, strict=True))
        )

    def _told(self, target: str, commits: int) -> Published:
        found = next((pull for pull in self._open_pulls() if outdated.ours(pull)), None)
        what = (
            f"update pull request {found.number}"
            if found
            else f"open a pull request from {self.name}"
        )
        many = f"{commits} commit{'s' * (commits != 1)}"
        return Published(
            "none",
            f"Dry run: would {what} onto {target} with {many}: {bodies.title(self.run_state)}.",
            self.name,
        )

    def _numbers(self) -> list[int]:
        return [int(path.stem[-4:]) for path in self.run_state.proven()]

    # -- where it goes
    # -------------------------------------------------------------------------------------------

    def _base_branch(self) -> str:
        for name in filter(
            None, (self.wishes.base, self.run.branch, self.repository.default_branch)
        ):
            if self._ref(name):
                return name
            if name == self.wishes.base:
                break
        raise InputError(
            f"base: there is no branch {self.wishes.base or self.run.branch} to open a pull request onto."
        )

    def _behind(self, target: str) -> str:
        """What is said where the base has moved since it was measured. Raises InputError where it
        is not on the branch.
        """
        compared = self.api.ask(
            "compare the base", lambda: self.repository.compare(self.run.base, target)
        )
        if compared is None or compared.status not in ("identical", "ahead"):
            raise InputError(
                f"The commit that was measured ({self.run.base[:12]}) is not on {target}: give the branch it is on as `base`."
            )
        if not compared.ahead_by:
            return ""
        many = f"{compared.ahead_by} commit{'s' * (compared.ahead_by != 1)}"
        told = f"Measured on {self.run.base[:7]}, {many} behind {target}."
        return f"{told} It was not rebased; the next run measures it on the newer base first."

    def _ref(self, branch: str) -> str | None:
        found = self.api.ask(
            f"read the branch {branch}", lambda: self.repository.get_git_ref(f"heads/{branch}")
        )
        return found.object.sha if found and found.ref == f"refs/heads/{branch}" else None

    def _branch(
        self, base: commits.Base, steps: Sequence[commits.Contents], confirmation: Confirmation
    ) -> tuple[str, str, list[str]]:
        """(branch, head, commits) with the proven series on it: found there, put there, or put on a
        fresh name.
        """
        made: list[str] = []
        for suffix in SUFFIXES:
            name = f"{self.name}{suffix}"
            now = self._ref(name)
            if now:
                there = self._there(now, confirmation)
                if there:
                    return name, now, there
                if not self._untouched(name, now):
                    self.notes.append(
                        f"{name} holds commits that are not this tool's: it is left alone"
                    )
                    continue
            made = made or self._commits(base, steps, confirmation)
            if self._move(name, now, made[-1]):
                return name, made[-1], made
        raise EnvironmentFault(f"There are a hundred branches {self.name}-…: delete some.")

    def _there(self, head: str, confirmation: Confirmation) -> list[str] | None:
        """The commits up to `head` where they are this very run's, published before; else None."""
        shas: list[str] = []
        for _ in self._numbers():
            commit = self.api.call("read the branch", partial(self.repository.get_git_commit, head))
            if f"Autoresearch-Run: {self.run.id}" not in commit.message or len(commit.parents) != 1:
                return None
            if not shas and commit.tree.sha != confirmation.tree:
                return None
            shas.append(head)
            head = commit.parents[0].sha
        return shas[::-1] if head == self.run.base else None

    def _untouched(self, branch: str, now: str) -> bool:
        """Whether the branch is where this tool left it: some pull request from it says so."""
        pulls = self._pulls_from(branch, "all")
        return any(
            marker(pull).get("head") == now and marker(pull).get("brief") == self.run.brief_id
            for pull in pulls
        )

    def _commits(
        self, base: commits.Base, steps: Sequence[commits.Contents], confirmation: Confirmation
    ) -> list[str]:
        messages = [self._message(change) for change in tables.changes(self.run_state)]
        made = commits.write(self.api, base, steps, messages)
        if made[-1].tree.sha != confirmation.tree:
            raise InputError(
                "The changes do not add up to the code that was confirmed: nothing is published."
            )
        return [commit.sha for commit in made]

    def _message(self, change: tables.Change) -> str:
        why = text.clip(text.plain(change.hypothesis), 1_000)
        trailers = {"Brief": self.run.brief_id, "Run": self.run.id, "Experiment": change.number}
        tail = "\n".join(f"Autoresearch-{key}: {value}" for key, value in trailers.items())
        return "\n\n".join(
            filter(None, (text.clip(text.plain(change.description), 72) or "Change", why, tail))
        )

    def _move(self, branch: str, now: str | None, head: str) -> bool:
        """Point the branch at `head`: made anew, or moved from `now` and from nothing else. False:
        somebody was faster.
        """
        try:
            if now is None:
                self.api.call(
                    "create the branch",
                    lambda: self.repository.create_git_ref(f"refs/heads/{branch}", head),
                )
            else:
                self._swap(branch, now, head)
        except Refused as refused:
            there = self._ref(branch)
            if there == now:
                # Nobody was faster: it may not be moved
                raise
            # Else an earlier try that was answered too late, or another run
            if there != head:
                self.notes.append(
                    f"{branch} was moved by somebody else meanwhile ({refused.words})"
                )
            return there == head
        return True

    def _swap(self, branch: str, now: str, head: str) -> None:
        values = {
            "repository": self.repository.node_id,
            "name": f"refs/heads/{branch}",
            "before": now,
            "after": head,
        }
        try:
            self.api.call(
                "move the branch", lambda: self.repository.requester.graphql_query(MOVE, values)
            )
        except Refused as refused:
            old = refused.status == 404 or NO_MOVE.search(refused.words)
            # Looked at once more: as near to a compare-and-swap as such a server comes
            if not old or self._ref(branch) != now:
                raise
            self.api.call(
                "move the branch",
                lambda: self.repository.get_git_ref(f"heads/{branch}").edit(head, force=True),
            )

    # -- the pull request
    # ----------------------------------------------------------------------------------------

    def _open_pulls(self) -> Iterator[PullRequest]:
        """Open pull requests of this brief, from this repository."""
        pulls: list[PullRequest] = self.api.call(
            "list pull requests", lambda: list(islice(self.repository.get_pulls(state="open"), 300))
        )
        for pull in pulls:
            same = (
                pull.head.repo is not None and pull.head.repo.full_name == self.repository.full_name
            )
            if same and marker(pull).get("brief") == self.run.brief_id:
                yield pull

    def _pull(
        self,
        target: str,
        branch: str,
        head: str,
        notes: tuple[str, ...],
        commits: Mapping[int, str],
    ) -> Published:
        told = (*notes, *(f"{note}." for note in self.notes))
        title = text.clip(bodies.title(self.run_state), 250)

        def write(limit: int = bodies.BODY_LIMIT) -> str:
            waits = self.wishes.job_token
            return bodies.body(
                self.run_state,
                notes=told,
                picture=self.picture,
                commits=commits,
                head=head,
                waits=waits,
                limit=limit,
            )

        operation: Operation
        found = self._from(branch)
        if found is None:
            found, operation = self._create(target, branch, title, write)
        else:
            operation = "none"
        if operation == "none" and (found.title != title or _plain(found.body) != _plain(write())):
            self._edit(found, title, write)
            operation = "updated"
        self._furnish(found, fresh=operation == "created")
        self._supersede(found)
        done = {"created": "Opened", "updated": "Updated", "none": "Nothing new for"}[operation]
        words = f"{done} pull request {found.number}: {found.html_url}"
        return Published(
            operation, words, branch, found.number, found.html_url, head, tuple(self.notes)
        )

    def _from(self, branch: str) -> PullRequest | None:
        return next(iter(self._pulls_from(branch, "open")), None)

    def _pulls_from(self, branch: str, state: str) -> list[PullRequest]:
        head = f"{self.repository.owner.login}:{branch}"
        return self.api.call(
            "list pull requests",
            lambda: list(islice(self.repository.get_pulls(state=state, head=head), 20)),
        )

    def _create(
        self, target: str, branch: str, title: str, write: Callable[..., str]
    ) -> tuple[PullRequest, Operation]:
        draft, body = self.wishes.draft or bodies.self_reported(self.run), write()
        for _ in range(8):
            facts: dict[str, Any] = {"title": title, "body": body, "draft": draft}
            try:
                made = self.api.call(
                    "open the pull request",
                    partial(self.repository.create_pull, target, branch, **facts),
                )
                return made, "created"
            except Refused as refused:
                words = refused.words.lower()
                found = self._from(branch) if "already exists" in words else None
                if found is not None:
                    return found, "none"
                if draft and "draft" in words:
                    draft = False
                    self.notes.append(
                        "drafts are not available here: it was opened as an ordinary pull request"
                    )
                elif "too long" in words and len(body) > SHORTEST:
                    body = write(len(body) // 2)
                else:
                    raise
        raise EnvironmentFault("Could not open the pull request: GitHub refused every form of it.")

    def _edit(self, pull: PullRequest, title: str, write: Callable[..., str]) -> None:
        body = write()
        while True:
            try:
                self.api.call("update the pull request", partial(pull.edit, title=title, body=body))
                return
            except Refused as refused:
                if "too long" not in refused.words.lower() or len(body) < SHORTEST:
                    raise
                body = write(len(body) // 2)

    def _furnish(self, pull: PullRequest, fresh: bool) -> None:
        """Labels and reviewers; where they cannot be had, a note, no failure."""
        have = {label.name.lower() for label in pull.labels}
        missing = [name for name in self.wishes.labels if name.lower() not in have]
        try:
            for name in missing:
                self._label(name)
            if missing:
                self.api.call("label the pull request", lambda: pull.add_to_labels(*missing))
        except Refused as refused:
            self.notes.append(f"labels could not be set ({refused.words})")
        try:
            self._ask_for_reviews(pull, fresh)
        except Refused as refused:
            self.notes.append(f"reviewers could not be asked ({refused.words})")

    def _ask_for_reviews(self, pull: PullRequest, fresh: bool) -> None:
        """Ask those who were not asked yet. A review ends the request it answers, a team's by
        whoever of it gave it.
        """
        asked = {user.login.lower() for user in pull.requested_reviewers or []} | {
            team.slug.lower() for team in pull.requested_teams or []
        }
        people = [
            name for name in self.wishes.reviewers if "/" not in name and name.lower() not in asked
        ]
        teams = [name.split("/", 1)[1] for name in self.wishes.reviewers if "/" in name]
        teams = [name for name in teams if name.lower() not in asked]
        if not fresh and (people or teams):
            reviews = self.api.call(
                "read the reviews", lambda: list(islice(pull.get_reviews(), 300))
            )
            done = {review.user.login.lower() for review in reviews if review.user}
            people, teams = (
                [name for name in people if name.lower() not in done],
                [] if done else teams,
            )
        if people or teams:
            self.api.call("ask for reviews", lambda: pull.create_review_request(people, teams))

    def _label(self, name: str) -> None:
        if self.api.ask("read the labels", lambda: self.repository.get_label(name)) is None:
            try:
                self.api.call(
                    "make the label", lambda: self.repository.create_label(name, "1f6feb", LABEL)
                )
            except Refused as refused:
                if "already_exists" not in refused.words:
                    raise

    # -- what has had its day
    # ------------------------------------------------------------------------------------

    def _supersede(self, kept: PullRequest) -> None:
        """One open pull request per brief and base: another one that holds this tool's commits
        alone is closed.
        """
        for pull in self._open_pulls():
            if (
                pull.number != kept.number
                and pull.base.ref == kept.base.ref
                and outdated.ours(pull)
            ):
                self._close(pull, f"superseded by pull request {kept.number}")
                self.notes.append(f"pull request {pull.number} was closed, superseded by this one")

    def _nothing(self) -> Published:
        """Nothing was proven. A pull request of ours that this run has tested on a newer base, in
        vain, is closed.
        """
        told = bodies.verdict_line(self.run_state)
        for pull in (
            self._open_pulls() if self.run_state.finished and self.run_state.confirmation else ()
        ):
            why = outdated.pointless(self.api, self.run_state, self.run, pull)
            if not why:
                continue
            words = f"pull request {pull.number}: on the newer base {self.run.base[:7]}, {why}"
            if self.dry_run:
                return Published("none", f"Dry run: would close {words}")
            self._close(pull, words.partition(": ")[2])
            return Published(
                "closed",
                f"Closed {words}",
                pull.head.ref,
                pull.number,
                pull.html_url,
                pull.head.sha,
            )
        return Published("none", f"No pull request: {told}")

    def _close(self, pull: PullRequest, words: str) -> None:
        self.api.call(
            "comment", lambda: pull.create_issue_comment(f"Closed: {text.inline(words, 600)}")
        )
        self.api.call("close the pull request", lambda: pull.edit(state="closed"))


def _plain(body: str | None) -> str:
    return (body or "").replace("\r\n", "\n").strip()
