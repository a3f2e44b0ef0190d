"""The examiners of generator folders, and the suites that document generators are put through."""

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from generator.chunks import Chunker
from generator.description import DescriptionReader, TextGenerator
from generator.document import DocumentGenerator
from generator.evaluation import suites
from generator.evaluation.examiner import Examiner
from generator.evaluation.greedy import GreedyMatcher
from generator.evaluation.suites import Suite
from generator.evaluation.tasks import TaskExaminer
from generator.injection import LoraInjection

QUESTION_ROOM = 48  # tokens of a question and its answer, with the turns' marks
FACTS = (1, 2, 4, 6)
CHUNKS = (2, 4, 8)
WINDOWS = (1, 2, 4, 8)


def load_examiner(folder: Path) -> Examiner:
    """Loads the generator in float32, the base model in its own number type, which the engine runs
    it in too. Raises InvalidGenerator, OSError."""
    generator = DocumentGenerator.load(folder, device="cpu", precision="float32")
    path = generator.config.base_path
    base = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    return Examiner(
        matcher=_matcher(base, path, generator.config.hypernetwork.modules),
        generator=generator,
        chunker=Chunker.from_folder(folder),
        window=base.config.max_position_embeddings,
    )


def load_task_examiner(folder: Path, documents: Path) -> TaskExaminer:
    """Loads a generator for tasks, and one for the documents that tasks are composed with; both as
    ``load_examiner`` does. Raises InvalidGenerator, OSError."""
    generator = TextGenerator.load(folder, device="cpu", precision="float32")
    document_generator = DocumentGenerator.load(documents, device="cpu", precision="float32")
    path = generator.config.base_path
    base = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    modules = {
        *generator.config.hypernetwork.modules,
        *document_generator.config.hypernetwork.modules,
    }
    return TaskExaminer(
        matcher=_matcher(base, path, modules),
        generator=generator,
        reader=DescriptionReader.from_folder(folder),
        document_generator=document_generator,
        chunker=Chunker.from_folder(documents),
    )


def _matcher(base: PreTrainedModel, path: str, modules: Iterable[str]) -> GreedyMatcher:
    tokenizer = AutoTokenizer.from_pretrained(path)
    return GreedyMatcher(base, tokenizer, LoraInjection(base, modules))


def standard_suites(examiner: Examiner, count: int, seed: int) -> list[Suite]:
    """By number of facts, by length in chunks, and a needle in up to eight windows of text."""
    affixes = 3

    def tokens(text: str) -> int:
        return len(examiner.matcher.tokenizer.encode(text, add_special_tokens=False)) + affixes

    def chunks(text: str) -> int:
        return len(examiner.chunker.split(text))

    window = examiner.window
    readable = window - QUESTION_ROOM

    def limit(number: int) -> int | None:
        """What keeps a document in the window, where one of so many chunks may lie in it."""
        return readable if (number - 1) * examiner.chunker.max_chunk_tokens < readable else None

    return [
        *(suites.by_facts(facts, count, chunks, seed) for facts in FACTS),
        *(suites.by_chunks(n, count, chunks, tokens, limit(n), seed) for n in CHUNKS),
        *(
            suites.needles(
                times * window - QUESTION_ROOM,
                max(1, count // 2),
                tokens,
                f"needle in {times} x the window",
                seed,
            )
            for times in WINDOWS
        ),
    ]
