"""Health, audit, alert rules and their channels."""
