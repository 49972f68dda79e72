import itertools
import threading

import grain
import jax
import numpy as np
import pytest
from etils import epath

from sft_jax.data.pipeline import eval_batches, train_iterator
from sft_jax.data.view import View


def _source(count):
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"no{number}",
            "inputs": {
                "a": rng.normal(size=(4, 3)).astype(np.float32),
                "b": rng.normal(size=(2, 1)).astype(np.float32),
            },
            "masks": {"a": rng.random(4) < 0.5, "b": rng.random(2) < 0.5},
            "label": number % 5,
        }
        for number in range(count)
    ]


def _ids(iterator, batches):
    return [str(name) for _, ids in itertools.islice(iterator, batches) for name in ids]


def _assert_rows_are_examples(batch, ids, source):
    by_id = {example["id"]: example for example in source}
    for row, name in enumerate(ids):
        example = by_id[str(name)]
        for modality in ("a", "b"):
            np.testing.assert_array_equal(batch.inputs[modality][row], example["inputs"][modality])
            np.testing.assert_array_equal(batch.masks[modality][row], example["masks"][modality])
        assert batch.labels[row] == example["label"]


def test_a_batch_holds_its_examples():
    source = _source(10)
    batch, ids = next(train_iterator(source, 6, seed=0))
    assert {name: (x.shape, x.dtype) for name, x in batch.inputs.items()} == {
        "a": ((6, 4, 3), np.float32),
        "b": ((6, 2, 1), np.float32),
    }
    assert {name: (x.shape, x.dtype) for name, x in batch.masks.items()} == {
        "a": ((6, 4), np.bool_),
        "b": ((6, 2), np.bool_),
    }
    assert (batch.labels.dtype, batch.weights.dtype) == (np.int32, np.float32)
    assert batch.weights.tolist() == [1.0] * 6
    assert ids.shape == (6,)
    assert ids.dtype.kind == "U"
    _assert_rows_are_examples(batch, ids, source)


def test_arrays_as_labels_are_batched_as_floats():
    source = [
        {**example, "label": np.array([number, 0.5])} for number, example in enumerate(_source(4))
    ]
    (batch, _), _ = eval_batches(source, 3)
    assert (batch.labels.dtype, batch.labels.tolist()) == (
        np.float32,
        [[0, 0.5], [1, 0.5], [2, 0.5]],
    )


@pytest.mark.parametrize("batch_size", [1, 4, 7, 50])
def test_every_epoch_is_another_permutation(batch_size):
    source = _source(20)
    everyone = sorted(example["id"] for example in source)
    order = _ids(train_iterator(source, batch_size, seed=3), -(-60 // batch_size))
    epochs = [order[start : start + 20] for start in (0, 20, 40)]
    assert [sorted(epoch) for epoch in epochs] == [everyone] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [example["id"] for example in source]


def test_the_seed_alone_decides_the_order():
    source = _source(20)
    one, same = (_ids(train_iterator(source, 4, seed=0), 15) for _ in range(2))
    assert one == same
    other = _ids(train_iterator(source, 4, seed=1), 15)
    epochs = [tuple(order[start : start + 20]) for order in (one, other) for start in (0, 20, 40)]
    assert len(set(epochs)) == 6


@pytest.mark.parametrize("taken", [0, 3, 8])
def test_a_restored_iterator_goes_on_exactly(tmp_path, taken):
    source = _source(20)  # 8 batches of 6 end in the middle of the third epoch.
    iterator = train_iterator(source, 6, seed=5)
    _ids(iterator, taken)
    handler = grain.checkpoint.CheckpointHandler()
    handler.save(epath.Path(tmp_path), item=iterator)
    expected = _ids(iterator, 10)

    restored = handler.restore(epath.Path(tmp_path), item=train_iterator(source, 6, seed=5))

    assert _ids(restored, 10) == expected


def test_several_threads_make_the_batches_of_one():
    source, names = View(18, _source(18).__getitem__), set()
    seen = View(18, lambda i: names.add(threading.current_thread().name) or source[i])
    one, several = train_iterator(source, 6, 2, threads=1), train_iterator(seen, 6, 2, threads=3)
    for (batch, ids), (other, other_ids) in itertools.islice(zip(one, several, strict=True), 6):
        np.testing.assert_array_equal(ids, other_ids)
        jax.tree.map(np.testing.assert_array_equal, batch, other)
    assert names
    assert all(name.startswith("read") for name in names)


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("count", [17, 18])
def test_processes_share_what_one_would_have_had(process_count, count):
    source = _source(count)
    whole = train_iterator(source, 6, seed=2)
    shares = [
        train_iterator(source, 6, seed=2, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    order = []
    for _ in range(3 * count // 6 + 1):
        _, expected = next(whole)
        parts = [next(share)[1] for share in shares]
        assert all(len(part) == 6 // process_count for part in parts)
        # Process i of n has rows i, i + n, ... of what one process has.
        np.testing.assert_array_equal(np.stack(parts, axis=1).reshape(-1), expected)
        order.extend(np.stack(parts, axis=1).reshape(-1).tolist())
    for epoch in range(3):
        assert len(set(order[epoch * count : (epoch + 1) * count])) == count


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 5, 6, 7, 13])
def test_evaluation_counts_every_example_once(process_count, count):
    source = _source(count)
    per_process = [
        list(eval_batches(source, 6, process_index=index, process_count=process_count))
        for index in range(process_count)
    ]
    assert {len(batches) for batches in per_process} == {-(-count // 6)}
    counted = []
    for batch, ids in itertools.chain(*per_process):
        assert batch.labels.shape == batch.weights.shape == ids.shape == (6 // process_count,)
        real = batch.weights == 1
        np.testing.assert_array_equal(batch.weights[~real], 0)
        np.testing.assert_array_equal(ids != "", real)
        counted.extend(ids[real].tolist())
        # Copies of the first example, as finite as it is, fill up the batch.
        _assert_rows_are_examples(batch, np.where(real, ids, "no0"), source)
    assert sorted(counted) == sorted(example["id"] for example in source)


def test_evaluation_keeps_the_order_and_can_be_repeated():
    source = _source(8)
    batches = eval_batches(source, 3)
    for _ in range(2):
        assert _ids(iter(batches), 3) == [example["id"] for example in source] + [""]


@pytest.mark.parametrize("make", [lambda *a, **k: train_iterator(*a, 0, **k), eval_batches])
def test_bad_arguments(make):
    with pytest.raises(ValueError, match=r"batch_size=8 must be a positive multiple of .*, 3"):
        make(_source(4), 8, process_index=0, process_count=3)
    with pytest.raises(ValueError, match="batch_size=0 must be"):
        make(_source(4), 0)
    with pytest.raises(ValueError, match="process_index=2 is not one of 2"):
        make(_source(4), 8, process_index=2, process_count=2)
    with pytest.raises(ValueError, match="no examples"):
        make([], 8)


def test_balanced_draws_take_every_class_equally_often():
    source = [{**example, "label": int(i >= 15)} for i, example in enumerate(_source(20))]
    balance = [example["label"] for example in source]
    order = _ids(train_iterator(source, 4, seed=3, balance=balance), 30)  # Six epochs.
    rare = {example["id"] for example in source[15:]}
    for start in range(0, 120, 20):
        epoch = order[start : start + 20]
        drawn = [name for name in epoch if name in rare]
        assert sorted(drawn) == sorted([*rare] * 2)  # Ten draws of five examples.
        assert len({name for name in epoch if name not in rare}) >= 8
    # 60 draws of the 15 frequent examples.
    counts = {example["id"]: order.count(example["id"]) for example in source}
    assert {count for name, count in counts.items() if name not in rare} == {4}
    assert len({tuple(order[start : start + 20]) for start in range(0, 120, 20)}) == 6
    # The classes do not simply alternate.
    assert len({tuple(name in rare for name in order[i : i + 20]) for i in range(0, 120, 20)}) == 6
    assert order != _ids(train_iterator(source, 4, seed=4, balance=balance), 30)


def test_balanced_draws_are_restored_and_shared_exactly():
    source = _source(21)
    balance = [min(example["label"], 2) for example in source]
    whole = train_iterator(source, 6, seed=5, balance=balance)
    _ids(whole, 5)
    state, expected = whole.get_state(), _ids(whole, 9)
    restored = train_iterator(source, 6, seed=5, balance=balance)
    restored.set_state(state)
    assert _ids(restored, 9) == expected
    options = {"seed": 5, "balance": balance, "process_count": 2}
    shares = [train_iterator(source, 6, process_index=i, **options) for i in range(2)]
    parts = [_ids(share, 14)[15:] for share in shares]
    assert np.stack(parts, axis=1).ravel().tolist() == expected
