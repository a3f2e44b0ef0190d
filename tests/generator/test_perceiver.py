import pytest
import torch

from generator.perceiver import Geometry, GroupedAttention, Perceiver

GEOMETRY = Geometry(width=12, heads=4, kv_heads=2, head_dim=8, mlp_ratio=2)


def perceiver(*, blocks: int = 3, self_attention: int = 1, shared: bool = False) -> Perceiver:
    torch.manual_seed(0)
    return Perceiver(
        GEOMETRY,
        feature_size=6,
        latents=5,
        outputs=4,
        blocks=blocks,
        self_attention_per_block=self_attention,
        shared_weights=shared,
        normalise_features=False,
    ).requires_grad_(False)


def test_each_query_head_attends_with_the_key_value_head_of_its_group() -> None:
    torch.manual_seed(0)
    attention = GroupedAttention(GEOMETRY).requires_grad_(False)
    x, context = torch.randn(2, 3, 12), torch.randn(2, 5, 12)
    heads = []
    for head in range(4):
        rows, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
        query = x @ attention.query.weight[rows].T
        key = context @ attention.key.weight[shared].T
        value = context @ attention.value.weight[shared].T
        heads.append((query @ key.mT / 8**0.5).softmax(-1) @ value)
    want = attention.output(torch.cat(heads, -1))
    torch.testing.assert_close(attention(x, context, None), want)


def test_padding_changes_nothing_whatever_it_holds() -> None:
    model = perceiver()
    features = torch.randn(2, 4, 6)
    alone = model(features, torch.ones(2, 4, dtype=torch.bool))
    padded = torch.cat([features, 1e3 * torch.randn(2, 3, 6)], 1)
    mask = torch.arange(7).expand(2, -1) < 4
    torch.testing.assert_close(model(padded, mask), alone)


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    model = perceiver()
    features = torch.randn(3, 4, 6)
    mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    together = model(features, mask)
    for row in range(3):
        alone = model(features[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_a_sequence_of_nothing_but_padding_gives_finite_vectors() -> None:
    out = perceiver()(torch.randn(1, 4, 6), torch.zeros(1, 4, dtype=torch.bool))
    assert out.isfinite().all()


def test_the_order_of_tokens_does_not_matter() -> None:
    model = perceiver()
    features, mask = torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(model(features.flip(1), mask), model(features, mask))


@pytest.mark.parametrize("self_attention", [0, 1, 2])
def test_every_block_is_one_cross_attention_and_then_self_attention(self_attention: int) -> None:
    layers = perceiver(self_attention=self_attention).encoder.layers
    cross = [layer.context_norm is not None for layer in layers]
    assert cross == 3 * ([True] + self_attention * [False])


def test_shared_blocks_keep_two_cross_attentions_and_one_self_attention() -> None:
    layers = list(perceiver(blocks=4, shared=True).encoder.layers)
    cross, own = layers[::2], layers[1::2]
    assert [cross.index(layer) for layer in cross] == [0, 1, 1, 1]
    assert [own.index(layer) for layer in own] == [0, 0, 0, 0]


def test_shared_weights_compute_what_equal_weights_of_their_own_compute() -> None:
    shared, own = perceiver(blocks=4, shared=True), perceiver(blocks=4)
    own.load_state_dict(shared.state_dict())
    features, mask = torch.randn(2, 4, 6), torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(shared(features, mask), own(features, mask))
    assert len(list(shared.parameters())) < len(list(own.parameters()))
