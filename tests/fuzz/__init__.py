"""Mutated messages for everything that reads what a peer sent: wire decoders, lease logic, stored state.

``targets/`` says what is fed and what must hold after every message, ``mutate.py`` how messages are spoilt,
``__main__.py`` runs a million of them (`make fuzz`), ``test_targets.py`` some thousands, always the same.
"""
