"""A value that can be set from outside: its name, its default, and what kind of value it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    list: "list in square brackets",
    dict: "mapping",
}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name = default  # comment`.

    The default gives the kind of value that is taken. Where it is None, the kind is the first word of the comment, if
    that is a type (`limit = None  # int: at most this many images`); otherwise anything is taken. None is taken where
    it is the default, or where the comment, which may be an annotation, ends so: "float | None".
    """

    name: str
    default: object
    comment: str

    def __str__(self) -> str:
        return f"{self.name} = {self.default!r}" + (f"  # {self.comment}" if self.comment else "")

    @property
    def kind(self) -> type | None:
        if self.default is not None:
            return type(self.default)
        first = re.match(r"\w+", self.comment)
        return KINDS.get(first[0]) if first else None

    def accept(self, value):
        """`value` as this parameter takes it (1 becomes 1.0 where a number is meant); else ValueError."""
        if (value is None and (self.default is None or self.comment.endswith("| None"))) or self.kind is None:
            return value
        given = value
        if self.kind is float and isinstance(value, str):  # YAML takes 1e-3 for a text
            value = float(value) if re.fullmatch(r"[-+]?[\d.]+e[-+]?\d+", value, re.IGNORECASE) else value
        if self.kind is float and type(value) is int:
            try:
                value = float(value)
            except OverflowError:
                raise ValueError(f"{self.name}: it is too large; its default is {self.default!r}") from None
        if type(value) is not self.kind:
            word = WORDS.get(self.kind, self.kind.__name__)
            raise ValueError(f"{self.name}: {given!r} is no {word}; its default is {self.default!r}")
        if self.kind is list and self.default and len({type(item) for item in self.default}) == 1:
            item = Parameter(f"an item of {self.name}", self.default[0], "")
            value = [item.accept(each) for each in value]
        return value

    def read(self, text: str):
        """The value that `text` on a command line stands for: YAML, or the text itself where a text is wanted."""
        import yaml

        if self.kind is str and self.default is not None:
            return text
        try:
            return self.accept(yaml.safe_load(text))
        except yaml.YAMLError:
            raise ValueError(
                f"{self.name}: {text!r} is no {WORDS.get(self.kind, 'value')} that YAML can read"
            ) from None
