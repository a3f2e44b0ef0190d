"""GTE v1.5 as published, put to transformers' own implementation of it.

The published folders (Alibaba-NLP/gte-large-en-v1.5 and its kin) call themselves "new" and ask for
code from their hub. transformers has the architecture as ``gte`` and renames such weights when it
loads them; what it lacks is their configuration.

Source: mGTE (arXiv 2407.19669) and the code that the models were published with.
"""

from collections.abc import Mapping
from typing import Any

from transformers import GteConfig

_SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)
# of each field that changes the equations: the value that transformers' implementation has
_FIXED = {
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "pack_qkv": True,
}


class UnknownGte(ValueError):
    """A variant of the architecture that transformers does not compute; names the field."""


def is_published_gte(published: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of the published form, and not yet transformers' own."""
    code = str((published.get("auto_map") or {}).get("AutoConfig", ""))
    return published.get("model_type") == "new" and code.endswith("configuration.NewConfig")


def native_gte(published: Mapping[str, Any]) -> GteConfig:
    """transformers' configuration of a published one. Raises UnknownGte."""
    for name, value in _FIXED.items():
        if published.get(name, value) != value:
            raise UnknownGte(f"{name} is {published[name]!r}, only {value!r} is known of GTE")
    fields = {name: published[name] for name in _SAME if name in published}
    return GteConfig(**fields, rope_parameters=_rope(published))


def _rope(published: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary frequencies. NTK scaling by s multiplies their base by s and divides all of them by
    ``s ** (2 / head size)``, which is a linear scaling over another base."""
    base, scaling = float(published["rope_theta"]), published.get("rope_scaling")
    if scaling is None:
        return {"rope_type": "default", "rope_theta": base}
    if scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None:
        raise UnknownGte(f"rope_scaling is {scaling!r}, only 'ntk' without mixed_b is known of GTE")
    factor = float(scaling["factor"])
    head_size = published["hidden_size"] // published["num_attention_heads"]
    return {
        "rope_type": "linear",
        "rope_theta": base * factor,
        "factor": factor ** (2 / head_size),
    }
