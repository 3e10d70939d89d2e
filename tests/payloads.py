"""Hypothesis strategies: payloads with a field of every type, and spellings of their JSON."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

# No NUL: Postgres cannot store it. No surrogates: UTF-8 cannot.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
int32s = st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 3)
int64s = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
doubles = st.floats(allow_nan=True, width=64)
# protobuf's JSON prints the largest float so that its own parser finds it too large.
singles = st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from(
    [float("nan"), float("inf"), float("-inf")]
)
moments = st.integers(-62135596800, 253402300799)
nanos = st.sampled_from([0, 1, 500_000_000, 123_456_000, 999_999_999])
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
inners: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.fixed_dictionaries(
        {},
        optional={
            "label": texts,
            "count": int64s,
            "children": st.lists(inners, max_size=2),
        },
    )
)
colors = st.sampled_from([0, 1, -7])


def _spans() -> st.SearchStrategy[str]:
    return st.builds(
        lambda seconds, fraction, sign: f"{sign}{seconds}.{fraction:09}s",
        st.integers(0, 315_576_000_000),
        nanos,
        st.sampled_from(["", "-"]),
    )


def _moments() -> st.SearchStrategy[str]:
    return st.builds(
        lambda seconds, fraction: Timestamp(seconds=seconds, nanos=fraction).ToJsonString(),
        moments,
        nanos,
    )


# The JSON form of everything.v1.Everything, by proto name.
everything_args: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "plain_text": texts,
        "whole": int32s,
        "big": st.integers(0, 2**64 - 1) | st.integers(0, 3),
        "signed": int64s,
        "yes": st.booleans(),
        "real": doubles,
        "single": singles,
        "data": st.binary(max_size=6),
        "color": colors,
        "inner": inners,
        "words": st.lists(texts, max_size=3),
        "numbers": st.lists(st.integers(0, 2**32 - 1), max_size=3),
        "inners": st.lists(inners, max_size=2),
        "counts": st.dictionaries(texts, int32s, max_size=3),
        "by_number": st.dictionaries(int64s, inners, max_size=2),
        "by_truth": st.dictionaries(st.booleans(), texts, max_size=2),
        "maybe_text": texts,
        "maybe_whole": int32s,
        "maybe_real": doubles,
        "moment": _moments(),
        "span": _spans(),
        "tree": st.dictionaries(texts, json_values, max_size=3),
        "anything": json_values,
        "list": st.lists(json_values, max_size=3),
        "wrapped_number": int64s,
        "wrapped_text": texts,
        "mask": st.lists(
            st.sampled_from(["plain_text", "inner.label", "big"]), max_size=2, unique=True
        ),
        "chosen_text": texts,
        "renamed": texts,
        "colors": st.lists(colors, max_size=3),
        "pieces": st.lists(st.binary(max_size=4), max_size=3),
    },
)


def fill(message: Message, args: dict[str, Any]) -> Message:
    """The message that the values mean."""
    plain = dict(args)
    for name in ("data", "pieces", "mask"):
        plain.pop(name, None)
    json_format.ParseDict(_json_ready(plain), message)
    filled: Any = message
    if "data" in args:
        filled.data = args["data"]
    if "pieces" in args:
        filled.pieces.extend(args["pieces"])
    if "mask" in args:
        filled.mask.paths.extend(args["mask"])
        filled.mask.SetInParent()
    return message


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


@st.composite
def spellings(draw: st.DrawFn, message: Message) -> dict[str, Any]:
    """One of the JSON forms of a message: names, defaults, enums and numbers may vary."""
    written: dict[str, Any] = json_format.MessageToDict(
        message,
        preserving_proto_field_name=draw(st.booleans()),
        always_print_fields_with_no_presence=draw(st.booleans()),
        use_integers_for_enums=draw(st.booleans()),
    )
    for name in ("whole", "big", "signed", "maybe_whole", "maybeWhole"):
        if name in written:
            number = int(written[name])
            forms = [number, str(number)]
            if abs(number) < 2**53:
                forms.append(float(number))
            written[name] = draw(st.sampled_from(forms))
    # Null is one more way to say nothing.
    absent = set(message.DESCRIPTOR.fields_by_name) & {"maybe_text", "inner", "colors", "id"}
    for name in sorted(absent - {field.name for field, _ in message.ListFields()}):
        if draw(st.booleans()) and name not in written:
            written[name] = None
    return written
