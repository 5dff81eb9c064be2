"""Ways to a customer's program, as settings name them in one text.

arn:aws:lambda:us-east-1:111122223333:function:calls      a function in AWS Lambda
https://customer.example/calls                            an HTTPS address
customer.calls:handle                                     a Python function, module:name
"""

from __future__ import annotations

import importlib
import re

from callreel.addresses import CALLBACKS, Policy
from callreel.errors import UsageError
from callreel.notify import Notifier
from callreel.notify.functions import PythonFunction
from callreel.notify.lambdas import LambdaFunction
from callreel.notify.signatures import Signer
from callreel.notify.webhooks import Webhook

__all__ = ["handler_of"]

ARN = re.compile(r"arn:aws[a-z-]*:lambda:([a-z0-9-]+):[0-9]{12}:function:[A-Za-z0-9_-]+(:[A-Za-z0-9$_-]+)?")
ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def handler_of(
    text: str,
    *,
    signer: Signer | None = None,
    policy: Policy = CALLBACKS,
    lambda_endpoint_url: str | None = None,
) -> Notifier:
    """The way that a text names; `signer` and `policy` are for addresses.

    Raises:
        UsageError: it names none, or a function that cannot be imported.
        RefusedAddressError: the policy does not allow such a URL.
    """
    if (arn := ARN.fullmatch(text)) is not None:
        return LambdaFunction(text, region=arn[1], endpoint_url=lambda_endpoint_url)
    if ENTRY_POINT.fullmatch(text):
        module, _, name = text.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"there is no function {text}: {error}") from None
        if not callable(function):
            raise UsageError(f"{text} is no function")
        return PythonFunction(function, name=text)
    if "://" in text:
        return Webhook(text, signer=signer, policy=policy)
    raise UsageError(f"{text!r} is neither the ARN of a Lambda function, nor a URL, nor module:function")
