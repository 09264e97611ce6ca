"""Keeps passwords and tokens out of everything that is recorded."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_NAMES = r"password|passwd|pwd|secret|token|api_?key|access_?key|secret_?key|private_?key|credentials?"
_KEY = re.compile(rf"(?:^|[._-])(?:{_NAMES})$", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def without_secrets(value: Any, key: str = "") -> Any:
    """A copy of a configuration in which secrets are replaced.

    Hidden are values under a key whose last word names a secret (`api_key`, `db.password`) and the user part of URLs.

    Args:
        value: nested dictionaries and lists of plain values.
        key: name of `value`.

    Example:
        >>> without_secrets({"store": {"uri": "mysql://me:pw@host/db", "token": "abc"}, "tokens": 3})
        {'store': {'uri': 'mysql://***@host/db', 'token': '***'}, 'tokens': 3}
    """
    if isinstance(value, dict):
        return {name: without_secrets(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, key) for inner in value]
    if value is not None and _KEY.search(key):
        return HIDDEN
    return _USER_INFO.sub(HIDDEN, value) if isinstance(value, str) else value


def command_without_secrets(words: list[str]) -> list[str]:
    """The words of a command line, secrets replaced in `--key=value` as well as in `--key value`.

    Example:
        >>> command_without_secrets(["fit", "--store.token", "abc", "--password=x", "--k", "5"])
        ['fit', '--store.token', '***', '--password=***', '--k', '5']
    """
    shown, secret_follows = [], False
    for word in words:
        name, equals, value = word.partition("=")
        is_option = word.startswith("-")
        if secret_follows and not is_option:
            shown.append(HIDDEN)
        elif is_option and equals:
            shown.append(f"{name}={without_secrets(value, name.lstrip('-'))}")
        else:
            shown.append(without_secrets(word))
        secret_follows = is_option and not equals and bool(_KEY.search(word.lstrip("-")))
    return shown
