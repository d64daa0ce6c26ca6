"""JSON and YAML that others wrote: one loader each, which ends in content of sane depth and size or in one sentence."""

from __future__ import annotations

import json
from typing import Any

import yaml

from slimtask.errors import InputError

MOST_DEPTH = 100
_MOST_NODES = 100_000  # of YAML, whose aliases make a page a gigabyte
_LARGEST_INTEGER = 2**64
_PLAIN = (str, int, float, bool, type(None))


def parse_json(text: str, where: str) -> Any:
    """Return the content of a JSON ``text``; ``where`` names its source in the InputError.

    Refused are, besides what is no JSON: nesting of more than ``MOST_DEPTH``, integers of more than 64 bits, and text
    that is no Unicode.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is not valid JSON (line {error.lineno}: {error.msg}); it is damaged, write it again."
        ) from None
    except RecursionError:
        raise InputError(_too_deep(where)) from None
    except ValueError:  # Python reads integers of up to 4,300 digits
        raise InputError(_too_large(where)) from None
    _check(content, where)
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Return the content of a YAML ``text`` as JSON has it; ``where`` names its source in the InputError.

    Refused are, besides what is no YAML: a key that is given twice or is no word, dates and what else JSON lacks, and
    what ``parse_json`` refuses.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _check_nodes(node, where)
        content = None if node is None else loader.construct_document(node)
    except InputError:
        raise
    except RecursionError:
        raise InputError(_too_deep(where)) from None
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML ({' '.join(str(error).split())}).") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):  # of values: !!bool maybe
        raise InputError(f"{where} is not valid YAML (a value is not what its form or tag says).") from None
    _check(content, where)
    return content


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that is given twice: the first one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raises ConstructorError at the second of two equal keys."""
        seen: list[Any] = []
        for name, _ in node.value:
            if name.tag == "tag:yaml.org,2002:merge":
                continue  # << may come more than once, and what it brings is meant to be overridden
            if name.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{name.value}' is given twice", name.start_mark)
            seen.append(name.value)
        return super().construct_mapping(node, deep)


def _check_nodes(root: yaml.Node | None, where: str) -> None:
    """Raise InputError if the nodes, each counted as often as it is named, are too many or too deep."""
    pending, seen = [(root, 1)], 0
    while pending:
        node, depth = pending.pop()
        seen += 1
        if depth > MOST_DEPTH:
            raise InputError(_too_deep(where))
        if seen > _MOST_NODES:
            raise InputError(f"{where} has more than {_MOST_NODES:,} values, aliases included; give a shorter one.")
        if isinstance(node, yaml.SequenceNode):
            pending += [(each, depth + 1) for each in node.value]
        elif isinstance(node, yaml.MappingNode):
            pending += [(each, depth + 1) for pair in node.value for each in pair]


def _check(content: Any, where: str) -> None:
    """Raise InputError for content that is not plain: too deep, integers too large, text that is no Unicode."""
    pending: list[tuple[Any, int]] = [(content, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MOST_DEPTH:
            raise InputError(_too_deep(where))
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise InputError(f"{where} has the key '{key}', which is no word; write it in quotes.")
            pending += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            pending += [(each, depth + 1) for each in value]
        elif not isinstance(value, _PLAIN):
            raise InputError(f"{where} holds a {type(value).__name__}, '{value}'; write it in quotes.")
        elif isinstance(value, int) and abs(value) >= _LARGEST_INTEGER:
            raise InputError(_too_large(where))
        elif isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            raise InputError(f"{where} holds text that is no Unicode, '{value}'; write it again as UTF-8.")


def _too_deep(where: str) -> str:
    return f"{where} is nested more than {MOST_DEPTH} deep; nothing of slimtask's is, write it again."


def _too_large(where: str) -> str:
    return f"{where} holds an integer of more than 64 bits; give a smaller number."
