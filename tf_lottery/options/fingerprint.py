"""Settings as JSON: their fingerprint, and in what two of them differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any


def settings(config: Any) -> Any:
    """The JSON form of a (nested) settings dataclass, as it goes into a fingerprint.

    Fields that cannot change a result are left out, and so are later additions
    (``omit_default``) while they have their no-op default: old keys stay valid.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        result = {}
        for f in dataclasses.fields(config):
            value = getattr(config, f.name)
            if not f.metadata.get("fingerprint", True):
                continue
            if f.metadata.get("omit_default") and value == f.default:
                continue
            result[f.name] = settings(value)
        return result
    if isinstance(config, (tuple, list)):
        return [settings(value) for value in config]
    if isinstance(config, dict):
        return {str(key): settings(value) for key, value in config.items()}
    if isinstance(config, float) and config == int(config) and abs(config) < 2**53:
        return int(config)  # 1.0 and 1 are the same setting
    if config is None or isinstance(config, (str, int, float, bool)):
        return config
    raise TypeError(f"{type(config).__name__} is no setting")


def fingerprint(config: Any) -> str:
    """SHA-256 (hex, 64 digits) of the settings; equal settings, equal fingerprint."""
    text = json.dumps(settings(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_BRIEF = 40  # characters of a value among differences


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Lines ``path: 1 there, 2 now`` for two JSON setting trees; lists of what has names go by
    these."""
    ours, theirs = _by_name(ours), _by_name(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lines = []
        for key in sorted(set(ours) | set(theirs)):
            path = f"{prefix}.{key}" if prefix else key
            lines += differences(ours.get(key), theirs.get(key), path)
        return lines
    if ours != theirs:
        return [f"{prefix}: {_brief(theirs)} there, {_brief(ours)} now"]
    return []


def _by_name(value: Any) -> Any:
    named = isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)
    return {str(item["name"]): item for item in value} if named and value else value


def several(lines: Sequence[str], shown: int = 4) -> str:
    """The first of many lines, in one."""
    more = f"; and {len(lines) - shown} more" if len(lines) > shown else ""
    return "; ".join(lines[:shown]) + more


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 3]}..."
