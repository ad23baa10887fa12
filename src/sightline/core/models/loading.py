"""The door to models: a name or a card -> an encoder or a captioner that is ready to run on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sightline.core.models.cards import (
    ENDPOINT_PREFIX,
    STARTER,
    STARTER_CAPTIONER,
    ModelCard,
    ModelKind,
    article_of,
    find_card,
    read_card,
)
from sightline.core.models.files import (
    CARD_FILE,
    TORCH_ADVICE,
    Runtime,
    best_choice,
    exports_dir,
    find_graphs,
    find_local_folder,
    find_weights,
    is_available,
    only_int8,
    resolve_folder,
    torch_installed,
    verify_files,
    weights_hash,
)
from sightline.errors import ModelError
from sightline.kit import config

if TYPE_CHECKING:
    from sightline.core.models.base import Captioner, Encoder, Matcher
    from sightline.kit.config import PrecisionChoice
    from sightline.kit.work import Notice

DEFAULT_MODEL = "ViT-B-32/openai"
DEFAULT_MATCHER = "blip-itm-base"
_MATCHERS = (
    f"{STARTER_CAPTIONER}, which ships with Sightline, blip-base or {DEFAULT_MATCHER} (sightline models pull NAME)"
)
_NEEDS = {
    "encoder": f"searching needs an encoder, such as {STARTER!r}",
    "captioner": f"captions are written by a captioner, such as {STARTER_CAPTIONER!r} or 'blip-base'",
}
_PROBE_TIMEOUT_S = 2.0
_LOG = logging.getLogger(__name__)


def load_encoder(
    model: str | ModelCard,
    *,
    runtime: Runtime = "auto",
    download: bool = False,
    precision: PrecisionChoice | None = None,
) -> Encoder:
    """An encoder of a model name (`starter`, `ViT-B-32/openai`, `hf:org/name`, `dir:path`) or card.

    `auto` runs ONNX graphs where there are some, else exports the PyTorch weights once and runs that; `onnx` and
    `torch` insist. `precision` (default: `config.precision()`) says whether graphs run in int8; `auto` does where a
    gate has passed them on this user's images. Files are fetched only if `download` is given. Raises ModelError where
    the model is unknown, not on this machine, damaged, needs the extra `torch`, or lacks the precision.
    """
    return cast("Encoder", _load("encoder", model, runtime=runtime, download=download, precision=precision))


def load_captioner(
    model: str | ModelCard = STARTER_CAPTIONER,
    *,
    runtime: Runtime = "auto",
    download: bool = False,
    precision: PrecisionChoice | None = None,
) -> Captioner:
    """A captioner of a model name (`starter-captioner`, `blip-base`, `hf:org/name`, `dir:path`) or card.

    `auto` and `onnx` run ONNX graphs, made once from the PyTorch weights where there are none; `torch` runs the weights
    themselves. `precision` (default: `config.precision()`) says whether graphs run in int8; `auto` does where their
    gate has passed them. Files are fetched only if `download` is given. Raises ModelError where the model is unknown,
    not on this machine, damaged, needs the extra `torch`, or lacks the precision.
    """
    return cast("Captioner", _load("captioner", model, runtime=runtime, download=download, precision=precision))


def _load(
    kind: ModelKind, model: str | ModelCard, *, runtime: Runtime, download: bool, precision: PrecisionChoice | None
) -> Encoder | Captioner:
    is_encoder = kind == "encoder"
    if isinstance(model, str) and model.startswith(ENDPOINT_PREFIX):
        from sightline.core.models.remote import load_remote_captioner, load_remote_encoder

        return load_remote_encoder(model) if is_encoder else load_remote_captioner(model)
    card = find_card(model) if isinstance(model, str) else model
    if card.kind != kind:
        raise ModelError(f"{card.name} is {article_of(card.kind)} {card.kind}; {_NEEDS[kind]}.")
    folder = resolve_folder(card, download=download, runtime=runtime)
    if runtime == "torch":
        require_torch(card, folder)
        from sightline.core.models.torch_models import TorchCaptioner, TorchEncoder

        if is_encoder:
            return TorchEncoder.load(card, folder, weights_hash=weights_hash(card, folder))
        return TorchCaptioner(card, folder)
    card, folder, graphs = fp32_graphs(card, folder)
    identity_hash = weights_hash(card, folder) if is_encoder else ""
    if not _run_as_they_are(graphs, precision):
        from sightline.core.models.precision import choose_captioner_graphs, choose_encoder_graphs

        graphs = (choose_encoder_graphs if is_encoder else choose_captioner_graphs)(graphs, precision)
    from sightline.core.models.onnx_runtime import OnnxCaptioner, OnnxEncoder

    if is_encoder:
        return OnnxEncoder(card, folder, weights_hash=identity_hash, graphs=graphs)
    return OnnxCaptioner(card, folder, graphs=graphs)


def load_matcher(model: str | ModelCard | None = None) -> Matcher:
    """What reads an image and words together: the matcher or captioner of a name or card.

    Without a name it is BLIP's matching head where that can run now, else the captioner that is used by default.
    Raises ModelError where the model is unknown, not on this machine, damaged, needs the extra `torch`, or computes
    elsewhere.
    """
    default = DEFAULT_MATCHER if is_available(find_card(DEFAULT_MATCHER)) else default_captioner()
    name = default if model is None else model
    if isinstance(name, str) and name.startswith(ENDPOINT_PREFIX):
        raise ModelError(f"{name} computes elsewhere, and a second look needs a model on this machine: {_MATCHERS}.")
    card = find_card(name) if isinstance(name, str) else name
    if card.kind == "encoder":
        raise ModelError(
            f"{card.name} is an encoder, which reads image and words apart. A second look takes {_MATCHERS}."
        )
    folder = resolve_folder(card, runtime="torch" if card.kind == "matcher" else "auto")
    if card.kind == "captioner":
        return cast("Matcher", load_captioner(card))  # all but those behind an endpoint are one
    require_torch(card, folder)
    from sightline.core.models.torch_models import TorchMatcher

    return TorchMatcher(card, folder)


def default_captioner(*, own_candidates: bool = False) -> str:
    """The captioner that is used where none is named: `blip-base` where it can run now, else the starter's.

    None writes (`none`) beside the user's `own_candidates`: who gives these asks for one of them.
    """
    if own_candidates:
        return "none"
    return "blip-base" if is_available(find_card("blip-base")) else STARTER_CAPTIONER


def _run_as_they_are(graphs: Mapping[str, Path], precision: PrecisionChoice | None) -> bool:
    """True where there is no precision to choose. Raises ModelError where fp32 is asked of what comes in int8 only."""
    wanted = precision or config.precision()
    if wanted == "fp32" and only_int8(graphs):
        folder = next(iter(graphs.values())).parent
        raise ModelError(
            f"The precision fp32 was asked for, but {folder} holds int8 graphs only. Use the precision auto or int8 "
            "(--precision, SIGHTLINE_PRECISION), or a model with weights in fp32: sightline models list"
        )
    return wanted == "fp32" or only_int8(graphs)


def fp32_graphs(card: ModelCard, folder: Path) -> tuple[ModelCard, Path, dict[str, Path]]:
    """The graphs of a folder, with card and folder: its own, or exported of its weights now, once; int8 of the starter.

    Raises ModelError where they have to be exported and can't be.
    """
    graphs = find_graphs(folder, card)
    if graphs is None:
        made, folder = cached_export(card, folder)
        card = replace(card, temperature=made.temperature, weights_hash=made.weights_hash)
        graphs = find_graphs(folder, card)
    if graphs is None:
        raise ModelError(
            f"{folder} lacks the graphs of {article_of(card.kind)} {card.kind}; delete that folder, and they "
            "are exported again."
        )
    return card, folder, graphs


def cached_export(card: ModelCard, folder: Path) -> tuple[ModelCard, Path]:
    """The card and folder of the export of a folder's weights, made now where it is missing.

    Raises ModelError where it has to be made and can't be, or where it is damaged.
    """
    target = exports_dir(folder)
    if not (target / CARD_FILE).is_file():
        require_torch(card, folder)
        _LOG.warning("Exporting %s to ONNX; this is done once and takes a minute or so.", card.name)
        from sightline.core.models import export

        write = export.export_encoder if card.kind == "encoder" else export.export_captioner
        write(card, folder, target)
    made = read_card(target)
    verify_files(target, made.files)
    return made, target


def require_torch(card: ModelCard, folder: Path) -> None:
    """Raise ModelError unless a folder's weights can be run by PyTorch here."""
    if not find_weights(folder):
        raise ModelError(f"{folder} holds no PyTorch weights of {card.name}; use the runtime `onnx`.")
    if not torch_installed():
        raise ModelError(f"{card.name} has PyTorch weights only, and PyTorch is not installed; {TORCH_ADVICE}.")


def default_model_name(*, confirm: Callable[[str], bool] | None) -> tuple[str, str | None]:
    """The model of a new library, and one line to tell the user where it isn't the one we would choose.

    `ViT-B-32/openai` if it can run now without network; else, where `confirm` is given (at a terminal) and the hub
    answers, the user is asked once, with the size, and the model is fetched on yes; else `starter`.
    """
    card = find_card(DEFAULT_MODEL)
    if is_available(card) or (confirm is not None and _fetch_if_confirmed(card, confirm)):
        return DEFAULT_MODEL, None
    advice = f"for much better results run: sightline models pull {DEFAULT_MODEL}"
    return STARTER, f"Using the small model `starter`; {advice}"


def _fetch_if_confirmed(card: ModelCard, confirm: Callable[[str], bool]) -> bool:
    from sightline.core.models import hub

    choice = best_choice(card)
    if not hub.hub_answers(choice.repo, timeout_s=_PROBE_TIMEOUT_S):
        return False
    size_bytes = card.size_bytes or choice.count_bytes()
    if not confirm(f"Download {card.name} ({size_bytes / 1e6:.0f} MB) from the Hugging Face hub?"):
        return False
    resolve_folder(card, download=True)
    return True


def pull(name: str, *, progress: Notice) -> Path:
    """Fetch what a model name needs to run here, and give the folder; a no-op where it can run already.

    `progress` gets one line before anything large is fetched: which files, for which runtime, how many megabytes.
    Raises ModelError where the model is unknown, the hub can't be reached, or PyTorch is needed and missing.
    """
    card = find_card(name)
    folder = find_local_folder(card)
    if folder is not None and is_available(card):
        progress(f"{card.name} is on this machine already: {folder}")
        return folder
    choice = best_choice(card)
    progress(f"{card.name}: {choice.described}; fetching {choice.count_bytes() / 1e6:.0f} MB from {choice.repo}")
    return resolve_folder(card, download=True)
