import pytest
import torch

from drasclr.memory import KeyMemory


def keys(places: int, scans: int, start: int) -> torch.Tensor:
    """Keys that tell their age: all features of a key are its number."""
    numbers = torch.arange(start, start + scans).float()
    return numbers[None, :, None].expand(places, scans, 2) + 1000 * torch.arange(places)[:, None, None]


def stored(memory: KeyMemory, location: int) -> list[float]:
    negatives = memory.negatives(torch.tensor([location]))
    return negatives.keys_GMD[negatives.filled_GM][:, 0].tolist()


def test_unfilled_slots_never_count_and_locations_do_not_mix():
    memory = KeyMemory(4, 8, 2)
    assert memory.negatives(torch.tensor([0, 3])).keys_GMD.shape == (2, 0, 2)
    memory.enqueue(torch.tensor([2]), keys(1, 3, 1), torch.arange(3))
    negatives = memory.negatives(torch.tensor([2, 1]))
    assert negatives.filled_GM.tolist() == [[True] * 3, [False] * 3]
    assert negatives.subjects_GM[0].tolist() == [0, 1, 2]
    assert memory.filled(torch.tensor([0, 1, 2, 3])).tolist() == [0, 0, 3, 0]
    assert stored(memory, 1) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 12])
def test_the_last_keys_survive_whatever_the_batch_size(batch):
    memory, written = KeyMemory(2, 5, 2), 0
    for _ in range(4):
        memory.enqueue(torch.tensor([1]), keys(1, batch, written), torch.arange(written, written + batch))
        written += batch
        expected = set(range(max(0, written - 5), written))
        assert set(stored(memory, 1)) == expected
        assert set(memory.subjects_NK[1].tolist()) - {-1} == expected
    oldest = int(memory.pointer_N[1])
    if written >= 5:
        assert memory.keys_NKD[1].roll(-oldest, 0)[:, 0].tolist() == sorted(expected)


def test_one_location_is_contiguous_and_no_copy():
    memory = KeyMemory(3, 4, 2)
    memory.enqueue(torch.tensor([1]), keys(1, 4, 0), torch.arange(4))
    view = memory.negatives(torch.tensor([1])).keys_GMD
    assert view.is_contiguous()
    assert view.data_ptr() == memory.keys_NKD[1].data_ptr()


def test_resumed_equals_uninterrupted():
    whole, first = KeyMemory(3, 4, 2), KeyMemory(3, 4, 2)
    for memory in (whole, first):
        memory.enqueue(torch.tensor([0, 2]), keys(2, 3, 0), torch.arange(3))
    resumed = KeyMemory(3, 4, 2)
    resumed.load_state_dict(first.state_dict())
    for memory in (whole, resumed):
        memory.enqueue(torch.tensor([2, 1]), keys(2, 3, 3), torch.arange(3))
    assert torch.equal(whole.keys_NKD, resumed.keys_NKD)
    assert torch.equal(whole.subjects_NK, resumed.subjects_NK)
    assert torch.equal(whole.pointer_N, resumed.pointer_N)
    with pytest.raises(ValueError, match="stored memory"):
        KeyMemory(3, 5, 2).load_state_dict(first.state_dict())


def test_a_share_of_the_locations():
    memory = KeyMemory(10, 4, 2, locations=torch.tensor([7, 3]))
    memory.enqueue(torch.tensor([3, 7]), keys(2, 1, 5), torch.arange(1))
    assert memory.keys_NKD.shape[0] == 2
    assert stored(memory, 3) == [5]
    assert stored(memory, 7) == [1005]
    with pytest.raises(ValueError, match=r"\[4\] are not held"):
        memory.negatives(torch.tensor([4]))


def test_a_location_twice_is_refused():
    with pytest.raises(ValueError, match="distinct"):
        KeyMemory(3, 4, 2).enqueue(torch.tensor([1, 1]), keys(2, 1, 0), torch.arange(1))
