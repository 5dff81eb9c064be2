"""What other people's libraries write into logs: boto3's debugging holds secret keys, session tokens and bodies."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["LOGGERS", "keep_boto3_quiet"]

LOGGERS: Final = ("boto3", "botocore", "urllib3")


def keep_boto3_quiet() -> None:
    """Leave debugging out of boto3's logs unless it was asked of them by name; whoever made the client."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
