"""Networks for masks that train in a moment; commands name them by import path."""

from torch import nn


class Segmenter(nn.Module):
    """A map of logits of the image's size, or under stride of a smaller one."""

    def __init__(self, num_classes=2, in_channels=3, width=8, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, stride=stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        return self.head(self.body(images))
