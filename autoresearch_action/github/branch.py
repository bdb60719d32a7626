"""The branch of a pull request: pointed at the proven series by compare-and-swap.

A branch is moved only from the commit that this tool itself had put there; where a person has
pushed, a fresh name is used. Makes no commits and opens no pull request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

from github.PullRequest import PullRequest

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.github.api import Api, Refused
from autoresearch_action.github.handover import HandedOver
from autoresearch_action.github.outdated import marker
from autoresearch_action.workspace.git import in_the_way

SUFFIXES = ("", *(f"-{number}" for number in range(2, 100)))
MOVE = """mutation(
  $repository: ID!, $name: GitRefname!, $before: GitObjectID!, $after: GitObjectID!
) {
  updateRefs(input: {repositoryId: $repository, refUpdates: [
    {name: $name, beforeOid: $before, afterOid: $after, force: true}
  ]}) {
    clientMutationId
  }
}"""
# A server that is older than updateRefs
NO_MOVE = re.compile(r"doesn't exist on type|isn't a defined", re.IGNORECASE)


class SeriesBranch:
    """Where one run's proven series goes. `notes`: what a reader of the pull request should
    know.
    """

    def __init__(self, api: Api, handed: HandedOver, name: str) -> None:
        self.api, self.repository, self.handed, self.run = api, api.repository, handed, handed.run
        self.name = name
        self.notes: list[str] = []

    def ref(self, branch: str) -> str | None:
        found = self.api.ask(
            f"read the branch {branch}", self.repository.get_git_ref, f"heads/{branch}"
        )
        return found.object.sha if found and found.ref == f"refs/heads/{branch}" else None

    def put(self, tree: str, make: Callable[[], list[str]]) -> tuple[str, str, list[str]]:
        """(branch, head, commits) with the proven series on it: found there, put there, or put on a
        fresh name.
        """
        made: list[str] = []
        wanted = self.name
        if other := in_the_way(wanted, self.ref):
            wanted = wanted.replace("/", "-")
            self.notes.append(f"the branch {other} is there, so this one is {wanted}")
        for suffix in SUFFIXES:
            name = f"{wanted}{suffix}"
            now = self.ref(name)
            if now:
                there = self._there(now, tree)
                if there:
                    return name, now, there
                if not self._untouched(name, now):
                    self.notes.append(
                        f"{name} holds commits that are not this tool's: it is left alone"
                    )
                    continue
            made = made or make()
            if self._move(name, now, made[-1]):
                return name, made[-1], made
        raise EnvironmentFault(f"There are a hundred branches {self.name}-…: delete some.")

    def _there(self, head: str, tree: str) -> list[str] | None:
        """The commits up to `head` where they are this very run's, published before; else None."""
        shas: list[str] = []
        for _ in self.handed.numbers:
            commit = self.api.call("read the branch", self.repository.get_git_commit, head)
            told = commit.message.splitlines()
            if f"Autoresearch-Run: {self.run.id}" not in told or len(commit.parents) != 1:
                return None
            if not shas and commit.tree.sha != tree:
                return None
            shas.append(head)
            head = commit.parents[0].sha
        return shas[::-1] if head == self.run.base else None

    def _untouched(self, branch: str, now: str) -> bool:
        """Whether the branch is where this tool left it: some pull request from it says so."""
        pulls = self.pulls(branch, "all")
        return any(
            marker(pull).get("head") == now and marker(pull).get("brief") == self.run.brief_id
            for pull in pulls
        )

    def _move(self, branch: str, now: str | None, head: str) -> bool:
        """Point the branch at `head`: made anew, or moved from `now` and from nothing else. False:
        somebody was faster.
        """
        try:
            if now is None:
                self.api.call(
                    "create the branch",
                    self.repository.create_git_ref,
                    f"refs/heads/{branch}",
                    head,
                )
            else:
                self._swap(branch, now, head)
        except Refused as refused:
            there = self.ref(branch)
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
            self.api.call("move the branch", self.repository.requester.graphql_query, MOVE, values)
        except Refused as refused:
            old = refused.status == 404 or NO_MOVE.search(refused.words)
            # Looked at once more: as near to a compare-and-swap as such a server comes
            if not old or self.ref(branch) != now:
                raise
            self.api.call(
                "move the branch",
                lambda: self.repository.get_git_ref(f"heads/{branch}").edit(head, force=True),
            )

    def pulls(self, branch: str, state: str) -> list[PullRequest]:
        head = f"{self.repository.owner.login}:{branch}"
        return self.api.call(
            "list pull requests",
            lambda: list(islice(self.repository.get_pulls(state=state, head=head), 20)),
        )
