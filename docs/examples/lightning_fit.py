"""Train a small network with Lightning, without the poisoned images: python lightning_fit.py TRAIN TEST."""

import sys

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from vbdguard.hooks.lightning_guard import GuardCallback


class Net(L.LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(2048, classes))

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def test_step(self, batch):
        self.log("accuracy", (self.body(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


if __name__ == "__main__":
    prepare = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    train, test = (ImageFolder(folder, prepare) for folder in sys.argv[1:3])
    guard = GuardCallback()  # whatever fit() is given is scanned first and yields only what is clean
    trainer = L.Trainer(max_epochs=2, callbacks=[guard], logger=False, enable_checkpointing=False)
    net = Net(len(test.classes))
    trainer.fit(net, DataLoader(train, batch_size=64, shuffle=True))
    trainer.test(net, DataLoader(test, batch_size=64))
    print("dropped per class:", guard.counts.total.dropped)
