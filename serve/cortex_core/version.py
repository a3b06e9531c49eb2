"""The one version of the distribution, the operator and the runtime."""

__version__ = "0.1.0"
