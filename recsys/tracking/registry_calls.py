"""Calls of the model registry: tried again where that is harmless, and their errors said in a sentence."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from recsys.tracking.mlflow_store import URI_VARIABLE, TrackingError, quiet, store_errors
from recsys.tracking.redaction import without_secrets

T = TypeVar("T")

_WAITS = (0.1, 0.3, 1.0, 3.0)
"""Seconds before a call is tried again, each times a random factor of 1 to 2."""


class RegistryError(ValueError):
    """What is asked of the model registry cannot be done; the message says why and what to do."""


class MissingError(RegistryError):
    """The registry has no such thing."""


class TakenError(RegistryError):
    """The registry has something of that name already."""


class LostRaceError(RuntimeError):
    """Somebody else changed the registry meanwhile, so that what was asked for no longer holds."""


_WRONG = {
    "RESOURCE_DOES_NOT_EXIST": MissingError,
    "RESOURCE_ALREADY_EXISTS": TakenError,
    "INVALID_PARAMETER_VALUE": RegistryError,
}


def called(uri: str, call: Callable[..., T], *arguments: object, **named: object) -> T:
    """The result of a call of an `MlflowClient`.

    A database that is busy is asked again: two writers of one SQLite file may end in a deadlock, which it breaks by
    refusing one of them, which then has changed nothing.

    Args:
        uri: of the store, for messages.
        call: a bound method of a client.
        arguments: of the call.
        named: of the call.

    Raises:
        RegistryError: something does not exist, a name is taken, or the store finds the arguments wrong.
        TrackingError: the store cannot be reached, or refuses.
    """
    for wait in (*_WAITS, None):
        try:
            return call(*arguments, **named)
        except store_errors() as error:
            code = getattr(error, "error_code", None)
            if code == "TEMPORARILY_UNAVAILABLE" and wait is not None:
                time.sleep(wait * random.uniform(1, 2))
                continue
            if code in _WRONG:
                raise _WRONG[code](str(error)) from error
            raise TrackingError(
                f"the model registry at {without_secrets(uri)} cannot be used: {error}; `recsys doctor` tests the "
                f"store, `{URI_VARIABLE}` names another"
            ) from error
    raise AssertionError("the last try returns or raises")


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Meanwhile MLflow itself uses the store at `uri`, where it takes no client: to load a model by its name, say."""
    quiet()
    import mlflow

    # MLflow takes a variable for a store that was set, and writes the one that is set into the variable.
    variable = os.environ.pop(URI_VARIABLE, None)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None: as if none had ever been set
        os.environ.pop(URI_VARIABLE, None)
        if variable is not None:
            os.environ[URI_VARIABLE] = variable
