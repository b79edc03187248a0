"""What can go wrong, as sentences: every error names the file or the value and the way out.

cli/report.py turns them into exit statuses.
"""


class AecliError(Exception):
    """A failure with one picture, file or model; the message is one sentence for the person at the terminal."""


class UsageError(AecliError):
    """The command was given wrong arguments; nothing was done (exit status 2)."""
