"""What the service shows over HTTP: a page for operators, its JSON, and the Prometheus metrics. Read-only."""
