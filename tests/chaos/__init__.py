"""Faults on purpose, and what the engine makes of them.

One definition of each fault (``faults/``) serves the table (``python -m tests.chaos``, `make chaos`) and
the tests (``test_faults.py``). A fault is done to a *stage*: the real service, the real plugin client in an
engine process that steps all the time, and whatever lies between. The worst are done to a real SGLang server
too (``on_sglang.py``).
"""
