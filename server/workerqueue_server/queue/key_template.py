"""Templates over a payload's fields, such as ``runs-{id}`` or ``{repository.owner}``."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from workerqueue_server.queue.field_path import find_field

_FIELD = re.compile(r"\{([A-Za-z0-9_.]+)\}")
_UNFIT = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


class TemplateError(ValueError):
    """The template does not fit its message."""


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A template that fits its message."""

    # From a payload to its key.
    render: Callable[[Message], str]
    # The same for the SQL side: literal texts, and between them
    # {path: [[proto name, JSON name], ...], type, default}; see workerqueue.render_key.
    pieces: list[object]


def compile_template(template: str, message: Descriptor) -> KeyTemplate:
    """The template over a message's fields.

    Fields are named by proto or JSON name; a dot goes into a message field. They must be single
    strings, integers, booleans or enums (which give their number). Raises TemplateError.
    """
    split = _FIELD.split(template)
    literals, names = split[0::2], split[1::2]
    if any("{" in literal or "}" in literal for literal in literals):
        raise TemplateError(f"template {template!r} has a brace that encloses no field name")
    if not names:
        raise TemplateError(
            f"template {template!r} names no field, so all tasks would share one key"
        )
    fields = [_path(template, name, message) for name in names]
    pieces: list[object] = [literals[0]]
    for path, literal in zip(fields, literals[1:], strict=True):
        pieces += (_describe(path), literal)
    return KeyTemplate(_renderer(literals, [[f.name for f in path] for path in fields]), pieces)


def _renderer(literals: list[str], paths: list[list[str]]) -> Callable[[Message], str]:
    if len(paths) == 1 and len(paths[0]) == 1:
        before, after, only = literals[0], literals[1], paths[0][0]
        return lambda payload: f"{before}{_text(getattr(payload, only))}{after}"

    def render(payload: Message) -> str:
        parts = [literals[0]]
        for path, literal in zip(paths, literals[1:], strict=True):
            value: object = payload
            for step in path:
                value = getattr(value, step)
            parts += (_text(value), literal)
        return "".join(parts)

    return render


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _path(template: str, name: str, message: Descriptor) -> list[FieldDescriptor]:
    path: list[FieldDescriptor] = []
    current: Descriptor | None = message
    for step in name.split("."):
        field = find_field(current, step)
        if field is None:
            raise TemplateError(f"template {template!r}: {message.full_name} has no field {name!r}")
        if field.is_repeated or field.type in _UNFIT:
            raise TemplateError(f"template {template!r}: field {name!r} cannot be part of a key")
        path.append(field)
        current = field.message_type
    if current is not None:
        raise TemplateError(f"template {template!r}: field {name!r} is a message")
    return path


def _describe(path: list[FieldDescriptor]) -> dict[str, object]:
    last = path[-1]
    if last.enum_type is not None:
        values = {value.name: value.number for value in last.enum_type.values}
        return {**_steps(path), "type": "enum", "enum": values, "default": str(last.default_value)}
    kind = "integer"
    if last.type == FieldDescriptor.TYPE_STRING:
        kind = "string"
    elif last.type == FieldDescriptor.TYPE_BOOL:
        kind = "bool"
    return {**_steps(path), "type": kind, "default": _text(last.default_value)}


def _steps(path: list[FieldDescriptor]) -> dict[str, object]:
    return {"path": [[field.name, field.json_name] for field in path]}
