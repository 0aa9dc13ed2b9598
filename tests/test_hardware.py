from __future__ import annotations

import pytest
import torch

from llm.errors import UserError
from llm.hardware import resolve_device


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("auto") == torch.device("cuda")
    with pytest.raises(UserError, match=r"device 'cuda:7' is asked for, but the last one here is cuda:1"):
        resolve_device("cuda:7")
