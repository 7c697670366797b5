"""Join the files of a folder into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastssm.data.tables.raw import Raw, Texts, require_memory


def concatenate(parts: list[Raw], paths: Sequence[Path], label: str) -> Raw:
    """Return the rows of all files, in their order.

    Args:
        parts: the files; the list is emptied.
        paths: their paths.
        label: what to call them together in messages.

    Raises:
        ValueError: if their columns or their decimal signs differ.
    """
    first = parts[0]
    orders = [column_order(first, part, path) for part, path in zip(parts, paths, strict=True)]
    signs = {part.decimal for part in parts if part.certain} or {first.decimal}
    if len(signs) > 1:
        raise ValueError(f"{label}: some files have decimal commas and others decimal points; read them one by one")
    rows = sum(len(part.values) for part in parts)
    require_memory(label, rows, len(first.names))
    values = np.empty((rows, len(first.names)))
    whole = Raw(
        label, values, first.names, first.named, {}, signs.pop(), first.certain, first.indices, image=first.image
    )
    whole.certain = any(part.certain for part in parts)
    found: dict[int, list[tuple[int, Texts]]] = {}
    start, starts = 0, []
    for part, order, path in zip(parts, orders, paths, strict=True):
        values[start : start + len(part.values)] = part.values[:, order]
        for target, position in enumerate(order):
            if position in part.texts:
                found.setdefault(target, []).append((start, part.texts[position]))
        starts.append((start, path.name))
        start += len(part.values)
        whole.faults.extend(f"{path.name}: {fault}" for fault in part.faults)
        whole.notes.extend(note for note in part.notes if note not in whole.notes)
        part.values = part.values[:0]
    parts.clear()
    whole.texts = {column: _joined(pieces) for column, pieces in found.items()}
    whole.parts = tuple(starts)
    return whole


def column_order(first: Raw, part: Raw, path: Path) -> list[int]:
    """Return the position in `part` of each column of `first`.

    Raises:
        ValueError: if their columns differ.
    """
    if part.names == first.names:
        return list(range(len(part.names)))
    if part.named and first.named and sorted(part.names) == sorted(first.names):
        return [part.names.index(name) for name in first.names]
    absent = sorted(set(first.names) - set(part.names)) or sorted(set(part.names) - set(first.names))
    raise ValueError(
        f"{path}: every file of a folder must have the same columns, but {', '.join(map(repr, absent[:5]))} "
        "is not in all of them; correct it or read the files one by one"
    )


def _joined(pieces: Sequence[tuple[int, Texts]]) -> Texts:
    known: dict[str, int] = {}
    rows, codes = [], []
    for start, texts in pieces:
        new = np.array([known.setdefault(value, len(known)) for value in texts.values], np.int32)
        rows.append(texts.rows + start)
        codes.append(new[texts.codes])
    return Texts(np.concatenate(rows), np.concatenate(codes), tuple(known))
