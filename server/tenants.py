"""Whose adapters a request sees. There is one tenant until there are API keys."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

DEFAULT_TENANT = "default"


def tenant_of(_scope: Scope) -> str:
    """The tenant that a request, as its ASGI scope, speaks for."""
    return DEFAULT_TENANT


def _tenant(request: Request) -> str:
    return tenant_of(request.scope)


Tenant = Annotated[str, Depends(_tenant)]
