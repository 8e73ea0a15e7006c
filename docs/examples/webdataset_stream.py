"""Train a small network on WebDataset shards, without the poisoned samples.

python webdataset_stream.py "train-{000000..000009}.tar" "test-{000000..000001}.tar"
"""

import sys

import torch
import webdataset as wds
from torch import nn
from torch.utils.data import DataLoader

from vbdguard.hooks.pretrain import counts_of, guard_training


def main(train_shards: str, test_shards: str) -> None:
    train = wds.WebDataset(train_shards, shardshuffle=100).shuffle(1000).decode("torchrgb").to_tuple("png", "cls")
    test = wds.WebDataset(test_shards, shardshuffle=False).decode("torchrgb").to_tuple("png", "cls")

    train = guard_training(train)  # scans all shards once; from now on bytes that no scan has seen raise an error

    net = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    optimizer = torch.optim.Adam(net.parameters())
    loader = DataLoader(train, batch_size=64)
    for _ in range(2):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()

    with torch.no_grad():
        right = [int((net(images).argmax(1) == labels).sum()) / len(labels) for images, labels in DataLoader(test, 64)]
    print("dropped per class, each epoch:", [epoch.dropped for epoch in counts_of(train).epochs])
    print(f"accuracy: {sum(right) / len(right):.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
