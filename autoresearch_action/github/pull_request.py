"""Publishing: what was proven becomes one pull request, opened or brought up to date. Idempotent;
runs no candidate code.

Covers the pull request and its furniture. What is handed over is taken in by handover.py, the
commits are commits.py's, the branch they go to branch.py's, which pull requests have had their day
outdated.py's, the ledger's own branch memory.py's. What the brief says is read from the base
commit. Nothing is ever rebased: what is published is the tree that was
confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from github.PullRequest import PullRequest

from autoresearch_action import text
from autoresearch_action.brief import Brief
from autoresearch_action.errors import EnvironmentFault, InputError, UserError
from autoresearch_action.github import answers, commits, event, handover, outdated, outputs
from autoresearch_action.github.api import Api, Refused, connect
from autoresearch_action.github.branch import SeriesBranch
from autoresearch_action.github.outdated import marker
from autoresearch_action.ledger import RunState
from autoresearch_action.report import body as bodies
from autoresearch_action.report import tables

# Characters of a body that is not shortened further
SHORTEST = 600
LABEL = "Proposed and measured by autoresearch"

Operation = Literal["created", "updated", "closed", "none"]
# Stores a run, and whether it claims something; gives its picture's address
Remember = Callable[[RunState, bool], str]


@dataclass(frozen=True)
class PullRequestOptions:
    """How the pull request is to look; "" is the default."""

    base: str = ""
    # What the job, or the checkout, is on: refs/heads/NAME, a tag, …
    ref: str = ""
    branch: str = ""
    draft: bool = False
    labels: tuple[str, ...] = ("autoresearch",)
    reviewers: tuple[str, ...] = ()
    # What the caller expects to have been run
    program: str = ""
    working_directory: str = ""
    # In place of the brief's own prose
    brief: str = ""
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
            ref=environ.get("GITHUB_REF", "").strip(),
            branch=environ.get("AUTORESEARCH_BRANCH", "").strip(),
            draft=truth("DRAFT"),
            labels=lines("AUTORESEARCH_LABELS", "autoresearch"),
            reviewers=lines("AUTORESEARCH_REVIEWERS"),
            program=environ.get("AUTORESEARCH_PROGRAM", "").strip(),
            working_directory=environ.get("AUTORESEARCH_WORKING_DIRECTORY", "").strip(),
            brief=event.prose(environ.get("AUTORESEARCH_BRIEF"), environ) or "",
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
        return "\n".join(map(text.line, (self.words, *(f"Note: {note}" for note in self.notes))))

    def summary(self) -> str:
        """The same in Markdown."""
        lines = [text.inline(line, 1_000) for line in self.describe().splitlines()]
        return "\n\n".join(lines) + (f"\n\n[Pull request]({self.url})" if self.url else "")

    def outputs(self) -> dict[str, str]:
        return {
            "branch": self.branch,
            "pull-request-number": str(self.number or ""),
            "pull-request-url": self.url,
            "pull-request-operation": self.operation,
            "pull-request-head-sha": self.head,
        }


def publish(
    state: Path,
    environ: Mapping[str, str],
    dry_run: bool = False,
    remember: Remember | None = None,
) -> Published:
    """Bring the brief's pull request in line with the run in `state`. `remember` stores the run
    before a pull request speaks of it, and where there is none, unless this is a dry run. Raises
    InputError, EnvironmentFault.
    """
    wishes = PullRequestOptions.of(environ)
    with handover.taken(state) as handed:
        answers.expected(handed.run, wishes.program, wishes.working_directory, wishes.brief)
        api, dry_run = connect(environ), dry_run or wishes.dry_run
        publisher = Publisher(api, handed, wishes, dry_run, None if dry_run else remember)
        try:
            done = publisher.publish()
        except UserError:
            publisher.keep(claimed=False)
            raise
    outputs.put(environ, **done.outputs())
    return done


class Publisher:
    """One run and one repository."""

    def __init__(
        self,
        api: Api,
        handed: handover.HandedOver,
        wishes: PullRequestOptions,
        dry_run: bool,
        remember: Remember | None,
    ) -> None:
        self.api, self.handed, self.run_state, self.run = api, handed, handed.run_state, handed.run
        self.wishes, self.dry_run, self.remember, self.picture = wishes, dry_run, remember, ""
        self.repository = api.repository
        self.name = wishes.branch or f"autoresearch/{self.run.brief_id}"
        self.branch = SeriesBranch(api, handed, self.name)
        self.notes = self.branch.notes

    def keep(self, *, claimed: bool) -> None:
        """The run is stored, once. A claim is one where all that is handed over for it adds up."""
        if self.remember:
            self.picture = self.remember(self.run_state, claimed)
            self.remember = None

    def publish(self) -> Published:
        confirmation = self.run_state.confirmation
        if confirmation is None or not confirmation.held or not self.handed.patches:
            return self._nothing()
        base = commits.Base(self.api, self.run.base)
        target = self._base_branch()
        behind = self._behind(target)
        briefs = self._briefs(base, target)
        self.run = self.run_state.run = answers.as_briefed(self.run, briefs[0], self.wishes.brief)
        place = "" if self.run.working_directory == "." else self.run.working_directory
        with commits.replayed(base, self.handed.patches, place, briefs, confirmation.tree) as (
            steps,
            content,
        ):
            if self.dry_run:
                return self._told(target, len(steps))
            self.keep(claimed=True)
            branch, head, shas = self.branch.put(
                confirmation.tree, partial(self._commits, base, steps, content)
            )
        notes = (behind,) if behind else ()
        numbered = dict(zip(self.handed.numbers, shas, strict=True))
        return self._pull(target, branch, head, notes, numbered)

    def _briefs(self, base: commits.Base, target: str) -> list[Brief]:
        """The brief at the base and, where the branch has moved on, as it is there today."""
        measured = f"the commit that was measured ({self.run.base[:12]})"
        found = [commits.brief_of(base, self.run, measured)]
        today = self.branch.ref(target)
        if today and today != self.run.base:
            now = commits.Base(self.api, today)
            found.append(commits.brief_of(now, self.run, f"{target} any more"))
        return found

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

    def _base_branch(self) -> str:
        """As given, else what this job or checkout is on; the ledger has no word in it."""
        wishes, default = self.wishes, self.repository.default_branch
        on = wishes.ref.removeprefix("refs/heads/") if wishes.ref.startswith("refs/heads/") else ""
        for name in [wishes.base] if wishes.base else filter(None, (on, default)):
            if self.branch.ref(name):
                return name
        raise InputError(
            f"base: there is no branch {wishes.base or on or default} to open a pull request onto."
        )

    def _behind(self, target: str) -> str:
        """What is said where the base has moved since it was measured. Raises InputError where it
        is not on the branch.
        """
        compared = self.api.ask("compare the base", self.repository.compare, self.run.base, target)
        if compared is None or compared.status not in ("identical", "ahead"):
            raise InputError(
                f"The commit that was measured ({self.run.base[:12]}) is not on {target}: give"
                " the branch it is on as `base`."
            )
        if not compared.ahead_by:
            return ""
        many = f"{compared.ahead_by} commit{'s' * (compared.ahead_by != 1)}"
        told = f"Measured on {self.run.base[:7]}, {many} behind {target}."
        return f"{told} It was not rebased; the next run measures it on the newer base first."

    def _commits(
        self,
        base: commits.Base,
        steps: Sequence[commits.Step],
        content: Callable[[str], bytes],
    ) -> list[str]:
        messages = [self._message(change) for change in tables.changes(self.run_state)]
        return commits.write(self.api, base, steps, messages, content)

    def _message(self, change: tables.Change) -> str:
        told = {"Brief": self.run.brief_id, "Run": self.run.id, "Experiment": str(change.number)}
        trailers = {f"Autoresearch-{name}": value for name, value in told.items()}
        return text.message(change.description, change.hypothesis, trailers)

    # -- the pull request

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
        return next(iter(self.branch.pulls(branch, "open")), None)

    def _create(
        self, target: str, branch: str, title: str, write: Callable[..., str]
    ) -> tuple[PullRequest, Operation]:
        draft, body = self.wishes.draft or bodies.self_reported(self.run), write()
        for _ in range(8):
            facts: dict[str, Any] = {"title": title, "body": body, "draft": draft}
            try:
                made = self.api.call(
                    "open the pull request",
                    self.repository.create_pull,
                    target,
                    branch,
                    **facts,
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
                self.api.call("update the pull request", pull.edit, title=title, body=body)
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
                self.api.call("label the pull request", pull.add_to_labels, *missing)
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
            self.api.call("ask for reviews", pull.create_review_request, people, teams)

    def _label(self, name: str) -> None:
        if self.api.ask("read the labels", self.repository.get_label, name) is None:
            try:
                self.api.call("make the label", self.repository.create_label, name, "1f6feb", LABEL)
            except Refused as refused:
                if "already_exists" not in refused.words:
                    raise

    # -- what has had its day

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
        self.keep(claimed=False)
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
        self.api.call("comment", pull.create_issue_comment, f"Closed: {text.inline(words, 600)}")
        self.api.call("close the pull request", pull.edit, state="closed")


def _plain(body: str | None) -> str:
    return (body or "").replace("\r\n", "\n").strip()
