"""The generators of a server: at most one that reads documents and one that reads descriptions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from adapters_store import AdapterKind
from generator.chunks import Chunker
from generator.config import DocGeneratorConfig, GeneratorConfig, read_config
from generator.description import DescriptionReader
from generator.process import GeneratorProcess, GeneratorUnusable
from server.engine_config import RANKS
from server.listening import CannotServe

log = logging.getLogger(__name__)

Splitter = Chunker | DescriptionReader


@dataclass(frozen=True, slots=True)
class ServedGenerator:
    """A generator in its own process, and what turns text into the chunks that it takes.

    name: "name@first 12 of its fingerprint", as the rows of its adapters carry it
    """

    name: str
    splitter: Splitter
    process: GeneratorProcess

    async def start(self) -> None:
        """Start the process and wait until it has loaded. Raises CannotServe."""
        try:
            await self.process.start()
        except GeneratorUnusable as error:
            raise CannotServe(f"the generator {self.name} does not start: {error}") from error


SYSTEMS = {AdapterKind.DOCUMENT: "Doc-to-LoRA", AdapterKind.TEXT: "Text-to-LoRA"}
# by the kind of adapters that they make
Generators = Mapping[AdapterKind, ServedGenerator]


def read_configs(folders: Sequence[Path], model: str | None) -> tuple[GeneratorConfig, ...]:
    """What is in the folders of one server's generators, in their order.

    `model` is the base model they are served with, None for their own. Raises InvalidGenerator, and
    CannotServe for generators that do not go together or make too large adapters.
    """
    configs = tuple(map(read_config, folders))
    for config in configs:
        _check_rank(config)
    for (one, first), (other, second) in combinations(zip(folders, configs, strict=True), 2):
        if fault := _disagreement(first, second, model):
            raise CannotServe(f"the generators in {one} and {other} {fault}")
    return configs


def kind_of(config: GeneratorConfig) -> AdapterKind:
    """What its adapters are made from."""
    return AdapterKind.DOCUMENT if isinstance(config, DocGeneratorConfig) else AdapterKind.TEXT


def name_of(config: GeneratorConfig) -> str:
    return f"{config.name}@{config.fingerprint[:12]}"


def splitter_of(folder: Path, config: GeneratorConfig) -> Splitter:
    """Ready for texts: its first call, which is slow, has been made. Raises InvalidGenerator."""
    reads = Chunker if isinstance(config, DocGeneratorConfig) else DescriptionReader
    splitter = reads.from_folder(folder)
    splitter.split("The first call is slow.")
    return splitter


def target_modules(configs: Sequence[GeneratorConfig]) -> tuple[str, ...]:
    """The layers that any of the generators changes."""
    return tuple(sorted({module for config in configs for module in config.hypernetwork.modules}))


def chat_template(configs: Sequence[GeneratorConfig]) -> str | None:
    """That of the first generator that has one; None for the base model's own. Warns of generators
    that were made with another."""
    chosen = next((config for config in configs if config.chat_template is not None), None)
    if chosen is None:
        return None
    for config in configs:
        if config.chat_template != chosen.chat_template:
            other = "its own" if config.chat_template is not None else "the base model's own"
            log.warning(
                "chats are rendered with the template of the generator %s; adapters of %s, which "
                "was made with %s, may answer less well",
                *(chosen.name, config.name, other),
            )
    return chosen.chat_template


def _check_rank(config: GeneratorConfig) -> None:
    if config.max_rank <= RANKS[-1]:
        return
    if isinstance(config, DocGeneratorConfig):
        makes = f"up to rank {config.max_rank} ({config.max_chunks} chunks)"
        remedy = ": lower its max_chunks"
    else:
        makes, remedy = f"of rank {config.max_rank}", ""
    raise CannotServe(
        f"the generator {config.name} makes adapters {makes}; vLLM takes up to {RANKS[-1]}{remedy}"
    )


def _disagreement(first: GeneratorConfig, second: GeneratorConfig, model: str | None) -> str | None:
    """Why one server cannot run both."""
    if first.kind == second.kind:
        return f"are both {first.kind}: a server runs one of each kind"
    if model is None and first.base_path != second.base_path:
        return (
            f"are for different base models, {first.base_path} and {second.base_path}; if that is "
            "one model in two places, --model says where to load it from"
        )
    one, other = first.hypernetwork, second.hypernetwork
    if one.layers != other.layers:
        return f"are for base models of {one.layers} and {other.layers} layers"
    for module in one.modules.keys() & other.modules.keys():
        if tuple(one.modules[module]) != tuple(other.modules[module]):
            return (
                f"are for base models whose {module} has widths {tuple(one.modules[module])} and "
                f"{tuple(other.modules[module])}"
            )
    return None
