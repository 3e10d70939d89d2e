"""The comparison of a transcript with what a command printed."""

from __future__ import annotations

import pytest

from tests.transcripts import blocks, commands, matches, renamed

_PAGE = """
```console
$ first --flag
{"id": "01a20a0b-4e96-79b3-88be-6769f35b4a75"}
$ second
done after 12 ms
```

```python worker.py
print("hello")
```
"""


def test_blocks_and_commands() -> None:
    console, python = blocks(_PAGE)

    assert (python.language, python.name, python.text) == (
        "python",
        "worker.py",
        'print("hello")\n',
    )
    assert [c.line for c in commands(console)] == ["first --flag", "second"]
    assert commands(console)[1].output == "done after 12 ms\n"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("took 1,204 ms", "took 3 ms"),
        ("id 01a20a0b-4e96-79b3-88be-6769f35b4a75", "id 01a20a0b-4f72-7ef3-ad68-5da89a6b4d27"),
        ("a\nb\nc\nd", "a\n...\nd"),
        ("a  |  b\n─────", "a | b\n──"),
    ],
)
def test_what_differs_from_run_to_run_is_the_same(printed: str, shown: str) -> None:
    assert matches(printed, shown)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [("state: dead", "state: done"), ("a\nb", "a"), ("a", "a\nb"), ("a\nc", "a\n...\nd")],
)
def test_everything_else_must_be_as_shown(printed: str, shown: str) -> None:
    assert not matches(printed, shown)


def test_values_of_this_run_replace_those_shown() -> None:
    assert renamed(
        '"t": "AaIKC06WebOIvmdp81tKdQAAAAAAEAAB"', '"t": "BBIKC06WebOIvmdp81tKdQAAAAAAEAAC"'
    ) == {"AaIKC06WebOIvmdp81tKdQAAAAAAEAAB": "BBIKC06WebOIvmdp81tKdQAAAAAAEAAC"}
