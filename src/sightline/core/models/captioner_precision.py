"""A captioner's int8 graphs: made once, run where they write what the fp32 graphs write.

The verdict is reached in `evaluation.captions.gate`, which compares captions; here is what it has to reach, and which
graphs follow from it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sightline.core.models.encoder_precision import only_int8, refuse_fp32
from sightline.core.models.precision import int8_path, quantised_folder, read_verdict
from sightline.errors import ModelError
from sightline.kit import config
from sightline.kit.config import PrecisionChoice

_LOG = logging.getLogger(__name__)

VERDICT_NAME = "captioner"


@dataclass(frozen=True, kw_only=True)
class CaptionerGate:
    """What int8 captions must reach against fp32's greedy ones; either of the two is enough."""

    identical: float = 0.95
    """Share of the pictures whose caption is the same, word for word."""
    cider_ratio: float = 0.9
    """CIDEr of the int8 captions with fp32's as reference, as a part of that of fp32's against themselves."""
    min_images: int = 256
    """Fewer pictures say too little."""

    @property
    def required(self) -> dict[str, float]:
        """The thresholds by name, as a verdict records them."""
        return {name: float(value) for name, value in asdict(self).items()}


def choose_graphs(graphs: Mapping[str, Path], precision: PrecisionChoice | None = None) -> Mapping[str, Path]:
    """The graphs that run: those given, or their int8 twins where the gate has passed them.

    Never with `fp32`; `int8` insists. None is `config.precision()`. Raises ModelError where fp32 is asked of graphs
    that come in int8 only, such as the starter's, or int8 where the gate hasn't passed it.
    """
    wanted = precision or config.precision()
    if only_int8(graphs):
        refuse_fp32(graphs, wanted)
        return graphs
    if wanted == "fp32":
        return graphs
    verdict = read_verdict(quantised_folder(graphs), VERDICT_NAME, required=CaptionerGate().required)
    if verdict is not None and verdict.passed:
        return make_int8(graphs)
    if wanted == "int8":
        said = verdict.describe() if verdict else "it has not been asked yet"
        raise ModelError(
            f"The gate has not passed int8 of {graphs['decoder']}: {said}. Use the precision auto or fp32, or let it "
            "judge by your pictures: sightline.lab.evaluation.captions.gate.gate_captioner"
        )
    return graphs


def make_int8(graphs: Mapping[str, Path]) -> dict[str, Path]:
    """The int8 twins of fp32 graphs, from the cache, or made now and kept there. Raises ModelError where that fails."""
    folder = quantised_folder(graphs)
    made = {name: int8_path(folder, name) for name in graphs}
    missing = [name for name, path in made.items() if not path.is_file()]
    if missing:
        _LOG.warning("Making int8 graphs of %s; this is done once.", " and ".join(missing))
    for name in missing:
        made[name].parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made[name].parent) as partial:
            write_int8(graphs[name], Path(partial) / "graph.onnx")
            (Path(partial) / "graph.onnx").replace(made[name])
    return made


def write_int8(graph: Path, path: Path) -> None:
    """Write the int8 twin of a graph, in which no row of a batch changes another's result. Needs `onnx`."""
    import onnx

    from sightline.core.models.products import quantise_products
    from sightline.core.models.quantised_tower import usable_levels

    made, _ = quantise_products(onnx.load(graph), levels=usable_levels())
    onnx.save(made, path)
