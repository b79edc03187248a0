"""`python -m aecli`."""

from aecli.cli import main

main()
