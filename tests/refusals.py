"""What every table of bad input asks: the documented error in full, and nothing touched."""

import copy

import pytest
import torch
from torch import nn


def tensors(s):
    """Return the tensors of a namespace, and the parameters of its models with their gradients."""
    found = [t for t in vars(s).values() if isinstance(t, torch.Tensor)]
    for model in (m for m in vars(s).values() if isinstance(m, nn.Module)):
        found += [t for p in model.parameters() for t in (p, p.grad)]
    return [t for t in found if t is not None]


def assert_all_refused(s, rows, *, draws=lambda name: False):
    """Check every row of a table, as `assert_refused`, and report all that fail; `draws(name)` says which draw."""
    failed = {}
    for name, row in rows.items():
        try:
            assert_refused(copy.deepcopy(s), *row, draws=draws(name))  # some rows change s before they call
        except (Exception, pytest.fail.Exception) as why:
            failed[name] = str(why)
    assert failed == {}


def assert_refused(s, call, error, phrases, *, draws=False):
    """Call `call(s)`; it must raise just `error` with all phrases, and leave s and (`draws`) the generator alone."""
    before, random = [t.clone() for t in tensors(s)], torch.get_rng_state()
    with pytest.raises(error) as raised:
        call(s)
    message = str(raised.value)
    assert type(raised.value) is error
    assert [phrase for phrase in phrases if phrase not in message] == [], message
    after = tensors(s)
    assert len(after) == len(before)
    assert all(map(torch.equal, after, before))
    assert [t.requires_grad for t in after] == [t.requires_grad for t in before]
    assert draws or torch.equal(torch.get_rng_state(), random)
