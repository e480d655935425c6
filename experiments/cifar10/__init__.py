"""CIFAR-10 with networks that people use: weight priors beside nn.Conv2d, from 500 images to all."""
