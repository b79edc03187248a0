"""Hostile input, made at random by hypothesis: `python -m tests.fuzz` (or `make fuzz`) runs for a minute, `--minutes 30` longer.

It lives under tests/ because it shares their tiny models and small photographs, and because its fixed corpus
(corpus.py) is part of the normal test suite (test_corpus.py); the random part is not, so that the suite stays repeatable.
"""
