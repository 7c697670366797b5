"""What every table of bad input asks: the documented error in full, and nothing touched."""

import pytest
import torch
from torch import nn


def tensors(s):
    """Return the tensors of a namespace, and the parameters of its models with their gradients."""
    found = [t for t in vars(s).values() if isinstance(t, torch.Tensor)]
    for model in (m for m in vars(s).values() if isinstance(m, nn.Module)):
        found += [t for p in model.parameters() for t in (p, p.grad)]
    return found


def assert_refused(s, call, error, phrases, *, draws=False):
    """Call `call(s)`; it must raise just `error` with all phrases, and leave s and (`draws`) the generator alone."""
    before, random = [t.clone() for t in tensors(s)], torch.get_rng_state()
    with pytest.raises(error) as raised:
        call(s)
    message = str(raised.value)
    assert type(raised.value) is error
    assert [phrase for phrase in phrases if phrase not in message] == [], message
    assert all(map(torch.equal, tensors(s), before))
    assert [t.requires_grad for t in tensors(s)] == [t.requires_grad for t in before]
    assert draws or torch.equal(torch.get_rng_state(), random)
