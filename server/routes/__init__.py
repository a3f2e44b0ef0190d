"""The HTTP API: adapters, models, health."""
