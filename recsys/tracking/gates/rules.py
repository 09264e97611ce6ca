"""The file that declares gates: YAML in, gates out."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.tracking.gates.gate import Gate, GateError

DEFAULT = Path(__file__).with_name("default.yaml")
"""The gates that stand where no file is named."""


class GateRule(BaseModel):
    """One gate.

    Attributes:
        class_path: a subclass of `Gate`.
        init_args: its arguments.
        name: in tables and tags; None: the name of the class in small letters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_path: str
    init_args: dict[str, Any] = Field(default_factory=dict)
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")

    @property
    def called(self) -> str:
        """The name of the gate."""
        return self.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.class_path.rpartition(".")[2]).lower()


class GateRules(BaseModel):
    """A file of gates.

    Attributes:
        gates: at least one, in the order in which they are asked.
        retrieve: items that champion and challenger retrieve for their ranking, as when they serve; 0: retrieval alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gates: list[GateRule] = Field(min_length=1)
    retrieve: int = Field(default=0, ge=0)

    @classmethod
    def read(cls, path: str | Path | None = None) -> GateRules:
        """Reads a file of gates.

        Args:
            path: of the file; None: the default gates.

        Raises:
            GateError: it cannot be read, or declares something else.
        """
        path = DEFAULT if path is None else Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise GateError(f"{path}: no file of gates ({error})") from None
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
            raise GateError(f"{path}: {wrong}; `recsys registry promote --print-gates` shows a file") from None

    def build(self) -> dict[str, Gate]:
        """The gates by name.

        Raises:
            GateError: two have one name, or a class or its arguments do not fit.
        """
        made: dict[str, Gate] = {}
        for rule in self.gates:
            if rule.called in made:
                raise GateError(f"two gates are called {rule.called}; give one of them another `name`")
            made[rule.called] = _made(rule)
        return made


def _made(rule: GateRule) -> Gate:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--gate", type=Gate)
    value = {"class_path": rule.class_path, "init_args": rule.init_args}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)  # newer versions prefer a method that older ones lack
            gate = parser.instantiate_classes(parser.parse_object({"gate": value})).gate
    except (ArgumentError, TypeError, ValueError, ImportError, AttributeError) as error:
        raise GateError(f"gate {rule.called}: {_last_line(error)}") from None
    if not isinstance(gate, Gate):
        raise GateError(f"gate {rule.called}: {rule.class_path} is no subclass of {Gate.__module__}.Gate")
    return gate


def _last_line(error: Exception) -> str:
    """What is wrong; jsonargparse prints the tree of what it tried first."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) if lines else type(error).__name__
