"""Grafana dashboards as code, and what checks them. Nothing here is part of the installed package."""
