"""Settings as frozen dataclasses: `key=value` text in, a checked and fully resolved dataclass out.

Used alike for encoders (`--set`) and protocols (`--protocol-set`). Field annotations carry the type;
`Literal` carries the choices. A field without `metadata` belongs to the architecture and must agree with a
checkpoint's. A field named `preset` stands for a set of values of others.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from aape_bench import escapes
from aape_bench.errors import UsageError

#: Marks a field that may differ from a checkpoint's.
INFERENCE: Mapping[str, Any] = types.MappingProxyType({"inference": True})

#: Marks a field that changes what a computation costs, never its result: part of no identity and no label.
EXECUTION: Mapping[str, Any] = types.MappingProxyType({"inference": True, "execution": True})

Config = TypeVar("Config")


def suggestion(name: str, known: Iterable[str]) -> str:
    """` Did you mean "x"?` or, where nothing is close, the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f' Did you mean "{close[0]}"?'
    return f" There are: {', '.join(names)}." if names else " There are none."


def deciding(config: Any) -> dict[str, Any]:
    """The settings that decide results, by name: all fields but those marked EXECUTION."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if not f.metadata.get("execution")}


def describe(config_type: type[Any]) -> list[tuple[str, str, str]]:
    """Name, default and possible values of every setting."""
    default: object = make_config(config_type, {}, config_type.__name__)
    hints = typing.get_type_hints(config_type)
    rows = []
    for field in dataclasses.fields(config_type):
        parts = (hints[field.name], *typing.get_args(hints[field.name]))
        choices = [str(c) for part in parts if typing.get_origin(part) is typing.Literal for c in typing.get_args(part)]
        kinds = [part.__name__ for part in parts if part in (int, float, str, bool)]
        rows.append((field.name, str(getattr(default, field.name)), " | ".join(choices or kinds)))
    return rows


def split_assignments(text: str) -> dict[str, str]:
    """`"a=1;b=x"` -> `{"a": "1", "b": "x"}`. Raises UsageError where a part is not `key=value`."""
    settings: dict[str, str] = {}
    for part in filter(None, escapes.split(text, ";")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UsageError(f'The setting "{part}" is not of the form key=value.')
        if key.strip() in settings:
            raise UsageError(f'The setting "{key.strip()}" is given twice in "{text}".')
        settings[key.strip()] = escapes.plain(value.strip())
    return settings


def make_config(config_type: type[Config], settings: Mapping[str, Any], owner: str) -> Config:
    """Build `config_type` from settings (text or values), refusing unknown keys and wrong types.

    A config with a method `resolved()` is replaced by what that returns: it fills in what depends on
    other fields (a preset's width) so that what is hashed and recorded is complete.
    """
    hints = typing.get_type_hints(config_type)
    known = {field.name: hints[field.name] for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    values = {}
    for key, value in settings.items():
        if key not in known:
            raise UsageError(f'{owner} has no setting "{key}".{suggestion(key, known)}')
        values[key] = _coerce(value, known[key], f"{owner}: {key}")
    config = config_type(**values)
    resolve = getattr(config, "resolved", None)
    return resolve() if resolve else config


def label_of(name: str, config: Any, base: Any = None) -> str:
    """`aape`, or `aape[preset=small,window=gaussian]` where something is not default, or not as in `base`.

    What a preset brings along is not repeated: the other fields are compared with the preset's own.
    """
    changed = {}
    if base is None:
        default = make_config(type(config), {}, name)
        preset = {"preset": config.preset} if hasattr(config, "preset") else {}
        base = make_config(type(config), preset, name)
        changed = {key: value for key, value in preset.items() if value != getattr(default, key)}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(base, field.name) and not field.metadata.get("execution"):
            changed[field.name] = value
    return f"{name}[{','.join(f'{k}={v}' for k, v in changed.items())}]" if changed else name


def _coerce(value: Any, annotation: Any, where: str) -> Any:
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if type(None) in options and (value is None or str(value).lower() == "none"):
        return None
    for option in options:
        if option is type(None):
            continue
        if typing.get_origin(option) is typing.Literal:
            choices = typing.get_args(option)
            for choice in choices:
                if str(value) == str(choice):
                    return choice
            raise UsageError(f'{where} cannot be "{value}".{suggestion(str(value), map(str, choices))}')
        if option is bool:
            if str(value).lower() in ("true", "1", "yes", "on"):
                return True
            if str(value).lower() in ("false", "0", "no", "off"):
                return False
        elif option in (int, float, str):
            if option is int and isinstance(value, float) and not value.is_integer():
                continue
            try:
                number = option(value)
            except (TypeError, ValueError):
                continue
            if option is float and not math.isfinite(number):
                raise UsageError(f'{where} must be finite, not "{value}".')
            return number
    names = " or ".join(getattr(o, "__name__", str(o)) for o in options if o is not type(None))
    raise UsageError(f'{where} must be {names}, not "{value}".')


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
