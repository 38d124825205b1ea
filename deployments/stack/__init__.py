"""The whole platform on one machine, without containers: ``python -m deployments.stack``."""
