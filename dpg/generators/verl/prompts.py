"""Prompts in the order of their use, written by the engine and read by verl's trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

if TYPE_CHECKING:
    Dataset = object
else:
    try:
        from torch.utils.data import Dataset
    except ImportError:  # outside of verl's environment the module can be read, and no more
        Dataset = object


class PromptDataset(Dataset):
    """Prompts in the order of their use, as verl's trainer asks for them.

    The file holds `tokens` int32 [U, P], padded on the left, `mask` bool [U, P] and `order` int64
    [N], the prompts in the order of use; row i is the prompt ``order[i]``. Prompts are token ids of
    our own making, so both engines read the very same ones.

    Args:
        data_files: the file.
        tokenizer, processor, config: not used; what verl passes.
    """

    def __init__(
        self, data_files: Any, tokenizer: Any = None, processor: Any = None, config: Any = None
    ):
        path = data_files if isinstance(data_files, str) else next(iter(data_files))
        arrays = safetensors.numpy.load_file(path)
        self.tokens, self.mask, self.order = arrays["tokens"], arrays["mask"], arrays["order"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        import torch

        prompt = self.order[place]
        tokens, mask = self.tokens[prompt], self.mask[prompt]
        attention = torch.from_numpy(mask.astype(np.int64))
        return {
            "input_ids": torch.from_numpy(tokens.astype(np.int64)),
            "attention_mask": attention,
            "position_ids": torch.clamp(attention.cumsum(0) - 1, min=0),
            "raw_prompt_ids": tokens[mask].tolist(),
            "data_source": "dpg",
            "place": int(place),
        }
