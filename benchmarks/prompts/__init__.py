"""Texts the load generator sends. All of them were written for this project."""
