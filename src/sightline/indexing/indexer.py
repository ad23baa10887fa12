"""The door to indexing: `index`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.indexing.lost import forget_lost
from sightline.indexing.pipeline import Pipeline
from sightline.indexing.plan import Planner
from sightline.indexing.progress import ProgressMeter
from sightline.indexing.report import IndexConfig, IndexReport, Progress

if TYPE_CHECKING:
    from sightline.models.base import Encoder
    from sightline.store.base import Store


def index(
    store: Store,
    encoder: Encoder,
    folders: Sequence[Path],
    *,
    config: IndexConfig | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> IndexReport:
    """Bring a store up to date with folders for one model, reading only what is new or changed.

    Rows whose files are gone are deleted once every folder has been walked and every renamed file has found its row
    (see `lost`). Files that can't be read are named in the report and never end the run; a row from better days stays.
    Known images outside `folders` that lack this model's vector are embedded too. Ctrl-C ends the run early with what
    was done kept (`IndexReport.interrupted`). So does whatever `on_progress` raises, which is raised again here: it is
    called about ten times a second.

    Raises InputError for a folder that is not there and of which the store knows nothing, StoreError where the store
    can't be written or holds vectors of another identity under the model's name, ModelError from the encoder. Where
    the model is one that ships with the package, and so changes with it, the former's vectors are set aside instead.
    """
    started = time.monotonic()
    config = config or IndexConfig()
    report = IndexReport()
    planner = Planner(store, config=config, report=report)
    plan = planner.plan
    meter = ProgressMeter(plan, report, on_progress)
    try:
        scopes = planner.scopes(folders)
        _make_room(store, encoder, report)
        planner.walk(scopes, model=encoder.identity.name, on_seen=meter.tick)
        report.stage_seconds["walk"] = time.monotonic() - started
        meter.total = len(plan.tasks)
        Pipeline(store, encoder, plan=plan, config=config, report=report).run(meter)
        if not report.interrupted:
            forget_lost(store, plan, report, prune=config.remove_missing == "always")
            meter.tick(force=True)
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        plan.tasks.close()
        plan.later.close()
    report.seconds = time.monotonic() - started
    return report


def _make_room(store: Store, encoder: Encoder, report: IndexReport) -> None:
    identity = encoder.identity
    former = store.models().get(identity.name)
    if former is not None and former != identity and encoder.card.source == "package":
        aside = store.set_model_aside(identity.name)
        report.warnings.append(
            f"The library held vectors of an older {identity.name}. They are kept as {aside}, and the pictures are "
            f"embedded anew; `sightline remove --model {aside}` drops the old ones."
        )
    store.add_model(identity)
