"""Templates over a payload's fields, such as ``runs-{id}`` or ``{repository.owner}``."""

import re
from collections.abc import Callable

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_FIELD = re.compile(r"\{([A-Za-z0-9_.]+)\}")
_UNFIT = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


class TemplateError(ValueError):
    """The template does not fit its message."""


def compile_template(template: str, message: Descriptor) -> Callable[[Message], str]:
    """A function from a payload to its key.

    Fields are named by proto or JSON name; a dot goes into a message field. They must be single
    strings, integers, booleans or enums. Raises TemplateError.
    """
    pieces = _FIELD.split(template)
    literals, names = pieces[0::2], pieces[1::2]
    if any("{" in literal or "}" in literal for literal in literals):
        raise TemplateError(f"template {template!r} has a brace that encloses no field name")
    if not names:
        raise TemplateError(
            f"template {template!r} names no field, so all tasks would share one key"
        )
    paths = [_path(template, name, message) for name in names]

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


def _path(template: str, name: str, message: Descriptor) -> list[str]:
    path: list[str] = []
    current: Descriptor | None = message
    for step in name.split("."):
        field = _find(current, step) if current is not None else None
        if field is None:
            raise TemplateError(f"template {template!r}: {message.full_name} has no field {name!r}")
        if field.is_repeated or field.type in _UNFIT:
            raise TemplateError(f"template {template!r}: field {name!r} cannot be part of a key")
        path.append(field.name)
        current = field.message_type
    if current is not None:
        raise TemplateError(f"template {template!r}: field {name!r} is a message")
    return path


def _find(message: Descriptor, name: str) -> FieldDescriptor | None:
    field: FieldDescriptor | None = message.fields_by_name.get(name)
    if field is None:
        field = message.fields_by_camelcase_name.get(name)
    return field
