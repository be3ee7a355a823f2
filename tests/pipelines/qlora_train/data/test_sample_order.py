from the_block_llm.pipelines.qlora_train.data.sample_order import PADDING_INDEX, make_sample_order


def test_a_single_row_is_padded_to_one_step_per_epoch() -> None:
    order = make_sample_order([0], epochs=2, batch_rows=8, seed=0)
    assert order.steps == 2
    assert order.epoch_end_steps == (1, 2)
    assert order.indices.tolist() == 2 * [0, *[PADDING_INDEX] * 7]
