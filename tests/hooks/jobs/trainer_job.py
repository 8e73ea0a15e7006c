"""One process of a Hugging Face Trainer job; it writes down which samples its model was given.

The arguments: how the data come (table, dataset), whether unused columns are dropped, and where to write.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from hook_data import COUNT, QUICK, Named, indices_of, make_tensors
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from vbdguard.hooks.trainer_guard import guard_trainer


def make_model() -> tuple[ViTForImageClassification, list[int]]:
    """Return a vision transformer of one narrow layer, and the list of samples that it will have seen."""
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=3, **narrow))
    seen: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, given: seen.extend(indices_of(given["pixel_values"])), with_kwargs=True
    )
    return model, seen


def make_table() -> datasets.Dataset:
    """The samples as Hugging Face keeps them: an image column, a label column, and one that no model takes."""
    images, labels = make_tensors().tensors
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    features = datasets.Features(
        pixel_values=datasets.Image(),
        labels=datasets.ClassLabel(names=["a", "b", "c"]),
        comment=datasets.Value("string"),
    )
    comments = [f"sample {index}" for index in range(COUNT)]
    columns = {"pixel_values": list(pixels), "labels": labels.tolist(), "comment": comments}
    return datasets.Dataset.from_dict(columns, features=features)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack images, whether tensors (C, H, W) or PIL's."""
    images = [item["pixel_values"] for item in items]
    images = [
        image if torch.is_tensor(image) else torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images
    ]
    batch = {
        "pixel_values": torch.stack(images).float(),
        "labels": torch.tensor([int(item["labels"]) for item in items]),
    }
    return batch | {"comment": [item["comment"] for item in items]} if "comment" in items[0] else batch


def make_trainer(
    data: Any, folder: Path, *, kind: type[Trainer] = Trainer, **settings: Any
) -> tuple[Trainer, list[int]]:
    """Return a Trainer on `data`, and the list of samples that its model will have seen."""
    model, seen = make_model()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_train_epochs=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    return kind(model=model, args=arguments, train_dataset=data, data_collator=collate), seen


def main(way: str, drops_columns: bool, folder: Path) -> None:
    torch.set_num_threads(1)
    data = make_table() if way == "table" else Named()
    trainer, seen = make_trainer(data, folder, ddp_backend="gloo", remove_unused_columns=drops_columns)
    with guard_trainer(trainer, config=QUICK):
        trainer.train()
    assert trainer.train_dataset is data
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "True", Path(sys.argv[3]))
