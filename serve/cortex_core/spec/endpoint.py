"""Endpoints: the path of an API at the gateway."""

from __future__ import annotations


def canonical(endpoint: str) -> str:
    """With a leading slash and without trailing ones; two endpoints are the same when these are equal."""
    return "/" + endpoint.strip("/")
