"""PyTorch weights -> a model folder with ONNX graphs that the core runs. Needs the extra `torch`.

An encoder's graphs are its two towers. A captioner's are `pixel_values` float (B, 3, S, S) -> `encoder_hidden_states`
(B, M, C), run once an image, and the decoder, run once a token, whose shapes are those of `CachedDecoder`.

Two things make that decoder fast. What earlier tokens were in each layer (keys and values) comes in and goes out, so
that only new tokens are computed. And cross-attention has no keys and values at all: instead of projecting every cell
of an image's memory for every layer, the few queries are taken into the memory's own space, and what they pick up is
taken out of it (the products are only grouped otherwise; a key's bias adds the same to all cells, which softmax
ignores). For BLIP-base and 20 tokens that is a third of the arithmetic, and an image holds 2 MB instead of 42.

Shape suffixes: B images, R rows of each, L new tokens, P earlier ones, Q both, M cells of an image's memory, C its
width, E width of the decoder, K heads, F width of a head, V vocabulary, S side in pixels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from sightline.core.models.cards import ModelCard, write_card
from sightline.core.models.files import CARD_FILE, TOKENIZER_FILES, compute_hash, find_weights, hash_files
from sightline.core.models.lite import LiteCaptioner
from sightline.core.models.torch_models import load_torch_captioner, load_towers
from sightline.errors import ModelError
from sightline.kit.files import replacing

_OPSET = 18
BATCH = torch.export.Dim("batch", min=1)


def export_encoder(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/text.onnx` (fp32), card and tokenizer of an encoder; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. The card records the hash of the
    source's weights, so vectors of both runtimes are of one identity. Raises ModelError where the export fails.
    """
    towers = load_towers(card, folder_in)
    outputs = ("image_embeds", "feature_map") if towers.has_maps else ("image_embeds",)
    with complete_or_absent(folder_out) as partial:
        _export_image(_Part(towers.embed_images, towers=towers), card, partial / "onnx" / "image.onnx", outputs=outputs)
        _export_text(_Part(towers.embed_texts, towers=towers), card, partial / "onnx" / "text.onnx")
        return finish_folder(replace(card, temperature=towers.temperature), folder_in, partial)


def export_captioner(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/decoder.onnx` (fp32), card and tokenizer of a captioner; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. Raises ModelError where the weights
    can't be loaded or the export fails.
    """
    model = load_torch_captioner(card, folder_in)

    def see(pixels_B3SS: Tensor) -> Tensor:
        if isinstance(model, LiteCaptioner):
            normed_BMC: Tensor = model.memory_norm(model.encode_images(pixels_B3SS))
            return normed_BMC
        memory_BMC: Tensor = model.vision_model(pixel_values=pixels_B3SS)[0]
        return memory_BMC

    with complete_or_absent(folder_out) as partial:
        image, outputs = _Part(see, model=model), ("encoder_hidden_states",)
        example_B3SS = _export_image(image, card, partial / "onnx" / "image.onnx", outputs=outputs)
        with torch.inference_mode():
            memory_BMC = image(example_B3SS)
        decoder = CachedDecoder(model).eval()
        _export_decoder(decoder, card, partial / "onnx" / "decoder.onnx", memory_BMC=memory_BMC)
        return finish_folder(card, folder_in, partial)


class _Part(nn.Module):
    """A function of a model's as a module of its own, which is what the exporter takes.

    The name under which it gets the model begins the names of the weights in the graph.
    """

    def __init__(self, function: Callable[[Tensor], Any], **model: nn.Module) -> None:
        super().__init__()
        for name, module in model.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _export_image(module: _Part, card: ModelCard, path: Path, *, outputs: Sequence[str]) -> Tensor:
    """Export the image side and give the example that it was traced with."""
    example_B3SS = torch.zeros(2, 3, card.preprocessing.size_px, card.preprocessing.size_px)
    export_graph(module, (example_B3SS,), path, names=(("pixel_values",), outputs), dynamic=({0: BATCH},))
    return example_B3SS


def _export_text(module: _Part, card: ModelCard, path: Path) -> None:
    length = card.text.context_length
    dynamic: dict[int, Any] = {0: BATCH}
    if card.text.padding == "longest":
        dynamic[1] = torch.export.Dim("length", min=2, max=length)
        length = min(length, 7)  # traced at another length than the longest, which would be taken for a constant
    example_TL = torch.full((2, length), card.text.pad_id, dtype=torch.int64)
    export_graph(module, (example_TL,), path, names=(("input_ids",), ("text_embeds",)), dynamic=(dynamic,))


def _export_decoder(module: CachedDecoder, card: ModelCard, path: Path, *, memory_BMC: Tensor) -> None:
    images, rows, earlier, new = len(memory_BMC), 3, 4, 5  # all different, so that none is taken for another
    ids_BRL = torch.full((images, rows, new), card.text.pad_id, dtype=torch.int64)
    past = module.empty_past(images, rows, earlier)
    states = [f"{kind}_{layer}" for layer in range(len(past) // 2) for kind in ("key", "value")]
    names = (
        ("input_ids", "encoder_hidden_states", *(f"past_{state}" for state in states)),
        ("logits", *(f"present_{state}" for state in states)),
    )
    row = torch.export.Dim("rows", min=1)
    length = torch.export.Dim("length", min=1, max=card.text.context_length)
    past_length = torch.export.Dim("past", min=0, max=card.text.context_length)
    past_dynamic = tuple({0: BATCH, 1: row, 3: past_length} for _ in past)
    dynamic: Any = ({0: BATCH, 1: row, 2: length}, {0: BATCH}, past_dynamic)
    export_graph(module, (ids_BRL, memory_BMC.clone(), *past), path, names=names, dynamic=dynamic)


def export_graph(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    path: Path,
    *,
    names: tuple[Sequence[str], Sequence[str]],
    dynamic: tuple[dict[int, Any], ...],
) -> None:
    """Write one ONNX graph; `names` are those of inputs and of outputs, `dynamic` the free dimensions of each input.

    Raises ModelError where the export fails.
    """
    inputs, outputs = names
    try:
        with _quiet():
            torch.onnx.export(
                module.eval(),
                examples,
                str(path),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic,
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in classes of its own
        raise ModelError(
            f"The ONNX export of {path.stem} failed: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "In Python, load_encoder and load_captioner with runtime='torch' run the weights themselves."
        ) from error


@contextlib.contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        (partial / "onnx").mkdir(parents=True)
        yield partial
        if folder.exists() and any(folder.iterdir()) and not (folder / CARD_FILE).is_file():
            raise ModelError(f"{folder} is not empty and holds no model; give an empty or a new folder.")


def finish_folder(card: ModelCard, folder_in: Path, partial: Path) -> ModelCard:
    """Add tokenizer and card to a folder with graphs; the card, with the hashes of the graphs and of the weights."""
    for name in TOKENIZER_FILES:
        if (folder_in / name).is_file():
            shutil.copyfile(folder_in / name, partial / name)
    files = {f"onnx/{path.name}": compute_hash(path) for path in sorted((partial / "onnx").iterdir())}
    weights_hash = card.weights_hash or hash_files(find_weights(folder_in))
    finished = replace(card, weights_hash=weights_hash, onnx=None, files=files)
    write_card(partial, finished)
    return finished


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks about its own passes on stdout, in warnings and in logs; none of it is the user's business."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


class CachedDecoder(nn.Module):
    """Tokens, memory and what is kept of earlier tokens -> logits, and what is to be kept of all.

    Ids (B, R, L), memory (B, M, C), and of each layer keys and values (B, R, K, P, F) -> logits (B, R, L, V), then the
    layers' keys and values (B, R, K, Q, F).
    """

    def __init__(self, model: Any) -> None:
        """Take the weights of a `LiteCaptioner` or of transformers' `BlipForConditionalGeneration`."""
        super().__init__()
        self.parts = _OwnParts(model) if isinstance(model, LiteCaptioner) else _BlipParts(model.text_decoder)
        self.layers = nn.ModuleList(self.parts.layers())

    def forward(self, ids_BRL: Tensor, memory_BMC: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """`past` holds the key and the value of the first layer, then those of the second, ..."""
        earlier, new = past[0].shape[3], ids_BRL.shape[2]
        places_L = torch.arange(new) + earlier
        sees_LQ = torch.arange(earlier + new) <= places_L[:, None]
        mask_LQ = torch.where(sees_LQ, 0.0, -torch.inf)
        x_BRLE = self.parts.embed(ids_BRL, places_L)
        present: list[Tensor] = []
        for layer, key, value in zip(self.layers, past[::2], past[1::2], strict=True):
            x_BRLE, *states = layer(x_BRLE, memory_BMC, key, value, mask_LQ)
            present += states
        return self.parts.logits(x_BRLE), *present

    def empty_past(self, images: int, rows: int, earlier: int) -> list[Tensor]:
        """Zeros in the shapes of `past`."""
        sizes = [(layer.heads, layer.head_width) for layer in self.parts.layers() for _ in ("key", "value")]
        return [torch.zeros(images, rows, heads, earlier, width) for heads, width in sizes]


class _Layer(nn.Module):
    """Self-attention, cross-attention, MLP; the norm before each (our own) or after each (BLIP)."""

    def __init__(
        self, *, heads: int, joint: nn.Linear, out: nn.Linear, cross: _CrossAttention, mlp: nn.Module, norms: _Norms
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = joint.in_features // heads
        self.joint = joint
        self.out = out
        self.cross = cross
        self.mlp = mlp
        self.norms = norms

    def forward(
        self, x_BRLE: Tensor, memory_BMC: Tensor, past_key: Tensor, past_value: Tensor, mask_LQ: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> (B, R, L, E), keys and values (B, R, K, Q, F)."""
        query, key, value = (self._split(part) for part in self.joint(self.norms.before(0, x_BRLE)).chunk(3, dim=-1))
        key, value = torch.cat([past_key, key], dim=3), torch.cat([past_value, value], dim=3)
        weights = torch.softmax((query * self.head_width**-0.5) @ key.transpose(-1, -2) + mask_LQ, dim=-1)
        mixed_BRLE = (weights @ value).transpose(2, 3).flatten(3)
        x_BRLE = self.norms.after(0, x_BRLE + self.out(mixed_BRLE))
        x_BRLE = self.norms.after(1, x_BRLE + self.cross(self.norms.before(1, x_BRLE), memory_BMC))
        return self.norms.after(2, x_BRLE + self.mlp(self.norms.before(2, x_BRLE))), key, value

    def _split(self, x_BRLE: Tensor) -> Tensor:
        """(B, R, L, E) -> (B, R, K, L, F)."""
        return x_BRLE.reshape(*x_BRLE.shape[:3], self.heads, self.head_width).transpose(2, 3)


class _CrossAttention(nn.Module):
    """Multi-head attention over cells, without a key or a value for any of them."""

    def __init__(self, *, heads: int, query: nn.Linear, key: nn.Linear, value: nn.Linear, out: nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.query = query
        self.out = out
        scale = (query.out_features // heads) ** -0.5
        self.into_KFC = nn.Parameter(scale * key.weight.detach().reshape(heads, -1, key.in_features))
        self.out_of_KCF = nn.Parameter(
            value.weight.detach().reshape(heads, -1, value.in_features).transpose(1, 2).contiguous()
        )
        self.value_bias_E = value.bias

    def forward(self, x_BRLE: Tensor, memory_BMC: Tensor) -> Tensor:
        """(B, R, L, E) over (B, M, C) -> (B, R, L, E)."""
        images, rows, new, width = x_BRLE.shape
        query_KnF = self.query(x_BRLE).reshape(-1, self.heads, width // self.heads).transpose(0, 1)
        asked_KnC = query_KnF @ self.into_KFC
        asked_BnC = asked_KnC.reshape(self.heads, images, rows * new, -1).transpose(0, 1).flatten(1, 2)
        found_BnC = torch.softmax(asked_BnC @ memory_BMC.transpose(1, 2), dim=-1) @ memory_BMC
        found_KnC = found_BnC.reshape(images, self.heads, rows * new, -1).transpose(0, 1).flatten(1, 2)
        mixed_nE = (found_KnC @ self.out_of_KCF).transpose(0, 1).flatten(1) + self.value_bias_E
        mixed: Tensor = self.out(mixed_nE.reshape(images, rows, new, width))
        return mixed


class _Norms(nn.Module):
    """Three layer norms, all before or all after what they belong to."""

    def __init__(self, norms: list[Any], *, first: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.first = first

    def before(self, index: int, x: Tensor) -> Tensor:
        return self.norms[index](x) if self.first else x

    def after(self, index: int, x: Tensor) -> Tensor:
        return x if self.first else self.norms[index](x)


class _BlipParts(nn.Module):
    """The text decoder of a `BlipForConditionalGeneration`: embedding, layers, logits."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        table = self.decoder.bert.embeddings
        x_BRLE = table.word_embeddings(ids_BRL) + table.position_embeddings(places_L)
        normed_BRLE: Tensor = table.LayerNorm(x_BRLE)
        return normed_BRLE

    def layers(self) -> list[_Layer]:
        return [self._layer(layer) for layer in self.decoder.bert.encoder.layer]

    def _layer(self, layer: Any) -> _Layer:
        own, other = layer.attention, layer.crossattention
        cross = _CrossAttention(
            heads=other.self.num_attention_heads,
            query=other.self.query,
            key=other.self.key,
            value=other.self.value,
            out=other.output.dense,
        )
        return _Layer(
            heads=own.self.num_attention_heads,
            joint=_joined(own.self.query, own.self.key, own.self.value),
            out=own.output.dense,
            cross=cross,
            mlp=nn.Sequential(layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense),
            norms=_Norms([own.output.LayerNorm, other.output.LayerNorm, layer.output.LayerNorm], first=False),
        )

    def logits(self, x_BRLE: Tensor) -> Tensor:
        logits_BRLV: Tensor = self.decoder.cls(x_BRLE)
        return logits_BRLV


class _OwnParts(nn.Module):
    """Embedding, layers and logits of a `LiteCaptioner`."""

    def __init__(self, model: LiteCaptioner) -> None:
        super().__init__()
        self.model = model

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        return embedding(ids_BRL, self.model.tokens.weight) + embedding(places_L, self.model.positions)

    def layers(self) -> list[_Layer]:
        return [self._layer(layer) for layer in self.model.layers]

    def _layer(self, layer: Any) -> _Layer:
        own, other = layer.self_attention, layer.cross_attention
        key, value = _halves(other.key_value)
        cross = _CrossAttention(heads=other.heads, query=other.query, key=key, value=value, out=other.out)
        return _Layer(
            heads=own.heads,
            joint=_joined(own.query, own.key_value),
            out=own.out,
            cross=cross,
            mlp=layer.mlp,
            norms=_Norms([layer.self_norm, layer.cross_norm, layer.mlp_norm], first=True),
        )

    def logits(self, x_BRLE: Tensor) -> Tensor:
        return linear(self.model.norm(x_BRLE), self.model.tokens.weight)


def _joined(*linears: nn.Linear) -> nn.Linear:
    """Several maps of the same vector as one."""
    weight = torch.cat([one.weight.detach() for one in linears])
    return _linear(weight, torch.cat([one.bias.detach() for one in linears]))


def _halves(both: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """The inverse of `_joined`, of two of the same size."""
    first, second = zip(both.weight.detach().chunk(2), both.bias.detach().chunk(2), strict=True)
    return _linear(*first), _linear(*second)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
    return made
