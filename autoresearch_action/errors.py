"""The errors a user can cause or meet, each one sentence: what is wrong, where, what to do.

The command line turns them into one line on standard error and an exit code; anything else is a
bug.
"""


class UserError(Exception):
    """A failure with a sentence for a person. `exit_code` is what the process ends with."""

    exit_code = 1


class InputError(UserError):
    """The user's input is wrong: the brief, an option, a patch folder."""

    exit_code = 2


class EnvironmentFault(UserError):
    """The surroundings are: no GPU, no token, no permission, no sandbox."""

    exit_code = 3


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived, or the deadline passed: stop now, keep what is there. The text is
    the reason.
    """
