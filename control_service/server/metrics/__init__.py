"""Metrics: one list of them, served to Prometheus and pushed over OTLP."""

from control_service.server.metrics.collector import ServiceCollector
from control_service.server.metrics.otlp_push import OtlpPusher
from control_service.server.metrics.service_measures import ServiceSources

__all__ = ["OtlpPusher", "ServiceCollector", "ServiceSources"]
