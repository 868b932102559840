"""A generated trace set and step-time models for `turbospec replay`; see README.md."""
