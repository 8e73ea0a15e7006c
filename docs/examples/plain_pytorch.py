"""Train a small network on a folder of images, without the poisoned ones: python plain_pytorch.py TRAIN TEST."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from vbdguard.hooks.pretrain import counts_of, guard_training


def main(train_folder: str, test_folder: str) -> None:
    prepare = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    train = DataLoader(ImageFolder(train_folder, prepare), batch_size=64, shuffle=True)
    test = DataLoader(ImageFolder(test_folder, prepare), batch_size=64)

    train = guard_training(train)  # scans, or finds the verdict in the cache; yields only what is clean

    classes = len(test.dataset.classes)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(2):
        for images, labels in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()

    with torch.no_grad():
        right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in test)
    print("dropped per class:", counts_of(train).total.dropped)
    print(f"accuracy: {right / len(test.dataset):.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
