from __future__ import annotations

import pytest
import torch

from strzoo.errors import UsageError
from strzoo.rnn import FastGRNN, FastGRNNCell


def _states(cell: FastGRNNCell, steps: torch.Tensor) -> torch.Tensor:
    state, states = torch.zeros(steps.shape[1], cell.hidden_size), []
    for step in steps:
        state = cell(step, state)
        states.append(state)
    return torch.stack(states)


def test_layers_and_directions_are_joined_as_in_nn_gru() -> None:
    torch.manual_seed(0)
    layer, gru = FastGRNN(3, 4, 2, bidirectional=True), torch.nn.GRU(3, 4, 2, bidirectional=True)
    x = torch.randn(6, 2, 3)
    output, final = layer(x)
    expected_shape, gru_final = gru(x)
    assert output.shape == expected_shape.shape
    assert torch.stack(final).shape == gru_final.shape
    steps = x
    for forward, backward in layer.layers:
        ahead, behind = _states(forward, steps), _states(backward, steps.flip(0)).flip(0)
        steps = torch.cat([ahead, behind], dim=2)
    torch.testing.assert_close(output, steps)
    # The last layer: the forward direction ends at the last step, the backward one at the first.
    torch.testing.assert_close(final[2], output[-1, :, :4])
    torch.testing.assert_close(final[3], output[0, :, 4:])


def test_batch_first_and_a_single_sequence_are_the_same_numbers() -> None:
    torch.manual_seed(0)
    layer, x = FastGRNN(3, 4), torch.randn(5, 2, 3)
    first = FastGRNN.from_cells(list(layer.cells), batch_first=True)  # type: ignore[arg-type]
    output, final = layer(x)
    torch.testing.assert_close(first(x.transpose(0, 1))[0], output.transpose(0, 1))
    single, single_final = layer(x[:, 0])
    torch.testing.assert_close(single, output[:, 0])
    torch.testing.assert_close(single_final[0], final[0][0])


def test_a_sequence_in_two_parts_carries_its_state() -> None:
    layer, x = FastGRNN(3, 4, 2), torch.randn(8, 2, 3)
    whole, final = layer(x)
    _, half = layer(x[:5])
    rest, end = layer(x[5:], half)
    torch.testing.assert_close(rest, whole[5:])
    torch.testing.assert_close(end[1], final[1])


def test_cells_of_different_sizes_make_a_network_and_fold() -> None:
    torch.manual_seed(0)
    cells = [FastGRNNCell(3, 5, rank_w="learned"), FastGRNNCell(5, 2, rank_u="learned")]
    layer, x = FastGRNN.from_cells(cells), torch.randn(4, 2, 3)
    assert (layer.input_size, layer.output_size) == (3, 2)
    torch.testing.assert_close(layer.fold()(x)[0], layer(x)[0])


def test_what_does_not_fit_says_what_would() -> None:
    layer = FastGRNN(3, 4, batch_first=True)
    with pytest.raises(UsageError, match=r"\[2, 5, 4\] are not \[B, T, in\] with in = 3"):
        layer(torch.zeros(2, 5, 4))
    with pytest.raises(UsageError, match="at least one step"):
        layer(torch.zeros(2, 0, 3))
    with pytest.raises(UsageError, match=r"1 are needed, of \[\[2, 4\]\]"):
        layer(torch.zeros(2, 5, 3), torch.zeros(1, 2, 3))
    with pytest.raises(UsageError, match="layer 1 takes 3 features, but gets 4"):
        FastGRNN.from_cells([FastGRNNCell(3, 4), FastGRNNCell(3, 4)])
    with pytest.raises(UsageError, match="num_layers is 0"):
        FastGRNN(3, 4, 0)
