"""The thin shell around the core: gRPC, OTLP, metrics, logs, lifecycle."""
