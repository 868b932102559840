"""Policies other than goodput, and the factory of them all."""
