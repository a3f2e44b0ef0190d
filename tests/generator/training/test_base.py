"""Supervision falls on answers, and answers are scored whole."""

from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from generator.training import dialogues
from generator.training.base import answers_right, pad_rows, weighted_positions
from generator.training.corpus import documents
from generator.training.corpus.inventory import Split
from generator.training.dialogues import DialogueEncoder


def test_an_answer_is_right_only_when_every_token_of_it_is() -> None:
    rows = [([5, 6, 7, 8, 9, 4], [0.1, 1, 1, 0.1, 1, 1]), ([5, 7, 7, 4], [0.1, 0.1, 1, 1])]
    ids, weights = pad_rows(rows, 8, pad=0)
    predicted = ids[:, 1:].clone()
    assert answers_right(predicted, ids, weights) == (3, 3)
    predicted[0, 1] = 99  # the second token of the first answer
    assert answers_right(predicted, ids, weights) == (2, 3)
    predicted[0, 2] = 99  # no answer's token
    assert answers_right(predicted, ids, weights) == (2, 3)
    predicted[1, 2] = 99
    assert answers_right(predicted, ids, weights) == (1, 3)


def test_positions_predict_the_answers_before_anything_else() -> None:
    rows = [([5, 6, 7, 8], [0.1, 1, 1, 0.1]), ([5, 7, 7, 4], [0.1, 0.1, 0.1, 1])]
    _, weights = pad_rows(rows, 6, pad=0)
    positions = weighted_positions(weights, 3)
    assert sorted((positions + 1).tolist()) == [1, 2, 6 + 3]


def test_a_chat_is_encoded_as_the_chat_template_renders_it(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    encoder = DialogueEncoder(tiny_tokenizer, context_weight=0.1)
    ids, weights = encoder.chat([("What colour?", "teal"), ("Thanks", "You are welcome.")], "Sir")
    rendered = tiny_tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Sir"},
            {"role": "user", "content": "What colour?"},
            {"role": "assistant", "content": "teal"},
            {"role": "user", "content": "Thanks"},
            {"role": "assistant", "content": "You are welcome."},
        ],
        return_dict=False,
    )
    assert ids == rendered
    answered = tiny_tokenizer.decode([i for i, w in zip(ids, weights, strict=True) if w == 1])
    assert answered == "teal<|end|>You are welcome.<|end|>"


def test_numbers_of_up_to_three_digits_are_one_token(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    lengths = {len(tiny_tokenizer.encode(str(n), add_special_tokens=False)) for n in range(1000)}
    assert lengths == {1}


def test_tasks_are_followed_only_where_they_say_something() -> None:
    rng = Random(0)
    upper = next(task for task in dialogues.training_tasks() if task.name == "upper case")
    for _ in range(50):
        document = documents.document(rng, Split.TRAIN, facts=3)
        followed = dialogues.following_a_task(rng, Split.TRAIN, document, upper)
        if followed is not None:
            turns, system = followed
            assert system in upper.wordings(Split.TRAIN)
            assert all(answer == answer.upper() for _, answer in turns)


def test_padding_has_no_weight() -> None:
    ids, weights = pad_rows([([5, 6], [1.0, 1.0])], 4, pad=0)
    assert torch.equal(ids, torch.tensor([[5, 6, 0, 0]]))
    assert weights.tolist() == [[1.0, 1.0, 0.0, 0.0]]
