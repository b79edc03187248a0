"""What can go wrong, as sentences: every error names the file or the value and the way out.

cli/report.py turns them into exit statuses.
"""


class AecliError(Exception):
    """A failure with one picture, file or model; the message is one sentence for the person at the terminal."""


class UsageError(AecliError):
    """The command was given wrong arguments; nothing was done (exit status 2)."""


def is_out_of_memory(error: Exception) -> bool:
    """Python's error, or torch's: for GPUs it has a type, for processors a text alone."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )
