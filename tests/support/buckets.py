"""Buckets of a test's own at an S3 server, and the environment in which boto3 finds them."""

from __future__ import annotations

import functools
import uuid
from typing import Any

import boto3
import pytest
from botocore.config import Config

ACCESS_KEY = "models:admin"
"""As Swift wants it: account and user; moto takes any."""

SECRET_KEY = "a-very-secret-key"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


def environ(port: int) -> dict[str, str]:
    """Variables by which boto3 finds S3 at this port of 127.0.0.1."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


def use_endpoint(environment: pytest.MonkeyPatch, port: int) -> None:
    """boto3 finds S3 at this port of 127.0.0.1."""
    for name, value in environ(port).items():
        environment.setenv(name, value)


@functools.cache
def client(port: int) -> Any:
    """boto3's own client, which sees what is really stored."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=20),
    )


def new_bucket(port: int) -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{uuid.uuid4().hex}"
    client(port).create_bucket(Bucket=name)
    return name
