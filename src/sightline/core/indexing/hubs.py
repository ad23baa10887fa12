"""The hubness of a library's images, measured with the model's bank: for those that have none yet.

Images get theirs when they are embedded. A library that is older than its model's bank gains the numbers from the
vectors that it has, with the next indexing run or beside the first search; no image is read again. They are written
at once when all are there, since hubs are corrected for all images or for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sightline.core.models.bank import load_bank

if TYPE_CHECKING:
    from sightline.core.models.bank import Bank
    from sightline.core.models.base import Encoder
    from sightline.core.store.base import Store
    from sightline.core.store.sqlite import SqliteStore

_ROWS_AT_ONCE = 4096


def fill_hubness(store: Store, model: str, bank: Bank) -> int:
    """Measure all images that have no number by this bank; how many those are. Raises StoreError."""
    missing = store.missing_hubness(model, bank.id).tolist()
    values: dict[int, float] = {}
    for start in range(0, len(missing), _ROWS_AT_ONCE):
        ids_N, vectors_ND = store.vectors(model, missing[start : start + _ROWS_AT_ONCE])
        values.update(zip(ids_N.tolist(), bank.measure(vectors_ND).tolist(), strict=True))
    if missing:
        store.put_hubness(model, bank.id, values)
    return len(missing)


def fill_aside(store: SqliteStore, encoder: Encoder) -> None:
    """Start `fill_hubness` in the background where numbers are missing; closing the library waits for it.

    Raises ModelError as `load_bank` does.
    """
    bank, model = load_bank(encoder), encoder.card.name
    if bank is not None and not store.read_only and not store.knows_hubness(model, bank.id):
        store.run_aside(f"hubness of {model}", lambda: fill_hubness(store, model, bank))
