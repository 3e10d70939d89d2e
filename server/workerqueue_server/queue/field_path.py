"""Fields by name, as callers may write them."""

from google.protobuf.descriptor import Descriptor, FieldDescriptor


class PathError(ValueError):
    """A message has no such field."""


def find_field(message: Descriptor | None, name: str) -> FieldDescriptor | None:
    """A message's field by proto or JSON name."""
    if message is None:
        return None
    field: FieldDescriptor | None = message.fields_by_name.get(name)
    if field is not None:
        return field
    return next((field for field in message.fields if field.json_name == name), None)
