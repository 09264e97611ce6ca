"""Secrets never reach a record; nothing else is changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.tracking.redaction import HIDDEN, command_without_secrets, without_secrets

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc ", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    "key", ["password", "API_KEY", "apikey", "db.passwd", "aws_secret_access_key", "hf-token", "Secret"]
)
def test_keys_of_secrets(key: str) -> None:
    config = {"a": [{"b": {key: "hunter2"}}], key: ["hunter2", "hunter2"], "none": {key: None}}
    shown = without_secrets(config)
    assert "hunter2" not in json.dumps(shown)
    assert shown["a"][0]["b"][key] == HIDDEN
    assert shown["none"][key] is None


@pytest.mark.parametrize("key", ["tokens", "n_tokens", "token_dropout", "keys", "secretary", "passwords_file"])
def test_keys_that_only_look_like_it(key: str) -> None:
    assert without_secrets({key: 5}) == {key: 5}


def test_user_part_of_addresses() -> None:
    assert without_secrets("postgresql://me:hunter2@db:5432/x") == "postgresql://***@db:5432/x"
    assert without_secrets("https://hunter2@host/a and s3://k:v@b") == "https://***@host/a and s3://***@b"
    assert without_secrets("me@example.org, sqlite:////home/a@b/x.db") == "me@example.org, sqlite:////home/a@b/x.db"


@given(PLAIN)
def test_everything_else_stays(config: object) -> None:
    assert without_secrets(config) == config


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--a.token", "hunter2", "--b", "1"], ["--a.token", "***", "--b", "1"]),
        (["--a.token=hunter2"], ["--a.token=***"]),
        (["--token", "--b"], ["--token", "--b"]),
        (["--uri=mysql://u:hunter2@h/d", "sqlite:///x"], ["--uri=mysql://***@h/d", "sqlite:///x"]),
        (["--uri", "mysql://u:hunter2@h/d"], ["--uri", "mysql://***@h/d"]),
    ],
)
def test_command_lines(words: list[str], shown: list[str]) -> None:
    assert command_without_secrets(words) == shown
