from __future__ import annotations

import pytest
import torch

from llm.attention import BLOCK, attend, blocked_attention, document_mask


@pytest.mark.parametrize("in_documents", [False, True])
@pytest.mark.parametrize(("H", "K", "T"), [(4, 2, 3 * BLOCK), (4, 4, BLOCK), (4, 4, BLOCK + 1), (2, 1, 100)])
def test_blocked_attention_equals_torch_forward_and_backward(H: int, K: int, T: int, in_documents: bool) -> None:
    torch.manual_seed(0)
    mask = document_mask((torch.rand(2, T) < 0.02).cumsum(1)) if in_documents else None
    ours = [torch.randn(2, n, T, 16, dtype=torch.float64, requires_grad=True) for n in (H, K, K)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    out, expected = blocked_attention(*ours, mask), attend(*theirs, mask)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    expected.backward(gradient)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)


def test_attention_to_a_cache_is_handed_on() -> None:
    q, k = torch.randn(1, 2, 1, 8), torch.randn(1, 2, BLOCK, 8)
    torch.testing.assert_close(blocked_attention(q, k, k, None), attend(q, k, k, None))
